"""A PostgreSQL server of a run, which may be stopped, killed and started again on the same port."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import Literal

import asyncpg

from postroad.store import embedded
from postroad.store.engine import Connection

BASE_SETTINGS = {
    "max_connections": "200",
    "timezone": "UTC",
    "log_min_messages": "warning",
    "jit": "off",
    "random_page_cost": "1.1",
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",
    "max_parallel_workers_per_gather": "0",
    "max_parallel_maintenance_workers": "0",
}
"""What `initialise` writes into postgresql.conf; `set` and `arguments` win over it."""

Mode = Literal["smart", "fast", "immediate"]

_STOPS: Mapping[Mode, signal.Signals] = {
    "smart": signal.SIGTERM,
    "fast": signal.SIGINT,
    "immediate": signal.SIGQUIT,
}
_LONGEST_START_S = 120.0
_LONGEST_STOP_S = 60.0
_FIXED_PORTS = range(12_000, 32_000)
"""Below those that the kernel gives to outgoing connections, which could take the port of a server that is down."""


class ServerFailed(Exception):
    """The server does not do what it was told; with its last words."""


def free_port() -> int:
    """A port of 127.0.0.1 that nobody has and that stays ours while its server is down."""
    for port in random.SystemRandom().sample(_FIXED_PORTS, 200):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise ServerFailed("there is no free port")


@contextmanager
def run_directory(*, memory: bool = False) -> Iterator[Path]:
    """A directory that PostgreSQL's account may enter, on disk or in memory; gone afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="postroad-faults-", dir="/dev/shm" if memory else None))
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


class PostgresServer:
    """A server of the embedded binaries in `directory`, which it shares with nobody.

    `arguments` are settings of its command line; they hold from the next start on, whatever the files say. Another way
    to fill `data` than `initialise` is `program("pg_basebackup", ...)`.
    """

    def __init__(self, directory: Path, *, port: int | None = None, arguments: Mapping[str, str] | None = None) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o755)
        self.directory = directory
        self.data = directory / "data"
        self.log = directory / "postgres.log"
        self.port = port or free_port()
        self.arguments = dict(arguments or {})
        self.account = embedded._account(self.data)
        self.binaries = embedded._binaries(self.account)
        self.socket_directory = directory / "socket"
        self.socket_directory.mkdir(exist_ok=True)
        self.account.own(self.socket_directory)
        self.accepting_since = 0.0
        """The instant when it accepted connections after its last start."""
        self._process: embedded.Process | None = None

    def url(self, database: str = "postgres", *, over_socket: bool = False) -> str:
        """How asyncpg and psql get to it, by TCP unless told otherwise."""
        if over_socket:
            return f"postgresql://postgres@/{database}?host={self.socket_directory}&port={self.port}"
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    @property
    def is_running(self) -> bool:
        """Whether the postmaster lives."""
        return self._process is not None and self._process.poll() is None

    async def program(self, name: str, *arguments: str) -> str:
        """Run one of the binaries as the server's account; gives what it prints."""
        return await asyncio.to_thread(embedded._run, self.account, self.binaries / name, *arguments)

    async def initialise(self, settings: Mapping[str, str] | None = None) -> None:
        """Make the cluster. Everybody on this machine may connect as anybody, also for replication."""
        self.data.mkdir(mode=0o700)
        self.account.own(self.data)
        options = "--encoding=UTF8 --locale-provider=builtin --builtin-locale=C.UTF-8 --locale=C --no-instructions"
        access = "--username=postgres --auth-local=trust --auth-host=trust"
        await self.program("initdb", "-D", str(self.data), *options.split(), *access.split())
        lines = [f"{name} = '{value}'\n" for name, value in (BASE_SETTINGS | dict(settings or {})).items()]
        with (self.data / "postgresql.conf").open("a") as configuration:
            configuration.writelines(lines)

    async def start(self, within: float = _LONGEST_START_S) -> float:
        """Start it and give the instant when it accepts connections.

        After a kill, the postmaster refuses to start while backends of the old one live, so it is tried again.
        """
        if self.is_running:
            raise ServerFailed(f"the server on port {self.port} runs already")
        deadline = monotonic() + within
        while monotonic() < deadline:
            self._process = self._launch()
            while self._process.poll() is None and monotonic() < deadline:
                if await self._accepts():
                    self.accepting_since = monotonic()
                    return self.accepting_since
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
        await self.kill()
        raise ServerFailed(f"PostgreSQL did not start:\n{self.last_words()}")

    async def stop(self, mode: Mode = "fast") -> None:
        """Stop it in an orderly way, or without a checkpoint; whoever does not listen is killed after a minute."""
        if self._process is None:
            return
        if self.is_running:
            self._process.send_signal(_STOPS[mode])
            with suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(self._process.wait, _LONGEST_STOP_S)
        await self.kill()

    async def kill(self) -> None:
        """`kill -9` of the postmaster; its backends notice a little later."""
        if self._process is not None:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)
            self._process = None

    async def restart(self, mode: Mode = "fast") -> float:
        """Stop and start; gives the instant when it accepts connections."""
        await self.stop(mode)
        return await self.start()

    @asynccontextmanager
    async def connection(self, database: str = "postgres") -> AsyncIterator[Connection]:
        """A connection of the superuser."""
        connection = await asyncpg.connect(self.url(database, over_socket=True), timeout=10, command_timeout=60)
        try:
            yield connection
        finally:
            await connection.close()

    async def create_database(self, name: str) -> str:
        """Make a database and give its URL."""
        async with self.connection() as connection:
            await connection.execute(f'create database "{name}"')
        return self.url(name)

    async def set(self, name: str, value: str) -> None:
        """Change a setting that needs no restart; `arguments` are for those that do."""
        async with self.connection() as connection:
            await connection.execute(f"alter system set {name} = '{value}'")
            await connection.execute("select pg_reload_conf()")

    async def terminate_backends(self) -> int:
        """End the connections of all clients; gives their number."""
        async with self.connection() as connection:
            ended: int = await connection.fetchval(
                "select count(pg_terminate_backend(pid)) from pg_stat_activity "
                "where backend_type = 'client backend' and pid <> pg_backend_pid()"
            )
        return ended

    def last_words(self, lines: int = 15) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else ""

    def _launch(self) -> embedded.Process:
        own = {
            "port": str(self.port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(self.socket_directory),
        }
        settings = [f"--{name}={value}" for name, value in (own | self.arguments).items()]
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        with os.fdopen(os.open(self.log, flags, 0o644), "ab") as output:
            return embedded._spawn(
                self.account,
                self.binaries / "postgres",
                "-D",
                str(self.data),
                *settings,
                stdin=subprocess.DEVNULL,
                out=output.fileno(),
            )

    async def _accepts(self) -> bool:
        """Whether the postmaster that runs now lets somebody in; a server that is full does, too."""
        try:
            connection = await asyncpg.connect(self.url(), timeout=5)
        except asyncpg.TooManyConnectionsError:
            return True
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return False
        await connection.close()
        return True
