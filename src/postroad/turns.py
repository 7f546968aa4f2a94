"""Long work in the event loop, with turns for everybody else in between."""

from __future__ import annotations

import asyncio
from time import monotonic

_TURN_S = 0.005


class Turns:
    """Lets others go on whenever the work has held them up for some milliseconds: what a step costs is never known."""

    def __init__(self) -> None:
        self._ends_at = monotonic() + _TURN_S

    async def step(self) -> None:
        """Between two steps of the work."""
        if monotonic() >= self._ends_at:
            await asyncio.sleep(0)
            self._ends_at = monotonic() + _TURN_S
