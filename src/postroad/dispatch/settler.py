"""Settles finished attempts by the batch, with their callbacks in the same transaction."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import assert_never

from postroad import faults
from postroad.activity import Activity
from postroad.dispatch.deliver import Finished
from postroad.domain.callback import callbacks
from postroad.domain.dead_letter import dlq_id
from postroad.domain.message import Attempt
from postroad.domain.outcome import Delivered, Failed, Retry, Waits, error_text
from postroad.domain.reply import NoResponse, Response
from postroad.errors import InvalidDestination, OutcomeUnknown, Unavailable
from postroad.faults import Point
from postroad.publish import Publisher
from postroad.store import waits
from postroad.store.deliveries import RESULT_BYTES, Ended, Settled, Settlement, lock_queues, release, settle
from postroad.store.engine import Connection, Database, DataRefused, TryAgain
from postroad.store.messages import NewMessage, header_text
from postroad.telemetry import attempt_ended

BATCH = 500
BATCH_BYTES = 8 * 1024 * 1024
WAITING = 5_000
WAITING_BYTES = 128 * 1024 * 1024
"""Above this no new attempts are started until the database has caught up."""

_LONGEST_PAUSE_S = 1.0
_log = logging.getLogger(__name__)


class Settler:
    """Takes finished attempts and makes them history. While one batch commits, the next one gathers."""

    def __init__(
        self,
        *,
        database: Database,
        publisher: Publisher,
        gone: Callable[[Sequence[Attempt]], None],
        expect: Callable[[timedelta], None],
        activity: Activity,
    ) -> None:
        self._database = database
        self._publisher = publisher
        self._activity = activity
        self._gone = gone
        self._expect = expect
        self._finished: deque[tuple[Finished, int]] = deque()
        self._bytes = 0
        self._arrived = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def add(self, finished: Finished) -> None:
        """Have an attempt settled, soon."""
        size = _size(finished)
        self._finished.append((finished, size))
        self._bytes += size
        self._arrived.set()
        self._idle.clear()

    @property
    def is_full(self) -> bool:
        """Whether so much waits to be settled that nothing more should be attempted."""
        return len(self._finished) > WAITING or self._bytes > WAITING_BYTES

    async def settled(self) -> None:
        """Until nothing is left to settle."""
        await self._idle.wait()

    def drop(self) -> None:
        """Forget what waits: its leases are lost, others make these attempts again."""
        self._finished.clear()
        self._bytes = 0
        self._arrived.clear()
        self._idle.set()

    async def run(self, dispatcher_id: int) -> None:
        """Settle for this dispatcher, batch after batch, until cancelled."""
        while True:
            await self._arrived.wait()
            batch = self._take()
            await self._settle_until_known(dispatcher_id, batch)
            self._gone([finished.attempt for finished in batch])
            if not self._finished:
                self._idle.set()

    def _take(self) -> list[Finished]:
        batch: list[Finished] = []
        total = 0
        while self._finished and len(batch) < BATCH and (not batch or total + self._finished[0][1] <= BATCH_BYTES):
            finished, size = self._finished.popleft()
            batch.append(finished)
            total += size
        self._bytes -= total
        if not self._finished:
            self._arrived.clear()
        return batch

    async def _settle_until_known(self, dispatcher_id: int, batch: list[Finished], refusals: int = 0) -> None:
        """Repeat until the database has answered. Rows that do not come back were settled or lost: both final."""
        pause = 0.02
        is_repeated = False
        while True:
            try:
                await self._settle(dispatcher_id, batch, silent=refusals > 1, is_repeated=is_repeated)
            except DataRefused as error:
                await self._settle_apart(dispatcher_id, batch, error, refusals)
                return
            except (TryAgain, Unavailable) as error:
                _log.debug("settling %d attempts waits for the database: %s", len(batch), error)
                is_repeated = is_repeated or isinstance(error, OutcomeUnknown)
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)
            else:
                return

    async def _settle_apart(self, dispatcher_id: int, batch: list[Finished], error: DataRefused, refusals: int) -> None:
        """Halve a batch that the database refuses, until the culprit stands alone.

        That one is settled without its response, then without its callbacks; if even this is refused, it is left to the
        next beat, which gives it back.
        """
        if len(batch) > 1:
            half = len(batch) // 2
            await self._settle_until_known(dispatcher_id, batch[:half], refusals)
            await self._settle_until_known(dispatcher_id, batch[half:], refusals)
            return
        [finished] = batch
        _log.error("the outcome of the attempt at %s is refused: %s", finished.attempt.message.id, error)
        if refusals < 2:
            bare = replace(finished, reply=NoResponse("the response could not be stored"))
            await self._settle_until_known(dispatcher_id, [bare], refusals + 1)

    async def settle_within(
        self, connection: Connection, dispatcher_id: int, batch: Sequence[Finished], *, silent: bool = False
    ) -> tuple[list[Settled], bool]:
        """Settle in a transaction of the caller's, with callbacks unless `silent`, and let go what waited behind.

        Gives what took effect, and whether there were callbacks.
        """
        settled = await settle(connection, dispatcher_id, [_settlement(finished) for finished in batch])
        await lock_queues(connection, settled)
        reported = not silent and await self._report(connection, batch, settled)
        await release(connection, settled)
        return settled, reported

    def announce(self, batch: Sequence[Finished], *, reported: bool) -> None:
        """Say when something falls due that follows from what was settled."""
        delays = [finished.outcome.delay for finished in batch if isinstance(finished.outcome, Retry)]
        if reported or any(finished.attempt.is_gated for finished in batch):
            delays.append(timedelta(0))
        if delays:
            self._expect(min(delays))

    def count(self, finished: Finished) -> None:
        """Count an attempt whose settlement took effect."""
        message = finished.attempt.message
        self._activity.ended(message.tenant_id, message.url, finished.outcome, finished.duration, finished.late)

    async def _settle(self, dispatcher_id: int, batch: list[Finished], *, silent: bool, is_repeated: bool) -> None:
        if any(isinstance(finished.outcome, Waits) for finished in batch):
            batch = await self._leave_to_handlers(dispatcher_id, batch)
            if not batch:
                return
        if any(finished.attempt.is_gated or _is_reported(finished) for finished in batch):
            async with self._database.transaction() as connection:
                settled, reported = await self.settle_within(connection, dispatcher_id, batch, silent=silent)
                faults.reached(Point.BEFORE_SETTLE_COMMIT)
        else:
            async with self._database.single() as connection:
                faults.reached(Point.BEFORE_SETTLE_COMMIT)
                settled = await settle(connection, dispatcher_id, [_settlement(finished) for finished in batch])
            reported = False
            if any(one.flow_key_id is not None for one in settled):
                await self._wake_keys(settled)
        faults.reached(Point.AFTER_SETTLE_COMMIT)
        took_effect = {one.id for one in settled}
        for finished in batch:
            has_effect = finished.attempt.message.id in took_effect
            if has_effect or not is_repeated:
                attempt_ended(
                    finished.attempt, finished.reply, finished.outcome, finished.duration, took_effect=has_effect
                )
            if has_effect:
                self.count(finished)
        if is_repeated and len(took_effect) < len(batch):
            _log.info("%d attempts had been settled by a commit without an answer", len(batch) - len(took_effect))
        self.announce(batch, reported=reported)

    async def _leave_to_handlers(self, dispatcher_id: int, batch: list[Finished]) -> list[Finished]:
        """Store which attempts stay open, under nobody's lease; gives the others."""
        left = [
            (finished.attempt.message.id, finished.attempt.lease, finished.outcome.span)
            for finished in batch
            if isinstance(finished.outcome, Waits)
        ]
        async with self._database.single() as connection:
            await waits.begin(connection, dispatcher_id, left)
        return [finished for finished in batch if not isinstance(finished.outcome, Waits)]

    async def _wake_keys(self, settled: Sequence[Settled]) -> None:
        """Of deliveries that came under a key while they were under way. If it fails, a chore finds the keys."""
        try:
            async with self._database.transaction() as connection:
                await release(connection, settled)
        except (TryAgain, Unavailable) as error:
            _log.warning("flow-control keys are woken later: %s", error)

    async def _report(self, connection: Connection, batch: Sequence[Finished], settled: Sequence[Settled]) -> bool:
        """Publish the callbacks of exactly those settlements that took effect."""
        by_id = {one.id: one for one in settled}
        group: list[NewMessage] = []
        for finished in batch:
            one = by_id.get(finished.attempt.message.id)
            if one is not None and not one.canceled:
                group += self._reports(finished, one)
        if group:
            await self._publisher.store(connection, group)
        return bool(group)

    def _reports(self, finished: Finished, settled: Settled) -> list[NewMessage]:
        letter = None
        if settled.dead_letter_id is not None and settled.failed_at is not None:
            letter = dlq_id(settled.dead_letter_id, settled.failed_at)
        message = finished.attempt.message
        reports: list[NewMessage] = []
        for publication in callbacks(
            finished.attempt,
            finished.reply,
            failure_callback=finished.failure_callback,
            body=finished.body,
            dlq_id=letter,
        ):
            try:
                reports.append(
                    self._publisher.unvetted(message.tenant_id, publication, source_id=message.id, place=settled.place)
                )
            except InvalidDestination as error:
                # It was valid when the source was published, so only a newer version's rules get here.
                _log.warning("a callback of %s is dropped: %s", message.id, error)
        return reports


