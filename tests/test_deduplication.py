"""Deduplication, as publishers see it when they all come at once."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from tests.conftest import Running, Serve
from tests.receiver import Receiver


@pytest.mark.parametrize("nodes", [1, 2])
async def test_of_64_equal_publishes_at_once_one_is_stored_and_63_are_told_its_id(
    serve: Serve, receiver: Receiver, nodes: int
) -> None:
    servers = [await serve() for _ in range(nodes)]

    answers = await asyncio.gather(
        *(
            servers[n % nodes].http.post(
                f"/v2/publish/{receiver.url('/d')}", headers={"Upstash-Deduplication-Id": "the-one"}
            )
            for n in range(64)
        )
    )

    assert sorted(answer.status_code for answer in answers) == [201] + 63 * [202]
    assert len({answer.json()["messageId"] for answer in answers}) == 1
    assert sum("deduplicated" in answer.json() for answer in answers) == 63
    await receiver.next_request("/d")
    await servers[0].drain()
    assert len(receiver.requests("/d")) == 1


async def test_every_endpoint_of_a_url_group_is_deduplicated_for_itself(server: Running, receiver: Receiver) -> None:
    endpoints = [{"url": receiver.url("/a")}]
    await server.http.post("/v2/topics/g/endpoints", json={"endpoints": endpoints})
    headers = {"Upstash-Deduplication-Id": "x"}
    [first] = (await server.http.post("/v2/publish/g", headers=headers)).json()
    await server.http.post("/v2/topics/g/endpoints", json={"endpoints": [{"url": receiver.url("/b")}]})

    answer = await server.http.post("/v2/publish/g", headers=headers)

    assert answer.status_code == 201
    known, new = answer.json()
    assert known == {"messageId": first["messageId"], "url": receiver.url("/a"), "deduplicated": True}
    assert new["url"] == receiver.url("/b")
    assert "deduplicated" not in new
    again = await server.http.post("/v2/publish/g", headers=headers)
    assert again.status_code == 202


async def test_the_same_content_is_a_duplicate_until_the_window_is_over(server: Running, receiver: Receiver) -> None:
    async def publish(body: str, **headers: str) -> int:
        answer = await server.http.post(
            f"/v2/publish/{receiver.url('/c')}",
            content=body,
            headers={"Upstash-Content-Based-Deduplication": "True"} | headers,
        )
        return answer.status_code

    assert [await publish("a"), await publish("a"), await publish("b")] == [201, 202, 201]
    assert [await publish("a", **{"Upstash-Forward-X": "1"}), await publish("a", **{"Upstash-Label": "l"})] == [
        201,
        202,
    ]

    await server.time_passes(timedelta(minutes=10, seconds=1))

    assert await publish("a") == 201
