"""Tokens, and the tenants that they belong to."""

from __future__ import annotations

ROUTES = ()
