"""Bugs that were mended, or never made: scripted histories that are clean, and that the checker condemns with the bug.

Each test plays its script twice, on the product as it is and on a build that has the bug.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import asyncpg
import psutil
import pytest

from tests.conftest import eventually
from tests.faults.builds import QUICK, BuildFailed, Change, Reply, Scene, build, scene
from tests.faults.checker import Findings, Kind, check
from tests.faults.cluster import Node
from tests.faults.records import Intent, Schedule
from tests.receiver import Receiver

HOUR = timedelta(hours=1)
MINUTE_S = 60
ROOM_S = 15
"""What is played within a minute begins when so much of the minute is left."""

BEATS_LATE = Change(
    "dispatch/dispatcher.py",
    "                await asyncio.sleep(dispatchers.BEAT_EVERY.total_seconds())\n",
    "                await asyncio.sleep(dispatchers.BEAT_EVERY.total_seconds())\n"
    "                await asyncio.sleep(0 if self._pulse.may_send else 20)\n",
)
"""A process that stood still tries to settle before it can learn that it was declared dead."""

NO_FENCE = (
    Change(
        "store/settle.sql",
        " and state = 2 and dispatcher_id = $1 order by",
        " and state = 2 and $1::bigint > 0 order by",
    ),
    Change("store/settle.sql", " and s.lease = d.lease)", ")"),
)
TICKS_UNLOCKED = Change(
    "store/schedules.py",
    "where not paused and next_at <= now() order by next_at limit $1 for update skip locked",
    "where not paused and next_at <= now() order by next_at limit $1",
)
KEEPS_THE_CANCELLED = Change(
    "store/cancel.sql",
    "gone as (delete from deliveries where id = any(array(select id from target where state <> 2))),",
    "",
)
CLAIMS_UNLOCKED = Change("store/claim_due.sql", " limit $2 for update skip locked)", " limit $2)")
KEYS_UNLOCKED = Change(
    "store/lock_flow.sql", "order by tenant_id, key for update skip locked", "order by tenant_id, key"
)
NO_WINDOW = Change("store/release.sql", "place.n < q.parallelism)", "place.n < 100)")
KEYS_NOT_LOOKED_AT = Change(
    "store/insert.sql",
    """  on conflict (tenant_id, key) do update set
    message_id = case when d.expires_at <= now() then excluded.message_id else d.message_id end,
    expires_at = case when d.expires_at <= now() then excluded.expires_at else d.expires_at end
