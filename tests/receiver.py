"""A real HTTP server on loopback that records what arrives and answers as each test wants.

async with Receiver() as receiver:
    receiver.script("/hook", status(503), ok())
    ...
    request = await receiver.next_request("/hook")
    assert request.header("Upstash-Retried") == "0"

The moods of a path are played in order, the last one again and again; a path without a script answers 200 `ok`.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import ssl
import struct
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self, cast

import httptools

from tests.moods import (
    Mood,
    answer,
    chunked,
    deaf,
    early,
    endless_headers,
    garbage,
    half,
    handled,
    hang_up,
    hold,
    huge,
    in_pieces,
    never,
    ok,
    raw,
    redirect,
    reset,
    slow,
    status,
    trickle,
)

__all__ = [
    "Mood",
    "Received",
    "Receiver",
    "answer",
    "chunked",
    "deaf",
    "early",
    "endless_headers",
    "garbage",
    "half",
    "handled",
    "hang_up",
    "hold",
    "huge",
    "in_pieces",
    "never",
    "ok",
    "raw",
    "redirect",
    "reset",
    "slow",
    "status",
    "trickle",
]


@dataclass(frozen=True, slots=True)
class Received:
    """One request as it arrived. `target` is the request line's, `path` is the target without its query."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes
    path: str
    arrived_at: float
    connection_id: int

    def header(self, name: str) -> str | None:
        """The first header of this name, in any case."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)


class Receiver:
    """The server; an asynchronous context manager. With an `ssl_context` it speaks TLS."""

    def __init__(self, *, ssl_context: ssl.SSLContext | None = None) -> None:
        self.port = 0
        self._ssl_context = ssl_context
        self._scripts: dict[str, list[Mood]] = {}
        self._unscripted = ok()
        self._requests: list[Received] = []
        self._not_taken: list[Received] = []
        self._arrival: asyncio.Future[None] | None = None
        self._open: set[_Connection] = set()
        self._connection_ids = itertools.count(1)
        self._all_gone: asyncio.Future[None] | None = None

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Connection(self, next(self._connection_ids)), "127.0.0.1", 0, ssl=self._ssl_context, backlog=1024
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        self._all_gone = asyncio.get_running_loop().create_future()
        for connection in list(self._open):
            connection.leave()
        if self._open:
            await self._all_gone
        await self._server.wait_closed()

    def url(self, path: str = "/", *, host: str = "127.0.0.1") -> str:
        """The address of a path on this server."""
        return f"{'https' if self._ssl_context else 'http'}://{host}:{self.port}{path}"

    def script(self, path: str, *moods: Mood) -> None:
        """Answer requests to this path in these moods from now on."""
        self._scripts[path] = list(moods)

    def requests(self, path: str | None = None) -> list[Received]:
        """What has arrived so far, in order."""
        return [request for request in self._requests if path in (None, request.path)]

    @property
    def open_connections(self) -> int:
        """How many connections are open now."""
        return len(self._open)

    async def next_request(self, path: str | None = None, timeout: float = 10) -> Received:
        """The oldest request that no call has given yet; waits for one if need be."""
        async with asyncio.timeout(timeout):
            while True:
                for index, request in enumerate(self._not_taken):
                    if path in (None, request.path):
                        return self._not_taken.pop(index)
                await self._next_change()

    async def wait_for(self, n: int, path: str | None = None, timeout: float = 10) -> list[Received]:
        """All requests so far, once there are at least n of them."""
        async with asyncio.timeout(timeout):
            while len(self.requests(path)) < n:
                await self._next_change()
        return self.requests(path)

    async def wait_for_connections(self, n: int, timeout: float = 10) -> None:
        """Wait until exactly n connections are open."""
        async with asyncio.timeout(timeout):
            while len(self._open) != n:
                await self._next_change()

    def mood_for(self, path: str) -> Mood:
        """The mood whose turn it is; `advance` says that it has been played."""
        return self._scripts.get(path, [self._unscripted])[0]

    def arrived(self, request: Received) -> None:
        script = self._scripts.get(request.path, ())
        if len(script) > 1:
            self._scripts[request.path] = list(script[1:])
        self._requests.append(request)
        self._not_taken.append(request)
        self._changed()

    def came(self, connection: _Connection) -> None:
        self._open.add(connection)
        self._changed()

    def gone(self, connection: _Connection) -> None:
        self._open.discard(connection)
        self._changed()
        if self._all_gone is not None and not self._open and not self._all_gone.done():
            self._all_gone.set_result(None)

    async def _next_change(self) -> None:
        if self._arrival is None:
            self._arrival = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._arrival)

    def _changed(self) -> None:
        if self._arrival is not None:
            self._arrival.set_result(None)
            self._arrival = None


class _Connection(asyncio.Protocol):
    """One connection to the receiver, on which moods are played."""

    def __init__(self, receiver: Receiver, connection_id: int) -> None:
        self._receiver = receiver
        self._connection_id = connection_id
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._playing: set[asyncio.Task[None]] = set()
        self._writable = asyncio.Event()
        self._writable.set()
        self.is_gone = False

    def write(self, data: bytes) -> None:
        if not self.is_gone:
            self._transport.write(data)

    async def drain(self) -> None:
        """Wait while the peer reads more slowly than this side writes; and let others have a turn."""
        await asyncio.sleep(0)
        await self._writable.wait()

    async def play(self, mood: Mood) -> None:
        performance = mood.play(self)
        if performance is not None:
            await performance

    def stop_reading(self) -> None:
        self._transport.pause_reading()

    def close(self) -> None:
        self._transport.close()

    def reset(self) -> None:
        """Close so that the peer gets an RST."""
        connected = cast("socket.socket", self._transport.get_extra_info("socket"))
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def leave(self) -> None:
        """Stop whatever is being played and close."""
        for task in self._playing:
            task.cancel()
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._receiver.came(self)

    def connection_lost(self, error: Exception | None) -> None:
        self.is_gone = True
        self._writable.set()
        self._receiver.gone(self)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.write(answer(400))
            self.close()

    def on_message_begin(self) -> None:
        self._target = b""
        self._headers: list[tuple[str, str]] = []
        self._body: list[bytes] = []
        self._began_at_head = False

    def on_url(self, target: bytes) -> None:
        self._target += target

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.decode("latin-1"), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        if self._receiver.mood_for(self._path()).at_head:
            self._began_at_head = True
            self._answer()

    def on_body(self, piece: bytes) -> None:
        self._body.append(piece)

    def on_message_complete(self) -> None:
        if not self._began_at_head:
            self._answer()

    def _path(self) -> str:
        return self._target.decode("latin-1").partition("?")[0]

    def _answer(self) -> None:
        path = self._path()
        mood = self._receiver.mood_for(path)
        self.request = Received(
            method=self._parser.get_method().decode("ascii"),
            target=self._target.decode("latin-1"),
            headers=self._headers,
            body=b"".join(self._body),
            path=path,
            arrived_at=time.monotonic(),
            connection_id=self._connection_id,
        )
        self._receiver.arrived(self.request)
        performance = mood.play(self)
        if performance is not None:
            task = self._loop.create_task(performance)
            self._playing.add(task)
            task.add_done_callback(self._playing.discard)
        elif not self._parser.should_keep_alive():
            self.close()
