"""What is done with a schedule that is there: run now, and changed in part."""

from base64 import b64decode
from binascii import Error as Base64Error
from dataclasses import replace
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Request, Response

from postroad.api.auth import Authentication
from postroad.api.context import Context
from postroad.api.documents import errors, found, json_body
from postroad.api.problems import Answer
from postroad.api.publishing import MOST_HEADER_BYTES, MOST_HEADERS, answer_for
from postroad.api.query import Query, document_of
from postroad.api.schemas import PUBLISHED
from postroad.domain import publication
from postroad.domain.cron import Cron, parse_cron
from postroad.domain.ids import random_text
from postroad.domain.publication import UNIQUE, Publication
from postroad.domain.schedule import Schedule, is_kept, next_tick, parse_schedule_id
from postroad.domain.tenant import Caller
from postroad.domain.url_group import UrlGroup
from postroad.errors import (
    BodyTooLarge,
    EmptyDestination,
    InvalidField,
    InvalidValue,
    NotFound,
    Over,
    UnknownParameter,
    shown,
)
from postroad.store import queues, schedules

_CHANGES: dict[str, Any] = {
    "cron": {"type": "string"},
    "destination": {"type": "string", "description": "a URL, the name of a URL group, or api/llm"},
    "body": {"type": "string"},
    "bodyBase64": {"type": "string", "description": "a body that is no text"},
    "headers": {
        "type": "object",
        "description": "headers of a publish, such as Upstash-Retries; a list for one that is repeated, null for none",
        "additionalProperties": {
            "oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}, {"type": "null"}]
        },
    },
}
"""What can be changed of a schedule; what is not given stays."""


_RAN = {"anyOf": [PUBLISHED, {"type": "array", "items": PUBLISHED}]}


def router(context: Context, auth: Authentication) -> APIRouter:
    """The routes under /v2/schedules that act on one as a whole."""
    routes = APIRouter(prefix="/v2/schedules", tags=["Schedules"])

    @routes.patch(
        "/{schedule_id}",
        summary="Change a schedule",
        response_class=Response,
        responses=errors(400, 401, 403, 404, 409, 412, 413, 415, 503),
        openapi_extra=json_body(_CHANGES),
    )
    async def edit(request: Request, schedule_id: str, caller: Annotated[Caller, Depends(auth.changer)]) -> Response:
        """Change the times, the destination, the body or headers. What is not given stays, and so do pause and history.

        A header that is given replaces those of its name.
        """
        Query.of(request).end()
        document = await document_of(request, most_bytes=context.limits.max_body_bytes * 6 + 65_536)
        await change(context, caller, known(schedule_id), document or {})
        return Response()

    @routes.post(
        "/{schedule_id}/run",
        summary="Run a schedule now",
        status_code=201,
        responses={**found(_RAN, 201), **errors(400, 401, 403, 404, 412, 503)},
    )
    async def run(schedule_id: str, caller: Annotated[Caller, Depends(auth.changer)]) -> Response:
        """Publish what the next tick would publish. It is no tick: the schedule stays as it is, paused or not."""
        answer = await run_now(context, caller, known(schedule_id))
        return Response(answer.body, answer.status, media_type="application/json")

    return routes


async def run_now(context: Context, caller: Caller, schedule_id: str) -> Answer:
    """Publish what the next tick would, as a publish of the caller. It is no tick, the schedule stays as it is."""
    schedule = await _found(context, caller, schedule_id)
    _, publications = await read(context, caller, schedule.request)
    answers = await context.intake.publish_all(caller, [replace(one, deduplication=UNIQUE) for one in publications])
    return answer_for(answers, is_group=publications[0].origin.url_group is not None)


async def change(context: Context, caller: Caller, schedule_id: str, document: dict[str, Any]) -> None:
    """Change what is given of a schedule. Its pause, its history and whatever is not given stay.

    The whole is read as every tick will read it, and nothing is stored of one that a publish would be refused for.
    """
    before = await _found(context, caller, schedule_id)
    cron, request = revised(before, document, max_body_bytes=context.limits.max_body_bytes)
    if cron.text != before.cron:
        check_next(context, cron)
    _, publications = await read(context, caller, request)
    await vet(context, caller, publications)
    async with context.database.changing(caller.tenant_id) as connection:
        if (queue := publications[0].options.queue) is not None:
            await queues.admit(connection, caller.tenant_id, [queue], most=context.limits.max_queues)
        if not await schedules.change(connection, before, cron, request):
            raise Over("the schedule was changed or deleted meanwhile: read it again")


def revised(before: Schedule, document: dict[str, Any], *, max_body_bytes: int) -> tuple[Cron, publication.Request]:
    """The expression and the request that a document asks for. Raises `InvalidField` and the like."""
    given = dict(document)
    cron, destination = given.pop("cron", before.cron), given.pop("destination", before.request.destination)
    body, headers = _body(given), given.pop("headers", {})
    for name in given:
        raise UnknownParameter(name)
    if not isinstance(cron, str):
        raise InvalidField("cron", _shown(cron), "a cron expression")
    if not isinstance(destination, str):
        raise InvalidField("destination", _shown(destination), "a string")
    if not destination:
        raise EmptyDestination
    if not isinstance(headers, dict):
        raise InvalidField("headers", _shown(headers), "an object of names and values")
    if not document:
        raise InvalidField("body", "", f"something to change: {', '.join(_CHANGES)}")
    if body is not None and len(body) > max_body_bytes:
        raise BodyTooLarge(max_body_bytes)
    fields = _merged(before.request.fields, headers)
    return parsed_cron("cron", cron), replace(
        before.request, destination=destination, fields=fields, body=before.request.body if body is None else body
    )


