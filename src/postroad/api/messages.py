"""Messages: read, cancelled, released from their wait."""

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from postroad.api.auth import Authentication
from postroad.api.bulk_actions import cancel_matching
from postroad.api.context import Context, json
from postroad.api.documents import errors, found, json_body, parameters
from postroad.api.query import FILTERS, Query
from postroad.api.schemas import MESSAGE
from postroad.api.wire import message_view
from postroad.domain.ids import MessageId, parse_message_id
from postroad.domain.tenant import Caller, TenantId
from postroad.errors import InvalidField, NotFound
from postroad.store import deliveries, lookups
from postroad.store.bulk_actions import STEP
from postroad.store.engine import Connection

_CANCELLED = {
    "type": "object",
    "required": ["cancelled"],
    "properties": {
        "cancelled": {"type": "integer"},
        "actionId": {"type": "string", "description": "of the bulk action, with async only"},
    },
}
_CHOICE = {
    **{name: f"filter: {text}" for name, text in FILTERS.items()},
    "messageIds": "ids, repeated or in a comma list; all filters are passed over then",
    "count": "at most so many",
    "async": "true or false: answer at once, with the id of the bulk action that goes on",
}
_OLD_BODY = {name: {"description": text} for name, text in _CHOICE.items()}


def router(context: Context, auth: Authentication) -> APIRouter:
    """The routes under /v2/messages."""
    routes = APIRouter(prefix="/v2/messages", tags=["Messages"])
    database = context.database

    @routes.get("/{message_id}", summary="Get a message", responses={**found(MESSAGE), **errors(401, 403, 404, 503)})
    async def get(message_id: str, caller: Annotated[Caller, Depends(auth.reader)]) -> Response:
        """A message that is unfinished, or ended a moment ago."""
        async with database.reading(caller.tenant_id) as connection:
            stored = await lookups.find(connection, caller.tenant_id, known(message_id), linger=context.message_linger)
        if stored is None:
            raise NotFound("message", message_id)
        return json(message_view(stored))

    @routes.delete(
        "/{message_id}",
        summary="Cancel a message",
        status_code=202,
        responses={**found(_CANCELLED, 202), **errors(401, 403, 404, 503)},
    )
    async def cancel(message_id: str, caller: Annotated[Caller, Depends(auth.changer)]) -> Response:
        """Cancel one message. `cancelled` is 0 when it had ended or been cancelled already, but can still be read."""
        identity = known(message_id)

        async def cancel_one(connection: Connection) -> int:
            cancelled = await deliveries.cancel(connection, caller.tenant_id, [identity])
            if not cancelled and not await lookups.find(
                connection, caller.tenant_id, identity, linger=context.message_linger
            ):
                raise NotFound("message", message_id)
            return cancelled

        cancelled = await database.repeated(cancel_one, tenant_id=caller.tenant_id)
        context.wake()
        return json({"cancelled": cancelled}, 202)

    @routes.delete(
        "",
        summary="Cancel messages",
        status_code=202,
        responses={**found(_CANCELLED, 202), **errors(400, 401, 403, 412, 413, 503)},
        openapi_extra={**parameters(**_CHOICE), **json_body(_OLD_BODY)},
    )
    async def cancel_all(request: Request, caller: Annotated[Caller, Depends(auth.changer)]) -> Response:
        """Cancel by ids or by filters, from the query or from the JSON body of older clients; without any, everything.

        By filters it is a bulk action: what matches, and is there when it is accepted, is cancelled step by step. A
        call without `async` waits for that, for a minute at most; then the answer is 429, and the action goes on. The
        same again, while it is running, is the same action.
        """
        query = await Query.with_body(request)
        query.refuse_empty_id(request)
        filters = await query.take_filters()
        most = query.take_most("count")
        is_async = query.take_flag("async")
        query.end()
        if filters.message_ids is not None:
            return json({"cancelled": await _cancel(context, caller.tenant_id, filters.message_ids, most)}, 202)
        answer = await cancel_matching(context, caller.tenant_id, filters, most=most, is_async=is_async)
        return json(answer, 202)

    @routes.post(
        "/{message_id}/retry",
        summary="Deliver a waiting message now",
        response_class=Response,
        responses=errors(400, 401, 403, 404, 503),
    )
    async def retry(message_id: str, caller: Annotated[Caller, Depends(auth.changer)]) -> Response:
        """Release a message that waits for its time, without counting an attempt."""
        identity = parse_message_id(message_id)
        if identity is None:
            raise InvalidField("messageId", message_id, "the id of a message, msg_ and 22 characters")
        async with database.changing(caller.tenant_id) as connection:
            released = await deliveries.release_now(connection, caller.tenant_id, identity)
        if released is None:
            raise InvalidField("messageId", message_id, "a message that is not in a queue")
        if not released:
            raise NotFound("waiting message", message_id)
        context.wake()
        return Response(status_code=200)

    return routes


def known(message_id: str) -> MessageId:
    """The id in a path. One that cannot exist is not found, as any other that does not."""
    identity = parse_message_id(message_id)
    if identity is None:
        raise NotFound("message", message_id)
    return identity


async def _cancel(context: Context, tenant_id: TenantId, ids: tuple[MessageId, ...], most: int | None) -> int:
    """Cancel in steps, each its own transaction, so that a large cancellation holds no lock for long."""
    most, cancelled = most or len(ids), 0
    while ids and cancelled < most:
        size = min(STEP, most - cancelled)
        step, ids = ids[:size], ids[size:]
        cancel = partial(deliveries.cancel, tenant_id=tenant_id, ids=step)
        cancelled += await context.database.repeated(cancel, tenant_id=tenant_id)
    context.wake()
    return cancelled
