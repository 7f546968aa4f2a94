"""What becomes of a message: asked for, waited for, streamed; reported and acknowledged by its handler."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import httpx
import pytest

from postroad import dev
from postroad.store.engine import Connection
from tests.conftest import KEYS, Running, Serve, eventually
from tests.moods import Mood, handled, hold, ok, status
from tests.receiver import Received, Receiver

OTHER = {"Authorization": f"Bearer {dev.DEV_USERS[1].token}"}
WAIT = status(202, b"taken", [("Upstash-Ack", "wait")])


@pytest.fixture
async def public(serve: Serve) -> Running:
    """A server that knows where it is reached."""
    return await serve(public=True)


@pytest.fixture
async def handler() -> AsyncIterator[httpx.AsyncClient]:
    """A client without a token, as the handler of a message is one."""
    async with httpx.AsyncClient(timeout=30) as client:
        yield client


async def seen(server: Running, message_id: str, **query: str) -> dict[str, Any]:
    answer = await server.http.get(f"/v2/status/{message_id}", params=query)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def status_url(receiver: Receiver, path: str = "/job") -> str:
    url = (await receiver.next_request(path)).header("Upstash-Status-Url")
    assert url is not None
    return url


async def until(server: Running, message_id: str, phase: str) -> dict[str, Any]:
    found: dict[str, Any] = await eventually(
        lambda: seen(server, message_id), lambda status: bool(status["status"] == phase)
    )
    return found


# Where a message stands


async def test_a_message_is_pending_then_processing_then_completed_with_what_was_answered(
    server: Running, receiver: Receiver
) -> None:
    release = asyncio.Event()
    receiver.script("/job", hold(release, ok(b'{"rows":3}')))
    later = await server.publish(receiver.url("/other"), Upstash_Delay="1h")
    message_id = await server.publish(receiver.url("/job"))
    await receiver.next_request("/job")

    before = await seen(server, message_id)
    release.set()
    after = await until(server, message_id, "completed")

    assert (await seen(server, later))["status"] == "pending"
    assert (await seen(server, later))["attempts"] == 0
    assert (before["status"], before["attempts"], before["id"]) == ("processing", 1, message_id)
    assert (after["result"], after["progress"], after["attempts"]) == ({"rows": 3}, 100, 1)
    assert after["createdAt"] <= before["updatedAt"] <= after["updatedAt"]
    assert "error" not in after


async def test_a_failed_message_says_why_and_one_that_is_tried_again_too(server: Running, receiver: Receiver) -> None:
    receiver.script("/job", status(503))
    failed = await server.publish(receiver.url("/job"), Upstash_Retries="0")
    again = await server.publish(receiver.url("/job"), Upstash_Retries="1", Upstash_Retry_Delay="3600000")

    ended = await until(server, failed, "failed")
    waiting = await eventually(lambda: seen(server, again), lambda found: "error" in found)

    assert (ended["error"], ended["attempts"]) == ("the destination answered 503", 1)
    assert (waiting["status"], waiting["error"]) == ("pending", "the destination answered 503")


async def test_a_canceled_message_is_canceled(server: Running, receiver: Receiver) -> None:
    message_id = await server.publish(receiver.url("/job"), Upstash_Delay="1h")

    await server.http.delete(f"/v2/messages/{message_id}")

    assert (await seen(server, message_id))["status"] == "canceled"


@pytest.mark.parametrize(
    ("body", "shown"), [(b"plain", "plain"), (b'"json"', "json"), (b"[1,2]", [1, 2]), (b"\xff", "�")]
)
async def test_a_result_is_json_or_text(server: Running, receiver: Receiver, body: bytes, shown: object) -> None:
    receiver.script("/job", ok(body))

    message_id = await server.publish(receiver.url("/job"))

    assert (await until(server, message_id, "completed"))["result"] == shown


async def test_a_long_result_is_cut_and_says_so(server: Running, receiver: Receiver) -> None:
    receiver.script("/job", ok(b"x" * 100_000))

    found = await until(server, await server.publish(receiver.url("/job")), "completed")

    assert (len(found["result"]), found["resultCut"]) == (64 * 1024, True)


async def test_the_result_of_a_message_with_a_hidden_body_is_a_hash(server: Running, receiver: Receiver) -> None:
    receiver.script("/job", ok(b"secret"))

    message_id = await server.publish(receiver.url("/job"), Upstash_Redact_Fields="body")

    assert (await until(server, message_id, "completed"))["result"].startswith("REDACTED:")


async def test_whoever_waits_is_answered_at_the_end_and_in_time_otherwise(server: Running, receiver: Receiver) -> None:
    release = asyncio.Event()
    receiver.script("/job", hold(release, ok(b"done")))
    message_id = await server.publish(receiver.url("/job"))
    await receiver.next_request("/job")

    too_soon = await seen(server, message_id, wait="1s")
    waiting = asyncio.create_task(seen(server, message_id, wait="30s"))
    release.set()

    assert too_soon["status"] == "processing"
    assert (await waiting)["result"] == "done"


async def test_a_stream_tells_each_change_and_ends_with_the_message(server: Running, receiver: Receiver) -> None:
    release = asyncio.Event()
    receiver.script("/job", hold(release, ok(b"done")))
    message_id = await server.publish(receiver.url("/job"), Upstash_Delay="2s")
    told: list[str] = []

    async with server.http.stream("GET", f"/v2/status/{message_id}/stream") as answer:
        assert answer.headers["content-type"] == "text/event-stream"
        async for line in answer.aiter_lines():
            if line.startswith("data: "):
                told.append(json.loads(line[6:])["status"])
                if told[-1] == "processing":
                    release.set()

    assert told == ["pending", "processing", "completed"]


@pytest.mark.parametrize("path", ["", "/stream"])
async def test_what_is_not_this_tenants_or_nobodys_is_not_found(server: Running, receiver: Receiver, path: str) -> None:
    message_id = await server.publish(receiver.url("/job"))

    for name, headers in ((message_id, OTHER), ("msg_2222222222222222222222", {}), ("x", {})):
        answer = await server.http.get(f"/v2/status/{name}{path}", headers=headers)
        assert (answer.status_code, answer.json()) == (404, {"error": f"message {name} not found"})


@pytest.mark.parametrize("query", [{"wait": "soon"}, {"wait": "11m"}, {"waits": "1s"}])
async def test_a_wait_that_means_nothing_is_refused(server: Running, receiver: Receiver, query: dict[str, str]) -> None:
    message_id = await server.publish(receiver.url("/job"))

    answer = await server.http.get(f"/v2/status/{message_id}", params=query)

    assert answer.status_code == 400
    assert next(iter(query)) in answer.json()["error"]


# Reports


async def test_a_handler_reports_to_the_url_that_it_was_given(
    public: Running, receiver: Receiver, handler: httpx.AsyncClient
) -> None:
    release = asyncio.Event()
    receiver.script("/job", hold(release, ok(b"answered")))
    message_id = await public.publish(receiver.url("/job"))
    url = await status_url(receiver)

    answer = await handler.post(url, json={"progress": 40, "note": "reading", "log": "line 1"})
    begun = await seen(public, message_id)
    await handler.post(url, json={"progress": 50.5, "result": {"rows": 7}})
    before = await seen(public, message_id)
    release.set()
    after = await until(public, message_id, "completed")

    assert (answer.status_code, answer.json()) == (200, {"id": message_id})
    assert (begun["progress"], begun["note"]) == (40, "reading")
    assert (before["progress"], before["note"], before["result"]) == (50.5, "reading", {"rows": 7})
    assert (after["progress"], after["result"]) == (100, {"rows": 7}), "what was reported counts more than the answer"


async def test_without_a_public_url_nothing_is_said_of_one(server: Running, receiver: Receiver) -> None:
    await server.publish(receiver.url("/job"))

    assert (await receiver.next_request("/job")).header("Upstash-Status-Url") is None


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({"progress": 101}, "progress"),
        ({"progress": -0.1}, "progress"),
        ({"progress": "5"}, "progress"),
        ({"progress": True}, "progress"),
        ({"note": 5}, "note"),
        ({"note": "x" * 1_001}, "note"),
        ({"log": ["x"]}, "log"),
        ({"result": "x" * 70_000}, "result"),
        ({"percent": 5}, "percent"),
        ({"ack": 1}, "ack"),
        ({"ack": True, "nack": "no"}, "nack"),
        ({"heartbeat": "soon"}, "heartbeat"),
        ({"heartbeat": "8d"}, "heartbeat"),
        ({"nack": "x", "delay": "-1"}, "delay"),
    ],
)
async def test_a_bad_report_is_refused_by_its_field_and_not_stored(
    server: Running, receiver: Receiver, document: dict[str, Any], field: str
) -> None:
    message_id = await server.publish(receiver.url("/job"), Upstash_Delay="1h")

    answer = await server.http.post(f"/v2/status/{message_id}", json={"note": "kept", **document})

    assert answer.status_code == 400
    assert field in answer.json()["error"]
    assert "note" not in await seen(server, message_id)


@pytest.mark.parametrize(
    ("query", "body", "code"),
    [
        ("access=", b"{}", 401),
        ("xaccess=1", b"{}", 401),
        ("access=%ff", b"{}", 401),
        (None, b"[1]", 400),
        (None, b"{", 400),
        (None, b'{"progress":101}', 400),
        (None, b'{"log":"' + b"x" * 300_000 + b'"}', 413),
    ],
)
async def test_a_bad_report_by_url_is_refused(
    public: Running, receiver: Receiver, handler: httpx.AsyncClient, query: str | None, body: bytes, code: int
) -> None:
    await public.publish(receiver.url("/job"))
    url = await status_url(receiver)

    answer = await handler.post(url if query is None else f"{url.partition('?')[0]}?{query}", content=body)

    assert answer.status_code == code
    assert answer.json()["error"]


async def test_many_reports_at_once_are_all_there(public: Running, receiver: Receiver) -> None:
    message_id = await public.publish(receiver.url("/job"), Upstash_Delay="1h")

    answers = await asyncio.gather(
        *(public.http.post(f"/v2/status/{message_id}", json={"log": str(n)}) for n in range(200))
    )
    lines: list[dict[str, Any]] = []
    cursor: str | None = "0"
    while cursor is not None:
        page = (await public.http.get(f"/v2/status/{message_id}/log", params={"cursor": cursor})).json()
        lines += page["lines"]
        cursor = page.get("cursor")

    assert {answer.status_code for answer in answers} == {200}
    assert sorted(int(line["text"]) for line in lines) == list(range(200))


# URLs


async def test_a_url_shows_one_message_to_any_page_and_nothing_else(
    public: Running, receiver: Receiver, handler: httpx.AsyncClient
) -> None:
    receiver.script("/job", ok(b"done"))
    message_id, other = [await public.publish(receiver.url("/job")) for _ in range(2)]
    made = await public.http.post(f"/v2/status/{message_id}/url", json={"expiresIn": "10m"})
    url = made.json()["url"]

    answer = await handler.get(url, headers={"Origin": "https://app.example"})

    assert made.status_code == 200
    assert (answer.status_code, answer.json()["id"]) == (200, message_id)
    assert answer.headers["access-control-allow-origin"] == "*"
    assert (await handler.get(url.replace(message_id, other))).status_code == 401
    assert (await handler.post(url, json={"progress": 1})).status_code == 401
    assert (await handler.get(url.replace("/v2/status/", "/v2/messages/"))).status_code == 401
    with_token = await public.http.get(f"/v2/status/{message_id}", headers={"Origin": "https://app.example"})
    assert "access-control-allow-origin" not in with_token.headers


async def test_a_url_that_expired_was_changed_or_signed_with_a_rotated_key_is_none(
    serve: Serve, receiver: Receiver, handler: httpx.AsyncClient
) -> None:
    public = await serve(public=True, key_rotation_guard=timedelta(0))
    message_id = await public.publish(receiver.url("/job"))
    expired = (await public.http.post(f"/v2/status/{message_id}/url", json={"expiresIn": "1s"})).json()["url"]
    good = (await public.http.post(f"/v2/status/{message_id}/url")).json()["url"]
    changed = good[:-5] + ("A" if good[-5] != "A" else "B") + good[-4:]
    assert (await handler.get(good)).status_code == 200

    refused = await eventually(lambda: handler.get(expired), lambda answer: bool(answer.status_code == 401))
    await public.http.post("/v2/keys/rotate")

    assert refused.status_code == 401
    for url in (good, changed, good.partition("=")[0] + "=", good.partition("=")[0] + "=%C3%A4"):
        assert (await handler.get(url)).status_code == 401


# Acknowledgements


async def test_an_attempt_stays_open_until_it_is_acknowledged(
    public: Running, receiver: Receiver, handler: httpx.AsyncClient
) -> None:
    receiver.script("/job", WAIT)
    message_id = await public.publish(receiver.url("/job"), Upstash_Callback=receiver.url("/callback"))
    url = await status_url(receiver)
    await public.drain()

    waiting = await seen(public, message_id)
    acked = await handler.post(url, json={"ack": True, "result": {"rows": 7}, "note": "all of them"})
    callback = json.loads((await receiver.next_request("/callback")).body)
    again = await handler.post(url, json={"ack": True})

    assert waiting["status"] == "processing"
    assert (acked.status_code, acked.json()["status"], acked.json()["result"]) == (200, "completed", {"rows": 7})
    assert (callback["status"], callback["body"]) == (200, "eyJyb3dzIjo3fQ==")
    assert again.status_code == 200, "whoever did not hear the answer may say it again"
    assert await public.settled(message_id) == ["CREATED", "ACTIVE", "DELIVERED"]


async def test_a_worker_may_be_done_before_its_handler_has_answered(
    public: Running, receiver: Receiver, handler: httpx.AsyncClient
) -> None:
    acks: list[asyncio.Task[httpx.Response]] = []

    async def hand_on(request: Received) -> Mood:
        url = request.header("Upstash-Status-Url")
        assert url is not None
        acks.append(asyncio.create_task(handler.post(url, json={"ack": True, "result": 7})))
        await asyncio.sleep(0.2)  # the acknowledgement is under way by then
        return WAIT

    receiver.script("/job", handled(hand_on))
    message_id = await public.publish(receiver.url("/job"))
    await receiver.next_request("/job")

    answer = await acks[0]

    assert (answer.status_code, answer.json()["status"], answer.json()["result"]) == (200, "completed", 7)
    assert (await seen(public, message_id))["attempts"] == 1


async def test_a_handler_that_gives_up_is_tried_again_and_a_late_one_is_told(
    public: Running, receiver: Receiver, handler: httpx.AsyncClient
) -> None:
    receiver.script("/job", WAIT)
    message_id = await public.publish(receiver.url("/job"), Upstash_Retries="1")
    first = await status_url(receiver)
    await public.drain()

    nacked = await handler.post(first, json={"nack": "the disk is full", "delay": "0s"})
    second = await status_url(receiver)
    await public.drain()
    late = await handler.post(first, json={"ack": True})
    failed = await handler.post(second, json={"nack": "still full"})

    assert (nacked.status_code, nacked.json()["error"]) == (200, "the disk is full")
    assert late.status_code == 409
    assert "does not wait for an acknowledgement" in late.json()["error"]
    assert (failed.json()["status"], failed.json()["error"]) == ("failed", "still full")
    assert [letter["messageId"] for letter in await public.dead_letters()] == [message_id]


async def test_a_handler_that_knows_that_no_retry_helps_says_so(
    public: Running, receiver: Receiver, handler: httpx.AsyncClient
) -> None:
    receiver.script("/job", WAIT)
    await public.publish(receiver.url("/job"))
    url = await status_url(receiver)
    await public.drain()

    answer = await handler.post(url, json={"nack": "no such customer", "retry": False})

    assert answer.json()["status"] == "failed"


async def test_a_silent_handler_is_given_up_and_signs_of_life_prolong_its_time(
    public: Running, receiver: Receiver, handler: httpx.AsyncClient, connection: Connection
) -> None:
    async def minutes_left() -> int:
        left: int = await connection.fetchval("select round(extract(epoch from deadline - now()) / 60) from waits")
        return left

    receiver.script("/job", status(202, b"", [("Upstash-Ack", "wait=10m")]), ok(b"second"))
    message_id = await public.publish(receiver.url("/job"), Upstash_Retry_Delay="0")
    url = await status_url(receiver)
    await public.drain()

    await public.time_passes(timedelta(minutes=9))
    assert await minutes_left() == 1
    assert (await handler.post(url, json={"progress": 50})).status_code == 200
    assert await minutes_left() == 10
    await public.time_passes(timedelta(minutes=9))
    assert (await handler.post(url, json={"heartbeat": "1h"})).status_code == 200
    assert await minutes_left() == 60
    await public.time_passes(timedelta(minutes=59))
    alive = await seen(public, message_id)
    await public.time_passes(timedelta(minutes=2))
    ended = await until(public, message_id, "completed")

    assert (alive["status"], alive["attempts"]) == ("processing", 1)
    assert (ended["attempts"], ended["result"]) == (2, "second")
    [error] = await public.events(messageId=message_id, state="ERROR")
    assert error["error"] == "no acknowledgement within 1h"


async def test_an_open_attempt_outlives_the_server(serve: Serve, receiver: Receiver, database_url: str) -> None:
    receiver.script("/job", WAIT)
    first = await serve(public=True)
    message_id = await first.publish(receiver.url("/job"))
    access = (await status_url(receiver)).partition("?")[2]
    await first.drain()
    assert first.node.dispatcher is not None
    await first.node.dispatcher.stop(timedelta(seconds=5))
    second = await serve(public=True)

    await second.time_passes(timedelta(minutes=10))
    async with httpx.AsyncClient() as handler:
        beaten = await handler.post(f"{second.url}/v2/status/{message_id}?{access}", json={"heartbeat": True})
        acked = await handler.post(f"{second.url}/v2/status/{message_id}?{access}", json={"ack": True})

    assert (beaten.status_code, beaten.json()["status"]) == (200, "processing")
    assert (acked.status_code, acked.json()["status"]) == (200, "completed")
    assert len(receiver.requests("/job")) == 1


async def test_a_queue_waits_for_the_acknowledgement_and_its_callback(
    public: Running, receiver: Receiver, handler: httpx.AsyncClient
) -> None:
    receiver.script("/job", WAIT, ok())
    enqueue = f"/v2/enqueue/line/{receiver.url('/job')}"
    for body in ("1", "2"):
        assert (await public.http.post(enqueue, content=body)).is_success
    first: Received = await receiver.next_request("/job")
    await public.drain()
    assert [request.body for request in receiver.requests("/job")] == [b"1"]

    url = first.header("Upstash-Status-Url")
    assert url is not None
    await handler.post(url, json={"ack": True})
    second = await receiver.next_request("/job")

    assert second.body == b"2"


async def test_what_is_canceled_while_it_is_open_ends_with_its_attempt(
    public: Running, receiver: Receiver, handler: httpx.AsyncClient
) -> None:
    receiver.script("/job", WAIT)
    message_id = await public.publish(receiver.url("/job"))
    url = await status_url(receiver)
    await public.drain()

    assert (await public.http.delete(f"/v2/messages/{message_id}")).json() == {"cancelled": 1}
    answer = await handler.post(url, json={"nack": "stopped"})

    assert answer.json()["status"] == "canceled"


@pytest.mark.parametrize(
    "headers", [[], [("Upstash-Ack", "later")], [("Upstash-Ack", "")]], ids=["none", "another word", "empty"]
)
async def test_a_202_without_the_word_is_a_success_as_any_other(
    server: Running, receiver: Receiver, headers: list[tuple[str, str]]
) -> None:
    receiver.script("/job", status(202, b"taken", headers))

    assert (await until(server, await server.publish(receiver.url("/job")), "completed"))["result"] == "taken"


async def test_an_acknowledgement_that_nobody_waits_for_is_a_conflict(server: Running, receiver: Receiver) -> None:
    message_id = await server.publish(receiver.url("/job"), Upstash_Delay="1h")

    for document in ({"ack": True}, {"nack": "no"}, {"heartbeat": True}):
        answer = await server.http.post(f"/v2/status/{message_id}", json=document)
        assert answer.status_code == 409
        assert "pending" in answer.json()["error"]


async def test_an_open_attempt_can_be_ended_with_a_token_too(public: Running, receiver: Receiver) -> None:
    receiver.script("/job", WAIT)
    message_id = await public.publish(receiver.url("/job"))
    await receiver.next_request("/job")
    await public.drain()

    strange = await public.http.post(f"/v2/status/{message_id}", json={"ack": True}, headers=OTHER)
    answer = await public.http.post(f"/v2/status/{message_id}", json={"ack": True})

    assert strange.status_code == 404
    assert answer.json()["status"] == "completed"
    assert KEYS.current not in answer.text
