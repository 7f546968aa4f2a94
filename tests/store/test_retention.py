"""Retention: what is old and over goes, by whole days; what is needed stays and can be read all the while."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, cast

import asyncpg
import pytest

from postroad.dispatch import janitor
from postroad.dispatch.handlers import Handlers
from postroad.dispatch.janitor import Janitor
from postroad.domain.dead_letter import DeadLetter
from postroad.domain.ids import IdMint, MessageId, first_id_of, message_text
from postroad.domain.message import After
from postroad.publish import Publisher
from postroad.store import dead_letters, dispatchers, lookups, messages, partitions, retention
from postroad.store.engine import Connection, Database
from postroad.store.filters import Filters
from postroad.store.messages import NewMessage
from postroad.store.retention import Retention
from tests.builders import TENANT, a_new_message
from tests.conftest import Running, Serve, eventually
from tests.moods import status
from tests.receiver import Receiver

KEPT = Retention(log=timedelta(days=14), dead_letters=timedelta(days=90))
LINGER = timedelta(minutes=10)


async def today(connection: Connection) -> date:
    day: date = await connection.fetchval("select (now() at time zone 'utc')::date")
    return day


async def a_day(connection: Connection, age: int = 40) -> date:
    """The partitions of a day that is so many days ago."""
    day = await today(connection) - timedelta(days=age)
    following = day + timedelta(days=1)
    for name, parent, lower, upper in (
        (f"messages_{day:%Y%m%d}", "messages_recent", first_id_of(day), first_id_of(following)),
        (f"attempts_{day:%Y%m%d}", "attempts", f"{day} 00:00+00", f"{following} 00:00+00"),
    ):
        await connection.execute(f"create table {name} (like {parent} including defaults including constraints)")
        await connection.execute(
            f"alter table {parent} attach partition {name} for values from ('{lower}') to ('{upper}')"
        )
    return day


def on(day: date) -> datetime:
    """Noon of a day."""
    return datetime.combine(day, time(12), UTC)


async def waiting(connection: Connection, day: date, n: int = 1, **given: Any) -> list[MessageId]:
    """Messages that were published on that day and are due in an hour from now."""
    group: list[NewMessage] = []
    for _ in range(n):
        new = a_new_message(**{"when": After(timedelta(hours=1)), **given})
        identity = IdMint().message_id(int(on(day).timestamp() * 1000) + len(group))
        group.append(replace(new, message=replace(new.message, id=identity)))
    await messages.insert(connection, group, dispatcher_id=None, window=timedelta(minutes=10))
    ids = [new.message.id for new in group]
    await connection.execute("update messages set created_at = $2 where id = any($1::uuid[])", ids, on(day))
    return ids


async def attempted(connection: Connection, ids: list[MessageId], at: datetime, outcome: int = 0) -> None:
    """An attempt of each of these messages in history."""
    await connection.execute(
        "insert into attempts "
        "(message_id, tenant_id, lease, retried, duration, active_at, ended_at, outcome, next_due_at) "
        "select id, $2, 1, 0, '1 ms', $3, $3, $4, $5 from unnest($1::uuid[]) as i(id)",
        ids, TENANT, at, outcome, at if outcome == 1 else None,
    )  # fmt: skip


async def finished(connection: Connection, day: date, n: int = 1, **given: Any) -> list[MessageId]:
    """Messages that were published and delivered on that day."""
    ids = await waiting(connection, day, n, **given)
    await connection.execute("delete from deliveries where id = any($1::uuid[])", ids)
    await attempted(connection, ids, on(day))
    return ids


async def buried(
    connection: Connection, day: date, n: int = 1, *, failed_at: datetime, **given: Any
) -> list[MessageId]:
    """Messages that were published on that day and became dead letters at some time."""
    ids = await waiting(connection, day, n, **given)
    await connection.execute("delete from deliveries where id = any($1::uuid[])", ids)
    await connection.execute(
        "insert into dead_letters (tenant_id, message_id, status, failed_at) select $2, id, 500, $3 "
        "from unnest($1::uuid[]) as i(id)",
        ids, TENANT, failed_at,
    )  # fmt: skip
    return ids


async def stored(connection: Connection, ids: list[MessageId]) -> set[MessageId]:
    """Which of the messages can be fetched."""
    return {one.message.id for start in range(0, len(ids), 500)
            for one in await messages.fetch(connection, ids[start : start + 500])}  # fmt: skip


async def letters(connection: Connection) -> list[DeadLetter]:
    """The dead letter queue."""
    return await dead_letters.page(connection, TENANT, Filters(), numbers=None, statuses=None, before=None, limit=100)


async def days(connection: Connection) -> set[str]:
    """The tables of days."""
    return {row["relname"] for row in await connection.fetch(
        r"select relname from pg_class where relkind = 'r' and relname ~ '^(messages|attempts)_\d{8}$'"
    )}  # fmt: skip


def node(database: Database, kept: Retention = KEPT) -> Janitor:
    """The janitor of a node, for this one chore."""
    return Janitor(
        database=database,
        publisher=cast("Publisher", None),
        retention=kept,
        expect=lambda _: None,
        handlers=cast("Handlers", None),
    )


def janitor_of(server: Running) -> Janitor:
    assert server.node.dispatcher is not None
    return server.node.dispatcher._janitor


@asynccontextmanager
async def a_reader(database_url: str, table: str) -> AsyncIterator[None]:
    """Somebody who reads a table in a transaction that does not end, as pg_dump does."""
    reader = await asyncpg.connect(database_url)
    async with reader.transaction(isolation="repeatable_read"):
        await reader.fetch(f"select count(*) from {table}")
        yield
    await reader.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits for locks are broken off soon."""
    create_pool = asyncpg.create_pool

    def create(*arguments: Any, **given: Any) -> Any:
        given["server_settings"] = {**given["server_settings"], "lock_timeout": "300ms"}
        return create_pool(*arguments, **given)

    monkeypatch.setattr(asyncpg, "create_pool", create)


