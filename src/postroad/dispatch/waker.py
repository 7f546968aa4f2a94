"""When to look for work: at the next due time, at a hint, and in any case after a while."""

from __future__ import annotations

import asyncio
from datetime import timedelta

BUSY_POLL_S = 0.25
IDLE_POLL_S = 1.0
"""Polling alone must suffice; hints only make it sooner."""


class Waker:
    """One event out of hints, due times and the poll."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        # The instant is kept here, because uvloop's handle of a very short wait cannot tell it.
        self._timer: asyncio.Handle | None = None
        self._rings_at = 0.0

    def wake(self) -> None:
        """Look now."""
        self._event.set()

    def expect(self, wait: timedelta) -> None:
        """Look when this time has passed, if nothing is expected sooner."""
        loop = asyncio.get_running_loop()
        seconds = wait.total_seconds()
        if seconds <= 0:
            self.wake()
        elif seconds <= 2 * IDLE_POLL_S:
            # Anything later is seen by a poll in time, so no timer is kept for it.
            at = loop.time() + seconds
            if self._timer is None or self._rings_at > at:
                if self._timer is not None:
                    self._timer.cancel()
                self._timer, self._rings_at = loop.call_at(at, self._ring), at

    async def wait(self, *, busy: bool) -> None:
        """Until there may be something to do."""
        if not self._event.is_set():
            poll = asyncio.get_running_loop().call_later(BUSY_POLL_S if busy else IDLE_POLL_S, self._event.set)
            try:
                await self._event.wait()
            finally:
                poll.cancel()
        self._event.clear()

    def _ring(self) -> None:
        self._timer = None
        self._event.set()
