"""URL groups: one message to several endpoints."""

from __future__ import annotations

ROUTES = ()
