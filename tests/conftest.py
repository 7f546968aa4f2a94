"""One real PostgreSQL for the run, one template database, and a copy of it for each test."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import httpx
import pytest
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

from postroad import app, dev
from postroad.app import Node, listen
from postroad.dispatch.egress.tls import tls_context
from postroad.settings import Settings, load
from postroad.store import embedded, migrations, time_travel
from postroad.store.engine import Connection, Database
from tests.receiver import Receiver
from tests.security.log_watch import LogWatch

TOKEN = dev.DEV_USERS[0].token
KEYS = dev.DEV_USERS[0].keys

# Every server reads the certificates of the system, which takes longer than most tests: here once for all of them.
app.tls_context = cache(tls_context)  # type: ignore[attr-defined]  # that is where it is used

_numbers = count(1)
_PROCESS = os.environ.get("PYTEST_XDIST_WORKER", "")
"""Which of several processes this is that run tests, perhaps on one server."""


class _Together(LoadScopeScheduling):  # type: ignore[misc]  # untyped there
    """In one process runs what belongs together: a file, and all that counts how much of a client is used."""

    def _split_scope(self, nodeid: str) -> str:
        directory, _, _ = nodeid.partition("contract/")
        return f"{directory}contract" if directory != nodeid else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """How tests are shared out over processes."""
    return _Together(config, log)


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--canaries`, for a run that looks for secrets in the logs of all processes and at every level."""
    parser.addoption("--canaries", action="store_true", help="look for secrets in the logs of all processes")


@pytest.fixture(scope="session")
def log_watch(request: pytest.FixtureRequest) -> Iterator[LogWatch]:
    """What is logged in this run."""
    watch = LogWatch(everywhere=request.config.getoption("--canaries"))
    yield watch
    watch.close()


@pytest.fixture(autouse=True)
def no_secret_is_logged(log_watch: LogWatch) -> Iterator[None]:
    """Fail the test that has a token, a signing key or another secret logged."""
    yield
    if lines := log_watch.found():
        pytest.fail("secrets in the log: " + "\n".join(lines))


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """URL of a PostgreSQL server's maintenance database: an embedded one, or the one of TEST_POSTGRES_URL."""
    if url := os.environ.get("TEST_POSTGRES_URL"):
        yield url
        return
    memory = Path("/dev/shm")
    in_memory = memory.is_dir() and shutil.disk_usage(memory).free > 2 << 30
    directory = Path(tempfile.mkdtemp(prefix="postroad-tests-", dir=memory if in_memory else None))
    directory.chmod(0o755)
    server = embedded.start(directory, extra_settings={"max_connections": "300"})
    try:
        yield server.url
    finally:
        embedded.stop(server)
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def template(postgres: str) -> str:
    """Name of a migrated database that nobody connects to."""

    name = f"template_postroad{_PROCESS}"

    async def make() -> None:
        connection = await asyncpg.connect(postgres)
        await connection.execute(f"create database {name}")
        await connection.close()
        url = at_database(postgres, name)
        await migrations.migrate(url)
        await dev.prepare(url)

    asyncio.run(make())
    return name


@pytest.fixture
async def database_url(postgres: str, template: str) -> AsyncIterator[str]:
    """A database of this test's own, migrated, with the public development users."""
    name = f"test_{_PROCESS}{next(_numbers)}"
    admin = await asyncpg.connect(postgres)
    await admin.execute(f"create database {name} template {template} strategy wal_log")
    yield at_database(postgres, name)
    await admin.execute(f"drop database {name} with (force)")
    await admin.close()


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """A pool on the test's database."""
    pool = await Database.connect(database_url, connections=8)
    yield pool
    await pool.close()


@pytest.fixture
async def connection(database: Database) -> AsyncIterator[Connection]:
    """A connection to the test's database."""
    async with database.connection() as one:
        yield one


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """A real HTTP server that answers as told and records what arrives."""
    async with Receiver() as one:
        yield one


