"""Queues: order, overlap, pauses and parallelism, as a receiver and an operator see them."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import defaultdict
from datetime import timedelta
from typing import Any

import pytest

from postroad.domain.message import After
from postroad.store import deliveries, dispatchers, queues
from postroad.store.engine import Connection
from postroad.store.messages import insert
from tests.builders import TENANT, a_new_message
from tests.conftest import Running, Serve, eventually
from tests.receiver import Mood, Received, Receiver, handled, hold, ok, status

QUICK = {"Upstash_Retry_Delay": "0"}


async def enqueue(server: Running, queue: str, destination: str, body: bytes | str = b"", **headers: str) -> str:
    answer = await server.http.post(
        f"/v2/enqueue/{queue}/{destination}",
        content=body,
        headers={name.replace("_", "-"): value for name, value in headers.items()},
    )
    assert answer.status_code == 200, answer.text
    message_id: str = answer.json()["messageId"]
    return message_id


async def queue(server: Running, name: str) -> dict[str, Any]:
    answer = await server.http.get(f"/v2/queues/{name}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def empty(server: Running, name: str) -> None:
    await eventually(lambda: queue(server, name), lambda found: found["lag"] == 0)


async def test_messages_of_a_queue_arrive_in_the_order_in_which_they_were_accepted(
    server: Running, receiver: Receiver
) -> None:
    for number in range(20):
        await enqueue(server, "orders", receiver.url("/q"), str(number))

    await receiver.wait_for(20, "/q")

    assert [request.body for request in receiver.requests("/q")] == [str(n).encode() for n in range(20)]


async def test_a_queue_is_made_by_the_first_message_and_keeps_its_settings(server: Running, receiver: Receiver) -> None:
    await enqueue(server, "made", receiver.url("/q"))
    assert (await queue(server, "made"))["parallelism"] == 1

    await server.http.post("/v2/queues", json={"queueName": "made", "parallelism": 4, "paused": True})
    await enqueue(server, "made", receiver.url("/q"))

    found = await queue(server, "made")
    assert (found["parallelism"], found["paused"]) == (4, True)


async def test_the_next_message_waits_for_the_retries_of_the_one_before(server: Running, receiver: Receiver) -> None:
    receiver.script("/a", status(500), status(500), ok())
    await enqueue(server, "q", receiver.url("/a"), "a", **QUICK)
    await enqueue(server, "q", receiver.url("/b"), "b")

    await receiver.next_request("/b")

    assert [request.path for request in receiver.requests()] == ["/a", "/a", "/a", "/b"]


async def test_the_next_message_waits_for_the_callbacks_of_the_one_before(server: Running, receiver: Receiver) -> None:
    receiver.script("/a", status(500))
    receiver.script("/callback", status(500), ok())
    receiver.script("/failed", status(500), status(500), ok())
    await enqueue(
        server, "q", receiver.url("/a"), "a", Upstash_Retries="1", **QUICK,
        Upstash_Callback=receiver.url("/callback"), Upstash_Callback_Retry_Delay="0",
        Upstash_Failure_Callback=receiver.url("/failed"), Upstash_Failure_Callback_Retries="3",
        Upstash_Failure_Callback_Retry_Delay="0",
    )  # fmt: skip
    await enqueue(server, "q", receiver.url("/b"), "b")

    await receiver.next_request("/b")

    paths = [request.path for request in receiver.requests()]
    assert paths[-1] == "/b"
    assert sorted(paths[:-1]) == sorted(
        ["/a", "/a", "/callback", "/callback", "/callback", "/failed", "/failed", "/failed"]
    )


async def test_a_dead_letter_lets_the_next_message_go(server: Running, receiver: Receiver) -> None:
    receiver.script("/a", status(500))
    await enqueue(server, "q", receiver.url("/a"), Upstash_Retries="0")
    await enqueue(server, "q", receiver.url("/b"))

    await receiver.next_request("/b")

    letters = await server.dead_letters(queueName="q")
    assert [letter["url"] for letter in letters] == [receiver.url("/a")]
    assert letters[0]["queueName"] == "q"


async def test_a_paused_queue_takes_messages_in_and_lets_none_go_until_it_is_resumed(
    server: Running, receiver: Receiver
) -> None:
    await server.http.post("/v2/queues", json={"queueName": "q", "paused": True})
    for number in range(3):
        await enqueue(server, "q", receiver.url("/q"), str(number))
    assert (await queue(server, "q"))["counts"] == {"held": 3, "waiting": 0, "active": 0}
    assert (await queue(server, "q"))["lag"] == 3

    assert (await server.http.post("/v2/queues/q/resume")).status_code == 200
    await receiver.wait_for(3, "/q")

    assert [request.body for request in receiver.requests("/q")] == [b"0", b"1", b"2"]
    await empty(server, "q")


async def test_a_pause_reaches_a_message_that_waits_for_its_retry(server: Running, receiver: Receiver) -> None:
    receiver.script("/q", status(500), ok())
    await enqueue(server, "q", receiver.url("/q"), Upstash_Retry_Delay="3000")
    await receiver.next_request("/q")
    await eventually(lambda: queue(server, "q"), lambda found: found["counts"]["waiting"] == 1)

    await server.http.post("/v2/queues/q/pause")
    assert (await queue(server, "q"))["counts"] == {"held": 1, "waiting": 0, "active": 0}
    await server.time_passes(timedelta(seconds=5))
    await asyncio.sleep(0.5)
    assert len(receiver.requests("/q")) == 1
    await server.http.post("/v2/queues/q/resume")

    await receiver.next_request("/q")


async def test_a_message_that_fails_in_a_paused_queue_waits_for_the_resumption(
    server: Running, receiver: Receiver
) -> None:
    gate = asyncio.Event()
    receiver.script("/q", hold(gate, status(500)), ok())
    await enqueue(server, "q", receiver.url("/q"), **QUICK)
    await receiver.next_request("/q")

    await server.http.post("/v2/queues/q/pause")
    gate.set()
    await eventually(lambda: queue(server, "q"), lambda found: found["counts"]["held"] == 1)
    await server.http.post("/v2/queues/q/resume")

    await receiver.next_request("/q")


@pytest.mark.parametrize("parallelism", [2, 3])
async def test_a_queue_has_no_more_under_way_than_its_parallelism(
    server: Running, receiver: Receiver, parallelism: int
) -> None:
    await server.http.post("/v2/queues", json={"queueName": "q", "parallelism": parallelism})
    busy = most = 0
    full = asyncio.Event()

    async def at_work(_: Received) -> Mood:
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        if busy == parallelism:
            full.set()
        await full.wait()
        await asyncio.sleep(0.02)
        busy -= 1
        return ok()

    receiver.script("/q", handled(at_work))
    for number in range(30):
        await enqueue(server, "q", receiver.url("/q"), str(number))

    await receiver.wait_for(30, "/q")
    await empty(server, "q")

    assert most == parallelism


async def test_less_parallelism_holds_again_what_has_not_begun(connection: Connection) -> None:
    await queues.upsert(connection, TENANT, "q", parallelism=3, paused=False)
    await insert(connection, [a_new_message(queue="q") for _ in range(4)], dispatcher_id=None, window=timedelta(1))
    assert (await connection.fetchval("select array_agg(state order by seq) from deliveries")) == [1, 1, 1, 0]

    async with connection.transaction():
        await queues.upsert(connection, TENANT, "q", parallelism=1, paused=False)

    assert (await connection.fetchval("select array_agg(state order by seq) from deliveries")) == [1, 0, 0, 0]


async def test_cancelling_the_head_of_a_queue_lets_the_next_one_go(server: Running, receiver: Receiver) -> None:
    receiver.script("/a", status(500))
    head = await enqueue(server, "q", receiver.url("/a"), Upstash_Retry_Delay="600000")
    await receiver.next_request("/a")
    await enqueue(server, "q", receiver.url("/b"))
    await server.settled(head, "RETRY")

    assert (await server.http.delete(f"/v2/messages/{head}")).json() == {"cancelled": 1}

    await receiver.next_request("/b")


async def test_messages_of_a_queue_cannot_be_released_before_their_turn(server: Running, receiver: Receiver) -> None:
    await server.http.post("/v2/queues", json={"queueName": "q", "paused": True})
    message_id = await enqueue(server, "q", receiver.url("/q"))

    answer = await server.http.post(f"/v2/messages/{message_id}/retry")

    assert answer.status_code == 400
    assert "queue" in answer.json()["error"]


async def test_a_delay_is_refused_by_enqueue_and_kept_by_publish(server: Running, receiver: Receiver) -> None:
    for name, value in (("Upstash-Delay", "5s"), ("Upstash-Not-Before", str(int(time.time()) + 3600))):
        answer = await server.http.post(f"/v2/enqueue/q/{receiver.url('/q')}", headers={name: value})
        assert answer.status_code == 400
        assert answer.json() == {"error": "Upstash-Not-Before/Upstash-Delay can not be used with enqueue"}

    late = await server.publish(receiver.url("/late"), Upstash_Queue_Name="q", Upstash_Delay="60s")
    await enqueue(server, "q", receiver.url("/soon"))
    await receiver.next_request("/soon")
    assert receiver.requests("/late") == []
    await server.time_passes(timedelta(seconds=61))

    await receiver.next_request("/late")
    assert (await server.settled(late))[0] == "CREATED"


async def test_a_delayed_message_takes_its_place_when_it_falls_due(connection: Connection) -> None:
    early = a_new_message(queue="q", when=After(timedelta(minutes=1)))
    await insert(connection, [early, a_new_message(queue="q")], dispatcher_id=None, window=timedelta(1))
    await connection.execute("update deliveries set due_at = now() where seq is null")

    async with connection.transaction():
        assert await deliveries.enter(connection) == 1

    rows = await connection.fetch("select id, seq, state from deliveries order by seq")
    assert [(row["seq"], row["state"]) for row in rows] == [(1, 1), (2, 0)]
    assert rows[1]["id"] == early.message.id


async def test_deleting_a_queue_cancels_what_waits_in_it(server: Running, receiver: Receiver) -> None:
    await server.http.post("/v2/queues", json={"queueName": "q", "paused": True})
    message_id = await enqueue(server, "q", receiver.url("/q"))

    assert (await server.http.delete("/v2/queues/q")).status_code == 200
    assert (await server.http.delete("/v2/queues/q")).status_code == 200

    assert (await server.http.get("/v2/queues/q")).status_code == 404
    assert (await server.states(message_id))[-1] == "CANCELED"
    assert (await server.events(queueName="q"))[0]["queueName"] == "q"
    again = await enqueue(server, "q", receiver.url("/q"))
    await server.settled(again)


async def test_deleting_a_queue_leaves_callbacks_of_what_had_its_turn(server: Running, receiver: Receiver) -> None:
    receiver.script("/callback", status(500), ok())
    await enqueue(
        server, "q", receiver.url("/q"), Upstash_Callback=receiver.url("/callback"),
        Upstash_Callback_Retry_Delay="2000",
    )  # fmt: skip
    await receiver.next_request("/callback")
    await eventually(lambda: server.events(state="RETRY"), bool)

    await server.http.delete("/v2/queues/q")

    request = await receiver.next_request("/callback")
    await server.settled(str(request.header("Upstash-Message-Id")))


async def test_what_is_left_of_a_deleted_queue_is_cancelled_later(
    server: Running, receiver: Receiver, connection: Connection
) -> None:
    await server.http.post("/v2/queues", json={"queueName": "q", "paused": True})
    message_id = await enqueue(server, "q", receiver.url("/q"))
    await connection.execute("delete from queues")
    assert server.node.dispatcher is not None

    await server.node.dispatcher._janitor.keep_queues()

    assert (await server.states(message_id))[-1] == "CANCELED"


async def test_a_queue_that_has_stopped_is_found_and_goes_on(
    server: Running, receiver: Receiver, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    await server.http.post("/v2/queues", json={"queueName": "q", "paused": True})
    await enqueue(server, "q", receiver.url("/q"))
    await connection.execute("update queues set paused = false")
    assert server.node.dispatcher is not None

    await server.node.dispatcher._janitor.keep_queues()

    await receiver.next_request("/q")
    assert "put right" in caplog.text


async def test_a_retried_dead_letter_goes_to_the_end_of_its_queue(server: Running, receiver: Receiver) -> None:
    receiver.script("/a", status(500), ok())
    await enqueue(server, "q", receiver.url("/a"), Upstash_Retries="0")
    [letter] = await eventually(server.dead_letters, bool)
    await server.http.post("/v2/queues/q/pause")
    await enqueue(server, "q", receiver.url("/b"))

    assert (await server.http.post(f"/v2/dlq/retry/{letter['dlqId']}")).status_code == 201
    await server.http.post("/v2/queues/q/resume")
    await empty(server, "q")

    assert [request.path for request in receiver.requests()] == ["/a", "/b", "/a"]


async def test_a_duplicate_takes_no_place_in_its_queue(server: Running, receiver: Receiver) -> None:
    await server.http.post("/v2/queues", json={"queueName": "q", "paused": True})
    first = await enqueue(server, "q", receiver.url("/q"), Upstash_Deduplication_Id="x")
    answer = await server.http.post(f"/v2/enqueue/q/{receiver.url('/q')}", headers={"Upstash-Deduplication-Id": "x"})

    assert answer.status_code == 202
    assert answer.json() == {"messageId": first, "deduplicated": True}
    assert (await queue(server, "q"))["lag"] == 1


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({}, "queueName"),
        ({"queueName": ""}, "queueName"),
        ({"queueName": "a b"}, "queueName"),
        ({"queueName": 1}, "queueName"),
        ({"queueName": "q", "parallelism": 0}, "parallelism"),
        ({"queueName": "q", "parallelism": True}, "parallelism"),
        ({"queueName": "q", "parallelism": "2"}, "parallelism"),
        ({"queueName": "q", "parallelism": 10**12}, "parallelism"),
        ({"queueName": "q", "paused": "yes"}, "paused"),
        ({"queueName": "q", "pause": True}, "pause"),
    ],
)
async def test_a_queue_that_is_not_valid_is_refused(server: Running, document: dict[str, Any], field: str) -> None:
    answer = await server.http.post("/v2/queues", json=document)

    assert answer.status_code == 400
    assert field in answer.json()["error"]
    assert (await server.http.get("/v2/queues")).json() == []


async def test_a_tenant_has_no_more_queues_than_its_quota(serve: Serve, receiver: Receiver) -> None:
    server = await serve(max_queues=2, max_queue_parallelism=5)
    for name in ("a", "b"):
        assert (await server.http.post("/v2/queues", json={"queueName": name})).status_code == 200

    refused = [
        await server.http.post("/v2/queues", json={"queueName": "c"}),
        await server.http.post(f"/v2/enqueue/c/{receiver.url('/q')}"),
        await server.http.post("/v2/queues", json={"queueName": "a", "parallelism": 6}),
    ]

    assert [answer.status_code for answer in refused] == [412, 412, 412]
    assert refused[0].json() == {"error": "quota maxQueues exceeded, current limit: 2"}
    assert (await server.http.post("/v2/queues", json={"queueName": "a", "parallelism": 5})).status_code == 200
    await enqueue(server, "b", receiver.url("/q"))


async def test_what_a_dead_dispatcher_held_of_a_queue_goes_before_what_comes_after(connection: Connection) -> None:
    me = await dispatchers.register(connection, "me")
    await insert(connection, [a_new_message(queue="q") for _ in range(2)], dispatcher_id=None, window=timedelta(1))
    [first] = await deliveries.claim_due(connection, me, 10)
    await connection.execute("update dispatchers set alive_until = '-infinity' where id = $1", me)
    other = await dispatchers.register(connection, "other")

    async with connection.transaction():
        dead = await dispatchers.lock_dead(connection, other)
        await deliveries.release(connection, await deliveries.rescue(connection, dead))

    assert [one.id for one in await deliveries.claim_due(connection, other, 10)] == [first.id]


async def test_a_crowd_of_publishers_and_a_receiver_that_fails_never_break_the_order(
    server: Running, receiver: Receiver
) -> None:
    """20 queues, 200 messages each, from 20 publishers at once; one attempt in ten fails."""
    chance = random.Random(7)
    busy: dict[str, int] = defaultdict(int)
    overlaps: list[str] = []
    delivered: dict[str, list[int]] = defaultdict(list)

    async def at_work(request: Received) -> Mood:
        name = request.path
        busy[name] += 1
        if busy[name] > 1:
            overlaps.append(name)
        await asyncio.sleep(0)
        busy[name] -= 1
        if chance.random() < 0.1:
            return status(503)
        delivered[name].append(json.loads(request.body)["n"])
        return ok()

    for number in range(20):
        receiver.script(f"/q{number}", handled(at_work))

    acknowledged: dict[int, list[int]] = defaultdict(list)

    async def publish(publisher: int) -> None:
        for number in range(200):
            name = (publisher + number) % 20
            n = publisher * 1000 + number
            await enqueue(
                server, f"queue-{name}", receiver.url(f"/q{name}"), json.dumps({"n": n}),
                Upstash_Retries="50", Upstash_Retry_Delay="1",
            )  # fmt: skip
            acknowledged[name].append(n)

    await asyncio.gather(*(publish(publisher) for publisher in range(20)))
    for number in range(20):
        await eventually(
            lambda number=number: queue(server, f"queue-{number}"),  # type: ignore[misc]
            lambda found: found["lag"] == 0,
            within=60,
        )

    assert overlaps == []
    assert sum(len(one) for one in delivered.values()) == 4000
    for number in range(20):
        arrived = delivered[f"/q{number}"]
        place = {n: at for at, n in enumerate(arrived)}
        assert len(place) == 200
        # What one publisher had acknowledged before it sent the next arrives before it.
        for publisher in range(20):
            own = [place[n] for n in acknowledged[number] if n // 1000 == publisher]
            assert own == sorted(own)
