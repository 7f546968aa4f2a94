"""How answers that are laborious to read share the time of the loop with all that is not."""

from __future__ import annotations

SLICE_BYTES = 4 * 1024
"""What is read of an answer at a time, so that no read takes long."""

MANY_PIECES = 16
"""More chunks than this in a slice are laborious: each takes as long to read as kilobytes of an ordinary body."""

_SECONDS_PER_PIECE = 2e-6
"""Five times what it takes, so that all of these answers together have a fifth of the time at most."""


class Pace:
    """Gives turns to the answers of one client that come in many small chunks."""

    __slots__ = ("_free_at",)

    def __init__(self) -> None:
        self._free_at = 0.0

    def wait(self, now: float, pieces: int) -> float:
        """For how many seconds to read no more of an answer, by the time of the loop; so many chunks were read."""
        self._free_at = max(now, self._free_at) + pieces * _SECONDS_PER_PIECE
        return self._free_at - now