@dataclass
class Running:
    """A server that runs in the test's own event loop, and a client that speaks to it."""

    url: str
    http: httpx.AsyncClient
    node: Node
    database_url: str

    async def publish(self, destination: str, body: bytes | str = b"", **headers: str) -> str:
        """Publish and give the id of the message; header names are written with underscores."""
        answer = await self.http.post(
            f"/v2/publish/{destination}", content=body, headers={k.replace("_", "-"): v for k, v in headers.items()}
        )
        assert answer.is_success, answer.text
        message_id: str = answer.json()["messageId"]
        return message_id

    async def states(self, message_id: str) -> list[str]:
        """The log of a message, the oldest event first."""
        answer = await self.http.get("/v2/events", params={"messageId": message_id})
        assert answer.status_code == 200, answer.text
        return [event["state"] for event in reversed(answer.json()["events"])]

    async def events(self, **filters: Any) -> list[dict[str, Any]]:
        """Events, the newest first."""
        answer = await self.http.get("/v2/events", params=filters)
        assert answer.status_code == 200, answer.text
        events: list[dict[str, Any]] = answer.json()["events"]
        return events

    async def dead_letters(self, **filters: Any) -> list[dict[str, Any]]:
        """The first page of the dead letter queue."""
        answer = await self.http.get("/v2/dlq", params=filters)
        assert answer.status_code == 200, answer.text
        letters: list[dict[str, Any]] = answer.json()["messages"]
        return letters

    async def drain(self) -> None:
        """Until nothing is in progress or unsettled."""
        assert self.node.dispatcher is not None
        await self.node.dispatcher.drain()

    async def time_passes(self, delta: timedelta) -> None:
        """Move time by shifting what lies ahead, never history."""
        await pass_time(self.database_url, delta)
        assert self.node.dispatcher is not None
        self.node.dispatcher.expect(timedelta(0))

    async def settled(self, message_id: str, last: str = "DELIVERED") -> list[str]:
        """The log of a message once it has come to this state."""
        states: list[str] = await eventually(lambda: self.states(message_id), lambda states: states[-1:] == [last])
        return states


Serve = Callable[..., Awaitable[Running]]


@pytest.fixture
async def serve(database_url: str) -> AsyncIterator[Serve]:
    """Start servers on the test's database, with settings of the test's choice."""
    async with AsyncExitStack() as stack:

        async def start(*, dev: bool = False, public: bool = False, **settings: Any) -> Running:
            return await stack.enter_async_context(running(database_url, dev=dev, public=public, **settings))

        yield start


@pytest.fixture
async def server(serve: Serve) -> Running:
    """One server with the settings of `dev`."""
    return await serve()


@asynccontextmanager
async def running(
    database_url: str, *, dev: bool = False, public: bool = False, **given: Any
) -> AsyncIterator[Running]:
    """A server in this event loop; with `dev`, one whose clock may be moved, a `public` one knows its own URL."""
    settings: Settings = load({}, **{"destinations": "any", "port": 0, "shutdown_grace": timedelta(seconds=5), **given})
    database = await Database.connect(
        database_url, connections=settings.database_connections, walled=settings.row_level_security
    )
    listener = listen("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    if public:
        settings = settings.model_copy(update={"public_url": url})
    node = Node(settings, database, dev=dev)
    ready = asyncio.Event()
    serving = asyncio.create_task(node.run(listener, ready.set))
    waiting = asyncio.create_task(ready.wait())
    await asyncio.wait([waiting, serving], return_when=asyncio.FIRST_COMPLETED)
    if serving.done():
        serving.result()
    headers = {"Authorization": f"Bearer {TOKEN}"}
    try:
        # Without certificates, which take longer to read than most tests.
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=30, verify=False) as client:
            yield Running(url, client, node, database_url)
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        await database.close()


async def pass_time(database_url: str, delta: timedelta) -> None:
    """Move time by shifting what lies ahead, for whoever runs on this database."""
    connection = await asyncpg.connect(database_url)
    async with connection.transaction():
        await time_travel.advance(connection, delta)
    await connection.close()


async def eventually(ask: Callable[[], Awaitable[Any]], holds: Callable[[Any], bool], *, within: float = 20) -> Any:
    """Ask again and again until it holds; for facts that nothing announces. Fails with the last answer."""
    answer = None
    try:
        async with asyncio.timeout(within):
            while not holds(answer := await ask()):  # noqa: ASYNC110  no event announces it
                await asyncio.sleep(0.02)
    except TimeoutError:
        pytest.fail(f"did not come true within {within} s, the last answer was {answer!r}")
    return answer


def at_database(url: str, name: str) -> str:
    """The URL with another database's name."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=f"/{name}"))
