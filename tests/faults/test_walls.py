"""The database is the wall behind the statements: what must not be it refuses, and a lost lease changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from postroad.store import deliveries, dispatchers
from postroad.store.deliveries import FIRST_DESTINATION, Claimed, Ended, Settlement
from postroad.store.engine import Connection, Database
from postroad.store.messages import insert
from tests.builders import TENANT, a_new_message
from tests.conftest import eventually

WINDOW = timedelta(minutes=10)
SOON = timedelta(milliseconds=1)


# What is refused.


@dataclass(frozen=True, slots=True)
class Wall:
    """Rows of a table that may not be there together; each row alone, and the last one after another first, may."""

    constraint: str
    table: str
    columns: str
    rows: tuple[str, ...]
    may_be: tuple[str, ...] = ()
    """The same without what is wrong about it, which has to be accepted."""


_DELIVERY = "id, tenant_id, state, due_at, destination, dispatcher_id, queue_id, seq, sub, fifo"
_ONE, _TWO = "'00000000-0000-0000-0000-000000000001'", "'00000000-0000-0000-0000-000000000002'"

WALLS = {
    "a delivery twice": Wall(
        "deliveries_pkey", "deliveries", _DELIVERY,
        (f"{_ONE}, 1, 1, now(), 1, null, null, null, 0, false", f"{_ONE}, 1, 2, now(), 1, 7, null, null, 0, false"),
    ),
    "a second open head of a queue": Wall(
        "deliveries_fifo", "deliveries", _DELIVERY,
        (f"{_ONE}, 1, 2, now(), 1, 7, 1, 1, 0, true", f"{_TWO}, 1, 1, now(), 1, null, 1, 2, 0, true"),
        (f"{_ONE}, 1, 2, now(), 1, 7, 1, 1, 0, true", f"{_TWO}, 1, 0, now(), 1, null, 1, 2, 0, true"),
    ),
    "a second message on a place": Wall(
        "deliveries_place", "deliveries", _DELIVERY,
        (f"{_ONE}, 1, 2, now(), 1, 7, 1, 1, 0, false", f"{_TWO}, 1, 0, now(), 1, null, 1, 1, 0, false"),
        (f"{_ONE}, 1, 2, now(), 1, 7, 1, 1, 0, false", f"{_TWO}, 1, 1, now(), 1, null, 1, 1, 1, false"),
    ),
    "an unknown state": Wall(
        "deliveries_state_known", "deliveries", _DELIVERY, (f"{_ONE}, 1, 3, now(), 1, null, null, null, 0, false",)
    ),
    "active without a holder": Wall(
        "deliveries_active_when_held", "deliveries", _DELIVERY,
        (f"{_ONE}, 1, 2, now(), 1, null, null, null, 0, false",), (f"{_ONE}, 1, 2, now(), 1, 7, null, null, 0, false",),
    ),
    "a holder of what waits": Wall(
        "deliveries_active_when_held", "deliveries", _DELIVERY,
        (f"{_ONE}, 1, 1, now(), 1, 7, null, null, 0, false",), (f"{_ONE}, 1, 1, now(), 1, null, null, null, 0, false",),
    ),
    "open before its turn is fixed": Wall(
        "deliveries_open_in_turn", "deliveries", _DELIVERY, (f"{_ONE}, 1, 1, now(), 1, null, 1, null, 0, false",)
    ),
    "held by no queue": Wall(
        "deliveries_held_in_queue", "deliveries", _DELIVERY, (f"{_ONE}, 1, 0, now(), 1, null, null, null, 0, false",)
    ),
    "a second dead letter of a message": Wall(
        "dead_letters_message_id_key", "dead_letters", "tenant_id, message_id", (f"1, {_ONE}", f"1, {_ONE}"),
        (f"1, {_ONE}", f"1, {_TWO}"),
    ),
    "a second cancellation of a message": Wall(
        "cancellations_pkey", "cancellations", "tenant_id, message_id", (f"1, {_ONE}", f"1, {_ONE}"),
        (f"1, {_ONE}", f"1, {_TWO}"),
    ),
    "a deduplication key twice": Wall(
        "deduplications_pkey", "deduplications", "tenant_id, key, message_id, expires_at",
        (f"1, 'k', {_ONE}, now()", f"1, 'k', {_TWO}, now()"), (f"1, 'k', {_ONE}, now()", f"2, 'k', {_TWO}, now()"),
    ),
    "a tick twice": Wall(
        "schedule_ticks_pkey", "schedule_ticks", "tenant_id, schedule_id, tick_at",
        ("1, 's', '2026-01-01 00:00Z'", "1, 's', '2026-01-01 00:00Z'"),
        ("1, 's', '2026-01-01 00:00Z'", "1, 's', '2026-01-01 00:01Z'"),
    ),
    "a schedule twice": Wall(
        "schedules_pkey", "schedules", "tenant_id, id, cron, destination, fields, next_at",
        ("1, 's', '* * * * *', 'x', '[]', now()", "1, 's', '@daily', 'y', '[]', now()"),
    ),
    "a queue twice": Wall("queues_name", "queues", "tenant_id, name", ("1, 'q'", "1, 'q'"), ("1, 'q'", "2, 'q'")),
    "a queue that lets nothing through": Wall(
        "queues_parallelism_positive", "queues", "tenant_id, name, parallelism", ("1, 'q', 0",)
    ),
    "a flow-control key twice": Wall(
        "flow_keys_key", "flow_keys", "tenant_id, key", ("1, 'k'", "1, 'k'"), ("1, 'k'", "2, 'k'")
    ),
    "a key of no parallelism": Wall(
        "flow_keys_parallelism_positive", "flow_keys", "tenant_id, key, parallelism", ("1, 'k', 0",)
    ),
    "a key of no rate": Wall("flow_keys_rate_positive", "flow_keys", "tenant_id, key, rate", ("1, 'k', 0",)),
    "a URL group twice": Wall("url_groups_name", "url_groups", "tenant_id, name", ("1, 'g'", "1, 'g'")),
    "a bulk action twice at a time": Wall(
        "bulk_actions_running", "bulk_actions",
        "id, tenant_id, kind, filter, filter_hash, total, held_until, completed_at",
        ("'a', 1, 'cancel', '{}', 'h', 1, now(), null", "'b', 1, 'cancel', '{}', 'h', 1, now(), null"),
        ("'a', 1, 'cancel', '{}', 'h', 1, now(), now()", "'b', 1, 'cancel', '{}', 'h', 1, now(), null"),
    ),
    "a token of two tenants": Wall(
        "tokens_hash_key", "tokens", "tenant_id, name, hash, last_four", ("1, 'a', 'h', 'hhhh'", "1, 'b', 'h', 'hhhh'")
    ),
    "a tenant of no parallelism": Wall(
        "tenants_parallelism_positive", "tenants", "name, parallelism", ("'another', 0",), ("'another', 1",)
    ),
}  # fmt: skip


@pytest.mark.parametrize("wall", WALLS.values(), ids=WALLS.keys())
async def test_the_database_refuses(connection: Connection, wall: Wall) -> None:
    """The last row, because of this constraint and no other; the rows before it, and those that may be, are taken."""
    *before, last = wall.rows
    put = f"insert into {wall.table} ({wall.columns}) values ({{}})"
    for row in before:
        await connection.execute(put.format(row))

    with pytest.raises(asyncpg.IntegrityConstraintViolationError) as refusal:
        await connection.execute(put.format(last))

    assert refusal.value.constraint_name == wall.constraint
    await connection.execute(f"truncate {wall.table} cascade")
    for row in wall.may_be:
        await connection.execute(put.format(row))


async def test_a_message_is_stored_once(connection: Connection) -> None:
    new = a_new_message()
    await insert(connection, [new], dispatcher_id=None, window=WINDOW)

    with pytest.raises(asyncpg.UniqueViolationError):
        await connection.execute(
            "insert into messages (id, tenant_id, url) values ($1, 1, 'http://127.0.0.1:9/')", new.message.id
        )


# What a lost lease can do: nothing.


@dataclass(slots=True)
class Held:
    """An attempt that was claimed, and by whom."""

    connection: Connection
    me: int
    claimed: Claimed

    def settlement(self, ended: Ended, lease: int | None = None) -> Settlement:
        """The end of the attempt."""
        return Settlement(
            self.claimed.id, self.claimed.lease if lease is None else lease, ended, SOON, delay=SOON, reason="late"
        )

    async def claim_again(self, dispatcher_id: int) -> Claimed:
        """The next claim, and there has to be one."""
        [claimed] = await deliveries.claim_due(self.connection, dispatcher_id, 10)
        return claimed


@pytest.fixture
async def held(connection: Connection) -> Held:
    """An attempt of a living dispatcher's."""
    me = await dispatchers.register(connection, "me")
    await insert(connection, [a_new_message()], dispatcher_id=None, window=WINDOW)
    [claimed] = await deliveries.claim_due(connection, me, 1)
    return Held(connection, me, claimed)


