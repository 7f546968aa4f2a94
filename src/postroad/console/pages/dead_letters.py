"""Dead letters: what has failed, why, and how to try it again."""

from __future__ import annotations

ROUTES = ()
