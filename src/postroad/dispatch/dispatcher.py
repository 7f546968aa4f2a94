"""The engine: claim what is due, deliver it in bounded slots, settle what ended, and stay alive meanwhile."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from time import monotonic

from postroad.activity import Activity
from postroad.clock import Clock
from postroad.dispatch.claimer import Claimer
from postroad.dispatch.deliver import Finished, Means, defective, deliver
from postroad.dispatch.egress.client import Egress
from postroad.dispatch.handlers import Handlers
from postroad.dispatch.janitor import Janitor
from postroad.dispatch.pulse import Pulse
from postroad.dispatch.scheduler import Scheduler
from postroad.dispatch.settler import Settler
from postroad.dispatch.slots import Slots
from postroad.dispatch.waker import Waker
from postroad.domain.ids import MessageId
from postroad.domain.message import Attempt
from postroad.domain.outcome import FAILED
from postroad.domain.reply import NoResponse
from postroad.errors import PostroadError, Unavailable, Unopenable
from postroad.publish import Publisher
from postroad.store import deliveries, dispatchers, hints, messages
from postroad.store.engine import Database
from postroad.store.retention import Retention
from postroad.tenancy import Tenancy

STRAY_AFTER = timedelta(seconds=5)
_LARGE_BODIES = 64
_RESTART_PAUSE_S = 1.0
_SETTLE_WITHIN_S = 10.0

_log = logging.getLogger(__name__)


class DeclaredDeadError(Exception):
    """This dispatcher's row is gone: everything that was leased to it belongs to others now."""


