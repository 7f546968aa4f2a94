"""The JavaScript client of 2025, `@upstash/qstash` 2.7, unmodified; many applications still have it.

It sends ids in JSON bodies where newer ones use the query. What it has in common with 2.12 is said more briefly here.
"""

from __future__ import annotations

import json
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from tests.conftest import Running, eventually
from tests.contract import accounts
from tests.contract.javascript import Client, ClientError
from tests.moods import status
from tests.receiver import Receiver

pytestmark = pytest.mark.asyncio(loop_scope="module")
node, server, receiver = accounts.node, accounts.server, accounts.receiver


async def test_every_option_of_a_publish_can_be_read_back(old_client: Client, receiver: Receiver) -> None:
    published = await old_client(
        "publishJSON",
        {
            "url": receiver.url("/hook?a=1"),
            "body": {"a": 1},
            "headers": {"test-header": "test-value"},
            "method": "PUT",
            "delay": "1h",
            "retries": 7,
            "timeout": 30,
            "callback": receiver.url("/callback"),
            "failureCallback": receiver.url("/failure"),
            "flowControl": {"key": "k", "parallelism": 2, "ratePerSecond": 10},
        },
    )

    message = await old_client("messages.get", published["messageId"])
    assert (message["url"], message["method"], message["body"]) == (receiver.url("/hook?a=1"), "PUT", '{"a":1}')
    assert message["header"] == {"Content-Type": ["application/json"], "Test-Header": ["test-value"]}
    assert (message["notBefore"] - message["createdAt"], message["maxRetries"]) == (3_600_000, 7)
    assert (message["callback"], message["failureCallback"]) == (receiver.url("/callback"), receiver.url("/failure"))
    assert (message["flowControlKey"], message["parallelism"]) == ("k", 2)
    assert (message["rate"], message["ratePerSecond"], message["period"]) == (10, 10, 1)


async def test_a_message_arrives_and_its_duplicate_does_not(
    old_client: Client, server: Running, receiver: Receiver
) -> None:
    message = {"url": receiver.url("/hook"), "body": "raw", "deduplicationId": "order-1"}

    first, second = [await old_client("publish", message) for _ in range(2)]

    assert second == {"messageId": first["messageId"], "deduplicated": True}
    request = await receiver.next_request()
    assert (request.body, request.header("Upstash-Message-Id")) == (b"raw", first["messageId"])
    await server.drain()
    assert len(receiver.requests()) == 1


async def test_mail_goes_to_its_provider_with_the_key_for_it(old_client: Client, receiver: Receiver) -> None:
    provider = {"$call": ["resend", {"token": "re_1"}], "baseUrl": receiver.url("")}

    await old_client("publishJSON", {"api": {"name": "email", "provider": provider}, "body": {"to": "a@example.com"}})

    request = await receiver.next_request("/emails")
    assert request.header("Authorization") == "Bearer re_1"
    assert json.loads(request.body) == {"to": "a@example.com"}


async def test_a_batch_goes_to_urls_queues_and_groups(old_client: Client, receiver: Receiver) -> None:
    await old_client("urlGroups.addEndpoints", {"name": "group", "endpoints": [{"url": receiver.url("/group")}]})

    for method, body in (("batch", "text"), ("batchJSON", {"n": 1})):
        url, queued, group = await old_client(
            method,
            [
                {"url": receiver.url("/url"), "body": body},
                {"url": receiver.url("/queued"), "body": body, "queueName": "q"},
                {"urlGroup": "group", "body": body},
            ],
        )
        for answer, path in ((url, "/url"), (queued, "/queued"), (*group, "/group")):
            request = await receiver.next_request(path)
            assert request.header("Upstash-Message-Id") == answer["messageId"]
            assert request.body == (b"text" if method == "batch" else b'{"n":1}')
        [created, *_] = (await old_client("logs", {"filter": {"queueName": "q"}}))["logs"]
        assert created["messageId"] == queued["messageId"]


