"""This node's wall clock, corrected by what it is off from the database's."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from postroad.store.engine import Connection

_LONGEST_TRIP = timedelta(milliseconds=50)


class Clock:
    """Gives instants for what Python must date itself: ids, signatures, `Retry-After` dates.

    What is due is decided by the database's own clock, never by this one.
    """

    def __init__(self) -> None:
        self.offset = timedelta(0)
        self._offset_s = 0.0
        self._is_measured = False

    def now_s(self) -> float:
        """Unix seconds."""
        return time.time() + self._offset_s

    def now_ms(self) -> int:
        """Unix milliseconds."""
        return int((time.time() + self._offset_s) * 1000)

    def now(self) -> datetime:
        """An aware UTC datetime."""
        return datetime.now(UTC) + self.offset

    async def measure(self, connection: Connection) -> None:
        """Take the offset from one round trip, if that was short: half of the trip is the error."""
        before = datetime.now(UTC)
        there: datetime = await connection.fetchval("select clock_timestamp()")
        after = datetime.now(UTC)
        if after - before > _LONGEST_TRIP and self._is_measured:
            return
        self._is_measured = True
        self.offset = there - (before + (after - before) / 2)
        self._offset_s = self.offset.total_seconds()
