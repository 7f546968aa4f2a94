"""The door: plain ASGI in front of the router, where publishes are taken in and paths are put right.

Frameworks decode, collapse and redirect paths; a destination must survive in its path byte for byte. So the publish
endpoint reads the raw path and the raw headers, before any router, and costs a tenth of a routed request.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, MutableMapping
from functools import lru_cache
from typing import Any
from urllib.parse import unquote_plus

from postroad.api.auth import TOKEN_PARAMETER, bearer, may_publish, token_in_query
from postroad.api.problems import JSON, Answer, problem, unexpected
from postroad.clock import Clock
from postroad.domain.ids import message_text
from postroad.domain.limits import Limits
from postroad.domain.message import Options
from postroad.domain.publication import Deduplication, Publication, parse_options
from postroad.errors import BodyTooLarge, InvalidField, PostroadError, Unauthenticated
from postroad.intake import Intake
from postroad.publish import Published
from postroad.tenancy import Tenancy

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_PUBLISH = re.compile(rb"/+v2/publish(?:/(.*))?", re.IGNORECASE | re.DOTALL)
_COLLAPSED_SCHEME = re.compile(r"\A(https?):/(?!/)", re.IGNORECASE)
_UPSTASH = b"upstash-"
_HEADER_FORWARD = b"upstash-header-forward"
_NOT_REMEMBERED = (_HEADER_FORWARD, b"upstash-not-before", b"upstash-deduplication-id")
"""What depends on other headers or on the time, or is never the same twice."""
_MOST_REMEMBERED_BYTES = 2048


class GoneError(Exception):
    """The client left before its request was complete."""


class Door:
    """An ASGI application around the FastAPI one."""

    def __init__(self, app: App, *, intake: Intake, tenancy: Tenancy, limits: Limits, clock: Clock) -> None:
        self._app = app
        self._intake = intake
        self._tenancy = tenancy
        self._limits = limits
        self._clock = clock
        self._remembered_options = lru_cache(maxsize=1024)(self._parse)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        publish = _PUBLISH.fullmatch(scope["raw_path"])
        if publish is None:
            scope["path"] = _put_right(scope["path"])
            await self._app(scope, receive, send)
            return
        try:
            answer = await self._publish(scope, receive, publish[1] or b"")
        except PostroadError as error:
            answer = problem(error)
        except GoneError:
            return
        except Exception as error:  # noqa: BLE001  whatever it is, the client gets an answer and the log a traceback
            answer = unexpected(error)
        headers = [*answer.headers, (b"content-length", str(len(answer.body)).encode())]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})

    async def _publish(self, scope: Scope, receive: Receive, path: bytes) -> Answer:
        if scope["method"] != "POST":
            return Answer(405, b'{"error":"publish with POST"}', (JSON, (b"allow", b"POST")))
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        token, length, telling = None, None, []
        for pair in headers:
            name = pair[0]
            if name[:8] == _UPSTASH or name == b"content-type":
                telling.append(pair)
            elif name == b"authorization":
                token = bearer(pair[1].decode("latin-1"))
            elif name == b"content-length":
                length = int(pair[1])
        destination = path.decode("latin-1")
        if destination[:7] != "http://" and destination[:8] != "https://":
            destination = _COLLAPSED_SCHEME.sub(r"\1://", destination, count=1)
        if scope["query_string"]:
            query = scope["query_string"].decode("latin-1")
            if token is None:
                token = token_in_query(query)
            own, kept = _split_query(query)
            telling = own + telling
            if kept:
                destination = f"{destination}?{kept}"
        if token is None:
            raise Unauthenticated
        caller = may_publish(self._tenancy.known_caller(token) or await self._tenancy.caller(token))
        options, deduplication = self._options(tuple(telling), headers)
        client = scope["client"]
        publication = Publication(
            destination=destination,
            body=await _body(receive, length, self._limits.max_body_bytes),
            options=options,
            deduplication=deduplication,
            caller_ip=client[0] if client else None,
        )
        return answer_to(await self._intake.publish(caller.tenant_id, publication))

    def _options(
        self, telling: tuple[tuple[bytes, bytes], ...], headers: list[tuple[bytes, bytes]]
    ) -> tuple[Options, Deduplication]:
        """Options of a publish. A publisher sends the same headers again and again, so what they mean is remembered."""
        for name, _ in telling:
            if name in _NOT_REMEMBERED:
                rest = [pair for pair in headers if pair[0][:8] != _UPSTASH and pair[0] != b"content-type"]
                return self._parse((*telling, *rest))
        if sum(len(name) + len(value) for name, value in telling) > _MOST_REMEMBERED_BYTES:
            return self._parse(telling)
        return self._remembered_options(telling)

    def _parse(self, fields: tuple[tuple[bytes, bytes], ...]) -> tuple[Options, Deduplication]:
        return parse_options(
            [(name.decode("latin-1"), value.decode("latin-1")) for name, value in fields],
            limits=self._limits,
            now_s=self._clock.now_s(),
        )


def answer_to(published: Published) -> Answer:
    """201 for a new message, 202 for a duplicate, as the live service answers."""
    if published.deduplicated:
        return Answer(202, b'{"messageId":"%s","deduplicated":true}' % message_text(published.id).encode())
    return Answer(201, b'{"messageId":"%s"}' % message_text(published.id).encode())


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


async def _body(receive: Receive, length: int | None, limit: int) -> bytes:
    """The whole body, of an announced length or none. Raises `BodyTooLarge` as soon as possible, and `GoneError`."""
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
    parts = [body]
    size = len(body)
    while event.get("more_body", False):
        event = await receive()
        if event["type"] == "http.disconnect":
            raise GoneError
        parts.append(event.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            raise BodyTooLarge(limit)
    return b"".join(parts)


def _put_right(path: str) -> str:
    """Clients say /v2/Schedules, //v2/keys and /v2/keys/; routes know one form."""
    if path.lstrip("/")[:3].lower() != "v2/":
        return path
    resource, *rest = path.strip("/").split("/")[1:] or [""]
    resource = _RESOURCES.get(resource.lower(), resource)
    rest = [part.lower() if (resource, n, part.lower()) in _ACTIONS else part for n, part in enumerate(rest)]
    return "/".join(["/v2", resource, *rest])


_RESOURCES = {
    name.lower(): name for name in ("messages", "dlq", "events", "logs", "keys", "rotate", "readiness", "liveness")
}

_ACTIONS = {("dlq", 0, "retry"), ("keys", 0, "rotate"), ("messages", 1, "retry")}
"""Fixed segments by their resource and place; what stands elsewhere is an id or a name."""
