"""Who may deliver now: a bounded number of slots, shared fairly between destinations."""

from __future__ import annotations

SMALLEST_SHARE = 30
"""No destination may hold more than this or a tenth of the slots while others wait (as in SQS fair queues)."""


class Slots:
    """Counts deliveries in progress.

    One half of the slots is open to any destination; in the other half none may hold more than its share, so that a
    destination that hangs cannot keep the others from being served.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.share = max(SMALLEST_SHARE, total // 10)
        self.in_use = 0
        self._of: dict[int, int] = {}

    def reserve(self, destination: int) -> bool:
        """Take a slot if one is free for this destination."""
        if self.in_use >= self.total:
            return False
        if 2 * self.in_use >= self.total and self._of.get(destination, 0) >= self.share:
            return False
        self.take(destination)
        return True

    def take(self, destination: int) -> None:
        """Count a slot that a claim was limited to."""
        self.in_use += 1
        self._of[destination] = self._of.get(destination, 0) + 1

    def release(self, destination: int) -> None:
        """Give a slot back."""
        self.in_use -= 1
        left = self._of[destination] - 1
        if left:
            self._of[destination] = left
        else:
            del self._of[destination]

    @property
    def open_to_any(self) -> int:
        """Free slots of the half that any destination may fill."""
        return max(0, (self.total + 1) // 2 - self.in_use)

    @property
    def free(self) -> int:
        """Free slots altogether."""
        return self.total - self.in_use

    def saturated(self) -> list[int]:
        """Destinations that have used up their share."""
        return [destination for destination, held in self._of.items() if held >= self.share]