async def register(connection: Connection) -> int:
    """Somebody else."""
    return await dispatchers.register(connection, "other")


async def rescued(held: Held) -> None:
    """It was declared dead, and what it held waits for anybody."""
    await die(held.connection, held.me)
    async with held.connection.transaction():
        dead = await dispatchers.lock_dead(held.connection, await register(held.connection))
        assert dead == [held.me]
        assert len(await deliveries.rescue(held.connection, dead)) == 1
        await dispatchers.forget(held.connection, dead)


async def rescued_and_claimed(held: Held) -> None:
    """Another one makes the attempt again."""
    await rescued(held)
    await held.claim_again(await register(held.connection))


async def given_back(held: Held) -> None:
    """It gave the delivery back itself."""
    async with held.connection.transaction():
        assert await deliveries.give_back(held.connection, held.me) == 1


async def given_back_and_claimed(held: Held) -> None:
    """It has claimed again what it gave back: the same holder, and another lease."""
    await given_back(held)
    assert (await held.claim_again(held.me)).lease == held.claimed.lease + 1


async def given_back_and_cancelled(held: Held) -> None:
    """There is nothing left to be settled."""
    await given_back(held)
    async with held.connection.transaction():
        assert await deliveries.cancel(held.connection, TENANT, [held.claimed.id]) == 1


