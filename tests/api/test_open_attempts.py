"""Attempts that are left to their handlers, and reports on them, where something comes between."""

from __future__ import annotations

import asyncio
import json
from base64 import b64decode
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest

from postroad import event_feed, reporting, watching
from postroad.domain.ids import MessageId, parse_message_id
from postroad.domain.log import State
from postroad.domain.status import Report
from postroad.domain.tenant import TenantId
from postroad.errors import IntakeFull, KeyMissing, TooManyWaiting
from postroad.event_feed import EventFeed
from postroad.reporting import Reporting
from postroad.store.engine import Connection, Database
from postroad.store.filters import Filters
from postroad.store.log_searches import Search
from postroad.store.statuses import NewReport
from postroad.tenancy import Tenancy
from postroad.watching import StatusWatch
from tests.conftest import Running, Serve, eventually
from tests.moods import Mood, handled, ok, status
from tests.receiver import Received, Receiver
from tests.security.test_sealing import a_key

WAIT = status(202, b"taken", [("Upstash-Ack", "wait")])
TENANT = TenantId(1)
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


@pytest.fixture
async def public(serve: Serve) -> Running:
    """A server that knows where it is reached."""
    return await serve(public=True, key_rotation_guard=timedelta(0))


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


async def until(server: Running, message_id: str, phase: str) -> dict[str, Any]:
    found: dict[str, Any] = await eventually(
        lambda: seen(server, message_id), lambda status: bool(status["status"] == phase)
    )
    return found


async def opened(server: Running, receiver: Receiver, path: str = "/job") -> str:
    """The status URL of the next attempt, which is open by then."""
    url = (await receiver.next_request(path)).header("Upstash-Status-Url")
    assert url is not None
    await server.drain()
    return url


def identity(message_id: str) -> MessageId:
    found = parse_message_id(message_id)
    assert found is not None
    return found


async def test_the_result_of_an_acknowledgement_counts_more_than_what_was_reported_before(
    public: Running, receiver: Receiver, handler: httpx.AsyncClient
) -> None:
    receiver.script("/job", WAIT)
    message_id = await public.publish(receiver.url("/job"))
    url = await opened(public, receiver)

    await handler.post(url, json={"result": {"rows": 1}})
    acked = await handler.post(url, json={"ack": True, "result": {"rows": 2}})

    assert acked.json()["result"] == {"rows": 2}
    assert (await seen(public, message_id))["result"] == {"rows": 2}


async def test_a_result_is_not_lost_behind_many_reports(
    public: Running, receiver: Receiver, connection: Connection
) -> None:
    message_id = await public.publish(receiver.url("/job"), Upstash_Delay="1h")
    await public.http.post(f"/v2/status/{message_id}", json={"result": {"rows": 1}, "progress": 5, "note": "begun"})

    await connection.execute(
        "insert into reports (message_id, tenant_id, log) select $1, tenant_id, 'x' from messages, "
        "generate_series(1, 1500) where id = $1",
        identity(message_id),
    )
    found = await seen(public, message_id)

    assert (found.get("result"), found.get("progress"), found.get("note")) == ({"rows": 1}, 5, "begun")


async def test_a_handler_can_acknowledge_after_the_keys_were_rotated(
    public: Running, receiver: Receiver, handler: httpx.AsyncClient
) -> None:
    receiver.script("/job", WAIT)
    await public.publish(receiver.url("/job"))
    url = await opened(public, receiver)

    await public.http.post("/v2/keys/rotate")
    once = await handler.post(url, json={"heartbeat": True})
    await public.http.post("/v2/keys/rotate")
    twice = await handler.post(url, json={"ack": True})

    assert once.status_code == 200, "its work would be done again"
    assert twice.status_code == 401


async def test_a_retry_after_a_nack_goes_by_the_publishers_formula(
    public: Running, receiver: Receiver, handler: httpx.AsyncClient
) -> None:
    receiver.script("/job", WAIT)
    message_id = await public.publish(receiver.url("/job"), Upstash_Retry_Delay="7200000")
    url = await opened(public, receiver)

    await handler.post(url, json={"nack": "not now"})
    [waiting] = (await public.http.get("/v2/messages", params={"messageIds": message_id})).json()["messages"]

    assert 7_100_000 < waiting["dueAt"] - waiting["createdAt"] < 7_300_000


async def test_a_worker_may_show_signs_of_life_before_its_handler_has_answered(
    public: Running, receiver: Receiver, handler: httpx.AsyncClient
) -> None:
    beats: list[asyncio.Task[httpx.Response]] = []

    async def hand_on(request: Received) -> Mood:
        url = request.header("Upstash-Status-Url")
        assert url is not None
        beats.append(asyncio.create_task(handler.post(url, json={"heartbeat": True})))
        await asyncio.sleep(0.2)  # the sign of life is under way by then
        return WAIT

    receiver.script("/job", handled(hand_on))
    await public.publish(receiver.url("/job"))
    await receiver.next_request("/job")

    assert (await beats[0]).status_code == 200


