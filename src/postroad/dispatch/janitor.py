"""Chores that any node may run: rescue the deliveries of the dead, prune, make partitions."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta

from postroad.domain.callback import callbacks
from postroad.domain.dead_letter import dlq_id
from postroad.domain.message import Attempt, StoredMessage
from postroad.domain.outcome import FAILED
from postroad.domain.reply import NoResponse
from postroad.errors import InvalidDestination, PostroadError
from postroad.publish import Publisher
from postroad.store import deduplications, deliveries, dispatchers, messages, partitions
from postroad.store.deliveries import Rescued
from postroad.store.engine import Connection, Database
from postroad.store.messages import NewMessage

RESCUE_EVERY_S = 2.0
PRUNE_EVERY_S = 30.0
PARTITIONS_EVERY_S = 3600.0

_NO_OUTCOME = NoResponse("the message was given up after five attempts whose outcome was lost")

_log = logging.getLogger(__name__)


class Janitor:
    """Every chore is idempotent and safe to run on several nodes at once."""

    def __init__(self, *, database: Database, publisher: Publisher, expect: Callable[[timedelta], None]) -> None:
        self._database = database
        self._publisher = publisher
        self._expect = expect

    async def run(self, dispatcher_id: int) -> None:
        """Run the chores, each at its own pace, until cancelled."""

        async def rescue() -> None:
            await self.rescue(dispatcher_id)

        async with asyncio.TaskGroup() as chores:
            chores.create_task(_every(RESCUE_EVERY_S, rescue))
            chores.create_task(_every(PRUNE_EVERY_S, self.prune))
            chores.create_task(_every(PARTITIONS_EVERY_S, self.make_partitions))

    async def rescue(self, dispatcher_id: int) -> None:
        """Give the deliveries of dispatchers that stopped beating, oneself aside, back to everybody."""
        async with self._database.connection() as connection:
            if not await dispatchers.any_dead(connection, dispatcher_id):
                return
        async with self._database.transaction() as connection:
            dead = await deliveries.lock_dead(connection, dispatcher_id)
            if not dead:
                return
            count = 0
            while rescued := await deliveries.rescue(connection, dead):
                count += len(rescued)
                await self._report_poison(connection, [one for one in rescued if one.dead_letter_id is not None])
            await dispatchers.forget(connection, dead)
        _log.warning("dispatchers %s are gone, %d deliveries were taken back from them", dead, count)
        if count:
            self._expect(timedelta(0))

    async def prune(self) -> None:
        """Delete deduplication keys whose window is over."""
        while True:
            async with self._database.single() as connection:
                if await deduplications.prune(connection, limit=5_000) < 5_000:
                    return

    async def make_partitions(self) -> None:
        """Keep a week of partitions ahead."""
        async with self._database.transaction() as connection:
            await partitions.make(connection)

    async def _report_poison(self, connection: Connection, buried: list[Rescued]) -> None:
        """The failure callbacks of messages that were buried without an answer."""
        stored = {one.message.id: one for one in await messages.fetch(connection, [one.id for one in buried])}
        group: list[NewMessage] = []
        for one in buried:
            source = stored.get(one.id)
            if source is not None and source.message.options.failure_callback is not None:
                group += await self._reports(connection, one, source)
        if group:
            await self._publisher.store(connection, group)

    async def _reports(self, connection: Connection, buried: Rescued, source: StoredMessage) -> list[NewMessage]:
        assert buried.dead_letter_id is not None
        assert buried.failed_at is not None
        message = source.message
        body = message.body if message.body is not None else await messages.fetch_body(connection, message.id)
        attempt = Attempt(source, lease=0, retried=buried.retried, destination=0)
        letter = dlq_id(buried.dead_letter_id, buried.failed_at)
        try:
            return [
                self._publisher.report(message.tenant_id, publication, source_id=message.id)
                for publication in callbacks(attempt, _NO_OUTCOME, FAILED, body=body, dlq_id=letter)
            ]
        except InvalidDestination as error:
            _log.warning("a callback of %s is dropped: %s", message.id, error)
            return []


async def _every(seconds: float, chore: Callable[[], Awaitable[None]]) -> None:
    """Run a chore again and again. The database's troubles pass; it is tried again at the next turn."""
    while True:
        try:
            await chore()
        except PostroadError as error:
            _log.warning("%s: %s", chore.__name__, error)
        except Exception:  # noqa: BLE001  a right that is missing must not take the deliveries down with it
            _log.exception("a chore failed and is tried again")
        await asyncio.sleep(seconds)
