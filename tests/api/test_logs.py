"""The log of events: its filters, its groups, its bodies, and pages that hold while it grows."""

from __future__ import annotations

import asyncio
import hashlib
from base64 import b64decode
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from itertools import count
from typing import Any

import pytest

from postroad.domain.callback import milliseconds
from postroad.domain.ids import message_text
from postroad.store import log_events
from postroad.store.engine import Connection, Database
from postroad.store.messages import NewMessage, insert
from tests.builders import a_new_message
from tests.conftest import Running, eventually
from tests.moods import hold, status
from tests.receiver import Receiver

KiB = 1024


async def logs(server: Running, path: str = "/v2/logs", **parameters: Any) -> dict[str, Any]:
    answer = await server.http.get(path, params=parameters)
    assert answer.status_code == 200, answer.text
    content: dict[str, Any] = answer.json()
    return content


async def groups(server: Running, **parameters: Any) -> list[dict[str, Any]]:
    """All messages with their events, page by page."""
    found: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        content = await logs(server, groupBy="messageId", **parameters, **cursor)
        found += content["messages"]
        if "cursor" not in content:
            return found
        cursor = {"cursor": content["cursor"]}


def states(group: dict[str, Any]) -> list[str]:
    return [event["state"] for event in group["events"]]


# Filters


async def test_events_are_filtered_by_what_a_message_was_published_through(
    server: Running, receiver: Receiver, connection: Connection
) -> None:
    await server.http.post("/v2/topics/group/endpoints", json={"endpoints": [{"url": receiver.url("/group")}]})
    await server.http.post(f"/v2/enqueue/queue/{receiver.url('/queue')}")
    await server.http.post("/v2/publish/group")
    flow = {"Upstash_Flow_Control_Key": "key", "Upstash_Flow_Control_Value": "parallelism=2, rate=5, period=1m"}
    await server.publish(receiver.url("/flow"), **flow)
    scheduled = await server.publish(receiver.url("/schedule"))
    await receiver.wait_for(4)
    await server.drain()
    await connection.execute("update messages set schedule_id = 'scd_1' where url like '%/schedule'")

    shown = {
        "topicName": ("group", "/group"),
        "queueName": ("queue", "/queue"),
        "flowControlKey": ("key", "/flow"),
        "scheduleId": ("scd_1", "/schedule"),
    }
    for name, (value, path) in shown.items():
        for given in (value, f"other,{value}", [value, "other"]):
            events = await server.events(**{name: given})
            assert [event["state"] for event in events] == ["DELIVERED", "ACTIVE", "CREATED"], (name, given)
            assert {event["url"] for event in events} == {receiver.url(path)}
            assert {event[name] for event in events} == {value}
        assert await server.events(**{name: "other"}) == []
        assert await server.events(**{name: ""}) == []
        assert await server.events(**{name: value, "host": "elsewhere"}) == []
    assert await server.events(queueName="queue", flowControlKey="key") == []
    assert {event["messageId"] for event in await server.events(scheduleId="scd_1")} == {scheduled}
    limited = await server.events(flowControlKey="key")
    assert {(event["parallelism"], event["rate"], event["period"]) for event in limited} == {(2, 5, 60)}


async def test_filters_by_id_and_by_queue_are_both_met(
    server: Running, receiver: Receiver, connection: Connection
) -> None:
    one, other = await server.publish(receiver.url()), await server.publish(receiver.url())
    await receiver.wait_for(2)
    await server.drain()
    await connection.execute("update messages set queue = 'q' where id = (select min(id::text)::uuid from messages)")

    both = {"messageIds": [one, other]}
    assert {event["messageId"] for event in await server.events(**both)} == {one, other}
    assert {event["messageId"] for event in await server.events(**both, queueName="q")} == {one}
    assert await server.events(messageId=other, queueName="q") == []
    assert len(await server.events(messageId=[one, other, "msg_nonsense"], state="DELIVERED")) == 2
    for nothing in ({"state": ""}, {"messageId": ""}, {"messageId": "msg_nonsense"}, {"queueName": ""}):
        assert await server.events(**nothing) == []
        assert await groups(server, **nothing) == []


# Groups


