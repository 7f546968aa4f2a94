"""The request builder: a message is put together, checked and sent."""

from __future__ import annotations

ROUTES = ()
