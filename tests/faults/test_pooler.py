"""Behind a pooler in transaction mode everything works, and nothing is left or looked for in a session."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import asyncpg
import httpx
import pytest

from postroad.domain.ids import first_id_of
from postroad.store import migrations
from postroad.store.engine import Connection
from tests.conftest import TOKEN, Running, eventually, pass_time, running
from tests.faults.cluster import Cluster
from tests.faults.pooler import Pooler
from tests.faults.postgres import run_directory
from tests.moods import hold, ok, status
from tests.receiver import Receiver

LEFT_BEHIND = """
select 'a lock ' || objid::text from pg_locks where locktype = 'advisory'
union all select 'a prepared statement ' || statement from pg_prepared_statements
union all select 'a channel ' || channel from pg_listening_channels() channel
union all select 'a setting ' || name from pg_settings where source = 'session'
  and setting <> reset_val and name <> 'application_name'
union all select 'a temporary table ' || relname from pg_class where relpersistence = 't'
"""

_OF_A_SESSION = ("listen", "unlisten", "prepare", "discard", "declare", "set session", "set role")


@pytest.fixture
async def pooler(database_url: str) -> AsyncIterator[Pooler]:
    """With fewer server connections than any node has of its own."""
    async with Pooler(database_url, servers=3) as one:
        yield one


@pytest.fixture
async def node(pooler: Pooler) -> AsyncIterator[Running]:
    """A node that knows the database only through the pooler."""
    async with running(pooler.url) as one:
        yield one
        await nothing_is_left(pooler)


async def nothing_is_left(pooler: Pooler) -> None:
    """Nobody has used what belongs to a session, and no session has anything of anybody."""
    assert {word for word in pooler.statements if word.startswith(_OF_A_SESSION)} == set()
    left = [sentence for session in await pooler.ask_each(LEFT_BEHIND) for sentence in session]
    assert left == []


@asynccontextmanager
async def client_of(pooler: Pooler, **settings: str) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(pooler.url.partition("?")[0], server_settings=settings)
    yield connection
    await connection.close()


async def test_the_pooler_refuses_settings_of_a_session(pooler: Pooler) -> None:
    with pytest.raises(asyncpg.ProtocolViolationError, match="unsupported startup parameter: lock_timeout"):
        async with client_of(pooler, lock_timeout="1s"):
            pass


async def test_what_is_prepared_is_not_there_in_the_next_transaction(pooler: Pooler) -> None:
    async with client_of(pooler) as one, client_of(pooler) as another:
        # Both hold a server connection at a time, so there are two; then they are handed out in turn.
        async with one.transaction(), another.transaction():
            await asyncio.gather(one.execute("select 1"), another.execute("select 1"))
        assert await one.fetchval("select $1::int", 1) == 1
        with pytest.raises(asyncpg.InvalidSQLStatementNameError):
            await one.fetchval("select $1::int", 1)


async def test_a_setting_of_a_session_is_found_by_somebody_else(pooler: Pooler) -> None:
    async with client_of(pooler) as one:
        await one.execute("set work_mem = '1MB'")

    assert await pooler.ask_each("show work_mem") == [["1MB"]]
    with pytest.raises(AssertionError):
        await nothing_is_left(pooler)


async def test_a_call_that_takes_too_long_is_cancelled(pooler: Pooler) -> None:
    async with client_of(pooler) as one:
        with pytest.raises(TimeoutError):
            await one.execute("select pg_sleep(30)", timeout=0.1)
        assert await one.execute("select 1") == "SELECT 1"


async def test_messages_arrive_with_their_retries_callbacks_and_dead_letters(node: Running, receiver: Receiver) -> None:
    receiver.script("/fails", status(500))
    once = await node.publish(receiver.url("/once"), b"1", Upstash_Callback=receiver.url("/report"))
    ends = await node.publish(
        receiver.url("/fails"), b"2", Upstash_Retries="1", Upstash_Retry_Delay="0",
        Upstash_Failure_Callback=receiver.url("/failed"),
    )  # fmt: skip

    assert (await receiver.next_request("/once")).body == b"1"
    await receiver.wait_for(2, "/fails")
    await receiver.next_request("/report")
    await receiver.next_request("/failed")
    assert (await node.settled(once))[-1] == "DELIVERED"
    assert (await node.settled(ends, "FAILED"))[-1] == "FAILED"
    [letter] = await node.dead_letters()
    receiver.script("/fails", ok())
    answer = await node.http.post("/v2/dlq/retry", json={"dlqIds": [letter["dlqId"]]})
    assert answer.is_success, answer.text
    await receiver.wait_for(3, "/fails")


async def test_queues_keep_their_order(node: Running, receiver: Receiver) -> None:
    for number in range(12):
        answer = await node.http.post(f"/v2/enqueue/in-turn/{receiver.url('/queue')}", content=str(number))
        assert answer.status_code == 200

    bodies = [request.body for request in await receiver.wait_for(12, "/queue", timeout=30)]
    assert bodies == [str(number).encode() for number in range(12)]


async def test_flow_control_holds_its_parallelism(node: Running, receiver: Receiver) -> None:
    gate = asyncio.Event()
    receiver.script("/flow", hold(gate, ok()))
    for number in range(6):
        await node.publish(
            receiver.url("/flow"), str(number),
            Upstash_Flow_Control_Key="two", Upstash_Flow_Control_Value="parallelism=2",
        )  # fmt: skip
    await receiver.wait_for(2, "/flow")
    keys = await node.http.get("/v2/flowControl/two")
    assert keys.json()["parallelismCount"] == 2, keys.text

    gate.set()

    await receiver.wait_for(6, "/flow", timeout=30)
    await node.drain()


async def test_a_schedule_fires(node: Running, receiver: Receiver, database_url: str) -> None:
    headers = {"Upstash-Cron": "0 * * * *"}
    answer = await node.http.post(f"/v2/schedules/{receiver.url('/tick')}", headers=headers)
    assert answer.is_success, answer.text

    await pass_time(database_url, timedelta(hours=1))

    await receiver.next_request("/tick", timeout=20)


async def test_many_at_once_are_stored_and_cancelled(node: Running, receiver: Receiver) -> None:
    items = [{"destination": receiver.url(f"/{n}"), "headers": {"Upstash-Delay": "1h"}} for n in range(150)]
    stored = await asyncio.gather(*(node.http.post("/v2/batch", json=items) for _ in range(4)))
    assert [answer.status_code for answer in stored] == [200] * 4

    answer = await node.http.request("DELETE", "/v2/messages", json={})

    assert answer.is_success, answer.text
    assert answer.json()["cancelled"] == 600
    assert receiver.requests() == []


async def test_days_that_are_over_are_dropped(node: Running, receiver: Receiver, connection: Connection) -> None:
    """With DDL that no transaction may hold, while the turn is held in one of another server connection."""
    old = datetime.now(UTC).date() - timedelta(days=20)
    await _make_day(connection, old)
    await node.publish(receiver.url("/now"))
    await receiver.next_request("/now")
    assert node.node.dispatcher is not None

    await node.node.dispatcher._janitor.prune_history()

    assert await connection.fetchval("select to_regclass($1)", f"messages_{old:%Y%m%d}") is None
    assert await connection.fetchval("select to_regclass($1)", f"attempts_{old:%Y%m%d}") is None


async def test_partitions_are_made(pooler: Pooler, node: Running, connection: Connection) -> None:
    await connection.execute(f"drop table messages_{datetime.now(UTC).date() + timedelta(days=7):%Y%m%d}")
    assert node.node.dispatcher is not None

    await node.node.dispatcher._janitor.make_partitions()

    assert await pooler.ask_each("select max(relname) from pg_class where relname like 'messages_2%' and relkind = 'r'")
    ready = await node.http.get("/v2/readiness")
    assert ready.json() == {"ready": True}


async def test_migrations_run_through_a_pooler(postgres: str, connection: Connection, database_url: str) -> None:
    await connection.execute("drop schema public cascade")
    await connection.execute("create schema public")
    async with Pooler(database_url, servers=2) as pooler:
        await migrations.migrate(pooler.url)
        await nothing_is_left(pooler)

    assert await migrations.revision(connection) == migrations.newest()


@pytest.fixture
def directory() -> Iterator[Path]:
    with run_directory(memory=Path("/dev/shm").is_dir()) as one:
        yield one


async def test_what_a_dead_node_held_is_taken_over(
    directory: Path, pooler: Pooler, receiver: Receiver, connection: Connection
) -> None:
    gate = asyncio.Event()
    receiver.script("/held", hold(gate, ok()))
    settings = {
        "POSTROAD_DATABASE_URL": pooler.url,
        "POSTROAD_TOKEN": "token-of-a-node-that-dies",
        "POSTROAD_DESTINATIONS": "any",
        "POSTROAD_ALLOW_DEV_CREDENTIALS": "true",
    }
    cluster = Cluster(directory, nodes=1, seed=1, settings=settings)
    try:
        await cluster.start()
        async with httpx.AsyncClient(headers={"Authorization": f"Bearer {TOKEN}"}) as client:
            for _ in range(5):
                answer = await client.post(f"{cluster.urls[0]}/v2/publish/{receiver.url('/held')}")
                assert answer.status_code == 201
        await receiver.wait_for(5, "/held")
    finally:
        await cluster.destroy()
    gate.set()
    await connection.execute("update dispatchers set alive_until = now()")

    async with running(pooler.url) as node:
        arrived = await receiver.wait_for(10, "/held", timeout=30)
        assert len({request.header("Upstash-Message-Id") for request in arrived}) == 5
        await node.drain()
    await nothing_is_left(pooler)


async def test_a_pooler_that_loses_everybody_is_borne(pooler: Pooler, node: Running, receiver: Receiver) -> None:
    await node.publish(receiver.url("/before"))
    pooler.cut()

    async def publish() -> int:
        return (await node.http.post(f"/v2/publish/{receiver.url('/after')}")).status_code

    assert await eventually(publish, lambda code: code in (201, 503)) in (201, 503)
    await eventually(publish, lambda code: code == 201)
    await receiver.next_request("/before")
    await receiver.next_request("/after")


async def _make_day(connection: Connection, day: date) -> None:
    """Empty partitions of a day."""
    following = day + timedelta(days=1)
    bounds = {
        f"messages_{day:%Y%m%d}": ("messages_recent", str(first_id_of(day)), str(first_id_of(following))),
        f"attempts_{day:%Y%m%d}": ("attempts", f"{day} 00:00+00", f"{following} 00:00+00"),
    }
    for name, (parent, lower, upper) in bounds.items():
        await connection.execute(
            f"create table {name} partition of {parent} for values from ('{lower}') to ('{upper}')"
        )
