"""The door: plain ASGI in front of the router, where publishes are taken in and paths are put right.

Frameworks decode, collapse and redirect paths; a destination must survive in its path byte for byte. So the publish
endpoint reads the raw path and the raw headers, before any router, and costs a tenth of a routed request.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import unquote, unquote_plus, unquote_to_bytes

from postroad.api.auth import SIGNED_IN, TOKEN_PARAMETER, bearer, may_change, may_publish, token_in_query
from postroad.api.client_address import caller_ip
from postroad.api.context import Context
from postroad.api.problems import JSON, Answer, problem, unexpected
from postroad.api.publishing import answer_to, publish, publish_batch, queue_field, refuse_delay
from postroad.api.reports import MOST_BODY_BYTES, take_at_door
from postroad.api.request_id import HEADER as REQUEST_ID
from postroad.api.request_id import request_id
from postroad.api.schedules import create_schedule
from postroad.domain.hops import MARK, next_hop
from postroad.domain.message import Options
from postroad.domain.publication import Deduplication, Publication, Request, parse_options
from postroad.domain.status_access import PARAMETER
from postroad.domain.tenant import Caller
from postroad.errors import (
    BodyTooLarge,
    IntakeFull,
    InvalidField,
    PostroadError,
    Unauthenticated,
    UnsupportedCoding,
)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_ENTRY = re.compile(rb"/+v2/(publish|enqueue|schedules|batch(?=/?\Z))(?:/(.*))?", re.IGNORECASE | re.DOTALL)
_PAGE = re.compile(rb"/console(?:/.*)?", re.DOTALL)
_REPORT = re.compile(rb"/+v2/status/(msg_[1-9A-HJ-NP-Za-km-z]{22})/?")
_SCHEDULE_ACTION = re.compile(rb"[^/:]+/(?:pause|resume|run)/?", re.IGNORECASE)
_COLLAPSED_SCHEME = re.compile(r"\A(https?):/(?!/)", re.IGNORECASE)
_BY_URL = PARAMETER.encode() + b"="
_UPSTASH = b"upstash-"
_HEADER_FORWARD = b"upstash-header-forward"
_MARK = MARK.encode()
_NO_SNIFFING = (b"x-content-type-options", b"nosniff")
_NOT_REMEMBERED = (_HEADER_FORWARD, b"upstash-not-before", b"upstash-deduplication-id")
"""What depends on other headers or on the time, or is never the same twice."""
_MOST_REMEMBERED_BYTES = 2048
_MOST_ARRIVING_BYTES = 256 * 1024 * 1024
"""What bodies of which the end has not come yet may hold of memory together, in one process."""


class GoneError(Exception):
    """The client left before its request was complete."""


@dataclass(slots=True)
class _Head:
    """What a request says before its body: our own headers, and the parameters that are meant for the destination."""

    token: str | None
    length: int | None
    coding: bytes
    telling: tuple[tuple[bytes, bytes], ...]
    parameters: str
    hop: tuple[tuple[str, str], ...]


class Door:
    """An ASGI application around the FastAPI one."""

    def __init__(self, app: App, context: Context) -> None:
        self._app = app
        self._context = context
        self._intake = context.intake
        self._tenancy = context.tenancy
        self._limits = context.limits
        self._trusted_proxies = context.trusted_proxies
        self._pages: App | None = None
        self._arriving_bytes = 0
        self._most_arriving_bytes = max(_MOST_ARRIVING_BYTES, 2 * context.limits.max_batch_bytes)
        self._remembered_options = lru_cache(maxsize=1024)(self._parse)

    def show(self, pages: App) -> None:
        """Let pages for people answer beside the API."""
        self._pages = pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        name = request_id(scope["headers"])
        entry = _ENTRY.fullmatch(scope["raw_path"])
        if entry is None or (entry[1].lower() == b"schedules" and not _makes_a_schedule(scope["method"], entry[2])):
            if scope["method"] == "POST" and _BY_URL in scope["query_string"]:
                report = _REPORT.fullmatch(scope["raw_path"])
                if report is not None:
                    await self._answer(self._report(scope, receive, report[1].decode()), send, name)
                    return
            if not _is_text(scope["raw_path"]):
                await _send(send, problem(InvalidField("path", scope["path"], "percent-encoded UTF-8")), name)
                return
            if self._pages is not None and _is_page(scope):
                await self._pass_on(self._pages, scope, receive, send, name)
                return
            scope["path"] = _put_right(scope["path"], scope["method"])
            await self._pass_on(self._app, scope, receive, send, name)
            return
        await self._answer(self._enter(scope, receive, entry[1].lower(), entry[2] or b""), send, name)

    async def _answer(self, work: Coroutine[Any, Any, Answer], send: Send, name: bytes) -> None:
        """Send what comes of the work, whatever that is."""
        try:
            answer = await work
        except PostroadError as error:
            answer = problem(error)
        except GoneError:
            return
        except Exception as error:  # noqa: BLE001  whatever it is, the client gets an answer and the log a traceback
            answer = unexpected(error, name)
        await _send(send, answer, name)

    async def _pass_on(self, app: App, scope: Scope, receive: Receive, send: Send, name: bytes) -> None:
        """Let a router answer, under the id of the request."""

        async def send_named(event: MutableMapping[str, Any]) -> None:
            if event["type"] == "http.response.start":
                event["headers"] = [*event["headers"], (REQUEST_ID, name), _NO_SNIFFING]
            await send(event)

        try:
            await app(scope, receive, send_named)
        except Exception as error:  # noqa: BLE001  it was answered before it came here, as far as it can be
            unexpected(error, name)

    async def _enter(self, scope: Scope, receive: Receive, way: bytes, path: bytes) -> Answer:
        if scope["method"] != "POST":
            return Answer(405, b'{"error":"publish with POST"}', (JSON, (b"allow", b"POST")))
        head = _head(scope)
        client = scope["client"]
        caller = may_publish(
            (None if head.token is None else self._tenancy.known_caller(head.token))
            or await self._stranger(head.token, scope)
        )
        ip: str | None = client[0] if client else None
        if self._trusted_proxies:
            ip = caller_ip(ip, scope["headers"], self._trusted_proxies)
        if head.coding:
            _check_coding(head, is_batch=way == b"batch")
        if way == b"batch":
            body = await self._body(receive, head.length, self._limits.max_batch_bytes)
            return await publish_batch(self._context, caller, body, ip, head.hop)
        telling = head.telling
        destination = path.decode("latin-1")
        if way == b"enqueue":
            queue, _, destination = destination.partition("/")
            name, value = queue_field(unquote(queue))
            telling = (*telling, (name.encode(), value.encode()))
        destination = _put_right_destination(destination, head.parameters)
        body = await self._body(receive, head.length, self._limits.max_body_bytes)
        if way == b"schedules" or any(name == b"upstash-cron" for name, _ in telling):
            self._context.call_limit.count(caller)
            fields = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in _all(telling, scope)]
            request = Request(destination, fields, body, ip)
            return await create_schedule(self._context, may_change(caller), request)
        enqueue = way == b"enqueue"
        if "://" not in destination:
            fields = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in _all(telling, scope)]
            request = Request(destination, fields, body, ip)
            return await publish(self._context, caller, request, enqueue=enqueue)
        options, deduplication = self._options(telling, scope)
        publication = Publication(destination, body, options, deduplication, ip)
        if enqueue:
            refuse_delay([publication])
        return answer_to(await self._intake.publish(caller, publication), enqueue=enqueue)

    async def _stranger(self, token: str | None, scope: Scope) -> Caller:
        """Who is signed in where this request was made, or holds a token that is not at hand."""
        signed_in: Caller | None = scope.get(SIGNED_IN)
        if signed_in is not None:
            return signed_in
        if token is None:
            raise Unauthenticated
        return await self._context.strangers.caller(token, scope["client"], scope["headers"])

    async def _report(self, scope: Scope, receive: Receive, message_id: str) -> Answer:
        """What a handler reports: as many come as publishes, and there is as little to do for each."""
        length = next((int(value) for name, value in scope["headers"] if name == b"content-length"), None)
        body = await self._body(receive, length, MOST_BODY_BYTES)
        return await take_at_door(self._context, scope, message_id, body)

    async def _body(self, receive: Receive, length: int | None, limit: int) -> bytes:
        """The whole body, of an announced length or none.

        Raises `BodyTooLarge` as soon as possible, `IntakeFull` when too much is arriving, and `GoneError`.
        """
        if length is not None and length > limit:
            raise BodyTooLarge(limit)
        event = await receive()
        if event["type"] == "http.disconnect":
            raise GoneError
        body: bytes = event.get("body", b"")
        if not event.get("more_body", False):
            if len(body) > limit:
                raise BodyTooLarge(limit)
            return body
        parts, size = [body], len(body)
        self._arriving_bytes += size
        try:
            while event.get("more_body", False):
                if self._arriving_bytes > self._most_arriving_bytes:
                    raise IntakeFull
                event = await receive()
                if event["type"] == "http.disconnect":
                    raise GoneError
                parts.append(event.get("body", b""))
                size += len(parts[-1])
                self._arriving_bytes += len(parts[-1])
                if size > limit:
                    raise BodyTooLarge(limit)
        finally:
            self._arriving_bytes -= size
        return b"".join(parts)

    def _options(self, telling: tuple[tuple[bytes, bytes], ...], scope: Scope) -> tuple[Options, Deduplication]:
        """Options of a publish. A publisher sends the same headers again and again, so what they mean is remembered."""
        for name, _ in telling:
            if name in _NOT_REMEMBERED:
                return self._parse(_all(telling, scope))
        if sum(len(name) + len(value) for name, value in telling) > _MOST_REMEMBERED_BYTES:
            return self._parse(telling)
        return self._remembered_options(telling)

    def _parse(self, fields: tuple[tuple[bytes, bytes], ...]) -> tuple[Options, Deduplication]:
        return parse_options(
            [(name.decode("latin-1"), value.decode("latin-1")) for name, value in fields],
            limits=self._limits,
            now_s=self._context.clock.now_s(),
        )


async def _send(send: Send, answer: Answer, name: bytes) -> None:
    headers = [*answer.headers, (b"content-length", str(len(answer.body)).encode()), (REQUEST_ID, name)]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})


def _is_page(scope: Scope) -> bool:
    """Whether people are meant: at the root only who asks for HTML, because clients look there whether we are alive."""
    if scope["raw_path"] == b"/":
        return any(name == b"accept" and b"text/html" in value for name, value in scope["headers"])
    return _PAGE.fullmatch(scope["raw_path"]) is not None


def _is_text(path: bytes) -> bool:
    """Whether what is percent-encoded in a path is UTF-8: decoded leniently, different names would become one."""
    if b"%" not in path:
        return True
    try:
        unquote_to_bytes(path).decode()
    except UnicodeDecodeError:
        return False
    return True


def _head(scope: Scope) -> _Head:
    token, length, coding, telling, parameters, is_delivery = None, None, b"", [], "", False
    for pair in scope["headers"]:
        name = pair[0]
        if name[:8] == _UPSTASH or name == b"content-type":
            telling.append(pair)
            is_delivery = is_delivery or name == _MARK
        elif name == b"authorization":
            token = bearer(pair[1].decode("latin-1"))
        elif name == b"content-length":
            length = int(pair[1])
        elif name == b"content-encoding":
            coding = pair[1]
    if scope["query_string"]:
        query = scope["query_string"].decode("latin-1")
        if token is None:
            token = token_in_query(query)
        own, parameters = _split_query(query)
        telling = own + telling
    hop: tuple[tuple[str, str], ...] = ()
    if is_delivery:
        hop = (("upstash-hops", next_hop((name.decode(), value.decode("latin-1")) for name, value in telling)),)
        telling += [(name.encode(), value.encode()) for name, value in hop]
    return _Head(token, length, coding, tuple(telling), parameters, hop)


def _check_coding(head: _Head, *, is_batch: bool) -> None:
    """Refuse a compressed body that its destination would not know to be one. Raises `UnsupportedCoding`."""
    coding = head.coding.decode("latin-1").strip()
    if coding.lower() in ("", "identity"):
        return
    if is_batch:
        raise UnsupportedCoding(coding)
    for name, value in head.telling:
        if name == b"upstash-forward-content-encoding":
            return
        if name == _HEADER_FORWARD and value.strip().lower() in (b"true", b"1"):
            return
    raise UnsupportedCoding(coding, "; to deliver it as it is, say so with Upstash-Forward-Content-Encoding")


def _all(telling: tuple[tuple[bytes, bytes], ...], scope: Scope) -> tuple[tuple[bytes, bytes], ...]:
    """... and the headers that may follow to the destination, if that is asked for."""
    rest = [pair for pair in scope["headers"] if pair[0][:8] != _UPSTASH and pair[0] != b"content-type"]
    return (*telling, *rest)


def _makes_a_schedule(method: str, path: bytes | None) -> bool:
    """POST, but for an action: no destination looks like `{id}/pause`, which has no scheme before."""
    return method == "POST" and _SCHEDULE_ACTION.fullmatch(path or b"") is None


def _put_right_destination(destination: str, parameters: str) -> str:
    if destination[:7] != "http://" and destination[:8] != "https://":
        destination = _COLLAPSED_SCHEME.sub(r"\1://", destination, count=1)
        if "://" not in destination:
            destination = destination.rstrip("/")
    return f"{destination}?{parameters}" if parameters else destination


def _split_query(query: str) -> tuple[list[tuple[bytes, bytes]], str]:
    """Our own parameters as header fields, and what remains for the destination, untouched.

    Headers count more than parameters, so the parameters come first in the list.
    """
    own: list[tuple[bytes, bytes]] = []
    kept: list[str] = []
    for part in query.split("&"):
        name, _, value = part.partition("=")
        if name[:8].lower() == "upstash-":
            own.append((name.lower().encode("latin-1"), _header_value(name, value)))
        elif name != TOKEN_PARAMETER:
            kept.append(part)
    return own, "&".join(kept)


def _header_value(name: str, value: str) -> bytes:
    try:
        return unquote_plus(value).encode("latin-1")
    except UnicodeEncodeError:
        raise InvalidField(name, value, "characters that a header may hold") from None


def _put_right(path: str, method: str) -> str:
    """Clients say /v2/Schedules, //v2/keys and /v2/keys/; routes know one form."""
    if path.lstrip("/")[:3].lower() != "v2/":
        return path
    resource, *rest = path.strip("/").split("/")[1:] or [""]
    resource = _RESOURCES.get(resource.lower(), resource)
    rest = [part.lower() if (resource, n, part.lower()) in _ACTIONS else part for n, part in enumerate(rest)]
    if resource == "flowControl" and method == "POST" and len(rest) > 1:
        rest[-1] = _FLOW_CONTROL_ACTIONS.get(rest[-1].lower(), rest[-1])
    return "/".join(["/v2", resource, *rest])


_RESOURCES = {
    name.lower(): name
    for name in (
        "messages",
        "status",
        "dlq",
        "queues",
        "topics",
        "schedules",
        "flowControl",
        "globalParallelism",
        "bulkActions",
        "events",
        "logs",
        "keys",
        "rotate",
        "readiness",
        "liveness",
    )
}

_ACTIONS = {
    ("dlq", 0, "retry"), ("keys", 0, "rotate"), ("messages", 1, "retry"), ("topics", 1, "endpoints"),
    ("queues", 1, "pause"), ("queues", 1, "resume"), ("schedules", 1, "pause"), ("schedules", 1, "resume"),
    ("schedules", 1, "run"),
}  # fmt: skip
"""Fixed segments by their resource and place; what stands elsewhere is an id or a name."""

_FLOW_CONTROL_ACTIONS = {name.lower(): name for name in ("pause", "resume", "pin", "unpin", "resetRate")}
"""Behind a key, which may hold slashes itself."""
