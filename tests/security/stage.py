"""What the tests of the guard share in their namespace: canaries that nobody may touch, an honest server, a node."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import asyncpg

from tests.conftest import TOKEN, Running, eventually, running
from tests.security.corpus import ADDRESSES, HONEST, HONEST_6, PORTS
from tests.security.nameserver import NameServer

REDIRECTS = (300, 301, 302, 303, 304, 305, 306, 307, 308)


@dataclass
class Canaries:
    """Listeners on every address of this network but the honest ones; whoever connects to one is counted."""

    hits: Counter[str] = field(default_factory=Counter)

    async def open(self, stack: AsyncExitStack, ports: Sequence[int] = PORTS) -> None:
        """Listen on a wildcard, which is beaten only by a socket that is bound to the very address."""
        for port in ports:
            listener = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind(("::", port))
            server = await asyncio.start_server(self._hit, sock=listener, backlog=512)
            stack.push_async_callback(_closed, server)

    async def prove(self) -> None:
        """See that each of them would notice, and forget that."""
        for host in ("127.0.0.1", "::1", *(one for one in ADDRESSES if one not in (HONEST, HONEST_6))):
            before = self.hits.total()
            _, writer = await asyncio.open_connection(host, 80)
            await eventually(self._total, lambda hits, before=before: hits == before + 1)  # type: ignore[misc]
            writer.close()
        self.hits.clear()

    async def _total(self) -> int:
        return self.hits.total()

    async def _hit(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = writer.get_extra_info("sockname")[:2]
        self.hits[f"{host.removeprefix('::ffff:')} {port}"] += 1
        writer.close()


@dataclass
class Honest:
    """A server on public addresses. `/fail` is answered with 500, `/redirect/{status}/{target}` with a redirect."""

    arrived: Counter[str] = field(default_factory=Counter)
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)

    async def open(self, stack: AsyncExitStack) -> None:
        for host in (HONEST, HONEST_6):
            server = await asyncio.start_server(self._serve, host, 80, reuse_port=True, backlog=512)
            stack.push_async_callback(_closed, server)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                path = line.split()[1].decode("latin-1")
                length = 0
                while (header := await reader.readline()) not in (b"\r\n", b""):
                    name, _, value = header.partition(b":")
                    if name.lower() == b"content-length":
                        length = int(value)
                await reader.readexactly(length)
                self.arrived[path] += 1
                writer.write(_answer(path))
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


def _answer(path: str) -> bytes:
    status, headers = 200, []
    if path.startswith("/fail"):
        status = 500
    elif path.startswith("/redirect/"):
        _, _, code, target = path.split("/", 3)
        status = int(code)
        headers = [f"{name}: {target}" for name in ("Location", "Content-Location", "URI")]
        headers += [f"Refresh: 0; url={target}", f"Link: <{target}>; rel=preload", f"SourceMap: {target}"]
        place = urlsplit(target).netloc
        headers += [f'Alt-Svc: http/1.1="{place}"; ma=3600, h2="{place}"; persist=1', f"Alternates: {{{target} 1.0}}"]
        headers += [f"Proxy: {target}", f"Upstash-Callback: {target}", f"Upstash-Failure-Callback: {target}"]
    lines = [f"HTTP/1.1 {status} Whatever", *headers, "Content-Type: text/html"]
    body = ""
    if headers:
        target = path.split("/", 3)[3]
        body = f'<meta http-equiv="refresh" content="0; url={target}"><script>location="{target}"</script>'
    if status != 304:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", "" if status == 304 else body]).encode()


async def _closed(server: asyncio.Server) -> None:
    server.close()


@dataclass
class Stage:
    """All of it, and short ways to speak to the node."""

    node: Running
    names: NameServer
    canaries: Canaries
    honest: Honest
    database_url: str

    def remember_nothing(self) -> None:
        """From now on the node looks every name up for every attempt, and dials every time."""
        egress = self.node.node._egress
        egress._resolver._ttl = egress._resolver._negative_ttl = 0
        egress._pool._max_idle = 0

    async def post(self, path: str, json: Any = None, **headers: str) -> tuple[int, Any]:
        """A call of the API: status and answer."""
        answer = await self.node.http.post(
            path, json=json, headers={name.replace("_", "-"): value for name, value in headers.items()}
        )
        return answer.status_code, answer.json() if answer.content else None

    async def settled(self) -> None:
        """Until no tick is left to fire, and nothing to deliver but what waits for a later hour."""
        connection = await asyncpg.connect(self.database_url)

        async def open_ones() -> int:
            count: int = await connection.fetchval(
                "select (select count(*) from deliveries where state = 2 or due_at < now() + interval '1 minute')"
                " + (select count(*) from schedules where not paused and next_at <= now())"
            )
            return count

        try:
            await eventually(open_ones, lambda count: count == 0, within=40)
        finally:
            await connection.close()

    async def store_urls(self, urls: dict[str, str]) -> None:
        """Write other URLs into stored messages, by id: as if other rules had been in force when they were accepted."""
        connection = await asyncpg.connect(self.database_url)
        await connection.execute(
            "update messages set url = given.url "
            "from unnest($1::uuid[], $2::text[]) as given (id, url) where messages.id = given.id",
            [message_uuid(one) for one in urls],
            list(urls.values()),
        )
        await connection.close()


def message_uuid(text: str) -> Any:
    """The id of a message as the database has it."""
    from postroad.domain.ids import parse_message_id

    return parse_message_id(text)


@asynccontextmanager
async def stage(database_url: str, *, policy: str = "public", **settings: Any) -> AsyncIterator[Stage]:
    """Canaries, an honest server, a name server and a node of this policy, all in the event loop of the caller."""
    names, canaries, honest = NameServer(), Canaries(), Honest()
    async with AsyncExitStack() as stack:
        await canaries.open(stack)
        await honest.open(stack)
        await canaries.prove()
        node = await stack.enter_async_context(running(database_url, dev=True, destinations=policy, **settings))
        yield Stage(node, names, canaries, honest, database_url)


class RawClient:
    """Sends request targets and header values byte by byte as they are, which no client library would."""

    def __init__(self, url: str) -> None:
        self._place = urlsplit(url)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, target: bytes, headers: Sequence[tuple[bytes, bytes]] = (), body: bytes = b"") -> int:
        """The status of the answer."""
        if self._streams is None:
            assert self._place.hostname is not None
            self._streams = await asyncio.open_connection(self._place.hostname, self._place.port)
        reader, writer = self._streams
        head = b"POST " + target + b" HTTP/1.1\r\nHost: node\r\nAuthorization: Bearer " + TOKEN.encode() + b"\r\n"
        head += b"".join(name + b": " + value + b"\r\n" for name, value in headers)
        writer.write(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        status = int((await reader.readline()).split()[1])
        length, closes = 0, False
        while (line := await reader.readline()) not in (b"\r\n", b""):
            name, _, value = line.lower().partition(b":")
            if name == b"content-length":
                length = int(value)
            closes = closes or (name == b"connection" and value.strip() == b"close")
        await reader.readexactly(length)
        if closes:
            writer.close()
            self._streams = None
        return status
