"""Overview: how much goes on, what waits, and what is wrong."""

from __future__ import annotations

ROUTES = ()
