"""Messages: read, cancelled, released from their wait."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from postroad.api.auth import Authentication
from postroad.api.context import Context, json
from postroad.api.query import Query
from postroad.api.wire import message_view
from postroad.domain.ids import MessageId, parse_message_id
from postroad.domain.tenant import Caller, TenantId
from postroad.errors import InvalidField, NotFound
from postroad.store import deliveries, lookups
from postroad.store.filters import Filters

CANCEL_STEP = 5_000


def router(context: Context, auth: Authentication) -> APIRouter:
    """The routes under /v2/messages."""
    routes = APIRouter(prefix="/v2/messages", tags=["Messages"])
    database = context.database

    @routes.get("/{message_id}", summary="Get a message")
    async def get(message_id: str, caller: Annotated[Caller, Depends(auth.reader)]) -> Response:
        """A message that is unfinished, or ended a moment ago."""
        async with database.connection() as connection:
            stored = await lookups.find(connection, caller.tenant_id, known(message_id), linger=context.message_linger)
        if stored is None:
            raise NotFound("message", message_id)
        return json(message_view(stored))

    @routes.delete("/{message_id}", summary="Cancel a message", status_code=202)
    async def cancel(message_id: str, caller: Annotated[Caller, Depends(auth.changer)]) -> Response:
        """Cancel one message. `cancelled` is 0 when it had ended already, but can still be read."""
        identity = known(message_id)
        async with database.transaction() as connection:
            cancelled = await deliveries.cancel(connection, caller.tenant_id, [identity])
            if not cancelled and not await lookups.find(
                connection, caller.tenant_id, identity, linger=context.message_linger
            ):
                raise NotFound("message", message_id)
        return json({"cancelled": cancelled}, 202)

    @routes.delete("", summary="Cancel messages", status_code=202)
    async def cancel_all(request: Request, caller: Annotated[Caller, Depends(auth.changer)]) -> Response:
        """Cancel by ids or by filters, from the query or from the JSON body of older clients; without any, everything.

        `count` limits one call.
        """
        query = await Query.with_body(request)
        filters = query.take_filters()
        count = query.take_int("count", default=2**31, least=1, most=2**31)
        query.ignore("async")
        query.end()
        if filters.message_ids is not None:
            filters = Filters(message_ids=filters.message_ids)
        return json({"cancelled": await _cancel_matching(context, caller.tenant_id, filters, count)}, 202)

    @routes.post("/{message_id}/retry", summary="Deliver a waiting message now")
    async def retry(message_id: str, caller: Annotated[Caller, Depends(auth.changer)]) -> Response:
        """Release a message that waits for its time, without counting an attempt."""
        identity = parse_message_id(message_id)
        if identity is None:
            raise InvalidField("messageId", message_id, "the id of a message, msg_ and 22 characters")
        async with database.single() as connection:
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


async def _cancel_matching(context: Context, tenant_id: TenantId, filters: Filters, count: int) -> int:
    """Cancel in steps, each its own transaction, so that a large cancellation holds no lock for long."""
    cancelled, after = 0, None
    while cancelled < count:
        async with context.database.transaction() as connection:
            ids = await lookups.unfinished_ids(
                connection, tenant_id, filters, after=after, limit=min(CANCEL_STEP, count - cancelled)
            )
            if not ids:
                break
            cancelled += await deliveries.cancel(connection, tenant_id, ids)
            after = ids[-1]
    return cancelled
