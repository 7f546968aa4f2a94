"""Raw clients with bad manners, and a server whose seconds pass when a test says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from postroad.app import listen
from postroad.patience import Patience
from postroad.server import Server


@dataclass
class Raw:
    """A connection of which every byte is chosen."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, *pieces: bytes) -> Raw:
        """Send one piece after the other, as far as the server takes them."""
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()
        return self

    async def head(self) -> tuple[int, dict[str, str]]:
        """The status and the header of the next answer."""
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        pairs = (line.partition(":") for line in lines[1:] if line)
        return int(lines[0].split()[1]), {name.lower(): value.strip() for name, _, value in pairs}

    async def answer(self) -> tuple[int, bytes]:
        """The next answer, which has a length."""
        status, headers = await self.head()
        return status, await self.reader.readexactly(int(headers["content-length"]))

    async def is_closed(self) -> bool:
        """Read on until the server closes; true when that is all that comes."""
        try:
            return await self.reader.read() == b""
        except ConnectionResetError:
            return True

    def leave(self) -> None:
        """Hang up."""
        self.writer.transport.abort()


@asynccontextmanager
async def raw(url: str) -> AsyncIterator[Raw]:
    """A new connection to the server of this URL."""
    host, _, port = url.removeprefix("http://").partition(":")
    connection = Raw(*await asyncio.open_connection(host, int(port)))
    try:
        yield connection
    finally:
        connection.leave()


class _Still(Server):
    async def main_loop(self) -> None:
        """No second passes by itself."""
        await self._stopping.wait()


@dataclass
class Served:
    """A server alone, around an application that answers when it has the whole body and is told to."""

    url: str
    server: Server
    scopes: list[dict[str, Any]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    gone: int = 0
    size: int = 2
    early: bool = False
    may_read: asyncio.Event = field(default_factory=asyncio.Event)
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)

    def seconds_pass(self, count: int) -> None:
        """Let the server believe so."""
        for _ in range(count):
            self.server.watch.tick()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """The application."""
        self.scopes.append(scope)
        body = b""
        await self.may_read.wait()
        event: dict[str, Any] = {"more_body": not self.early}
        while event.get("more_body"):
            event = await receive()
            if event["type"] == "http.disconnect":
                self.gone += 1
                return
            body += event["body"]
        self.bodies.append(body)
        scope["headers at the end"] = list(scope["headers"])
        await self.may_answer.wait()
        head = [(b"content-length", str(self.size).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": b"x" * self.size})


@asynccontextmanager
async def served(patience: Patience | None = None, *, still: bool = True) -> AsyncIterator[Served]:
    """A server that runs in this event loop, and whose seconds pass only in `seconds_pass` unless it is not still."""
    listener = listen("127.0.0.1", 0)
    one = Served(f"http://127.0.0.1:{listener.getsockname()[1]}", None)  # type: ignore[arg-type]  # it comes next
    one.may_read.set()
    one.may_answer.set()
    one.server = (_Still if still else Server)(one, patience or Patience())
    task = asyncio.create_task(one.server.serve(sockets=[listener]))
    await one.server.ready.wait()
    try:
        yield one
    finally:
        one.server.force_exit = True
        one.server.stop()
        await task
