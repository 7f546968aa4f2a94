"""How long a client may take for what it does, and who gives way when there are too many."""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

_CANDIDATES = 256
_MOST_LEAVING = 1_000
_SILENT_S = 60

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Patience:
    """How many seconds a client may take for what it does, and how many clients there may be in one process.

    A body that is on its way, and an answer that is not taken, must get ahead by `least_bytes` in every `stalled`
    seconds. `linger` is how long the rest of a request is thrown away that was answered before it was complete.
    """

    head: int = 10
    stalled: int = 30
    least_bytes: int = 16 * 1024
    idle: int = 75
    linger: int = 10
    connections: int = 10_000


class Client(Protocol):
    """A connection that is watched. `since` is when what it does, or waits for, began."""

    since: int

    @property
    def is_waiting(self) -> bool:
        """Whether nothing is under way on it."""

    def look(self) -> None:
        """End what has taken too long."""

    def answer_last(self) -> None:
        """Say with the next answer that the connection ends."""

    def turn_away(self) -> None:
        """Say that there are too many."""

    def end(self) -> None:
        """Close it."""


class Watch:
    """Ends what takes too long: one look at all connections in a second, instead of timers for every request."""

    def __init__(self, patience: Patience) -> None:
        self.patience = patience
        self.now = 0
        self.is_leaving = False
        self._silent_until = 0
        self._connections: OrderedDict[Client, None] = OrderedDict()
        self._leaving: set[Client] = set()

    def tick(self) -> None:
        """A second has passed."""
        self.now += 1
        for connection in (*self._connections, *self._leaving):
            connection.look()

    def enter(self, connection: Client) -> None:
        """A connection was made. When there are too many, one that waits for its client gives way to it.

        So whoever opens many and says nothing loses them to those who have something to say. Where none of some waits,
        the new one is told to come again later.
        """
        self._connections[connection] = None
        if len(self._connections) <= self.patience.connections:
            return
        if self.now >= self._silent_until:
            self._silent_until = self.now + _SILENT_S
            _log.warning("more than %d clients are connected: those give way that wait", self.patience.connections)
        leaver = self._one_that_waits(connection)
        if leaver is None:
            leaver = connection
            connection.turn_away()
        if leaver is not connection or len(self._leaving) >= _MOST_LEAVING:
            leaver.end()
        del self._connections[leaver]
        self._leaving.add(leaver)

    def take_leave(self) -> None:
        """From now on each answer is the last of its connection."""
        self.is_leaving = True
        for connection in self._connections:
            connection.answer_last()

    def leave(self, connection: Client) -> None:
        """A connection was lost."""
        self._connections.pop(connection, None)
        self._leaving.discard(connection)

    def _one_that_waits(self, newcomer: Client) -> Client | None:
        """Of some connections that have not been looked at for longest, the one that has waited longest."""
        some = list(islice(self._connections, _CANDIDATES))
        for one in some:
            self._connections.move_to_end(one)
        waiting = [one for one in some if one.is_waiting and one is not newcomer]
        return min(waiting, key=lambda one: one.since, default=None)
