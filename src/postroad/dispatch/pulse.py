"""When this dispatcher last proved to be alive, and what it may conclude from that."""

from __future__ import annotations

from datetime import timedelta
from time import monotonic


class Pulse:
    """The beats of one dispatcher, by the monotonic clock.

    `reach` is how far a beat reaches, `every` how often there is one.
    """

    def __init__(self, *, reach: timedelta, every: timedelta) -> None:
        self._reach_s = reach.total_seconds()
        self._settled_s = 2 * every.total_seconds()
        self._beaten_at = monotonic()
        self._steady_at = self._beaten_at + self._settled_s

    def beaten(self, at: float) -> None:
        """A beat that was begun at this instant has been stored."""
        if at - self._beaten_at >= self._reach_s:
            self._steady_at = at + self._settled_s
        self._beaten_at = at

    @property
    def may_send(self) -> bool:
        """Nobody can have rescued what is leased to this dispatcher, so nobody else sends it."""
        return monotonic() < self._beaten_at + self._reach_s

    @property
    def may_rescue(self) -> bool:
        """Whoever is silent is dead.

        Where this dispatcher could not beat for a while itself, because the database was away or all processes stood
        still, the others could not either: they get the time to do so before anything is taken from them. A new one
        does not know what was before, and waits as well.
        """
        return self.may_send and monotonic() >= self._steady_at