class LeaseExpiredError(PostroadError):
    """What is leased to this dispatcher may have been given to another one."""

    def __init__(self) -> None:
        super().__init__("this process has not proved to be alive for too long, its lease may be over")


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
        retention: Retention,
        schedule_catch_up: timedelta,
        handlers: Handlers,
        activity: Activity,
        region: str | None = None,
        standard_webhooks: bool = False,
        public_url: str | None = None,
    ) -> None:
        self.id: int | None = None
        self._database = database
        self._bodies = database.limited(2)
        self._tenancy = tenancy
        self._means = Means(egress, clock, max_timeout, region, standard_webhooks, public_url)
        self._slots = Slots(slots)
        self._large = Slots(_LARGE_BODIES)
        self._large_freed = asyncio.Event()
        self._waker = Waker()
        self._held: dict[tuple[MessageId, int], Attempt] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._leasing: set[float] = set()
        self._settler = Settler(
            database=database, publisher=publisher, gone=self._forget, expect=self.expect, activity=activity
        )
        self._janitor = Janitor(
            database=database,
            publisher=publisher,
            retention=retention,
            expect=self.expect,
            handlers=handlers,
        )
        self._scheduler = Scheduler(
            database=database, publisher=publisher, catch_up=schedule_catch_up, expect=self.expect
        )
        self._claimer = Claimer(
            database=database,
            slots=self._slots,
            waker=self._waker,
            start=self._start,
            may_claim=lambda: not self._stopping and not self._settler.is_full,
            leasing=self.leasing,
        )
        self._pulse = Pulse(reach=dispatchers.ALIVE_FOR)
        self._stopping = False
        self._signed_off = False
        self._beats = asyncio.Event()

    # What the intake calls; see `intake.LocalDispatcher`.

    def reserve(self, destination: int) -> bool:
        """Take a free slot for a delivery that is about to be stored."""
        if self._claimer.backlogged or self._stopping or self._settler.is_full:
            return False
        return self._slots.reserve(destination)

    def release(self, destination: int) -> None:
        """Give a slot back."""
        self._slots.release(destination)
        self._claimer.slot_freed()

    def hand_over(self, dispatcher_id: int, attempts: Sequence[Attempt]) -> None:
        """Start attempts in the slots that were reserved for them.

        What was leased to a dispatcher that this process is no longer, or that stops, is not started: others have it,
        or will.
        """
        for attempt in attempts:
            if self._stopping or dispatcher_id != self.id:
                self.release(attempt.destination)
            else:
                self._start(attempt)

    def expect(self, wait: timedelta) -> None:
        """Something falls due after this wait."""
        self._waker.expect(wait)

    @contextmanager
    def leasing(self) -> Iterator[None]:
        """While rows may be leased to this dispatcher that are not in its memory yet, and so are no strays."""
        started = monotonic()
        while started in self._leasing:
            started += 1e-9
        self._leasing.add(started)
        try:
            yield
        finally:
            self._leasing.discard(started)

    # Its life.

    async def run(self) -> None:
        """Dispatch until `stop`. A dispatcher that was declared dead starts over under a new id."""
        while not self._stopping:
            trouble = ""
            try:
                await self._live()
            except* DeclaredDeadError:
                trouble = f"dispatcher {self.id} was declared dead, it starts over"
            except* PostroadError as errors:
                trouble = f"the dispatcher waits for the database: {errors.exceptions[0]}"
            if not self._stopping:
                _log.warning("%s", trouble)
                await self._abandon()
                await asyncio.sleep(_RESTART_PAUSE_S)

    async def ready(self) -> None:
        """Until the dispatcher may lease."""
        await self._beats.wait()

    def stop_claiming(self) -> None:
        """Take on nothing more."""
        self._stopping = True

    @property
    def in_progress(self) -> int:
        """Attempts under way."""
        return len(self._tasks)

    async def stop(self, grace: timedelta, impatient: asyncio.Event | None = None) -> None:
        """Stop claiming, finish what is in progress or break it off, settle, give the rest back, sign off.

        What is in progress is broken off when the grace is over, or somebody is impatient.
        """
        self._stopping = True
        hurry = asyncio.create_task((impatient or asyncio.Event()).wait())
        until = monotonic() + grace.total_seconds()
        while self._tasks and not hurry.done() and (left := until - monotonic()) > 0:
            await asyncio.wait([hurry, *self._tasks], timeout=left, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        await self._break_off()
        try:
            async with asyncio.timeout(_SETTLE_WITHIN_S):
                await self._settler.settled()
        except TimeoutError:
            _log.warning("the last attempts could not be settled, they will be made again")
        self._signed_off = True
        if self.id is not None:
            try:
                async with self._database.transaction() as connection:
                    await dispatchers.sign_off(connection, self.id)
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
            self._pulse = Pulse(reach=dispatchers.ALIVE_FOR)
            self.id = await dispatchers.register(connection, socket.gethostname())
        self._beats.set()
        async with asyncio.TaskGroup() as loops:
            loops.create_task(self._beat(self.id))
            loops.create_task(self._return_strays(self.id))
            loops.create_task(self._claimer.run(self.id))
            loops.create_task(self._settler.run(self.id))
            loops.create_task(self._janitor.run(self.id))
            loops.create_task(self._scheduler.run())
            loops.create_task(hints.listen(self._database.url, self.expect))

    async def _abandon(self) -> None:
        """Break off every attempt: others may be making them already."""
        self.id = None
        self._beats.clear()
        await self._break_off()
        self._settler.drop()
        self._held.clear()
        self._claimer.abandon()

    async def _break_off(self) -> None:
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)

    async def _beat(self, dispatcher_id: int) -> None:
        """Stay alive."""
        async with self._database.separate() as own:
            while not self._signed_off:
                await asyncio.sleep(dispatchers.BEAT_EVERY.total_seconds())
                try:
                    async with own.connection() as connection:
                        begun = monotonic()
                        if not await dispatchers.beat(connection, dispatcher_id):
                            raise DeclaredDeadError
                        self._pulse.beaten(begun)
                except PostroadError as error:
                    _log.debug("the dispatcher could not beat: %s", error)

    async def _return_strays(self, dispatcher_id: int) -> None:
        """Give back what is leased to this dispatcher but not in its memory.

        It may have to wait for the locks of queues and keys, for which no beat should wait.
        """
        while not self._signed_off:
            await asyncio.sleep(dispatchers.BEAT_EVERY.total_seconds())
            try:
                async with self._database.transaction() as connection:
                    strays = await deliveries.give_back(
                        connection, dispatcher_id, list(self._held), older_than=self._stray_age()
                    )
            except PostroadError as error:
                _log.debug("nothing could be given back: %s", error)
                continue
            if strays:
                _log.warning("%d deliveries whose lease was never confirmed are given back", strays)
                self._waker.wake()

    def _stray_age(self) -> timedelta:
        oldest = min(self._leasing, default=None)
        return STRAY_AFTER if oldest is None else STRAY_AFTER + timedelta(seconds=monotonic() - oldest)

    # Delivering.

    def _start(self, attempt: Attempt) -> None:
        self._held[attempt.message.id, attempt.lease] = attempt
        task = asyncio.create_task(self._attempt(attempt))
        self._tasks.add(task)
        # Not a `finally` in the task: one that is cancelled before its first step has none.
        task.add_done_callback(lambda task: self._ended(task, attempt))

    async def _attempt(self, attempt: Attempt) -> None:
        message = attempt.message
        profile = self._tenancy.known_profile(message.tenant_id)
        try:
            profile = profile or await self._tenancy.profile(message.tenant_id)
            if message.body is not None:
                self._check_lease()
                finished = await deliver(attempt, message.body, profile, self._means)
            else:
                finished = await self._deliver_large(attempt)
        except PostroadError as error:
            # Nothing was sent: it is forgotten here, and a beat gives it back.
            self._forget([attempt])
            level = logging.DEBUG if isinstance(error, LeaseExpiredError | Unavailable) else logging.WARNING
            _log.log(level, "an attempt was not made: %s", error)
        except Exception as error:  # noqa: BLE001  a defect of ours must end as a settled attempt, not as a stuck delivery
            _log.exception("an attempt failed inside the server")
            self._settler.add(defective(attempt, error, profile, self._means))
        else:
            self._settler.add(finished)

    async def _deliver_large(self, attempt: Attempt) -> Finished:
        """Large bodies are in memory only while they are sent, and only so many at a time."""
        while not self._large.reserve(attempt.destination):
            self._large_freed.clear()
            await self._large_freed.wait()
        try:
            try:
                async with self._bodies.connection() as connection:
                    body = await messages.fetch_body(connection, attempt.message.id)
            except Unopenable as error:
                return Finished(attempt, NoResponse(str(error)), FAILED, timedelta(0), b"")
            # The wait may have been long, and the keys rotated meanwhile.
            profile = await self._tenancy.profile(attempt.message.tenant_id)
            self._check_lease()
            return await deliver(attempt, body, profile, self._means)
        finally:
            self._large.release(attempt.destination)
            self._large_freed.set()

    def _check_lease(self) -> None:
        """The last look before a request is sent: a process that stood still may have lost its leases meanwhile."""
        if not self._pulse.may_send:
            raise LeaseExpiredError

    def _ended(self, task: asyncio.Task[None], attempt: Attempt) -> None:
        self._tasks.discard(task)
        self._slots.release(attempt.destination)
        self._claimer.slot_freed()
        if task.cancelled():
            self._forget([attempt])

    def _forget(self, attempts: Sequence[Attempt]) -> None:
        """They are settled, or left to others."""
        for attempt in attempts:
            self._held.pop((attempt.message.id, attempt.lease), None)
            self._claimer.gone(attempt.message.id)
