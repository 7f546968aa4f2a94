"""The log of events, under both of its paths."""

import re
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response

from postroad.api.auth import Authentication
from postroad.api.context import Context, json
from postroad.api.query import Query, instant_of
from postroad.api.wire import cursor_of, event_view
from postroad.domain.ids import MessageId, parse_message_id
from postroad.domain.log import IN_PROGRESS, Event, Position, State
from postroad.domain.tenant import Caller
from postroad.errors import InvalidField
from postroad.store import log_events

DEFAULT = 1000
"""Documented as 100, but clients count on seeing at least 400 events without asking for more."""
MOST = 1000

_CURSOR = re.compile(r"(\d{1,17})-([1-9A-HJ-NP-Za-km-z]{22})-(\d)")
_FIRST_ID = MessageId(UUID(int=0))
_LAST_ID = MessageId(UUID(int=2**128 - 1))


def router(context: Context, auth: Authentication) -> APIRouter:
    """/v2/logs and /v2/events."""
    routes = APIRouter(prefix="/v2", tags=["Logs"])

    @routes.get("/events", summary="List events")
    async def events(request: Request, caller: Annotated[Caller, Depends(auth.reader)]) -> Response:
        """The path that the SDKs use."""
        page, cursor, trim = await _page(context, request, caller)
        return json(_with_cursor({"events": [event_view(event, trim_body=trim) for event in page]}, cursor))

    @routes.get("/logs", summary="List log entries")
    async def logs(request: Request, caller: Annotated[Caller, Depends(auth.reader)]) -> Response:
        """The documented path; its entries go by two names because documents and clients differ."""
        page, cursor, trim = await _page(context, request, caller)
        entries = [event_view(event, trim_body=trim) for event in page]
        return json(_with_cursor({"logs": entries, "events": entries}, cursor))

    return routes


async def _page(context: Context, request: Request, caller: Caller) -> tuple[list[Event], str | None, bool]:
    query = Query.of(request)
    count = query.take_int("count", default=DEFAULT, least=1, most=MOST)
    states = query.take_all("state")
    cursor = query.take("cursor")
    order = query.take("order") or "latestFirst"
    if order not in ("latestFirst", "earliestFirst"):
        raise InvalidField("order", order, "latestFirst or earliestFirst")
    oldest_first = order == "earliestFirst"
    trim = query.take_flag("trimBody")
    filters = query.take_filters()
    query.ignore("api")
    query.end()
    wanted = None if states is None else [state for text in states for state in _states(text)]
    async with context.database.connection() as connection:
        page, more = await log_events.page(
            connection,
            caller.tenant_id,
            filters,
            states=wanted,
            after=_position(cursor, oldest_first=oldest_first) if cursor else None,
            limit=count,
            oldest_first=oldest_first,
        )
    return page, cursor_of(more) if more else None, trim


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
    match = _CURSOR.fullmatch(text)
    identity = parse_message_id(f"msg_{match[2]}") if match is not None else None
    if match is None or identity is None:
        raise InvalidField("cursor", text, "a cursor that an earlier page gave, or a Unix time in milliseconds")
    seconds, micros = divmod(int(match[1]), 1_000_000)
    return Position(instant_of(seconds * 1000).replace(microsecond=micros), identity, int(match[3]))


def _with_cursor(content: dict[str, Any], cursor: str | None) -> dict[str, Any]:
    return content if cursor is None else {"cursor": cursor, **content}