async def test_messages_are_cancelled_by_id_by_list_and_all(
    old_client: Client, server: Running, receiver: Receiver
) -> None:
    ids = [(await old_client("publish", {"url": receiver.url(), "delay": 60}))["messageId"] for _ in range(5)]

    assert await old_client("messages.delete", ids[0]) is None
    assert await old_client("messages.deleteMany", []) == 0
    assert await old_client("messages.deleteMany", ids[:3]) == 2
    assert [await server.states(one) for one in ids[3:]] == [["CREATED"]] * 2
    assert await old_client("messages.deleteAll") == 2

    with pytest.raises(ClientError) as gone:
        await old_client("messages.get", "msg_1111111111111111111111")
    assert (gone.value.name, gone.value.status) == ("QstashError", 404)
    await server.time_passes(timedelta(minutes=2))
    await server.drain()
    assert receiver.requests() == []


async def test_dead_letters_are_listed_and_deleted(old_client: Client, server: Running, receiver: Receiver) -> None:
    await old_client("urlGroups.addEndpoints", {"name": "g", "endpoints": [{"url": receiver.url("/502")}]})
    for path in ("/500", "/404", "/502", "/410"):
        receiver.script(path, status(int(path[1:]), b"no"))
        destination = {"urlGroup": "g"} if path == "/502" else {"url": receiver.url(path)}
        await old_client("publish", {**destination, "retries": 0})
        await eventually(partial(server.dead_letters, url=receiver.url(path)), bool)

    async def found(**options: Any) -> list[int]:
        page = await old_client("dlq.listMessages", options)
        return [letter["responseStatus"] for letter in page["messages"]]

    letters = (await old_client("dlq.listMessages"))["messages"]
    assert [letter["responseStatus"] for letter in letters] == [410, 502, 404, 500]
    assert {letter["responseBody"] for letter in letters} == {"no"}
    assert letters[1]["urlGroup"] == "g"
    assert await found(filter={"responseStatus": 404}) == [404]
    assert await found(filter={"url": receiver.url("/500")}) == [500]
    assert await found(filter={"fromDate": letters[1]["createdAt"]}) == [410, 502]
    first = await old_client("dlq.listMessages", {"count": 3})
    assert await found(count=3, cursor=first["cursor"]) == [500]

    await old_client("dlq.delete", letters[0]["dlqId"])
    with pytest.raises(ClientError) as gone:
        await old_client("dlq.delete", letters[0]["dlqId"])
    assert gone.value.status == 404
    assert await old_client("dlq.deleteMany", {"dlqIds": [letter["dlqId"] for letter in letters[:3]]}) == {"deleted": 2}
    assert await found() == [500]
    assert await old_client("dlq.deleteMany", {"dlqIds": []}) == {"deleted": 0}
    assert await found() == [500]


async def test_dead_letters_are_listed_by_their_group(old_client: Client, server: Running, receiver: Receiver) -> None:
    """This client sends the filter by both of its names, topicName and urlGroup."""
    receiver.script("/g", status(500))
    await old_client("urlGroups.addEndpoints", {"name": "g", "endpoints": [{"url": receiver.url("/g")}]})
    [published] = await old_client("publish", {"urlGroup": "g", "retries": 0})
    await eventually(server.dead_letters, bool)

    of_group = await old_client("dlq.listMessages", {"filter": {"urlGroup": "g"}})
    of_other = await old_client("dlq.listMessages", {"filter": {"urlGroup": "other"}})

    assert [letter["messageId"] for letter in of_group["messages"]] == [published["messageId"]]
    assert of_other["messages"] == []


