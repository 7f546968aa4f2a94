"""Where messages may go: the policy of the node, and that of a tenant in its place."""

from __future__ import annotations

from datetime import timedelta

import asyncpg
import pytest

from postroad import dev
from tests.conftest import Running, Serve, eventually, running
from tests.receiver import Receiver

ONE, OTHER = dev.DEV_USERS[:2]


async def allow(database_url: str, tenant: str, destinations: str | None) -> None:
    connection = await asyncpg.connect(database_url)
    await connection.execute("update tenants set destinations = $2 where name = $1", tenant, destinations)
    await connection.close()


async def publish(server: Running, url: str, user: dev.DevUser, **headers: str) -> tuple[int, str]:
    answer = await server.http.post(f"/v2/publish/{url}", headers={"Authorization": f"Bearer {user.token}"} | headers)
    return answer.status_code, answer.json().get("error", "")


async def test_a_tenant_may_reach_more_than_the_others(serve: Serve, receiver: Receiver, database_url: str) -> None:
    await allow(database_url, ONE.tenant, f"public,127.0.0.1:{receiver.port}")
    server = await serve(destinations="public")

    assert await publish(server, receiver.url("/a"), ONE) == (201, "")
    assert (await receiver.next_request("/a")).path == "/a"
    await server.drain()
    # Not even on the connection that is open there now.
    status, error = await publish(server, receiver.url("/b"), OTHER)
    assert status == 400
    assert "(POSTROAD_DESTINATIONS can allow it)" in error
    status, error = await publish(server, "http://127.0.0.1:1/", ONE)
    assert status == 400
    assert "(postroad tenant set --destinations can allow it)" in error


async def test_a_tenant_may_reach_less_than_the_others(serve: Serve, receiver: Receiver, database_url: str) -> None:
    await allow(database_url, ONE.tenant, f"any,!127.0.0.1:{receiver.port}")
    server = await serve(destinations="any")

    assert await publish(server, receiver.url("/other"), OTHER) == (201, "")
    await receiver.next_request("/other")
    await server.drain()
    refusal = "endpoint is on the list of what is refused: 127.0.0.1 (postroad tenant set --destinations refuses it)"
    url, public = receiver.url("/one"), "http://1.1.1.1/"
    for answer in (
        await publish(server, url, ONE),
        await publish(server, public, ONE, **{"Upstash-Callback": url, "Upstash-Delay": "1d"}),
        await publish(server, public, ONE, **{"Upstash-Failure-Callback": url, "Upstash-Delay": "1d"}),
        await publish(server, url, ONE, **{"Upstash-Cron": "* * * * *"}),
    ):
        assert answer[0] == 400
        assert answer[1].endswith(refusal)
    for path, json in (
        ("/v2/batch", [{"destination": url}]),
        ("/v2/topics/g/endpoints", {"endpoints": [{"url": url}]}),
        (f"/v2/enqueue/q/{url}", None),
    ):
        answered = await server.http.post(path, json=json)
        assert answered.status_code == 400, path
        assert refusal in answered.json()["error"]
    answered = await server.http.post("/v2/topics/g/endpoints", json={"endpoints": [{"url": public}]})
    assert answered.is_success
    for header in ("Upstash-Callback", "Upstash-Callback-Callback", "Upstash-Callback-Callback-Failure-Callback"):
        callbacks = {"Upstash-Callback": public, "Upstash-Callback-Callback": public, header: url}
        answer = await publish(server, public, ONE, **callbacks, **{"Upstash-Delay": "1d"})
        assert (answer[0], answer[1].endswith(refusal)) == (400, True), header
        answered = await server.http.patch("/v2/topics/g", json={"headers": callbacks})
        assert answered.status_code == 400, header
        assert header in answered.json()["error"]
        assert refusal in answered.json()["error"]
    assert receiver.requests("/one") == []


async def test_tenants_share_no_connection(serve: Serve, receiver: Receiver) -> None:
    server = await serve(destinations="any")
    used = []
    for path, user in (("/a", ONE), ("/b", OTHER), ("/c", ONE)):
        assert await publish(server, receiver.url(path), user) == (201, "")
        used.append((await receiver.next_request(path)).connection_id)
        await server.drain()
    assert used == [1, 2, 1]


async def test_what_was_accepted_before_is_refused_at_its_attempt_and_at_its_retry(
    receiver: Receiver, database_url: str
) -> None:
    url = receiver.url("/late")
    async with running(database_url, dev=True, destinations="any", default_retries=0) as server:
        assert (await publish(server, url, ONE, **{"Upstash-Delay": "1h"}))[0] == 201
    await allow(database_url, ONE.tenant, "public")
    async with running(database_url, dev=True, destinations="any", default_retries=0) as server:
        await server.time_passes(timedelta(hours=1))
        [letter] = await eventually(server.dead_letters, lambda letters: len(letters) == 1)
        assert letter["responseBody"].endswith("(postroad tenant set --destinations can allow it)")
        answer = await server.http.post(f"/v2/dlq/retry/{letter['dlqId']}")
        assert answer.status_code == 400
        assert answer.json()["error"].endswith("(postroad tenant set --destinations can allow it)")
        answer = await server.http.post("/v2/dlq/retry")
        assert answer.json() == {"cursor": "", "responses": []}
        assert len(await server.dead_letters()) == 1
    assert receiver.requests() == []


@pytest.mark.parametrize("destinations", ["public,nonsense!", ""])
async def test_a_policy_that_cannot_be_read_refuses_everything(
    serve: Serve, receiver: Receiver, database_url: str, destinations: str
) -> None:
    await allow(database_url, ONE.tenant, destinations)
    server = await serve(destinations="any")
    status, error = await publish(server, receiver.url(), ONE)
    assert status == 400
    assert "cannot be read" in error
