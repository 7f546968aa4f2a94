"""The log as it grows: each event once, in the order of the log, soon after it was stored."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from dataclasses import replace
from datetime import datetime, timedelta
from uuid import UUID

from postroad.domain.ids import MessageId
from postroad.domain.log import Event, Position
from postroad.domain.tenant import TenantId
from postroad.errors import TooManyWaiting
from postroad.store import log_events
from postroad.store.engine import Database
from postroad.store.log_searches import Search

LOOK_EVERY_S = 0.1
MOST_FOLLOWED = 200
"""Streams of one process."""

MOST_OF_TENANT = 100
"""Streams of one tenant, so that others find room."""

_AT_ONCE = 1_000
_BODY_BYTES_AT_ONCE = 4 * 1024 * 1024
"""A reader may be slow, and what it has not taken yet is kept here."""

_BEFORE_ALL = MessageId(UUID(int=0))


class EventFeed:
    """Follows the log for whoever listens.

    An event has the time at which its transaction began, so one that commits late stands before others that are
    visible already. Therefore nothing is told that is younger than the oldest transaction under way: what is told is
    complete, and its order is that of the log. So a position is all that it takes to go on later, without gap or
    repetition.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._followed: Counter[TenantId] = Counter()
        self._stopped = asyncio.Event()

    async def beginning(self, search: Search) -> Search:
        """The search from now on, if it has neither a position nor a time to begin from. Raises `TooManyWaiting`."""
        if self._followed.total() >= MOST_FOLLOWED or self._followed[search.tenant_id] >= MOST_OF_TENANT:
            raise TooManyWaiting
        if search.after is not None or search.filters.since is not None:
            return search
        return replace(search, after=Position(await self._complete_until(), _BEFORE_ALL, -1))

    async def follow(self, search: Search, *, body_bytes: int) -> AsyncGenerator[tuple[Event, Position], None]:
        """Events beyond where the search begins, with their positions, until this process stops."""
        self._followed[search.tenant_id] += 1
        try:
            while not self._stopped.is_set():
                until = await self._complete_until()
                bounds = search.filters.until
                known = replace(search.filters, until=until if bounds is None else min(bounds, until))
                rest = replace(search, filters=known, limit=_at_once(body_bytes), oldest_first=True)
                async with self._database.reading(search.tenant_id) as connection:
                    events, more = await log_events.page(connection, rest, body_bytes=body_bytes)
                for event in events:
                    yield event, event.position
                if events or more is not None:
                    search = replace(search, after=more or events[-1].position)
                if more is None:
                    await self._pause()
        finally:
            self._followed[search.tenant_id] -= 1
            # Without those that are at zero: there may be many tenants.
            self._followed = +self._followed

    def stop(self) -> None:
        """Let those go who listen: this process ends."""
        self._stopped.set()

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(LOOK_EVERY_S):
                await self._stopped.wait()
        except TimeoutError:
            pass

    async def _complete_until(self) -> datetime:
        """Up to when nothing can be added to the log any more.

        A transaction of ours ends within seconds; one that is older is somebody's who only reads.
        """
        async with self._database.connection() as connection:
            instant: datetime = await connection.fetchval(
                """
                select greatest(
                  least(clock_timestamp() - interval '5 ms', min(xact_start) - interval '1 microsecond'),
                  clock_timestamp() - $1::interval)
                from pg_stat_activity
                where datname = current_database() and xact_start is not null and pid <> pg_backend_pid()
                """,
                _LONGEST_TRANSACTION,
            )
        return instant


def _at_once(body_bytes: int) -> int:
    """How many events are read together; each may show two bodies."""
    return _AT_ONCE if not body_bytes else min(_AT_ONCE, max(10, _BODY_BYTES_AT_ONCE // (2 * body_bytes)))


_LONGEST_TRANSACTION = timedelta(seconds=15)
