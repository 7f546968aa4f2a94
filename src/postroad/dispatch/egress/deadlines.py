"""One coarse timer for many deadlines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

TICKS_PER_SECOND = 20

T = TypeVar("T")


class Deadlines(Generic[T]):
    """Items with a time each, in slots of a twentieth of a second; `expire` is called for those still there by then.

    Never early, and late by two ticks at most. An item costs two set operations and no timer of its own; the one timer
    runs only while there are items. Belongs to one event loop.
    """

    def __init__(self, expire: Callable[[T], None]) -> None:
        self._expire = expire
        self._slots: dict[int, set[T]] = {}
        self._next_slot = 0
        self._timer: asyncio.TimerHandle | None = None

    def slot(self, at: float) -> set[T]:
        """The items that expire at this time of the loop: add yours at once, and discard it when it is done."""
        number = int(at * TICKS_PER_SECOND) + 1
        items = self._slots.get(number)
        if items is not None:
            return items
        if self._timer is None:
            self._start()
        return self._slots.setdefault(max(number, self._next_slot), set())

    def stop(self) -> None:
        """Forget everything."""
        self._slots.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _start(self) -> None:
        loop = asyncio.get_running_loop()
        self._next_slot = int(loop.time() * TICKS_PER_SECOND)
        self._timer = loop.call_later(1 / TICKS_PER_SECOND, self._tick, loop)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        now = int(loop.time() * TICKS_PER_SECOND)
        for number in range(self._next_slot, now + 1):
            for item in self._slots.pop(number, ()):
                self._expire(item)
        self._next_slot = now + 1
        if any(self._slots.values()):
            self._timer = loop.call_later(1 / TICKS_PER_SECOND, self._tick, loop)
        else:
            self._slots.clear()
            self._timer = None
