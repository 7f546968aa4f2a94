"""Claims, leases, settlements and rescue, straight at the database."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from postroad.domain.message import After
from postroad.store import deliveries, dispatchers
from postroad.store.deliveries import FIRST_DESTINATION, Ended, Settlement
from postroad.store.engine import Connection, Database, statement
from postroad.store.messages import NewMessage, fetch, insert
from tests.builders import TENANT, a_new_message

WINDOW = timedelta(minutes=10)
SOON = timedelta(milliseconds=1)


async def store(connection: Connection, *news: NewMessage, dispatcher_id: int | None = None) -> None:
    await insert(connection, list(news), dispatcher_id=dispatcher_id, window=WINDOW)


async def dead(connection: Connection, dispatcher_id: int) -> None:
    await connection.execute("update dispatchers set alive_until = '-infinity' where id = $1", dispatcher_id)


def settlement(claimed: Any, ended: Ended = Ended.DELIVERED, **given: Any) -> Settlement:
    return Settlement(claimed.id, claimed.lease, ended, duration=SOON, **given)


@pytest.fixture
async def me(connection: Connection) -> int:
    return await dispatchers.register(connection, "test")


async def test_a_claim_takes_the_longest_due_first_and_no_more_than_its_limit(connection: Connection, me: int) -> None:
    news = [a_new_message() for _ in range(5)]
    await store(connection, *news)
    for age, new in enumerate(news):
        await connection.execute(
            "update deliveries set due_at = now() - $2 * interval '1 s' where id = $1", new.message.id, age
        )

    claimed = await deliveries.claim_due(connection, me, 2)

    assert {one.id for one in claimed} == {news[4].message.id, news[3].message.id}
    assert [one.lease for one in claimed] == [1, 1]


async def test_what_is_not_due_is_not_claimed(connection: Connection, me: int) -> None:
    await store(connection, a_new_message(when=After(timedelta(seconds=60))))

    assert await deliveries.claim_due(connection, me, 10) == []
    wait = (await deliveries.look_ahead(connection)).due
    assert wait is not None
    assert timedelta(seconds=50) < wait <= timedelta(seconds=60)


async def test_claims_that_race_never_share_a_row(database: Database, connection: Connection, me: int) -> None:
    await store(connection, *(a_new_message() for _ in range(400)))

    async def claim() -> list[Any]:
        taken: list[Any] = []
        async with database.connection() as own:
            while got := await deliveries.claim_due(own, me, 7):
                assert len(got) <= 7
                taken += got
        return taken

    claims = [one.id for taken in await asyncio.gather(*(claim() for _ in range(6))) for one in taken]

    assert len(claims) == len(set(claims)) == 400


async def test_a_dead_dispatcher_gets_no_lease_by_any_way(connection: Connection, me: int) -> None:
    await store(connection, a_new_message("http://127.0.0.1:1/"))
    await dead(connection, me)
    handed = a_new_message(mine=True)

    [stored] = await insert(connection, [handed], dispatcher_id=me, window=WINDOW)

    assert not stored.handed_over
    assert await deliveries.claim_due(connection, me, 10) == []
    claimed, _, _ = await deliveries.claim_fair(connection, me, 10, share=5, saturated=[], after=FIRST_DESTINATION)
    assert claimed == []
    assert await deliveries.claim_suspects(connection, me, 16) == []


async def test_a_hand_over_is_leased_as_it_is_stored(connection: Connection, me: int) -> None:
    new = a_new_message(mine=True)

    [stored] = await insert(connection, [new], dispatcher_id=me, window=WINDOW)

    assert stored.handed_over
    assert await deliveries.claim_due(connection, me, 10) == []
    row = await connection.fetchrow("select state, lease, dispatcher_id, unsettled_claims from deliveries")
    assert row is not None
    assert tuple(row) == (2, 1, me, 1)


async def test_a_settlement_counts_only_under_the_lease_that_it_names(connection: Connection, me: int) -> None:
    await store(connection, a_new_message(), a_new_message())
    fresh, stale = await deliveries.claim_due(connection, me, 2)
    await connection.execute("update deliveries set lease = lease + 1 where id = $1", stale.id)

    settled = await deliveries.settle(connection, me, [settlement(fresh), settlement(stale)])

    assert [one.id for one in settled] == [fresh.id]
    assert await connection.fetchval("select count(*) from attempts") == 1
    assert await connection.fetchval("select id from deliveries") == stale.id


async def test_another_dispatchers_delivery_cannot_be_settled(connection: Connection, me: int) -> None:
    await store(connection, a_new_message())
    [claimed] = await deliveries.claim_due(connection, me, 1)
    other = await dispatchers.register(connection, "other")

    assert await deliveries.settle(connection, other, [settlement(claimed)]) == []


async def test_a_retry_waits_and_is_claimed_under_a_higher_lease(connection: Connection, me: int) -> None:
    await store(connection, a_new_message())
    [first] = await deliveries.claim_due(connection, me, 1)
    await deliveries.settle(connection, me, [settlement(first, Ended.RETRY, delay=timedelta(0), status=500)])

    [second] = await deliveries.claim_due(connection, me, 1)

    assert (second.id, second.lease, second.retried) == (first.id, 2, 1)


async def test_rescue_takes_from_the_dead_and_logs_the_lost_attempt(connection: Connection, me: int) -> None:
    await store(connection, a_new_message())
    [claimed] = await deliveries.claim_due(connection, me, 1)
    other = await dispatchers.register(connection, "other")
    assert await dispatchers.lock_dead(connection, 0) == []
    await dead(connection, me)

    async with connection.transaction():
        gone = await dispatchers.lock_dead(connection, 0)
        [rescued] = await deliveries.rescue(connection, gone)
        assert await deliveries.rescue(connection, gone) == []
        await dispatchers.forget(connection, gone)

    assert gone == [me]
    assert rescued.dead_letter_id is None
    assert await deliveries.settle(connection, me, [settlement(claimed)]) == [], "the late settlement is refused"
    [again] = await deliveries.claim_due(connection, other, 1)
    assert (again.id, again.lease, again.retried) == (claimed.id, 2, 0)
    assert await connection.fetchval("select outcome from attempts") == Ended.LOST


async def test_a_message_that_loses_five_dispatchers_is_buried(connection: Connection) -> None:
    await store(connection, a_new_message())
    for n in range(5):
        me = await dispatchers.register(connection, "doomed")
        claim = deliveries.claim_suspects(connection, me, 16) if n > 1 else deliveries.claim_due(connection, me, 1)
        assert len(await claim) == 1
        await dead(connection, me)
        async with connection.transaction():
            gone = await dispatchers.lock_dead(connection, 0)
            [rescued] = await deliveries.rescue(connection, gone)
            await dispatchers.forget(connection, gone)

    assert rescued.dead_letter_id is not None
    assert await connection.fetchval("select count(*) from deliveries") == 0
    assert "poison" in await connection.fetchval("select reason from dead_letters")


async def test_strays_are_given_back_uncounted_and_the_rest_is_left_alone(connection: Connection, me: int) -> None:
    await store(connection, *(a_new_message() for _ in range(4)))
    known, stale, stray, young = await deliveries.claim_due(connection, me, 4)
    await connection.execute(
        "update deliveries set active_at = now() - interval '6 s' where id = any($1::uuid[])",
        [known.id, stale.id, stray.id],
    )
    in_memory = [(known.id, known.lease), (stale.id, stale.lease - 1)]

    assert await deliveries.give_back(connection, me, in_memory, older_than=timedelta(seconds=5)) == 2

    rows = await connection.fetch("select id, state, unsettled_claims from deliveries")
    assert {row["id"]: (row["state"], row["unsettled_claims"]) for row in rows} == {
        known.id: (2, 1),
        stale.id: (1, 0),
        stray.id: (1, 0),
        young.id: (2, 1),
    }


async def test_what_was_cancelled_while_it_was_held_is_not_given_back_but_ended(
    connection: Connection, me: int
) -> None:
    await store(connection, a_new_message(), a_new_message())
    cancelled, other = await deliveries.claim_due(connection, me, 2)
    await deliveries.cancel(connection, TENANT, [cancelled.id])

    await deliveries.give_back(connection, me)

    assert [row["id"] for row in await connection.fetch("select id from deliveries")] == [other.id]
    assert await connection.fetchval("select canceled_at is not null from cancellations")


async def test_signing_off_leaves_nothing_leased(connection: Connection, me: int) -> None:
    await store(connection, a_new_message(), a_new_message(mine=True), dispatcher_id=me)
    await deliveries.claim_due(connection, me, 1)

    async with connection.transaction():
        await dispatchers.sign_off(connection, me)

    assert await connection.fetchval("select count(*) from deliveries where state = 1") == 2
    assert not await dispatchers.beat(connection, me)


async def test_a_late_beat_counts_as_long_as_nobody_has_rescued(connection: Connection, me: int) -> None:
    await dead(connection, me)
    assert await dispatchers.lock_dead(connection, me) == [], "nobody declares itself dead"

    assert await dispatchers.beat(connection, me)

    assert await dispatchers.lock_dead(connection, 0) == []


async def test_who_has_lost_two_dispatchers_travels_in_a_group_and_who_has_lost_more_alone(
    connection: Connection, me: int
) -> None:
    news = [a_new_message() for _ in range(8)]
    await store(connection, *news)
    ids = [new.message.id for new in news]
    for message_id, lost in zip(ids, (0, 2, 2, 3, 2, 4, 1, 2), strict=True):
        # Each is due a little later than the one before.
        await connection.execute(
            "update deliveries set unsettled_claims = $2, due_at = now() - $3::interval where id = $1",
            message_id,
            lost,
            timedelta(seconds=1000 - ids.index(message_id)),
        )

    assert {one.id for one in await deliveries.claim_due(connection, me, 10)} == {ids[0], ids[6]}
    groups = [await deliveries.claim_suspects(connection, me, 4) for _ in range(5)]
    assert [[ids.index(one.id) for one in sorted(group, key=lambda one: one.id)] for group in groups] == [
        [1, 2, 4],
        [3],
        [5],
        [7],
        [],
    ]


async def test_a_rotation_that_was_cut_short_goes_on_where_it_stopped(connection: Connection, me: int) -> None:
    for port in range(1, 9):
        await store(connection, *(a_new_message(f"http://127.0.0.1:{port}/") for _ in range(10)))
    keys = sorted(row["destination"] for row in await connection.fetch("select distinct destination from deliveries"))
    served: list[int] = []
    after = FIRST_DESTINATION
    for _ in range(4):
        claimed, after, _ = await deliveries.claim_fair(connection, me, 6, share=3, saturated=[], after=after)
        served += [one.destination for one in claimed]

    assert sorted(served) == sorted(keys * 3)


async def test_the_fair_claim_passes_over_the_saturated_and_goes_round(connection: Connection, me: int) -> None:
    for port in (1, 2, 3):
        await store(connection, *(a_new_message(f"http://127.0.0.1:{port}/") for _ in range(10)))
    keys = sorted(row["destination"] for row in await connection.fetch("select distinct destination from deliveries"))

    claimed, stands_at, ended = await deliveries.claim_fair(
        connection, me, 100, share=4, saturated=[keys[1]], after=FIRST_DESTINATION
    )

    assert sorted(one.destination for one in claimed) == [keys[0]] * 4 + [keys[2]] * 4
    assert (stands_at, ended) == (FIRST_DESTINATION, True), "fewer destinations than a turn: it starts over"
    later, _, _ = await deliveries.claim_fair(connection, me, 100, share=100, saturated=[], after=keys[1])
    assert {one.destination for one in later} == {keys[2]}


async def test_bodies_above_the_limit_stay_behind(connection: Connection) -> None:
    small, large = a_new_message(), a_new_message()
    large.message = a_new_message().message.__class__(
        **{name: getattr(large.message, name) for name in large.message.__slots__} | {"body": b"x" * 70_000}
    )
    await store(connection, small, large)

    by_id = {one.message.id: one.message for one in await fetch(connection, [small.message.id, large.message.id])}

    assert by_id[small.message.id].body == b"body"
    assert (by_id[large.message.id].body, by_id[large.message.id].body_bytes) == (None, 70_000)


async def test_equal_keys_in_one_group_have_one_winner(connection: Connection) -> None:
    news = [a_new_message(key=b"a"), a_new_message(key=b"a"), a_new_message(), a_new_message(key=b"b")]

    stored = await insert(connection, news, dispatcher_id=None, window=WINDOW)

    assert [one.is_new for one in stored] == [True, False, True, True]
    assert stored[1].id == stored[0].id == news[0].message.id
    assert await connection.fetchval("select count(*) from deliveries") == 3


async def test_cancel_counts_what_was_unfinished_and_leaves_strangers_alone(connection: Connection, me: int) -> None:
    waiting, active, foreign = a_new_message(), a_new_message(mine=True), a_new_message()
    await insert(connection, [waiting, active, foreign], dispatcher_id=me, window=WINDOW)
    await connection.execute("update deliveries set tenant_id = 2 where id = $1", foreign.message.id)
    ids = [new.message.id for new in (waiting, active, foreign)]

    assert await deliveries.cancel(connection, TENANT, ids) == 2

    rows = await connection.fetch("select id, cancel_requested_at is not null as asked from deliveries")
    assert {row["id"]: row["asked"] for row in rows} == {active.message.id: True, foreign.message.id: False}


# Plans: a hot statement that stops using its index is a defect that no other test would see.


@pytest.fixture
async def crowded(connection: Connection, me: int) -> int:
    """20,000 waiting and 500 active deliveries, with statistics."""
    await connection.execute(
        """
        insert into deliveries (id, tenant_id, state, due_at, destination)
        select gen_random_uuid(), 1, 1, now() - n * interval '1 ms', n % 50 from generate_series(1, 20000) n
        """
    )
    await connection.execute(
        """
        insert into deliveries (id, tenant_id, state, due_at, destination, lease, dispatcher_id, active_at)
        select gen_random_uuid(), 1, 2, now(), 1, 1, $1, now() from generate_series(1, 500) n
        """,
        me,
    )
    await connection.execute("analyze deliveries")
    return me


async def plan(connection: Connection, sql: str, *arguments: Any) -> str:
    prepared = await connection.prepare(sql)
    return json.dumps(await prepared.explain(*arguments))


def scans(text: str) -> list[tuple[str, str]]:
    """Kind and table of every scan in a plan."""
    found: list[tuple[str, str]] = []

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            if "Relation Name" in node:
                found.append((node["Node Type"], node["Relation Name"]))
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    walk(json.loads(text))
    return found


@pytest.mark.parametrize(
    ("name", "arguments", "index"),
    [
        ("claim_due", (100,), "deliveries_due"),
        ("claim_fair", (100, 10, [3], FIRST_DESTINATION, 200), "deliveries_fair"),
        ("give_back", ([], [], timedelta(seconds=5)), "deliveries_leased"),
        ("claim_suspects", (16,), "deliveries_suspect"),
    ],
)
async def test_a_hot_statement_reads_through_its_index(
    connection: Connection, crowded: int, name: str, arguments: tuple[Any, ...], index: str
) -> None:
    text = await plan(connection, statement(name), crowded, *arguments)

    assert index in text
    assert ("Seq Scan", "deliveries") not in scans(text)


async def test_a_settlement_reads_by_primary_key(connection: Connection, crowded: int) -> None:
    rows = await connection.fetch("select id from deliveries where state = 2 limit 200")
    ids = [row["id"] for row in rows]
    n = len(ids)
    columns = (ids, [1] * n, [0] * n, [None] * n, [200] * n, [None] * n, [None] * n, [None] * n, [0.001] * n)

    text = await plan(connection, statement("settle"), crowded, *columns, None)

    assert "deliveries_pkey" in text
    assert ("Seq Scan", "deliveries") not in scans(text)


async def test_rescue_and_the_look_ahead_read_through_their_indexes(connection: Connection, crowded: int) -> None:
    assert "deliveries_leased" in await plan(connection, statement("rescue"), [crowded])
    assert "deliveries_due" in await plan(
        connection,
        "select due_at from deliveries where state = 1 and flow_key_id is null order by due_at limit 1",
    )


async def test_a_fetch_prunes_partitions_for_each_id(connection: Connection) -> None:
    text = await plan(connection, statement("fetch"), [a_new_message().message.id], 65536, 44)

    kinds = {kind for kind, table in scans(text) if table.startswith("messages")}
    assert kinds == {"Index Scan"}


async def test_the_database_itself_forbids_impossible_states(connection: Connection, me: int) -> None:
    await store(connection, a_new_message())
    for impossible in (
        "update deliveries set state = 3",
        "update deliveries set state = 2",
        "update deliveries set dispatcher_id = 1",
        "update deliveries set state = 0",
        "update deliveries set seq = 1",
    ):
        with pytest.raises(asyncpg.CheckViolationError):
            await connection.execute(impossible)
