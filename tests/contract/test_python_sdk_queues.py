"""The official Python client, `qstash` 3.4, unmodified: queues."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta

import pytest
from qstash.errors import QStashError

from tests.conftest import eventually
from tests.contract import accounts, python_sdk
from tests.contract.accounts import Account
from tests.contract.python_sdk import Sdk
from tests.moods import hold, status
from tests.receiver import Receiver

pytestmark = pytest.mark.asyncio(loop_scope="module")
node, server, receiver, sdk = accounts.node, accounts.server, accounts.receiver, python_sdk.sdk


async def test_a_queue_is_made_changed_and_deleted(sdk: Sdk) -> None:
    await sdk("queue.upsert", "q-1.a_b")
    made = await sdk("queue.get", "q-1.a_b")
    await sdk("queue.upsert", "q-1.a_b", parallelism=3, paused=True)
    changed = await sdk("queue.get", "q-1.a_b")
    await sdk("queue.upsert", "other")

    assert (made.name, made.parallelism, made.paused, made.lag) == ("q-1.a_b", 1, False, 0)
    assert (changed.name, changed.parallelism, changed.paused, changed.lag) == ("q-1.a_b", 3, True, 0)
    assert changed.created_at == made.created_at <= made.updated_at <= changed.updated_at
    assert abs(made.created_at - time.time() * 1000) < 60_000
    assert changed in await sdk("queue.list")
    assert {queue.name for queue in await sdk("queue.list")} == {"q-1.a_b", "other"}

    await sdk("queue.delete", "q-1.a_b")

    assert [queue.name for queue in await sdk("queue.list")] == ["other"]
    with pytest.raises(QStashError, match=r'status: 404, body: \{"error":".+q-1.a_b not found"\}'):
        await sdk("queue.get", "q-1.a_b")
    await sdk("queue.delete", "q-1.a_b")


async def test_a_queue_delivers_in_order_and_one_at_a_time(sdk: Sdk, receiver: Receiver) -> None:
    release = asyncio.Event()
    receiver.script("/0", hold(release))

    for number in range(4):
        await sdk("message.enqueue", queue="q", url=receiver.url(f"/{number}"))
    await receiver.next_request("/0")

    lag = (await sdk("queue.get", "q")).lag
    assert (lag, len(receiver.requests())) == (4, 1)
    release.set()
    await receiver.wait_for(4)
    assert [request.path for request in receiver.requests()] == ["/0", "/1", "/2", "/3"]
    await eventually(lambda: sdk("queue.get", "q"), lambda queue: queue.lag == 0)


async def test_a_paused_queue_keeps_its_messages_until_it_is_resumed(
    sdk: Sdk, server: Account, receiver: Receiver
) -> None:
    await sdk("queue.upsert", "q")
    await sdk("queue.pause", "q")
    await sdk("queue.pause", "q")
    for number in range(3):
        await sdk("message.enqueue_json", queue="q", url=receiver.url(), body=number)

    paused = await sdk("queue.get", "q")
    await server.time_passes(timedelta(hours=1))
    await server.drain()
    assert (paused.paused, paused.lag, receiver.requests()) == (True, 3, [])
    await sdk("queue.resume", "q")

    await receiver.wait_for(3)
    assert [request.body for request in receiver.requests()] == [b"0", b"1", b"2"]
    assert (await sdk("queue.get", "q")).paused is False


async def test_enqueueing_makes_a_queue_and_leaves_one_that_exists_as_it_is(sdk: Sdk, receiver: Receiver) -> None:
    await sdk("queue.upsert", "known", parallelism=5, paused=True)

    for name in ("known", "new"):
        await sdk("message.enqueue", queue=name, url=receiver.url(f"/{name}"))
        await sdk("message.batch", [{"queue": name, "url": receiver.url(f"/{name}")}])

    known, new = await sdk("queue.get", "known"), await sdk("queue.get", "new")
    assert (known.parallelism, known.paused, known.lag) == (5, True, 2)
    assert (new.parallelism, new.paused) == (1, False)
    await receiver.wait_for(2, "/new")
    assert receiver.requests("/known") == []


async def test_dead_letters_and_events_of_a_queue_are_found_by_its_name(
    sdk: Sdk, server: Account, receiver: Receiver
) -> None:
    receiver.script("/fails", status(500))
    failed = await sdk("message.enqueue", queue="q", url=receiver.url("/fails"), retries=0)
    next_one = await sdk("message.enqueue", queue="q", url=receiver.url("/next"))
    other = await sdk("message.enqueue", queue="other", url=receiver.url("/fails"), retries=0)
    await server.settled(next_one.message_id)
    await server.settled(other.message_id, "FAILED")

    letters = (await sdk("dlq.list", filter={"queue": "q"})).messages
    log = (await sdk("log.list", filter={"queue": "q"})).logs

    assert [(letter.message_id, letter.queue) for letter in letters] == [(failed.message_id, "q")]
    assert {(entry.message_id, entry.queue) for entry in log} == {
        (failed.message_id, "q"), (next_one.message_id, "q"),
    }  # fmt: skip


async def test_the_messages_of_a_deleted_queue_are_not_delivered(sdk: Sdk, server: Account, receiver: Receiver) -> None:
    await sdk("queue.upsert", "q", paused=True)
    waiting = await sdk("message.enqueue", queue="q", url=receiver.url())

    await sdk("queue.delete", "q")

    await server.settled(waiting.message_id, "CANCELED")
    await sdk("message.enqueue", queue="q", url=receiver.url("/after"))
    await receiver.next_request("/after")
    assert receiver.requests("/") == []


async def test_a_name_that_no_queue_may_have_is_refused(sdk: Sdk, receiver: Receiver) -> None:
    with pytest.raises(QStashError, match=r'status: 400, body: \{"error":".*queueName'):
        await sdk("queue.upsert", "not a name")
    with pytest.raises(QStashError, match=r'status: 400, body: \{"error":".*queueName'):
        await sdk("message.batch", [{"url": receiver.url(), "queue": "not a name"}])

    assert await sdk("queue.list") == []
