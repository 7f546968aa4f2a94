"""The receiver of a run, a process of its own: answers by a script, and writes down every request.

    python -m tests.faults.sink --port-file FILE --out receipts.jsonl --seed N --keys CURRENT,NEXT \
        [--profile calm|chaotic] [--destinations 16] [--port 0]

It listens on 127.0.0.1 and 127.0.1.1 ... 127.0.1.N, which are the destinations, all on one port; the file has the port
as soon as they accept. What it wrote is read by `journal.Records([path]).of(Receipt)`. On SIGTERM it ends what is under
way and exits.

A request is under way from its first byte until just before the last byte of its answer is written, so that an interval
in a receipt is never longer than what the sender saw. The op of a message is in its path; that of a message to a URL
group is the op in its body plus the number of the endpoint in the path. A request to any other path is a receipt
without an op whose body is not right.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import hmac
import signal
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import httptools
import orjson
import uvloop

from tests.faults import bodies
from tests.faults.journal import Journal
from tests.faults.records import Receipt
from tests.faults.script import PROFILES, Answer, Mood, Script

_FLUSH_EVERY_S = 0.1
_HEADERS = {b"host", b"upstash-message-id", b"upstash-retried", b"upstash-region", b"upstash-schedule-id",
            b"upstash-signature"}  # fmt: skip


class Sink:
    """What all connections share."""

    def __init__(self, seed: int, profile: str, keys: Sequence[str], out: Path) -> None:
        self.seed = seed
        self.script = Script(seed, profile)
        self.keys = [key.encode() for key in keys]
        self.journal = Journal(out)
        self.connections: set[_Connection] = set()

    async def serve(self, listeners: Sequence[socket.socket], stop: asyncio.Event) -> None:
        """Answer until told to stop."""
        loop = asyncio.get_running_loop()
        servers = [await loop.create_server(lambda: _Connection(self), sock=one, backlog=4096) for one in listeners]
        while not stop.is_set():
            self.journal.flush()
            try:
                await asyncio.wait_for(stop.wait(), _FLUSH_EVERY_S)
            except TimeoutError:
                continue
        for server in servers:
            server.close()
        for connection in list(self.connections):
            connection.leave()
        self.journal.close()


@dataclass(slots=True)
class _Request:
    """A request as far as it is known, and whether its receipt is written."""

    began: float
    target: bytes = b""
    headers: dict[bytes, str] = field(default_factory=dict)
    body: bytes = b""
    is_whole: bool = False
    is_over: bool = False

    @property
    def retried(self) -> int:
        text = self.headers.get(b"upstash-retried", "0")
        return int(text) if text.isdigit() else -1

    @property
    def path(self) -> str:
        return self.target.decode("latin-1")

    @property
    def url(self) -> str:
        return f"http://{self.headers.get(b'host', '')}{self.path}"


class _Connection(asyncio.Protocol):
    """A connection, on which one request follows the other."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._parser = httptools.HttpRequestParser(self)
        self._request: _Request | None = None
        self._playing: asyncio.Task[None] | None = None
        self._answered = 0

    def leave(self) -> None:
        """Stop whatever is being played and close."""
        self._over(None)
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._sink.connections.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._sink.connections.discard(self)
        self._over(None)
        if self._playing is not None:
            self._playing.cancel()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.leave()

    def on_message_begin(self) -> None:
        self._request = _Request(time.monotonic())

    def on_url(self, target: bytes) -> None:
        assert self._request is not None
        self._request.target += target

    def on_header(self, name: bytes, value: bytes) -> None:
        assert self._request is not None
        if (lower := name.lower()) in _HEADERS:
            self._request.headers[lower] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        request = self._request
        assert request is not None
        where = bodies.arrival(request.path)
        if where is None or where.kind != bodies.MESSAGE:
            return  # Without its body it is not known what it is.
        answer = self._sink.script.answer(where.number, request.retried)
        if answer.mood is Mood.RESET_AT_HEAD:
            self._playing = asyncio.get_running_loop().create_task(self._play(request, answer))

    def on_body(self, piece: bytes) -> None:
        assert self._request is not None
        self._request.body += piece

    def on_message_complete(self) -> None:
        request = self._request
        assert request is not None
        request.is_whole = True
        if self._playing is None or self._playing.done():
            self._playing = asyncio.get_running_loop().create_task(self._play(request, _answer(self._sink, request)))

    async def _play(self, request: _Request, answer: Answer) -> None:
        if answer.mood is not Mood.RESET_AT_HEAD:
            await asyncio.sleep(answer.pause)
        match answer.mood:
            case Mood.RESET_AT_HEAD | Mood.RESET:
                await self._reset()
            case Mood.HALF:
                self._over(None)
                self._transport.write(_whole(200, b"x" * 1000)[: 30 + int(answer.size * 900)])
                self._transport.close()
            case Mood.TRICKLE:
                whole = _whole(200, b"slowly")
                for n in range(len(whole) - 1):
                    self._transport.write(whole[n : n + 1])
                    await asyncio.sleep(0.0005)
                self._end(200, whole[-1:])
            case Mood.LARGE:
                whole = _whole(200, b"x" * int(100_000 + answer.size * 300_000))
                self._transport.write(whole[:-1])
                await asyncio.sleep(0)
                self._end(200, whole[-1:])
            case Mood.ERROR:
                self._end(500, _whole(500, b"not today"))
            case Mood.LATER:
                self._end(429, _whole(429, b"", b"Retry-After: 1\r\n"))
            case Mood.NEVER:
                self._end(489, _whole(489, b"", b"Upstash-NonRetryable-Error: true\r\n"))
            case Mood.REDIRECT:
                self._end(302, _whole(302, b"", b"Location: /never\r\n"))
            case Mood.OK | Mood.SLOW:
                self._end(200, _whole(200, b"ok"))

    def _end(self, status: int, last: bytes) -> None:
        """Write the last of an answer. Its instant is before, or the sender might seem to go on too early."""
        self._over(None if self._transport.is_closing() else status)
        self._transport.write(last)
        self._answered += 1

    async def _reset(self) -> None:
        """RST instead of an answer.

        On a connection that was used before it comes after a first byte: without one the sender has to take the
        connection for stale, and would by right send the request once more in the same attempt.
        """
        if self._answered:
            self._transport.write(b"H")
            await asyncio.sleep(0.001)
        self._over(None)
        connected = cast("socket.socket", self._transport.get_extra_info("socket"))
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def _over(self, status: int | None) -> None:
        """Write the receipt of the request that is under way, once."""
        request = self._request
        if request is not None and not request.is_over and request.target:
            request.is_over = True
            self._sink.journal.add(_receipt(self._sink, request, status, time.monotonic()))


