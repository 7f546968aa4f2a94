"""Schedules fire: each tick once, whatever goes down, is paused or goes wrong meanwhile."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest

from postroad.dispatch import scheduler
from postroad.domain.ids import message_text
from postroad.errors import DatabaseUnavailable
from postroad.publish import Publisher
from postroad.store.engine import Connection
from postroad.store.messages import NewMessage
from tests.conftest import Running, Serve, eventually, pass_time, running
from tests.moods import hold, never, status
from tests.receiver import Receiver

SELDOM = "@yearly"
"""Fires when a test lets the time pass, and not by itself."""

MINUTE = timedelta(minutes=1)


async def a_schedule(server: Running, destination: str, cron: str = SELDOM, body: bytes = b"", **headers: str) -> str:
    """Make a schedule and give its id; header names are written with underscores."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = await server.http.post(
        f"/v2/schedules/{destination}", content=body, headers={"Upstash-Cron": cron, **named}
    )
    assert answer.status_code == 201, answer.text
    schedule_id: str = answer.json()["scheduleId"]
    return schedule_id


async def view(server: Running, schedule_id: str) -> dict[str, Any]:
    """A schedule as the API shows it."""
    answer = await server.http.get(f"/v2/schedules/{schedule_id}")
    assert answer.status_code == 200, answer.text
    shown: dict[str, Any] = answer.json()
    return shown


async def comes_due(server: Running, connection: Connection, schedule_id: str) -> None:
    """Let the time pass up to the next tick of a schedule."""
    await server.time_passes(
        await connection.fetchval("select next_at - clock_timestamp() from schedules where id = $1", schedule_id)
    )


async def has_fired(server: Running, schedule_id: str) -> dict[str, Any]:
    """The schedule once it has fired."""
    shown: dict[str, Any] = await eventually(lambda: view(server, schedule_id), lambda it: "lastScheduleTime" in it)
    return shown


async def ticks(connection: Connection) -> dict[str, int]:
    """How many ticks each schedule has fired."""
    rows = await connection.fetch("select schedule_id, count(*) as n from schedule_ticks group by 1")
    return {row["schedule_id"]: row["n"] for row in rows}


async def nothing_more_fires(connection: Connection) -> None:
    """Keep the minutes of the real clock out of what is counted."""
    await connection.execute("update schedules set paused = true")


async def messages(connection: Connection) -> dict[str, int]:
    """How many messages each schedule has made."""
    rows = await connection.fetch(
        "select schedule_id, count(*) as n from messages where schedule_id is not null group by 1"
    )
    return {row["schedule_id"]: row["n"] for row in rows}


async def test_a_tick_is_a_publish_of_what_was_stored(
    server: Running, connection: Connection, receiver: Receiver
) -> None:
    schedule_id = await a_schedule(
        server,
        receiver.url("/work?a=1&b=%2F"),
        body=b"\x00\xff",
        Content_Type="application/octet-stream",
        Upstash_Method="PUT",
        Upstash_Forward_X_Trace="t 1",
        Upstash_Label="nightly",
    )
    created = await view(server, schedule_id)

    await comes_due(server, connection, schedule_id)

    request = await receiver.next_request("/work")
    assert (request.method, request.target, request.body) == ("PUT", "/work?a=1&b=%2F", b"\x00\xff")
    assert request.header("Content-Type") == "application/octet-stream"
    assert request.header("X-Trace") == "t 1"
    assert request.header("Upstash-Schedule-Id") == schedule_id
    assert request.header("Upstash-Label") == "nightly"
    assert request.header("Upstash-Caller-Ip") == "127.0.0.1"
    assert request.header("Upstash-Cron") is None
    message_id = request.header("Upstash-Message-Id") or ""
    assert await server.settled(message_id) == ["CREATED", "ACTIVE", "DELIVERED"]
    [event, *_] = await server.events(messageId=message_id)
    assert event["scheduleId"] == schedule_id
    shown = await view(server, schedule_id)
    assert "lastScheduleTime" not in created
    assert shown["lastScheduleTime"] >= created["createdAt"]
    assert shown["nextScheduleTime"] > shown["lastScheduleTime"]
    assert shown["lastScheduleStates"] == {message_id: "SUCCESS"}