async def test_a_flow_control_key_is_kept_until_the_acknowledgement_and_let_go_once(
    public: Running, receiver: Receiver, handler: httpx.AsyncClient
) -> None:
    receiver.script("/job", WAIT)
    for body in ("1", "2", "3"):
        await public.publish(
            receiver.url("/job"), body, Upstash_Flow_Control_Key="k", Upstash_Flow_Control_Value="parallelism=1"
        )
    first = await opened(public, receiver)
    assert len(receiver.requests("/job")) == 1

    await asyncio.gather(*(handler.post(first, json={"ack": True}) for _ in range(5)))
    second = await opened(public, receiver)

    assert second != first
    assert len(receiver.requests("/job")) == 2


async def test_an_acknowledgement_races_with_a_nack_and_one_of_them_counts(
    public: Running, receiver: Receiver, handler: httpx.AsyncClient
) -> None:
    receiver.script("/job", WAIT)
    receiver.script("/callback", ok())
    message_id = await public.publish(
        receiver.url("/job"), Upstash_Callback=receiver.url("/callback"), Upstash_Retries="0"
    )
    url = await opened(public, receiver)

    answers = await asyncio.gather(
        *(handler.post(url, json=said) for said in ({"ack": True}, {"nack": "no"}, {"heartbeat": True}) * 3)
    )
    await receiver.next_request("/callback")
    await public.drain()

    assert {answer.status_code for answer in answers} <= {200, 409}
    assert len(receiver.requests("/callback")) == 1
    assert (await seen(public, message_id))["attempts"] == 1


async def test_the_failure_callback_of_an_attempt_that_was_given_up_says_why(
    public: Running, receiver: Receiver, handler: httpx.AsyncClient
) -> None:
    receiver.script("/job", WAIT)
    message_id = await public.publish(
        receiver.url("/job"), b"sent", Upstash_Failure_Callback=receiver.url("/failed"), Upstash_Retries="0"
    )
    url = await opened(public, receiver)

    await handler.post(url, json={"nack": "the disk is full"})
    told = json.loads((await receiver.next_request("/failed")).body)

    assert (told["sourceMessageId"], told["sourceBody"], told["status"]) == (message_id, "c2VudA==", 0)
    assert b64decode(told["body"]) == b"the disk is full"


async def test_waits_that_nothing_is_left_of_do_not_keep_others_from_ending(
    public: Running, receiver: Receiver, connection: Connection
) -> None:
    receiver.script("/job", WAIT, ok())
    await connection.execute(
        "insert into waits (message_id, tenant_id, lease, span, deadline) "
        "select gen_random_uuid(), 1, 1, '1 minute', now() - interval '1 day' from generate_series(1, 250)"
    )
    message_id = await public.publish(receiver.url("/job"), Upstash_Retry_Delay="0")
    await opened(public, receiver)

    await public.time_passes(timedelta(minutes=20))

    assert (await until(public, message_id, "completed"))["attempts"] == 2
    await eventually(lambda: connection.fetchval("select count(*) from waits"), lambda count: bool(count == 0))


