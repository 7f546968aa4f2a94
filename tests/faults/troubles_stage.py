"""What a trouble happens on: a PostgreSQL behind a line, perhaps a pooler before it, one node, and a steady load."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from time import monotonic
from typing import Literal

import psutil

from postroad.store import embedded, migrations, wall
from tests.faults.cluster import Cluster, Node
from tests.faults.postgres import PostgresServer, free_port, run_directory
from tests.faults.replication import DATABASE, Wire, replicated
from tests.faults.troubles_disk import SlowSync, move_wal, small_disk
from tests.faults.troubles_load import Load
from tests.receiver import Receiver

TOKEN = "token-of-a-node-in-trouble"
ROLE = "postroad"

Way = Literal["direct", "pgbouncer"]
Disk = Literal["data", "wal"]

_PGBOUNCER = Path("/usr/sbin/pgbouncer")
_ROLE_SETTINGS = {"idle_in_transaction_session_timeout": "60s", "lock_timeout": "8s", "jit": "off"}
"""What a node sets for its sessions, and a pooler would refuse."""


class Line(Wire):
    """A wire that can be slow, and that can lead somewhere else, as when a name is given to another machine."""

    def __init__(self, to_port: int) -> None:
        super().__init__(to_port)
        self.round_trip_s = 0.0
        """How much longer each question and its answer take."""

    def lead_to(self, port: int) -> None:
        """Cut what is open; whoever connects from now on gets to this port."""
        self._to_port = port
        self.cut()

    async def _forward(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(1 << 18):
            if self.round_trip_s:
                await asyncio.sleep(self.round_trip_s / 2)
            await self._passing.wait()
            if sink.is_closing():
                break
            sink.write(data)
            await sink.drain()
        await self._passing.wait()
        raise EOFError


class PgBouncer:
    """Debian's pgbouncer in transaction mode, with the settings that docs/operations.md asks for."""

    def __init__(self, directory: Path, to_port: int) -> None:
        directory.mkdir(mode=0o755)
        self.port = free_port()
        self._account = embedded._account(directory)
        self._log = directory / "pgbouncer.log"
        users = directory / "users.txt"
        users.write_text(f'"{ROLE}" ""\n')
        self._settings = directory / "pgbouncer.ini"
        self._settings.write_text(
            f"[databases]\n{DATABASE} = host=127.0.0.1 port={to_port} dbname={DATABASE}\n[pgbouncer]\n"
            f"listen_addr = 127.0.0.1\nlisten_port = {self.port}\nunix_socket_dir =\nauth_type = trust\n"
            f"auth_file = {users}\npool_mode = transaction\nmax_client_conn = 1000\ndefault_pool_size = 20\n"
            "server_login_retry = 1\nquery_wait_timeout = 10\n"
        )
        self._process: embedded.Process | None = None

    async def start(self) -> float:
        """Start it, and give the instant when it accepts connections."""
        with self._log.open("ab") as output:
            self._process = embedded._spawn(
                self._account, _PGBOUNCER, str(self._settings), stdin=subprocess.DEVNULL, out=output.fileno()
            )
        while self._process.poll() is None:
            with suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.close()
                return monotonic()
            await asyncio.sleep(0.02)
        raise RuntimeError(f"pgbouncer did not start:\n{self._log.read_text(errors='replace')}")

    async def stop(self) -> None:
        """SIGTERM, which cuts every connection at once."""
        if self._process is not None:
            self._process.terminate()
            await asyncio.to_thread(self._process.wait)


@dataclass(slots=True)
class Stage:
    """Everything that a trouble may touch."""

    directory: Path
    server: PostgresServer
    line: Line
    node: Node
    load: Load
    receiver: Receiver
    log: Path
    random: Random
    pgbouncer: PgBouncer | None = None
    standby: PostgresServer | None = None
    disk: Path | None = None
    slow_sync: SlowSync | None = None

    def process(self) -> psutil.Process:
        """The node's."""
        assert self.node.pid is not None, self.node.last_words()
        return psutil.Process(self.node.pid)

    async def connections(self) -> int:
        """How many the node has, or a pooler for it."""
        async with self.server.connection() as connection:
            count: int = await connection.fetchval("select count(*) from pg_stat_activity where usename = $1", ROLE)
        return count

    async def stored(self) -> set[int]:
        """The ops of all messages in the database."""
        async with self.server.connection(DATABASE) as connection:
            return {int(row["body"]) for row in await connection.fetch("select body from messages")}


@asynccontextmanager
async def staged(
    *,
    way: Way = "direct",
    rate: float = 100,
    seed: int = 1,
    settings: Mapping[str, str] | None = None,
    standby: bool = False,
    disk: Disk | None = None,
    slow_sync: bool = False,
    memory: bool = False,
) -> AsyncIterator[Stage]:
    """A stage whose load is running and has been answered and delivered; nothing is left of it afterwards."""
    async with AsyncExitStack() as stack:
        directory = stack.enter_context(run_directory(memory=memory))
        place = directory
        if disk is not None:
            place = stack.enter_context(small_disk(directory / "disk"))
        replica: PostgresServer | None = None
        slow: SlowSync | None = None
        if standby:
            pair = await stack.enter_async_context(replicated(directory, synchronous=False))
            server, replica = pair.primary.server, pair.standby.server
        else:
            server = PostgresServer(directory / "postgres" if disk == "wal" else place / "postgres")
            await server.initialise({"wal_sync_method": "fdatasync"} | dict(settings or {}))
            if disk is not None:
                move_wal(server, (place if disk == "wal" else directory) / "wal")
            stack.push_async_callback(server.stop, "immediate")
            if slow_sync:
                slow = SlowSync(directory)
            with slow.preloaded() if slow is not None else nullcontext():
                await server.start()
            await server.create_database(DATABASE)
        async with server.connection(DATABASE) as connection:
            await connection.execute(f"create role {ROLE} login; alter database {DATABASE} owner to {ROLE}")
            await connection.execute(f"create role {wall.ROLE} nologin; grant {wall.ROLE} to {ROLE}")
        line = await stack.enter_async_context(Line(server.port))
        await migrations.migrate(f"postgresql://{ROLE}@127.0.0.1:{line.port}/{DATABASE}")
        entry, query, pgbouncer = line.port, "", None
        if way == "pgbouncer":
            async with server.connection() as connection:
                for name, value in _ROLE_SETTINGS.items():
                    await connection.execute(f"alter role {ROLE} set {name} = '{value}'")
            pgbouncer = PgBouncer(directory / "pgbouncer", line.port)
            await pgbouncer.start()
            stack.push_async_callback(pgbouncer.stop)
            entry, query = pgbouncer.port, "?pgbouncer=true"
        node_settings = {
            "POSTROAD_DATABASE_URL": f"postgresql://{ROLE}@127.0.0.1:{entry}/{DATABASE}{query}",
            "POSTROAD_TOKEN": TOKEN,
            "POSTROAD_DESTINATIONS": "any",
        }
        cluster = Cluster(directory / "nodes", nodes=1, seed=seed, settings=node_settings)
        stack.push_async_callback(cluster.destroy)
        await cluster.start()
        [node] = cluster.nodes
        receiver = await stack.enter_async_context(Receiver())
        load = Load(node.port, TOKEN, receiver, rate=rate)
        stack.push_async_callback(load.stop)
        yield Stage(
            directory, server, line, node, load, receiver, cluster.directory / f"{node.name}.log", Random(seed),
            pgbouncer, replica, place if disk is not None else None, slow,
        )  # fmt: skip
