"""One message goes all the way: what the receiver sees and what the log says."""

from __future__ import annotations

import asyncio
import json
from base64 import b64decode
from datetime import timedelta

import asyncpg
import jwt
import pytest
from qstash import Receiver as SignatureReceiver
from qstash.errors import SignatureError

from postroad.dispatch import waker
from postroad.store.engine import Connection
from tests.conftest import KEYS, TOKEN, Running, Serve, eventually
from tests.moods import hold, never, reset, status
from tests.receiver import Receiver


async def test_a_message_arrives_byte_for_byte_with_its_headers(server: Running, receiver: Receiver) -> None:
    body = bytes(range(256))

    message_id = await server.publish(
        receiver.url("/hook?a=1&b=%2F%20x"),
        body,
        Content_Type="application/octet-stream",
        Upstash_Forward_X_Trace="t 1",
    )

    request = await receiver.next_request()
    assert (request.method, request.target, request.body) == ("POST", "/hook?a=1&b=%2F%20x", body)
    assert request.header("Content-Type") == "application/octet-stream"
    assert request.header("X-Trace") == "t 1"
    assert request.header("Upstash-Message-Id") == message_id
    assert request.header("Upstash-Retried") == "0"
    assert request.header("User-Agent") == "Upstash-QStash"
    assert request.header("Upstash-Caller-Ip") == "127.0.0.1"
    assert await server.settled(message_id) == ["CREATED", "ACTIVE", "DELIVERED"]


async def test_a_delivery_is_signed_so_that_the_official_receiver_accepts_it(
    server: Running, receiver: Receiver
) -> None:
    url = receiver.url("/signed?x=1")
    await server.publish(url, b'{"n": 1}')
    request = await receiver.next_request()
    signature = request.header("Upstash-Signature")
    assert signature is not None

    SignatureReceiver(KEYS.current, KEYS.next).verify(signature=signature, body=request.body.decode(), url=url)

    with pytest.raises(SignatureError):
        SignatureReceiver("sig_wrong", "sig_wrong_too").verify(signature=signature, body=request.body.decode(), url=url)
    with pytest.raises(SignatureError):
        SignatureReceiver(KEYS.current, KEYS.next).verify(signature=signature, body='{"n": 2}', url=url)


async def test_every_attempt_has_a_signature_of_its_own(server: Running, receiver: Receiver) -> None:
    receiver.script("/", status(500), status(200))
    await server.publish(receiver.url(), Upstash_Retry_Delay="0")

    first, second = [request.header("Upstash-Signature") or "" for request in await receiver.wait_for(2)]

    claims = [jwt.decode(one, options={"verify_signature": False}) for one in (first, second)]
    assert claims[0]["jti"] != claims[1]["jti"]


async def test_failed_attempts_are_retried_and_logged_in_order(server: Running, receiver: Receiver) -> None:
    receiver.script("/", status(500), status(500), status(200))

    message_id = await server.publish(receiver.url(), Upstash_Retry_Delay="200")

    requests = await receiver.wait_for(3)
    assert [request.header("Upstash-Retried") for request in requests] == ["0", "1", "2"]
    assert await server.settled(message_id) == [
        "CREATED", "ACTIVE", "ERROR", "RETRY", "ACTIVE", "ERROR", "RETRY", "ACTIVE", "DELIVERED",
    ]  # fmt: skip
    retry = (await server.events(messageId=message_id, state="RETRY"))[-1]
    assert retry["nextDeliveryTime"] - retry["time"] == 200


async def test_a_message_that_keeps_failing_is_buried_with_the_last_answer(server: Running, receiver: Receiver) -> None:
    receiver.script("/", status(503, b"first"), status(418, b"I am a teapot", [("X-Why", "tea")]))

    message_id = await server.publish(receiver.url(), b"body", Upstash_Retries="1", Upstash_Retry_Delay="0")

    assert await server.settled(message_id, "FAILED") == [
        "CREATED", "ACTIVE", "ERROR", "RETRY", "ACTIVE", "ERROR", "FAILED",
    ]  # fmt: skip
    [letter] = await server.dead_letters()
    assert letter["messageId"] == message_id
    assert (letter["responseStatus"], letter["responseBody"]) == (418, "I am a teapot")
    assert letter["responseHeader"]["X-Why"] == ["tea"]
    assert letter["body"] == "body"


