"""Who may deliver now: a bounded number of slots, shared fairly between destinations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class Slots:
    """Counts deliveries in progress.

    No destination may hold more slots than are free. One that hangs gets half of them at most, a second one half of
    what that leaves, and so on: however many hang, there are slots for those that do not, on nodes of any size.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.in_use = 0
        self._promised = 0
        self._of: dict[int, int] = {}

    def reserve(self, destination: int) -> bool:
        """Take a slot if one is free for this destination."""
        if self._of.get(destination, 0) >= self.free:
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

    @contextmanager
    def promised(self, count: int) -> Iterator[None]:
        """While a claim of so many is under way, nobody else takes what it may bring."""
        self._promised += count
        try:
            yield
        finally:
            self._promised -= count

    @property
    def open_to_any(self) -> int:
        """Slots that one claim may fill, whoever they are for: no destination then holds more than are free."""
        return max(0, self.free - max(self._of.values(), default=0) + 1) // 2

    @property
    def free(self) -> int:
        """Free slots altogether."""
        return self.total - self.in_use - self._promised

    @property
    def fair_limit(self) -> int:
        """Slots that a claim may fill which takes a little for each destination."""
        return max(0, self.free + 1) // 2

    @property
    def fair_share(self) -> int:
        """What such a claim may take for one destination."""
        return max(1, self.free // 8)

    def saturated(self) -> list[int]:
        """Destinations that hold as many as are free."""
        return [destination for destination, held in self._of.items() if held >= self.free]