def _answer(sink: Sink, request: _Request) -> Answer:
    """The answer to a request that is whole."""
    where = bodies.arrival(request.path)
    if where is None or where.kind == bodies.TICK:
        return Answer(Mood.OK, 0.005, 0)
    if where.kind in (bodies.CALLBACK, bodies.FAILED):
        source = orjson.loads(request.body)
        return sink.script.answer(f"{where.kind}/{where.number}/{source.get('retried', 0)}", request.retried, "report")
    found = bodies.content(request.body)
    op = _op(where, found)
    return sink.script.answer(str(op), request.retried, found.kind if found is not None else None)


def _op(where: bodies.Arrival | None, found: bodies.Content | None) -> int | None:
    if where is not None and where.kind == bodies.GROUP and found is not None and found.op is not None:
        return found.op + int(where.number)
    return where.op if where is not None and where.kind == bodies.MESSAGE else None


def _receipt(sink: Sink, request: _Request, status: int | None, ended: float) -> Receipt:
    where = bodies.arrival(request.path)
    is_report = where is not None and where.kind in (bodies.CALLBACK, bodies.FAILED)
    found = bodies.content(request.body) if request.is_whole and not is_report else None
    is_right = where is not None and (not request.is_whole or _is_right(sink.seed, where, request.body, found))
    return Receipt(
        message_id=request.headers.get(b"upstash-message-id", ""),
        op=_op(where, found),
        retried=request.retried,
        node=request.headers.get(b"upstash-region", ""),
        began=request.began,
        ended=ended,
        status=status,
        body_is_right=is_right,
        signature_is_right=not request.is_whole or _is_signed(sink.keys, request),
        schedule_id=request.headers.get(b"upstash-schedule-id"),
        callback_of=where.op if where is not None and is_report else None,
        failed=where is not None and where.kind == bodies.FAILED,
    )