async def read(
    context: Context, caller: Caller, request: publication.Request
) -> tuple[dict[str, UrlGroup], list[Publication]]:
    """What a tick would publish now, and the URL group that it goes to."""
    async with context.database.reading(caller.tenant_id) as connection:
        groups = await context.publisher.groups(connection, caller.tenant_id, [request.destination])
    return groups, context.publisher.read(request, groups)


async def vet(context: Context, caller: Caller, publications: list[Publication]) -> None:
    """Refuse what a publish would refuse. Endpoints of a group were vetted when they were added, and share options."""
    one = publications[0]
    unknown = context.publisher.unknown_urls(one)
    if unknown:
        await context.publisher.look_up(unknown)
    context.publisher.message(caller.tenant_id, one, policy=caller.destinations)


def parsed_cron(field: str, text: str) -> Cron:
    """The expression in a field. Raises `InvalidField`."""
    try:
        return parse_cron(text)
    except InvalidValue as error:
        raise InvalidField(field, error.value, error.expected) from None


def check_next(context: Context, cron: Cron, *, field: str = "cron") -> None:
    """Refuse an expression that never fires any more. Raises `InvalidField`."""
    try:
        next_tick(cron, context.clock.now())
    except InvalidValue as error:
        raise InvalidField(field, error.value, error.expected) from None


def id_of(text: str | None) -> str:
    """The id in a header, or a new one. Raises `InvalidField`."""
    if text is None or not text.strip():
        return random_text("scd_")
    try:
        return parse_schedule_id(text.strip())
    except InvalidValue as error:
        raise InvalidField("Upstash-Schedule-Id", error.value, error.expected) from None


def known(schedule_id: str) -> str:
    """The id in a path. One that no schedule may have is not found, as any other that does not exist."""
    if not is_id(schedule_id):
        raise NotFound("schedule", schedule_id)
    return schedule_id


def is_id(text: str) -> bool:
    """Whether a schedule may have this id."""
    try:
        parse_schedule_id(text)
    except InvalidValue:
        return False
    return True


async def _found(context: Context, caller: Caller, schedule_id: str) -> Schedule:
    """A schedule whose contents can be read. Raises `NotFound`, and what keeps it from being opened."""
    async with context.database.reading(caller.tenant_id) as connection:
        schedule = await schedules.find(connection, caller.tenant_id, schedule_id)
    if schedule is None:
        raise NotFound("schedule", schedule_id)
    if schedule.unopened is not None:
        raise schedule.unopened
    return schedule


def _body(given: dict[str, Any]) -> bytes | None:
    body, encoded = given.pop("body", None), given.pop("bodyBase64", None)
    if body is not None and encoded is not None:
        raise InvalidField("bodyBase64", _shown(encoded), "nothing, because body is given")
    if body is not None:
        if not isinstance(body, str):
            raise InvalidField("body", _shown(body), "a string")
        return body.encode()
    if encoded is None:
        return None
    try:
        return b64decode(encoded, validate=True)
    except (Base64Error, TypeError, ValueError):
        raise InvalidField("bodyBase64", _shown(encoded), "a string in base64") from None


def _merged(fields: Any, changes: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """The fields with those changed that are named; what replaces one stands where the first of its name did."""
    known = {name for name, _ in fields}
    wanted = {name.lower(): _values(name, value, known) for name, value in changes.items()}
    merged: list[tuple[str, str]] = []
    for name, value in fields:
        if name not in wanted:
            merged.append((name, value))
        else:
            merged += [(name, one) for one in wanted[name]]
            wanted[name] = []
    merged += [(name, one) for name, values in wanted.items() for one in values]
    size = sum(len(name) + len(value) for name, value in merged)
    if len(merged) > MOST_HEADERS:
        raise InvalidField("headers", f"{len(merged)} headers", f"at most {MOST_HEADERS} headers")
    if size > MOST_HEADER_BYTES:
        raise InvalidField("headers", f"{size} bytes", f"at most {MOST_HEADER_BYTES} bytes of headers")
    return tuple(merged)


def _values(name: str, value: Any, known: set[str]) -> list[str]:
    where = f"headers.{shown(name, quote='')}"
    lower = name.lower()
    if lower == "upstash-not-before" or not (is_kept(lower) or lower in known):
        expected = "a header that a schedule keeps: Content-Type, Upstash-Forward-… or one such as Upstash-Retries"
        raise InvalidField(where, "it", expected)
    values = [] if value is None else value if isinstance(value, list) else [value]
    for one in values:
        if not isinstance(one, str):
            raise InvalidField(where, _shown(one), "a string, a list of strings or null")
    return list(values)


def _shown(value: object) -> str:
    return orjson.dumps(value).decode()[:100]
