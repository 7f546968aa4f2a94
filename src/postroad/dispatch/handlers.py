"""Attempts that are in the hands of their handlers: acknowledged, given up, prolonged, or overdue."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from postroad.activity import Activity
from postroad.clock import Clock
from postroad.dispatch.deliver import Finished
from postroad.dispatch.settler import Settler
from postroad.domain.callback import failure_callback
from postroad.domain.duration import format_duration
from postroad.domain.ids import MessageId, message_text
from postroad.domain.message import Attempt
from postroad.domain.outcome import DELIVERED, FAILED, Failed, Outcome, Retry, outcome
from postroad.domain.reply import NoResponse, Reply, Response
from postroad.domain.status import Report
from postroad.domain.tenant import TenantId
from postroad.errors import KeyMissing, Unopenable
from postroad.publish import Publisher
from postroad.store import messages, statuses, waits
from postroad.store.deliveries import Ended, Settlement, release, settle
from postroad.store.engine import Connection, Database, DataRefused
from postroad.store.statuses import NewReport
from postroad.store.waits import HANDLERS, Held, Overdue
from postroad.telemetry import attempt_ended
from postroad.tenancy import Tenancy

_AT_ONCE = 100
_JSON = (("Content-Type", "application/json"),)

_log = logging.getLogger(__name__)


class Handlers:
    """Ends what handlers were left with. Works on every node, whoever made the attempt."""

    def __init__(
        self,
        *,
        database: Database,
        publisher: Publisher,
        tenancy: Tenancy,
        clock: Clock,
        expect: Callable[[timedelta], None],
        activity: Activity,
    ) -> None:
        self._database = database
        self._tenancy = tenancy
        self._clock = clock
        self._settler = Settler(
            database=database, publisher=publisher, gone=lambda _: None, expect=expect, activity=activity
        )

    async def acknowledge(
        self, tenant_id: TenantId, message_id: MessageId, lease: int | None, result: bytes | None
    ) -> bool:
        """The work is done, with a result in JSON; False if this attempt does not wait any more."""
        reply = Response(200, _JSON, result or b"")
        return await self._end(tenant_id, message_id, lease, reply, lambda _: DELIVERED, result=result)

    async def give_up(
        self,
        tenant_id: TenantId,
        message_id: MessageId,
        lease: int | None,
        reason: str,
        *,
        retry: bool,
        delay: timedelta | None,
    ) -> bool:
        """The work came to nothing: made again after the delay, unless no retry is left or none would help."""

        def follows(attempt: Attempt) -> Outcome:
            result = outcome(attempt, NoResponse(reason), self._clock.now()) if retry else FAILED
            return Retry(delay) if delay is not None and isinstance(result, Retry) else result

        return await self._end(tenant_id, message_id, lease, NoResponse(reason), follows)

    async def prolong(
        self, tenant_id: TenantId, message_id: MessageId, lease: int | None, span: timedelta | None
    ) -> datetime | None:
        """The work goes on: the new deadline, None if this attempt does not wait any more."""
        async with self._database.single() as connection:
            return await waits.prolong(connection, tenant_id, message_id, lease, span)

    async def expire(self) -> None:
        """Go on as after a failed attempt where a handler has been silent for too long."""
        last: Overdue | None = None
        stuck: list[str] = []
        while True:
            async with self._database.connection() as connection:
                overdue = await waits.overdue(connection, _AT_ONCE, after=last)
            for one in overdue:
                try:
                    await self._end(one.tenant_id, one.message_id, one.lease, None, self._after_silence)
                except (KeyMissing, DataRefused, LookupError) as error:
                    # Of this one alone, and perhaps only here: those behind it must not wait for it.
                    stuck.append(str(error))
            if len(overdue) < _AT_ONCE:
                break
            last = overdue[-1]
        if stuck:
            _log.error("%d open attempts are overdue and cannot be ended here, one because: %s", len(stuck), stuck[0])

    def _after_silence(self, attempt: Attempt) -> Outcome:
        return outcome(attempt, NoResponse(""), self._clock.now())

    async def _end(
        self,
        tenant_id: TenantId,
        message_id: MessageId,
        lease: int | None,
        reply: Reply | None,
        follows: Callable[[Attempt], Outcome],
        *,
        result: bytes | None = None,
    ) -> bool:
        """Settle an attempt; one without a reply is one that is overdue.

        A result is stored as a report as well, the last one, so that it counts more than those before it.
        """
        profile = await self._tenancy.profile(tenant_id)

        async def end(connection: Connection) -> tuple[Finished, bool] | None:
            held = await waits.take(connection, tenant_id, message_id, lease, overdue=reply is None)
            if held is None:
                return None
            said = NoResponse(f"no acknowledgement within {format_duration(held.span)}") if reply is None else reply
            finished = await self._finished(connection, held, said, follows, profile.failure_callback)
            if finished is None:
                await _bury(connection, held)
                return None
            _, reported = await self._settler.settle_within(connection, HANDLERS, [finished])
            if result is not None:
                report = NewReport(tenant_id, message_id, Report(result=result), held.lease)
                await statuses.add(connection, [report])
            return finished, reported

        ended = await self._database.repeated(end)
        if ended is None:
            return False
        finished, reported = ended
        attempt_ended(finished.attempt, finished.reply, finished.outcome, finished.duration, took_effect=True)
        self._settler.count(finished)
        self._settler.announce([finished], reported=reported)
        return True

    async def _finished(
        self,
        connection: Connection,
        held: Held,
        reply: Reply,
        follows: Callable[[Attempt], Outcome],
        default: str | None,
    ) -> Finished | None:
        found = await messages.fetch(connection, [held.message_id])
        if not found:
            return None
        if isinstance(found[0].message.unopened, KeyMissing):
            # A node that has the key knows where to report it.
            raise found[0].message.unopened
        attempt = Attempt(found[0], held.lease, held.retried, held.destination, held.is_gated)
        result = follows(attempt)
        report_failure_to = failure_callback(attempt.message, default) if isinstance(result, Failed) else None
        body = b""
        if attempt.message.options.callback is not None or report_failure_to is not None:
            body = await _body(connection, attempt)
        return Finished(attempt, reply, result, held.duration, body, report_failure_to)


async def _bury(connection: Connection, held: Held) -> None:
    """End a delivery whose message is gone, as where such a one is claimed: else it would be under way for ever."""
    reason = "the message is missing"
    _log.error("%s was left to its handler: %s", message_text(held.message_id), reason)
    gone = Settlement(held.message_id, held.lease, Ended.FAILED, held.duration, reason=reason)
    await release(connection, await settle(connection, HANDLERS, [gone]))


async def _body(connection: Connection, attempt: Attempt) -> bytes:
    if attempt.message.body is not None:
        return attempt.message.body
    try:
        return await messages.fetch_body(connection, attempt.message.id)
    except Unopenable as error:
        return str(error).encode()
