"""The live log: every event once, in the order of the log, also for whoever comes back."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Any

import asyncpg
import httpx
import pytest

from postroad import dev
from tests.conftest import Running, Serve
from tests.moods import status
from tests.receiver import Receiver


class Listener:
    """A client of the stream, which may leave and come back."""

    def __init__(self, server: Running, **query: str) -> None:
        self._server = server
        self._query = query
        self.seen: list[dict[str, Any]] = []
        self.last: str | None = None
        self.is_heard = asyncio.Event()

    async def listen(self, until: int, *, headers: dict[str, str] | None = None) -> None:
        """Until so many events were seen altogether."""
        given = dict(headers or {})
        if self.last is not None:
            given["Last-Event-ID"] = self.last
        http = self._server.http
        async with http.stream("GET", "/v2/events/stream", params=self._query, headers=given) as answer:
            assert answer.status_code == 200
            self.is_heard.set()
            number = ""
            async for line in answer.aiter_lines():
                if line.startswith("id: "):
                    number = line[4:]
                elif line.startswith("data: "):
                    self.seen.append(json.loads(line[6:]))
                    self.last = number
                    if len(self.seen) >= until:
                        return

    @property
    def keys(self) -> list[tuple[str, str, int]]:
        return [(event["messageId"], event["state"], event["time"]) for event in self.seen]


async def test_what_happens_is_told_once_and_in_order(server: Running, receiver: Receiver) -> None:
    receiver.script("/bad", status(500))
    listener = Listener(server, fromDate="0")

    good = await server.publish(receiver.url("/good"))
    bad = await server.publish(receiver.url("/bad"), Upstash_Retries="0")
    await server.settled(bad, "FAILED")
    await server.settled(good)
    await asyncio.wait_for(listener.listen(7), 20)

    logged = [(one["messageId"], one["state"], one["time"]) for one in reversed(await server.events())]
    assert listener.keys == logged
    assert {state for _, state, _ in listener.keys} == {"CREATED", "ACTIVE", "DELIVERED", "ERROR", "FAILED"}


async def test_it_begins_now_and_follows_what_comes(server: Running, receiver: Receiver) -> None:
    before = await server.publish(receiver.url("/x"))
    await server.settled(before)
    listener = Listener(server)
    listening = asyncio.create_task(listener.listen(3))
    await listener.is_heard.wait()

    after = await server.publish(receiver.url("/x"))
    await asyncio.wait_for(listening, 20)

    assert [event["messageId"] for event in listener.seen] == [after] * 3


async def test_whoever_comes_back_again_and_again_misses_nothing_and_sees_nothing_twice(
    server: Running, receiver: Receiver
) -> None:
    count = 300
    listener = Listener(server, fromDate="0")

    async def publish() -> None:
        for start in range(0, count, 20):
            await asyncio.gather(*(server.publish(receiver.url("/x")) for _ in range(start, start + 20)))

    publishing = asyncio.create_task(publish())
    for until in (100, 250, 500, 700, 3 * count):
        await asyncio.wait_for(listener.listen(until), 60)
    await publishing

    assert len(set(listener.keys)) == len(listener.keys) == 3 * count
    times = [time for _, _, time in listener.keys]
    assert times == sorted(times)


async def test_an_event_that_commits_late_is_not_missed(server: Running, receiver: Receiver, database_url: str) -> None:
    """Its time is that of the beginning of its transaction, before events that are visible already."""
    slow = await asyncpg.connect(database_url)
    transaction = slow.transaction()
    await transaction.start()
    await slow.execute("select now()")
    waiting = await server.publish(receiver.url("/x"), Upstash_Delay="1h")
    listener = Listener(server, fromDate="0")
    listening = asyncio.create_task(listener.listen(2))
    await asyncio.sleep(0.5)
    told_too_early = list(listener.keys)

    await slow.execute(
        "insert into cancellations (message_id, tenant_id) select id, tenant_id from messages order by id limit 1"
    )
    await transaction.commit()
    await slow.close()
    await asyncio.wait_for(listening, 20)

    assert told_too_early == []
    assert [(one, state) for one, state, _ in listener.keys] == [
        (waiting, "CANCEL_REQUESTED"),
        (waiting, "CREATED"),
    ]


async def test_filters_choose_what_is_told(server: Running, receiver: Receiver) -> None:
    listener = Listener(server, fromDate="0", label="a", state="DELIVERED")

    for label in ("a", "b", "a"):
        await server.settled(await server.publish(receiver.url("/x"), Upstash_Label=label))
    await asyncio.wait_for(listener.listen(2), 20)

    assert {(event["label"], event["state"]) for event in listener.seen} == {("a", "DELIVERED")}


async def test_another_tenants_events_are_not_told(server: Running, receiver: Receiver) -> None:
    await server.settled(await server.publish(receiver.url("/x")))
    other = {"Authorization": f"Bearer {dev.DEV_USERS[1].token}"}
    theirs = await server.http.post(f"/v2/publish/{receiver.url('/y')}", headers=other)
    listener = Listener(server, fromDate="0")

    await asyncio.wait_for(listener.listen(3, headers=other), 20)

    assert {event["messageId"] for event in listener.seen} == {theirs.json()["messageId"]}


async def test_a_server_that_stops_ends_its_streams(serve: Serve) -> None:
    server = await serve()
    async with server.http.stream("GET", "/v2/events/stream") as answer:
        server.node._feed.stop()
        try:
            async with asyncio.timeout(timedelta(seconds=20).total_seconds()):
                assert [line async for line in answer.aiter_lines()] == []
        except httpx.RemoteProtocolError:
            pytest.fail("the stream was cut instead of ended")


@pytest.mark.parametrize("query", [{"lastEventId": "x"}, {"count": "1"}, {"state": "GONE"}])
async def test_what_means_nothing_is_refused_by_its_name(server: Running, query: dict[str, str]) -> None:
    answer = await server.http.get("/v2/events/stream", params=query)

    assert answer.status_code == 400