async def test_two_nodes_fire_every_tick_of_200_schedules_exactly_once(
    serve: Serve, connection: Connection, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "POLL_S", 0.005)  # as at the full minute, when all nodes look at once
    one, two = await serve(), await serve()
    ids = await asyncio.gather(
        *((one if n % 2 else two).http.post(
            f"/v2/schedules/{receiver.url('/tick')}", headers={"Upstash-Cron": "* * * * *"}
        ) for n in range(200))
    )  # fmt: skip
    schedules = {answer.json()["scheduleId"] for answer in ids}
    assert len(schedules) == 200

    for n in range(1, 4):
        await one.time_passes(MINUTE)
        await eventually(
            lambda: ticks(connection),
            lambda fired, n=n: len(fired) == 200 and min(fired.values()) >= n,  # type: ignore[misc]
        )

    await nothing_more_fires(connection)
    fired = await ticks(connection)
    assert fired.keys() == schedules
    assert min(fired.values()) >= 3
    assert await messages(connection) == fired, "one message for each tick of each schedule"
    requests = await receiver.wait_for(sum(fired.values()), "/tick")
    assert len({request.header("Upstash-Message-Id") for request in requests}) == sum(fired.values())


async def test_what_was_missed_in_a_short_while_is_all_made_up_for(
    serve: Serve, connection: Connection, receiver: Receiver, database_url: str
) -> None:
    api = await serve(roles="api")
    schedule_id = await a_schedule(api, receiver.url("/tick"), "* * * * *")
    await pass_time(database_url, 8 * MINUTE)

    await serve(roles="dispatcher")

    await has_fired(api, schedule_id)
    await nothing_more_fires(connection)
    instants = [row[0] for row in await connection.fetch("select tick_at from schedule_ticks order by 1")]
    assert len(instants) in (8, 9), "a minute of the real clock may begin meanwhile"
    assert {later - earlier for earlier, later in pairwise(instants)} == {MINUTE}
    assert await messages(connection) == {schedule_id: len(instants)}
    last = await connection.fetchval("select id from messages order by id desc limit 1")
    assert [*(await view(api, schedule_id))["lastScheduleStates"]] == [message_text(last)], "of the last tick alone"
    await receiver.wait_for(len(instants), "/tick")


@pytest.mark.parametrize(("cron", "least", "most"), [("0 * * * *", 1, 1), ("* * * * *", 10, 12)])
async def test_what_was_missed_long_ago_is_skipped_but_for_the_last_tick(
    serve: Serve,
    connection: Connection,
    receiver: Receiver,
    database_url: str,
    caplog: pytest.LogCaptureFixture,
    cron: str,
    least: int,
    most: int,
) -> None:
    api = await serve(roles="api")
    schedule_id = await a_schedule(api, receiver.url("/tick"), cron)
    await pass_time(database_url, timedelta(days=1))

    await serve(roles="dispatcher")

    shown = await has_fired(api, schedule_id)
    await nothing_more_fires(connection)
    assert least <= (await ticks(connection))[schedule_id] <= most
    assert await messages(connection) == await ticks(connection)
    assert shown["nextScheduleTime"] > shown["lastScheduleTime"]
    [line] = [record.getMessage() for record in caplog.records if "missed ticks are skipped" in record.getMessage()]
    assert schedule_id in line


async def test_a_paused_schedule_does_not_fire_and_makes_up_for_nothing(
    server: Running, connection: Connection, receiver: Receiver
) -> None:
    other = await a_schedule(server, receiver.url("/other"), "0 0 1 1 *")
    paused = await a_schedule(server, receiver.url("/paused"), "0 0 2 1 *")
    assert (await server.http.post(f"/v2/schedules/{paused}/pause")).status_code == 200

    await comes_due(server, connection, paused)
    await receiver.next_request("/other")
    await server.http.post(f"/v2/schedules/{paused}/resume")
    shown = await view(server, paused)
    await comes_due(server, connection, other)
    await receiver.next_request("/other")

    assert not shown["isPaused"]
    assert shown["nextScheduleTime"] > shown["createdAt"]
    assert "lastScheduleTime" not in shown
    assert receiver.requests("/paused") == []

    await comes_due(server, connection, paused)
    await receiver.next_request("/paused")


async def test_a_pause_survives_a_restart(database_url: str, connection: Connection, receiver: Receiver) -> None:
    async with running(database_url) as before:
        paused = await a_schedule(before, receiver.url("/paused"))
        await before.http.post(f"/v2/schedules/{paused}/pause")

    async with running(database_url) as after:
        assert (await view(after, paused))["isPaused"] is True
        other = await a_schedule(after, receiver.url("/other"))
        await comes_due(after, connection, other)
        await receiver.next_request("/other")

        assert receiver.requests("/paused") == []
        assert await ticks(connection) == {other: 1}


