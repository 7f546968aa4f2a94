"""The official Python client, `qstash` 3.4, unmodified: schedules."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import timedelta
from typing import Any

import pytest
from qstash.errors import QStashError
from qstash.schedule import ScheduleState

from tests.conftest import eventually
from tests.contract import accounts, python_sdk
from tests.contract.accounts import Account
from tests.contract.python_sdk import Sdk
from tests.moods import hold, status
from tests.receiver import Receiver

pytestmark = pytest.mark.asyncio(loop_scope="module")
node, server, receiver, sdk = accounts.node, accounts.server, accounts.receiver, python_sdk.sdk

SELDOM = "0 0 1 1 *"
"""Fires when a test lets the time pass, and not by itself."""

WAYS = ["schedule.create", "schedule.create_json"]


async def comes_due(server: Account, sdk: Sdk, schedule_id: str) -> None:
    """Let the time pass up to the next tick of a schedule."""
    next_at = (await sdk("schedule.get", schedule_id)).next_schedule_time
    await server.time_passes(timedelta(milliseconds=next_at - time.time() * 1000 + 5))


@pytest.mark.parametrize("way", WAYS)
async def test_every_option_can_be_read_back(sdk: Sdk, server: Account, receiver: Receiver, way: str) -> None:
    in_json = way.endswith("_json")
    options: dict[str, Any] = {
        "destination": receiver.url("/hook?a=1"),
        "cron": "*/10 * * * *",
        "body": {"a": 1} if in_json else b'{"a": 1}',
        "method": "PUT",
        "headers": {"test-header": "test-value"},
        "callback_headers": {"Forward-X-Report": "yes"},
        "failure_callback_headers": {"Forward-X-Failure": "no"},
        "retries": 4,
        "retry_delay": "1000 * (1 + retried)",
        "callback": receiver.url("/callback"),
        "failure_callback": receiver.url("/failure"),
        "delay": "1m1s",
        "timeout": "1m30s",
        "schedule_id": "my-schedule.1_a",
        "queue": "q",
        "flow_control": {"key": "k", "parallelism": 3, "rate": 10, "period": "1h30m3s"},
        "label": "test-label",
    }
    if not in_json:
        options |= {"content_type": "application/json"}

    assert await sdk(way, **options) == "my-schedule.1_a"

    schedule = await sdk("schedule.get", "my-schedule.1_a")
    assert schedule.schedule_id == "my-schedule.1_a"
    assert (schedule.destination, schedule.cron, schedule.method) == (receiver.url("/hook?a=1"), "*/10 * * * *", "PUT")
    assert (schedule.body, schedule.body_base64) == ('{"a": 1}', None)
    assert schedule.headers == {"Content-Type": ["application/json"], "Test-Header": ["test-value"]}
    assert (schedule.callback, schedule.callback_headers) == (receiver.url("/callback"), {"X-Report": ["yes"]})
    assert (schedule.failure_callback, schedule.failure_callback_headers) == (
        receiver.url("/failure"), {"X-Failure": ["no"]},
    )  # fmt: skip
    assert (schedule.retries, schedule.retry_delay_expression) == (4, "1000 * (1 + retried)")
    assert (schedule.delay, schedule.timeout, schedule.queue, schedule.label) == (61, 90, "q", "test-label")
    flow = schedule.flow_control
    assert (flow.key, flow.parallelism, flow.rate, flow.period) == ("k", 3, 10, 5403)
    assert (schedule.paused, schedule.caller_ip, schedule.error) == (False, "127.0.0.1", None)
    assert abs(schedule.created_at - time.time() * 1000) < 60_000
    assert 0 < schedule.next_schedule_time - schedule.created_at <= 600_000
    assert schedule.next_schedule_time % 600_000 == 0
    assert (schedule.last_schedule_time, schedule.last_schedule_states) == (None, None)
    assert await sdk("schedule.list") == [schedule]


@pytest.mark.parametrize("way", WAYS)
async def test_a_schedule_fires_and_says_how_it_went(sdk: Sdk, server: Account, receiver: Receiver, way: str) -> None:
    schedule_id = await sdk(
        way, destination=receiver.url("/tick?a=1"), cron=SELDOM, method="PATCH", headers={"X-Trace": "1"}, label="l",
        body=[1] if way.endswith("_json") else "[1]", redact={"body": True, "header": ["x-trace"]},
    )  # fmt: skip
    assert (await sdk("schedule.get", schedule_id)).body.startswith("REDACTED:")

    await comes_due(server, sdk, schedule_id)

    request = await receiver.next_request("/tick")
    assert (request.method, request.target, json.loads(request.body)) == ("PATCH", "/tick?a=1", [1])
    assert (request.header("X-Trace"), request.header("Upstash-Schedule-Id")) == ("1", schedule_id)
    message_id = request.header("Upstash-Message-Id") or ""
    await server.settled(message_id)
    schedule = await sdk("schedule.get", schedule_id)
    assert schedule_id.startswith("scd_")
    assert schedule.last_schedule_states == {message_id: ScheduleState.SUCCESS}
    assert schedule.created_at <= schedule.last_schedule_time < schedule.next_schedule_time
    log = (await sdk("log.list", filter={"schedule_id": schedule_id})).logs
    assert {(entry.message_id, entry.schedule_id) for entry in log} == {(message_id, schedule_id)}
    assert (await sdk("message.get", message_id)).schedule_id == schedule_id


async def test_the_states_of_the_last_run_are_told_apart(sdk: Sdk, server: Account, receiver: Receiver) -> None:
    release = asyncio.Event()
    receiver.script("/fails", status(500))
    receiver.script("/holds", hold(release))
    paths = ("/fine", "/fails", "/holds")
    await sdk("url_group.upsert_endpoints", "g", [{"url": receiver.url(path)} for path in paths])
    schedule_id = await sdk("schedule.create", destination="g", cron=SELDOM, retries=0)

    await comes_due(server, sdk, schedule_id)

    by_path = {path: await receiver.next_request(path) for path in paths}
    ids = {path: request.header("Upstash-Message-Id") for path, request in by_path.items()}
    schedule = await eventually(
        lambda: sdk("schedule.get", schedule_id),
        lambda one: list((one.last_schedule_states or {}).values()).count(ScheduleState.IN_PROGRESS) == 1,
    )
    assert schedule.last_schedule_states == {
        ids["/fine"]: ScheduleState.SUCCESS,
        ids["/fails"]: ScheduleState.FAIL,
        ids["/holds"]: ScheduleState.IN_PROGRESS,
    }
    assert {request.header("Upstash-Topic-Name") for request in by_path.values()} == {"g"}
    [letter] = (await sdk("dlq.list", filter={"schedule_id": schedule_id})).messages
    assert (letter.message_id, letter.schedule_id, letter.url_group) == (ids["/fails"], schedule_id, "g")
    release.set()


async def test_a_schedule_with_the_same_id_replaces_the_one_before(
    sdk: Sdk, server: Account, receiver: Receiver
) -> None:
    await sdk(
        "schedule.create", destination=receiver.url("/old"), cron=SELDOM, schedule_id="s", body="old", retries=5,
        headers={"A": "1"}, callback=receiver.url("/callback"), delay=60, queue="q", label="old", timeout=9,
        retry_delay="1", content_type="text/x", flow_control={"key": "k", "rate": 1},
    )  # fmt: skip
    await sdk("schedule.pause", "s")

    assert await sdk("schedule.create", destination=receiver.url("/new"), cron="5 5 5 5 *", schedule_id="s") == "s"

    [schedule] = await sdk("schedule.list")
    assert (schedule.destination, schedule.cron, schedule.body, schedule.retries) == (
        receiver.url("/new"), "5 5 5 5 *", None, 3,
    )  # fmt: skip
    assert schedule.headers == {}
    for cleared in ("callback", "delay", "queue", "label", "timeout", "flow_control", "retry_delay_expression"):
        assert getattr(schedule, cleared) is None, cleared
    assert schedule.paused is False
    await comes_due(server, sdk, "s")
    assert (await receiver.next_request()).path == "/new"
    assert receiver.requests("/old") == []


async def test_a_paused_schedule_is_silent_until_it_is_resumed(sdk: Sdk, server: Account, receiver: Receiver) -> None:
    paused = await sdk("schedule.create", destination=receiver.url("/paused"), cron=SELDOM)
    other = await sdk("schedule.create", destination=receiver.url("/other"), cron=SELDOM)
    await sdk("schedule.pause", paused)
    await sdk("schedule.pause", paused)
    assert ((await sdk("schedule.get", paused)).paused, (await sdk("schedule.get", other)).paused) == (True, False)

    await comes_due(server, sdk, other)
    await receiver.next_request("/other")
    await server.drain()
    assert receiver.requests("/paused") == []
    await sdk("schedule.resume", paused)
    assert (await sdk("schedule.get", paused)).paused is False
    await comes_due(server, sdk, paused)

    await receiver.next_request("/paused")
    assert len(receiver.requests("/paused")) == 1, "what was missed while it was paused is not made up for"


async def test_a_deleted_schedule_fires_no_more_and_may_be_deleted_again(
    sdk: Sdk, server: Account, receiver: Receiver
) -> None:
    deleted = await sdk("schedule.create_json", destination=receiver.url("/deleted"), cron=SELDOM)
    kept = await sdk("schedule.create_json", destination=receiver.url("/kept"), cron=SELDOM)

    await sdk("schedule.delete", deleted)
    await sdk("schedule.delete", deleted)

    await comes_due(server, sdk, kept)
    await receiver.next_request("/kept")
    await server.drain()
    assert receiver.requests("/deleted") == []
    assert [schedule.schedule_id for schedule in await sdk("schedule.list")] == [kept]
    for method in ("schedule.get", "schedule.pause", "schedule.resume"):
        with pytest.raises(QStashError, match=r'status: 404, body: \{"error":".+not found"\}'):
            await sdk(method, deleted)


async def test_a_schedule_with_a_queue_enqueues_and_may_have_a_delay(
    sdk: Sdk, server: Account, receiver: Receiver
) -> None:
    await sdk("queue.upsert", "q", parallelism=4, paused=True)
    schedule_id = await sdk("schedule.create", destination=receiver.url(), cron=SELDOM, queue="q", delay=60)

    await comes_due(server, sdk, schedule_id)
    await eventually(lambda: sdk("schedule.get", schedule_id), lambda one: one.last_schedule_time)
    await server.time_passes(timedelta(minutes=2))
    queue = await eventually(lambda: sdk("queue.get", "q"), lambda queue: queue.lag == 1)

    assert (queue.parallelism, queue.paused, receiver.requests()) == (4, True, [])
    await sdk("queue.resume", "q")
    assert (await receiver.next_request()).header("Upstash-Schedule-Id") == schedule_id


async def test_a_time_zone_stays_in_front_of_its_cron(sdk: Sdk, receiver: Receiver) -> None:
    cron = "CRON_TZ=America/New_York 0 4 1 7 *"
    schedule_id = await sdk("schedule.create", destination=receiver.url(), cron=cron, body=b"\xff\x00")

    schedule = await sdk("schedule.get", schedule_id)

    assert (schedule.cron, schedule.body, schedule.body_base64) == (cron, None, "/wA=")
    assert time.gmtime(schedule.next_schedule_time / 1000)[1:5] == (7, 1, 8, 0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cron": "every day"}, "Upstash-Cron"),
        ({"cron": ""}, "Upstash-Cron"),
        ({"schedule_id": "not an id"}, "Upstash-Schedule-Id"),
        ({"destination": "nowhere"}, "topic nowhere not found"),
        ({"destination": "ftp://example.com"}, "invalid scheme"),
        ({"destination": ""}, "a non-empty destination must be provided"),
        ({"delay": "soon"}, "Upstash-Delay"),
        ({"queue": "not a name"}, "Upstash-Queue-Name|queueName"),
    ],
)
async def test_a_schedule_that_is_not_valid_is_refused(sdk: Sdk, options: dict[str, str], words: str) -> None:
    valid = {"destination": "http://127.0.0.1:9", "cron": SELDOM}

    with pytest.raises(QStashError, match=rf'status: 40[04], body: \{{"error":".*({words})'):
        await sdk("schedule.create", **(valid | options))

    assert await sdk("schedule.list") == []