async def test_events_come_in_groups_of_their_message_the_newest_message_first(
    server: Running, receiver: Receiver
) -> None:
    receiver.script("/bad", status(500))
    paths = ["/bad" if n == 5 else "/" for n in range(12)]
    ids = [await server.publish(receiver.url(path), Upstash_Retries="0") for path in paths]
    await receiver.wait_for(12)
    await server.drain()

    page = await logs(server, groupBy="messageId")

    assert [group["messageId"] for group in page["messages"]] == ids[:1:-1], "ten, when no number is given"
    assert set(page) == {"cursor", "messages"}
    for group in page["messages"]:
        bad = group["messageId"] == ids[5]
        assert states(group) == (
            ["FAILED", "ERROR", "ACTIVE", "CREATED"] if bad else ["DELIVERED", "ACTIVE", "CREATED"]
        )
        assert {event["messageId"] for event in group["events"]} == {group["messageId"]}
        assert group["events"] == await server.events(messageId=group["messageId"])
    rest = await logs(server, groupBy="messageId", cursor=page["cursor"])
    assert [group["messageId"] for group in rest["messages"]] == ids[1::-1]
    assert "cursor" not in rest
    assert await logs(server, "/v2/events", groupBy="messageId") == page
    upwards = await groups(server, order="earliestFirst", count=5)
    assert [group["messageId"] for group in upwards] == ids
    assert states(upwards[0]) == ["CREATED", "ACTIVE", "DELIVERED"]


async def test_a_group_shows_the_events_that_were_asked_for_and_is_there_only_for_these(
    server: Running, receiver: Receiver
) -> None:
    receiver.script("/bad", status(500), status(200))
    receiver.script("/lost", status(500))
    for path in ("/", "/bad", "/lost"):
        await server.publish(receiver.url(path), Upstash_Retry_Delay="0", Upstash_Retries="1", Upstash_Label=path)
    await receiver.wait_for(5)
    await server.drain()

    async def found(**filters: Any) -> dict[str, list[str]]:
        return {group["events"][0]["label"]: states(group) for group in await groups(server, **filters)}

    assert await found(state="ERROR") == {"/bad": ["ERROR"], "/lost": ["ERROR", "ERROR"]}
    assert await found(state=["FAILED", "CREATED"], label=["/bad", "/lost"]) == {
        "/bad": ["CREATED"],
        "/lost": ["FAILED", "CREATED"],
    }
    assert await found(state="RETRY", label="/") == {}
    assert await found(state="CANCELED") == {}
    assert await found(toDate=1000) == {}
    [failed] = await server.events(state="FAILED")
    assert "FAILED" in (await found(fromDate=failed["time"], toDate=failed["time"]))["/lost"]
    assert await found(messageId=failed["messageId"], state="DELIVERED") == {}


async def test_pages_of_groups_neither_repeat_nor_skip_a_message_while_the_log_grows(
    server: Running, receiver: Receiver
) -> None:
    before = [await server.publish(receiver.url(), f"{n}") for n in range(12)]
    await receiver.wait_for(12)
    await server.drain()

    seen: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        content = await logs(server, groupBy="messageId", count=5, **cursor)
        seen += [group["messageId"] for group in content["messages"]]
        if "cursor" not in content:
            break
        cursor = {"cursor": content["cursor"]}
        await server.publish(receiver.url(), b"meanwhile")

    assert seen == before[::-1]
    assert "cursor" not in await logs(server, groupBy="messageId", count=12, messageIds=before)


async def test_a_group_shows_at_most_the_last_thousand_events(
    server: Running, receiver: Receiver, connection: Connection
) -> None:
    message_id = await server.publish(receiver.url())
    await server.settled(message_id)
    await connection.execute(
        """
        insert into attempts
          (message_id, tenant_id, lease, retried, active_at, ended_at, duration, outcome, next_due_at)
        select message_id, tenant_id, lease + n, n, ended_at + n * interval '1 ms', ended_at + n * interval '1 ms',
          duration, 3, ended_at
        from attempts, generate_series(1, 400) n
        """
    )

    [group] = await groups(server)

    assert len(group["events"]) == 1000
    assert (await logs(server, messageId=message_id))["events"] == group["events"]
    assert len(await server.events(messageId=message_id, state="ACTIVE")) == 401


@pytest.mark.parametrize("value", ["workflowRunId", "messageid", "1"])
async def test_nothing_else_can_be_grouped_by(server: Running, value: str) -> None:
    for path in ("/v2/logs", "/v2/events"):
        answer = await server.http.get(path, params={"groupBy": value})
        assert answer.status_code == 400
        assert "groupBy" in answer.json()["error"]


# Bodies


