"""Backups that are taken under load come back to life: what was unfinished ends, and nothing is held by the dead."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest

from postroad.domain.ids import message_text
from postroad.store import migrations
from tests.conftest import eventually, pass_time
from tests.faults.cluster import Cluster
from tests.faults.postgres import PostgresServer, run_directory
from tests.moods import hold, ok
from tests.receiver import Received, Receiver

TOKEN = "a-token-for-a-restore"
DATABASE = "postroad"
YEARLY = "0 0 1 1 *"
"""Its ticks are far from any moment at which the tests run."""

YEARS = timedelta(days=1200)
"""Three ticks and more."""

Method = Literal["pg_dump", "pg_basebackup"]


@pytest.fixture
def directory() -> Iterator[Path]:
    with run_directory(memory=Path("/dev/shm").is_dir()) as one:
        yield one


@dataclass
class Site:
    """A server and one node on it."""

    server: PostgresServer
    cluster: Cluster
    api: httpx.AsyncClient

    async def publish(self, way: str, body: str, **headers: str) -> str:
        """Publish or enqueue; gives the id."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = await self.api.post(f"/v2/{way}", content=body, headers=named)
        assert answer.is_success, answer.text
        message_id: str = answer.json()["messageId"]
        return message_id

    async def schedule(self, schedule_id: str, url: str) -> None:
        """Make a schedule that fires once a year."""
        headers = {"Upstash-Cron": YEARLY, "Upstash-Schedule-Id": schedule_id}
        answer = await self.api.post(f"/v2/schedules/{url}", content=schedule_id, headers=headers)
        assert answer.is_success, answer.text

    async def lose(self) -> None:
        """Node and server are gone for good."""
        await self.cluster.destroy()
        await self.server.stop("immediate")


@dataclass
class Before:
    """What the backup holds."""

    stored: set[str] = field(default_factory=set)
    unfinished: set[str] = field(default_factory=set)
    active: set[str] = field(default_factory=set)
    dispatchers: set[int] = field(default_factory=set)

    @classmethod
    async def of(cls, server: PostgresServer) -> Before:
        """Look into a restored database before any node does."""
        deliveries = await rows(server, "select id, state from deliveries")
        return cls(
            stored={message_text(row["id"]) for row in await rows(server, "select id from messages")},
            unfinished={message_text(row["id"]) for row in deliveries},
            active={message_text(row["id"]) for row in deliveries if row["state"] == 2},
            dispatchers={row["id"] for row in await rows(server, "select id from dispatchers")},
        )


@asynccontextmanager
async def site(directory: Path, server: PostgresServer, **settings: str) -> AsyncIterator[Site]:
    """A node on a server that runs; both are gone afterwards."""
    await migrations.migrate(server.url(DATABASE))
    given = {"DATABASE_URL": server.url(DATABASE), "TOKEN": TOKEN, "DESTINATIONS": "any"} | settings
    environment = {f"POSTROAD_{name}": value for name, value in given.items()}
    cluster = Cluster(directory, nodes=1, seed=1, settings=environment)
    try:
        await cluster.start()
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with httpx.AsyncClient(base_url=cluster.urls[0], headers=headers, timeout=30) as api:
            yield Site(server, cluster, api)
    finally:
        await cluster.destroy()
        await server.stop("immediate")


async def rows(server: PostgresServer, query: str) -> list[Any]:
    """The rows of a query in the product's database."""
    async with server.connection(DATABASE) as connection:
        return await connection.fetch(query)


async def back_up(method: Method, server: PostgresServer, to: PostgresServer) -> Path:
    """Take a backup while everything goes on; it is in the directory of the server that is to have it."""
    draft = to.data if method == "pg_basebackup" else to.directory / "dump"
    draft.mkdir(mode=0o700)
    to.account.own(draft)
    if method == "pg_basebackup":
        await server.program("pg_basebackup", "-D", str(draft), "-X", "stream", "-c", "fast", "-d", server.url())
    else:
        await server.program("pg_dump", "-Fc", "-f", str(draft / "file"), server.url(DATABASE))
    return draft


async def restore(method: Method, backup: Path, server: PostgresServer) -> None:
    """Start a server with the backup as docs/operations.md says."""
    if method == "pg_dump":
        await server.initialise()
    await server.start()
    if method == "pg_dump":
        url = await server.create_database(DATABASE)
        await server.program(
            "pg_restore", "--no-owner", "--no-privileges", "--exit-on-error", "-d", url, str(backup / "file")
        )


def ids(requests: list[Received]) -> list[str]:
    """The message ids of requests, in their order."""
    return [request.header("Upstash-Message-Id") or "" for request in requests]