async def test_a_retried_dead_letter_is_delivered_under_a_new_id_and_leaves_the_queue(
    server: Running, receiver: Receiver
) -> None:
    receiver.script("/", status(500), status(200))
    message_id = await server.publish(
        receiver.url(), b"payload", Content_Type="text/x", Upstash_Retries="0", Upstash_Forward_A="1"
    )
    await server.settled(message_id, "FAILED")
    [letter] = await server.dead_letters()

    answer = await server.http.post(f"/v2/dlq/retry/{letter['dlqId']}", headers={"Upstash-Retries": "7"})

    assert answer.status_code == 201
    retried = (await receiver.wait_for(2))[1]
    assert retried.header("Upstash-Message-Id") == answer.json()["messageId"] != message_id
    assert (retried.body, retried.header("Content-Type"), retried.header("A")) == (b"payload", "text/x", "1")
    assert await server.dead_letters() == []
    message = (await server.http.get(f"/v2/messages/{answer.json()['messageId']}")).json()
    assert message["maxRetries"] == 7
    assert (await server.http.post(f"/v2/dlq/retry/{letter['dlqId']}")).status_code == 404


@pytest.mark.parametrize(
    ("headers", "delivers"),
    [([("Upstash-NonRetryable-Error", "true")], False), ([], True)],
    ids=["with the header it fails at once", "without it is retried"],
)
async def test_status_489(server: Running, receiver: Receiver, headers: list[tuple[str, str]], delivers: bool) -> None:
    receiver.script("/", status(489, b"", headers), status(200))

    message_id = await server.publish(receiver.url(), Upstash_Retry_Delay="0")

    await server.settled(message_id, "DELIVERED" if delivers else "FAILED")
    assert len(receiver.requests()) == (2 if delivers else 1)


@pytest.mark.parametrize("code", [301, 302, 307, 308, 404, 500])
async def test_anything_but_a_2xx_is_a_failed_attempt(server: Running, receiver: Receiver, code: int) -> None:
    receiver.script("/", status(code, b"", [("Location", receiver.url("/elsewhere"))]))

    message_id = await server.publish(receiver.url(), Upstash_Retries="0")

    await server.settled(message_id, "FAILED")
    assert receiver.requests("/elsewhere") == []


async def test_a_reset_connection_is_a_failed_attempt_with_a_reason(server: Running, receiver: Receiver) -> None:
    receiver.script("/", reset())

    message_id = await server.publish(receiver.url(), Upstash_Retries="0")

    await server.settled(message_id, "FAILED")
    [letter] = await server.dead_letters()
    assert letter["responseStatus"] == 0
    assert "connection" in letter["responseBody"]


async def test_a_timeout_ends_an_attempt(server: Running, receiver: Receiver) -> None:
    receiver.script("/", never())

    message_id = await server.publish(receiver.url(), Upstash_Retries="0", Upstash_Timeout="1s")

    await server.settled(message_id, "FAILED")
    [letter] = await server.dead_letters()
    assert letter["responseBody"] == "timed out after 1 s"


async def test_the_first_default_retry_comes_after_twelve_seconds(server: Running, receiver: Receiver) -> None:
    receiver.script("/", status(500), status(200))
    message_id = await server.publish(receiver.url())
    await server.settled(message_id, "RETRY")

    [retry] = await server.events(messageId=message_id, state="RETRY")
    assert 12_100 < retry["nextDeliveryTime"] - retry["time"] < 12_300
    await server.time_passes(timedelta(seconds=13))

    assert await server.settled(message_id) == ["CREATED", "ACTIVE", "ERROR", "RETRY", "ACTIVE", "DELIVERED"]


async def test_the_destination_can_ask_for_a_later_retry(server: Running, receiver: Receiver) -> None:
    receiver.script("/", status(429, b"", [("Retry-After", "3600")]))

    message_id = await server.publish(receiver.url(), Upstash_Retry_Delay="0")

    await server.settled(message_id, "RETRY")
    [retry] = await server.events(messageId=message_id, state="RETRY")
    assert retry["nextDeliveryTime"] - retry["time"] == 3_600_000


async def test_a_delayed_message_waits_and_then_arrives(server: Running, receiver: Receiver) -> None:
    message_id = await server.publish(receiver.url(), Upstash_Delay="1h")
    assert await server.states(message_id) == ["CREATED"]
    message = (await server.http.get(f"/v2/messages/{message_id}")).json()
    assert message["notBefore"] - message["createdAt"] == 3_600_000

    await server.time_passes(timedelta(hours=1))

    assert (await receiver.next_request()).header("Upstash-Message-Id") == message_id


async def test_a_short_delay_needs_no_poll_of_luck(server: Running, receiver: Receiver) -> None:
    message_id = await server.publish(receiver.url(), Upstash_Delay="1s")

    await receiver.next_request()

    created, active, *_ = reversed(await server.events(messageId=message_id))
    assert active["time"] - created["time"] >= 1000


