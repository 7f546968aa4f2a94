"""The signature doctor: why a receiver does not verify."""

from __future__ import annotations

ROUTES = ()