async def test_a_day_older_than_the_log_goes_with_what_is_finished(database: Database, connection: Connection) -> None:
    before = await days(connection)
    day = await a_day(connection)
    over = await finished(connection, day, 3)
    young = await finished(connection, await today(connection))

    await node(database).prune_history()

    assert await days(connection) == before
    assert await stored(connection, over + young) == set(young)
    assert await connection.fetchval("select count(*) from attempts") == 1


async def test_what_waits_outlives_its_day_and_can_be_read(database: Database, connection: Connection) -> None:
    day = await a_day(connection, 365)
    await finished(connection, day, 3)
    [patient] = await waiting(connection, day, body=b"a year old", labels=("slow",))

    await node(database).prune_history()

    [one] = await messages.fetch(connection, [patient])
    assert one.message.body == b"a year old"
    found = await lookups.find(connection, TENANT, patient, linger=LINGER)
    assert found is not None
    assert found.created_at == on(day)
    labelled = await lookups.look_through(
        connection, TENANT, Filters(values={"label": ("slow",)}), after=None, limit=9, reach=9
    )
    assert labelled.ids == [patient]
    assert await connection.fetchval("select count(*) from messages") == 1


@pytest.mark.parametrize("state", [0, 1, 2], ids=["held", "waiting", "active"])
async def test_no_unfinished_state_is_forgotten(database: Database, connection: Connection, state: int) -> None:
    [unfinished] = await waiting(connection, await a_day(connection))
    me = await dispatchers.register(connection, "test") if state == 2 else None
    await connection.execute(
        "update deliveries set state = $1, dispatcher_id = $2, queue_id = $3, seq = $3",
        state, me, 1 if state == 0 else None,
    )  # fmt: skip

    await node(database).prune_history()

    assert await stored(connection, [unfinished]) == {unfinished}


async def test_a_dead_letter_outlives_its_day_up_to_its_own_retention(
    database: Database, connection: Connection
) -> None:
    day = await a_day(connection)
    now = await connection.fetchval("select now()")
    [old] = await buried(connection, day, failed_at=now - timedelta(days=90, minutes=1))
    [young] = await buried(connection, day, failed_at=now - timedelta(days=89, hours=23), body=b"why")

    await node(database).prune_history()

    [letter] = await letters(connection)
    assert (letter.stored.message.id, letter.stored.message.body) == (young, b"why")
    assert await stored(connection, [old, young]) == {young}