async def test_the_log_is_filtered_and_comes_in_pages(old_client: Client, server: Running, receiver: Receiver) -> None:
    await old_client("topics.addEndpoints", {"name": "g", "endpoints": [{"url": receiver.url("/g")}]})
    [grouped] = await old_client("publish", {"topic": "g"})
    single = await old_client("publish", {"url": receiver.url("/single")})
    for one in (grouped, single):
        await server.settled(one["messageId"])

    async def found(method: str = "logs", **filters: Any) -> list[tuple[str, str]]:
        page = await old_client(method, {"filter": filters})
        return [(entry["messageId"], entry["state"]) for entry in page["events"]]

    assert len((await old_client("logs"))["logs"]) == 6
    delivered = [(single["messageId"], "DELIVERED"), (grouped["messageId"], "DELIVERED")]
    assert await found(state="DELIVERED") == delivered
    assert await found("events", state="DELIVERED", urlGroup="g") == delivered[1:]
    assert await found(state="DELIVERED", messageId=single["messageId"], count=1) == delivered[:1]
    assert await found(fromDate=-1, toDate=1) == []
    first = await old_client("logs", {"filter": {"count": 4}})
    rest = await old_client("logs", {"filter": {"count": 4}, "cursor": first["cursor"]})
    assert [len(page["logs"]) for page in (first, rest)] == [4, 2]
    assert "cursor" not in rest
    assert {entry.get("urlGroup") for entry in rest["logs"]} == {"g"}


async def test_a_queue_is_made_paused_resumed_and_deleted(old_client: Client, receiver: Receiver) -> None:
    q = {"queueName": "q"}
    await old_client("queue.upsert", q, {"parallelism": 2})
    await old_client("queue.pause", q)
    await old_client("queue.enqueue", q, {"url": receiver.url("/q"), "body": "1"})
    await old_client("queue.enqueueJSON", q, {"url": receiver.url("/q"), "body": {"n": 2}})
    queue = await old_client("queue.get", q)
    assert (queue["name"], queue["parallelism"], queue["paused"], queue["lag"]) == ("q", 2, True, 2)
    assert await old_client("queue.list", {}) == [queue]
    assert receiver.requests() == []

    await old_client("queue.resume", q)

    assert {request.body for request in await receiver.wait_for(2)} == {b"1", b'{"n":2}'}
    await old_client("queue.delete", q)
    assert await old_client("queue.list", {}) == []


@pytest.mark.parametrize("groups", ["urlGroups", "topics"])
async def test_a_group_is_made_read_published_to_and_deleted(
    old_client: Client, receiver: Receiver, groups: str
) -> None:
    endpoints = [{"name": "one", "url": receiver.url("/1")}, {"name": "two", "url": receiver.url("/2")}]
    await old_client(f"{groups}.addEndpoints", {"name": "g", "endpoints": endpoints})
    group = await old_client(f"{groups}.get", "g")
    assert group["endpoints"] == endpoints
    assert await old_client(f"{groups}.list") == [group]

    await old_client(f"{groups}.removeEndpoints", {"name": "g", "endpoints": [{"url": receiver.url("/1")}]})
    [published] = await old_client("publishJSON", {"urlGroup": "g", "body": 1})

    request = await receiver.next_request("/2")
    assert request.header("Upstash-Message-Id") == published["messageId"]
    assert receiver.requests("/1") == []
    await old_client(f"{groups}.delete", "g")
    assert await old_client(f"{groups}.list") == []


async def test_a_schedule_fires_is_paused_resumed_and_deleted(
    old_client: Client, server: Running, receiver: Receiver
) -> None:
    created = await old_client(
        "schedules.create",
        {
            "destination": receiver.url("/tick"),
            "cron": "* * * * *",
            "body": "tick",
            "scheduleId": "minutely",
            "retries": 1,
            "timeout": "30s",
            "flowControl": {"key": "k", "ratePerSecond": 9},
        },
    )
    assert created == {"scheduleId": "minutely"}

    await server.time_passes(timedelta(minutes=1))

    request = await receiver.next_request("/tick")
    assert (request.header("Upstash-Schedule-Id"), request.body) == ("minutely", b"tick")
    await old_client("schedules.pause", {"schedule": "minutely"})
    [paused] = await old_client("schedules.list")
    assert (paused["isPaused"], paused["retries"], paused["ratePerSecond"]) == (True, 1, 9)
    await old_client("schedules.resume", {"schedule": "minutely"})
    assert (await old_client("schedules.get", "minutely"))["isPaused"] is False
    await old_client("schedules.delete", "minutely")
    assert await old_client("schedules.list") == []
