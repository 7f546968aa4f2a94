"""Flow control: keys looked at, paused, pinned; and how much a tenant does at once."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Request, Response

from postroad.api.auth import Authentication
from postroad.api.context import Context, json
from postroad.api.documents import errors, found, parameters
from postroad.api.query import Query
from postroad.domain.flow_control import FlowKey, parse_flow_key, parse_limit, parse_period
from postroad.domain.tenant import Caller, TenantId
from postroad.errors import InvalidField, InvalidValue, NotFound
from postroad.store import flow_controls
from postroad.store.engine import Connection

_MOST = 10_000

T = TypeVar("T")

_NUMBER = {"type": "integer"}
_FLAG = {"type": "boolean"}
_KEY = {
    "type": "object",
    "required": ["flowControlKey", "waitListSize", "parallelismMax", "parallelismCount", "rateMax", "rateCount",
                 "ratePeriod", "ratePeriodStart", "isPaused", "isPinnedParallelism", "isPinnedRate"],
    "properties": {
        "flowControlKey": {"type": "string"},
        "waitListSize": _NUMBER,
        "parallelismMax": {**_NUMBER, "description": "0 is no limit"},
        "parallelismCount": _NUMBER,
        "rateMax": {**_NUMBER, "description": "0 is no limit"},
        "rateCount": _NUMBER,
        "ratePeriod": {**_NUMBER, "description": "seconds"},
        "ratePeriodStart": {**_NUMBER, "description": "Unix seconds, 0 when no period runs"},
        "isPaused": _FLAG,
        "isPinnedParallelism": _FLAG,
        "isPinnedRate": _FLAG,
    },
}  # fmt: skip
_CHANGED = errors(400, 401, 403, 404, 503)


def router(context: Context, auth: Authentication) -> APIRouter:
    """The routes under /v2/flowControl, and /v2/globalParallelism.

    A key may hold slashes, so it is whatever stands before the action.
    """
    routes = APIRouter(prefix="/v2", tags=["Flow control"])
    _add_changes(routes, context, auth)

    @routes.get(
        "/flowControl",
        summary="List flow-control keys",
        responses={**found({"type": "array", "items": _KEY}), **errors(400, 401, 403, 503)},
        openapi_extra=parameters(search="a text that the keys hold"),
    )
    async def list_(request: Request, caller: Annotated[Caller, Depends(auth.reader)]) -> Response:
        """The keys that were ever published with, by name."""
        query = Query.of(request)
        search = query.take("search")
        query.end()
        async with context.database.reading(caller.tenant_id) as connection:
            keys = await flow_controls.list_(connection, caller.tenant_id, search=search, limit=_MOST)
        return json([_view(key) for key in keys])

    @routes.get("/globalParallelism", summary="Get the parallelism of the account", responses={
        **found({"type": "object", "properties": {"parallelismMax": _NUMBER, "parallelismCount": _NUMBER}}),
        **errors(401, 403, 503),
    })  # fmt: skip
    async def global_parallelism(caller: Annotated[Caller, Depends(auth.reader)]) -> Response:
        """How many deliveries are made at once, on all nodes, and how many may be; 0 is no limit."""
        async with context.database.reading(caller.tenant_id) as connection:
            most, count = await flow_controls.overall(connection, caller.tenant_id)
        return json({"parallelismMax": most or 0, "parallelismCount": count})

    @routes.get("/flowControl/{key:path}", summary="Get a key", responses={**found(_KEY), **errors(401, 403, 404, 503)})
    async def get(key: str, caller: Annotated[Caller, Depends(auth.reader)]) -> Response:
        """The limits of a key, and what waits and runs under it."""
        async with context.database.reading(caller.tenant_id) as connection:
            found_key = await flow_controls.find(connection, caller.tenant_id, key) if key.isprintable() else None
        if found_key is None:
            raise NotFound("flow control key", key)
        return json(_view(found_key))

    return routes


def _add_changes(routes: APIRouter, context: Context, auth: Authentication) -> None:
    async def change(tenant_id: TenantId, key: str, make: Callable[[Connection], Awaitable[bool]]) -> Response:
        """Change a key and have it looked at."""
        _known(key)
        async with context.database.changing(tenant_id) as connection:
            if not await make(connection):
                raise NotFound("flow control key", key)
        context.wake()
        return Response()

    @routes.post("/flowControl/{key:path}/pause", summary="Pause a key", response_class=Response, responses=_CHANGED)
    async def pause(key: str, caller: Annotated[Caller, Depends(auth.changer)]) -> Response:
        """Let nothing with this key go, also when nothing was published with it yet. What is under way goes on."""
        return await change(caller.tenant_id, key, lambda c: flow_controls.pause(c, caller.tenant_id, key))

    @routes.post("/flowControl/{key:path}/resume", summary="Resume a key", response_class=Response, responses=_CHANGED)
    async def resume(key: str, caller: Annotated[Caller, Depends(auth.changer)]) -> Response:
        """Let messages with this key go again."""
        return await change(caller.tenant_id, key, lambda c: flow_controls.resume(c, caller.tenant_id, key))

    @routes.post(
        "/flowControl/{key:path}/pin",
        summary="Pin the limits of a key",
        response_class=Response,
        responses=_CHANGED,
        openapi_extra=parameters(parallelism="an integer", rate="an integer", period="seconds, or a duration"),
    )
    async def pin(key: str, request: Request, caller: Annotated[Caller, Depends(auth.changer)]) -> Response:
        """Fix limits against what messages bring, and begin a new period. A key that does not exist is made."""
        query = Query.of(request)
        parallelism, rate, period = (
            _taken(query, "parallelism", parse_limit),
            _taken(query, "rate", parse_limit),
            _taken(query, "period", parse_period),
        )
        query.end()
        if parallelism is None and rate is None and period is None:
            raise InvalidField("parallelism", "", "parallelism, rate or period")
        return await change(
            caller.tenant_id,
            key,
            lambda c: flow_controls.pin(c, caller.tenant_id, key, parallelism=parallelism, rate=rate, period=period),
        )

    @routes.post(
        "/flowControl/{key:path}/unpin",
        summary="Unpin the limits of a key",
        response_class=Response,
        responses=_CHANGED,
        openapi_extra=parameters(parallelism="true or false", rate="true or false"),
    )
    async def unpin(key: str, request: Request, caller: Annotated[Caller, Depends(auth.changer)]) -> Response:
        """Let messages change the limits that are named; the values stay until one does."""
        query = Query.of(request)
        parallelism, rate = query.take_flag("parallelism"), query.take_flag("rate")
        query.end()
        return await change(
            caller.tenant_id,
            key,
            lambda c: flow_controls.unpin(c, caller.tenant_id, key, parallelism=parallelism, rate=rate),
        )

    @routes.post(
        "/flowControl/{key:path}/resetRate", summary="Begin a new period", response_class=Response, responses=_CHANGED
    )
    async def reset_rate(key: str, caller: Annotated[Caller, Depends(auth.changer)]) -> Response:
        """Forget what the running period has used up."""
        return await change(caller.tenant_id, key, lambda c: flow_controls.reset_rate(c, caller.tenant_id, key))


def _known(key: str) -> str:
    try:
        return parse_flow_key(key)
    except InvalidValue as error:
        raise InvalidField("flowControlKey", error.value, error.expected) from None


def _taken(query: Query, name: str, parse: Callable[[str], T]) -> T | None:
    text = query.take(name)
    if text is None or not text:
        return None
    try:
        return parse(text)
    except InvalidValue as error:
        raise InvalidField(name, error.value, error.expected) from None


def _view(key: FlowKey) -> dict[str, Any]:
    return {
        "flowControlKey": key.key,
        "waitListSize": key.waiting,
        "parallelismMax": key.parallelism or 0,
        "parallelismCount": key.active,
        "rateMax": key.rate or 0,
        "rateCount": key.rate_count,
        "ratePeriod": int(key.period.total_seconds()),
        "ratePeriodStart": 0 if key.period_start is None else int(key.period_start.timestamp()),
        "isPaused": key.paused,
        "isPinnedParallelism": key.parallelism_pinned,
        "isPinnedRate": key.rate_pinned,
    }