async def test_only_whole_days_that_are_older_than_the_log_go(database: Database, connection: Connection) -> None:
    partly = await a_day(connection, 14)
    whole = await a_day(connection, 15)

    await node(database).prune_history()

    left = await days(connection)
    assert {f"messages_{partly:%Y%m%d}", f"attempts_{partly:%Y%m%d}"} <= left
    assert not {f"messages_{whole:%Y%m%d}", f"attempts_{whole:%Y%m%d}"} & left


async def test_the_shortest_retention_leaves_what_partitions_are_made_of(
    database: Database, connection: Connection
) -> None:
    before = await days(connection)
    ages = [await a_day(connection, age) for age in (2, 3)]

    await node(database, Retention(log=timedelta(days=1), dead_letters=timedelta(days=1))).prune_history()
    async with connection.transaction():
        await partitions.make(connection)

    assert await days(connection) == before
    assert len(ages) == 2


async def test_a_kept_message_goes_when_nothing_is_about_it_any_more(
    database: Database, connection: Connection
) -> None:
    day = await a_day(connection, 40)
    ended = await waiting(connection, day, 4)
    [unfinished] = await waiting(connection, day)
    now = await connection.fetchval("select now()")
    [letter] = await buried(connection, day, failed_at=now)
    await node(database).prune_history()
    assert await connection.fetchval("select count(*) from messages_kept") == 6

    await connection.execute("delete from deliveries where id = any($1::uuid[])", ended)
    await attempted(connection, ended[:1], now)
    await connection.execute("insert into cancellations (message_id, tenant_id) values ($1, $2)", ended[1], TENANT)
    await node(database).prune_history()

    assert await stored(connection, [*ended, unfinished, letter]) == {*ended[:2], unfinished, letter}


async def test_a_kept_message_of_a_young_day_stays(database: Database, connection: Connection) -> None:
    over = await finished(connection, await today(connection))
    await connection.execute("delete from attempts")
    await connection.execute("update messages set kept = true")

    await node(database).prune_history()

    assert await stored(connection, over) == set(over)


async def test_old_cancellations_go_unless_the_attempt_is_still_under_way(
    database: Database, connection: Connection
) -> None:
    now = await connection.fetchval("select now()")
    day = await a_day(connection)
    canceled = await finished(connection, day, 3)
    [active] = await waiting(connection, day)
    for identity, at in zip([*canceled, active], [on(day), on(day), now - timedelta(days=13), on(day)], strict=True):
        await connection.execute("insert into cancellations values ($1, $2, $3)", identity, TENANT, at)

    await node(database).prune_history()

    left = {row["message_id"] for row in await connection.fetch("select message_id from cancellations")}
    assert left == {canceled[2], active}
    assert await stored(connection, [*canceled, active]) == {canceled[2], active}


async def test_everything_is_done_in_steps_however_small(
    database: Database, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "STEP", 7)
    day = await a_day(connection)
    now = await connection.fetchval("select now()")
    over = await finished(connection, day, 30)
    needed = await waiting(connection, day, 23)
    needed += await buried(connection, day, 21, failed_at=now)
    logged = await finished(connection, day, 20)
    for hours in range(5):
        await attempted(connection, logged, now - timedelta(hours=hours), outcome=1)
    forgotten = await buried(connection, day, 30, failed_at=now - timedelta(days=91))
    await connection.execute("update dead_letters set id = default where failed_at > now() - interval '1 d'")
    canceled = await finished(connection, day, 30)
    await connection.execute(
        "insert into cancellations select id, $2, $3 from unnest($1::uuid[]) as i(id)", canceled, TENANT, on(day)
    )

    await node(database).prune_history()

    everything = [*over, *needed, *logged, *forgotten, *canceled]
    assert await stored(connection, everything) == {*needed, *logged}
    assert await connection.fetchval("select count(*) from dead_letters") == 21
    assert await connection.fetchval("select count(*) from cancellations") == 0

    await connection.execute("delete from deliveries; delete from attempts")
    await node(database).prune_history()

    assert await connection.fetchval("select count(*) from messages") == 21