async def test_a_tick_that_cannot_be_stored_now_is_stored_later_and_once(
    server: Running, connection: Connection, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Publisher.store
    failures = 1

    async def store_or_fail(self: Publisher, on: Connection, group: Sequence[NewMessage], **more: Any) -> Any:
        nonlocal failures
        stored = await store(self, on, group, **more)
        if failures:
            failures -= 1
            raise DatabaseUnavailable
        return stored

    monkeypatch.setattr(Publisher, "store", store_or_fail)
    schedule_id = await a_schedule(server, receiver.url("/tick"))

    await comes_due(server, connection, schedule_id)

    await receiver.next_request("/tick")
    assert failures == 0
    assert await ticks(connection) == await messages(connection) == {schedule_id: 1}


async def test_a_schedule_whose_group_is_gone_says_so_and_harms_no_other(
    server: Running, connection: Connection, receiver: Receiver
) -> None:
    endpoints = {"endpoints": [{"url": receiver.url("/a"), "name": "a"}, {"url": receiver.url("/b")}]}
    await server.http.post("/v2/topics/news/endpoints", json=endpoints)
    bad = await a_schedule(server, "news")
    good = [await a_schedule(server, receiver.url("/good")) for _ in range(5)]
    await server.http.delete("/v2/topics/news")

    await comes_due(server, connection, good[-1])

    await receiver.wait_for(5, "/good")
    shown = await has_fired(server, bad)
    assert shown["error"] == "topic news not found"
    assert "lastScheduleStates" not in shown
    assert shown["nextScheduleTime"] > shown["lastScheduleTime"]
    assert bad not in await messages(connection)
    assert (await ticks(connection))[bad] == 1

    await server.http.post("/v2/topics/news/endpoints", json=endpoints)
    await comes_due(server, connection, bad)

    first, second = await receiver.next_request("/a"), await receiver.next_request("/b")
    assert first.header("Upstash-Topic-Name") == second.header("Upstash-Topic-Name") == "news"
    shown = await eventually(lambda: view(server, bad), lambda it: "error" not in it)
    assert shown["lastScheduleStates"].keys() == {one.header("Upstash-Message-Id") for one in (first, second)}


async def test_a_schedule_that_the_database_refuses_harms_no_other(
    server: Running, connection: Connection, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    await connection.execute("alter table messages add constraint no_poison check (body <> 'poison')")
    bad = await a_schedule(server, receiver.url("/bad"), body=b"poison")
    good = [await a_schedule(server, receiver.url("/good"), body=b"fine") for _ in range(5)]

    await comes_due(server, connection, good[-1])

    await receiver.wait_for(5, "/good")
    shown = await has_fired(server, bad)
    assert "no_poison" in shown["error"]
    assert await messages(connection) == dict.fromkeys(good, 1)
    assert await ticks(connection) == dict.fromkeys([bad, *good], 1)
    assert b"poison".hex() not in caplog.text


async def test_a_defect_in_one_schedule_harms_no_other(
    server: Running,
    connection: Connection,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    bad = await a_schedule(server, receiver.url("/bad"))
    good = [await a_schedule(server, receiver.url("/good")) for _ in range(5)]
    read = Publisher.read

    def read_or_break(self: Publisher, request: Any, groups: Any) -> Any:
        if request.schedule_id == bad:
            raise ZeroDivisionError
        return read(self, request, groups)

    monkeypatch.setattr(Publisher, "read", read_or_break)

    await comes_due(server, connection, good[-1])

    await receiver.wait_for(5, "/good")
    assert (await has_fired(server, bad))["error"] == "internal error"
    assert "ZeroDivisionError" in caplog.text


async def test_a_schedule_whose_time_zone_is_unknown_by_now_is_paused_with_the_reason(
    server: Running, connection: Connection, receiver: Receiver
) -> None:
    bad = await a_schedule(server, receiver.url("/bad"))
    good = await a_schedule(server, receiver.url("/good"))
    await connection.execute("update schedules set cron = 'CRON_TZ=Old/Zone 0 0 1 1 *' where id = $1", bad)

    await comes_due(server, connection, good)

    await receiver.next_request("/good")
    shown = await eventually(lambda: view(server, bad), lambda it: it["isPaused"])
    assert "time zone" in shown["error"]
    assert "nextScheduleTime" not in shown
    assert (await server.http.post(f"/v2/schedules/{bad}/resume")).status_code == 400


async def test_a_limit_that_was_lowered_stops_a_schedule_with_the_reason(
    serve: Serve, connection: Connection, receiver: Receiver
) -> None:
    generous = await serve(roles="api", max_retries=50)
    schedule_id = await a_schedule(generous, receiver.url("/work"), Upstash_Retries="40")
    strict = await serve(max_retries=5)

    await comes_due(strict, connection, schedule_id)

    shown = await has_fired(strict, schedule_id)
    assert shown["error"] == "quota maxRetries exceeded, current limit: 5 (field: Upstash-Retries)"
    assert shown["retries"] == 40


async def test_a_group_is_looked_up_at_every_tick_with_its_default_headers(
    server: Running, connection: Connection, receiver: Receiver
) -> None:
    await server.http.post("/v2/topics/news/endpoints", json={"endpoints": [{"url": receiver.url("/old")}]})
    schedule_id = await a_schedule(server, "news", body=b"b", Upstash_Forward_Own="1")
    change = {"endpoints": [{"url": receiver.url("/new"), "name": "new"}]}
    await server.http.post("/v2/topics/news/endpoints", json=change)
    await server.http.patch("/v2/topics/news", json={"headers": {"Upstash-Forward-Default": "2"}})

    await comes_due(server, connection, schedule_id)

    for path in ("/old", "/new"):
        request = await receiver.next_request(path)
        assert (request.body, request.header("Own"), request.header("Default")) == (b"b", "1", "2")
    assert len((await has_fired(server, schedule_id))["lastScheduleStates"]) == 2


async def test_ticks_of_a_queue_go_one_after_the_other_and_leave_its_parallelism_alone(
    server: Running, connection: Connection, receiver: Receiver
) -> None:
    release = asyncio.Event()
    receiver.script("/queued", hold(release))
    await server.http.post("/v2/queues", json={"queueName": "line", "parallelism": 3})
    schedule_id = await a_schedule(server, receiver.url("/queued"), Upstash_Queue_Name="line")

    await comes_due(server, connection, schedule_id)
    await receiver.next_request("/queued")
    await comes_due(server, connection, schedule_id)
    await receiver.next_request("/queued")
    release.set()

    queue = (await server.http.get("/v2/queues/line")).json()
    assert queue["parallelism"] == 3
    assert (await view(server, schedule_id))["queueName"] == "line"


async def test_a_delayed_message_of_a_queue_is_created_at_the_tick_and_goes_after_its_delay(
    server: Running, connection: Connection, receiver: Receiver
) -> None:
    schedule_id = await a_schedule(server, receiver.url("/later"), Upstash_Queue_Name="line", Upstash_Delay="1h")

    await comes_due(server, connection, schedule_id)

    [message_id] = (await has_fired(server, schedule_id))["lastScheduleStates"]
    assert await server.states(message_id) == ["CREATED"]
    message = (await server.http.get(f"/v2/messages/{message_id}")).json()
    assert message["notBefore"] - message["createdAt"] == 3_600_000
    assert (message["queueName"], message["scheduleId"]) == ("line", schedule_id)
    assert receiver.requests("/later") == []

    await server.time_passes(timedelta(hours=1))

    assert (await receiver.next_request("/later")).header("Upstash-Message-Id") == message_id
    await server.settled(message_id)


async def test_a_delayed_message_without_a_queue_waits_too(
    server: Running, connection: Connection, receiver: Receiver
) -> None:
    schedule_id = await a_schedule(server, receiver.url("/later"), Upstash_Delay="30m")
    await comes_due(server, connection, schedule_id)
    shown = await has_fired(server, schedule_id)
    assert list(shown["lastScheduleStates"].values()) == ["IN_PROGRESS"]

    await server.time_passes(timedelta(minutes=30))

    await receiver.next_request("/later")


async def test_callbacks_of_a_tick_name_its_schedule(
    server: Running, connection: Connection, receiver: Receiver
) -> None:
    receiver.script("/work", status(500, b"no"))
    schedule_id = await a_schedule(
        server,
        receiver.url("/work"),
        Upstash_Retries="0",
        Upstash_Callback=receiver.url("/report"),
        Upstash_Failure_Callback=receiver.url("/failure"),
    )

    await comes_due(server, connection, schedule_id)

    for path in ("/report", "/failure"):
        document = json.loads((await receiver.next_request(path)).body)
        assert (document["status"], document["scheduleId"]) == (500, schedule_id)


@pytest.mark.parametrize("fate", ["IN_PROGRESS", "SUCCESS", "FAIL", "cancelled"])
async def test_the_last_states_say_how_the_messages_of_the_last_tick_fare(
    server: Running, connection: Connection, receiver: Receiver, fate: str
) -> None:
    mood = {"SUCCESS": status(200), "FAIL": status(500)}.get(fate, never())
    receiver.script("/work", mood)
    delay = "1h" if fate == "cancelled" else "0"
    schedule_id = await a_schedule(server, receiver.url("/work"), Upstash_Retries="0", Upstash_Delay=delay)
    await comes_due(server, connection, schedule_id)
    [message_id] = (await has_fired(server, schedule_id))["lastScheduleStates"]
    if fate == "cancelled":
        await server.http.delete(f"/v2/messages/{message_id}")

    wanted = {message_id: "FAIL" if fate == "cancelled" else fate}
    await eventually(lambda: view(server, schedule_id), lambda it: it["lastScheduleStates"] == wanted)
    [listed] = (await server.http.get("/v2/schedules")).json()
    assert listed == await view(server, schedule_id)


async def test_a_tick_makes_a_message_while_earlier_ones_are_still_retried_and_is_no_duplicate_of_them(
    server: Running, connection: Connection, receiver: Receiver
) -> None:
    receiver.script("/work", status(500))
    schedule_id = await a_schedule(
        server,
        receiver.url("/work"),
        body=b"same",
        Upstash_Deduplication_Id="one",
        Upstash_Content_Based_Deduplication="true",
        Upstash_Retry_Delay="86400000",
    )

    for n in range(1, 4):
        await comes_due(server, connection, schedule_id)
        await eventually(lambda: messages(connection), lambda made, n=n: made.get(schedule_id) == n)  # type: ignore[misc]

    assert await connection.fetchval("select count(*) from deduplications") == 0


async def test_a_large_body_is_sent_at_every_tick(server: Running, connection: Connection, receiver: Receiver) -> None:
    body = bytes(range(256)) * 4096 * 5  # 5 MiB, so that two schedules go into two transactions
    ids = [await a_schedule(server, receiver.url("/large"), body=body) for _ in range(3)]

    await comes_due(server, connection, ids[-1])

    assert {len(request.body) for request in await receiver.wait_for(3, "/large")} == {len(body)}
    assert await messages(connection) == dict.fromkeys(ids, 1)


async def test_a_deleted_schedule_leaves_its_messages_alone(
    server: Running, connection: Connection, receiver: Receiver
) -> None:
    schedule_id = await a_schedule(server, receiver.url("/later"), Upstash_Delay="1h")
    await comes_due(server, connection, schedule_id)
    await has_fired(server, schedule_id)

    assert (await server.http.delete(f"/v2/schedules/{schedule_id}")).status_code == 200

    await server.time_passes(timedelta(hours=1))
    await receiver.next_request("/later")


async def test_a_schedule_that_was_replaced_fires_as_its_replacement_says(
    server: Running, connection: Connection, receiver: Receiver
) -> None:
    await a_schedule(server, receiver.url("/former"), Upstash_Schedule_Id="s")
    await a_schedule(server, receiver.url("/latter"), Upstash_Schedule_Id="s")

    await comes_due(server, connection, "s")

    await receiver.next_request("/latter")
    assert receiver.requests("/former") == []
    assert await ticks(connection) == {"s": 1}


async def test_time_may_be_moved_under_dev(serve: Serve, receiver: Receiver) -> None:
    server = await serve(dev=True)
    schedule_id = await a_schedule(server, receiver.url("/tick"), "0 0 * * *")
    message_id = await server.publish(receiver.url("/later"), Upstash_Delay="20h", Upstash_Queue_Name="q")

    answer = await server.http.post("/dev/clock/advance", json={"by": "1d"})

    assert (answer.status_code, answer.json()) == (200, {"advanced": "1d"})
    assert (await receiver.next_request("/tick")).header("Upstash-Schedule-Id") == schedule_id
    assert (await receiver.next_request("/later")).header("Upstash-Message-Id") == message_id
    assert (await server.http.post("/dev/clock/advance", json={"by": "90"})).json() == {"advanced": "1m30s"}
    assert (await server.http.post("/dev/clock/advance", json={"by": 5})).json() == {"advanced": "5s"}


@pytest.mark.parametrize("by", ["0", "367d", "soon", "-1s", None, 1.5, True, ["1d"]], ids=repr)
async def test_time_moves_by_a_duration_only(serve: Serve, by: object) -> None:
    server = await serve(dev=True)

    answer = await server.http.post("/dev/clock/advance", json={"by": by})

    assert answer.status_code == 400
    assert answer.json()["error"].startswith("invalid by")


async def test_time_is_moved_nowhere_else(server: Running) -> None:
    refused = await server.http.post("/dev/clock/advance", json={"by": "1d"})
    stranger = await server.http.post("/dev/clock/advance", json={"by": "1d"}, headers={"Authorization": "Bearer x"})

    assert (refused.status_code, stranger.status_code) == (403, 401)
    assert refused.json() == {"error": "the clock can be moved only under postroad dev"}
