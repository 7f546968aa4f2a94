"""When this dispatcher last proved to be alive, and what it may do because of that."""

from __future__ import annotations

from datetime import timedelta
from time import monotonic


class Pulse:
    """The beats of one dispatcher, by the monotonic clock. `reach` is how far a beat reaches."""

    def __init__(self, *, reach: timedelta) -> None:
        self._reach_s = reach.total_seconds()
        self._beaten_at = monotonic()

    def beaten(self, at: float) -> None:
        """A beat that was begun at this instant has been stored."""
        self._beaten_at = at

    @property
    def may_send(self) -> bool:
        """Nobody can have rescued what is leased to this dispatcher, so nobody else sends it."""
        return monotonic() < self._beaten_at + self._reach_s
