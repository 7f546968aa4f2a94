"""Settings: what this server goes by, and how it is."""

from __future__ import annotations

ROUTES = ()
