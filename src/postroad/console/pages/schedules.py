"""Schedules: what is published when."""

from __future__ import annotations

ROUTES = ()