@pytest.mark.parametrize(
    ("trim", "body", "response"),
    [
        ("false", b"the body", b"the answer"),
        ("", b"the body", b"the answer"),
        ("3", b"the", b"the"),
        ("1000000000000000000000", b"the body", b"the answer"),
        ("0", None, None),
        ("true", None, None),
        ("True", None, None),
    ],
)
async def test_bodies_are_trimmed_to_as_many_bytes_as_asked_for(
    server: Running, receiver: Receiver, trim: str, body: bytes | None, response: bytes | None
) -> None:
    receiver.script("/", status(500, b"the answer"))
    message_id = await server.publish(receiver.url(), b"the body", Upstash_Retries="0")
    await server.settled(message_id, "FAILED")

    def shown(event: dict[str, Any], name: str) -> bytes | None:
        return b64decode(event[name]) if name in event else None

    events = await server.events(trimBody=trim)
    [group] = await groups(server, trimBody=trim)

    assert {shown(event, "body") for event in events} == {body}
    assert [shown(event, "responseBody") for event in events if event["state"] == "ERROR"] == [response]
    assert group["events"] == events


@pytest.mark.parametrize("trim", ["-1", "some", "1.5", "²"])
async def test_a_trim_that_is_no_number_is_refused(server: Running, trim: str) -> None:
    answer = await server.http.get("/v2/logs", params={"trimBody": trim})

    assert answer.status_code == 400
    assert "trimBody" in answer.json()["error"]


async def test_of_a_large_body_the_first_64_kib_are_shown(server: Running, receiver: Receiver) -> None:
    large, just = b"0123456789abcdef" * (20 * KiB), b"y" * (64 * KiB)
    shown = {}
    for body in (large, just):
        message_id = await server.publish(receiver.url(), body)
        await server.settled(message_id)
        [shown[body]] = {b64decode(event["body"]) for event in await server.events(messageId=message_id)}

    assert shown[large] == large[: 64 * KiB]
    assert shown[just] == just
    assert (await receiver.wait_for(2))[0].body == large


@pytest.mark.parametrize("size", [0, 6, 64 * KiB, 64 * KiB + 1, 200 * KiB])
async def test_a_redacted_body_is_shown_as_the_same_hash_everywhere(
    server: Running, receiver: Receiver, size: int
) -> None:
    body = b"secret"[:size].ljust(size, b"x")
    message_id = await server.publish(
        receiver.url(), body, Upstash_Redact_Fields="body,header[Authorization]",
        Upstash_Forward_Authorization="Bearer hidden", Upstash_Callback=receiver.url("/callback"),
        Upstash_Callback_Forward_Authorization="Bearer hidden too",
    )  # fmt: skip
    await server.settled(message_id)

    message = (await server.http.get(f"/v2/messages/{message_id}")).json()
    whole = await server.events(messageId=message_id)
    trimmed = await server.events(messageId=message_id, trimBody=3)
    none = await server.events(messageId=message_id, trimBody=0)

    expected = {"REDACTED:" + hashlib.sha256(body).hexdigest()} if body else {None}
    assert {event.get("body") for event in whole + trimmed} == expected
    assert message["body"] in expected | {"REDACTED:" + hashlib.sha256(b"").hexdigest()}
    assert all("body" not in event for event in none)
    for event in whole + trimmed + none:
        assert "hidden" not in str(event)
        assert event["header"]["Authorization"][0].startswith("REDACTED:")
        assert event["callbackHeaders"]["Authorization"][0].startswith("REDACTED:")


async def test_a_page_ends_early_when_its_bodies_are_large(
    server: Running, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_events, "PAGE_BODY_BYTES", 250)
    for _ in range(3):
        await server.publish(receiver.url(), b"x" * 100)
    await receiver.wait_for(3)
    await server.drain()

    seen: list[tuple[str, str]] = []
    pages: list[int] = []
    cursor: dict[str, str] = {}
    while True:
        content = await logs(server, **cursor)
        pages.append(len(content["events"]))
        seen += [(event["messageId"], event["state"]) for event in content["events"]]
        if "cursor" not in content:
            break
        cursor = {"cursor": content["cursor"]}

    assert pages == [2, 2, 2, 2, 1]
    assert len(set(seen)) == 9
    assert "cursor" not in await logs(server, trimBody=0)
    assert [len(group["events"]) for group in (await logs(server, groupBy="messageId"))["messages"]] == [3]
    assert len(await groups(server)) == 3


# Fields