async def test_a_wait_that_cannot_be_ended_here_does_not_keep_others_from_ending(
    public: Running, receiver: Receiver, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Tenancy.profile

    async def profile(self: Tenancy, tenant_id: TenantId) -> Any:
        if tenant_id != TENANT:
            raise KeyMissing(7)
        return await known(self, tenant_id)

    monkeypatch.setattr(Tenancy, "profile", profile)
    receiver.script("/job", WAIT, ok())
    await connection.execute(
        "insert into waits (message_id, tenant_id, lease, span, deadline) "
        "select gen_random_uuid(), 2, 1, '1 minute', now() - interval '1 day' from generate_series(1, 101)"
    )
    message_id = await public.publish(receiver.url("/job"), Upstash_Retry_Delay="0")
    await opened(public, receiver)

    await public.time_passes(timedelta(minutes=20))

    assert (await until(public, message_id, "completed"))["attempts"] == 2


async def test_an_open_attempt_whose_message_is_missing_ends(
    public: Running, receiver: Receiver, connection: Connection
) -> None:
    receiver.script("/job", WAIT, ok())
    enqueue = f"/v2/enqueue/line/{receiver.url('/job')}"
    for body in ("1", "2"):
        assert (await public.http.post(enqueue, content=body)).is_success
    await opened(public, receiver)

    await connection.execute("delete from messages where id = (select message_id from waits)")
    await public.time_passes(timedelta(minutes=20))

    assert (await receiver.next_request("/job")).body == b"2"
    await public.drain()
    assert await connection.fetchval("select count(*) from deliveries") == 0


@pytest.mark.parametrize("path", ["", "/stream"])
async def test_a_deep_answer_of_a_destination_is_shown_as_text(server: Running, receiver: Receiver, path: str) -> None:
    deep = "[" * 500 + "]" * 500
    receiver.script("/job", ok(deep.encode()))
    message_id = await server.publish(receiver.url("/job"))
    await server.settled(message_id)

    answer = await server.http.get(f"/v2/status/{message_id}{path}")

    assert answer.status_code == 200
    assert deep in answer.text


async def test_what_is_waiting_to_be_reported_is_bounded_in_bytes(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporting, "WAITING_BYTES", 250_000)
    reports = Reporting(database)
    one = NewReport(TENANT, MessageId(UUID(int=1)), Report(log="x" * 64_000), None)
    waiting = [asyncio.create_task(reports.add(one)) for _ in range(3)]
    await asyncio.sleep(0)

    with pytest.raises(IntakeFull):
        async with asyncio.timeout(5):
            await reports.add(one)
    storing = asyncio.create_task(reports.run())
    await asyncio.gather(*waiting)
    await reports.add(one)
    storing.cancel()

    async with database.connection() as connection:
        assert await connection.fetchval("select count(*) from reports") == 4


async def test_one_tenant_leaves_room_for_others_to_wait(
    server: Running, receiver: Receiver, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "MOST_OF_TENANT", 1)
    monkeypatch.setattr(event_feed, "MOST_OF_TENANT", 1)
    watch, feed = StatusWatch(database), EventFeed(database)
    message_id = identity(await server.publish(receiver.url("/job"), Upstash_Delay="1h"))
    mine = Search(TENANT, Filters(), frozenset(State), after=None, limit=1, oldest_first=True)
    theirs = replace(mine, tenant_id=TenantId(2))
    waiting = watch.follow(TENANT, message_id)
    await anext(waiting)
    listening = feed.follow(replace(mine, filters=Filters(since=LONG_AGO)), body_bytes=0)
    await anext(listening)

    with pytest.raises(TooManyWaiting):
        await anext(watch.follow(TENANT, message_id))
    with pytest.raises(TooManyWaiting):
        await feed.beginning(mine)

    assert await anext(watch.follow(TenantId(2), message_id)) is None, "it is not theirs"
    assert (await feed.beginning(theirs)).after is not None
    await waiting.aclose()
    await listening.aclose()
    assert (await feed.beginning(mine)).after is not None


async def test_nothing_that_a_handler_says_is_stored_in_the_clear(
    serve: Serve, receiver: Receiver, handler: httpx.AsyncClient, connection: Connection
) -> None:
    public = await serve(public=True, encryption_key=a_key())
    receiver.script("/job", WAIT)
    waiting = await public.publish(receiver.url("/job"), b"at first", Upstash_Delay="1h")
    message_id = await public.publish(receiver.url("/job"), Upstash_Callback=receiver.url("/callback"))
    url = await opened(public, receiver)

    changed = await public.http.patch(
        f"/v2/messages/{waiting}", json={"body": "SECRET body", "headers": {"x-a": "SECRET header"}, "delay": "0s"}
    )
    await handler.post(url, json={"note": "SECRET note", "log": "SECRET line", "result": "SECRET result"})
    await handler.post(url, json={"ack": True, "result": "SECRET end"})
    told = json.loads((await receiver.next_request("/callback")).body)
    delivered = await receiver.next_request("/job")
    found = await seen(public, message_id)

    assert changed.status_code == 200
    assert (delivered.body, delivered.header("X-A")) == (b"SECRET body", "SECRET header")
    assert b64decode(told["body"]) == b'"SECRET end"'
    assert (found["result"], found["note"]) == ("SECRET end", "SECRET note")
    for table in ("reports", "messages", "attempts"):
        rows = await connection.fetch(f"select t::text as row from {table} t")
        assert rows
        assert not [row["row"] for row in rows if "SECRET" in row["row"] or b"SECRET".hex() in row["row"]]


async def test_those_who_wait_for_one_message_are_counted_each(
    server: Running, receiver: Receiver, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "MOST_WATCHED", 2)
    message_id = identity(await server.publish(receiver.url("/job"), Upstash_Delay="1h"))
    watch = StatusWatch(database)
    first, second, third = [watch.follow(TENANT, message_id) for _ in range(3)]
    await anext(first)
    await anext(second)

    with pytest.raises(TooManyWaiting):
        await anext(third)
    await first.aclose()
    again = watch.follow(TENANT, message_id)

    assert await anext(again) is not None
    await again.aclose()
    await second.aclose()
