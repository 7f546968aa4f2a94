"""A small HTTP/1.1 client of several nodes that tells what was never sent from what was not answered."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import httptools

_LOOK_EVERY_S = 0.05
_WAIT_S = 0.2
_CONNECT_S = 2.0


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer."""

    status: int
    body: bytes


class NotSent(Exception):
    """No node took the connection, so none has seen the request."""


class Unanswered(Exception):
    """The request, or a part of it, was sent, and no whole answer came."""


class Nodes:
    """Keeps connections to the nodes whose base URLs a file has, one a line, and goes round. The file may change."""

    def __init__(self, file: Path, token: str, *, timeout: float = 15.0) -> None:
        self._file = file
        self._token = token
        self._timeout = timeout
        self._urls: list[str] = []
        self._turn = 0
        self._read_at: float | None = None
        self._refused_until: dict[str, float] = {}
        """So that thousands who wait do not all knock at a door that nobody opens."""
        self._idle: dict[str, list[_Connection]] = {}

    async def request(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes, *, patience: float
    ) -> Answer:
        """The answer of the next node that takes a connection. Raises `NotSent` after `patience`, or `Unanswered`."""
        deadline = asyncio.get_running_loop().time() + patience
        while True:
            for _ in range(len(self._current())):
                url = self._next()
                if self._refused_until.get(url, 0.0) > asyncio.get_running_loop().time():
                    continue
                try:
                    connection = await self._connection(url)
                except (OSError, TimeoutError):
                    self._refused_until[url] = asyncio.get_running_loop().time() + _LOOK_EVERY_S
                    continue
                return await self._exchange(url, connection, self._head(url, method, path, headers, body) + body)
            if asyncio.get_running_loop().time() > deadline:
                raise NotSent
            await asyncio.sleep(_WAIT_S)

    def close(self) -> None:
        """Close what is kept."""
        for kept in self._idle.values():
            for connection in kept:
                connection.close()

    def _current(self) -> list[str]:
        now = asyncio.get_running_loop().time()
        if self._read_at is None or now - self._read_at > _LOOK_EVERY_S:
            self._read_at = now
            self._urls = self._file.read_text().split() or self._urls
        return self._urls

    def _next(self) -> str:
        self._turn += 1
        return self._urls[self._turn % len(self._urls)]

    async def _connection(self, url: str) -> _Connection:
        kept = self._idle.setdefault(url, [])
        while kept:
            connection = kept.pop()
            if not connection.is_gone:
                return connection
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        async with asyncio.timeout(_CONNECT_S):
            _, made = await asyncio.get_running_loop().create_connection(_Connection, parts.hostname, parts.port)
        return made

    async def _exchange(self, url: str, connection: _Connection, data: bytes) -> Answer:
        try:
            async with asyncio.timeout(self._timeout):
                answer = await connection.exchange(data)
        except TimeoutError:
            connection.close()
            raise Unanswered from None
        if connection.can_be_kept:
            self._idle[url].append(connection)
        else:
            connection.close()
        return answer

    def _head(self, url: str, method: str, path: str, headers: Mapping[str, str], body: bytes) -> bytes:
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return (
            f"{method} {path} HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\nAuthorization: Bearer {self._token}\r\n"
            f"Content-Length: {len(body)}\r\n{lines}\r\n"
        ).encode("latin-1")


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self.is_gone = False
        self.can_be_kept = False
        self._answer: asyncio.Future[Answer] | None = None

    async def exchange(self, data: bytes) -> Answer:
        """Send, and wait for the whole answer. Raises `Unanswered`."""
        self._parser = httptools.HttpResponseParser(self)
        self._body = b""
        self.can_be_kept = False
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(data)
        return await self._answer

    def close(self) -> None:
        self.is_gone = True
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (AttributeError, httptools.HttpParserError):  # without a parser nothing was asked yet
            self.close()

    def connection_lost(self, error: Exception | None) -> None:
        self.is_gone = True
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(Unanswered())

    def on_body(self, piece: bytes) -> None:
        self._body += piece

    def on_message_complete(self) -> None:
        if self._answer is not None and not self._answer.done():
            self.can_be_kept = self._parser.should_keep_alive() and not self.is_gone
            self._answer.set_result(Answer(self._parser.get_status_code(), self._body))