def _is_right(run: int, where: bodies.Arrival, body: bytes, found: bodies.Content | None) -> bool:
    if where.kind in (bodies.CALLBACK, bodies.FAILED):
        try:
            return bodies.report_is_right(orjson.loads(body), where, run)
        except (KeyError, ValueError):
            return False
    if found is None or found.run != run:
        return False
    return found.op == where.op if where.kind == bodies.MESSAGE else True


def _is_signed(keys: Sequence[bytes], request: _Request) -> bool:
    """Whether the token in the signature was made for this request with a key that counts (RFC 7515, HS256)."""
    try:
        head, claims, mac = request.headers.get(b"upstash-signature", "").encode().split(b".")
        signed = head + b"." + claims
        if not any(hmac.compare_digest(_text(hmac.digest(key, signed, "sha256")), mac) for key in keys):
            return False
        said: dict[str, Any] = orjson.loads(base64.urlsafe_b64decode(claims + b"=="))
        header = orjson.loads(base64.urlsafe_b64decode(head + b"=="))
        return bool(
            header["alg"] == "HS256"
            and said["iss"] == "Upstash"
            and said["sub"] == request.url
            and said["nbf"] <= time.time() < said["exp"]
            and said["body"].rstrip("=").encode() == _text(hashlib.sha256(request.body).digest())
        )
    except (KeyError, ValueError):
        return False


def _text(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _whole(code: int, body: bytes, headers: bytes = b"") -> bytes:
    return b"HTTP/1.1 %d Said\r\nContent-Length: %d\r\n%s\r\n%s" % (code, len(body), headers, body)


def listeners(port: int, destinations: int) -> list[socket.socket]:
    """Sockets on one port of 127.0.0.1 and of the destinations; on a free one for port 0."""
    addresses = ["127.0.0.1", *(f"127.0.1.{n}" for n in range(1, destinations + 1))]
    while True:
        opened: list[socket.socket] = []
        try:
            for address in addresses:
                one = socket.socket()
                opened.append(one)
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                one.bind((address, opened[0].getsockname()[1] if len(opened) > 1 else port))
        except OSError:
            for one in opened:
                one.close()
            if port:
                raise
        else:
            return opened


async def _main(arguments: argparse.Namespace) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    sockets = listeners(arguments.port, arguments.destinations)
    for one in sockets:
        one.listen(4096)
    sink = Sink(arguments.seed, arguments.profile, arguments.keys.split(","), arguments.out)
    unready = arguments.port_file.with_suffix(".unready")
    unready.write_text(str(sockets[0].getsockname()[1]))
    unready.replace(arguments.port_file)
    await sink.serve(sockets, stop)


def main() -> None:
    """Run the receiver until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port-file", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--keys", required=True, help="signing keys, current and next")
    parser.add_argument("--profile", choices=sorted(PROFILES), default="chaotic")
    parser.add_argument("--destinations", type=int, default=16)
    parser.add_argument("--port", type=int, default=0)
    uvloop.run(_main(parser.parse_args()))


if __name__ == "__main__":
    main()
