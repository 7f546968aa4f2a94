"""The HTTP server: uvicorn, with one write for each response, bounded heads, and patience that ends."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import Enum, auto
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

import httptools
import orjson
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from postroad.domain.ids import random_text
from postroad.joined_writes import JoinedWrites
from postroad.patience import Patience, Watch

if TYPE_CHECKING:
    from postroad.api.door import App

BACKLOG = 2048
MOST_HEAD_BYTES = 64 * 1024
MOST_HEADERS = 200
MOST_PIPELINED = 64
"""Requests of a connection that wait for the answer to an earlier one."""

_NOT_HTTP = (
    "this is not a valid HTTP request: look at the method, at line breaks and control characters, "
    "and at destinations that are not percent-encoded ASCII"
)
_MOST_DESCRIPTORS = 65_536
_FULL = "the server is at capacity, try again later"
_FAREWELL_S = 0.05
_LOOK_EVERY_S = 1.0

_log = logging.getLogger(__name__)


class Server(uvicorn.Server):
    """Serves until `stop`; `ready` is set when it accepts connections."""

    def __init__(self, app: App, patience: Patience | None = None) -> None:
        self.watch = Watch(patience or Patience(connections=_connections_that_fit()))
        super().__init__(
            uvicorn.Config(
                app,
                loop="none",
                # uvicorn asks for a class, and calls it with keywords.
                http=cast("Any", partial(_Protocol, self.watch)),
                ws="none",
                lifespan="off",
                access_log=False,
                log_config=None,
                server_header=False,
                date_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=8,
                backlog=BACKLOG,
            )
        )
        self.ready = asyncio.Event()
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Begin the shutdown."""
        self.should_exit = True
        self._stopping.set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Tell when it is done."""
        await super().startup(sockets)
        self.ready.set()

    async def main_loop(self) -> None:
        """Look after the connections once in a second, where uvicorn would look ten times whether to stop."""
        while not self._stopping.is_set():
            self.watch.tick()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), _LOOK_EVERY_S)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer what was on its way when the stop began, and say with the answer that the connection ends.

        Closed at once, a connection that is kept alive would take a request with it that the client has just sent.
        """
        self.watch.take_leave()
        await asyncio.sleep(_FAREWELL_S)
        if self.server_state.connections or self.server_state.tasks:
            await super().shutdown(sockets)
            return
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The node has the handlers."""
        yield


class _Reading(Enum):
    """What is expected of the client."""

    REQUEST = auto()
    HEAD = auto()
    BODY = auto()
    NOTHING = auto()


class _Protocol(HttpToolsProtocol):
    """Bounds the head of a request, which uvicorn does not, and speaks of bad requests in the API's words."""

    def __init__(self, watch: Watch, **given: Any) -> None:
        super().__init__(**given)
        self.since = watch.now
        self._watch = watch
        self._patience = watch.patience
        # A new connection has as long for its first request as any other request has for its head.
        self._reading = _Reading.HEAD
        self._stays = False
        self._piece_bytes = 0
        self._first_piece_bytes = 0
        self._unused_bytes = 0
        self._body_bytes = 0
        self._unsent_bytes = 0
        self._unsent_since = 0

    @property
    def is_waiting(self) -> bool:
        """Whether nothing is under way but what the client has yet to say."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def has_begun(self) -> bool:
        """Whether some of the next request has come, though not all of its head."""
        return self._unused_bytes > 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(JoinedWrites(transport, self.loop))  # type: ignore[arg-type]
        self._watch.enter(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._watch.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._reading is _Reading.NOTHING:
            return
        self._piece_bytes = len(data)
        self._unused_bytes += self._piece_bytes
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self._refuse(400, _NOT_HTTP)
        except httptools.HttpParserUpgrade as upgrade:
            self._stay(data[upgrade.args[0] :])
        # A head, or the framing and the trailer of a body: what ended in this piece is not counted to what follows.
        if self._unused_bytes > MOST_HEAD_BYTES:
            self._refuse(431, "the head of the request is too large")

    def _stay(self, rest: bytes) -> None:
        """Go on with HTTP/1.1, which the parser leaves behind a head that offers something else.

        Some clients offer HTTP/2 with their first request, whatever its body; without this, that would be lost.
        """
        framing = [pair for pair in self.scope["headers"] if pair[0] in (b"content-length", b"transfer-encoding")]
        head = b"POST / HTTP/1.1\r\n" + b"".join(b"%s: %s\r\n" % pair for pair in framing) + b"\r\n"
        self.parser = httptools.HttpRequestParser(self)
        self._stays = True
        self.parser.feed_data(head)
        self._stays = False
        self.data_received(rest)

    def on_message_begin(self) -> None:
        if self._stays:
            return
        self._reading = _Reading.HEAD
        self._first_piece_bytes = self._piece_bytes
        self.since = self._watch.now
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        if self._stays:
            return
        if len(self.headers) > MOST_HEADERS or self._has_large_head():
            self._refuse(431, "the request has too many headers")
        elif len(self.pipeline) >= MOST_PIPELINED:
            self._refuse(429, "too many requests of this connection wait for their answers")
        elif any(name == b"transfer-encoding" and value.lower() != b"chunked" for name, value in self.headers):
            self._refuse(400, "no transfer coding but chunked is understood")
        if self._reading is _Reading.NOTHING:
            raise _EndedError
        self._reading = _Reading.BODY
        self._unused_bytes = self._body_bytes = 0
        super().on_headers_complete()
        if self._watch.is_leaving:
            self.cycle.keep_alive = False
        # A trailer is no part of the head: what it says was not there when the request was looked at.
        self.headers = []

    def on_body(self, body: bytes) -> None:
        self._unused_bytes = 0
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return  # Its body is still to come.
        self._reading = _Reading.REQUEST
        self._unused_bytes = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """What uvicorn does, but for its timer of each answer: the watch has one for all."""
        self.since = self._watch.now
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())

    def look(self) -> None:
        """End the connection if it has tried our patience."""
        waited = self._watch.now - self.since
        if self._sends_too_slowly() or (self._reading is _Reading.NOTHING and waited >= self._patience.linger):
            self.transport.abort()
        elif self._reading is _Reading.HEAD:
            if waited >= self._patience.head and self.is_waiting:
                if self.has_begun:
                    self._refuse(408, "the head of the request did not arrive in time")
                else:
                    self.end()  # Opened ahead: an answer to no request would be taken for that of the next.
        elif self._reading is _Reading.BODY:
            self._look_at_body(waited)
        elif waited >= self._patience.idle and self.is_waiting:
            self.end()

    def answer_last(self) -> None:
        """Close when what is being answered has been."""
        if not self.is_waiting:
            self.cycle.keep_alive = False

    def turn_away(self) -> None:
        """Say that there is no room, without waiting for a request."""
        self._refuse(503, _FULL, "Retry-After: 1\r\n")

    def end(self) -> None:
        """Close the connection as soon as what was written has been sent, which must be soon."""
        self._reading = _Reading.NOTHING
        self.since = self._watch.now
        self.transport.close()

    def _has_large_head(self) -> bool:
        # Most heads are in small pieces altogether, and need not be counted.
        if self._unused_bytes + self._first_piece_bytes <= MOST_HEAD_BYTES:
            return False
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > MOST_HEAD_BYTES

    def _look_at_body(self, waited: int) -> None:
        if self.cycle.response_complete:
            if waited >= self._patience.linger:
                self.end()
        elif self.flow.read_paused or self.cycle.waiting_for_100_continue or self.pipeline:
            self.since = self._watch.now  # It is we who are slow.
        elif waited >= self._patience.stalled:
            if self._body_bytes < self._patience.least_bytes:
                self._refuse(408, "the body of the request did not arrive in time")
            self.since, self._body_bytes = self._watch.now, 0

    def _sends_too_slowly(self) -> bool:
        """Whether the client takes too little of what was written for it."""
        unsent = self.transport.get_write_buffer_size()
        # More of it than before was written because there was room for it.
        if not unsent or unsent > self._unsent_bytes or self._unsent_bytes - unsent >= self._patience.least_bytes:
            self._unsent_bytes, self._unsent_since = unsent, self._watch.now
        if not unsent:
            return False
        if self._reading is _Reading.REQUEST:
            self.since = self._watch.now  # It has not had its answer yet.
        return self._watch.now - self._unsent_since >= self._patience.stalled

    def _refuse(self, status: int, reason: str, fields: str = "") -> None:
        """Answer, read no more, and let the client find the answer before the connection is closed."""
        if self._reading is _Reading.NOTHING or self.transport.is_closing():
            return
        self._reading = _Reading.NOTHING
        self.since = self._watch.now
        if self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete:
            self.transport.close()
            return
        body = orjson.dumps({"error": reason})
        head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: application/json\r\n{fields}"
        head += f"Content-Length: {len(body)}\r\nX-Request-Id: {random_text('req_')}\r\nConnection: close\r\n\r\n"
        self.transport.write(head.encode() + body)
        # With what it still sends thrown away, and not with a reset, which could overtake the answer.
        self.transport.write_eof()
        self.flow.resume_reading()
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.pipeline.clear()


class _EndedError(Exception):
    """Stops the parser in the middle of what has arrived; never leaves this module."""


def _connections_that_fit() -> int:
    """How many connections of clients this process may have: half of the descriptors that the system lets it have.

    The other half is for deliveries and the database.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    possible = _MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < possible:
        soft = possible
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return Patience().connections if soft == resource.RLIM_INFINITY else min(Patience().connections, soft // 2)
