"""Calls of this server's own API, without a network between: the console may do what its visitor's token may."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote, urlencode

import orjson

from postroad.api.auth import SIGNED_IN
from postroad.api.door import App
from postroad.domain.tenant import Caller
from postroad.errors import PostroadError

Headers = Sequence[tuple[str, str]]

_SAFE = "/:@!$&'()*+,;=-._~%?[]"
"""What stays as it is in a path: per cent, because names come here quoted, and what a destination is made of."""


class ApiRefusedError(PostroadError):
    """The API said no, with this status and in these words."""

    def __init__(self, status: int, words: str) -> None:
        self.status = status
        super().__init__(words)


@dataclass(frozen=True, slots=True)
class Reply:
    """What the API answered; the document is None where there was nothing in it."""

    status: int
    document: Any


class Inside:
    """The API of this process, to whoever is signed in."""

    def __init__(self, door: App) -> None:
        self._door = door

    async def ask(
        self,
        caller: Caller,
        method: str,
        path: str,
        *,
        params: Mapping[str, str | Sequence[str]] | None = None,
        headers: Headers = (),
        content: bytes = b"",
        address: str | None = None,
    ) -> Reply:
        """One request. `path` is quoted already, and may have a query instead of params.

        Raises `ApiRefusedError` for whatever is no success.
        """
        status, answer = 500, bytearray()
        body: list[dict[str, Any]] = [{"type": "http.request", "body": content, "more_body": False}]
        ended = asyncio.Event()

        async def receive() -> dict[str, Any]:
            if body:
                return body.pop()
            await ended.wait()
            return {"type": "http.disconnect"}

        async def send(event: Any) -> None:
            nonlocal status
            if event["type"] == "http.response.start":
                status = event["status"]
            else:
                answer.extend(event.get("body", b""))

        try:
            await self._door(_scope(caller, method, path, params or {}, headers, content, address), receive, send)
        finally:
            ended.set()
        document = _document(bytes(answer))
        if not 200 <= status < 300:
            words = document.get("error") if isinstance(document, dict) else None
            raise ApiRefusedError(status, str(words or f"the server answered {status}"))
        return Reply(status, document)


def segment(text: str) -> str:
    """A name as one segment of a path."""
    return quote(text, safe="")


def _scope(
    caller: Caller,
    method: str,
    path: str,
    params: Mapping[str, str | Sequence[str]],
    headers: Headers,
    content: bytes,
    address: str | None,
) -> dict[str, Any]:
    fields = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    fields.append((b"content-length", str(len(content)).encode()))
    path, _, query = path.partition("?")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": quote(path, safe=_SAFE).encode(),
        "query_string": (quote(query, safe=_SAFE + "?") or urlencode(params, doseq=True)).encode(),
        "root_path": "",
        "headers": fields,
        "client": None if address is None else (address, 0),
        "server": None,
        SIGNED_IN: caller,
    }


def _document(answer: bytes) -> Any:
    if not answer:
        return None
    try:
        return orjson.loads(answer)
    except orjson.JSONDecodeError:
        return None