@pytest.mark.parametrize("method", ["pg_dump", "pg_basebackup"])
async def test_what_a_backup_held_ends_after_its_restore(method: Method, directory: Path, receiver: Receiver) -> None:
    lost = PostgresServer(directory / "lost")
    new = PostgresServer(directory / "new")
    await lost.initialise({"shared_buffers": "64MB"})
    await lost.start()
    await lost.create_database(DATABASE)
    gate = asyncio.Event()
    for path in ("/held", "/queue", "/key"):
        receiver.script(path, hold(gate, ok()))

    async with site(directory / "lost-node", lost) as old:
        await old.schedule("left", receiver.url("/left"))
        await old.schedule("paused", receiver.url("/paused"))
        await pass_time(lost.url(DATABASE), timedelta(days=400))
        await eventually(lambda: arrived(receiver, "/left", "/paused"), lambda n: n == 2)
        held = [await old.publish(f"publish/{receiver.url('/held')}", f"{n}") for n in range(3)]
        queued = [await old.publish(f"enqueue/q/{receiver.url('/queue')}", f"{n}") for n in range(3)]
        limits = {"Upstash_Flow_Control_Key": "k", "Upstash_Flow_Control_Value": "parallelism=1"}
        keyed = [await old.publish(f"publish/{receiver.url('/key')}", f"{n}", **limits) for n in range(3)]
        later = await old.publish(f"publish/{receiver.url('/later')}", "later", Upstash_Delay="300d")
        await eventually(lambda: arrived(receiver, "/held", "/queue", "/key"), lambda n: n == 5)

        acknowledged: list[str] = []
        publisher = asyncio.create_task(keep_publishing(old, receiver.url("/load"), acknowledged))
        await eventually(lambda: arrived(receiver, "/load"), lambda n: n > 100)
        promised = list(acknowledged)
        backup = await back_up(method, lost, new)
        publisher.cancel()
        await asyncio.gather(publisher, return_exceptions=True)
        # What the lost server does from here on, the restored one cannot know: it ends all that was held.
        gate.set()
        await eventually(lambda: arrived(receiver, "/held", "/queue", "/key"), lambda n: n == 9)
        await pass_time(lost.url(DATABASE), YEARS)
        await eventually(lambda: arrived(receiver, "/left", "/paused", "/later"), lambda n: n == 5)
        await old.lose()

    before = len(receiver.requests())
    await restore(method, backup, new)
    held_back = await Before.of(new)
    assert set(promised) <= held_back.stored
    assert {*held, queued[0], keyed[0]} <= held_back.active
    assert {*held, *queued, *keyed, later} <= held_back.unfinished
    await pass_time(new.url(DATABASE), YEARS)
    await rows(new, "update schedules set paused = true where id = 'paused'")
    if method == "pg_dump":
        # The other one is restored so soon that the dispatchers in it look alive for a while.
        await rows(new, "update dispatchers set alive_until = alive_until - interval '1 hour'")

    async with site(directory / "new-node", new, SCHEDULE_CATCH_UP="0s") as restored:

        async def unfinished() -> int:
            return len(await rows(new, "select from deliveries"))

        await eventually(unfinished, lambda left: left == 0, within=40)
        again = receiver.requests()[before:]
        assert held_back.unfinished <= set(ids(again))
        assert held_back.stored <= set(ids(receiver.requests()))
        assert [one for one in ids(again) if one in queued] == queued
        lost_attempts = await rows(new, "select message_id from attempts where outcome = 3")
        assert {message_text(row["message_id"]) for row in lost_attempts} == held_back.active

        [alive] = await rows(new, "select id from dispatchers")
        assert held_back.dispatchers
        assert alive["id"] not in held_back.dispatchers

        # Queue and key go on, and a resumed schedule makes up for nothing.
        assert (await restored.api.post("/v2/schedules/paused/resume")).is_success
        last = [
            await restored.publish(f"enqueue/q/{receiver.url('/last')}", "x"),
            await restored.publish(f"publish/{receiver.url('/last')}", "x", **limits),
        ]
        await eventually(lambda: arrived(receiver, "/last"), lambda n: n == 2)
        assert sorted(ids(receiver.requests("/last"))) == sorted(last)
        await eventually(unfinished, lambda left: left == 0)

        fired = await rows(new, "select schedule_id from messages where schedule_id is not null")
        assert sorted(row["schedule_id"] for row in fired) == ["left", "left", "paused"]
        # The very last tick that was missed fires whatever the setting says, though the lost server had fired it.
        assert [request.path for request in again if request.path in ("/left", "/paused")] == ["/left"]


async def arrived(receiver: Receiver, *paths: str) -> int:
    """How many requests have come to these paths."""
    return sum(len(receiver.requests(path)) for path in paths)


async def keep_publishing(old: Site, url: str, acknowledged: list[str]) -> None:
    """Publish without a pause, until cancelled."""

    async def one() -> None:
        while True:
            acknowledged.append(await old.publish(f"publish/{url}", "load"))

    async with asyncio.TaskGroup() as publishers:
        for _ in range(8):
            publishers.create_task(one())