async def settled(held: Held) -> None:
    """The answer of the commit was lost on the way, and it asks again."""
    assert len(await deliveries.settle(held.connection, held.me, [held.settlement(Ended.FAILED)])) == 1


async def settled_and_claimed(held: Held) -> None:
    """The answer was lost, and the next attempt is under way already."""
    assert len(await deliveries.settle(held.connection, held.me, [held.settlement(Ended.RETRY)])) == 1
    await held.connection.execute("update deliveries set due_at = now()")
    await held.claim_again(held.me)


LOSSES = (
    rescued, rescued_and_claimed, given_back, given_back_and_claimed, given_back_and_cancelled, settled,
    settled_and_claimed,
)  # fmt: skip


@pytest.mark.parametrize("ended", [Ended.DELIVERED, Ended.RETRY, Ended.FAILED])
@pytest.mark.parametrize("lose", LOSSES, ids=lambda lose: lose.__name__)
async def test_a_settlement_after_the_lease_was_lost_changes_nothing(
    held: Held, lose: Callable[[Held], Awaitable[None]], ended: Ended
) -> None:
    await lose(held)
    before = await everything(held.connection)

    assert await deliveries.settle(held.connection, held.me, [held.settlement(ended)]) == []

    assert await everything(held.connection) == before


@pytest.mark.parametrize("ended", [Ended.DELIVERED, Ended.RETRY, Ended.FAILED])
async def test_nobody_settles_what_another_one_holds(held: Held, ended: Ended) -> None:
    """Not even under the right lease, or under any other."""
    other = await register(held.connection)
    before = await everything(held.connection)

    assert await deliveries.settle(held.connection, other, [held.settlement(ended)]) == []
    for lease in (held.claimed.lease - 1, held.claimed.lease + 1):
        assert await deliveries.settle(held.connection, held.me, [held.settlement(ended, lease)]) == []

    assert await everything(held.connection) == before


@pytest.mark.parametrize("takes_over", [False, True], ids=["waits", "is claimed"])
async def test_a_settlement_that_waited_for_a_rescue_changes_nothing(
    held: Held, database: Database, *, takes_over: bool
) -> None:
    """It was begun before the rescue had committed, so it has read the row as its own."""
    async with database.connection() as own, held.connection.transaction():
        rescuer = await register(held.connection)
        await die(held.connection, held.me)
        await deliveries.rescue(held.connection, await dispatchers.lock_dead(held.connection, rescuer))
        if takes_over:
            await held.claim_again(rescuer)
        late = asyncio.create_task(deliveries.settle(own, held.me, [held.settlement(Ended.DELIVERED)]))
        await somebody_waits(database)
        before = await everything(held.connection)

    assert await late == []
    async with database.connection() as another:
        assert await everything(another) == before