async def test_a_turn_with_nothing_to_do_changes_nothing_and_says_nothing(
    database: Database, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    day = await today(connection)
    await waiting(connection, day, 3)
    await finished(connection, day, 3)
    await buried(connection, day, 3, failed_at=on(day))

    async def everything() -> list[Any]:
        return [
            await connection.fetch(f"select ctid, xmin, t.* from {table} t order by ctid")
            for table in ("messages", "deliveries", "attempts", "dead_letters")
        ] + [await days(connection)]

    before = await everything()
    await node(database).prune_history()

    assert await everything() == before
    assert caplog.records == []


async def test_a_detachment_that_a_crash_left_is_finished(
    database: Database, connection: Connection, database_url: str
) -> None:
    before = await days(connection)
    day = await a_day(connection)
    [unfinished] = await waiting(connection, day)
    await connection.execute("update messages set kept = true where id = $1", unfinished)
    for table, parent in ((f"messages_{day:%Y%m%d}", "messages_recent"), (f"attempts_{day:%Y%m%d}", "attempts")):
        async with a_reader(database_url, parent):
            with pytest.raises(asyncpg.QueryCanceledError):
                await interrupted(database_url, f"alter table {parent} detach partition {table} concurrently")
    assert await connection.fetchval("select count(*) from pg_inherits where inhdetachpending") == 2
    newest = max(name for name in before if name.startswith("messages"))
    await connection.execute(f"drop table {newest}")
    async with connection.transaction():
        await partitions.make(connection)

    await node(database).prune_history()

    assert await days(connection) == before
    assert await stored(connection, [unfinished]) == {unfinished}


async def test_unfinished_work_in_a_day_that_is_on_its_way_out_comes_back(
    database: Database, connection: Connection, database_url: str
) -> None:
    before = await days(connection)
    day = await a_day(connection)
    unfinished = await waiting(connection, day, 3)
    async with a_reader(database_url, "messages_recent"):
        with pytest.raises(asyncpg.QueryCanceledError):
            await interrupted(
                database_url, f"alter table messages_recent detach partition messages_{day:%Y%m%d} concurrently"
            )
    assert await stored(connection, unfinished) == set()

    await node(database).prune_history()

    assert await stored(connection, unfinished) == set(unfinished)
    await node(database).prune_history()
    assert await days(connection) == before
    assert await stored(connection, unfinished) == set(unfinished)


async def interrupted(database_url: str, sql: str) -> None:
    """Run a statement that is broken off after a moment."""
    own = await asyncpg.connect(database_url, server_settings={"statement_timeout": "300ms"})
    try:
        await own.execute(sql)
    finally:
        await own.close()


async def test_a_day_that_was_detached_but_not_dropped_is_dropped(database: Database, connection: Connection) -> None:
    before = await days(connection)
    day = await a_day(connection)
    await finished(connection, day)
    await connection.execute(f"alter table messages_recent detach partition messages_{day:%Y%m%d}")
    await connection.execute(f"alter table attempts detach partition attempts_{day:%Y%m%d}")

    await node(database).prune_history()

    assert await days(connection) == before


async def test_a_day_that_was_detached_with_unfinished_work_comes_back(
    database: Database, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    before = await days(connection)
    day = await a_day(connection)
    over = await finished(connection, day)
    [unfinished] = await waiting(connection, day)
    await connection.execute(f"alter table messages_recent detach partition messages_{day:%Y%m%d}")
    assert await stored(connection, [unfinished]) == set()

    await node(database).prune_history()

    assert await stored(connection, [unfinished]) == {unfinished}
    assert "it is attached again" in caplog.text
    await node(database).prune_history()
    assert await days(connection) == before
    assert await stored(connection, [*over, unfinished]) == {unfinished}


async def test_a_message_that_comes_late_for_its_day_is_moved_like_the_others(
    database: Database, connection: Connection, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = await days(connection)
    day = await a_day(connection)
    unfinished = await waiting(connection, day)
    keep = retention.keep

    async def keep_while_one_comes(*arguments: Any, **given: Any) -> retention.Progress:
        progress = await keep(*arguments, **given)
        if len(unfinished) == 1:
            unfinished.extend(await waiting(connection, day))
        return progress

    monkeypatch.setattr(retention, "keep", keep_while_one_comes)
    await node(database).prune_history()

    assert await days(connection) == before
    assert await stored(connection, unfinished) == set(unfinished)
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


async def test_a_message_that_comes_at_the_very_last_moment_brings_its_day_back(
    database: Database, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await days(connection)
    day = await a_day(connection)
    unfinished: list[MessageId] = []
    detach = retention.detach

    async def detach_while_one_comes(own: Connection, which: retention.Day) -> bool:
        if which.has_messages and not unfinished:
            unfinished.extend(await waiting(connection, day))
        return await detach(own, which)

    monkeypatch.setattr(retention, "detach", detach_while_one_comes)
    await node(database).prune_history()

    assert await stored(connection, unfinished) == set(unfinished)
    await node(database).prune_history()
    assert await days(connection) == before
    assert await stored(connection, unfinished) == set(unfinished)


async def test_a_day_that_somebody_reads_for_long_goes_later_and_nothing_is_missed_meanwhile(
    impatient: None, database_url: str, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    day, other = await a_day(connection, 41), await a_day(connection, 40)
    unfinished = await waiting(connection, day, 2) + await waiting(connection, other, 2)
    database = await Database.connect(database_url)

    async with a_reader(database_url, "messages"):
        await node(database).prune_history()
        assert f"messages_{day:%Y%m%d} is in use and cannot be dropped yet" in caplog.text
        assert await stored(connection, unfinished) == set(unfinished)
        await node(database).prune_history()
        assert await stored(connection, unfinished) == set(unfinished)
    await node(database).prune_history()

    assert not [name for name in await days(connection) if name.endswith((f"{day:%Y%m%d}", f"{other:%Y%m%d}"))]
    assert await stored(connection, unfinished) == set(unfinished)
    assert not [record for record in caplog.records if record.levelno > logging.INFO]
    await database.close()


async def test_a_node_that_is_stopped_in_the_middle_leaves_the_rest_to_the_next(
    database: Database, connection: Connection, database_url: str
) -> None:
    before = await days(connection)
    day = await a_day(connection)
    unfinished = await waiting(connection, day, 3)
    await finished(connection, day, 3)

    async with a_reader(database_url, "messages"):
        turn = asyncio.create_task(node(database).prune_history())
        await eventually(
            lambda: connection.fetchval("select count(*) from pg_inherits where inhdetachpending"), lambda n: n == 1
        )
        turn.cancel()
        with pytest.raises(asyncio.CancelledError):
            await turn
    await node(database).prune_history()

    assert await days(connection) == before
    assert await stored(connection, unfinished) == set(unfinished)


async def test_nodes_that_prune_at_once_do_not_disturb_each_other(
    database_url: str, connection: Connection, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "STEP", 20)
    caplog.set_level(logging.INFO)
    before = await days(connection)
    unfinished: list[MessageId] = []
    for age in range(20, 26):
        day = await a_day(connection, age)
        unfinished += await waiting(connection, day, 50)
        await finished(connection, day, 50)
    databases = [await Database.connect(database_url) for _ in range(4)]

    async def prune(database: Database) -> None:
        for _ in range(3):
            await node(database).prune_history()

    await asyncio.gather(*(prune(database) for database in databases))

    assert await days(connection) == before
    assert await stored(connection, unfinished) == set(unfinished)
    assert await connection.fetchval("select count(*) from messages") == len(unfinished)
    assert {record.levelno for record in caplog.records} == {logging.INFO}
    for database in databases:
        await database.close()


async def test_a_node_leaves_it_to_the_one_that_is_at_it(database: Database, connection: Connection) -> None:
    day = await a_day(connection)
    async with connection.transaction():
        assert await retention.alone(connection)
        await node(database).prune_history()
        assert f"messages_{day:%Y%m%d}" in await days(connection)

    await node(database).prune_history()

    assert f"messages_{day:%Y%m%d}" not in await days(connection)


async def while_pruning(database: Database, loops: list[Callable[[], Awaitable[None]]]) -> None:
    """Prune while others go round and round."""
    over = asyncio.Event()

    async def again(act: Callable[[], Awaitable[None]]) -> None:
        while not over.is_set():
            await act()

    async with asyncio.TaskGroup() as group:
        for act in loops:
            group.create_task(again(act))
        await asyncio.sleep(0)
        await node(database).prune_history()
        over.set()


async def test_readers_never_miss_a_message_that_moves(
    database: Database, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "STEP", 25)
    before = await days(connection)
    now = await connection.fetchval("select now()")
    unfinished: list[MessageId] = []
    for age in (30, 31, 32):
        day = await a_day(connection, age)
        unfinished += await waiting(connection, day, 150)
        await finished(connection, day, 50)
    dead = await buried(connection, day, 50, failed_at=now)
    rounds = 0

    async def fetch() -> None:
        nonlocal rounds
        async with database.connection() as own:
            assert await stored(own, unfinished + dead) == {*unfinished, *dead}
        rounds += 1

    async def find() -> None:
        async with database.connection() as own:
            for identity in unfinished[::50]:
                assert await lookups.find(own, TENANT, identity, linger=LINGER) is not None
            assert len(await letters(own)) == 50

    await while_pruning(database, [fetch, find, fetch])

    assert await days(connection) == before
    assert rounds > 10


async def test_what_arrives_meanwhile_is_stored(
    database: Database, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "STEP", 25)
    before = await days(connection)
    for age in (30, 31, 32):
        day = await a_day(connection, age)
        await waiting(connection, day, 100)
        await finished(connection, day, 50)
    arrived: list[MessageId] = []

    async def arrive() -> None:
        new = a_new_message()
        async with database.connection() as own:
            await messages.insert(own, [new], dispatcher_id=None, window=timedelta(minutes=10))
            await attempted(own, [new.message.id], await own.fetchval("select now()"))
        arrived.append(new.message.id)

    await while_pruning(database, [arrive, arrive])

    assert await days(connection) == before
    assert len(arrived) > 10
    assert await stored(connection, arrived) == set(arrived)
    assert await connection.fetchval("select count(*) from attempts") == len(arrived)


# Through the API of a running server.


@pytest.mark.parametrize("size", [10, 200_000])
async def test_an_old_message_that_waits_is_delivered_after_its_day_was_dropped(
    server: Running, connection: Connection, receiver: Receiver, size: int
) -> None:
    body = b"x" * size
    day = await a_day(connection, 100)
    [identity] = await waiting(connection, day, url=receiver.url("/late"), body=body)
    await finished(connection, day, 5)
    message_id = message_text(identity)

    await janitor_of(server).prune_history()

    assert (await server.http.get(f"/v2/messages/{message_id}")).json()["messageId"] == message_id
    await server.time_passes(timedelta(hours=1))
    request = await receiver.next_request("/late")
    assert (request.body, request.header("Upstash-Message-Id")) == (body, message_id)
    assert await server.settled(message_id) == ["CREATED", "ACTIVE", "DELIVERED"]
    await janitor_of(server).prune_history()
    assert (await server.http.get(f"/v2/messages/{message_id}")).status_code == 200, "it lingers as any other"


async def test_what_ended_a_moment_ago_can_be_read_whatever_the_age_of_its_message(
    server: Running, connection: Connection
) -> None:
    [identity] = await waiting(connection, await a_day(connection, 30))
    message_id = message_text(identity)
    await connection.execute("delete from deliveries")
    await attempted(connection, [identity], await connection.fetchval("select now()"))

    await janitor_of(server).prune_history()
    await janitor_of(server).prune_history()

    assert (await server.http.get(f"/v2/messages/{message_id}")).status_code == 200
    assert await server.states(message_id) == ["CREATED", "ACTIVE", "DELIVERED"]


async def test_an_old_message_that_waits_can_be_cancelled_and_says_so(server: Running, connection: Connection) -> None:
    [identity] = await waiting(connection, await a_day(connection))
    message_id = message_text(identity)
    await janitor_of(server).prune_history()

    answer = await server.http.delete(f"/v2/messages/{message_id}")

    assert (answer.status_code, answer.json()) == (202, {"cancelled": 1})
    await janitor_of(server).prune_history()
    assert await server.states(message_id) == ["CREATED", "CANCEL_REQUESTED", "CANCELED"]


async def test_a_dead_letter_is_retried_after_its_day_was_dropped(
    server: Running, connection: Connection, receiver: Receiver
) -> None:
    now = await connection.fetchval("select now()")
    day = await a_day(connection)
    [identity] = await buried(
        connection, day, failed_at=now - timedelta(days=20), url=receiver.url("/again"), body=b"payload"
    )
    await janitor_of(server).prune_history()
    [letter] = await server.dead_letters()
    assert (letter["messageId"], letter["body"]) == (message_text(identity), "payload")

    answer = await server.http.post(f"/v2/dlq/retry/{letter['dlqId']}")

    assert answer.status_code == 201
    request = await receiver.next_request("/again")
    assert (request.body, request.header("Upstash-Message-Id")) == (b"payload", answer.json()["messageId"])
    assert await server.dead_letters() == []
    await janitor_of(server).prune_history()
    assert await stored(connection, [identity]) == set()


async def test_an_old_message_that_fails_now_is_buried_with_its_body(
    server: Running, connection: Connection, receiver: Receiver
) -> None:
    receiver.script("/", status(503))
    [identity] = await waiting(connection, await a_day(connection), url=receiver.url(), body=b"late", retries=0)
    await janitor_of(server).prune_history()

    await server.time_passes(timedelta(hours=1))

    await server.settled(message_text(identity), "FAILED")
    await janitor_of(server).prune_history()
    [letter] = await server.dead_letters()
    assert (letter["messageId"], letter["body"], letter["responseStatus"]) == (message_text(identity), "late", 503)


async def test_publishing_and_delivering_go_on_while_days_are_dropped(
    serve: Serve, connection: Connection, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "STEP", 25)
    server = await serve(database_connections=4)
    before = await days(connection)
    for age in range(30, 36):
        day = await a_day(connection, age)
        await waiting(connection, day, 60)
        await finished(connection, day, 60)
    published: list[str] = []

    async def publish(turn: asyncio.Task[None]) -> None:
        while not turn.done():
            published.append(await server.publish(receiver.url(), b"now"))

    turn = asyncio.create_task(janitor_of(server).prune_history())
    await asyncio.gather(turn, *(publish(turn) for _ in range(8)))

    assert await days(connection) == before
    assert len(published) > 20
    await eventually(lambda: server.events(state="DELIVERED", count=1000), lambda all_: len(all_) == len(published))
    arrived = [request.header("Upstash-Message-Id") for request in receiver.requests()]
    assert sorted(published) == sorted(one or "" for one in arrived)


async def test_the_log_is_read_page_by_page_where_old_attempts_are_missing(
    server: Running, connection: Connection
) -> None:
    old, young = await a_day(connection, 20), await a_day(connection, 10)
    patient = await waiting(connection, old, 6)
    await attempted(connection, patient, on(old), outcome=1)
    await attempted(connection, patient[:3], on(young), outcome=1)
    gone = await finished(connection, old, 7)
    ended = await finished(connection, young, 4)
    await janitor_of(server).prune_history()

    seen: list[tuple[str, str]] = []
    cursor: str | None = ""
    while cursor is not None:
        answer = await server.http.get("/v2/events", params={"count": 5, **({"cursor": cursor} if cursor else {})})
        page = answer.json()
        assert page["events"], "no page is empty while there are more"
        seen += [(event["messageId"], event["state"]) for event in page["events"]]
        cursor = page.get("cursor")

    expected = [(one, state) for one in ended for state in ("CREATED", "ACTIVE", "DELIVERED")]
    expected += [(one, "CREATED") for one in patient]
    expected += [(one, state) for one in patient[:3] for state in ("ACTIVE", "ERROR", "RETRY")]
    assert sorted(seen) == sorted((message_text(one), state) for one, state in expected)
    assert await server.states(message_text(gone[0])) == []
    assert await server.states(message_text(patient[5])) == ["CREATED"]


async def test_a_node_prunes_by_itself_soon_after_its_start(
    serve: Serve, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(janitor, "HISTORY_FIRST_AFTER_S", 0.0)
    before = await days(connection)
    day = await a_day(connection, 16)
    await finished(connection, day)
    [unfinished] = await waiting(connection, day)

    await serve(log_retention=timedelta(days=16))
    server = await serve(roles="api")
    assert (await server.http.get("/v2/readiness")).status_code == 200
    assert f"messages_{day:%Y%m%d}" in await days(connection)
    await serve()

    await eventually(lambda: days(connection), lambda left: left == before)
    assert await stored(connection, [unfinished]) == {unfinished}
