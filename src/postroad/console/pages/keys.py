"""Signing keys: to be shown and to be rolled."""

from __future__ import annotations

ROUTES = ()
