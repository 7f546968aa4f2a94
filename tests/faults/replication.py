"""A primary and its standby, each behind wires that can be made to swallow what is sent; failover, and the way back."""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any, Literal, Self

import psutil

from postroad.store.engine import Connection
from tests.faults.postgres import PostgresServer

DATABASE = "postroad"
STANDBY = "standby"
"""The application_name of whoever replicates, which `synchronous_standby_names` asks for."""

Rebuild = Literal["rewind", "base backup"]

_LONGEST_WAIT_S = 60.0
_CHUNK = 1 << 18
_SETTINGS = {"wal_keep_size": "1GB", "shared_buffers": "64MB", "wal_receiver_timeout": "20s"}
"""Enough log for a standby that was away. A standby that hears nothing asks again, and not only after a minute."""


class Wire:
    """A port of its own whose connections lead to another one.

    `partition` stops the forwarding in both directions and closes nothing: who waits for an answer waits, and whoever
    connects is let in by the kernel and hears nothing. `heal` goes on with all that was sent meanwhile, as TCP does.
    `cut` resets what is open and loses what was on the way; `refuse` does so with whoever comes, until `heal`.
    """

    def __init__(self, to_port: int) -> None:
        self.port = 0
        self._to_port = to_port
        self._passing = asyncio.Event()
        self._passing.set()
        self._refusing = False
        self._connections: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0, backlog=512)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        self.cut()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def partition(self) -> None:
        """Let nothing pass, and tell nobody."""
        self._passing.clear()

    def heal(self) -> None:
        """Go on."""
        self._refusing = False
        self._passing.set()

    def refuse(self) -> None:
        """Reset whoever is connected, and whoever connects."""
        self._refusing = True
        self.cut()

    def cut(self) -> None:
        """Reset every connection and lose what was on the way."""
        for task in self._connections:
            task.cancel()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        there: asyncio.StreamWriter | None = None
        try:
            if self._refusing:
                return
            await self._passing.wait()
            back, there = await asyncio.open_connection("127.0.0.1", self._to_port)
            async with asyncio.TaskGroup() as ways:
                ways.create_task(self._forward(reader, there))
                ways.create_task(self._forward(back, writer))
        except* (OSError, EOFError, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(task)
            for end in (writer, there):
                if end is not None:
                    end.transport.abort()

    async def _forward(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(_CHUNK):
            await self._passing.wait()
            sink.write(data)
            await sink.drain()
        await self._passing.wait()
        raise EOFError


class Member:
    """One of the two servers, and the wires by which clients and the other server reach it."""

    def __init__(self, server: PostgresServer) -> None:
        self.server = server
        self.clients = Wire(server.port)
        self.replication = Wire(server.port)

    async def kill(self) -> None:
        """SIGKILL of every process of the server, as when its machine dies: no backend finishes what it was at."""
        postmaster = self._postmaster()
        processes = [postmaster, *postmaster.children()]
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for process in processes:
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(number)
        await self.server.kill()
        while any(_lives(process) for process in processes):  # noqa: ASYNC110  strangers' children announce nothing
            await asyncio.sleep(0.01)

    async def value(self, query: str, *arguments: object) -> Any:
        """One value, asked of this server itself."""
        async with self.server.connection(DATABASE) as connection:
            return await connection.fetchval(query, *arguments)

    def _postmaster(self) -> psutil.Process:
        pid = (self.server.data / "postmaster.pid").read_text().partition("\n")[0]
        return psutil.Process(int(pid))


class Pair:
    """Two servers, one of which replicates the other. `synchronous` decides whether a commit waits for it."""

    def __init__(self, first: Member, second: Member, *, synchronous: bool) -> None:
        self.primary = first
        self.standby = second
        self.synchronous = synchronous
        self.url = url(first, second)
        """One URL with both hosts, always in this order, as a node is given it."""

    async def begin(self) -> None:
        """Make the first server and its database, and the second from it."""
        await self.primary.server.initialise(_SETTINGS)
        await self.primary.server.start()
        await self.primary.server.create_database(DATABASE)
        await self._copy()
        await self._follow()

    async def promote(self) -> float:
        """Make a primary of the standby; gives the instant before which it took no writes.

        It must not wait for a standby before it has one: it would acknowledge nothing.
        """
        await self.standby.server.set("synchronous_standby_names", "")
        asked_at = monotonic()
        if not await self.standby.value("select pg_promote(true, 60)"):
            raise TimeoutError(f"the standby was not promoted:\n{self.standby.server.last_words()}")
        self.primary, self.standby = self.standby, self.primary
        return asked_at

    @asynccontextmanager
    async def exhumed(self) -> AsyncIterator[Connection]:
        """The old primary, which is down, alone and for a look; afterwards it is shut down in an orderly way."""
        server = self.standby.server
        kept, server.arguments = server.arguments, {"synchronous_standby_names": "", "autovacuum": "off"}
        await server.start()
        try:
            async with server.connection(DATABASE) as connection:
                yield connection
        finally:
            await server.stop()
            server.arguments = kept

    async def rebuild(self, how: Rebuild) -> None:
        """Make a standby of the old primary, which is down, and wait until commits wait for it.

        Rewinding needs a server that was shut down in an orderly way: see `exhumed`.
        """
        old = self.standby.server
        for wire in (self.standby.replication, self.primary.replication):
            wire.cut()
            wire.heal()
        if how == "rewind":
            source = self.primary.server.url()
            await old.program("pg_rewind", "-D", str(old.data), "--source-server", source, "--no-sync")
        else:
            await asyncio.to_thread(shutil.rmtree, old.data)
            await self._copy()
        await self._follow()
        # From here on it is a standby that lets clients in, and turns those away that want to write.
        self.standby.clients.cut()
        self.standby.clients.heal()

    async def _copy(self) -> None:
        server = self.standby.server
        server.data.mkdir(mode=0o700)
        server.account.own(server.data)
        await server.program(
            "pg_basebackup", "-D", str(server.data), "-d", self.primary.server.url(),
            "--checkpoint=fast", "--wal-method=stream", "--no-sync",
        )  # fmt: skip

    async def _follow(self) -> None:
        """Start the standby on what it has, and let commits wait for it once it keeps up."""
        server = self.standby.server
        source = f"host=127.0.0.1 port={self.primary.replication.port} user=postgres application_name={STANDBY}"
        with (server.data / "postgresql.auto.conf").open("a") as settings:
            settings.write(f"primary_conninfo = '{source}'\n")
        mark = server.data / "standby.signal"
        mark.touch()
        server.account.own(mark)
        await server.start()
        await self._until("streaming", "select true from pg_stat_replication where state = 'streaming'")
        if self.synchronous:
            await self.primary.server.set("synchronous_standby_names", STANDBY)
            await self._until("synchronous", "select true from pg_stat_replication where sync_state = 'sync'")

    async def _until(self, what: str, query: str) -> None:
        deadline = monotonic() + _LONGEST_WAIT_S
        while not await self.primary.value(query):
            if monotonic() > deadline:
                raise TimeoutError(f"the standby is not {what}:\n{self.standby.server.last_words()}")
            await asyncio.sleep(0.05)


def url(*members: Member) -> str:
    """A URL that leads to these servers, in this order, by the wires of clients."""
    hosts = ",".join(f"127.0.0.1:{member.clients.port}" for member in members)
    return f"postgresql://postgres:any@{hosts}/{DATABASE}?target_session_attrs=read-write"


@asynccontextmanager
async def replicated(directory: Path, *, synchronous: bool = True) -> AsyncIterator[Pair]:
    """Two servers in a directory, the second a hot standby of the first; both gone afterwards."""
    first, second = (Member(PostgresServer(directory / name)) for name in ("first", "second"))
    async with first.clients, first.replication, second.clients, second.replication:
        pair = Pair(first, second, synchronous=synchronous)
        try:
            await pair.begin()
            yield pair
        finally:
            for member in (first, second):
                await member.server.stop("immediate")


def _lives(process: psutil.Process) -> bool:
    """Whether there is more left of a process than its number."""
    with suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False
