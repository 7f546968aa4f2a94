"""Schedules in the store: who may fire what, and how time is moved."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from postroad.domain.cron import parse_cron
from postroad.domain.publication import Request
from postroad.domain.schedule import TickState
from postroad.errors import QuotaExceeded
from postroad.store import deliveries, schedules, time_travel
from postroad.store.engine import Connection, Database
from postroad.store.messages import insert
from tests.builders import TENANT, a_new_message

DUE = timedelta(days=400)


async def put(connection: Connection, name: str, cron: str = "@yearly", *, most: int = 1000, body: bytes = b"") -> None:
    async with connection.transaction():
        request = Request("http://127.0.0.1:9/", (("upstash-retries", "1"),), body, "127.0.0.1", name)
        await schedules.put(connection, TENANT, parse_cron(cron), request, most=most)


async def all_due(connection: Connection) -> None:
    await connection.execute("update schedules set next_at = now() - interval '1 s'")


async def test_a_schedule_is_read_back_as_it_was_put(connection: Connection) -> None:
    await put(connection, "s", "CRON_TZ=Asia/Tokyo 0 9 * * *", body=b"\x00\xff")

    found = await schedules.find(connection, TENANT, "s")

    assert found is not None
    assert found.request == Request("http://127.0.0.1:9/", (("upstash-retries", "1"),), b"\x00\xff", "127.0.0.1", "s")
    assert (found.id, found.cron, found.paused) == ("s", "CRON_TZ=Asia/Tokyo 0 9 * * *", False)
    assert found.next_at.astimezone(UTC).hour == 0
    assert found.created_at < found.next_at < found.created_at + timedelta(days=1)
    assert (found.last_at, found.last_messages, found.error) == (None, (), None)


async def test_tenants_that_make_schedules_at_the_same_time_keep_to_the_quota(database: Database) -> None:
    async def one(n: int) -> bool:
        try:
            async with database.connection() as connection:
                await put(connection, f"s{n}", most=3)
        except QuotaExceeded:
            return False
        return True

    made = await asyncio.gather(*(one(n) for n in range(8)))

    assert sum(made) == 3


async def test_a_due_schedule_is_locked_by_one_node_only(database: Database, connection: Connection) -> None:
    for n in range(5):
        await put(connection, f"s{n}")
    await all_due(connection)

    async with database.transaction() as one, database.transaction() as two:
        mine = await schedules.lock_due(one, limit=3)
        theirs = await schedules.lock_due(two, limit=10)
        also = await schedules.lock_if_due(two, mine[0])

        assert len(mine) == 3
        assert len(theirs) == 2
        assert not also
        assert not set(mine) & set(theirs)


async def test_paused_and_later_ones_are_not_due(connection: Connection) -> None:
    for name in ("due", "paused", "later"):
        await put(connection, name)
    await connection.execute("update schedules set next_at = now() where id <> 'later'")
    assert await schedules.pause(connection, TENANT, "paused")

    async with connection.transaction():
        assert await schedules.lock_due(connection, limit=10) == [(TENANT, "due")]
        assert not await schedules.lock_if_due(connection, (TENANT, "paused"))
    wait = await schedules.until_next(connection)
    assert wait is not None
    assert wait <= timedelta(0)


async def test_a_schedule_that_is_being_paused_is_left_alone(database: Database, connection: Connection) -> None:
    await put(connection, "s")
    await all_due(connection)

    async with database.transaction() as pausing, database.transaction() as firing:
        await schedules.pause(pausing, TENANT, "s")

        assert await schedules.lock_due(firing, limit=10) == []


async def test_a_replacement_is_not_fired_as_its_former_self(database: Database, connection: Connection) -> None:
    await put(connection, "s", body=b"former")
    await all_due(connection)

    async with database.transaction() as firing:
        keys = await schedules.lock_due(firing, limit=10)
        replacing = asyncio.create_task(put(connection, "s", body=b"latter"))
        now, [schedule] = await schedules.fetch(firing, keys)
        assert schedule.request.body == b"former"
        await schedules.advance(firing, [schedules.Fired(keys[0], now + DUE)])
    await replacing

    found = await schedules.find(connection, TENANT, "s")
    assert found is not None
    assert found.request.body == b"latter"
    assert found.last_at is None
    assert found.next_at < now + DUE


async def test_bodies_bound_how_many_schedules_fire_together(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedules, "DUE_BYTES", 100)
    for n in range(4):
        await put(connection, f"s{n}", body=b"x" * 60)
    await all_due(connection)

    async with connection.transaction():
        assert len(await schedules.lock_due(connection, limit=10)) == 1


async def test_a_tick_is_recorded_once(database: Database) -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)

    async def record(names: Sequence[str]) -> set[Any]:
        async with database.transaction() as connection:
            return await schedules.record(connection, [(TENANT, name, at) for name in names])

    answers = await asyncio.gather(*(record(["a", "b", "c"]) for _ in range(6)))

    assert sorted(len(answer) for answer in answers) == [0, 0, 0, 0, 0, 3]
    assert await record([]) == set()
    assert await record(["a", "d"]) == {(TENANT, "d", at)}


async def test_old_ticks_are_pruned_in_steps(connection: Connection) -> None:
    await connection.execute(
        "insert into schedule_ticks (tenant_id, schedule_id, tick_at, fired_at) "
        "select 1, 's', now() - n * interval '1 h', now() - n * interval '1 h' from generate_series(1, 48) n"
    )

    counts = [await schedules.prune_ticks(connection, older_than=timedelta(days=1), limit=20) for _ in range(3)]

    assert counts == [20, 5, 0]
    assert await connection.fetchval("select count(*) from schedule_ticks") == 23


async def test_what_became_of_messages_is_told_from_what_is_stored(connection: Connection) -> None:
    names = ("waiting", "delivered", "buried", "retried letter", "cancelled", "forgotten")
    news = {name: a_new_message() for name in names}
    async with connection.transaction():
        await insert(connection, list(news.values()), dispatcher_id=None, window=timedelta(minutes=10))
    ids = {name: new.message.id for name, new in news.items()}
    await deliveries.cancel(connection, TENANT, [ids["cancelled"]])
    ended = [ids[name] for name in names if name not in ("waiting", "cancelled")]
    await connection.execute("delete from deliveries where id = any($1::uuid[])", ended)
    for name, outcome in (("delivered", 0), ("buried", 2), ("retried letter", 2)):
        await connection.execute(
            "insert into attempts (message_id, tenant_id, lease, retried, active_at, duration, outcome) "
            "values ($1, 1, 1, 0, now(), '1 s', $2)",
            ids[name],
            outcome,
        )
    await connection.execute("insert into dead_letters (tenant_id, message_id) values (1, $1)", ids["buried"])

    states = await schedules.states(connection, list(ids.values()))

    assert states == {
        ids["waiting"]: TickState.IN_PROGRESS,
        ids["delivered"]: TickState.SUCCESS,
        ids["buried"]: TickState.FAIL,
        ids["retried letter"]: TickState.FAIL,
        ids["cancelled"]: TickState.FAIL,
    }


async def test_resuming_what_is_not_paused_does_not_skip_its_tick(connection: Connection) -> None:
    await put(connection, "s")
    await all_due(connection)

    async with connection.transaction():
        assert await schedules.resume(connection, TENANT, "s")

    wait = await schedules.until_next(connection)
    assert wait is not None
    assert wait < timedelta(0)


async def test_time_moves_what_lies_ahead_and_no_history(connection: Connection) -> None:
    await put(connection, "s")
    async with connection.transaction():
        await insert(
            connection, [a_new_message(), a_new_message(key=b"k")], dispatcher_id=None, window=timedelta(hours=1)
        )
    await connection.execute(
        "insert into schedule_ticks (tenant_id, schedule_id, tick_at) "
        "select 1, 's', date_trunc('minute', now()) - n * interval '1 minute' from generate_series(0, 2000) n"
    )
    await connection.execute(
        "insert into flow_keys (tenant_id, key, wake_at, period_start) "
        "values (1, 'asleep', 'infinity', null), (1, 'busy', now(), now())"
    )
    ahead = (
        "select (select min(due_at) from deliveries), (select min(expires_at) from deduplications), "
        "(select next_at from schedules), (select max(tick_at) from schedule_ticks), "
        "(select min(fired_at) from schedule_ticks), (select min(wake_at) from flow_keys), "
        "(select min(period_start) from flow_keys)"
    )
    history = "select (select min(created_at) from messages), (select min(created_at) from schedules)"
    before, past = await connection.fetchrow(ahead), await connection.fetchrow(history)
    assert before is not None

    async with connection.transaction():
        await time_travel.advance(connection, timedelta(minutes=1))

    after = await connection.fetchrow(ahead)
    assert after is not None
    assert [a - b for a, b in zip(before, after, strict=True)] == [timedelta(minutes=1)] * len(before)
    assert await connection.fetchrow(history) == past
    assert await connection.fetchval("select count(*) from schedule_ticks") == 2001
    assert await connection.fetchval("select count(*) from flow_keys where wake_at = 'infinity'") == 1


async def test_the_look_for_due_schedules_uses_its_index(connection: Connection) -> None:
    await connection.execute(
        "insert into schedules (tenant_id, id, cron, destination, fields, next_at, paused) "
        "select 1 + n % 5, 's' || n, '@daily', 'http://x', '[]', now() + n * interval '1 s', n % 2 = 0 "
        "from generate_series(1, 20000) n"
    )
    await connection.execute("analyze schedules")
    lock_due = re.sub(r"\$1", "50", schedules._LOCK_DUE)
    for query in (lock_due, "select next_at from schedules where not paused order by next_at limit 1"):
        plan = "\n".join(row[0] for row in await connection.fetch(f"explain {query}"))
        assert "schedules_due" in plan