async def test_an_event_has_every_field_that_clients_read_by_every_name(server: Running, receiver: Receiver) -> None:
    receiver.script("/", status(503, b"busy", [("X-Why", "load")]))
    await server.publish(
        receiver.url(), b"body", Upstash_Retries="1", Upstash_Retry_Delay="3600000", Upstash_Timeout="5s",
        Upstash_Label="a,b", Upstash_Method="PUT", Upstash_Callback=receiver.url("/callback"),
        Upstash_Failure_Callback=receiver.url("/failure"), Upstash_Callback_Forward_A="1",
        Upstash_Failure_Callback_Forward_B="2", Upstash_Forward_C="3",
    )  # fmt: skip
    [retry] = await eventually(lambda: server.events(state="RETRY"), bool)
    [error] = await server.events(state="ERROR")

    for event in (retry, error):
        assert event["method"] == "PUT"
        assert event["retryDelayExpression"] == event["retryDelayExpr"] == "3600000"
        assert (event["maxRetries"], event["timeout"], event["callerIP"]) == (1, 5000, "127.0.0.1")
        assert (event["label"], event["labels"]) == ("a", ["a", "b"])
        assert (event["callback"], event["failureCallback"]) == (receiver.url("/callback"), receiver.url("/failure"))
        assert event["callbackHeaders"]["A"] == ["1"]
        assert event["failureCallbackHeaders"]["B"] == ["2"]
        assert event["header"]["C"] == ["3"]
    assert retry["nextDeliveryTime"] == pytest.approx(retry["time"] + 3_600_000, abs=5)
    assert not {"responseStatus", "responseBody", "error"} & set(retry)
    assert (error["responseStatus"], b64decode(error["responseBody"])) == (503, b"busy")
    assert error["responseHeader"] == error["responseHeaders"]
    assert error["responseHeader"]["X-Why"] == ["load"]


# Retention


async def test_what_retention_dropped_is_left_out_and_the_rest_is_there(
    server: Running, receiver: Receiver, connection: Connection
) -> None:
    receiver.script("/", status(500), status(200))
    kept, dropped = await server.publish(receiver.url(), Upstash_Retry_Delay="0"), ""
    await server.settled(kept)
    for _ in range(3):
        dropped = await server.publish(receiver.url(), Upstash_Label="dropped")
        await server.settled(dropped)
    before = await server.events(messageId=kept)

    await connection.execute("delete from messages where labels is not null")

    seen: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        content = await logs(server, count=2, **cursor)
        seen += content["events"]
        if "cursor" not in content:
            break
        cursor = {"cursor": content["cursor"]}
    assert seen == before
    assert [group["events"] for group in await groups(server)] == [before]
    assert await server.events(messageId=dropped) == []

    await connection.execute("delete from attempts")

    assert await server.states(kept) == ["CREATED"]
    assert [states(group) for group in await groups(server)] == [["CREATED"]]
    assert await groups(server, state="DELIVERED") == []


# Growth


async def a_past(connection: Connection, events: int) -> None:
    """So many events of the last hours: messages stored twenty at a time, of which every tenth was tried twice."""
    await connection.execute(
        """
        insert into messages (id, tenant_id, created_at, url, options, labels)
        select (lpad(to_hex((extract(epoch from at) * 1000)::bigint), 12, '0') || '7' || lpad(to_hex(n % 20), 3, '0')
                || '8' || substr(md5(n::text), 1, 15))::uuid, 1, at, 'http://old.example/', '{"retries": 1}', '{old}'
        from (select n, now() - interval '3 hours' + n / 20 * interval '10 ms' as at
              from generate_series(0, $1::int * 10 / 33) n) g
        """,
        events,
    )
    await connection.execute(
        """
        insert into attempts
          (message_id, tenant_id, lease, retried, active_at, ended_at, duration, outcome, status, next_due_at)
        select id, 1, 1, 0, created_at, created_at + interval '5 ms', '5 ms', bad, case bad when 1 then 500 end,
          case bad when 1 then created_at + interval '1 minute' end
        from (select *, (('x' || right(id::text, 2))::bit(8)::int % 10 = 0)::int as bad from messages) m
        """
    )
    await connection.execute(
        """
        insert into attempts (message_id, tenant_id, lease, retried, active_at, ended_at, duration, outcome)
        select message_id, 1, 2, 1, next_due_at, next_due_at + interval '5 ms', '5 ms', 0
        from attempts where outcome = 1
        """
    )
    await connection.execute("analyze messages")
    await connection.execute("analyze attempts")


