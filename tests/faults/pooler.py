"""A pooler in transaction mode, as strict as pgbouncer 1.18, for machines without one.

Clients are let in without a password. Each transaction of a client gets the server connection that has rested longest,
so that whatever somebody leaves in a session, or expects to find there, breaks at once.
"""

from __future__ import annotations

import asyncio
import struct
from collections import Counter, deque
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, urlsplit

PARAMETERS = frozenset(
    {"user", "database", "client_encoding", "application_name", "datestyle", "timezone", "standard_conforming_strings"}
)
"""What may be in the first message of a client; whoever asks for more is refused."""

_TRACKED = PARAMETERS - {"user", "database"}
_SSL, _GSS, _CANCEL = 80877103, 80877104, 80877102
_PROTOCOL = 196608
_READY = b"Z"
Message = tuple[bytes, bytes]
"""Its kind and its content."""

_ENDS_A_TURN = frozenset({b"Q", b"S", b"F"})
"""Messages that a server answers with ReadyForQuery."""


class _End:
    """One end of a connection, whose messages are read as they come, so that no one who waits for them can lose one."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.is_gone = False
        self._reader = reader
        self._messages: asyncio.Queue[Message | None] = asyncio.Queue()
        self._unread: list[Message] = []
        self._reading = asyncio.create_task(self._read())

    async def next(self) -> Message:
        """The next message. Raises `EOFError` when there is none to come."""
        message = self._unread.pop() if self._unread else await self._messages.get()
        if message is None:
            self._messages.put_nowait(None)
            raise EOFError
        return message

    def unread(self, message: Message) -> None:
        """Let it be the next one again."""
        self._unread.append(message)

    def write(self, kind: bytes, body: bytes) -> None:
        """Send a message."""
        self.writer.write(_message(kind, body))

    def close(self, *, at_once: bool = False) -> None:
        """Read no more; what was written is still sent, unless it ends at once."""
        self._reading.cancel()
        if at_once:
            self.writer.transport.abort()
        else:
            self.writer.close()

    async def _read(self) -> None:
        try:
            while True:
                kind, length = struct.unpack("!ci", await self._reader.readexactly(5))
                self._messages.put_nowait((kind, await self._reader.readexactly(length - 4)))
        except (OSError, EOFError):
            self.is_gone = True
            self._messages.put_nowait(None)


@dataclass(eq=False, slots=True)
class _Server:
    """A connection to PostgreSQL. `given` is what the last client wanted it to be, of what is tracked."""

    end: _End
    key: bytes = b""
    given: dict[str, str] = field(default_factory=dict)


@dataclass(eq=False, slots=True)
class _Client:
    end: _End
    key: bytes
    wants: dict[str, str]
    server: _Server | None = None


class Refused(Exception):
    """What a client is told before it is turned away."""


class Pooler:
    """Listens on a port of 127.0.0.1 for the clients of one database; an asynchronous context manager."""

    def __init__(self, url: str, *, servers: int) -> None:
        self.port = 0
        self.statements: Counter[str] = Counter()
        """What clients have asked for, by its first two words."""
        self.transactions = 0
        self.most_clients = 0
        self._parts = urlsplit(url)
        self._most = servers
        self._free = asyncio.Semaphore(servers)
        self._resting: deque[_Server] = deque()
        self._clients: dict[bytes, _Client] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._keys = count(1)
        self._welcome: dict[str, str] | None = None

    @property
    def url(self) -> str:
        """The database through this pooler, as a node is to be given it."""
        user = self._parts.username or "postgres"
        return f"postgresql://{user}@127.0.0.1:{self.port}{self._parts.path}?pgbouncer=true"

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._connected, "127.0.0.1", 0, backlog=512)
        self.port = self._listener.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        while self._resting:
            self._resting.pop().end.close(at_once=True)

    def cut(self) -> None:
        """Lose every client, as in a restart."""
        for task in self._tasks:
            task.cancel()

    async def ask_each(self, question: str) -> list[list[str | None]]:
        """What each server connection answers, between two transactions of anybody: its rows, of one column."""
        for _ in range(self._most):
            await self._free.acquire()
        try:
            return [await self._ask(server, question) for server in self._resting if not server.end.is_gone]
        finally:
            for _ in range(self._most):
                self._free.release()

    async def _ask(self, server: _Server, question: str) -> list[str | None]:
        server.end.write(b"Q", question.encode() + b"\0")
        rows: list[str | None] = []
        complaint = ""
        while True:
            kind, body = await server.end.next()
            if kind == b"E":
                complaint = body.decode(errors="replace")
            if kind == b"D":
                [length] = struct.unpack_from("!i", body, 2)
                rows.append(None if length < 0 else body[6 : 6 + length].decode())
            if kind == _READY:
                break
        if complaint:
            raise Refused(complaint)
        return rows

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        client = None
        try:
            client = await self._admitted(reader, writer)
            if client is not None:
                self._clients[client.key] = client
                self.most_clients = max(self.most_clients, len(self._clients))
                while await self._serve_transaction(client):
                    pass
        except Refused as error:
            writer.write(_error(str(error)))
            with suppress(OSError):
                await writer.drain()
        except (OSError, EOFError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            if client is not None:
                self._clients.pop(client.key, None)
                client.end.close()
            writer.close()

    async def _admitted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> _Client | None:
        """The client after its first message. None when it only came to cancel."""
        while True:
            [length] = struct.unpack("!i", await reader.readexactly(4))
            body = await reader.readexactly(length - 4)
            [code] = struct.unpack_from("!i", body)
            if code == _CANCEL:
                await self._cancel(body[4:])
                return None
            if code not in (_SSL, _GSS):
                break
            writer.write(b"N")
        texts = body[4:].rstrip(b"\0").decode().split("\0")
        asked = dict(zip(texts[::2], texts[1::2], strict=False))
        if strange := [name for name in asked if name.lower() not in PARAMETERS]:
            raise Refused(f"unsupported startup parameter: {strange[0]}")
        if self._welcome is None:
            self._release(await self._acquired())
        assert self._welcome is not None
        wants = {name.lower(): value for name, value in asked.items() if name.lower() in _TRACKED}
        client = _Client(_End(reader, writer), struct.pack("!ii", 1, next(self._keys)), wants)
        writer.write(_message(b"R", struct.pack("!i", 0)))
        for name, value in (self._welcome | {"application_name": wants.get("application_name", "")}).items():
            writer.write(_message(b"S", f"{name}\0{value}\0".encode()))
        writer.write(_message(b"K", client.key) + _message(_READY, b"I"))
        return client

    async def _serve_transaction(self, client: _Client) -> bool:
        """Forward one transaction from its first message to the end. False when the client has left."""
        first = await client.end.next()
        if first[0] == b"X":
            return False
        server = await self._acquired()
        client.server = server
        last = None
        try:
            await self._tune(server, client)
            self.transactions += 1
            last = await self._forward_transaction(client.end, server.end, first)
        except EOFError:
            if not client.end.is_gone:
                raise Refused("server conn crashed?") from None
        finally:
            client.server = None
            if last is not None:
                self._release(server)
            else:
                self._free.release()
                server.end.close(at_once=True)
        if last is None:
            return False
        # Not before the server is free, or the client's next transaction would not find it.
        client.end.write(*last)
        await client.end.writer.drain()
        return True

    async def _forward_transaction(self, client: _End, server: _End, first: Message) -> Message | None:
        """The last answer, which the client has not been given; None when it left before, and the server is useless."""
        open_turns = self._pass_on(server, first)
        asking = asyncio.ensure_future(client.next())
        answering = asyncio.ensure_future(server.next())
        try:
            while True:
                await asyncio.wait([asking, answering], return_when=asyncio.FIRST_COMPLETED)
                if answering.done():
                    kind, body = answering.result()
                    if kind == _READY:
                        open_turns -= 1
                        if open_turns == 0 and body == b"I":
                            return kind, body
                    client.write(kind, body)
                    await client.writer.drain()
                    answering = asyncio.ensure_future(server.next())
                elif asking.done():
                    if asking.result()[0] == b"X":
                        return None
                    open_turns += self._pass_on(server, asking.result())
                    await server.writer.drain()
                    asking = asyncio.ensure_future(client.next())
        finally:
            for one in (asking, answering):
                one.cancel()
            await asyncio.gather(asking, answering, return_exceptions=True)
            if not asking.cancelled() and asking.exception() is None:
                client.unread(asking.result())

    def _pass_on(self, server: _End, message: Message) -> int:
        """Send a message to the server; gives how many ReadyForQuery answer it."""
        kind, body = message
        if kind in (b"Q", b"P"):
            text = body.partition(b"\0")[0] if kind == b"Q" else body.split(b"\0", 2)[1]
            self.statements[" ".join(text.decode(errors="replace").lower().split()[:2])] += 1
        server.write(kind, body)
        return int(kind in _ENDS_A_TURN)

    async def _tune(self, server: _Server, client: _Client) -> None:
        """Give the server the parameters that the client asked for at its start, as pgbouncer does."""
        different = {name: value for name, value in client.wants.items() if server.given.get(name) != value}
        if not different:
            return
        quoted = [f"SET {name} = '{value.replace(chr(39), chr(39) * 2)}'" for name, value in different.items()]
        server.end.write(b"Q", "; ".join(quoted).encode() + b"\0")
        while (await server.end.next())[0] != _READY:
            pass
        server.given |= different

    async def _acquired(self) -> _Server:
        """The connection that has rested longest, or a new one. Raises `Refused` when the server takes none."""
        await self._free.acquire()
        try:
            while self._resting:
                server = self._resting.popleft()
                if not server.end.is_gone:
                    return server
                server.end.close(at_once=True)
            return await self._opened()
        except (OSError, EOFError) as error:
            self._free.release()
            raise Refused("server login failed") from error
        except BaseException:
            self._free.release()
            raise

    def _release(self, server: _Server) -> None:
        self._resting.append(server)
        self._free.release()

    async def _opened(self) -> _Server:
        server = _Server(_End(*await self._dialled()))
        names = {"user": self._parts.username or "postgres", "database": self._parts.path.lstrip("/")}
        texts = "".join(f"{name}\0{value}\0" for name, value in names.items()) + "\0"
        body = struct.pack("!i", _PROTOCOL) + texts.encode()
        server.end.writer.write(struct.pack("!i", len(body) + 4) + body)
        said: dict[str, str] = {}
        while True:
            kind, body = await server.end.next()
            if kind == b"E":
                server.end.close(at_once=True)
                raise Refused(f"server login failed: {body.decode(errors='replace')}")
            if kind == b"S":
                name, value, _ = body.decode().split("\0")
                said[name] = value
            if kind == b"K":
                server.key = body
            if kind == _READY:
                self._welcome = self._welcome or said
                return server

    async def _dialled(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        where = parse_qs(self._parts.query)
        if self._parts.hostname:
            return await asyncio.open_connection(self._parts.hostname, self._parts.port or 5432)
        return await asyncio.open_unix_connection(f"{where['host'][0]}/.s.PGSQL.{where['port'][0]}")

    async def _cancel(self, key: bytes) -> None:
        client = self._clients.get(key)
        if client is not None and client.server is not None:
            _, writer = await self._dialled()
            writer.write(struct.pack("!ii", 8 + len(client.server.key), _CANCEL) + client.server.key)
            await writer.drain()
            writer.close()


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body


def _error(text: str) -> bytes:
    fields = {"S": "FATAL", "V": "FATAL", "C": "08P01", "M": text}
    return _message(b"E", "".join(f"{name}{value}\0" for name, value in fields.items()).encode() + b"\0")
