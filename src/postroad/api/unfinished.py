"""The list of what is unfinished, with what each of it waits for."""

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from postroad.api.auth import Authentication
from postroad.api.context import Context, json
from postroad.api.documents import errors, found, page, parameters
from postroad.api.query import FILTERS, Query
from postroad.api.schemas import MESSAGE
from postroad.api.wire import cursor_of, message_view, position_of
from postroad.domain.callback import milliseconds
from postroad.domain.log import Position
from postroad.domain.tenant import Caller
from postroad.store import unfinished
from postroad.store.unfinished import MOST_BEFORE, Place, Unfinished

DEFAULT, MOST = 100, 1000

_STATES = ("held", "waiting", "active")
_MESSAGE = {
    **MESSAGE,
    "properties": {
        **MESSAGE["properties"],
        "state": {"type": "string", "enum": list(_STATES)},
        "dueAt": {"type": "integer", "description": "Unix milliseconds"},
        "retried": {"type": "integer"},
        "waitsFor": {"type": "string", "description": "in words"},
    },
}
_CHOICE = {
    **{name: f"filter: {text}" for name, text in FILTERS.items()},
    "count": f"at most so many, up to {MOST:,}",
    "cursor": "where the page before ended",
}


def router(context: Context, auth: Authentication) -> APIRouter:
    """GET /v2/messages."""
    routes = APIRouter(prefix="/v2/messages", tags=["Messages"])

    @routes.get(
        "",
        summary="List what is unfinished",
        responses={**found(page(messages=_MESSAGE)), **errors(400, 401, 403, 503)},
        openapi_extra=parameters(**_CHOICE),
    )
    async def get(request: Request, caller: Annotated[Caller, Depends(auth.reader)]) -> Response:
        """Messages that have not ended, the first due first, each with what it waits for.

        A page may be shorter than `count`; only a page without `cursor` is the last. Of bodies above 64 KiB there is
        nothing here.
        """
        query = Query.of(request)
        filters = await query.take_filters()
        limit = query.take_int("count", default=DEFAULT, least=1, most=MOST)
        cursor = query.take("cursor")
        query.end()
        after = None
        if cursor:
            position = position_of(cursor)
            after = Place(position.at, position.message_id)
        async with context.database.reading(caller.tenant_id) as connection:
            listed, more = await unfinished.page(connection, caller.tenant_id, filters, after=after, limit=limit)
        content: dict[str, Any] = {"messages": [unfinished_view(one) for one in listed]}
        if more is not None:
            content["cursor"] = cursor_of(Position(more.due_at, more.message_id, 0))
        return json(content)

    return routes


def unfinished_view(one: Unfinished) -> dict[str, Any]:
    """A message with its state, when it is due, and why nothing happens."""
    view = message_view(one.stored)
    view |= {"state": _STATES[one.state], "dueAt": milliseconds(one.due_at), "retried": one.retried}
    return view | {"waitsFor": waits_for(one)}


def waits_for(one: Unfinished) -> str:
    """What has to happen before it goes on. Instants are in UTC."""
    words = _active(one) if one.state == 2 else _held(one) if one.state == 0 else _waiting(one)
    return f"{words}; it is canceled then, unless it succeeds" if one.cancel_requested else words


def _active(one: Unfinished) -> str:
    if one.deadline is not None:
        return f"its handler to acknowledge it, or for {_shown(one.deadline)}"
    return "the destination to answer"


def _held(one: Unfinished) -> str:
    queue = f"queue {one.stored.message.options.queue}"
    if one.before is None:
        return f"its time, {_shown(one.due_at)}, to take its place in {queue}"
    if one.queue_paused:
        return f"{queue}, which is paused"
    before = f"more than {MOST_BEFORE - 1}" if one.before >= MOST_BEFORE else str(one.before)
    return f"its turn in {queue}: {before} before it"


def _waiting(one: Unfinished) -> str:
    options = one.stored.message.options
    if not one.is_due:
        if one.retried:
            return f"retry {one.retried} of {options.retries}, at {_shown(one.due_at)}"
        return f"its time, {_shown(one.due_at)}"
    if not one.has_flow_key:
        return "a free slot"
    flow = options.flow_control
    key = "the parallelism of this tenant" if flow is None else f"flow-control key {flow.key}"
    if one.flow_paused:
        return f"{key}, which is paused"
    if one.flow_parallelism is not None and one.in_progress >= one.flow_parallelism:
        return f"{key}: {one.in_progress} of {one.flow_parallelism} in progress"
    if one.flow_rate is not None and one.flow_wakes_at is not None:
        return f"{key}: its rate is used up until {_shown(one.flow_wakes_at)}"
    return key


def _shown(instant: datetime) -> str:
    return f"{instant.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
