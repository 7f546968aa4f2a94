"""Enough for now: calls in a second, messages in a day."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from postroad.dev import DEV_USERS
from postroad.store import usage
from postroad.store.engine import Connection
from tests.builders import TENANT
from tests.conftest import Running, Serve, eventually
from tests.receiver import Receiver, status

GOOD = "http://127.0.0.1:9/x"
OTHER = {"Authorization": f"Bearer {DEV_USERS[1].token}"}


def rate(answer: Any, prefix: str) -> list[int]:
    return [int(answer.headers[f"{prefix}RateLimit-{name}"]) for name in ("Limit", "Remaining", "Reset")]


async def used(connection: Connection) -> int:
    return (await usage.today(connection, TENANT))[0]


def midnight() -> int:
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return int((today + timedelta(days=1)).timestamp())


async def test_calls_beyond_the_limit_of_a_second_are_refused(serve: Serve) -> None:
    server = await serve(max_calls_per_second=3)
    before = int(time.time())

    answers = [await server.http.get("/v2/keys") for _ in range(20)]

    # Should they have taken more than a second, the next one was new.
    refused = [answer for answer in answers if answer.status_code == 429]
    assert [answer.status_code for answer in answers[:3]] == [200] * 3
    assert len(refused) >= 11
    assert refused[0].json() == {"error": "rate limit exceeded"}
    limit, remaining, reset = rate(refused[0], "Burst-")
    assert (limit, remaining) == (3, 0)
    assert before < reset <= before + 5
    assert "RateLimit-Limit" not in refused[0].headers


async def test_after_a_second_calls_are_answered_again(serve: Serve) -> None:
    server = await serve(max_calls_per_second=1)

    async def call() -> int:
        return (await server.http.get("/v2/keys")).status_code

    await eventually(call, lambda code: code == 429)
    await eventually(call, lambda code: code == 200)


async def test_every_call_but_those_that_publish_is_counted(serve: Serve) -> None:
    server = await serve(max_calls_per_second=1)

    async def calls(path: str, method: str = "POST", body: bytes = b"[]", **headers: str) -> set[int]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return {(await server.http.request(method, path, content=body, headers=named)).status_code for _ in range(8)}

    assert await calls(f"/v2/publish/{GOOD}") == {201}
    assert await calls(f"/v2/enqueue/q/{GOOD}") == {200}
    assert await calls("/v2/batch") == {200}
    assert 429 in await calls(f"/v2/schedules/{GOOD}", Upstash_Cron="@yearly")
    assert 429 in await calls(f"/v2/publish/{GOOD}", Upstash_Cron="@yearly")
    assert 429 in await calls("/v2/dlq", "GET")
    assert 429 in await calls("/v2/messages/msg_none", "DELETE")


async def test_calls_of_others_and_of_strangers_are_not_counted(serve: Serve) -> None:
    server = await serve(max_calls_per_second=1)
    for _ in range(10):
        assert (await server.http.get("/v2/keys", headers={"Authorization": "Bearer wrong"})).status_code == 401
        assert (await server.http.get("/v2/readiness")).status_code == 200

    assert (await server.http.get("/v2/keys")).status_code == 200
    assert (await server.http.get("/v2/keys", headers=OTHER)).status_code == 200


async def test_a_limit_of_zero_is_none(serve: Serve) -> None:
    server = await serve(max_calls_per_second=0)

    answers = await asyncio.gather(*(server.http.get("/v2/keys") for _ in range(50)))

    assert {answer.status_code for answer in answers} == {200}


async def test_messages_beyond_the_quota_of_the_day_are_refused_and_not_stored(
    serve: Serve, connection: Connection
) -> None:
    server = await serve(max_messages_per_day=2)

    answers = [await server.http.post(f"/v2/publish/{GOOD}") for _ in range(4)]

    assert [answer.status_code for answer in answers] == [201, 201, 429, 429]
    assert answers[2].json() == {"error": "quota maxMessagesPerDay exceeded, current limit: 2"}
    assert rate(answers[2], "") == [2, 0, midnight()]
    assert "Burst-RateLimit-Limit" not in answers[2].headers
    assert await connection.fetchval("select count(*) from messages") == await used(connection) == 2


async def test_every_message_of_a_batch_and_every_endpoint_of_a_group_counts(
    serve: Serve, connection: Connection
) -> None:
    server = await serve(max_messages_per_day=10)
    endpoints = {"endpoints": [{"url": f"{GOOD}{n}"} for n in range(3)]}
    assert (await server.http.post("/v2/topics/g/endpoints", json=endpoints)).is_success

    assert (await server.http.post("/v2/publish/g")).status_code == 201
    assert await used(connection) == 3
    assert (await server.http.post(f"/v2/enqueue/q/{GOOD}")).status_code == 200
    assert await used(connection) == 4
    batch = [{"destination": GOOD}, {"destination": "g"}, {"destination": GOOD, "queue": "q"}]
    assert (await server.http.post("/v2/batch", json=batch)).status_code == 200
    assert await used(connection) == 9

    refused = await server.http.post("/v2/batch", json=batch)

    assert (refused.status_code, rate(refused, "")[:2]) == (429, [10, 1])
    assert await connection.fetchval("select count(*) from messages") == 9
    assert (await server.http.post(f"/v2/publish/{GOOD}")).status_code == 201
    assert (await server.http.post(f"/v2/publish/{GOOD}")).status_code == 429


async def test_the_quota_holds_for_a_tenant_over_all_nodes_at_once(serve: Serve, connection: Connection) -> None:
    servers = [await serve(max_messages_per_day=50) for _ in range(2)]

    answers = await asyncio.gather(*(servers[n % 2].http.post(f"/v2/publish/{GOOD}") for n in range(120)))

    codes = [answer.status_code for answer in answers]
    assert (codes.count(201), codes.count(429)) == (50, 70)
    assert await used(connection) == 50
    assert (await servers[0].http.post(f"/v2/publish/{GOOD}", headers=OTHER)).status_code == 201


async def test_what_is_refused_for_another_reason_is_not_counted(serve: Serve, connection: Connection) -> None:
    server = await serve(max_messages_per_day=1)

    assert (await server.http.post(f"/v2/publish/{GOOD}", headers={"Upstash-Delay": "soon"})).status_code == 400

    assert await used(connection) == 0


async def test_yesterday_does_not_count(serve: Serve, connection: Connection) -> None:
    server = await serve(max_messages_per_day=1)
    await connection.execute("insert into usage values ($1, (now() at time zone 'utc')::date - 1, 1)", TENANT)

    assert (await server.http.post(f"/v2/publish/{GOOD}")).status_code == 201


async def test_callbacks_and_dead_letters_that_are_retried_go_on_when_the_quota_is_used_up(
    serve: Serve, connection: Connection, receiver: Receiver
) -> None:
    server = await serve(max_messages_per_day=1)
    receiver.script("/fails", status(500))
    headers = {"Upstash-Retries": "0", "Upstash-Failure-Callback": receiver.url("/failure")}
    assert (await server.http.post(f"/v2/publish/{receiver.url('/fails')}", headers=headers)).status_code == 201

    await receiver.next_request("/failure")
    [letter] = await eventually(server.dead_letters, lambda letters: len(letters) == 1)
    assert (await server.http.post(f"/v2/dlq/retry/{letter['dlqId']}")).status_code == 201

    await receiver.wait_for(2, "/fails")
    assert await used(connection) == 1


async def test_schedules_fire_when_the_quota_is_used_up(
    serve: Serve, connection: Connection, receiver: Receiver
) -> None:
    server = await serve(max_messages_per_day=1)
    headers = {"Upstash-Cron": "@yearly"}
    assert (await server.http.post(f"/v2/schedules/{receiver.url('/tick')}", headers=headers)).status_code == 201
    assert (await server.http.post(f"/v2/publish/{GOOD}")).status_code == 201
    assert (await server.http.post(f"/v2/publish/{GOOD}")).status_code == 429

    await connection.execute("update schedules set next_at = now()")

    await receiver.next_request("/tick")
    assert await used(connection) == 1


async def test_without_a_quota_nothing_is_counted(server: Running, connection: Connection) -> None:
    await server.publish(GOOD)

    assert await connection.fetchval("select count(*) from usage") == 0


async def test_counts_of_the_last_forty_days_are_kept(server: Running, connection: Connection) -> None:
    assert server.node.dispatcher is not None
    await connection.execute(
        """
        insert into usage (tenant_id, day, messages)
        select 1, (now() at time zone 'utc')::date - age, 1 from unnest(array[0, 40, 41, 400]) as age
        """
    )

    await server.node.dispatcher._janitor.prune()

    days = await connection.fetch("select (now() at time zone 'utc')::date - day as age from usage order by 1")
    assert [row["age"] for row in days] == [0, 40]


@pytest.mark.parametrize("most", [1, 7])
async def test_of_those_who_ask_at_once_the_first_get_what_is_left(
    serve: Serve, connection: Connection, most: int
) -> None:
    server = await serve(max_messages_per_day=most)
    quota = server.node._intake._quota
    assert quota is not None

    answers = await asyncio.gather(*(quota.take(TENANT, 1) for _ in range(10)), return_exceptions=True)

    assert [answer is None for answer in answers] == [True] * most + [False] * (10 - most)
    assert await used(connection) == most