async def test_a_rescue_that_waited_for_a_settlement_takes_nothing(held: Held, database: Database) -> None:
    """The holder was silent for too long, and yet its settlement came first."""
    rescuer = await register(held.connection)
    await die(held.connection, held.me)

    async def rescue() -> int:
        async with database.transaction() as own:
            return len(await deliveries.rescue(own, await dispatchers.lock_dead(own, rescuer)))

    async with held.connection.transaction():
        assert len(await deliveries.settle(held.connection, held.me, [held.settlement(Ended.DELIVERED)])) == 1
        late = asyncio.create_task(rescue())
        await somebody_waits(database)

    assert await late == 0
    assert await held.connection.fetchval("select array_agg(outcome) from attempts") == [Ended.DELIVERED]


async def test_a_rescue_takes_from_the_silent_alone(held: Held) -> None:
    """Neither from the living nor from oneself; and what somebody else has claimed since, not a second time."""
    other = await register(held.connection)
    async with held.connection.transaction():
        assert await dispatchers.lock_dead(held.connection, other) == []
        await die(held.connection, held.me)
        assert await dispatchers.lock_dead(held.connection, held.me) == []
        assert await dispatchers.lock_dead(held.connection, other) == [held.me]
        assert len(await deliveries.rescue(held.connection, [held.me])) == 1
    await held.claim_again(other)
    before = await everything(held.connection)

    async with held.connection.transaction():
        assert await deliveries.rescue(held.connection, [held.me]) == []

    assert await everything(held.connection) == before


async def test_only_what_is_leased_to_oneself_and_not_in_memory_is_given_back(held: Held) -> None:
    other = await register(held.connection)
    before = await everything(held.connection)

    async with held.connection.transaction():
        assert await deliveries.give_back(held.connection, other) == 0
        assert await deliveries.give_back(held.connection, held.me, [(held.claimed.id, held.claimed.lease)]) == 0
        assert await deliveries.give_back(held.connection, held.me, older_than=timedelta(hours=1)) == 0

    assert await everything(held.connection) == before


@pytest.mark.parametrize("lose", [rescued, rescued_and_claimed], ids=lambda lose: lose.__name__)
async def test_who_was_declared_dead_gives_nothing_back_and_lives_no_more(
    held: Held, lose: Callable[[Held], Awaitable[None]]
) -> None:
    await lose(held)
    before = await everything(held.connection)

    assert not await dispatchers.beat(held.connection, held.me)
    async with held.connection.transaction():
        assert await deliveries.give_back(held.connection, held.me) == 0
        await dispatchers.sign_off(held.connection, held.me)

    assert await everything(held.connection) == before


@pytest.mark.parametrize("is_forgotten", [False, True], ids=["silent", "forgotten"])
async def test_who_is_silent_gets_no_lease(held: Held, *, is_forgotten: bool) -> None:
    """By no claim, and by no hand-over."""
    connection, me = held.connection, held.me
    await die(connection, me)
    if is_forgotten:
        await dispatchers.forget(connection, [me])
    await insert(connection, [a_new_message(), a_new_message()], dispatcher_id=None, window=WINDOW)
    await connection.execute(
        "update deliveries set unsettled_claims = 2 where id = (select max(id::text)::uuid from deliveries)"
    )
    before = await everything(connection)

    assert await deliveries.claim_due(connection, me, 10) == []
    assert await deliveries.claim_suspects(connection, me, 16) == []
    claimed, _, _ = await deliveries.claim_fair(connection, me, 10, share=5, saturated=[], after=FIRST_DESTINATION)
    assert claimed == []

    assert await everything(connection) == before
    [stored] = await insert(connection, [a_new_message(mine=True)], dispatcher_id=me, window=WINDOW)
    assert not stored.handed_over
    assert await connection.fetchval("select count(*) from deliveries where state = 2") == 1


async def die(connection: Connection, dispatcher_id: int) -> None:
    """Be silent for longer than a beat reaches."""
    await connection.execute("update dispatchers set alive_until = '-infinity' where id = $1", dispatcher_id)


async def somebody_waits(database: Database) -> None:
    """Until somebody waits for a lock. Asked anew each time: within a transaction, the answer stays as it was."""
    query = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"

    async def waiting() -> int:
        async with database.connection() as connection:
            count: int = await connection.fetchval(query)
        return count

    await eventually(waiting, bool)


async def everything(connection: Connection) -> dict[str, list[Any]]:
    """All rows that an attempt, or who makes it, leaves behind."""
    tables = ("deliveries", "attempts", "dead_letters", "cancellations", "dispatchers", "messages")
    return {
        table: [str(row[0]) for row in await connection.fetch(f"select t::text from {table} t order by 1")]
        for table in tables
    }
