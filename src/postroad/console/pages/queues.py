"""Queues: what goes one after the other."""

from __future__ import annotations

ROUTES = ()
