"""The engine: claim what is due, deliver it in bounded slots, settle what ended, and stay alive meanwhile."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Sequence
from datetime import timedelta

from postroad.clock import Clock
from postroad.dispatch.deliver import Means, deliver
from postroad.dispatch.egress.client import Egress
from postroad.dispatch.janitor import Janitor
from postroad.dispatch.settler import Settler
from postroad.dispatch.slots import Slots
from postroad.dispatch.waker import Waker
from postroad.domain.ids import MessageId
from postroad.domain.message import Attempt
from postroad.errors import PostroadError
from postroad.publish import Publisher
from postroad.store import deliveries, dispatchers, messages
from postroad.store.deliveries import FIRST_DESTINATION, Claimed
from postroad.store.engine import Connection, Database
from postroad.tenancy import Tenancy

BEAT_EVERY_S = 3.0
STRAY_AFTER = timedelta(seconds=5)
_UNSETTLED_LIMIT = 5_000
_LARGE_BODIES = 64
_RESTART_PAUSE_S = 1.0
_SETTLE_WITHIN_S = 10.0

_log = logging.getLogger(__name__)


class DeclaredDeadError(Exception):
    """The beat came too late: everything that was leased to this dispatcher belongs to others now."""


class Dispatcher:
    """One per process. `run` serves until `stop`; the intake hands over to it what it has just stored."""

    def __init__(
        self,
        *,
        database: Database,
        egress: Egress,
        publisher: Publisher,
        tenancy: Tenancy,
        clock: Clock,
        slots: int,
        max_timeout: timedelta,
    ) -> None:
        self.id: int | None = None
        self._database = database
        self._tenancy = tenancy
        self._clock = clock
        self._means = Means(egress, clock, max_timeout)
        self._slots = Slots(slots)
        self._waker = Waker()
        self._held: dict[MessageId, Attempt] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._settler = Settler(database=database, publisher=publisher, gone=self._forget, expect=self.expect)
        self._janitor = Janitor(database=database, publisher=publisher, expect=self.expect)
        self._large_bodies = asyncio.Semaphore(_LARGE_BODIES)
        self._rotation = FIRST_DESTINATION
        self._backlogged = False
        self._stopping = False
        self._beats = asyncio.Event()

    # What the intake calls.

    def reserve(self, destination: int) -> bool:
        """Take a free slot for a delivery that is about to be stored; see `intake.LocalDispatcher`."""
        if self._backlogged or self._stopping or self._settler.waiting > _UNSETTLED_LIMIT:
            return False
        return self._slots.reserve(destination)

    def release(self, destination: int) -> None:
        """Give a slot back."""
        self._slots.release(destination)
        if self._backlogged:
            self._waker.wake()

    def hand_over(self, attempts: Sequence[Attempt]) -> None:
        """Start attempts in the slots that were reserved for them."""
        for attempt in attempts:
            self._start(attempt)

    def expect(self, wait: timedelta) -> None:
        """Something falls due after this wait."""
        self._waker.expect(wait)

    # Its life.

    async def run(self) -> None:
        """Dispatch until cancelled. A dispatcher that was declared dead starts over under a new id."""
        while True:
            try:
                await self._live()
            except* DeclaredDeadError:
                _log.warning("dispatcher %s was declared dead, it starts over", self.id)
                await self._abandon()
            except* PostroadError as errors:
                _log.warning("the dispatcher waits for the database: %s", errors.exceptions[0])
                await self._abandon()
                await asyncio.sleep(_RESTART_PAUSE_S)

    async def ready(self) -> None:
        """Until the dispatcher may lease."""
        await self._beats.wait()

    async def stop(self, grace: timedelta) -> None:
        """Stop claiming, finish what is in progress or give it back, settle, sign off; then `run` may be cancelled."""
        self._stopping = True
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace.total_seconds())
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        try:
            async with asyncio.timeout(_SETTLE_WITHIN_S):
                await self._settler.settled()
        except TimeoutError:
            _log.warning("the last attempts could not be settled, they will be made again")
        if self.id is not None:
            try:
                async with self._database.transaction() as connection:
                    held = [(attempt.message.id, attempt.lease) for attempt in self._held.values()]
                    await deliveries.hand_back(connection, self.id, held)
                    await dispatchers.forget(connection, [self.id])
            except PostroadError as error:
                _log.warning("could not sign off, another node will take over after a while: %s", error)

    async def drain(self) -> None:
        """Until nothing is in progress or unsettled in this process."""
        while self._held or self._tasks:
            if self._tasks:
                await asyncio.wait(self._tasks)
            await self._settler.settled()
            await asyncio.sleep(0)

    async def _live(self) -> None:
        async with self._database.connection() as connection:
            await self._clock.measure(connection)
            self.id = await dispatchers.register(connection, socket.gethostname())
        self._beats.set()
        async with asyncio.TaskGroup() as loops:
            loops.create_task(self._beat(self.id))
            loops.create_task(self._claim(self.id))
            loops.create_task(self._settler.run(self.id))
            loops.create_task(self._janitor.run())

    async def _abandon(self) -> None:
        """Break off every attempt: others may be making them already."""
        self.id = None
        self._beats.clear()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._held.clear()

    async def _beat(self, dispatcher_id: int) -> None:
        while True:
            await asyncio.sleep(BEAT_EVERY_S)
            try:
                async with self._database.connection() as connection:
                    if not await dispatchers.beat(connection, dispatcher_id):
                        raise DeclaredDeadError
                    await self._clock.measure(connection)
                    strays = await deliveries.give_back(
                        connection, dispatcher_id, list(self._held), older_than=STRAY_AFTER
                    )
            except PostroadError as error:
                _log.warning("the dispatcher could not beat: %s", error)
                continue
            if strays:
                _log.warning("%d deliveries whose commit was never confirmed are given back", len(strays))
                self._waker.wake()

    # Claiming.

    async def _claim(self, dispatcher_id: int) -> None:
        found = False
        while True:
            try:
                found = not self._stopping and await self._claim_once(dispatcher_id)
            except PostroadError as error:
                _log.warning("claiming waits for the database: %s", error)
                await asyncio.sleep(_RESTART_PAUSE_S)
            if not found:
                await self._waker.wait(busy=self._slots.in_use > 0)

    async def _claim_once(self, dispatcher_id: int) -> bool:
        """One claim within the free slots. True when there may be more to claim right now."""
        if self._settler.waiting > _UNSETTLED_LIMIT:
            return False
        limit = self._slots.open_to_any
        async with self._database.connection() as connection:
            if limit:
                wait = await deliveries.until_next_due(connection)
                if wait is None or wait > timedelta(0):
                    self._backlogged = False
                    if wait is not None:
                        self._waker.expect(wait)
                    return False
                claimed = await deliveries.claim_due(connection, dispatcher_id, min(limit, messages.FETCH_LIMIT))
                self._backlogged = len(claimed) >= min(limit, messages.FETCH_LIMIT)
            elif self._slots.free:
                claimed, self._rotation = await deliveries.claim_fair(
                    connection,
                    dispatcher_id,
                    min(self._slots.free, messages.FETCH_LIMIT),
                    share=self._slots.share,
                    saturated=self._slots.saturated(),
                    after=self._rotation,
                )
            else:
                return False
            for one in claimed:
                self._slots.take(one.destination)
            await self._begin(connection, claimed)
        return bool(claimed) and self._backlogged

    async def _begin(self, connection: Connection, claimed: Sequence[Claimed]) -> None:
        """Start the attempts of a claim. What cannot be read stays leased and is given back by the next beats."""
        by_id = {one.id: one for one in claimed}
        try:
            for stored in await messages.fetch(connection, list(by_id)):
                one = by_id.pop(stored.message.id)
                self._start(Attempt(stored, one.lease, one.retried, one.destination))
        finally:
            for one in by_id.values():
                self._slots.release(one.destination)

    # Delivering.

    def _start(self, attempt: Attempt) -> None:
        self._held[attempt.message.id] = attempt
        task = asyncio.create_task(self._attempt(attempt))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _attempt(self, attempt: Attempt) -> None:
        message = attempt.message
        try:
            keys = self._tenancy.known_keys(message.tenant_id) or await self._tenancy.keys(message.tenant_id)
            if message.body is not None:
                finished = await deliver(attempt, message.body, keys.current, self._means)
            else:
                async with self._large_bodies:
                    async with self._database.connection() as connection:
                        body = await messages.fetch_body(connection, message.id)
                    finished = await deliver(attempt, body, keys.current, self._means)
            self._settler.add(finished)
        except PostroadError as error:
            # The attempt was not made: it is forgotten here, and the next beats give it back.
            self._held.pop(message.id, None)
            _log.warning("an attempt was not made: %s", error)
        finally:
            self._slots.release(attempt.destination)
            if self._backlogged and self._slots.open_to_any >= self._slots.total // 8:
                self._waker.wake()

    def _forget(self, settled: Sequence[MessageId]) -> None:
        for message_id in settled:
            self._held.pop(message_id, None)
