"""Flow control: how much goes at a time, by key."""

from __future__ import annotations

ROUTES = ()
