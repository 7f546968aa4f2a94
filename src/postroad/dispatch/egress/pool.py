"""The connections of one client: which are open, and which are free for another request."""

from __future__ import annotations

import asyncio

from postroad.dispatch.egress.connection import Connection

Place = tuple[str, str, int, str | None, int]
"""Scheme, host and port, the policy under which the connection was allowed, and the tenant that it is for."""

MAX_AGE = 300.0
"""Seconds after which a connection is not used again, so that a destination that moves in the DNS is followed."""


class Pool:
    """Open connections, and for each place a stack of free ones: the one used last is used next."""

    def __init__(self, *, max_idle_per_destination: int, max_idle: int, idle_timeout: float) -> None:
        self._max_idle_per_destination = max_idle_per_destination
        self._max_idle = max_idle
        self._idle_timeout = idle_timeout
        self._open: set[Connection] = set()
        self._idle: dict[Place, list[Connection]] = {}
        self._idle_count = 0
        self._sweep: asyncio.TimerHandle | None = None
        self._all_closed: asyncio.Future[None] | None = None

    def take(self, place: Place) -> Connection | None:
        """A free connection to this place, if there is one; it is the caller's until the exchange ends."""
        idle = self._idle.get(place)
        if not idle:
            return None
        self._idle_count -= 1
        return idle.pop()

    def opened(self, connection: Connection) -> None:
        self._open.add(connection)
        if self._all_closed is not None:
            connection.shut_down()

    def free(self, connection: Connection, now: float) -> None:
        idle = self._idle.get(connection.place, ())
        if (
            len(idle) >= self._max_idle_per_destination
            or self._idle_count >= self._max_idle
            or now - connection.born_at > MAX_AGE
            or self._all_closed is not None
        ):
            connection.close()
            return
        connection.free_since = now
        self._idle.setdefault(connection.place, []).append(connection)
        self._idle_count += 1
        if self._sweep is None:
            loop = asyncio.get_running_loop()
            self._sweep = loop.call_later(self._idle_timeout / 4, self._close_old, loop)

    def useless(self, connection: Connection) -> None:
        idle = self._idle.get(connection.place)
        if idle and connection in idle:
            idle.remove(connection)
            self._idle_count -= 1

    def closed(self, connection: Connection) -> None:
        self._open.discard(connection)
        if self._all_closed is not None and not self._open and not self._all_closed.done():
            self._all_closed.set_result(None)

    async def close(self) -> None:
        """Close every connection, busy or free, and wait until they are gone."""
        self._all_closed = asyncio.get_running_loop().create_future()
        if self._sweep is not None:
            self._sweep.cancel()
        for connection in list(self._open):
            connection.shut_down()
        if self._open:
            await self._all_closed

    def _close_old(self, loop: asyncio.AbstractEventLoop) -> None:
        oldest = loop.time() - self._idle_timeout
        for place, idle in list(self._idle.items()):
            while idle and idle[0].free_since <= oldest:
                idle[0].close()
            if not idle:
                del self._idle[place]
        self._sweep = loop.call_later(self._idle_timeout / 4, self._close_old, loop) if self._idle else None
