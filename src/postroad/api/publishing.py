"""What publish, enqueue and batch have in common: requests become publications, and answers the shapes of QStash."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import orjson

from postroad.api.context import Context
from postroad.api.json_text import elements
from postroad.api.problems import Answer
from postroad.domain.ids import message_text
from postroad.domain.message import IMMEDIATELY
from postroad.domain.publication import Publication, Request
from postroad.domain.queue import parse_queue_name
from postroad.domain.tenant import Caller, TenantId
from postroad.domain.url_group import UrlGroup, is_group_name
from postroad.errors import (
    BodyTooLarge,
    DelayedEnqueue,
    EmptyDestination,
    InvalidField,
    InvalidValue,
    LimitExceeded,
    NotFound,
    PostroadError,
    shown,
)
from postroad.publish import Published
from postroad.turns import Turns

QUEUE_NAME = "upstash-queue-name"

MOST_HEADERS = 200
MOST_HEADER_BYTES = 64 * 1024
"""An item has no more than a request of its own could have."""


async def publish(context: Context, caller: Caller, request: Request, *, enqueue: bool = False) -> Answer:
    """Publish to whatever a destination may be. The answer for a URL group is a bare array, one element an endpoint."""
    publications, groups = await _read(context, caller, request, enqueue=enqueue)
    answers = await context.intake.publish_all(caller, publications)
    return answer_for(answers, is_group=request.destination in groups, enqueue=enqueue)


async def rehearse(context: Context, caller: Caller, request: Request, *, enqueue: bool = False) -> int:
    """Refuse what a publish would refuse, and store nothing; gives how many messages it would make."""
    if len(request.body) > context.limits.max_body_bytes:
        raise BodyTooLarge(context.limits.max_body_bytes)
    publications, _ = await _read(context, caller, request, enqueue=enqueue)
    await _vet(context, caller, publications)
    return len(publications)


async def publish_batch(
    context: Context, caller: Caller, body: bytes, caller_ip: str | None, hop: Sequence[tuple[str, str]] = ()
) -> Answer:
    """Publish the items of a batch, all or none of them, in one transaction.

    An item that is not valid refuses the batch, and the error says which one it is. Only what the database itself
    refuses is answered in the place of its item. `hop` is what every item inherits of a batch that we delivered.
    """
    requests, groups, publications, sizes = await _read_batch(context, caller, body, caller_ip, hop)
    if not requests:
        return Answer(200, b"[]")
    answers = iter(await context.intake.publish_all(caller, publications))
    content: list[Any] = []
    for request, size in zip(requests, sizes, strict=True):
        elements = [_element(next(answers)) for _ in range(size)]
        if request.destination in groups:
            content.append(elements)
        else:
            elements[0].pop("url", None)
            content.append(elements[0])
    return Answer(200, orjson.dumps(content))


def answer_for(answers: Sequence[Published | PostroadError], *, is_group: bool, enqueue: bool = False) -> Answer:
    """The answer to a publish: a bare array for a URL group, else that for its message. Raises what refused this."""
    if is_group:
        status = 202 if all(isinstance(one, Published) and one.deduplicated for one in answers) else 201
        return Answer(200 if enqueue and status == 201 else status, orjson.dumps([_element(one) for one in answers]))
    [answer] = answers
    if isinstance(answer, PostroadError):
        raise answer
    return answer_to(answer, enqueue=enqueue)


def answer_to(published: Published, *, enqueue: bool = False) -> Answer:
    """201 for a new message, 202 for a duplicate, as the live service answers; enqueue has 200 for a new one."""
    if published.deduplicated:
        return Answer(202, b'{"messageId":"%s","deduplicated":true}' % message_text(published.id).encode())
    return Answer(200 if enqueue else 201, b'{"messageId":"%s"}' % message_text(published.id).encode())


def refuse_delay(publications: Sequence[Publication]) -> None:
    """A message in a queue waits for its turn, not for a time. Raises `DelayedEnqueue`."""
    for publication in publications:
        if publication.options.when is not IMMEDIATELY:
            raise DelayedEnqueue


def queue_field(name: str) -> tuple[str, str]:
    """The name of a queue in a path as the header that it stands for. Raises `InvalidField`."""
    try:
        return QUEUE_NAME, parse_queue_name(name)
    except InvalidValue as error:
        raise InvalidField("queueName", error.value, error.expected) from None


async def _read(
    context: Context, caller: Caller, request: Request, *, enqueue: bool
) -> tuple[list[Publication], dict[str, UrlGroup]]:
    async with context.database.reading(caller.tenant_id) as connection:
        groups = await context.publisher.groups(connection, caller.tenant_id, [request.destination])
    publications = context.publisher.read(request, groups)
    if enqueue:
        refuse_delay(publications)
    return publications, groups


async def rehearse_batch(context: Context, caller: Caller, body: bytes) -> int:
    """Refuse what a batch would be refused for, and store nothing; gives how many messages it would make."""
    if len(body) > context.limits.max_batch_bytes:
        raise BodyTooLarge(context.limits.max_batch_bytes)
    _, _, publications, _ = await _read_batch(context, caller, body, None, ())
    await _vet(context, caller, publications)
    return len(publications)


async def _vet(context: Context, caller: Caller, publications: Sequence[Publication]) -> None:
    unknown = {url.host: url for one in publications for url in context.publisher.unknown_urls(one)}
    if unknown:
        await context.publisher.look_up(list(unknown.values()))
    turns = Turns()
    for one in publications:
        context.publisher.message(caller.tenant_id, one, policy=caller.destinations)
        await turns.step()


async def _read_batch(
    context: Context, caller: Caller, body: bytes, caller_ip: str | None, hop: Sequence[tuple[str, str]]
) -> tuple[list[Request], dict[str, UrlGroup], list[Publication], list[int]]:
    """The requests of a batch, their URL groups, all publications, and how many of these each request makes."""
    requests, queued = await _items(context, body, caller_ip)
    if hop:
        requests = [replace(one, fields=(*one.fields, *hop)) for one in requests]
    groups = await _groups(context, caller.tenant_id, requests)
    publications: list[Publication] = []
    sizes: list[int] = []
    turns = Turns()
    for index, request in enumerate(requests):
        with _of_item(index):
            read = context.publisher.read(request, groups)
            if index in queued:
                refuse_delay(read)
            for publication in read:
                context.publisher.unknown_urls(publication)
        publications += read
        sizes.append(len(read))
        await turns.step()
    return requests, groups, publications, sizes


async def _groups(context: Context, tenant_id: TenantId, requests: Sequence[Request]) -> dict[str, UrlGroup]:
    if not any(is_group_name(one.destination) for one in requests):
        return {}
    async with context.database.reading(tenant_id) as connection:
        try:
            return await context.publisher.groups(connection, tenant_id, {one.destination for one in requests})
        except NotFound as error:
            with _of_item([one.destination for one in requests].index(error.name)):
                raise
            raise AssertionError from None  # for mypy, which takes every context manager for one that may swallow


async def _items(context: Context, body: bytes, caller_ip: str | None) -> tuple[list[Request], set[int]]:
    """The requests of a batch, and which of them are for a queue."""
    requests: list[Request] = []
    queued: set[int] = set()
    turns = Turns()
    async for item in elements(body, "a JSON array", most=context.limits.max_batch_items):
        index = len(requests)
        if index == context.limits.max_batch_items:
            raise LimitExceeded("maxBatchItems", context.limits.max_batch_items, field="body")
        with _of_item(index):
            requests.append(_request(item, context.limits.max_body_bytes, caller_ip))
            if item.get("queue"):
                queued.add(index)
        await turns.step()
    return requests, queued


def _request(item: object, max_body_bytes: int, caller_ip: str | None) -> Request:
    if not isinstance(item, dict):
        raise InvalidField("item", _shown(item), "an object")
    destination, headers, body, queue = (item.get(name) for name in ("destination", "headers", "body", "queue"))
    if destination is None or destination == "":
        raise EmptyDestination
    if not isinstance(destination, str):
        raise InvalidField("destination", _shown(destination), "a string")
    if not isinstance(headers, dict | None):
        raise InvalidField("headers", _shown(headers), "an object of strings")
    if not isinstance(body, str | None):
        raise InvalidField("body", _shown(body), "a string")
    if not isinstance(queue, str | None):
        raise InvalidField("queue", _shown(queue), "a string")
    fields = _fields(headers or {})
    if queue:
        fields.append(queue_field(queue))
    content = (body or "").encode()
    if len(content) > max_body_bytes:
        raise BodyTooLarge(max_body_bytes)
    return Request(destination, tuple(fields), content, caller_ip)


def _fields(headers: dict[str, Any]) -> list[tuple[str, str]]:
    if len(headers) > MOST_HEADERS:
        raise InvalidField("headers", f"{len(headers)} headers", f"at most {MOST_HEADERS} headers")
    fields: list[tuple[str, str]] = []
    size = 0
    for name, value in headers.items():
        if not isinstance(value, str):
            raise InvalidField(f"headers.{shown(name, quote='')}", _shown(value), "a string")
        size += len(name) + len(value)
        if size > MOST_HEADER_BYTES:
            raise InvalidField("headers", name, f"at most {MOST_HEADER_BYTES} bytes of headers")
        if name.lower() == "upstash-cron":
            raise InvalidField(f"headers.{name}", value, "nothing: a batch makes no schedules")
        fields.append((name.lower(), value))
    return fields


def _element(answer: Published | PostroadError) -> dict[str, Any]:
    if isinstance(answer, PostroadError):
        return {"error": f"failed to publish to url: {answer}"}
    element: dict[str, Any] = {"messageId": message_text(answer.id), "url": answer.url}
    if answer.deduplicated:
        element["deduplicated"] = True
    return element


def _shown(value: object) -> str:
    return orjson.dumps(value).decode()[:100]


@contextmanager
def _of_item(index: int) -> Iterator[None]:
    """Say of an error which item of the batch it is about, the first one being 0."""
    try:
        yield
    except PostroadError as error:
        error.args = (f"{error} (item {index})",)
        raise
