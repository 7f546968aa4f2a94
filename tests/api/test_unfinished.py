"""The list of what is unfinished: in which order, page by page, by which filters, and what each of it waits for."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from tests.conftest import Running, Serve, eventually
from tests.moods import hold, ok, status
from tests.receiver import Receiver


async def listed(server: Running, **query: Any) -> list[dict[str, Any]]:
    """All pages."""
    messages: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        answer = await server.http.get("/v2/messages", params={**query, **cursor})
        assert answer.status_code == 200, answer.text
        page = answer.json()
        messages += page["messages"]
        if "cursor" not in page:
            return messages
        cursor = {"cursor": page["cursor"]}


async def waits_for(server: Running, message_id: str) -> str:
    [one] = await listed(server, messageIds=message_id)
    words: str = one["waitsFor"]
    return words


async def test_the_first_due_comes_first_and_pages_neither_repeat_nor_skip(server: Running, receiver: Receiver) -> None:
    url = receiver.url("/x")
    published = [await server.publish(url, Upstash_Delay=f"{hours}h") for hours in (5, 1, 3, 2, 4)]

    whole, paged = await listed(server), await listed(server, count=2)

    assert [one["messageId"] for one in whole] == [published[n] for n in (1, 3, 2, 4, 0)]
    assert paged == whole
    assert {one["state"] for one in whole} == {"waiting"}
    assert whole[0]["dueAt"] == whole[0]["createdAt"] + 3_600_000


async def test_filters_find_what_they_name_and_nothing_of_others(server: Running, receiver: Receiver) -> None:
    url = receiver.url("/x")
    labelled = await server.publish(url, Upstash_Delay="1h", Upstash_Label="a")
    other = await server.publish(receiver.url("/y"), Upstash_Delay="1h")
    done = await server.publish(url, Upstash_Label="a")
    await server.settled(done)

    assert [one["messageId"] for one in await listed(server, label="a")] == [labelled]
    assert [one["messageId"] for one in await listed(server, path="/y")] == [other]
    assert [one["messageId"] for one in await listed(server, messageIds=f"{other},{done}")] == [other]
    assert await listed(server, queueName="none") == []


@pytest.mark.parametrize("query", [{"cursor": "x"}, {"count": "0"}, {"labels": "a"}])
async def test_what_means_nothing_is_refused_by_its_name(server: Running, query: dict[str, str]) -> None:
    answer = await server.http.get("/v2/messages", params=query)

    assert answer.status_code == 400
    assert next(iter(query)) in answer.json()["error"]


async def test_each_says_what_it_waits_for(serve: Serve, receiver: Receiver) -> None:
    server = await serve(public=True)
    release = asyncio.Event()
    url = receiver.url("/held")
    receiver.script("/held", hold(release, ok()))
    receiver.script("/bad", status(500))
    receiver.script("/taken", status(202, b"", [("Upstash-Ack", "wait=1h")]))
    flow = {"Upstash-Flow-Control-Key": "k", "Upstash-Flow-Control-Value": "parallelism=1"}

    async def enqueue(queue: str, **headers: str) -> str:
        answer = await server.http.post(f"/v2/enqueue/{queue}/{url}", headers=headers)
        assert answer.is_success, answer.text
        message_id: str = answer.json()["messageId"]
        return message_id

    active = await enqueue("line")
    second, third = [await enqueue("line") for _ in range(2)]
    await server.http.post("/v2/queues", json={"queueName": "stopped", "parallelism": 1})
    await server.http.post("/v2/queues/stopped/pause")
    stopped = await enqueue("stopped")
    limited, behind = [
        (await server.http.post(f"/v2/publish/{url}", headers=flow)).json()["messageId"] for _ in range(2)
    ]
    later = await server.publish(url, Upstash_Delay="1h")
    retried = await server.publish(receiver.url("/bad"), Upstash_Retries="5", Upstash_Retry_Delay="3600000")
    taken = await server.publish(receiver.url("/taken"))
    await eventually(lambda: waits_for(server, retried), lambda words: words.startswith("retry"))
    await eventually(lambda: waits_for(server, taken), lambda words: words.startswith("its handler"))
    await eventually(lambda: waits_for(server, limited), lambda words: words == "the destination to answer")

    assert await waits_for(server, active) == "the destination to answer"
    assert await waits_for(server, second) == "its turn in queue line: 1 before it"
    assert await waits_for(server, third) == "its turn in queue line: 2 before it"
    assert await waits_for(server, stopped) == "queue stopped, which is paused"
    assert await waits_for(server, behind) == "flow-control key k: 1 of 1 in progress"
    assert (await waits_for(server, later)).startswith("its time, 2")
    assert (await waits_for(server, retried)).startswith("retry 1 of 5, at 2")
    assert (await waits_for(server, taken)).startswith("its handler to acknowledge it, or for 2")
    await server.http.post("/v2/flowControl/k/pause")
    assert await waits_for(server, behind) == "flow-control key k, which is paused"
    await server.http.delete(f"/v2/messages/{active}")
    assert (await waits_for(server, active)).endswith("; it is canceled then, unless it succeeds")
    release.set()


async def test_a_rate_that_is_used_up_says_until_when(server: Running, receiver: Receiver) -> None:
    flow = {"Upstash-Flow-Control-Key": "k", "Upstash-Flow-Control-Value": "rate=1,period=1h"}
    first, second = [
        (await server.http.post(f"/v2/publish/{receiver.url('/x')}", headers=flow)).json()["messageId"]
        for _ in range(2)
    ]

    await server.settled(first)
    words = await eventually(lambda: waits_for(server, second), lambda words: "used up" in words)

    assert words.startswith("flow-control key k: its rate is used up until 2")
    await server.time_passes(timedelta(hours=1))
    await server.settled(second)
    assert await listed(server) == []


# Changes


async def test_what_waits_gets_another_body_other_headers_and_another_time(server: Running, receiver: Receiver) -> None:
    message_id = await server.publish(
        receiver.url("/x"), "before", Upstash_Delay="1h", Upstash_Forward_X_Kept="1", Upstash_Forward_X_Changed="old"
    )

    answer = await server.http.patch(
        f"/v2/messages/{message_id}",
        json={"body": "after", "headers": {"X-Changed": "new", "Content-Type": "text/plain"}, "delay": "0s"},
    )
    request = await receiver.next_request("/x")
    await server.settled(message_id)

    assert (answer.status_code, answer.json()["body"]) == (200, "after")
    assert request.body == b"after"
    shown = [request.header(name) for name in ("X-Kept", "X-Changed", "Content-Type")]
    assert shown == ["1", "new", "text/plain"]


async def test_a_later_time_is_kept_to(server: Running, receiver: Receiver) -> None:
    message_id = await server.publish(receiver.url("/x"), Upstash_Delay="1h")

    await server.http.patch(f"/v2/messages/{message_id}", json={"delay": "3h"})
    await server.time_passes(timedelta(hours=2))
    [one] = await listed(server)
    await server.time_passes(timedelta(hours=1))
    await server.settled(message_id)

    assert one["notBefore"] - one["createdAt"] >= 3 * 3_600_000 - 2_000


async def test_a_message_under_a_key_goes_when_its_new_time_has_come(server: Running, receiver: Receiver) -> None:
    flow = {"Upstash-Flow-Control-Key": "k", "Upstash-Flow-Control-Value": "parallelism=1", "Upstash-Delay": "1h"}
    message_id = (await server.http.post(f"/v2/publish/{receiver.url('/x')}", headers=flow)).json()["messageId"]

    assert (await server.http.patch(f"/v2/messages/{message_id}", json={"delay": "0s"})).status_code == 200

    await server.settled(message_id)


async def test_what_has_begun_or_ended_cannot_be_changed(server: Running, receiver: Receiver) -> None:
    release = asyncio.Event()
    receiver.script("/held", hold(release, ok()))
    receiver.script("/bad", status(500))
    active = await server.publish(receiver.url("/held"))
    retried = await server.publish(receiver.url("/bad"), Upstash_Retry_Delay="3600000")
    await receiver.next_request("/held")
    await eventually(lambda: waits_for(server, retried), lambda words: words.startswith("retry"))

    answers = [await server.http.patch(f"/v2/messages/{one}", json={"body": "x"}) for one in (active, retried)]
    release.set()
    await server.settled(active)
    answers.append(await server.http.patch(f"/v2/messages/{active}", json={"body": "x"}))

    assert [answer.status_code for answer in answers] == [409, 409, 409]
    assert [answer.json()["error"].split()[3][:-1] for answer in answers] == ["processing", "pending", "completed"]


@pytest.mark.parametrize("queue", [None, "in-order"])
async def test_a_retry_can_be_made_at_once(server: Running, receiver: Receiver, queue: str | None) -> None:
    receiver.script("/bad", status(500), ok())
    way = "publish" if queue is None else f"enqueue/{queue}"
    answer = await server.http.post(
        f"/v2/{way}/{receiver.url('/bad')}", content=b"same", headers={"Upstash-Retry-Delay": "3600000"}
    )
    message_id = answer.json()["messageId"]
    await eventually(lambda: waits_for(server, message_id), lambda words: words.startswith("retry"))

    both = await server.http.patch(f"/v2/messages/{message_id}", json={"delay": "0s", "body": "other"})
    assert (both.status_code, len(receiver.requests("/bad"))) == (409, 1)
    assert (await server.http.patch(f"/v2/messages/{message_id}", json={"delay": "0s"})).status_code == 200

    assert (await server.settled(message_id))[-1] == "DELIVERED"
    first, second = await receiver.next_request("/bad"), await receiver.next_request("/bad")
    assert (first.body, second.body, second.header("Upstash-Retried")) == (b"same", b"same", "1")


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({}, "body"),
        ({"body": 5}, "body"),
        ({"headers": []}, "body"),
        ({"headers": [1]}, "headers"),
        ({"headers": {"X-A": 1}}, "headers.X-A"),
        ({"headers": {"X A": "1"}}, "X A"),
        ({"headers": {"X-A": "a\nb"}}, "X-A"),
        ({"headers": {"Upstash-Retries": "1"}}, "Upstash-Retries"),
        ({"delay": "soon"}, "Delay"),
        ({"delay": "400d"}, "elay"),
        ({"url": "http://x"}, "url"),
    ],
)
async def test_a_change_that_means_nothing_is_refused_and_changes_nothing(
    server: Running, receiver: Receiver, document: dict[str, Any], field: str
) -> None:
    message_id = await server.publish(receiver.url("/x"), "before", Upstash_Delay="1h")

    answer = await server.http.patch(f"/v2/messages/{message_id}", json=document)

    assert answer.status_code in (400, 412), answer.text
    assert field.lower() in answer.json()["error"].lower()
    assert (await listed(server))[0]["body"] == "before"


async def test_the_time_of_a_place_in_a_queue_cannot_be_changed_but_its_body(
    server: Running, receiver: Receiver
) -> None:
    await server.http.post("/v2/queues", json={"queueName": "q", "parallelism": 1})
    await server.http.post("/v2/queues/q/pause")
    message_id = (await server.http.post(f"/v2/enqueue/q/{receiver.url('/x')}", content="1")).json()["messageId"]

    refused = await server.http.patch(f"/v2/messages/{message_id}", json={"delay": "1h"})
    changed = await server.http.patch(f"/v2/messages/{message_id}", json={"body": "2"})
    await server.http.post("/v2/queues/q/resume")

    assert (refused.status_code, changed.status_code) == (400, 200)
    assert (await receiver.next_request("/x")).body == b"2"


async def test_headers_that_are_added_again_and_again_keep_to_the_limits(server: Running, receiver: Receiver) -> None:
    message_id = await server.publish(receiver.url("/x"), Upstash_Delay="1h", Upstash_Forward_A0="1")

    answers = [
        await server.http.patch(f"/v2/messages/{message_id}", json={"headers": {f"a{n}": "2" for n in numbers}})
        for numbers in (range(64), range(64, 65), range(1))
    ]

    assert [answer.status_code for answer in answers] == [200, 400, 200]
    assert "at most 64 headers" in answers[1].json()["error"]


async def test_a_change_races_with_the_claim_and_what_was_accepted_is_delivered(
    server: Running, receiver: Receiver
) -> None:
    url = receiver.url("/race")
    ids = [await server.publish(url, "old", Upstash_Delay="1s", Upstash_Forward_V="old") for _ in range(40)]

    async def last_change(message_id: str) -> tuple[str, int]:
        accepted = 0
        while True:
            said = str(accepted + 1)
            answer = await server.http.patch(f"/v2/messages/{message_id}", json={"body": said, "headers": {"v": said}})
            if answer.status_code == 200:
                accepted += 1
            elif answer.status_code != 429:
                assert answer.status_code == 409
                return message_id, accepted

    accepted = dict(await asyncio.gather(*map(last_change, ids)))
    for message_id in ids:
        await server.settled(message_id)

    requests = receiver.requests("/race")
    assert len(requests) == 40
    for request in requests:
        said = str(accepted[request.header("Upstash-Message-Id") or ""])
        assert (request.body.decode(), request.header("V")) == (said, said), "what was accepted last is delivered"
