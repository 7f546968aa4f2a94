"""status --wait, messages, cancel and logs, against answers as the API gives them, and connections that break."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.cli.conftest import POSTROAD, Ran, Run, run_here
from tests.conftest import Running
from tests.moods import Mood, chunked, ok, raw, status
from tests.receiver import Receiver

ID = "msg_1ChJjTai2G96YBcMGvCnEd"
JSON = (("Content-Type", "application/json"),)
STREAM = (("Content-Type", "text/event-stream"),)


def state(phase: str, **more: Any) -> dict[str, Any]:
    return {
        "id": ID,
        "status": phase,
        "attempts": 1,
        "createdAt": 1_700_000_000_000,
        "updatedAt": 1_700_000_000_000,
    } | more


def answer(value: Any) -> Mood:
    return ok(json.dumps(value).encode(), JSON)


def events(name: str, *values: Any, breaks_off: bool = False) -> Mood:
    """A stream that ends well, or is cut in the middle of an event."""
    texts = [f"id: {number}\nevent: {name}\ndata: {json.dumps(value)}\n\n" for number, value in enumerate(values, 1)]
    text = ": hello\n\n" + "".join(texts)
    if breaks_off:
        head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        return raw(f"{head}{len(text):x}\r\n{text}\r\n".encode(), then_close=True)
    return ok(text.encode(), STREAM)


async def command(receiver: Receiver, *arguments: str) -> Ran:
    """Run a command against the receiver."""
    return await asyncio.to_thread(run_here, *arguments, "--url", receiver.url("").rstrip("/"), "--token", "t")


@pytest.mark.parametrize(
    ("last", "code"),
    [
        (state("completed", progress=100, result={"ok": True}), 0),
        (state("failed", error="the destination answered 500"), 3),
        (state("canceled"), 4),
    ],
)
async def test_the_end_of_a_message_is_waited_for_and_is_the_exit_code(
    receiver: Receiver, last: dict[str, Any], code: int
) -> None:
    receiver.script(f"/v2/status/{ID}", answer(state("pending")))
    receiver.script(f"/v2/status/{ID}/stream", events("status", state("processing", progress=50, note="half"), last))

    ran = await command(receiver, "status", ID, "--wait")

    assert ran.code == code
    assert f"status\t{last['status']}\n" in ran.out
    assert (await command(receiver, "status", ID, "--wait", "--json")).json == last


async def test_a_status_that_is_not_the_end_has_a_code_of_its_own(receiver: Receiver) -> None:
    receiver.script(f"/v2/status/{ID}", answer(state("processing", progress=10, note="begun")))
    receiver.script(f"/v2/status/{ID}/stream", chunked([b": hello\n\n"], ()))

    now, later = await command(receiver, "status", ID), await command(receiver, "status", ID, "--within", "1s")

    assert (now.code, later.code) == (5, 5)
    assert "progress\t10 %\nnote\tbegun\n" in now.out
    assert await receiver.next_request(f"/v2/status/{ID}/stream")


async def test_waiting_goes_on_where_the_connection_broke(receiver: Receiver) -> None:
    receiver.script(f"/v2/status/{ID}", answer(state("pending")))
    receiver.script(
        f"/v2/status/{ID}/stream",
        events("status", state("processing"), breaks_off=True),
        events("status", state("processing", progress=90)),
        events("status", state("completed")),
    )

    assert (await command(receiver, "status", ID, "--wait")).code == 0
    assert len(receiver.requests(f"/v2/status/{ID}/stream")) == 3


async def test_a_status_of_nothing(receiver: Receiver) -> None:
    receiver.script(f"/v2/status/{ID}", status(404, b'{"error": "message not found"}', JSON))

    ran = await command(receiver, "status", ID, "--wait")

    assert (ran.code, ran.err) == (1, "postroad: message not found (HTTP 404)\n")


async def test_the_log_is_followed_over_a_break_each_event_once(receiver: Receiver) -> None:
    told = [
        {"time": 1_700_000_000_000 + n, "messageId": ID, "state": "CREATED", "url": f"http://x/{n}"} for n in range(3)
    ]
    receiver.script("/v2/events/stream", events("message", *told[:2], breaks_off=True), events("message", told[2]))

    process = await asyncio.create_subprocess_exec(
        str(POSTROAD), "logs", "--follow", "--json", "--label", "l", "--url", receiver.url(""), "--token", "t",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    lines = [json.loads(await process.stdout.readline()) for _ in told]
    process.send_signal(2)
    await process.communicate()

    assert lines == told
    assert process.returncode == 0
    first, second = receiver.requests("/v2/events/stream")[:2]
    assert first.header("Last-Event-ID") is None
    assert second.header("Last-Event-ID") == "2"
    assert "label=l" in first.target
    assert "label=l" in second.target


async def test_a_stream_that_the_server_refuses_ends_the_command(receiver: Receiver) -> None:
    receiver.script("/v2/events/stream", status(400, b'{"error": "unknown parameter"}', JSON))

    ran = await command(receiver, "logs", "--follow")

    assert (ran.code, ran.err) == (1, "postroad: unknown parameter (HTTP 400)\n")


async def test_events_are_printed_in_their_order(run: Run, environment: Running, receiver: Receiver) -> None:
    message_id = await environment.publish(receiver.url("/a"), "x", upstash_label="l")
    await environment.settled(message_id)
    other = await environment.publish(receiver.url("/b"))
    await environment.settled(other)

    assert [row[1] for row in (await run("logs", "--message", message_id)).rows] == ["CREATED", "ACTIVE", "DELIVERED"]
    assert [row[2:5] for row in (await run("logs", "--state", "DELIVERED", "--path", "/b")).rows] == [
        [other, "", receiver.url("/b")]
    ]
    limited = await run("logs", "-n", "2", "--json")
    assert [event["state"] for event in limited.json["events"]] == ["ACTIVE", "DELIVERED"]
    assert limited.json["cursor"]
    assert (await run("logs", "--until", "1h")).rows == []
    assert "expected a time such as" in (await run("logs", "--since", "yesterday")).err


async def test_one_message_is_cancelled_by_its_id(run: Run, environment: Running, receiver: Receiver) -> None:
    message_id = await environment.publish(receiver.url(), upstash_delay="1h")

    assert (await run("cancel", message_id)).out == "1 message cancelled.\n"
    assert (await environment.states(message_id))[-1] == "CANCELED"


@pytest.mark.parametrize("arguments", [[], [ID, "--label", "l"], [ID, "--all"]])
async def test_a_cancellation_that_says_nothing_or_too_much(run: Run, arguments: list[str]) -> None:
    ran = await run("cancel", *arguments, "--yes")

    assert ran.code == 1
    assert "ids" in ran.err
