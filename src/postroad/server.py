"""The HTTP server: uvicorn, with one write for each response and without signal handlers of its own."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import orjson
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from postroad.domain.ids import random_text

if TYPE_CHECKING:
    from postroad.api.door import App

BACKLOG = 2048
MOST_HEAD_BYTES = 64 * 1024
MOST_HEADERS = 200


class Server(uvicorn.Server):
    """Serves until `should_exit`; `ready` is set when it accepts connections."""

    def __init__(self, app: App) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                loop="none",
                http=_Protocol,
                ws="none",
                lifespan="off",
                access_log=False,
                log_config=None,
                server_header=False,
                date_header=False,
                proxy_headers=False,
                timeout_keep_alive=75,
                timeout_graceful_shutdown=8,
                backlog=BACKLOG,
            )
        )
        self.ready = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Tell when it is done."""
        await super().startup(sockets)
        self.ready.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The node has the handlers."""
        yield


class _Protocol(HttpToolsProtocol):
    """Bounds the head of a request, which uvicorn does not, and speaks of bad requests in the API's words."""

    _messages = 0
    _head_bytes = 0
    _in_head = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(_JoinedWrites(transport, self.loop))  # type: ignore[arg-type]

    def data_received(self, data: bytes) -> None:
        answered = self._messages
        super().data_received(data)
        # What ended a request in this piece is not counted to the head of the next one.
        if self._in_head and self._messages == answered:
            self._head_bytes += len(data)
            if self._head_bytes > MOST_HEAD_BYTES:
                self._refuse(431, "the head of the request is too large")

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_bytes = 0
        if len(self.headers) > MOST_HEADERS or sum(len(n) + len(v) for n, v in self.headers) > MOST_HEAD_BYTES:
            self._refuse(431, "the request has too many headers")
            return
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_head = True
        self._messages += 1
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(
            400,
            "this is not a valid HTTP request: look at the method, at line breaks and control characters, "
            "and at destinations that are not percent-encoded ASCII",
        )

    def _refuse(self, status: int, reason: str) -> None:
        body = orjson.dumps({"error": reason})
        head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: application/json\r\n"
        head += f"Content-Length: {len(body)}\r\nX-Request-Id: {random_text('req_')}\r\nConnection: close\r\n\r\n"
        if not self.transport.is_closing():
            self.transport.write(head.encode() + body)
            self.transport.close()


class _JoinedWrites:
    """A transport that sends what is written in one turn of the loop with one system call.

    An ASGI response is at least two writes, its head and its body, and a write costs more than all that a publish does
    in Python between parsing and storing.
    """

    __slots__ = ("_loop", "_pieces", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._pieces: list[bytes] = []

    def write(self, data: bytes) -> None:
        if not self._pieces:
            self._loop.call_soon(self._flush)
        self._pieces.append(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._pieces:
            data = b"".join(self._pieces)
            self._pieces.clear()
            if not self._transport.is_closing():
                self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
