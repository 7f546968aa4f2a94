"""Bulk actions: cancellations by filter, begun, waited for and looked at."""

import asyncio
import re
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from postroad.api.auth import Authentication
from postroad.api.context import Context, json
from postroad.api.documents import errors, found, parameters
from postroad.api.documents import page as page_of
from postroad.api.query import Query, instant_of
from postroad.domain.bulk_action import BulkAction, Progress, parse_bulk_action_id
from postroad.domain.callback import milliseconds
from postroad.domain.tenant import Caller, TenantId
from postroad.errors import InvalidField, NotFound, StillRunning
from postroad.store import bulk_actions
from postroad.store.bulk_actions import Place
from postroad.store.filters import Filters

DEFAULT = 100
MOST = 1_000

WAIT_S = 60.0
"""How long a call without `async` waits for its action."""

_CURSOR = re.compile(r"(\d{1,17})-(blk_\w{28})", re.ASCII)

_BULK_ACTION = {
    "type": "object",
    "required": ["actionId", "kind", "state", "total", "processed", "createdAt", "filter"],
    "properties": {
        "actionId": {"type": "string"},
        "kind": {"type": "string", "enum": [bulk_actions.CANCEL]},
        "state": {"type": "string", "enum": list(Progress)},
        "total": {"type": "integer", "description": "unfinished messages that matched when it was accepted"},
        "processed": {"type": "integer", "description": "messages that it has cancelled"},
        "createdAt": {"type": "integer", "description": "Unix milliseconds"},
        "completedAt": {"type": "integer", "description": "Unix milliseconds, when it is finished"},
        "filter": {"type": "object", "additionalProperties": {"type": "array", "items": {"type": "string"}}},
    },
}


def router(context: Context, auth: Authentication) -> APIRouter:
    """The routes under /v2/bulkActions."""
    routes = APIRouter(prefix="/v2/bulkActions", tags=["Bulk actions"])
    database = context.database

    @routes.get(
        "",
        summary="List bulk actions",
        responses={**found(page_of(bulkActions=_BULK_ACTION)), **errors(400, 401, 403, 503)},
        openapi_extra=parameters(
            cursor="where the page before ended",
            count="at most so many, 1 to 1000, 100 by default",
            state="IN_PROGRESS or FINISHED",
        ),
    )
    async def list_(request: Request, caller: Annotated[Caller, Depends(auth.reader)]) -> Response:
        """Bulk actions, the newest first; finished ones for 7 days. `cursor` is absent on the last page."""
        query = Query.of(request)
        count = query.take_int("count", default=DEFAULT, least=1, most=MOST)
        state, after = _state(query.take("state")), _place(query.take("cursor"))
        query.end()
        async with database.reading(caller.tenant_id) as connection:
            page = await bulk_actions.page(connection, caller.tenant_id, state=state, after=after, limit=count + 1)
        content: dict[str, Any] = {"bulkActions": [_view(action) for action in page[:count]]}
        return json(content if len(page) <= count else {"cursor": _cursor(page[count - 1]), **content})

    @routes.get(
        "/{action_id}", summary="Get a bulk action", responses={**found(_BULK_ACTION), **errors(401, 403, 404, 503)}
    )
    async def get(action_id: str, caller: Annotated[Caller, Depends(auth.reader)]) -> Response:
        """What a bulk action is about, and how far it is."""
        known, action = parse_bulk_action_id(action_id), None
        if known is not None:
            async with database.reading(caller.tenant_id) as connection:
                action = await bulk_actions.find(connection, caller.tenant_id, known)
        if action is None:
            raise NotFound("bulk action", action_id)
        return json(_view(action))

    return routes


async def cancel_matching(
    context: Context, tenant_id: TenantId, filters: Filters, *, most: int | None, is_async: bool
) -> dict[str, Any]:
    """Begin to cancel what matches, and wait for the end of that if it is not to be asynchronous; gives the answer.

    Raises `QuotaExceeded`, and `StillRunning` when it takes longer than the call may.
    """
    create = partial(bulk_actions.create, tenant_id=tenant_id, filters=filters, most=most)
    action, is_new = await context.database.repeated(create, tenant_id=tenant_id)
    if action.completed_at is None:
        work = context.bulk_worker.work(tenant_id, action, holds=is_new)
        if not is_async:
            await asyncio.wait([work], timeout=WAIT_S)
            if not work.done() or work.cancelled():
                raise StillRunning(action.id)
            action = work.result()
    if is_async:
        return {"cancelled": action.total, "actionId": action.id}
    return {"cancelled": action.processed}


def _view(action: BulkAction) -> dict[str, Any]:
    view = {
        "actionId": action.id,
        "kind": action.kind,
        "state": action.state,
        "total": action.total,
        "processed": action.processed,
        "createdAt": milliseconds(action.created_at),
        "filter": action.filter,
    }
    if action.completed_at is not None:
        view["completedAt"] = milliseconds(action.completed_at)
    return view


def _state(text: str | None) -> Progress | None:
    if not text:
        return None
    try:
        return Progress(text.upper())
    except ValueError:
        raise InvalidField("state", text, f"one of {', '.join(Progress)}") from None


def _cursor(action: BulkAction) -> str:
    return f"{milliseconds(action.created_at)}{action.created_at.microsecond % 1000:03}-{action.id}"


def _place(text: str | None) -> Place | None:
    if not text:
        return None
    match = _CURSOR.fullmatch(text)
    action_id = parse_bulk_action_id(match[2]) if match is not None else None
    if match is None or action_id is None:
        raise InvalidField("cursor", text, "a cursor that an earlier page gave")
    ms, micros = divmod(int(match[1]), 1000)
    created_at = instant_of(ms)
    return created_at.replace(microsecond=created_at.microsecond + micros), action_id