def _size(finished: Finished) -> int:
    """About how many bytes the settlement sends to the database; a callback holds both bodies in base64."""
    answer = len(finished.reply.body) if isinstance(finished.reply, Response) else 0
    if not _is_reported(finished):
        return answer
    reports = (finished.attempt.message.options.callback is not None) + (finished.failure_callback is not None)
    return answer + reports * 4 * (answer + len(finished.body)) // 3


def _is_reported(finished: Finished) -> bool:
    return finished.attempt.message.options.callback is not None or finished.failure_callback is not None


def _settlement(finished: Finished) -> Settlement:
    """What is stored of an attempt: of one that failed also the response, or the reason why there is none.

    Of one that went well the body of the response, which is its result, and of that the beginning.
    """
    attempt, reply, outcome = finished.attempt, finished.reply, finished.outcome
    status, reason, header, body = None, None, None, None
    if isinstance(reply, Response):
        status = reply.status
        body = reply.body[:RESULT_BYTES] or None
    if not isinstance(outcome, Delivered):
        reason = error_text(reply).replace("\0", "")
        if isinstance(reply, Response):
            header, body = header_text(reply.headers), reply.body
        elif isinstance(reply, NoResponse):
            pass
        else:
            assert_never(reply)
    match outcome:
        case Delivered():
            ended, delay = Ended.DELIVERED, None
        case Retry(delay):
            ended = Ended.RETRY
        case Failed():
            ended, delay = Ended.FAILED, None
        case Waits():
            raise ValueError("an attempt that stays open has no end")
        case _:
            assert_never(outcome)
    tenant_id = attempt.message.tenant_id
    return Settlement(
        attempt.message.id, attempt.lease, ended, finished.duration, delay, status, reason, header, body, tenant_id
    )
