"""Schedules: made, looked at, paused, deleted."""

from collections.abc import AsyncIterator
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import StreamingResponse

from postroad.api.auth import Authentication
from postroad.api.context import Context, json
from postroad.api.documents import errors, found
from postroad.api.problems import Answer
from postroad.api.query import Query
from postroad.api.schedule_actions import check_next, id_of, is_id, known, parsed_cron, read, vet
from postroad.api.veil import veiled
from postroad.api.wire import schedule_view
from postroad.domain import publication
from postroad.domain.cron import Cron
from postroad.domain.schedule import MAX_ID_LENGTH, Schedule, TickState, kept_fields
from postroad.domain.tenant import Caller, TenantId
from postroad.domain.url_group import UrlGroup
from postroad.errors import BodyTooLarge, EmptyDestination, InvalidField, NotFound
from postroad.store import queues, schedules

PAGE = 100
"""Schedules that a list reads at once."""


async def create_schedule(context: Context, caller: Caller, request: publication.Request) -> Answer:
    """Make a schedule, or replace the one with its id by it. Everything that a publish refuses is refused here.

    The request is read as every tick will read it; nothing is stored of one that is refused.
    """
    tenant_id = caller.tenant_id
    cron, schedule_id, groups, publications = await _read(context, caller, request)
    group = groups.get(request.destination)
    kept = publication.Request(
        request.destination,
        kept_fields(request.fields, group.fields if group is not None else ()),
        request.body,
        request.caller_ip,
        schedule_id,
    )
    limits = context.limits
    async with context.database.changing(tenant_id) as connection:
        if (queue := publications[0].options.queue) is not None:
            await queues.admit(connection, tenant_id, [queue], most=limits.max_queues)
        await schedules.put(connection, tenant_id, cron, kept, most=limits.max_schedules)
    return Answer(201, orjson.dumps({"scheduleId": schedule_id}))


async def rehearse_schedule(context: Context, caller: Caller, request: publication.Request) -> None:
    """Refuse what making this schedule would refuse, and store nothing."""
    if len(request.body) > context.limits.max_body_bytes:
        raise BodyTooLarge(context.limits.max_body_bytes)
    await _read(context, caller, request)


async def _read(
    context: Context, caller: Caller, request: publication.Request
) -> tuple[Cron, str, dict[str, UrlGroup], list[publication.Publication]]:
    if not request.destination:
        raise EmptyDestination
    # Of a header that is repeated the last one counts.
    given = dict(request.fields)
    cron = parsed_cron("Upstash-Cron", given.get("upstash-cron", ""))
    check_next(context, cron, field="Upstash-Cron")
    schedule_id = id_of(given.get("upstash-schedule-id"))
    if "upstash-not-before" in given:
        expected = "nothing: a schedule has its times from Upstash-Cron, and Upstash-Delay is possible"
        raise InvalidField("Upstash-Not-Before", given["upstash-not-before"], expected)
    groups, publications = await read(context, caller, request)
    await vet(context, caller, publications)
    return cron, schedule_id, groups, publications


def router(context: Context, auth: Authentication) -> APIRouter:
    """The routes under /v2/schedules; a schedule is made at the door, because its path holds a destination."""
    routes = APIRouter(prefix="/v2/schedules", tags=["Schedules"])
    database = context.database

    @routes.get(
        "",
        summary="List schedules",
        response_class=Response,
        responses={**found({"type": "array", "items": _SCHEDULE}), **errors(400, 401, 403, 503)},
    )
    async def list_(request: Request, caller: Annotated[Caller, Depends(auth.reader)]) -> Response:
        """All schedules, by id."""
        Query.of(request).end()
        page = await _page(context, caller.tenant_id, after="")
        if len(page) < PAGE:
            return json([view for _, view in page])
        return StreamingResponse(_pages(context, caller.tenant_id, page), media_type="application/json")

    @routes.get(
        "/{schedule_id}", summary="Get a schedule", responses={**found(_SCHEDULE), **errors(401, 403, 404, 503)}
    )
    async def get(schedule_id: str, caller: Annotated[Caller, Depends(auth.reader)]) -> Response:
        """One schedule. `lastScheduleStates` says how the messages of its last tick fare."""
        async with database.reading(caller.tenant_id) as connection:
            schedule = await schedules.find(connection, caller.tenant_id, known(schedule_id))
            if schedule is None:
                raise NotFound("schedule", schedule_id)
            states = await schedules.states(connection, schedule.last_messages)
        return json(_view(context, schedule, states))

    @routes.delete(
        "/{schedule_id}", summary="Delete a schedule", response_class=Response, responses=errors(401, 403, 503)
    )
    async def delete(schedule_id: str, caller: Annotated[Caller, Depends(auth.changer)]) -> Response:
        """Delete a schedule, if there is one. Messages that it has made go their way."""
        if is_id(schedule_id):
            async with database.changing(caller.tenant_id) as connection:
                await schedules.delete(connection, caller.tenant_id, schedule_id)
        return Response()

    @routes.post("/{schedule_id}/pause", summary="Pause a schedule", response_class=Response, responses=_CHANGED)
    @routes.patch("/{schedule_id}/pause", summary="Pause a schedule", response_class=Response, responses=_CHANGED)
    async def pause(schedule_id: str, caller: Annotated[Caller, Depends(auth.changer)]) -> Response:
        """Let a schedule fire no more until it is resumed."""
        async with database.changing(caller.tenant_id) as connection:
            if not await schedules.pause(connection, caller.tenant_id, known(schedule_id)):
                raise NotFound("schedule", schedule_id)
        return Response()

    @routes.post("/{schedule_id}/resume", summary="Resume a schedule", response_class=Response, responses=_CHANGED)
    @routes.patch("/{schedule_id}/resume", summary="Resume a schedule", response_class=Response, responses=_CHANGED)
    async def resume(schedule_id: str, caller: Annotated[Caller, Depends(auth.changer)]) -> Response:
        """Let a paused schedule go on from now; nothing of the time in which it was paused is caught up."""
        async with database.changing(caller.tenant_id) as connection:
            if not await schedules.resume(connection, caller.tenant_id, known(schedule_id)):
                raise NotFound("schedule", schedule_id)
        return Response()

    return routes


