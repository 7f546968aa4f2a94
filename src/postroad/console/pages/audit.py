"""The audit log: who did what in the console."""

from __future__ import annotations

ROUTES = ()
