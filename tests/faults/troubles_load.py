"""A steady load on one node while its database is in trouble: what was asked, what was answered, and what arrived."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from time import monotonic
from typing import cast

import httptools
import orjson

from tests.receiver import Receiver

PATH = "/load"

_TICK_S = 0.01
_LONGEST_ANSWER_S = 40.0
"""Far beyond the deadline that the product sets itself."""


@dataclass(slots=True)
class Ask:
    """One publish. `status` is None while there is no answer, and for good when the connection was lost."""

    op: int
    sent_at: float
    answered_at: float = float("inf")
    status: int | None = None
    retry_after: str | None = None
    text: str = ""

    @property
    def is_acknowledged(self) -> bool:
        """The message was accepted."""
        return self.status == 201

    @property
    def is_told_to_return(self) -> bool:
        """A 503 that says after how many seconds."""
        return self.status == 503 and self.retry_after is not None and self.retry_after.isdigit()

    @property
    def seconds(self) -> float:
        """From the request to its answer."""
        return self.answered_at - self.sent_at


class Load:
    """Publishes at a rate, whatever becomes of it; each message has its own body, by which it is known on arrival."""

    def __init__(self, port: int, token: str, receiver: Receiver, *, rate: float) -> None:
        self.asks: list[Ask] = []
        self._port = port
        self._token = token
        self._receiver = receiver
        self._rate = rate
        self._idle: list[_Connection] = []
        self._under_way: set[asyncio.Task[None]] = set()
        self._publishing: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to publish."""
        self._publishing = asyncio.create_task(self._publish())

    async def stop(self) -> None:
        """Publish no more, wait for all answers, and close the connections."""
        if self._publishing is not None:
            self._publishing.cancel()
            await asyncio.gather(self._publishing, return_exceptions=True)
        while self._under_way:
            await asyncio.wait(self._under_way)
        while self._idle:
            self._idle.pop().close()

    def arrivals(self) -> dict[int, list[float]]:
        """When the message of each op arrived, each time."""
        arrived: dict[int, list[float]] = {}
        for request in self._receiver.requests(PATH):
            arrived.setdefault(int(request.body), []).append(request.arrived_at)
        return arrived

    def acknowledged(self) -> Iterator[Ask]:
        """What was accepted so far."""
        return (ask for ask in self.asks if ask.is_acknowledged)

    def missing(self) -> set[int]:
        """What was accepted and has not arrived so far."""
        return {ask.op for ask in self.acknowledged()} - self.arrivals().keys()

    async def _publish(self) -> None:
        began, first = monotonic(), len(self.asks)
        while True:
            due = first + int((monotonic() - began) * self._rate) + 1
            while len(self.asks) < due:
                ask = Ask(len(self.asks), monotonic())
                self.asks.append(ask)
                task = asyncio.create_task(self._ask(ask))
                self._under_way.add(task)
                task.add_done_callback(self._under_way.discard)
            await asyncio.sleep(_TICK_S)

    async def _ask(self, ask: Ask) -> None:
        connection = None
        try:
            async with asyncio.timeout(_LONGEST_ANSWER_S):
                connection = await self._connection()
                await connection.exchange(self._request(ask), ask)
        except (OSError, TimeoutError) as error:
            ask.answered_at, ask.text = monotonic(), f"no answer: {error!r}"
        if connection is not None:
            if connection.can_be_kept:
                self._idle.append(connection)
            else:
                connection.close()

    async def _connection(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_gone:
                return connection
        _, made = await asyncio.get_running_loop().create_connection(_Connection, "127.0.0.1", self._port)
        return made

    def _request(self, ask: Ask) -> bytes:
        body = str(ask.op).encode()
        return (
            f"POST /v2/publish/{self._receiver.url(PATH)} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\n"
            f"Authorization: Bearer {self._token}\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode() + body


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self.is_gone = False
        self.can_be_kept = False
        self._waiting: asyncio.Future[None] | None = None

    async def exchange(self, request: bytes, ask: Ask) -> None:
        """Send, and fill in the answer. Raises `ConnectionError`."""
        self._ask = ask
        self._body = b""
        self.can_be_kept = False
        self._parser = httptools.HttpResponseParser(self)
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        await self._waiting

    def close(self) -> None:
        self.is_gone = True
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, error: Exception | None) -> None:
        self.is_gone = True
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(ConnectionResetError("the node hung up"))

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"retry-after":
            self._ask.retry_after = value.decode()

    def on_body(self, piece: bytes) -> None:
        self._body += piece

    def on_message_complete(self) -> None:
        ask = self._ask
        ask.answered_at, ask.status = monotonic(), self._parser.get_status_code()
        if ask.status != 201:
            ask.text = _error(self._body)
        self.can_be_kept = self._parser.should_keep_alive() and not self.is_gone
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


def _error(body: bytes) -> str:
    try:
        return str(orjson.loads(body)["error"])
    except (ValueError, TypeError, KeyError):
        return body.decode(errors="replace")
