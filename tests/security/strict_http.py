"""HTTP/1.1 without mercy: a reading of requests that refuses whatever two readers could read differently.

Nothing here is the product's, nor any library's: what this accepts, and h11 reads the same, has one meaning.
"""

from __future__ import annotations

import asyncio
from asyncio import StreamReader, StreamWriter
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import h11

_TOKEN = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_VALUE = frozenset({0x09, *range(0x20, 0x7F), *range(0x80, 0x100)})
_METHODS = frozenset({b"GET", b"POST", b"PUT", b"PATCH", b"DELETE"})
_WITH_LENGTH = frozenset({b"POST", b"PUT", b"PATCH"})
_NEVER = frozenset(
    b"transfer-encoding te trailer connection keep-alive upgrade expect http2-settings proxy-connection "
    b"proxy-authorization proxy-authenticate".split()
)
_ONCE = frozenset(
    b"host content-length content-type authorization cookie user-agent accept-encoding upstash-message-id "
    b"upstash-signature upstash-retried upstash-caller-ip".split()
)
_LONGEST_LINE = 8192 + 300


class Ambiguous(Exception):
    """Bytes that are no request, or could be taken for another one."""


@dataclass(frozen=True)
class Head:
    """A request line and its headers, byte for byte."""

    method: bytes
    target: bytes
    headers: tuple[tuple[bytes, bytes], ...]

    def value(self, lower_name: bytes) -> bytes | None:
        """The value of the header of this name."""
        return next((value for name, value in self.headers if name.lower() == lower_name), None)

    @property
    def length(self) -> int:
        """Of the body."""
        return int(self.value(b"content-length") or 0)


def parse_head(data: bytes) -> Head:
    """A head with the empty line that ends it. Raises `Ambiguous`."""
    if not data.endswith(b"\r\n\r\n"):
        raise Ambiguous(f"no end: {data[-40:]!r}")
    request_line, *lines = data[:-4].split(b"\r\n")
    headers = tuple(_header(line) for line in lines)
    method, target, version = _three(request_line)
    if method not in _METHODS or version != b"HTTP/1.1":
        raise Ambiguous(f"request line {request_line!r}")
    if not target.startswith(b"/") or any(not 0x21 <= byte <= 0x7E for byte in target):
        raise Ambiguous(f"target {target!r}")
    count = Counter(name.lower() for name, _ in headers)
    if twice := [name for name in _ONCE if count[name] > 1]:
        raise Ambiguous(f"{twice} more than once")
    if count[b"host"] != 1 or headers[0][0].lower() != b"host":
        raise Ambiguous("one Host comes first")
    if found := _NEVER & count.keys():
        raise Ambiguous(f"{found} is there")
    head = Head(method, target, headers)
    length = head.value(b"content-length")
    if length is None and method in _WITH_LENGTH:
        raise Ambiguous("no Content-Length")
    if length is not None and (not length.isdigit() or str(int(length)).encode() != length):
        raise Ambiguous(f"Content-Length {length!r}")
    _check_by_h11(data, head)
    return head


def _three(request_line: bytes) -> tuple[bytes, bytes, bytes]:
    parts = request_line.split(b" ")
    if len(parts) != 3:
        raise Ambiguous(f"request line {request_line!r}")
    return parts[0], parts[1], parts[2]


def _header(line: bytes) -> tuple[bytes, bytes]:
    name, colon, value = line.partition(b":")
    if not colon or not name or not set(name) <= _TOKEN:
        raise Ambiguous(f"name in {line[:80]!r}")  # also a fold, a blank before the colon and an empty line
    if not set(value) <= _VALUE:
        raise Ambiguous(f"value in {line[:80]!r}")  # also a bare CR or LF, and NUL
    if not value.startswith(b" ") or value[1:] != value[1:].strip(b" \t"):
        raise Ambiguous(f"blanks in {line[:80]!r}")
    if len(line) > _LONGEST_LINE:
        raise Ambiguous(f"a line of {len(line)} bytes")
    return name, value[1:]


def _check_by_h11(data: bytes, head: Head) -> None:
    other = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    other.receive_data(data)
    try:
        event = other.next_event()
    except h11.RemoteProtocolError as error:
        raise Ambiguous(f"h11: {error}") from None
    if not isinstance(event, h11.Request):
        raise Ambiguous(f"h11 sees {event}")
    read = tuple((bytes(name), bytes(value)) for name, value in event.headers.raw_items())
    if (bytes(event.method), bytes(event.target), read) != (head.method, head.target, head.headers):
        raise Ambiguous("h11 sees something else")


@dataclass(frozen=True)
class Taken:
    """A request as a sink read it."""

    head: Head
    body: bytes


class Sink:
    """Reads requests strictly and answers 200, or 500 where the path says `/fail/`; keeps what came."""

    def __init__(self) -> None:
        self.port = 0
        self.taken: list[Taken] = []
        self.ambiguous: list[str] = []

    def url(self, path: str) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}{path}"

    async def serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        """Every request of a connection."""
        with suppress(OSError):
            try:
                while await self._one(reader, writer):
                    pass
            except (Ambiguous, asyncio.LimitOverrunError, asyncio.IncompleteReadError) as error:
                self.ambiguous.append(str(error))
        writer.close()

    async def _one(self, reader: StreamReader, writer: StreamWriter) -> bool:
        try:
            data = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            if error.partial:
                raise
            return False
        head = parse_head(data)
        self.taken.append(Taken(head, await reader.readexactly(head.length)))
        status = b"500 Oh no" if b"/fail/" in head.target else b"200 OK"
        writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        return True


@asynccontextmanager
async def sink() -> AsyncIterator[Sink]:
    """A sink that listens."""
    one = Sink()
    server = await asyncio.start_server(one.serve, "127.0.0.1", 0, limit=1 << 20)
    one.port = server.sockets[0].getsockname()[1]
    try:
        yield one
    finally:
        server.close()


class RawClient:
    """Sends requests to the API just as they are given: a client library would refuse what a publisher may send."""

    def __init__(self, port: int, token: str, most: int = 8) -> None:
        self._port = port
        self._token = token
        self._turns = asyncio.Semaphore(most)

    async def ask(
        self, method: str, path: str, headers: Sequence[tuple[str, str]] = (), body: bytes = b""
    ) -> tuple[int, bytes]:
        """Status and body of the answer, on a connection of its own."""
        lines = [
            f"{method} {path} HTTP/1.1",
            f"Host: 127.0.0.1:{self._port}",
            f"Authorization: Bearer {self._token}",
            f"Content-Length: {len(body)}",
            *(f"{name}: {value}" for name, value in headers),
        ]
        async with self._turns:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            try:
                writer.write("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)
                status = 100
                while status == 100:
                    head = (await reader.readuntil(b"\r\n\r\n")).lower()
                    status = int(head.split(b" ", 2)[1])
                length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
                return status, await reader.readexactly(length)
            finally:
                writer.close()
