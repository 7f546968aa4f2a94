"""What is unfinished: listed, with what each of it waits for, and changed."""

from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from orjson import dumps

from postroad.api.auth import Authentication
from postroad.api.context import Context, json
from postroad.api.documents import errors, found, json_body, page, parameters
from postroad.api.messages import known
from postroad.api.query import FILTERS, Query, document_of
from postroad.api.schemas import MESSAGE
from postroad.api.wire import cursor_of, message_view, position_of
from postroad.domain.callback import milliseconds
from postroad.domain.limits import Limits
from postroad.domain.log import Position
from postroad.domain.message import After, Immediately, NotBefore, When
from postroad.domain.publication import parse_options
from postroad.domain.tenant import Caller
from postroad.errors import BodyTooLarge, InvalidField, NotFound, Over, UnknownParameter, shown
from postroad.store import revisions, unfinished
from postroad.store.revisions import Revision
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
_TIMES = ("upstash-delay", "upstash-not-before")
_CHANGES = {
    "body": {"type": "string"},
    "headers": {"type": "object", "additionalProperties": {"type": "string"}},
    "delay": {"type": "string", "description": "from now on: a duration such as 10s"},
    "notBefore": {"type": "integer", "description": "Unix seconds"},
}
_CHOICE = {
    **{name: f"filter: {text}" for name, text in FILTERS.items()},
    "count": f"at most so many, up to {MOST:,}",
    "cursor": "where the page before ended",
}


def router(context: Context, auth: Authentication) -> APIRouter:
    """GET /v2/messages, and PATCH of one."""
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

    @routes.patch(
        "/{message_id}",
        summary="Change a message",
        responses={**found(MESSAGE), **errors(400, 401, 403, 404, 409, 413, 503)},
        openapi_extra=json_body(_CHANGES),
    )
    async def change(request: Request, message_id: str, caller: Annotated[Caller, Depends(auth.changer)]) -> Response:
        """Change the body, the headers or the time of a message that no attempt was made at yet.

        Of one that waits for a retry the time can be changed. A header that is given replaces those of its name, the
        others stay.
        """
        limits = context.limits
        document = await document_of(request, most_bytes=limits.max_body_bytes * 6 + 65_536)
        revision = revision_of(document or {}, limits=limits, now_s=context.clock.now_s())
        identity = known(message_id)
        revise = partial(
            revisions.revise, tenant_id=caller.tenant_id, message_id=identity, revision=revision, limits=limits
        )
        revised = await context.database.repeated(revise, tenant_id=caller.tenant_id)
        if revised is None:
            status = await context.watch.find(caller.tenant_id, identity)
            if status is None:
                raise NotFound("message", message_id)
            raise Over(
                f"the message is {status.phase}, and can be changed only before its first attempt; its time "
                "also while it waits for the next"
            )
        context.wake()
        return json(message_view(revised))

    return routes


def revision_of(document: dict[str, Any], *, limits: Limits, now_s: float) -> Revision:
    """What a request asks to be changed. Raises `InvalidField`, `BodyTooLarge` or `UnknownParameter`."""
    given = dict(document)
    body, headers = given.pop("body", None), given.pop("headers", None) or {}
    fields = []
    for name, header in (("delay", "upstash-delay"), ("notBefore", "upstash-not-before")):
        if (value := given.pop(name, None)) is not None:
            fields.append((header, value if isinstance(value, str) else dumps(value).decode()))
    for name in given:
        raise UnknownParameter(name)
    if body is not None and not isinstance(body, str):
        raise InvalidField("body", dumps(body).decode()[:100], "a string")
    if body is not None and len(body.encode()) > limits.max_body_bytes:
        raise BodyTooLarge(limits.max_body_bytes)
    if not isinstance(headers, dict):
        raise InvalidField("headers", dumps(headers).decode()[:100], "an object of names and values")
    for name, value in headers.items():
        if not isinstance(value, str):
            raise InvalidField(f"headers.{shown(name, quote='')}", dumps(value).decode()[:100], "a string")
        fields.append((_field(name), value))
    if body is None and not fields:
        raise InvalidField("body", "", "something to change: body, headers, delay or notBefore")
    options, _ = parse_options(fields, limits=limits, now_s=now_s)
    when = _instant(options.when, now_s) if any(name in _TIMES for name, _ in fields) else None
    return Revision(None if body is None else body.encode(), options.headers, when)


def _instant(when: When, now_s: float) -> NotBefore:
    """A message that waits has its time counted from now on, and not from its creation."""
    match when:
        case After(delay):
            return NotBefore(int(now_s + delay.total_seconds()))
        case Immediately():
            return NotBefore(int(now_s))
    return when


def _field(name: str) -> str:
    """How a publish would name this header. What is not the body, the headers or the time cannot be changed."""
    lower = name.lower()
    if lower == "content-type" or lower in _TIMES or lower.startswith("upstash-forward-"):
        return lower
    if lower.startswith("upstash-"):
        expected = "only headers of the delivery, and its time: cancel it and publish anew"
        raise InvalidField(f"headers.{shown(name, quote='')}", "it", expected)
    return f"upstash-forward-{lower}"


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