""",
    "",
)


async def has_ended(play: Scene) -> None:
    """Until no delivery is left."""
    await eventually(play.unfinished, lambda left: left == 0, within=30)


async def verdict(play: Scene, node: Node, schedules: Sequence[Schedule] = ()) -> Findings:
    """What the checker says when the script is over."""
    return check(await play.history(node, schedules))


# Test builds themselves.


async def test_a_process_runs_the_build_that_it_is_given(tmp_path: Path) -> None:
    environment = build(tmp_path, QUICK)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "from postroad.store import dispatchers, migrations as m; print(dispatchers.__file__);"
        "print(dispatchers.ALIVE_FOR.total_seconds()); print(m._directory())",
        env=os.environ | environment, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, _ = await process.communicate()

    assert output.decode().split() == [
        str(tmp_path / "src/postroad/store/dispatchers.py"), "4.0", str(tmp_path / "migrations")
    ]  # fmt: skip


@pytest.mark.parametrize("old", ["there is no such text", "deliveries"])
def test_a_build_fails_when_a_text_is_not_there_once(tmp_path: Path, old: str) -> None:
    with pytest.raises(BuildFailed, match=r"settle\.sql"):
        build(tmp_path, [Change("store/settle.sql", old, "")])


# The fence.


@pytest.mark.parametrize("is_fenced", [True, False], ids=["fenced", "unfenced"])
async def test_a_settlement_under_an_old_lease_counts_for_nothing(
    database_url: str, receiver: Receiver, tmp_path: Path, *, is_fenced: bool
) -> None:
    """One node stands still with an attempt on the wire, and settles what another one has taken over and delivers."""
    halted = build(tmp_path / "halted", [*QUICK, BEATS_LATE, *(() if is_fenced else NO_FENCE)])
    first, second = asyncio.Event(), asyncio.Event()
    async with scene(database_url, tmp_path, receiver, nodes=2) as play:
        a, b = await asyncio.gather(play.start(0, halted), play.start(1, build(tmp_path / "quick", QUICK)))
        await play.publish(a, Intent(1, 0), Reply(gate=first), Reply(gate=second))
        await receiver.wait_for(1)
        await play.halt(a)
        a.pause()
        await receiver.wait_for(2, timeout=30)
        first.set()
        a.resume()

        async def settlements_of_a() -> int:
            settled: int = await play.ask_database(
                "select count(*) from chaos_audit where outcome is not null and application_name like $1", f"%:{a.pid}"
            )
            return settled + play.cluster.late_results()

        await eventually(settlements_of_a, lambda tried: tried > 0)
        assert play.cluster.late_results() == is_fenced
        second.set()
        await has_ended(play)
        found = await verdict(play, b)

    assert {one.header("Upstash-Region") for one in receiver.requests()} == {a.name, b.name}
    assert found.counts.get(Kind.STALE, 0) == (0 if is_fenced else 1)
    assert found.is_clean == is_fenced, found.violations


# Ticks.


async def test_two_nodes_that_fire_one_tick_are_stopped_by_its_key(
    database_url: str, receiver: Receiver, tmp_path: Path
) -> None:
    """One node stands still before it commits a tick, and another one, which sees no lock, fires the same."""
    unlocked = build(tmp_path / "unlocked", [TICKS_UNLOCKED])
    async with scene(database_url, tmp_path, receiver, nodes=2) as play:
        b = await play.start(1, unlocked)
        schedules = []
        for drop in (None, "alter table schedule_ticks drop constraint schedule_ticks_pkey"):
            if drop is not None:
                await play.ask_database(drop)
            a = await play.start(0, unlocked | {"POSTROAD_FAULTS": "before_tick_commit:pause"})
            schedules.append(await fire_twice(play, a, b))
            await a.kill("it would stand still again")
            found = await verdict(play, b, schedules)
            if drop is None:
                assert found.is_clean, found.violations
                assert found.figures.ticks >= 1

    [doubled] = [one for one in found.violations if one.kind is Kind.TICK_DOUBLED]
    assert schedules[1].id in doubled.sentence


async def fire_twice(play: Scene, a: Node, b: Node) -> Schedule:
    """Have both nodes at work on the same tick."""
    await eventually(lambda: wall(play), lambda now: now % MINUTE_S < MINUTE_S - ROOM_S)
    play.answer("/tick/1")
    made = await play.ask(b, "POST", f"/v2/schedules/{play.receiver.url('/tick/1')}", Upstash_Cron="* * * * *")
    made_at = await wall(play)
    await play.halt(b)
    await play.time_passes(timedelta(seconds=MINUTE_S))
    assert a.pid is not None
    process = psutil.Process(a.pid)

    async def state() -> str:
        return process.status()

    await eventually(state, lambda now: now == psutil.STATUS_STOPPED)
    a.pause()
    play.go_on(b)
    await play.waits_for_a_lock(b)
    a.resume("before it committed a tick")
    schedule_id: str = made.json()["scheduleId"]
    await eventually(lambda: ticks_are_over(play, schedule_id), bool)
    await play.ask(b, "DELETE", f"/v2/schedules/{schedule_id}")
    await has_ended(play)
    return Schedule(schedule_id, made_at - MINUTE_S, await wall(play))


async def ticks_are_over(play: Scene, schedule_id: str) -> bool:
    """Nothing is due, and nobody is in the middle of it."""
    is_over: bool = await play.ask_database(
        """
        select next_at > now() and not exists (
          select from pg_stat_activity
          where datname = current_database() and application_name like 'postroad@%' and xact_start is not null)
        from schedules where id = $1
        """,
        schedule_id,
    )
    return is_over


async def wall(play: Scene) -> float:
    """Unix seconds of the database."""
    now: float = await play.ask_database("select extract(epoch from clock_timestamp())::float8")
    return now


# Cancellation.


@pytest.mark.parametrize("is_mended", [True, False], ids=["mended", "broken"])
async def test_what_was_cancelled_is_not_sent(
    database_url: str, receiver: Receiver, tmp_path: Path, *, is_mended: bool
) -> None:
    environment = {} if is_mended else build(tmp_path / "broken", [KEEPS_THE_CANCELLED])
    async with scene(database_url, tmp_path, receiver, nodes=1) as play:
        node = await play.start(0, environment)
        canceled = await play.publish(node, Intent(1, 0, delay=3600), Upstash_Delay="1h")
        await play.publish(node, Intent(2, 0, delay=3600), Upstash_Delay="1h")
        assert canceled is not None
        await play.cancel(node, canceled)

        await play.time_passes(HOUR)
        await receiver.wait_for(1, "/m/2", timeout=30)
        await has_ended(play)
        found = await verdict(play, node)

    assert len(receiver.requests("/m/1")) == (0 if is_mended else 1)
    assert found.counts.get(Kind.CANCELED, 0) == (0 if is_mended else 1)
    assert found.is_clean == is_mended, found.violations


# What two nodes look at in the same moment.


@pytest.mark.parametrize("is_mended", [True, False], ids=["mended", "broken"])
async def test_two_nodes_never_claim_one_delivery(
    database_url: str, receiver: Receiver, tmp_path: Path, *, is_mended: bool
) -> None:
    """Both find it due while somebody has it locked."""
    environment = {} if is_mended else build(tmp_path / "broken", [CLAIMS_UNLOCKED])
    async with scene(database_url, tmp_path, receiver, nodes=2) as play:
        a, b = await asyncio.gather(play.start(0, environment), play.start(1, environment))
        await play.publish(a, Intent(1, 0, delay=3600), Upstash_Delay="1h")
        async with both_find_due(play, a, b, "select from deliveries for update"):
            await until_both_have_looked(play, a, b, is_mended=is_mended)
        await has_ended(play)
        await receiver.wait_for(2 if is_mended else 3, timeout=30)
        found = await verdict(play, b)

    assert len(receiver.requests("/m/1")) == (1 if is_mended else 2)
    # Which of the two it is depends on whether the first answer was written before the second request came.
    assert bool({Kind.RETRIED, Kind.DUPLICATE} & set(found.counts)) != is_mended, found.violations
    assert found.is_clean == is_mended, found.violations


@pytest.mark.parametrize("is_mended", [True, False], ids=["mended", "broken"])
async def test_two_nodes_never_take_the_same_slot_of_a_key(
    database_url: str, receiver: Receiver, tmp_path: Path, *, is_mended: bool
) -> None:
    """Both count what is under way while somebody has the key locked."""
    environment = {} if is_mended else build(tmp_path / "broken", [KEYS_UNLOCKED])
    gate = asyncio.Event()
    under_key = {"Upstash_Flow_Control_Key": "k", "Upstash_Flow_Control_Value": "parallelism=1"}
    async with scene(database_url, tmp_path, receiver, nodes=2) as play:
        a, b = await asyncio.gather(play.start(0, environment), play.start(1, environment))
        for op in (1, 2):
            intent = Intent(op, 0, delay=3600, flow_key="k", parallelism=1)
            await play.publish(a, intent, Reply(gate=gate), Upstash_Delay="1h", **under_key)
        async with both_find_due(play, a, b, "select from flow_keys for update"):
            await until_both_have_looked(play, a, b, is_mended=is_mended)
        await receiver.wait_for(2 if is_mended else 3, timeout=30)
        gate.set()
        await has_ended(play)
        found = await verdict(play, b)

    assert found.counts.get(Kind.PARALLELISM, 0) == (0 if is_mended else 1)
    assert found.is_clean == is_mended, found.violations


@asynccontextmanager
async def both_find_due(play: Scene, a: Node, b: Node, query: str) -> AsyncIterator[None]:
    """While this holds the locks that a query takes, an hour is over for two nodes, who look then and not before."""
    connection = await asyncpg.connect(play.database_url)
    try:
        async with connection.transaction():
            await play.halt(a, b)
            await play.time_passes(HOUR)
            await connection.fetch(query)
            play.go_on(a, b)
            yield
    finally:
        await connection.close()


async def until_both_have_looked(play: Scene, a: Node, b: Node, *, is_mended: bool) -> None:
    """Until they wait for the lock, or else have claimed something that came later."""
    if is_mended:
        await play.publish(a, Intent(9, 0, delay=1), Upstash_Delay="1s")
        await play.receiver.wait_for(1, "/m/9", timeout=30)
    else:
        await play.waits_for_a_lock(a, b)
        await play.publish(a, Intent(9, 0))


# What the database refuses, whatever the statements say.


@pytest.mark.parametrize("how", ["mended", "walled", "broken"])
async def test_the_database_stops_what_the_statements_let_through(
    database_url: str, receiver: Receiver, tmp_path: Path, how: str
) -> None:
    """A release that opens a queue further than its window, and a publish that does not look for its key.

    Without the unique index, two messages of the queue are under way at once, and without the primary key there are two
    messages of one deduplication id. With them, the second request fails.
    """
    environment = {} if how == "mended" else build(tmp_path / "broken", [NO_WINDOW, KEYS_NOT_LOOKED_AT])
    gate = asyncio.Event()
    async with scene(database_url, tmp_path, receiver, nodes=1) as play:
        if how == "broken":
            await play.ask_database("drop index deliveries_fifo")
            await play.ask_database("alter table deduplications drop constraint deduplications_pkey")
        node = await play.start(0, environment)
        queued = [await play.publish(node, Intent(op, 0, queue="q"), Reply(gate=gate), to="enqueue/q") for op in (1, 2)]
        once = [
            await play.publish(node, Intent(op, 0, deduplication="once"), Upstash_Deduplication_Id="once")
            for op in (3, 4)
        ]
        await play.publish(node, Intent(5, 0))
        await receiver.wait_for({"mended": 3, "walled": 3, "broken": 5}[how], timeout=30)
        gate.set()
        await has_ended(play)
        found = await verdict(play, node)

    assert [None in queued, None in once] == [how == "walled"] * 2
    assert len(set(once)) == (1 if how == "mended" else 2)
    assert found.counts.get(Kind.OVERLAP, 0) == (1 if how == "broken" else 0)
    assert (Kind.DEDUPLICATION in found.counts) == (how == "broken")
    assert found.is_clean == (how != "broken"), found.violations
