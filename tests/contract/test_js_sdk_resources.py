"""The official JavaScript client, `@upstash/qstash` 2.12: batches, queues, URL groups, schedules and flow control."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Any

import pytest

from tests.conftest import Running, eventually
from tests.contract import accounts
from tests.contract.javascript import Client, ClientError
from tests.moods import hold, ok
from tests.receiver import Receiver

pytestmark = pytest.mark.asyncio(loop_scope="module")
node, server, receiver = accounts.node, accounts.server, accounts.receiver


async def test_a_batch_goes_to_urls_queues_and_groups(client: Client, receiver: Receiver) -> None:
    endpoints = [{"url": receiver.url("/g1")}, {"url": receiver.url("/g2")}]
    await client("urlGroups.addEndpoints", {"name": "group", "endpoints": endpoints})

    url, queued, group = await client(
        "batch",
        [
            {"url": receiver.url("/url?a=1"), "body": "raw", "method": "PUT", "headers": {"X-One": "1"}},
            {"url": receiver.url("/queued"), "body": "ordered", "queueName": "q"},
            {"urlGroup": "group", "body": "many", "label": ["one", "two"]},
        ],
    )

    request = await receiver.next_request("/url")
    assert (request.method, request.target, request.body) == ("PUT", "/url?a=1", b"raw")
    assert (request.header("X-One"), request.header("Upstash-Message-Id")) == ("1", url["messageId"])
    assert (await receiver.next_request("/queued")).body == b"ordered"
    [first, *_] = (await client("logs", {"filter": {"queueName": "q"}}))["logs"]
    assert first["messageId"] == queued["messageId"]
    assert [one["url"] for one in group] == [endpoint["url"] for endpoint in endpoints]
    for one, path in zip(group, ("/g1", "/g2"), strict=True):
        request = await receiver.next_request(path)
        assert (request.body, request.header("Upstash-Message-Id")) == (b"many", one["messageId"])
    labelled = (await client("logs", {"filter": {"label": "two", "state": "CREATED"}}))["logs"]
    assert {(entry["urlGroup"], *entry["labels"]) for entry in labelled} == {("group", "one", "two")}


async def test_a_batch_of_json_is_parsed_again_and_tells_duplicates(client: Client, receiver: Receiver) -> None:
    item = {"url": receiver.url("/a"), "body": {"text": "grüße"}, "deduplicationId": "x"}

    first, second, third = await client("batchJSON", [item, item, {"url": receiver.url("/b"), "body": [1, None]}])

    assert second == {"messageId": first["messageId"], "deduplicated": True}
    request = await receiver.next_request("/a")
    assert (json.loads(request.body), request.header("Content-Type")) == ({"text": "grüße"}, "application/json")
    request = await receiver.next_request("/b")
    assert json.loads(request.body) == [1, None]
    assert request.header("Upstash-Message-Id") == third["messageId"]


async def test_a_bad_item_refuses_the_whole_batch(client: Client, server: Running, receiver: Receiver) -> None:
    async def error(bad: dict[str, Any]) -> tuple[int | None, str]:
        with pytest.raises(ClientError) as refused:
            await client("batchJSON", [{"url": receiver.url(), "body": 1}, {**bad, "body": 2}])
        return refused.value.status, json.loads(refused.value.message)["error"]

    assert await error({"urlGroup": "none"}) == (404, "topic none not found (item 1)")
    for bad in ({"url": "ftp://example.com"}, {"url": receiver.url(), "delay": "soon"}):
        status, text = await error(bad)
        assert (status, text[-8:]) == (400, "(item 1)")
    assert await server.events() == []


async def test_mail_goes_to_its_provider_with_the_key_for_it(client: Client, receiver: Receiver) -> None:
    for batch, path in ((False, "/emails"), (True, "/emails/batch")):
        provider = {"$call": ["resend", {"token": "re_1", "batch": batch}], "baseUrl": receiver.url("")}
        mail = {"api": {"name": "email", "provider": provider}, "body": {"to": "a@example.com"}}

        await client("publishJSON", mail)

        request = await receiver.next_request(path)
        assert (request.method, request.header("Authorization")) == ("POST", "Bearer re_1")
        assert json.loads(request.body) == mail["body"]


async def test_a_queue_is_made_changed_listed_and_deleted(client: Client, receiver: Receiver) -> None:
    q = {"queueName": "a.q-1"}

    await client("queue.upsert", q, {"parallelism": 3, "paused": True})

    made = await client("queue.get", q)
    assert (made["name"], made["parallelism"], made["paused"], made["lag"]) == ("a.q-1", 3, True, 0)
    await client("queue.upsert", q, {})
    changed = await client("queue.get", q)
    assert (changed["parallelism"], changed["paused"], changed["createdAt"]) == (1, False, made["createdAt"])
    assert changed["updatedAt"] >= made["updatedAt"]
    await client("queue.enqueue", {"queueName": "b"}, {"url": receiver.url()})
    assert [queue["name"] for queue in await client("queue.list", {})] == ["a.q-1", "b"]
    for _ in range(2):
        await client("queue.delete", q)
    assert [queue["name"] for queue in await client("queue.list", {})] == ["b"]
    with pytest.raises(ClientError) as gone:
        await client("queue.get", q)
    assert gone.value.status == 404


async def test_a_queue_is_paused_and_goes_on_in_order(client: Client, receiver: Receiver) -> None:
    q = {"queueName": "q"}
    await client("queue.upsert", q, {"parallelism": 1})
    await client("queue.pause", q)
    raw = await client("queue.enqueue", q, {"url": receiver.url("/q"), "body": "1", "method": "PATCH"})
    json_ = await client("queue.enqueueJSON", q, {"url": receiver.url("/q"), "body": 2, "headers": {"X-Own": "own"}})
    assert (await client("queue.get", q))["lag"] == 2
    assert receiver.requests() == []

    await client("queue.resume", q)

    first, second = await receiver.wait_for(2)
    assert (first.method, first.body, second.body) == ("PATCH", b"1", b"2")
    assert (second.header("Content-Type"), second.header("X-Own")) == ("application/json", "own")
    assert [one.header("Upstash-Message-Id") for one in (first, second)] == [raw["messageId"], json_["messageId"]]
    await eventually(lambda: client("queue.get", q), lambda queue: (queue["lag"], queue["paused"]) == (0, False))


async def test_enqueueing_to_a_group_gives_one_message_for_each_endpoint(client: Client, receiver: Receiver) -> None:
    endpoints = [{"url": receiver.url("/1")}, {"url": receiver.url("/2")}]
    await client("urlGroups.addEndpoints", {"name": "g", "endpoints": endpoints})

    answer = await client("queue.enqueueJSON", {"queueName": "q"}, {"urlGroup": "g", "body": {}})
    with pytest.raises(ClientError) as delayed:
        await client("queue.enqueue", {"queueName": "q"}, {"url": receiver.url(), "delay": 5})

    requests = await receiver.wait_for(2)
    assert [one["messageId"] for one in answer] == [one.header("Upstash-Message-Id") for one in requests]
    assert [one["url"] for one in answer] == [receiver.url("/1"), receiver.url("/2")]
    assert delayed.value.status == 400


@pytest.mark.parametrize("groups", ["urlGroups", "topics"])
async def test_a_group_is_made_read_published_to_and_deleted(client: Client, receiver: Receiver, groups: str) -> None:
    one, two = {"name": "the first", "url": receiver.url("/1")}, {"url": receiver.url("/2")}
    await client(f"{groups}.addEndpoints", {"name": "_g.1", "endpoints": [one]})
    await client(f"{groups}.addEndpoints", {"name": "_g.1", "endpoints": [two]})

    group = await client(f"{groups}.get", "_g.1")
    assert (group["name"], group["endpoints"]) == ("_g.1", [one, two])
    assert group["updatedAt"] >= group["createdAt"] > 1_700_000_000_000
    assert await client(f"{groups}.list") == [group]
    to_group = {"urlGroup": "_g.1"} if groups == "urlGroups" else {"topic": "_g.1"}
    published = await client("publishJSON", {**to_group, "body": {"n": 1}})
    assert [endpoint["url"] for endpoint in published] == [one["url"], two["url"]]
    for path in ("/1", "/2"):
        request = await receiver.next_request(path)
        assert (request.header("Upstash-Topic-Name"), request.body) == ("_g.1", b'{"n":1}')

    await client(f"{groups}.removeEndpoints", {"name": "_g.1", "endpoints": [{"name": "the first"}]})
    await client("publish", to_group)
    assert len(await receiver.wait_for(3)) == len(receiver.requests("/1")) + len(receiver.requests("/2")) == 3
    assert len(receiver.requests("/2")) == 2
    for _ in range(2):
        await client(f"{groups}.delete", "_g.1")
    assert await client(f"{groups}.list") == []
    with pytest.raises(ClientError) as gone:
        await client("publish", to_group)
    assert (gone.value.status, json.loads(gone.value.message)) == (404, {"error": "topic _g.1 not found"})


async def test_every_option_of_a_schedule_can_be_read_back(client: Client, receiver: Receiver) -> None:
    created = await client(
        "schedules.create",
        {
            "destination": receiver.url("/work"),
            "cron": " CRON_TZ=Europe/Berlin 0 4 * * * ",
            "scheduleId": "nightly.1",
            "body": '{"n":1}',
            "headers": {"x-own": "own"},
            "method": "PUT",
            "delay": 90,
            "retries": 2,
            "retryDelay": "1000 * retried",
            "timeout": "1m",
            "callback": receiver.url("/callback"),
            "failureCallback": receiver.url("/failure"),
            "queueName": "q",
            "flowControl": {"key": "k", "parallelism": 2, "rate": 10, "period": "1h30m3s"},
            "label": ["one", "two"],
        },
    )

    schedule = await client("schedules.get", created["scheduleId"])
    assert created == {"scheduleId": "nightly.1"}
    assert (schedule["cron"], schedule["destination"]) == ("CRON_TZ=Europe/Berlin 0 4 * * *", receiver.url("/work"))
    assert (schedule["method"], schedule["body"], schedule["isPaused"]) == ("PUT", '{"n":1}', False)
    assert schedule["header"] == {"Content-Type": ["application/json"], "X-Own": ["own"]}
    assert (schedule["delay"], schedule["retries"], schedule["timeout"]) == (90, 2, 60)
    assert schedule["retryDelayExpression"] == "1000 * retried"
    assert (schedule["callback"], schedule["failureCallback"]) == (receiver.url("/callback"), receiver.url("/failure"))
    assert (schedule["queueName"], schedule["flowControlKey"]) == ("q", "k")
    assert (schedule["parallelism"], schedule["rate"], schedule["ratePerSecond"], schedule["period"]) == (
        2,
        10,
        10,
        5403,
    )
    assert (schedule["label"], schedule["labels"]) == ("one", ["one", "two"])
    assert await client("schedules.list") == [schedule]


async def test_a_schedule_fires_is_paused_resumed_and_deleted(
    client: Client, server: Running, receiver: Receiver
) -> None:
    minute = {"destination": receiver.url("/tick"), "cron": "* * * * *", "body": "tick"}
    created = await client("schedules.create", minute)
    named = {"schedule": created["scheduleId"]}

    await server.time_passes(timedelta(minutes=1))
    request = await receiver.next_request("/tick")
    assert (request.header("Upstash-Schedule-Id"), request.body) == (created["scheduleId"], b"tick")

    await client("schedules.pause", named)
    assert (await client("schedules.get", created["scheduleId"]))["isPaused"] is True
    await client("schedules.resume", named)
    assert (await client("schedules.get", created["scheduleId"]))["isPaused"] is False
    await server.time_passes(timedelta(minutes=1))
    await receiver.next_request("/tick")

    for _ in range(2):
        await client("schedules.delete", created["scheduleId"])
    assert await client("schedules.list") == []
    with pytest.raises(ClientError) as gone:
        await client("schedules.pause", named)
    assert gone.value.status == 404


async def test_a_paused_schedule_does_not_fire(client: Client, server: Running, receiver: Receiver) -> None:
    paused, other = [
        await client("schedules.create", {"destination": receiver.url(f"/{name}"), "cron": "* * * * *"})
        for name in ("paused", "other")
    ]
    await client("schedules.pause", {"schedule": paused["scheduleId"]})

    await server.time_passes(timedelta(minutes=1))

    await receiver.next_request("/other")
    await client("schedules.delete", other["scheduleId"])
    await server.drain()
    assert receiver.requests("/paused") == []


async def test_a_key_is_paused_and_resumed(client: Client, receiver: Receiver) -> None:
    limited = {"url": receiver.url("/k"), "flowControl": {"key": "k.1", "parallelism": 4, "rate": 9, "period": 60}}
    await client("publish", limited)
    await receiver.next_request("/k")
    await eventually(lambda: client("flowControl.get", "k.1"), lambda key: key["parallelismCount"] == 0)
    key = await client("flowControl.get", "k.1")
    assert (key["flowControlKey"], key["parallelismMax"], key["rateMax"], key["ratePeriod"]) == ("k.1", 4, 9, 60)
    assert (key["rateCount"], key["waitListSize"], key["isPaused"]) == (1, 0, False)

    await client("flowControl.pause", "k.1")
    published = await client("publish", limited)
    key = await eventually(lambda: client("flowControl.get", "k.1"), lambda key: key["waitListSize"] == 1)
    assert key["isPaused"] is True
    message = await client("messages.get", published["messageId"])
    assert (message["flowControlKey"], message["parallelism"], message["rate"], message["period"]) == ("k.1", 4, 9, 60)
    assert message["ratePerSecond"] == 9
    await client("flowControl.resume", "k.1")

    assert (await receiver.next_request("/k")).header("Upstash-Message-Id") == published["messageId"]


async def test_the_rate_of_a_key_is_reset(client: Client, receiver: Receiver) -> None:
    limited = {"url": receiver.url("/k"), "flowControl": {"key": "k", "rate": 1, "period": "1h"}}
    for _ in range(2):
        await client("publish", limited)
    await receiver.next_request("/k")
    await eventually(lambda: client("flowControl.get", "k"), lambda key: key["waitListSize"] == 1)
    assert len(receiver.requests("/k")) == 1

    await client("flowControl.resetRate", "k")

    await receiver.next_request("/k")


async def test_a_key_is_pinned_and_unpinned(client: Client, receiver: Receiver) -> None:
    async def publish(parallelism: int, rate: int) -> tuple[int, int, int]:
        flow_control = {"key": "k", "parallelism": parallelism, "rate": rate, "period": "1m"}
        await client("publish", {"url": receiver.url(), "flowControl": flow_control})
        key = await client("flowControl.get", "k")
        return key["parallelismMax"], key["rateMax"], key["ratePeriod"]

    assert await publish(3, 30) == (3, 30, 60)

    await client("flowControl.pin", "k", {"parallelism": 5, "rate": 50, "period": 10})
    pinned = await client("flowControl.get", "k")
    assert (pinned["isPinnedParallelism"], pinned["isPinnedRate"]) == (True, True)
    assert await publish(4, 40) == (5, 50, 10)
    await client("flowControl.unpin", "k", {"parallelism": True})
    assert await publish(4, 40) == (4, 50, 10)
    await client("flowControl.unpin", "k", {"rate": True})
    assert await publish(4, 40) == (4, 40, 60)
    with pytest.raises(ClientError) as unknown:
        await client("flowControl.get", "none")
    assert unknown.value.status == 404


async def test_the_global_parallelism_counts_what_is_under_way(client: Client, receiver: Receiver) -> None:
    async def count() -> Any:
        return (await client("flowControl.getGlobalParallelism"))["parallelismCount"]

    gate = asyncio.Event()
    receiver.script("/hold", hold(gate, ok()))
    await client("publish", {"url": receiver.url("/hold")})
    await receiver.next_request("/hold")

    assert await count() == 1
    gate.set()

    await eventually(count, lambda counted: counted == 0)