async def test_what_falls_due_next_needs_no_poll(
    server: Running, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    message_ids = [await server.publish(receiver.url("/later"), Upstash_Delay=delay) for delay in ("3s", "4s", "5s")]
    monkeypatch.setattr(waker, "BUSY_POLL_S", 3600.0)
    monkeypatch.setattr(waker, "IDLE_POLL_S", 3600.0)  # timers are kept for two of these

    await server.publish(receiver.url("/soon"), Upstash_Delay="1s")  # which sets a timer, and that one the next

    arrived = [(await receiver.next_request("/later")).header("Upstash-Message-Id") for _ in message_ids]
    assert arrived == message_ids


async def test_the_connections_of_a_burst_are_kept_for_the_next(server: Running, receiver: Receiver) -> None:
    burst = 300
    done = asyncio.Event()
    receiver.script("/", hold(done))
    answer = await server.http.post("/v2/batch", json=[{"destination": receiver.url(), "body": "{}"}] * burst)
    assert answer.status_code == 200
    await receiver.wait_for_connections(burst)

    done.set()
    assert server.node.dispatcher is not None
    await server.node.dispatcher.drain()

    assert receiver.open_connections == burst


async def test_not_before_in_the_past_means_now_and_wins_over_a_delay(server: Running, receiver: Receiver) -> None:
    await server.publish(receiver.url(), Upstash_Not_Before="1000000000", Upstash_Delay="1d")

    await receiver.next_request()


async def test_a_callback_reports_every_attempt_and_a_failure_callback_the_last(
    server: Running, receiver: Receiver
) -> None:
    receiver.script("/work", status(500, b"no"), status(501, b"never", [("X-Reason", "r")]))

    message_id = await server.publish(
        receiver.url("/work"),
        b"source",
        Upstash_Retries="1",
        Upstash_Retry_Delay="0",
        Upstash_Callback=receiver.url("/report"),
        Upstash_Failure_Callback=receiver.url("/failure"),
        Upstash_Callback_Forward_X_Report="yes",
        Upstash_Failure_Callback_Method="PUT",
    )

    reports = await receiver.wait_for(2, "/report")
    documents = sorted((json.loads(one.body) for one in reports), key=lambda one: one.get("retried", 0))
    assert [one["status"] for one in documents] == [500, 501]
    assert "retried" not in documents[0]
    assert documents[1]["retried"] == 1
    assert documents[1]["sourceMessageId"] == message_id
    assert b64decode(documents[1]["body"]) == b"never"
    assert b64decode(documents[1]["sourceBody"]) == b"source"
    assert documents[1]["header"]["X-Reason"] == ["r"]
    assert documents[1]["maxRetries"] == 1
    assert all(one.header("X-Report") == "yes" for one in reports)
    assert len({one.header("Upstash-Message-Id") for one in reports} - {message_id}) == 2

    [failure] = await receiver.wait_for(1, "/failure")
    assert failure.method == "PUT"
    [letter] = await server.dead_letters(messageId=message_id)
    assert json.loads(failure.body)["dlqId"] == letter["dlqId"]


async def test_a_callback_without_a_response_has_status_0_and_the_reason(server: Running, receiver: Receiver) -> None:
    receiver.script("/work", reset())

    await server.publish(receiver.url("/work"), Upstash_Retries="0", Upstash_Callback=receiver.url("/report"))

    document = json.loads((await receiver.next_request("/report")).body)
    assert document["status"] == 0
    assert b"connection" in b64decode(document["body"])


async def test_a_callback_is_retried_like_any_message(server: Running, receiver: Receiver) -> None:
    receiver.script("/report", status(500), status(200))

    await server.publish(
        receiver.url("/work"), Upstash_Callback=receiver.url("/report"), Upstash_Callback_Retry_Delay="0"
    )

    requests = await receiver.wait_for(2, "/report")
    assert requests[0].header("Upstash-Message-Id") == requests[1].header("Upstash-Message-Id")


async def test_a_large_body_travels_whole(server: Running, receiver: Receiver) -> None:
    body = bytes(range(256)) * 4096 * 4  # 4 MiB, far above what is handed over in memory

    await server.publish(receiver.url(), body)

    assert (await receiver.next_request()).body == body


async def test_a_cancelled_attempt_that_fails_is_not_made_again(server: Running, receiver: Receiver) -> None:
    release = asyncio.Event()
    receiver.script("/", hold(release, status(500)))
    message_id = await server.publish(receiver.url(), Upstash_Retry_Delay="0")
    await receiver.next_request()

    answer = await server.http.delete(f"/v2/messages/{message_id}")
    release.set()

    assert (answer.status_code, answer.json()) == (202, {"cancelled": 1})
    assert await server.settled(message_id, "CANCELED") == [
        "CREATED", "ACTIVE", "CANCEL_REQUESTED", "ERROR", "CANCELED",
    ]  # fmt: skip
    assert len(receiver.requests()) == 1
    assert await server.dead_letters() == []


async def test_a_destination_that_hangs_does_not_keep_others_waiting(serve: Serve, receiver: Receiver) -> None:
    server = await serve(slots=80)
    async with Receiver() as hanging:
        hanging.script("/", never())
        await asyncio.gather(*(server.publish(hanging.url(), Upstash_Timeout="60s") for _ in range(200)))

        await asyncio.gather(*(server.publish(receiver.url(), f"{n}") for n in range(50)))

        await receiver.wait_for(50)
        assert len(hanging.requests()) <= 40 + 1  # one half of the slots; the share of 30 counts beyond


async def test_a_backlog_is_drained_by_a_node_that_starts_later(serve: Serve, receiver: Receiver) -> None:
    api = await serve(roles="api")
    ids = await asyncio.gather(*(api.publish(receiver.url(), f"{n}") for n in range(300)))
    assert receiver.requests() == []

    await serve(roles="dispatcher")

    requests = await receiver.wait_for(300)
    assert {request.header("Upstash-Message-Id") for request in requests} == set(ids)
    await eventually(lambda: api.events(state="DELIVERED"), lambda events: len(events) == 300)
    assert len(receiver.requests()) == 300


async def test_two_nodes_share_the_work_without_doubling_it(serve: Serve, receiver: Receiver) -> None:
    one, two = await serve(), await serve()

    await asyncio.gather(
        *((one if n % 2 else two).publish(receiver.url(), f"{n}", Upstash_Delay="1s") for n in range(200))
    )

    await receiver.wait_for(200)
    await eventually(lambda: one.events(state="DELIVERED"), lambda events: len(events) == 200)
    assert sorted(int(request.body) for request in receiver.requests()) == list(range(200))


async def test_a_stop_finishes_what_is_in_progress(serve: Serve, receiver: Receiver, database_url: str) -> None:
    release = asyncio.Event()
    receiver.script("/", hold(release, status(200)))
    server = await serve()
    message_id = await server.publish(receiver.url())
    await receiver.next_request()
    assert server.node.dispatcher is not None

    stopping = asyncio.create_task(server.node.dispatcher.stop(timedelta(seconds=10)))
    release.set()
    await stopping

    assert await server.states(message_id) == ["CREATED", "ACTIVE", "DELIVERED"]


async def test_a_stop_gives_back_what_does_not_end_in_time(serve: Serve, receiver: Receiver) -> None:
    receiver.script("/", never(), status(200))
    server = await serve()
    message_id = await server.publish(receiver.url())
    await receiver.next_request()
    assert server.node.dispatcher is not None

    await server.node.dispatcher.stop(timedelta(0))

    assert await server.states(message_id) == ["CREATED"]
    other = await serve()
    await other.settled(message_id)
    assert [request.header("Upstash-Retried") for request in receiver.requests()] == ["0", "0"]


async def test_another_tenants_message_does_not_exist(server: Running, receiver: Receiver) -> None:
    from postroad.dev import DEV_USERS

    message_id = await server.publish(receiver.url(), Upstash_Delay="1h")
    stranger = {"Authorization": f"Bearer {DEV_USERS[1].token}"}

    answers = [
        await server.http.get(f"/v2/messages/{message_id}", headers=stranger),
        await server.http.delete(f"/v2/messages/{message_id}", headers=stranger),
        await server.http.post(f"/v2/messages/{message_id}/retry", headers=stranger),
    ]

    assert [answer.status_code for answer in answers] == [404, 404, 404]
    assert (await server.http.get("/v2/events", headers=stranger)).json() == {"events": []}
    assert (await server.http.delete("/v2/messages", headers=stranger)).json() == {"cancelled": 0}
    assert DEV_USERS[1].token != TOKEN


async def test_a_response_that_the_database_refuses_does_not_hold_up_the_others(
    server: Running, connection: Connection, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    await connection.execute("alter table dead_letters add constraint no_poison check (body <> 'poison')")
    receiver.script("/bad", status(500, b"poison"))

    bad = await server.publish(receiver.url("/bad"), Upstash_Retries="0", Upstash_Callback=receiver.url("/report"))
    good = [await server.publish(receiver.url("/good"), f"{n}") for n in range(20)]

    for message_id in good:
        await server.settled(message_id)
    await server.settled(bad, "FAILED")
    [letter] = await server.dead_letters()
    assert letter["responseBody"] == "the response could not be stored"
    assert "no_poison" in caplog.text
    assert b"poison".hex() not in caplog.text, "the database quotes the row; a body must not get into the log"
    await receiver.next_request("/report")


async def test_what_is_cancelled_before_a_stop_does_not_come_back_after_it(serve: Serve, receiver: Receiver) -> None:
    receiver.script("/", never(), status(200))
    server = await serve()
    message_id = await server.publish(receiver.url())
    await receiver.next_request()
    assert (await server.http.delete(f"/v2/messages/{message_id}")).json() == {"cancelled": 1}
    assert server.node.dispatcher is not None

    await server.node.dispatcher.stop(timedelta(0))

    other = await serve()
    assert await other.states(message_id) == ["CREATED", "CANCEL_REQUESTED", "CANCELED"]
    await other.publish(receiver.url("/next"))
    await receiver.next_request("/next")
    assert len(receiver.requests("/")) == 1


async def test_a_large_message_to_one_destination_does_not_wait_for_those_of_another(
    server: Running, receiver: Receiver
) -> None:
    large = b"x" * 70_000
    async with Receiver() as hanging:
        hanging.script("/", never())
        await asyncio.gather(*(server.publish(hanging.url(), large) for _ in range(80)))
        await hanging.wait_for(32)

        await server.publish(receiver.url(), large)

        assert (await receiver.next_request()).body == large
        assert len(hanging.requests()) <= 40


async def test_a_message_of_a_newer_version_fails_by_itself_and_stops_nobody(
    server: Running, connection: Connection, receiver: Receiver
) -> None:
    odd = await server.publish(receiver.url("/odd"), Upstash_Delay="1h", Upstash_Retries="0")
    missing = await server.publish(receiver.url("/missing"), Upstash_Delay="1h")
    await connection.execute("update messages set method = 9 where url like '%/odd'")
    await connection.execute("delete from messages where url like '%/missing'")
    await server.time_passes(timedelta(hours=1))

    await server.settled(odd, "FAILED")
    assert await server.settled(await server.publish(receiver.url("/good"))) == ["CREATED", "ACTIVE", "DELIVERED"]
    assert await connection.fetchval("select count(*) from deliveries") == 0
    assert receiver.requests("/odd") == receiver.requests("/missing") == []
    assert missing != odd


@pytest.mark.parametrize(
    "damage",
    [
        'options = \'{"timeout": "x"}\'',
        "options = '{\"flow_control\": {}}'",
        "options = '[]'",
        "header = '[1]'",
    ],
)
async def test_a_row_that_nobody_can_read_becomes_a_dead_letter_and_stops_nobody(
    server: Running, connection: Connection, receiver: Receiver, damage: str
) -> None:
    bad = await server.publish(receiver.url("/bad"), Upstash_Delay="1h")
    await connection.execute(f"update messages set {damage} where url like '%/bad'")
    good = await server.publish(receiver.url("/good"), Upstash_Delay="1h")

    await server.time_passes(timedelta(hours=1))

    await server.settled(good)
    await server.settled(bad, "FAILED")
    [letter] = (await server.http.get("/v2/dlq")).json()["messages"]
    assert "cannot be read" in letter["body"]
    assert receiver.requests("/bad") == []


async def test_a_node_that_only_accepts_wakes_one_that_only_delivers(
    serve: Serve, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the hint, the next look would be an hour away."""
    monkeypatch.setattr(waker, "IDLE_POLL_S", 3600.0)
    monkeypatch.setattr(waker, "BUSY_POLL_S", 3600.0)
    dispatcher = await serve(roles="dispatcher")
    api = await serve(roles="api")
    connection = await asyncpg.connect(api.database_url)
    listening = "select count(*) from pg_stat_activity where datname = current_database() and query like 'LISTEN%'"
    await eventually(lambda: connection.fetchval(listening), lambda n: n == 1)
    await connection.close()

    message_id = await api.publish(receiver.url(), b"at once")
    await receiver.next_request()
    await api.publish(receiver.url(), b"later", Upstash_Delay="1s")

    assert (await receiver.next_request()).body == b"later"
    assert (await api.settled(message_id))[-1] == "DELIVERED"
    assert dispatcher.node.dispatcher is not None