async def stored_events(connection: Connection) -> Counter[tuple[str, str, int]]:
    """Every event there is, counted from the tables."""
    rows = await connection.fetch(
        """
        select id, 'CREATED' as state, created_at as at from messages
        union all select message_id, 'ACTIVE', active_at from attempts
        union all select id, 'ACTIVE', active_at from deliveries where state = 2
        union all select message_id, case outcome when 0 then 'DELIVERED' else 'ERROR' end, ended_at from attempts
        union all select message_id, 'RETRY', ended_at from attempts where outcome = 1
        """
    )
    return Counter((message_text(row["id"]), row["state"], milliseconds(row["at"])) for row in rows)


@asynccontextmanager
async def growing(server: Running, receiver: Receiver, database: Database) -> AsyncIterator[list[NewMessage]]:
    """500 messages a second are stored all the while, and delivered by the server."""
    written: list[NewMessage] = []
    loop = asyncio.get_running_loop()

    async def write() -> None:
        assert server.node.dispatcher is not None
        begun = loop.time()
        while True:
            await asyncio.sleep(0.05)
            missing = int((loop.time() - begun) * 500) - len(written)
            group = [a_new_message(receiver.url("/new"), labels=("old", "new")) for _ in range(min(missing, 200))]
            async with database.transaction() as connection:
                await insert(connection, group, dispatcher_id=None, window=timedelta(minutes=10))
            server.node.dispatcher.expect(timedelta(0))
            written.extend(group)

    writing = asyncio.create_task(write())
    try:
        yield written
    finally:
        writing.cancel()
        with suppress(asyncio.CancelledError):
            await writing


async def test_a_host_is_found_at_any_port_or_at_one(server: Running, receiver: Receiver) -> None:
    here = await server.publish(receiver.url("/here"))
    named = await server.publish(receiver.url("/here", host="localhost"))
    elsewhere = await server.publish("http://127.0.0.1:9/x", Upstash_Delay="1h")
    sixth = await server.publish("http://[::1]:9?a=b", Upstash_Delay="1h")

    async def found(host: str) -> set[str]:
        return {event["messageId"] for event in await server.events(host=host)}

    assert await found("127.0.0.1") == {here, elsewhere}
    assert await found("127.0.0.1:9") == {elsewhere}
    assert await found("[::1]") == await found("[::1]:9") == {sixth}
    assert await found(f"LOCALHOST:{receiver.port}") == {named}
    assert await found(f"localhost,127.0.0.1:{receiver.port}") == {here, named}
    assert await found(f"127.0.0.1:{receiver.port}9") == set()


@pytest.mark.parametrize(
    ("events", "parameters"),
    [
        (100_000, {}),
        (10_000, {"order": "earliestFirst"}),
        (10_000, {"label": "old", "count": 200}),
        (10_000, {"label": "old", "count": 200, "order": "earliestFirst"}),
    ],
    ids=["100,000", "upwards", "by label", "by label upwards"],
)
async def test_every_event_that_was_there_is_seen_exactly_once_while_the_log_grows(
    server: Running,
    receiver: Receiver,
    database: Database,
    connection: Connection,
    events: int,
    parameters: dict[str, Any],
) -> None:
    await a_past(connection, events)
    answered = asyncio.Event()
    receiver.script("/held", hold(answered))
    for _ in range(20):
        await server.publish(receiver.url("/held"), Upstash_Label="old")
    await receiver.wait_for(20, "/held")

    async with growing(server, receiver, database) as written:
        await eventually(lambda: asyncio.sleep(0, len(receiver.requests("/new"))), lambda n: n > 100)
        there, begun_with = await stored_events(connection), len(written)
        pages = [page async for page in _pages(server, {"count": 1000, **parameters}, answered)]
    seen = Counter((event["messageId"], event["state"], event["time"]) for page in pages for event in page)

    assert there.total() >= events
    assert {key: seen[key] for key in there if seen[key] != there[key]} == {}
    assert {key: n for key, n in seen.items() if n > max(there[key], 1)} == {}
    assert len(written) > begun_with, "the log did grow"
    times = [event["time"] for page in pages for event in page]
    assert times == sorted(times, reverse="order" not in parameters)


async def _pages(
    server: Running, parameters: dict[str, Any], answered: asyncio.Event
) -> AsyncIterator[list[dict[str, Any]]]:
    """Pages until there are no more; after a few, what was held is answered."""
    cursor: dict[str, str] = {}
    for n in count():
        content = await logs(server, **parameters, **cursor, trimBody=0)
        yield content["events"]
        if n == 3:
            answered.set()
        if "cursor" not in content:
            return
        cursor = {"cursor": content["cursor"]}
