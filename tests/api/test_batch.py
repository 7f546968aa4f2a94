"""Batches: many publishes in one request, all or none of them."""

from __future__ import annotations

from typing import Any

import pytest

from postroad.store.engine import Connection
from tests.conftest import Running, Serve, eventually
from tests.receiver import Receiver

X = "http://127.0.0.1:9/x"


async def batch(server: Running, *items: Any) -> Any:
    answer = await server.http.post("/v2/batch", json=list(items))
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_every_item_becomes_a_message_with_its_own_headers_and_body(server: Running, receiver: Receiver) -> None:
    answers = await batch(
        server,
        {
            "destination": receiver.url("/a?x=1"),
            "headers": {"upstash-method": "PUT", "Content-Type": "text/x"},
            "body": "ä",
        },
        {"destination": receiver.url("/b"), "headers": {"Upstash-Forward-X": "1"}, "body": None, "queue": ""},
        {"destination": receiver.url("/c"), "queue": None},
    )

    assert [set(answer) for answer in answers] == [{"messageId"}] * 3
    first, second, third = [await receiver.next_request(f"/{name}") for name in "abc"]
    assert (first.method, first.body, first.target) == ("PUT", "ä".encode(), "/a?x=1")
    assert first.header("Content-Type") == "text/x"
    assert (second.header("X"), second.body, third.body) == ("1", b"", b"")
    assert first.header("Upstash-Message-Id") == answers[0]["messageId"]


async def test_results_of_a_url_group_stay_nested(server: Running, receiver: Receiver) -> None:
    endpoints = [{"url": receiver.url(f"/{name}"), "name": name} for name in "ab"]
    await server.http.post("/v2/topics/group/endpoints", json={"endpoints": endpoints})

    single, group = await batch(
        server, {"destination": receiver.url("/x")}, {"destination": "group", "headers": {"Upstash-Label": "l"}}
    )

    assert set(single) == {"messageId"}
    assert [one["url"] for one in group] == [receiver.url("/a"), receiver.url("/b")]
    request = await receiver.next_request("/b")
    assert request.header("Upstash-Topic-Name") == "group"


async def test_items_for_a_queue_keep_their_order(server: Running, receiver: Receiver) -> None:
    await batch(server, *({"destination": receiver.url("/q"), "body": str(n), "queue": "q"} for n in range(12)))

    await receiver.wait_for(12, "/q")

    assert [request.body for request in receiver.requests("/q")] == [str(n).encode() for n in range(12)]


async def test_duplicates_inside_a_batch_are_one_message(server: Running, receiver: Receiver) -> None:
    item = {"destination": receiver.url("/d"), "headers": {"Upstash-Deduplication-Id": "x"}}

    first, second = await batch(server, item, item)

    assert second == {"messageId": first["messageId"], "deduplicated": True}


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ({}, "a non-empty destination must be provided (item 1)"),
        ({"destination": ""}, "a non-empty destination must be provided (item 1)"),
        ({"destination": 5}, "destination"),
        ({"destination": "nowhere://x"}, "invalid scheme"),
        ({"destination": "nogroup"}, "topic nogroup not found (item 1)"),
        ({"destination": X, "headers": {"Upstash-Delay": "soon"}}, "Upstash-Delay"),
        ({"destination": X, "headers": {"Upstash-Delay": 5}}, "headers.Upstash-Delay"),
        ({"destination": X, "headers": []}, "headers"),
        ({"destination": X, "headers": {"upstash-cron": "* * * * *"}}, "upstash-cron"),
        ({"destination": X, "body": {"a": 1}}, "body"),
        ({"destination": X, "queue": 1}, "queue"),
        ({"destination": X, "queue": "a b"}, "queueName"),
        ({"destination": X, "queue": "q", "headers": {"Upstash-Delay": "5s"}}, "can not be used with enqueue"),
        ("x", "an object"),
    ],
)
async def test_one_bad_item_refuses_the_batch_and_nothing_is_stored(
    server: Running, connection: Connection, item: Any, words: str
) -> None:
    answer = await server.http.post("/v2/batch", json=[{"destination": X}, item])

    assert answer.status_code in (400, 404), answer.text
    assert words in answer.json()["error"]
    assert await connection.fetchval("select count(*) from messages") == 0
    assert await connection.fetchval("select count(*) from queues") == 0


@pytest.mark.parametrize("body", [b"", b"{}", b"[", b"\xff", b"null"])
async def test_what_is_no_array_is_refused(server: Running, body: bytes) -> None:
    answer = await server.http.post("/v2/batch/", content=body)

    assert answer.status_code == 400
    assert "a JSON array" in answer.json()["error"]


async def test_an_empty_batch_is_answered_with_an_empty_array(server: Running) -> None:
    assert await batch(server) == []


async def test_a_batch_has_bounds(serve: Serve) -> None:
    server = await serve(max_batch_items=2, max_batch_bytes=1000, max_body_bytes=100)

    many = await server.http.post("/v2/batch", json=[{"destination": X}] * 3)
    large = await server.http.post("/v2/batch", json=[{"destination": X, "body": "x" * 1000}])
    one_large = await server.http.post("/v2/batch", json=[{"destination": X, "body": "x" * 200}])

    assert (many.status_code, large.status_code, one_large.status_code) == (400, 413, 413)
    assert "maxBatchItems" in many.json()["error"]
    assert "(item 0)" in one_large.json()["error"]


async def test_a_batch_of_thousands_is_one_transaction(
    server: Running, receiver: Receiver, connection: Connection
) -> None:
    answers = await batch(server, *({"destination": receiver.url("/m"), "body": str(n)} for n in range(2_000)))

    assert len({answer["messageId"] for answer in answers}) == 2_000
    assert await connection.fetchval("select count(distinct created_at) from messages") == 1
    await receiver.wait_for(2_000, "/m", timeout=60)
    await eventually(lambda: connection.fetchval("select count(*) from deliveries"), lambda left: left == 0, within=30)


async def test_a_request_of_any_other_method_is_not_allowed(server: Running) -> None:
    for path in ("/v2/batch", "/v2/publish/x", "/v2/enqueue/q/x"):
        answer = await server.http.get(path)
        assert answer.status_code == 405
        assert answer.headers["allow"] == "POST"