async def _page(context: Context, tenant_id: TenantId, *, after: str) -> list[tuple[str, dict[str, Any]]]:
    """A page of views with their ids."""
    async with context.database.reading(tenant_id) as connection:
        page = await schedules.page(connection, tenant_id, after=after, limit=PAGE)
        states = await schedules.states(connection, [one for schedule in page for one in schedule.last_messages])
    return [(schedule.id, _view(context, schedule, states)) for schedule in page]


async def _pages(context: Context, tenant_id: TenantId, page: list[tuple[str, dict[str, Any]]]) -> AsyncIterator[bytes]:
    """The list, page after page, so that a long one with its bodies is never in memory as a whole."""
    yield b"["
    before = b""
    while page:
        yield before + b",".join(orjson.dumps(veiled(view)) for _, view in page)
        before = b","
        page = await _page(context, tenant_id, after=page[-1][0]) if len(page) == PAGE else []
    yield b"]"


def _view(context: Context, schedule: Schedule, states: dict[Any, TickState]) -> dict[str, Any]:
    return schedule_view(schedule, schedule.options(context.limits), states=states, now=context.clock.now())


_CHANGED = errors(401, 403, 404, 503)
_TEXT = {"type": "string"}
_INTEGER = {"type": "integer"}
_MILLISECONDS = {"type": "integer", "description": "Unix time in milliseconds"}
_SECONDS = {"type": "integer", "description": "seconds"}
_HEADER = {"type": "object", "additionalProperties": {"type": "array", "items": _TEXT}}
_SCHEDULE = {
    "type": "object",
    "required": [
        "scheduleId", "cron", "destination", "createdAt", "method", "header", "retries", "isPaused",
    ],
    "properties": {
        "scheduleId": {"type": "string", "maxLength": MAX_ID_LENGTH},
        "cron": {"type": "string", "example": "CRON_TZ=Europe/Berlin 0 9 * * MON-FRI"},
        "destination": {"type": "string", "description": "a URL, the name of a URL group, or api/llm"},
        "createdAt": _MILLISECONDS,
        "method": _TEXT,
        "header": _HEADER,
        "body": {"type": "string", "description": "absent when it is empty, or no text"},
        "bodyBase64": {"type": "string", "description": "a body that is no text"},
        "retries": _INTEGER,
        "isPaused": {"type": "boolean"},
        "delay": _SECONDS,
        "timeout": _SECONDS,
        "callback": _TEXT,
        "callbackHeader": _HEADER,
        "failureCallback": _TEXT,
        "failureCallbackHeader": _HEADER,
        "callerIP": _TEXT,
        "callerIp": _TEXT,
        "queueName": _TEXT,
        "flowControlKey": _TEXT,
        "parallelism": _INTEGER,
        "rate": _INTEGER,
        "period": _SECONDS,
        "retryDelayExpression": _TEXT,
        "label": {"type": "string", "description": "the first of the labels"},
        "labels": {"type": "array", "items": _TEXT},
        "lastScheduleTime": {"type": "integer", "description": "when it fired last, in Unix milliseconds"},
        "nextScheduleTime": {"type": "integer", "description": "when it fires next, or would if it were resumed now"},
        "lastScheduleStates": {
            "type": "object",
            "description": "the messages of the last tick",
            "additionalProperties": {"type": "string", "enum": [state.value for state in TickState]},
        },
        "error": {"type": "string", "description": "why the last tick made no message"},
    },
}  # fmt: skip
