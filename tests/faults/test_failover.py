"""A standby takes over: what was acknowledged is there, and what only one server has is not acknowledged."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from postroad import production
from postroad.errors import Misconfigured
from postroad.settings import load
from postroad.store import migrations
from postroad.store.engine import Database
from tests.conftest import eventually
from tests.faults.cluster import Cluster
from tests.faults.failover import TOKEN, Plan, run
from tests.faults.postgres import run_directory
from tests.faults.replication import DATABASE, Pair, replicated, url
from tests.receiver import Receiver


@pytest.fixture
def directory() -> Iterator[Path]:
    with run_directory(memory=Path("/dev/shm").is_dir()) as one:
        yield one


@pytest.fixture
async def pair(directory: Path) -> AsyncIterator[Pair]:
    async with replicated(directory) as one:
        await migrations.migrate(one.primary.server.url(DATABASE))
        yield one


@pytest.fixture
async def api(directory: Path, pair: Pair) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a node on both servers."""
    settings = {"DATABASE_URL": pair.url, "TOKEN": TOKEN, "DESTINATIONS": "any"}
    settings = {f"POSTROAD_{name}": value for name, value in settings.items()}
    cluster = Cluster(directory / "nodes", nodes=1, seed=1, settings=settings)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    try:
        await cluster.start()
        async with httpx.AsyncClient(base_url=cluster.urls[0], headers=headers, timeout=40) as client:
            yield client
    finally:
        await cluster.destroy()


async def stored(pair: Pair) -> int:
    """How many messages the primary shows."""
    count: int = await pair.primary.value("select count(*) from messages")
    return count


async def cancel_waits(pair: Pair) -> int:
    """Disturb every commit that waits for the standby; gives how many."""
    count: int = await pair.primary.value(
        "select count(pg_cancel_backend(pid)) from pg_stat_activity where wait_event = 'SyncRep'"
    )
    return count


async def test_a_failover_loses_nothing_that_was_acknowledged() -> None:
    plan = Plan(partition_s=1.0, hostility="cancel", silent=False, cut_off=False, early=False, rebuild="rewind")

    report = await run(count=1, seed=1, rate=60, nodes=1, plans=[plan])

    [one] = report.rounds
    assert report.is_clean, report
    assert one.disturbed > 0
    assert one.stranded > 0, "the old primary had nothing of its own, so nothing could have been lost"


async def test_a_commit_that_only_one_server_has_is_not_acknowledged(
    pair: Pair, api: httpx.AsyncClient, receiver: Receiver
) -> None:
    """PostgreSQL calls it a success, with a warning, when the wait for the standby is cancelled."""
    pair.primary.replication.partition()
    publish = asyncio.create_task(api.post(f"/v2/publish/{receiver.url()}", content=b"x"))
    await eventually(lambda: cancel_waits(pair), lambda _: publish.done())
    answer = await publish

    assert await stored(pair) == 1
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) >= 1
    assert "unknown" in answer.json()["error"]
    pair.primary.replication.heal()
    again = await api.post(f"/v2/publish/{receiver.url()}", content=b"x")
    assert again.status_code == 201


async def test_while_there_is_only_a_standby_publishes_are_told_to_come_again(
    pair: Pair, api: httpx.AsyncClient, receiver: Receiver
) -> None:
    await pair.primary.kill()
    answer = await api.post(f"/v2/publish/{receiver.url()}", content=b"x")
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) >= 1
    await eventually(lambda: api.get("/v2/readiness"), lambda readiness: readiness.status_code == 503)

    await pair.promote()

    async def publish() -> int:
        return (await api.post(f"/v2/publish/{receiver.url()}", content=b"x")).status_code

    await eventually(publish, lambda status: status == 201)
    await eventually(lambda: api.get("/v2/readiness"), lambda ready: ready.status_code == 200)


async def test_a_standby_is_passed_over_and_no_database_by_itself(pair: Pair) -> None:
    """Nodes connect like this, and `prepare` is what `serve` does first."""
    database = await Database.connect(url(pair.standby, pair.primary))
    async with database.connection() as connection:
        assert not await connection.fetchval("select pg_is_in_recovery()")
    await database.close()

    with pytest.raises(Misconfigured, match="cannot connect to the database"):
        await Database.connect(url(pair.standby))
    with pytest.raises(Misconfigured, match="cannot connect to the database"):
        await production.prepare(load({}), url(pair.standby))
