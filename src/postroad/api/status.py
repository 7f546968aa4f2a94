"""The status of messages: asked for, waited for, streamed, and reported by handlers."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import StreamingResponse

from postroad.api.auth import Authentication
from postroad.api.context import Context, json
from postroad.api.documents import errors, found, json_body, page, parameters
from postroad.api.event_stream import HEADERS, event, with_signs_of_life
from postroad.api.messages import known
from postroad.api.query import Query, document_of
from postroad.api.reports import FIELDS, Visitor, Visits, duration_of, said_in, status_view, take
from postroad.domain.callback import milliseconds
from postroad.domain.status import Phase
from postroad.domain.status_access import PARAMETER, Purpose, grant
from postroad.domain.tenant import Caller, TenantId
from postroad.errors import NotFound, UnknownParameter
from postroad.store import statuses
from postroad.store.deliveries import RESULT_BYTES

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
_LOG = page(lines={"type": "object", "properties": {"time": {"type": "integer"}, "text": _TEXT}})
_LINK = {
    "type": "object",
    "required": ["url", "expiresAt"],
    "properties": {"url": _TEXT, "expiresAt": {"type": "integer", "description": "Unix milliseconds"}},
}


def router(context: Context, auth: Authentication) -> APIRouter:
    """The routes under /v2/status."""
    routes = APIRouter(prefix="/v2/status", tags=["Status"])

    visits = Visits(context, auth)

    @routes.get(
        "/{message_id}",
        summary="Get the status of a message",
        responses={**found(_STATUS), **errors(400, 401, 403, 404, 503)},
        openapi_extra=parameters(
            wait="a duration such as 30s: answer at the end, or when it is over", access="from a status URL"
        ),
    )
    async def get(request: Request, message_id: str, visitor: Annotated[Visitor, Depends(visits.reader)]) -> Response:
        """Where a message stands, also after its end, as long as the log is kept."""
        query = Query.of(request)
        query.ignore(PARAMETER)
        wait = duration_of("wait", query.take("wait"), most=LONGEST_WAIT)
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
    async def stream(message_id: str, visitor: Annotated[Visitor, Depends(visits.reader)]) -> Response:
        """Server-sent events named `status`, one for each change; the stream ends with the message."""
        return await _stream(context, message_id, visitor)

    @routes.get(
        "/{message_id}/log",
        summary="Read what a handler has logged",
        responses={**found(_LOG), **errors(400, 401, 403, 404, 503)},
        openapi_extra=parameters(cursor="where the page before ended", access="from a status URL"),
    )
    async def log(request: Request, message_id: str, visitor: Annotated[Visitor, Depends(visits.reader)]) -> Response:
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
        openapi_extra={**parameters(access="from a status URL"), **json_body(FIELDS)},
    )
    async def report(
        request: Request, message_id: str, visitor: Annotated[Visitor, Depends(visits.reporter)]
    ) -> Response:
        """What a handler says while it works, to the URL in `Upstash-Status-Url`. Each report is a sign of life."""
        said = said_in(await document_of(request) or {})
        return json(await take(context, message_id, visitor, said))

    @routes.post(
        "/{message_id}/url",
        summary="Make a URL to read the status of a message",
        responses={**found(_LINK), **errors(400, 401, 403, 404, 413, 503)},
        openapi_extra=json_body(
            {"expiresIn": {"type": "string", "description": "a duration such as 1h", "example": "1h"}}
        ),
    )
    async def link(request: Request, message_id: str, caller: Annotated[Caller, Depends(auth.changer)]) -> Response:
        """A URL that shows the status of this message to whoever has it, in a browser too, until it expires."""
        return await _link(context, request, message_id, caller.tenant_id)

    return routes


async def _stream(context: Context, message_id: str, visitor: Visitor) -> Response:
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


async def _log(context: Context, message_id: str, visitor: Visitor, after: int) -> Response:
    identity = known(message_id)
    async with context.database.reading(visitor.tenant_id) as connection:
        if not await statuses.find(connection, visitor.tenant_id, [identity]):
            raise NotFound("message", message_id)
        lines, last = await statuses.log_lines(connection, visitor.tenant_id, identity, after=after, limit=LOG_LINES)
    content: dict[str, Any] = {"lines": [{"time": milliseconds(line.at), "text": line.text} for line in lines]}
    return json(content if len(lines) < LOG_LINES else {"cursor": str(last), **content})


async def _link(context: Context, request: Request, message_id: str, tenant_id: TenantId) -> Response:
    identity = known(message_id)
    document = await document_of(request) or {}
    lifetime = duration_of("expiresIn", document.pop("expiresIn", None), most=LONGEST_LINK) or DEFAULT_LINK
    for name in document:
        raise UnknownParameter(name)
    if await context.watch.find(tenant_id, identity) is None:
        raise NotFound("message", message_id)
    keys = await context.tenancy.keys(tenant_id)
    until_s = int(context.clock.now_s() + lifetime.total_seconds())
    access = grant(keys.current, identity, tenant_id, purpose=Purpose.READ, until_s=until_s)
    base = context.public_url or str(request.base_url).rstrip("/")
    return json({"url": f"{base}/v2/status/{message_id}?{PARAMETER}={access}", "expiresAt": until_s * 1000})


def _opened(answer: Response, visitor: Visitor) -> Response:
    """What a URL of ours shows may be read by any page; nothing else may."""
    answer.headers["Cache-Control"] = "no-store"
    if visitor.by_url:
        answer.headers["Access-Control-Allow-Origin"] = "*"
    return answer
