"""Chores that any node may run: rescue the deliveries of the dead, prune, make partitions."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from functools import partial
from uuid import UUID

from postroad.dispatch.handlers import Handlers
from postroad.domain.bulk_action import BulkActionId
from postroad.domain.callback import callbacks, failure_callback
from postroad.domain.dead_letter import dlq_id
from postroad.domain.message import Attempt, Callback, StoredMessage
from postroad.domain.reply import NoResponse
from postroad.errors import InvalidDestination, PostroadError, Unavailable, Unopenable
from postroad.publish import Publisher
from postroad.store import (
    activity,
    audits,
    bulk_actions,
    deduplications,
    deliveries,
    dispatchers,
    flow_controls,
    messages,
    partitions,
    queues,
    retention,
    schedules,
    sessions,
    tenants,
    usage,
)
from postroad.store.deliveries import Rescued
from postroad.store.engine import Connection, Database, TryAgain
from postroad.store.messages import NewMessage
from postroad.store.retention import Day, Progress, Retention

RESCUE_EVERY_S = 1.0
PRUNE_EVERY_S = 30.0
PRUNE_STEP = 5_000
QUEUE_STEP = 1_000
TICKS_KEPT = timedelta(days=1)
USAGE_KEPT = timedelta(days=40)
BULK_ACTIONS_KEPT = timedelta(days=7)
ACTIVITY_KEPT = timedelta(days=2)
AUDIT_KEPT = timedelta(days=365)
QUEUES_EVERY_S = 30.0
WAITS_EVERY_S = 1.0
BULK_ACTIONS_EVERY_S = 2.0
PARTITIONS_EVERY_S = 3600.0
HISTORY_EVERY_S = 3600.0
HISTORY_FIRST_AFTER_S = 30.0

_NO_OUTCOME = NoResponse("the message was given up after five attempts whose outcome was lost")

_log = logging.getLogger(__name__)


class Janitor:
    """Every chore is idempotent and safe to run on several nodes at once."""

    def __init__(
        self,
        *,
        database: Database,
        publisher: Publisher,
        retention: Retention,
        expect: Callable[[timedelta], None],
        handlers: Handlers,
    ) -> None:
        self._database = database
        self._handlers = handlers
        self._publisher = publisher
        self._retention = retention
        self._expect = expect

    async def run(self, dispatcher_id: int) -> None:
        """Run the chores, each at its own pace, until cancelled."""

        async def rescue() -> None:
            await self.rescue(dispatcher_id)

        async with asyncio.TaskGroup() as chores:
            chores.create_task(_every(RESCUE_EVERY_S, rescue))
            chores.create_task(_every(PRUNE_EVERY_S, self.prune))
            chores.create_task(_every(WAITS_EVERY_S, self._handlers.expire))
            chores.create_task(_every(QUEUES_EVERY_S, self.keep_queues))
            chores.create_task(_every(BULK_ACTIONS_EVERY_S, self.go_on_with_bulk_actions))
            chores.create_task(_every(PARTITIONS_EVERY_S, self.make_partitions))
            chores.create_task(_every(HISTORY_EVERY_S, self.prune_history, first_after_s=HISTORY_FIRST_AFTER_S))

    async def rescue(self, dispatcher_id: int) -> None:
        """Give the deliveries of dispatchers that stopped beating, oneself aside, back to everybody."""
        async with self._database.connection() as connection:
            if not await dispatchers.any_dead(connection, dispatcher_id):
                return
        async with self._database.transaction() as connection:
            dead = await dispatchers.lock_dead(connection, dispatcher_id)
            if not dead:
                return
            count = 0
            taken: list[Rescued] = []
            while rescued := await deliveries.rescue(connection, dead):
                count += len(rescued)
                taken += [one for one in rescued if one.place or one.flow_key_id or one.dead_letter_id]
            await deliveries.lock_queues(connection, taken)
            await self._report_poison(connection, [one for one in taken if one.dead_letter_id is not None])
            await deliveries.release(connection, taken)
            await dispatchers.forget(connection, dead)
        _log.warning("dispatchers %s are gone, %d deliveries were taken back from them", dead, count)
        if count:
            self._expect(timedelta(0))

    async def prune(self) -> None:
        """Delete what is over: deduplication keys, ticks that cannot fire again, counts, sessions and the like."""
        for step in (
            deduplications.prune,
            sessions.prune,
            partial(activity.prune, older_than=ACTIVITY_KEPT),
            partial(audits.prune, older_than=AUDIT_KEPT),
            partial(schedules.prune_ticks, older_than=TICKS_KEPT),
            partial(usage.prune, older_than=USAGE_KEPT),
            partial(bulk_actions.prune, older_than=BULK_ACTIONS_KEPT),
        ):
            pruned = PRUNE_STEP
            while pruned == PRUNE_STEP:
                async with self._database.single() as connection:
                    pruned = await step(connection, limit=PRUNE_STEP)

    async def keep_queues(self) -> None:
        """Go on with cancelling what was left of deleted queues, and look for queues and keys that have stopped."""
        async with self._database.connection() as connection:
            gone = await queues.gone(connection)
        for queue_id in gone:
            left = QUEUE_STEP
            while left == QUEUE_STEP:
                async with self._database.transaction() as connection:
                    left = await queues.empty(connection, queue_id, limit=QUEUE_STEP)
        async with self._database.transaction() as connection:
            if stuck := await queues.stuck(connection):
                _log.warning("queues %s were not as they should be, and are put right", stuck)
                await deliveries.release(connection, queue_ids=stuck)
                self._expect(timedelta(0))
        async with self._database.single() as connection:
            if asleep := await flow_controls.wake_sleepers(connection):
                _log.warning("flow-control keys %s slept over what was due, and are woken", asleep)
                self._expect(timedelta(0))

    async def go_on_with_bulk_actions(self) -> None:
        """Finish what was left by whoever worked on it, a step of each in turn."""
        async with self._database.connection() as connection:
            left = await bulk_actions.abandoned(connection)
        holds = False
        while left:
            left = [one for one in left if await self._goes_on(one, holds=holds)]
            holds = True

    async def _goes_on(self, action_id: BulkActionId, *, holds: bool) -> bool:
        """Take a step of a bulk action. False when it was the last one, or somebody else is at it."""
        action = await self._database.repeated(partial(bulk_actions.go_on, action_id=action_id, holds=holds))
        if action is None:
            return False
        # Where the head of a queue was cancelled, the next one may go now.
        self._expect(timedelta(0))
        if action.completed_at is not None:
            _log.info("bulk action %s was left behind, and is finished", action_id)
        return action.completed_at is None

    async def make_partitions(self) -> None:
        """Keep a week of partitions ahead."""
        async with self._database.transaction() as connection:
            await partitions.make(connection)

    async def prune_history(self) -> None:
        """Drop and delete what is older than its retention. One node does it at a time, the others leave it to that."""
        kept = self._retention
        async with self._database.transaction() as turn:
            if not await retention.alone(turn):
                return
            async with self._database.connection() as connection:
                oldest = await retention.oldest_day(connection, kept.log)
                days = await retention.days_before(connection, oldest)
            letters = await self._all(turn, partial(retention.prune_dead_letters, older_than=kept.dead_letters))
            cancellations = await self._all(turn, partial(retention.prune_cancellations, log=kept.log))
            dropped = await self._drop_all(turn, days)
            stragglers = await self._all(turn, partial(retention.prune_kept, oldest=oldest))
        if dropped or letters or cancellations or stragglers:
            _log.info(
                "pruned: %s; dead letters %d, cancellations %d, messages kept beyond their day %d",
                ", ".join(dropped) or "no days", letters, cancellations, stragglers,
            )  # fmt: skip

    async def _drop_all(self, turn: Connection, days: Sequence[Day]) -> list[str]:
        """Drop days, as far as none has to wait: the others of its table would wait as well. Gives their names."""
        dropped, blocked = [], set()
        for day in days:
            if day.parent not in blocked:
                await retention.still_alone(turn)
                if await self._drop(turn, day):
                    dropped.append(day.table)
                else:
                    blocked.add(day.parent)
        return dropped

    async def _drop(self, turn: Connection, day: Day) -> bool:
        """Drop a day, without what something still refers to. False when it has to wait for another turn."""
        if day.has_messages and day.is_attached and not day.is_leaving:
            while await self._all(turn, partial(retention.keep, day=day)):
                pass  # Until a whole walk finds nothing left to move.
        async with self._database.connection() as connection:
            detached = await retention.detach(connection, day)
        if detached and day.has_messages and await self._all(turn, partial(retention.left_behind, day=day)):
            # Somebody else has detached it: without its message, a delivery would be given up.
            _log.warning("%s was detached with messages in it that are needed: it is attached again", day.table)
            async with self._database.connection() as connection:
                await retention.attach(connection, day)
            return False
        async with self._database.connection() as connection:
            if detached and await retention.drop(connection, day):
                return True
        _log.info("%s is in use and cannot be dropped yet", day.table)
        return False

    async def _all(self, turn: Connection, step: Callable[[Connection, UUID], Awaitable[Progress]]) -> int:
        """Take all the steps, each in a transaction of its own, while the turn is this node's; gives how many rows."""
        total, after = 0, retention.START
        while True:
            await retention.still_alone(turn)
            async with self._database.transaction() as connection:
                count, last = await step(connection, after)
            total += count
            if last is None:
                return total
            after = last

    async def _report_poison(self, connection: Connection, buried: list[Rescued]) -> None:
        """The failure callbacks of messages that were buried without an answer."""
        if not buried:
            return
        stored = {one.message.id: one for one in await messages.fetch(connection, [one.id for one in buried])}
        defaults = await tenants.failure_callbacks(connection, {one.message.tenant_id for one in stored.values()})
        group: list[NewMessage] = []
        for one in buried:
            source = stored.get(one.id)
            if source is None:
                continue
            callback = failure_callback(source.message, defaults.get(source.message.tenant_id))
            if callback is not None:
                group += await self._reports(connection, one, source, callback)
        if group:
            await self._publisher.store(connection, group)

    async def _reports(
        self, connection: Connection, buried: Rescued, source: StoredMessage, callback: Callback
    ) -> list[NewMessage]:
        assert buried.dead_letter_id is not None
        assert buried.failed_at is not None
        message = source.message
        try:
            body = message.body if message.body is not None else await messages.fetch_body(connection, message.id)
        except Unopenable as error:
            body = str(error).encode()
        attempt = Attempt(source, lease=0, retried=buried.retried, destination=0)
        letter = dlq_id(buried.dead_letter_id, buried.failed_at)
        try:
            return [
                self._publisher.unvetted(message.tenant_id, publication, source_id=message.id, place=buried.place)
                for publication in callbacks(attempt, _NO_OUTCOME, failure_callback=callback, body=body, dlq_id=letter)
            ]
        except InvalidDestination as error:
            _log.warning("a callback of %s is dropped: %s", message.id, error)
            return []


async def _every(seconds: float, chore: Callable[[], Awaitable[None]], *, first_after_s: float = 0.0) -> None:
    """Run a chore again and again. The database's troubles pass; it is tried again at the next turn."""
    await asyncio.sleep(first_after_s)
    while True:
        try:
            await chore()
        except (Unavailable, TryAgain) as error:
            _log.debug("%s waits for the database: %s", chore.__name__, error)
        except PostroadError as error:
            _log.warning("%s: %s", chore.__name__, error)
        except Exception:  # noqa: BLE001  a right that is missing must not take the deliveries down with it
            _log.exception("a chore failed and is tried again")
        await asyncio.sleep(seconds)
