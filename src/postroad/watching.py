"""Waiting for what becomes of messages: one look at all that somebody waits for, instead of one for each of them."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from datetime import timedelta

from postroad.domain.ids import MessageId
from postroad.domain.status import Status
from postroad.domain.tenant import TenantId
from postroad.errors import PostroadError, TooManyWaiting
from postroad.store import statuses
from postroad.store.engine import Database

LOOK_EVERY_S = 0.1
MOST_WATCHED = 5_000
"""Who wait in one process, for one message or for many."""

MOST_OF_TENANT = 2_500
"""Of them, for messages of one tenant, so that others find room."""

_AT_ONCE = 500

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Watched:
    """A message that somebody waits for, as it was when it was last looked at."""

    status: Status | None
    watchers: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def set(self, status: Status | None) -> None:
        if status != self.status:
            self.status = status
            changed, self.changed = self.changed, asyncio.Event()
            changed.set()


class StatusWatch:
    """Follows messages for whoever waits: the database is asked ten times in a second, for all of them together."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._watched: dict[tuple[TenantId, MessageId], _Watched] = {}
        self._watchers: Counter[TenantId] = Counter()
        self._some = asyncio.Event()
        self._stopped = asyncio.Event()

    async def find(self, tenant_id: TenantId, message_id: MessageId) -> Status | None:
        """Where a message stands now, None if nothing is left of it."""
        async with self._database.reading(tenant_id) as connection:
            found = await statuses.find(connection, tenant_id, [message_id])
        return found[0] if found else None

    async def follow(self, tenant_id: TenantId, message_id: MessageId) -> AsyncGenerator[Status | None, None]:
        """Where a message stands, now and at each change, up to its end; None if nothing is left of it.

        Ends early when this process stops. Raises `TooManyWaiting`.
        """
        if self._watchers.total() >= MOST_WATCHED or self._watchers[tenant_id] >= MOST_OF_TENANT:
            raise TooManyWaiting
        self._watchers[tenant_id] += 1
        try:
            async with aclosing(self._follow(tenant_id, message_id)) as changes:
                async for status in changes:
                    yield status
        finally:
            self._watchers[tenant_id] -= 1
            # Without those that are at zero: there may be many tenants.
            self._watchers = +self._watchers

    async def _follow(self, tenant_id: TenantId, message_id: MessageId) -> AsyncGenerator[Status | None, None]:
        key = (tenant_id, message_id)
        first = await self.find(tenant_id, message_id)
        watched = self._watched.setdefault(key, _Watched(first))
        watched.watchers += 1
        self._some.set()
        stopped = asyncio.ensure_future(self._stopped.wait())
        try:
            while not stopped.done():
                changed, status = watched.changed, watched.status
                yield status
                if status is None or status.phase.is_end:
                    return
                waiting = asyncio.ensure_future(changed.wait())
                try:
                    await asyncio.wait([waiting, stopped], return_when=asyncio.FIRST_COMPLETED)
                finally:
                    waiting.cancel()
        finally:
            stopped.cancel()
            watched.watchers -= 1
            if not watched.watchers:
                del self._watched[key]

    async def end(self, tenant_id: TenantId, message_id: MessageId, *, within: timedelta) -> Status | None:
        """Where a message stands at its end, or when the time is over. Raises `TooManyWaiting`."""
        status = None
        with suppress(TimeoutError):
            async with asyncio.timeout(within.total_seconds()), aclosing(self.follow(tenant_id, message_id)) as changes:
                async for change in changes:
                    status = change
        return status

    async def run(self) -> None:
        """Look, until cancelled, while there is anybody who waits."""
        while True:
            if not self._watched:
                self._some.clear()
            await self._some.wait()
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                await self._look()
            except PostroadError as error:
                _log.debug("those who wait for a status wait for the database: %s", error)

    def stop(self) -> None:
        """Let those go who wait: this process ends."""
        self._stopped.set()

    async def _look(self) -> None:
        of_tenant: dict[TenantId, list[MessageId]] = defaultdict(list)
        for tenant_id, message_id in self._watched:
            of_tenant[tenant_id].append(message_id)
        for tenant_id, ids in of_tenant.items():
            for at in range(0, len(ids), _AT_ONCE):
                some = ids[at : at + _AT_ONCE]
                async with self._database.reading(tenant_id) as connection:
                    found = {one.id: one for one in await statuses.find(connection, tenant_id, some)}
                for message_id in some:
                    if (watched := self._watched.get((tenant_id, message_id))) is not None:
                        watched.set(found.get(message_id))
