"""The failure callback of a tenant, for messages that do not say where their failures are reported."""

from __future__ import annotations

import json
from base64 import b64decode
from datetime import timedelta

import pytest

from postroad.dev import DEV_USERS
from postroad.store import dispatchers, tenants
from postroad.store.engine import Connection
from tests.builders import TENANT
from tests.conftest import Running, Serve, eventually
from tests.receiver import Received, Receiver, status


@pytest.fixture
async def server(serve: Serve, connection: Connection, receiver: Receiver) -> Running:
    """A server whose tenant has its failures reported at /default; what comes to /fails fails."""
    await tenants.change(connection, TENANT, {"failure_callback": receiver.url("/default")})
    receiver.script("/fails", status(500, b"no"))
    return await serve()


def source(report: Received) -> str:
    return str(json.loads(report.body)["sourceMessageId"])


async def test_a_message_that_fails_is_reported_at_the_url_of_its_tenant(server: Running, receiver: Receiver) -> None:
    message_id = await server.publish(receiver.url("/fails"), b"lost", Upstash_Retries="1", Upstash_Retry_Delay="0")

    report = await receiver.next_request("/default")

    assert (report.method, report.header("Content-Type")) == ("POST", "application/json")
    said = json.loads(report.body)
    assert (said["sourceMessageId"], said["url"]) == (message_id, receiver.url("/fails"))
    assert (said["status"], b64decode(said["body"]), b64decode(said["sourceBody"])) == (500, b"no", b"lost")
    assert (said["retried"], said["maxRetries"]) == (1, 1)
    [letter] = await server.dead_letters()
    assert said["dlqId"] == letter["dlqId"]
    await server.drain()
    assert len(receiver.requests("/default")) == 1


async def test_a_large_body_is_in_the_report_as_a_small_one_is(server: Running, receiver: Receiver) -> None:
    body = b"x" * 300_000

    await server.publish(receiver.url("/fails"), body, Upstash_Retries="0")

    assert b64decode(json.loads((await receiver.next_request("/default")).body)["sourceBody"]) == body


async def test_the_failure_callback_of_a_message_takes_its_place(server: Running, receiver: Receiver) -> None:
    await server.publish(receiver.url("/fails"), Upstash_Retries="0", Upstash_Failure_Callback=receiver.url("/own"))

    await receiver.next_request("/own")
    await server.drain()
    assert receiver.requests("/default") == []


async def test_an_ordinary_callback_does_not(server: Running, receiver: Receiver) -> None:
    message_id = await server.publish(
        receiver.url("/fails"), Upstash_Retries="0", Upstash_Callback=receiver.url("/callback")
    )

    assert source(await receiver.next_request("/callback")) == message_id
    assert source(await receiver.next_request("/default")) == message_id


async def test_what_was_delivered_or_cancelled_is_not_reported(server: Running, receiver: Receiver) -> None:
    await server.settled(await server.publish(receiver.url("/"), b"delivered"))
    waits = await server.publish(receiver.url("/fails"), Upstash_Retries="1", Upstash_Retry_Delay="60000")
    await receiver.next_request("/fails")
    await server.http.delete(f"/v2/messages/{waits}")

    await server.time_passes(timedelta(minutes=2))
    await server.drain()

    assert receiver.requests("/default") == []


async def test_it_is_retried_as_often_as_the_message(
    server: Running, receiver: Receiver, connection: Connection
) -> None:
    receiver.script("/default", status(500))

    await server.publish(receiver.url("/fails"), Upstash_Retries="2", Upstash_Retry_Delay="0")
    await receiver.next_request("/default")

    rows = await connection.fetch("select options::jsonb ->> 'retries' as retries from messages")
    assert [row["retries"] for row in rows] == ["2", "2"]


async def test_reports_and_callbacks_that_fail_are_not_reported(server: Running, receiver: Receiver) -> None:
    for path in ("/default", "/own", "/callback"):
        receiver.script(path, status(500))
    await server.publish(receiver.url("/fails"), Upstash_Retries="0")
    await server.publish(receiver.url("/fails"), Upstash_Retries="0", Upstash_Failure_Callback=receiver.url("/own"))
    await server.publish(receiver.url("/"), Upstash_Retries="0", Upstash_Callback=receiver.url("/callback"))

    # Two messages, the report of the first one, the failure callback of the second, and the callback.
    letters = await eventually(server.dead_letters, lambda letters: len(letters) == 5)
    await server.drain()

    assert len(receiver.requests("/default")) == 1
    assert len(await server.dead_letters()) == len(letters)


async def test_a_report_that_is_published_anew_is_still_not_reported(server: Running, receiver: Receiver) -> None:
    receiver.script("/default", status(500))
    await server.publish(receiver.url("/fails"), Upstash_Retries="0")
    letters = await eventually(server.dead_letters, lambda letters: len(letters) == 2)
    [report] = [letter for letter in letters if letter["url"] == receiver.url("/default")]

    await server.http.post(f"/v2/dlq/retry/{report['dlqId']}")

    await receiver.wait_for(2, "/default")
    await eventually(server.dead_letters, lambda letters: len(letters) == 2)
    await server.drain()
    assert len(receiver.requests("/default")) == 2


async def test_a_message_of_another_tenant_is_not_reported(server: Running, receiver: Receiver) -> None:
    await server.publish(receiver.url("/fails"), Upstash_Retries="0", Authorization=f"Bearer {DEV_USERS[1].token}")

    await receiver.next_request("/fails")
    await server.drain()
    assert receiver.requests("/default") == []


async def test_the_next_in_a_queue_waits_for_the_report(server: Running, receiver: Receiver) -> None:
    await server.publish(receiver.url("/fails"), Upstash_Retries="0", Upstash_Queue_Name="q")
    await server.publish(receiver.url("/next"), Upstash_Queue_Name="q")

    await receiver.next_request("/next")

    assert [request.path for request in receiver.requests()] == ["/fails", "/default", "/next"]


async def test_a_message_that_was_given_up_without_an_answer_is_reported(
    server: Running, receiver: Receiver, connection: Connection
) -> None:
    """Five processes that made the attempt were lost, the last one a moment ago."""
    dead = await dispatchers.register(connection, "dead")
    message_id = await server.publish(receiver.url("/fails"), b"lost", Upstash_Delay="1d")
    await connection.execute("update dispatchers set alive_until = '-infinity' where id = $1", dead)
    await connection.execute(
        "update deliveries set state = 2, dispatcher_id = $1, active_at = now(), lease = 5, unsettled_claims = 5", dead
    )

    report = await receiver.next_request("/default")

    said = json.loads(report.body)
    assert (said["sourceMessageId"], said["status"], b64decode(said["sourceBody"])) == (message_id, 0, b"lost")


async def test_a_running_server_learns_of_it_within_seconds(
    serve: Serve, connection: Connection, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("postroad.tenancy.FRESH_FOR_S", 0.1)
    server = await serve()
    receiver.script("/fails", status(500))
    await server.publish(receiver.url("/fails"), Upstash_Retries="0")
    await receiver.next_request("/fails")

    await tenants.change(connection, TENANT, {"failure_callback": receiver.url("/default")})

    async def fail() -> int:
        await server.publish(receiver.url("/fails"), Upstash_Retries="0")
        return len(receiver.requests("/default"))

    await eventually(fail, lambda reports: reports > 0)
