"""Group commit when the database refuses, hides its answer or is away."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from postroad.store.engine import Connection
from tests.conftest import Running, Serve, eventually, running
from tests.proxy import DatabaseProxy
from tests.receiver import Receiver


async def test_of_a_group_with_one_bad_message_the_others_are_stored(
    server: Running, connection: Connection, receiver: Receiver
) -> None:
    """The database itself refuses one of a hundred; the group is halved until the culprit stands alone."""
    await connection.execute("alter table messages add constraint no_poison check (body <> 'poison')")
    bodies = [b"poison" if n == 37 else f"{n}".encode() for n in range(100)]

    answers = await asyncio.gather(
        *(server.http.post(f"/v2/publish/{receiver.url()}", content=body) for body in bodies)
    )

    assert [answer.status_code for answer in answers] == [400 if body == b"poison" else 201 for body in bodies]
    assert "no_poison" in answers[37].json()["error"]
    arrived = await receiver.wait_for(99)
    assert {request.body for request in arrived} == set(bodies) - {b"poison"}
    assert await connection.fetchval("select count(*) from messages") == 99


async def test_a_commit_whose_answer_is_lost_is_503_and_what_was_stored_is_delivered(
    database_url: str, connection: Connection, receiver: Receiver
) -> None:
    async with DatabaseProxy(database_url) as proxy, running(proxy.url) as server:
        proxy.lose_answer_to(b"the answer to this is lost")

        answer = await server.http.post(f"/v2/publish/{receiver.url()}", content=b"the answer to this is lost")

        assert answer.status_code == 503
        assert "unknown" in answer.json()["error"]
        assert answer.headers["Retry-After"] == "1"
        row = await connection.fetchrow("select state, active_at from deliveries")
        assert row is not None
        assert row["state"] == 2, "it was stored as leased to a dispatcher that does not know"
        assert receiver.requests() == [], "nothing is sent from memory"

        await connection.execute("update deliveries set active_at = active_at - interval '6 s'")
        request = await receiver.next_request()
        assert request.body == b"the answer to this is lost"
        await eventually(lambda: server.events(state="DELIVERED"), lambda events: len(events) == 1)


async def test_publishes_fail_cleanly_while_the_database_is_away_and_work_when_it_is_back(
    database_url: str, receiver: Receiver
) -> None:
    async with DatabaseProxy(database_url) as proxy, running(proxy.url) as server:
        await server.publish(receiver.url(), b"before")
        proxy.refusing = True
        proxy.cut()

        answers = await asyncio.gather(
            *(server.http.post(f"/v2/publish/{receiver.url()}", content=b"meanwhile") for _ in range(20))
        )
        assert {answer.status_code for answer in answers} == {503}
        readiness = await eventually(lambda: server.http.get("/v2/readiness"), lambda answer: answer.status_code == 503)
        assert "database" in readiness.json()["reasons"][0]
        assert (await server.http.get("/v2/liveness")).text == "OK"

        proxy.refusing = False
        await eventually(
            lambda: server.http.post(f"/v2/publish/{receiver.url('/after')}", content=b"after"),
            lambda answer: answer.status_code == 201,
        )
        assert (await receiver.next_request("/after")).body == b"after"


async def test_a_settlement_whose_answer_is_lost_is_repeated_without_a_second_effect(
    database_url: str, receiver: Receiver
) -> None:
    async with DatabaseProxy(database_url) as proxy, running(proxy.url) as server:
        from tests.moods import status

        receiver.script("/", status(500, b"the settlement of this is lost"), status(200))
        proxy.lose_answer_to(b"the settlement of this is lost")

        message_id = await server.publish(receiver.url(), Upstash_Retry_Delay="0")

        assert await server.settled(message_id) == ["CREATED", "ACTIVE", "ERROR", "RETRY", "ACTIVE", "DELIVERED"]
        assert proxy.lost.is_set()
        assert len(receiver.requests()) == 2


async def test_a_warning_on_the_commit_is_not_an_acknowledgement(
    database_url: str, connection: Connection, receiver: Receiver
) -> None:
    """With a synchronous standby a cancelled wait is a success with a warning; a trigger warns the same way."""
    await connection.execute(
        """
        create function warn() returns trigger language plpgsql as $$
        begin raise warning 'canceling wait for synchronous replication due to user request'; return null; end $$
        """
    )
    await connection.execute(
        "create constraint trigger warn after insert on deliveries deferrable initially deferred for each row "
        "execute function warn()"
    )
    async with running(database_url) as server:
        answer = await server.http.post(f"/v2/publish/{receiver.url()}")

    assert answer.status_code == 503
    assert "unknown" in answer.json()["error"]


@pytest.mark.parametrize("setting", ["synchronous_commit"])
async def test_a_database_that_may_forget_is_refused(database_url: str, connection: Connection, setting: str) -> None:
    from postroad.errors import Misconfigured
    from postroad.store.engine import Database

    name = await connection.fetchval("select current_database()")
    await connection.execute(f"alter database {name} set {setting} = off")

    with pytest.raises(Misconfigured, match=f"{setting}=off"):
        await Database.connect(database_url)


async def test_time_moves_only_what_lies_ahead(server: Running, receiver: Receiver) -> None:
    message_id = await server.publish(receiver.url(), Upstash_Delay="1d")
    [created] = await server.events(messageId=message_id)

    await server.time_passes(timedelta(days=1))
    await receiver.next_request()

    assert (await server.events(messageId=message_id, state="CREATED"))[0]["time"] == created["time"]


async def test_a_day_without_a_partition_is_our_fault_and_not_the_publishers(
    serve: Serve, connection: Connection, receiver: Receiver
) -> None:
    server = await serve(roles="api")  # a dispatcher would make them anew
    names = await connection.fetch("select relname from pg_class where relkind = 'r' and relname like 'messages_20%'")
    for row in names:
        await connection.execute(f"drop table {row['relname']}")

    answer = await server.http.post(f"/v2/publish/{receiver.url()}")

    assert answer.status_code == 503
    assert "partitions" in (await server.http.get("/v2/readiness")).json()["reasons"][0]


async def test_a_repeated_settlement_does_not_disturb_the_attempt_after_it(
    database_url: str, connection: Connection, receiver: Receiver
) -> None:
    """The answer to the first settlement is lost while the database goes away for a moment; the second attempt is
    slow, so that beats pass while the first one is still being settled again."""
    from tests.moods import hold, ok, status

    release = asyncio.Event()
    async with DatabaseProxy(database_url) as proxy, running(proxy.url) as server:
        receiver.script("/", status(500, b"lost settlement"), hold(release, ok()))
        proxy.lose_answer_to(b"lost settlement")
        message_id = await server.publish(receiver.url(), Upstash_Retry_Delay="0")
        await receiver.wait_for(2)
        await connection.execute("update deliveries set active_at = active_at - interval '1 minute'")
        alive = "select alive_until from dispatchers"
        before = await connection.fetchval(alive)
        for _ in range(2):
            before = await eventually(lambda: connection.fetchval(alive), lambda now, seen=before: now > seen)  # type: ignore[misc]
        release.set()

        states = await server.settled(message_id)
        assert sorted(states) == ["ACTIVE", "ACTIVE", "CREATED", "DELIVERED", "ERROR", "RETRY"]
        assert len(receiver.requests()) == 2


async def test_a_batch_stays_together_when_its_neighbour_is_refused(
    server: Running, receiver: Receiver, connection: Connection
) -> None:
    await connection.execute("alter table messages add constraint no_poison check (body <> 'poison')")
    items = [{"destination": receiver.url("/batch"), "body": str(n)} for n in range(7)]

    answers = await asyncio.gather(
        *(server.http.post("/v2/batch", json=items) for _ in range(6)),
        *(server.http.post(f"/v2/publish/{receiver.url('/one')}", content=b"poison") for _ in range(3)),
    )

    assert [answer.status_code for answer in answers] == 6 * [200] + 3 * [400]
    for answer in answers[:6]:
        ids = [message["messageId"] for message in answer.json()]
        events = (await server.http.get("/v2/events", params={"messageIds": ids, "state": "CREATED"})).json()["events"]
        assert (len(events), len({event["time"] for event in events})) == (7, 1)
