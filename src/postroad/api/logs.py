"""The log of events, under both of its paths."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import StreamingResponse

from postroad.api.auth import Authentication
from postroad.api.context import Context, json
from postroad.api.documents import errors, found, parameters
from postroad.api.documents import page as page_of
from postroad.api.event_stream import HEADERS, event, with_signs_of_life
from postroad.api.query import FILTERS, Query, instant_of
from postroad.api.schemas import EVENT
from postroad.api.wire import cursor_of, event_view, position_of
from postroad.domain.ids import MessageId, message_text
from postroad.domain.log import IN_PROGRESS, MOST_BODY_BYTES, Event, History, Position, State
from postroad.domain.tenant import Caller
from postroad.errors import InvalidField
from postroad.store import log_events
from postroad.store.log_searches import Search

DEFAULT = 1000
"""Documented as 100, but clients count on seeing at least 400 events without asking for more."""
MOST = 1000

DEFAULT_MESSAGES = 10
MOST_MESSAGES = 100
"""Each comes with up to 1,000 events."""

_FIRST_ID = MessageId(UUID(int=0))
_LAST_ID = MessageId(UUID(int=2**128 - 1))


_CHOICE = {
    **{name: f"filter: {text}" for name, text in FILTERS.items()},
    "messageId": "filter: id of a message",
    "state": "filter: states of events; IN_PROGRESS means ACTIVE, RETRY and ERROR",
    "cursor": "where the page before ended, or a Unix time in milliseconds",
    "count": "at most so many: up to 1,000 events, or 100 messages",
    "order": "latestFirst or earliestFirst",
    "trimBody": "true: no bodies; a number: at most so many bytes of each",
    "groupBy": "messageId: messages, each with its events",
}
_STREAM_CHOICE = {
    **{name: text for name, text in _CHOICE.items() if name not in ("cursor", "count", "order", "groupBy")},
    "lastEventId": "go on behind this event; a header Last-Event-ID counts more",
}
_HISTORY = {
    "type": "object",
    "properties": {"messageId": {"type": "string"}, "events": {"type": "array", "items": EVENT}},
    "required": ["messageId", "events"],
}


def router(context: Context, auth: Authentication) -> APIRouter:
    """/v2/logs and /v2/events."""
    routes = APIRouter(prefix="/v2", tags=["Logs"])

    @routes.get(
        "/events",
        summary="List events",
        responses={**found(_pages("events")), **errors(400, 401, 403, 503)},
        openapi_extra=parameters(**_CHOICE),
    )
    async def events(request: Request, caller: Annotated[Caller, Depends(auth.reader)]) -> Response:
        """The events of messages, the newest first; with `groupBy=messageId` messages with their events.

        Of each body the first `trimBody` bytes are shown, none when it is true, and at most 64 KiB. A page is shorter
        than `count` when its bodies are large; only a page without `cursor` is the last. This is the path of the SDKs.
        """
        return json(await _page(context, request, caller, "events"))

    @routes.get(
        "/logs",
        summary="List log entries",
        responses={**found(_pages("logs", "events")), **errors(400, 401, 403, 503)},
        openapi_extra=parameters(**_CHOICE),
    )
    async def logs(request: Request, caller: Annotated[Caller, Depends(auth.reader)]) -> Response:
        """The same under the documented path; entries go by two names because documents and clients differ."""
        return json(await _page(context, request, caller, "logs", "events"))

    @routes.get(
        "/events/stream",
        summary="Follow the events",
        response_class=StreamingResponse,
        responses={200: {"description": "OK", "content": {"text/event-stream": {}}}, **errors(400, 401, 403, 503)},
        openapi_extra=parameters(**_STREAM_CHOICE),
    )
    async def stream(request: Request, caller: Annotated[Caller, Depends(auth.reader)]) -> Response:
        """Server-sent events named `message`, each of which has what the list of events shows, soon after it is stored.

        They come once each and in the order of the log, so whoever comes back with the last id has missed none.
        """
        query = Query.of(request)
        last = request.headers.get("last-event-id") or query.take("lastEventId")
        body_bytes = _body_bytes(query)
        search = await _search(query, caller, limit=1)
        query.end()
        if last:
            search = replace(search, after=_position(last, oldest_first=True))
        search = await context.feed.beginning(search)

        async def events() -> AsyncGenerator[bytes, None]:
            async with aclosing(context.feed.follow(search, body_bytes=body_bytes)) as feed:
                async for one, position in feed:
                    yield event("message", event_view(one), number=cursor_of(position))

        return StreamingResponse(with_signs_of_life(events()), headers=HEADERS)

    return routes


async def _page(context: Context, request: Request, caller: Caller, *names: str) -> dict[str, Any]:
    query = Query.of(request)
    if query.values.get("api") == [""]:
        query.ignore("api")  # Go's client sends it always.
    is_grouped = _is_grouped(query)
    most, default = (MOST_MESSAGES, DEFAULT_MESSAGES) if is_grouped else (MOST, DEFAULT)
    body_bytes = _body_bytes(query)
    search = await _search(query, caller, limit=query.take_int("count", default=default, least=1, most=most))
    query.end()
    if is_grouped:
        async with context.database.reading(caller.tenant_id) as connection:
            histories, more = await log_events.histories(connection, search, body_bytes=body_bytes)
        content: dict[str, Any] = {"messages": [_history_view(history) for history in histories]}
    else:
        async with context.database.reading(caller.tenant_id) as connection:
            events, more = await log_events.page(connection, search, body_bytes=body_bytes)
        content = dict.fromkeys(names, _views(events))
    return content if more is None else {"cursor": cursor_of(more), **content}


async def _search(query: Query, caller: Caller, *, limit: int) -> Search:
    states = query.take_all("state")
    cursor = query.take("cursor")
    order = query.take("order") or "latestFirst"
    if order not in ("latestFirst", "earliestFirst"):
        raise InvalidField("order", order, "latestFirst or earliestFirst")
    oldest_first = order == "earliestFirst"
    return Search(
        caller.tenant_id,
        await query.take_filters(),
        frozenset(State) if states is None else frozenset(state for text in states for state in _states(text)),
        after=_position(cursor, oldest_first=oldest_first) if cursor else None,
        limit=limit,
        oldest_first=oldest_first,
    )


def _is_grouped(query: Query) -> bool:
    by = query.take("groupBy")
    if by not in (None, "", "messageId"):
        raise InvalidField("groupBy", by or "", "messageId")
    return by == "messageId"


def _body_bytes(query: Query) -> int:
    """How many bytes of each body are shown."""
    text = (query.take("trimBody") or "false").lower()
    match text:
        case "false":
            return MOST_BODY_BYTES
        case "true":
            return 0
    if not (text.isascii() and text.isdigit()):
        raise InvalidField("trimBody", text, "a number of bytes, true or false")
    return min(int(text[:18]), MOST_BODY_BYTES)


def _views(events: Sequence[Event]) -> list[dict[str, Any]]:
    return [event_view(event) for event in events]


def _history_view(history: History) -> dict[str, Any]:
    return {"messageId": message_text(history.message_id), "events": _views(history.events)}


def _states(text: str) -> tuple[State, ...]:
    name = text.upper()
    if name == "IN_PROGRESS":
        return IN_PROGRESS
    try:
        return (State("CANCELED" if name == "CANCELLED" else name),)
    except ValueError:
        raise InvalidField("state", text, f"one of {', '.join(State)}, IN_PROGRESS") from None


def _position(text: str, *, oldest_first: bool) -> Position:
    """The position in a cursor. A bare number is an instant in Unix milliseconds, as clients use it for a start."""
    if text.isascii() and text.isdigit() and len(text) <= 14:
        at = instant_of(int(text))
        return Position(at, _FIRST_ID, -1) if oldest_first else Position(at, _LAST_ID, 9)
    return position_of(text)


def _pages(*names: str) -> dict[str, Any]:
    """The schema of a page, plain or grouped."""
    return {"anyOf": [page_of(**dict.fromkeys(names, EVENT)), page_of(messages=_HISTORY)]}
