"""Queues: made, looked at, paused, deleted."""

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from postroad.api.auth import Authentication
from postroad.api.context import Context, json
from postroad.api.documents import errors, found, json_body
from postroad.api.query import Query, document_of
from postroad.domain.callback import milliseconds
from postroad.domain.queue import Queue, parse_queue_name
from postroad.domain.tenant import Caller, TenantId
from postroad.errors import InvalidField, InvalidValue, NotFound, QuotaExceeded, UnknownParameter
from postroad.store import queues
from postroad.store.engine import Connection

_STEP = 1_000

_QUEUE = {
    "type": "object",
    "required": ["name", "parallelism", "paused", "lag", "counts", "createdAt", "updatedAt"],
    "properties": {
        "name": {"type": "string"},
        "parallelism": {"type": "integer"},
        "paused": {"type": "boolean"},
        "lag": {"type": "integer", "description": "messages that have not ended"},
        "counts": {
            "type": "object",
            "description": "the same by state: held (not their turn), waiting (for a time or a slot) and active",
            "additionalProperties": {"type": "integer"},
        },
        "createdAt": {"type": "integer", "description": "Unix milliseconds"},
        "updatedAt": {"type": "integer", "description": "Unix milliseconds"},
    },
}
_CHANGE = {
    "queueName": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,256}$"},
    "parallelism": {"type": "integer", "minimum": 1, "default": 1},
    "paused": {"type": "boolean", "default": False},
}


def router(context: Context, auth: Authentication) -> APIRouter:
    """The routes under /v2/queues."""
    routes = APIRouter(prefix="/v2/queues", tags=["Queues"])
    database = context.database

    @routes.post(
        "",
        summary="Make or change a queue",
        response_class=Response,
        responses=errors(400, 401, 403, 412, 413, 503),
        openapi_extra=json_body(_CHANGE, required=["queueName"]),
    )
    async def upsert(request: Request, caller: Annotated[Caller, Depends(auth.changer)]) -> Response:
        """Make a queue, or set the parallelism and the pause of one. What is not given has its default."""
        Query.of(request).end()
        name, parallelism, paused = _change(await document_of(request) or {})
        if parallelism > context.limits.max_queue_parallelism:
            raise QuotaExceeded("maxQueueParallelism", context.limits.max_queue_parallelism)

        async def change(connection: Connection) -> None:
            await queues.admit(connection, caller.tenant_id, [name], most=context.limits.max_queues)
            await queues.upsert(connection, caller.tenant_id, name, parallelism=parallelism, paused=paused)

        await database.repeated(change, tenant_id=caller.tenant_id)
        context.wake()
        return Response()

    @routes.get(
        "", summary="List queues", responses={**found({"type": "array", "items": _QUEUE}), **errors(400, 401, 403, 503)}
    )
    async def list_(request: Request, caller: Annotated[Caller, Depends(auth.reader)]) -> Response:
        """All queues, by name."""
        Query.of(request).end()
        async with database.reading(caller.tenant_id) as connection:
            return json([_view(queue) for queue in await queues.list_(connection, caller.tenant_id)])

    @routes.get("/{name}", summary="Get a queue", responses={**found(_QUEUE), **errors(401, 403, 404, 503)})
    async def get(name: str, caller: Annotated[Caller, Depends(auth.reader)]) -> Response:
        """A queue, and how many messages are in it."""
        async with database.reading(caller.tenant_id) as connection:
            queue = await queues.find(connection, caller.tenant_id, _known(name))
        if queue is None:
            raise NotFound("queue", name)
        return json(_view(queue))

    @routes.delete("/{name}", summary="Delete a queue", response_class=Response, responses=errors(401, 403, 503))
    async def delete(name: str, caller: Annotated[Caller, Depends(auth.changer)]) -> Response:
        """Delete a queue, if there is one. What waits in it is cancelled, and logged as that."""
        try:
            parse_queue_name(name)
        except InvalidValue:
            return Response()
        async with database.changing(caller.tenant_id) as connection:
            queue_id = await queues.remove(connection, caller.tenant_id, name)
        if queue_id is not None:
            await _empty(context, caller.tenant_id, queue_id)
        return Response()

    @routes.post(
        "/{name}/pause", summary="Pause a queue", response_class=Response, responses=errors(401, 403, 404, 503)
    )
    async def pause(name: str, caller: Annotated[Caller, Depends(auth.changer)]) -> Response:
        """Take messages in, but let none go. What is under way goes on."""
        return await _set_paused(context, caller, name, paused=True)

    @routes.post(
        "/{name}/resume", summary="Resume a queue", response_class=Response, responses=errors(401, 403, 404, 503)
    )
    async def resume(name: str, caller: Annotated[Caller, Depends(auth.changer)]) -> Response:
        """Let messages go again, beginning with the oldest."""
        return await _set_paused(context, caller, name, paused=False)

    return routes


async def _set_paused(context: Context, caller: Caller, name: str, *, paused: bool) -> Response:
    change = partial(queues.set_paused, tenant_id=caller.tenant_id, name=_known(name), paused=paused)
    if not await context.database.repeated(change, tenant_id=caller.tenant_id):
        raise NotFound("queue", name)
    context.wake()
    return Response()


async def _empty(context: Context, tenant_id: TenantId, queue_id: int) -> None:
    """Cancel what is left of a deleted queue. If this is broken off, a chore goes on with it."""
    step = partial(queues.empty, queue_id=queue_id, limit=_STEP)
    while await context.database.repeated(step, tenant_id=tenant_id) == _STEP:
        pass  # Until a step finds less than it could take.


def _known(name: str) -> str:
    try:
        return parse_queue_name(name)
    except InvalidValue:
        raise NotFound("queue", name) from None


def _change(document: dict[str, Any]) -> tuple[str, int, bool]:
    for field in document.keys() - _CHANGE.keys():
        raise UnknownParameter(field)
    name, parallelism, paused = document.get("queueName"), document.get("parallelism"), document.get("paused")
    if not isinstance(name, str):
        raise InvalidField("queueName", str(name), "the name of a queue")
    try:
        parse_queue_name(name)
    except InvalidValue as error:
        raise InvalidField("queueName", error.value, error.expected) from None
    parallelism = 1 if parallelism is None else parallelism
    if isinstance(parallelism, bool) or not isinstance(parallelism, int) or not 1 <= parallelism < 2**31:
        raise InvalidField("parallelism", str(parallelism), "an integer of 1 or more")
    if not isinstance(paused, bool | None):
        raise InvalidField("paused", str(paused), "true or false")
    return name, parallelism, paused or False


def _view(queue: Queue) -> dict[str, Any]:
    return {
        "name": queue.name,
        "parallelism": queue.parallelism,
        "paused": queue.paused,
        "lag": queue.lag,
        "counts": queue.counts,
        "createdAt": milliseconds(queue.created_at),
        "updatedAt": milliseconds(queue.updated_at),
    }
