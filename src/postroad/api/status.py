"""The status of messages: asked for, waited for, streamed, and reported by handlers."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import StreamingResponse

from postroad.api.auth import Authentication, may_change, may_read
from postroad.api.context import Context, json
from postroad.api.documents import errors, found, json_body, page, parameters
from postroad.api.event_stream import HEADERS, event, with_signs_of_life
from postroad.api.messages import known
from postroad.api.query import Query, document_of
from postroad.domain.callback import milliseconds
from postroad.domain.duration import format_duration, parse_duration
from postroad.domain.ids import MessageId, message_text
from postroad.domain.outcome import LONGEST_SPAN
from postroad.domain.redaction import redacted_body
from postroad.domain.status import MOST_LOG_CHARACTERS, MOST_NOTE_CHARACTERS, Phase, Report, Status
from postroad.domain.status_access import PARAMETER, Purpose, grant, parse_access
from postroad.domain.tenant import Access, Caller, TenantId
from postroad.errors import InvalidField, InvalidValue, NotFound, Over, Unauthenticated, UnknownParameter
from postroad.store import statuses
from postroad.store.deliveries import RESULT_BYTES
from postroad.store.statuses import NewReport

LOG_LINES = 100
LONGEST_WAIT = timedelta(minutes=10)
LONGEST_LINK = timedelta(days=30)
DEFAULT_LINK = timedelta(hours=1)

_TEXT, _NUMBER = {"type": "string"}, {"type": "number"}
_STATUS = {
    "type": "object",
    "required": ["id", "status", "attempts", "createdAt", "updatedAt"],
    "properties": {
        "id": _TEXT,
        "status": {"type": "string", "enum": [phase.value for phase in Phase]},
        "progress": {"type": "number", "minimum": 0, "maximum": 100},
        "note": _TEXT,
        "result": {"description": "what the handler reported or answered: JSON if it is such, else text"},
        "resultCut": {"type": "boolean", "description": f"only the first {RESULT_BYTES} bytes were kept"},
        "error": {"type": "string", "description": "why the last attempt came to nothing"},
        "attempts": {"type": "integer"},
        "createdAt": {"type": "integer", "description": "Unix milliseconds"},
        "updatedAt": {"type": "integer", "description": "Unix milliseconds"},
    },
}
_REPORT = {
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
_LOG = page(lines={"type": "object", "properties": {"time": {"type": "integer"}, "text": _TEXT}})
_LINK = {
    "type": "object",
    "required": ["url", "expiresAt"],
    "properties": {"url": _TEXT, "expiresAt": {"type": "integer", "description": "Unix milliseconds"}},
}


@dataclass(frozen=True, slots=True)
class _Visitor:
    """Whoever asks about one message; `lease` is that of the attempt whose URL it came with."""

    tenant_id: TenantId
    lease: int | None = None
    by_url: bool = False


@dataclass(frozen=True, slots=True)
class _Said:
    """What a handler said in one request."""

    report: Report
    ack: bool = False
    nack: str | None = None
    retry: bool = True
    delay: timedelta | None = None
    heartbeat: bool = False
    span: timedelta | None = None


class _Visits:
    """Dependencies that give who asks about a message: with a token, or with a URL of ours."""

    def __init__(self, context: Context, auth: Authentication) -> None:
        self._context = context
        self._auth = auth

    async def reader(self, request: Request, message_id: str) -> _Visitor:
        """Whoever may see the status."""
        visitor = await self._by_url(request, known(message_id), (Purpose.READ, Purpose.REPORT))
        return visitor or _Visitor(may_read(await self._auth.caller(request)).tenant_id)

    async def reporter(self, request: Request, message_id: str) -> _Visitor:
        """Whoever may report."""
        visitor = await self._by_url(request, known(message_id), (Purpose.REPORT,))
        return visitor or _Visitor(may_change(await self._auth.caller(request)).tenant_id)

    async def _by_url(self, request: Request, message_id: MessageId, purposes: tuple[Purpose, ...]) -> _Visitor | None:
        """Whoever comes with a URL of ours; None without one. Raises `Unauthenticated` for a forged or old one."""
        context = self._context
        text = request.query_params.get(PARAMETER)
        if text is None:
            return None
        access = parse_access(text)
        if access is None or access.purpose not in purposes:
            raise Unauthenticated
        scope = request.scope
        profile = await context.strangers.profile(access.tenant_id, text, scope["client"], scope["headers"])
        if not access.is_proven((profile.keys.current, profile.keys.next), message_id, context.clock.now_s()):
            raise Unauthenticated
        context.call_limit.count(Caller(access.tenant_id, Access.READ_ONLY))
        return _Visitor(access.tenant_id, access.lease or None, by_url=True)


def router(context: Context, auth: Authentication) -> APIRouter:
    """The routes under /v2/status."""
    routes = APIRouter(prefix="/v2/status", tags=["Status"])

    visits = _Visits(context, auth)

    @routes.get(
        "/{message_id}",
        summary="Get the status of a message",
        responses={**found(_STATUS), **errors(400, 401, 403, 404, 503)},
        openapi_extra=parameters(
            wait="a duration such as 30s: answer at the end, or when it is over", access="from a status URL"
        ),
    )
    async def get(request: Request, message_id: str, visitor: Annotated[_Visitor, Depends(visits.reader)]) -> Response:
        """Where a message stands, also after its end, as long as the log is kept."""
        query = Query.of(request)
        query.ignore(PARAMETER)
        wait = _duration("wait", query.take("wait"), most=LONGEST_WAIT)
        query.end()
        identity = known(message_id)
        if wait is None:
            status = await context.watch.find(visitor.tenant_id, identity)
        else:
            status = await context.watch.end(visitor.tenant_id, identity, within=wait)
        if status is None:
            raise NotFound("message", message_id)
        return _opened(json(status_view(status)), visitor)

    @routes.get(
        "/{message_id}/stream",
        summary="Follow the status of a message",
        response_class=StreamingResponse,
        responses={200: {"description": "OK", "content": {"text/event-stream": {}}}, **errors(400, 401, 403, 404, 503)},
        openapi_extra=parameters(access="from a status URL"),
    )
    async def stream(message_id: str, visitor: Annotated[_Visitor, Depends(visits.reader)]) -> Response:
        """Server-sent events named `status`, one for each change; the stream ends with the message."""
        return await _stream(context, message_id, visitor)

    @routes.get(
        "/{message_id}/log",
        summary="Read what a handler has logged",
        responses={**found(_LOG), **errors(400, 401, 403, 404, 503)},
        openapi_extra=parameters(cursor="where the page before ended", access="from a status URL"),
    )
    async def log(request: Request, message_id: str, visitor: Annotated[_Visitor, Depends(visits.reader)]) -> Response:
        """The lines that the handler of a message has reported, the oldest first."""
        query = Query.of(request)
        query.ignore(PARAMETER)
        after = query.take_int("cursor", default=0, least=0, most=2**62)
        query.end()
        return _opened(await _log(context, message_id, visitor, after), visitor)

    @routes.post(
        "/{message_id}",
        summary="Report on a message",
        responses={**found(_STATUS), **errors(400, 401, 403, 404, 409, 413, 503)},
        openapi_extra={**parameters(access="from a status URL"), **json_body(_REPORT)},
    )
    async def report(
        request: Request, message_id: str, visitor: Annotated[_Visitor, Depends(visits.reporter)]
    ) -> Response:
        """What a handler says while it works, to the URL in `Upstash-Status-Url`. Each report is a sign of life."""
        said = _said(await document_of(request) or {})
        return await _report(context, message_id, visitor, said)

    @routes.post(
        "/{message_id}/url",
        summary="Make a URL to read the status of a message",
        responses={**found(_LINK), **errors(400, 401, 403, 404, 413, 503)},
        openapi_extra=json_body(
            {"expiresIn": {"type": "string", "description": "a duration such as 1h", "example": "1h"}}
        ),
    )
    async def link(request: Request, message_id: str, caller: Annotated[Caller, Depends(auth.reader)]) -> Response:
        """A URL that shows the status of this message to whoever has it, in a browser too, until it expires."""
        return await _link(context, request, message_id, caller.tenant_id)

    return routes


async def _stream(context: Context, message_id: str, visitor: _Visitor) -> Response:
    changes = context.watch.follow(visitor.tenant_id, known(message_id))
    first = await anext(changes)
    if first is None:
        raise NotFound("message", message_id)

    async def events() -> AsyncGenerator[bytes, None]:
        async with aclosing(changes):
            yield event("status", status_view(first))
            async for status in changes:
                if status is not None:
                    yield event("status", status_view(status))

    return _opened(StreamingResponse(with_signs_of_life(events()), headers=HEADERS), visitor)


async def _log(context: Context, message_id: str, visitor: _Visitor, after: int) -> Response:
    identity = known(message_id)
    async with context.database.reading(visitor.tenant_id) as connection:
        if not await statuses.find(connection, visitor.tenant_id, [identity]):
            raise NotFound("message", message_id)
        lines, last = await statuses.log_lines(connection, visitor.tenant_id, identity, after=after, limit=LOG_LINES)
    content: dict[str, Any] = {"lines": [{"time": milliseconds(line.at), "text": line.text} for line in lines]}
    return json(content if len(lines) < LOG_LINES else {"cursor": str(last), **content})


async def _report(context: Context, message_id: str, visitor: _Visitor, said: _Said) -> Response:
    identity = known(message_id)
    status = await context.watch.find(visitor.tenant_id, identity)
    if status is None:
        raise NotFound("message", message_id)
    # The result of an acknowledgement is that of the attempt, and no report.
    report = replace(said.report, result=None) if said.ack else said.report
    if report != Report():
        await context.reporting.add(NewReport(visitor.tenant_id, identity, report))
    if said.ack or said.nack is not None:
        await _end(context, visitor, status, said)
        status = await context.watch.find(visitor.tenant_id, identity) or status
    else:
        prolonged = await context.handlers.prolong(visitor.tenant_id, identity, visitor.lease, said.span)
        if prolonged is None and said.heartbeat:
            raise _not_waiting(status)
        status = status.after(report)
    return json(status_view(status))


async def _link(context: Context, request: Request, message_id: str, tenant_id: TenantId) -> Response:
    identity = known(message_id)
    document = await document_of(request) or {}
    lifetime = _duration("expiresIn", document.pop("expiresIn", None), most=LONGEST_LINK) or DEFAULT_LINK
    for name in document:
        raise UnknownParameter(name)
    if await context.watch.find(tenant_id, identity) is None:
        raise NotFound("message", message_id)
    keys = await context.tenancy.keys(tenant_id)
    until_s = int(context.clock.now_s() + lifetime.total_seconds())
    access = grant(keys.current, identity, tenant_id, purpose=Purpose.READ, until_s=until_s)
    base = context.public_url or str(request.base_url).rstrip("/")
    return json({"url": f"{base}/v2/status/{message_id}?{PARAMETER}={access}", "expiresAt": until_s * 1000})


async def _end(context: Context, visitor: _Visitor, status: Status, said: _Said) -> None:
    whose = (visitor.tenant_id, status.id, visitor.lease)
    if said.ack:
        done = await context.handlers.acknowledge(*whose, said.report.result)
    else:
        done = await context.handlers.give_up(*whose, said.nack or "", retry=said.retry, delay=said.delay)
    if not done and not (said.ack and status.phase is Phase.COMPLETED):
        raise _not_waiting(status)


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
    try:
        return orjson.loads(result)
    except orjson.JSONDecodeError:
        return result.decode(errors="replace")


def _opened(answer: Response, visitor: _Visitor) -> Response:
    """What a URL of ours shows may be read by any page; nothing else may."""
    answer.headers["Cache-Control"] = "no-store"
    if visitor.by_url:
        answer.headers["Access-Control-Allow-Origin"] = "*"
    return answer


def _said(document: dict[str, Any]) -> _Said:
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
    delay = _duration("delay", given.pop("delay", None), most=timedelta(days=366))
    beat = given.pop("heartbeat", None)
    for name in given:
        raise UnknownParameter(name)
    if ack and nack is not None:
        raise InvalidField("nack", nack, "nothing beside ack")
    span = None if beat in (None, True, False) else _duration("heartbeat", beat, most=LONGEST_SPAN)
    return _Said(report, ack, nack, retry, delay, heartbeat=bool(beat), span=span)


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


def _duration(name: str, value: object, *, most: timedelta) -> timedelta | None:
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
