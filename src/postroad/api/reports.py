"""What handlers report on their messages: who may, what it means, and what becomes of it."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from dataclasses import dataclass, replace
from datetime import timedelta
from time import monotonic
from typing import Any
from urllib.parse import parse_qs

import orjson
from fastapi import Request

from postroad.api.auth import Authentication, may_change, may_read
from postroad.api.context import Context
from postroad.api.json_text import parsed
from postroad.api.messages import known
from postroad.api.problems import Answer
from postroad.domain.callback import milliseconds
from postroad.domain.duration import format_duration, parse_duration
from postroad.domain.ids import message_text, parse_message_id
from postroad.domain.outcome import LONGEST_SPAN
from postroad.domain.redaction import redacted_body
from postroad.domain.status import MOST_LOG_CHARACTERS, MOST_NOTE_CHARACTERS, Phase, Report, Status
from postroad.domain.status_access import PARAMETER, Purpose, parse_access
from postroad.domain.tenant import Access, Caller, TenantId
from postroad.errors import InvalidField, InvalidValue, NotFound, Over, Unauthenticated, UnknownParameter
from postroad.store.deliveries import RESULT_BYTES
from postroad.store.statuses import NewReport

MOST_BODY_BYTES = 256 * 1024

_OVERTAKEN_S, _LOOK_EVERY_S = 3.0, 0.05

FIELDS = {
    "progress": {"type": "number", "minimum": 0, "maximum": 100},
    "note": {"type": "string", "maxLength": MOST_NOTE_CHARACTERS},
    "log": {"type": "string", "maxLength": MOST_LOG_CHARACTERS, "description": "a line, or several, for the log"},
    "result": {"description": "any JSON"},
    "ack": {"type": "boolean", "description": "the work is done, of an attempt that was answered with Upstash-Ack"},
    "nack": {"type": "string", "description": "why the work came to nothing"},
    "retry": {"type": "boolean", "description": "with nack: false if no retry would help"},
    "delay": {"type": "string", "description": "with nack: how long to wait before the retry"},
    "heartbeat": {"description": "true, or a duration: the work goes on, for so long without another word"},
}
"""What a report may say."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """Whoever asks about one message; `lease` is that of the attempt whose URL it came with."""

    tenant_id: TenantId
    lease: int | None = None
    by_url: bool = False


@dataclass(frozen=True, slots=True)
class Said:
    """What a handler said in one request."""

    report: Report
    ack: bool = False
    nack: str | None = None
    retry: bool = True
    delay: timedelta | None = None
    heartbeat: bool = False
    span: timedelta | None = None

    @property
    def ends(self) -> bool:
        """Whether the attempt ends with it."""
        return self.ack or self.nack is not None


class Visits:
    """Dependencies that give who asks about a message: with a token, or with a URL of ours."""

    def __init__(self, context: Context, auth: Authentication) -> None:
        self._context = context
        self._auth = auth

    async def reader(self, request: Request, message_id: str) -> Visitor:
        """Whoever may see the status."""
        visitor = await self._by_url(request, message_id, (Purpose.READ, Purpose.REPORT))
        return visitor or Visitor(may_read(await self._auth.caller(request)).tenant_id)

    async def reporter(self, request: Request, message_id: str) -> Visitor:
        """Whoever may report."""
        visitor = await self._by_url(request, message_id, (Purpose.REPORT,))
        return visitor or Visitor(may_change(await self._auth.caller(request)).tenant_id)

    async def _by_url(self, request: Request, message_id: str, purposes: tuple[Purpose, ...]) -> Visitor | None:
        text = request.query_params.get(PARAMETER)
        if text is None:
            return None
        visitor = await visitor_with(self._context, text, message_id, purposes, request.scope)
        self._context.call_limit.count(Caller(visitor.tenant_id, Access.READ_ONLY))
        return visitor


async def visitor_with(
    context: Context,
    text: str,
    message_id: str,
    purposes: tuple[Purpose, ...],
    scope: MutableMapping[str, Any],
) -> Visitor:
    """Whoever comes with a URL of ours. Raises `Unauthenticated` for a forged or an old one."""
    access, identity = parse_access(text), parse_message_id(message_id)
    if access is None or identity is None or access.purpose not in purposes:
        raise Unauthenticated
    profile = await context.strangers.profile(access.tenant_id, text, scope["client"], scope["headers"])
    if not access.is_proven((profile.keys.current, profile.keys.next), identity, context.clock.now_s()):
        raise Unauthenticated
    return Visitor(access.tenant_id, access.lease or None, by_url=True)


async def take_at_door(context: Context, scope: MutableMapping[str, Any], name: str, body: bytes) -> Answer:
    """A report to a URL of ours, whose signature says whose message it is: nothing has to be looked up for it."""
    query = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    visitor = await visitor_with(context, query.get(PARAMETER, [""])[-1], name, (Purpose.REPORT,), scope)
    document = parsed(body, "a JSON object") if body.strip() else {}
    if not isinstance(document, dict):
        raise InvalidField("body", body[:50].decode("utf-8", "replace"), "a JSON object")
    said = said_in(document)
    if said.ends or said.heartbeat or said.report == Report():
        return Answer(200, orjson.dumps(await take(context, name, visitor, said)))
    await context.reporting.add(NewReport(visitor.tenant_id, known(name), said.report, visitor.lease))
    return Answer(200, orjson.dumps({"id": name}))


async def take(context: Context, message_id: str, visitor: Visitor, said: Said) -> dict[str, Any]:
    """Store what was said, and do what it asks for; gives the status after it."""
    identity = known(message_id)
    status = await context.watch.find(visitor.tenant_id, identity)
    if status is None:
        raise NotFound("message", message_id)
    # The result of an acknowledgement is that of the attempt, and no report.
    report = replace(said.report, result=None) if said.ack else said.report
    if report != Report():
        await context.reporting.add(NewReport(visitor.tenant_id, identity, report, visitor.lease))
    if said.ends or said.heartbeat:
        await _do(context, visitor, status, said)
    return status_view(await context.watch.find(visitor.tenant_id, identity) or status)


async def _do(context: Context, visitor: Visitor, status: Status, said: Said) -> None:
    """End or prolong the attempt. A worker may be faster than the answer that leaves the work to it is stored."""
    whose = (visitor.tenant_id, status.id, visitor.lease)
    patience = monotonic() + _OVERTAKEN_S
    while True:
        if said.ack:
            done = await context.handlers.acknowledge(*whose, said.report.result)
        elif said.nack is not None:
            done = await context.handlers.give_up(*whose, said.nack, retry=said.retry, delay=said.delay)
        else:
            done = await context.handlers.prolong(*whose, said.span) is not None
        if done or (said.ack and status.phase is Phase.COMPLETED):
            return
        status = await context.watch.find(visitor.tenant_id, status.id) or status
        if status.phase is not Phase.PROCESSING or monotonic() > patience:
            raise _not_waiting(status)
        await asyncio.sleep(_LOOK_EVERY_S)


def _not_waiting(status: Status) -> Over:
    return Over(
        f"this attempt does not wait for an acknowledgement, the message is {status.phase}: it does after an answer "
        "of 202 with Upstash-Ack: wait, until it is acknowledged or its time is over"
    )


def status_view(status: Status) -> dict[str, Any]:
    """A status. What has no value is absent, never null."""
    view: dict[str, Any] = {"id": message_text(status.id), "status": status.phase.value}
    if status.progress is not None:
        view["progress"] = round(status.progress, 2)
    if status.note is not None:
        view["note"] = status.note
    if status.result is not None:
        view["result"] = redacted_body(status.result) if status.hides_body else _value(status.result)
        if status.is_cut:
            view["resultCut"] = True
    if status.error is not None:
        view["error"] = status.error
    return view | {
        "attempts": status.attempts,
        "createdAt": milliseconds(status.created_at),
        "updatedAt": milliseconds(status.updated_at),
    }


def _value(result: bytes) -> Any:
    """JSON as deep as we read it anywhere: what is deeper could be read here, and not be written again."""
    try:
        return parsed(result, "JSON")
    except InvalidField:
        return result.decode(errors="replace")


def said_in(document: dict[str, Any]) -> Said:
    """What a request says. Raises `InvalidField` or `UnknownParameter`."""
    given = dict(document)
    report = Report(
        progress=_progress(given.pop("progress", None)),
        note=_text(given, "note", MOST_NOTE_CHARACTERS),
        log=_text(given, "log", MOST_LOG_CHARACTERS),
        result=_result(given),
    )
    ack, retry = _flag(given, "ack"), _flag(given, "retry", default=True)
    nack = _text(given, "nack", MOST_NOTE_CHARACTERS)
    delay = duration_of("delay", given.pop("delay", None), most=timedelta(days=366))
    beat = given.pop("heartbeat", None)
    for name in given:
        raise UnknownParameter(name)
    if ack and nack is not None:
        raise InvalidField("nack", nack, "nothing beside ack")
    span = None if beat in (None, True, False) else duration_of("heartbeat", beat, most=LONGEST_SPAN)
    return Said(report, ack, nack, retry, delay, heartbeat=bool(beat), span=span)


def _progress(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:
        raise InvalidField("progress", _shown(value), "a number from 0 to 100")
    return float(value)


def _text(given: dict[str, Any], name: str, most: int) -> str | None:
    value = given.pop(name, None)
    if value is not None and (not isinstance(value, str) or len(value) > most):
        raise InvalidField(name, _shown(value), f"a string of at most {most} characters")
    return value


def _result(given: dict[str, Any]) -> bytes | None:
    if "result" not in given:
        return None
    result = orjson.dumps(given.pop("result"))
    if len(result) > RESULT_BYTES:
        raise InvalidField("result", f"{len(result)} bytes", f"at most {RESULT_BYTES} bytes of JSON")
    return result


def _flag(given: dict[str, Any], name: str, *, default: bool = False) -> bool:
    value = given.pop(name, default)
    if not isinstance(value, bool):
        raise InvalidField(name, _shown(value), "true or false")
    return value


def duration_of(name: str, value: object, *, most: timedelta) -> timedelta | None:
    """The duration in a field, None if there is none. Raises `InvalidField`."""
    if value is None or value == "":
        return None
    text = value if isinstance(value, str) else _shown(value)
    try:
        duration = parse_duration(text, bare_seconds=True)
    except InvalidValue as error:
        raise InvalidField(name, error.value, error.expected) from None
    if duration > most:
        raise InvalidField(name, text, f"at most {format_duration(most)}")
    return duration


def _shown(value: object) -> str:
    return orjson.dumps(value).decode()[:100]
