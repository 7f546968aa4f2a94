"""status --wait, messages, cancel and logs, against answers as the API gives them, and connections that break."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest

from postroad.cli import logs
from postroad.cli import status as phases
from tests.cli.conftest import POSTROAD, Run, command
from tests.conftest import Running
from tests.moods import Mood, chunked, never, ok, raw, status
from tests.receiver import Receiver

NOW_MS = 1_700_000_000_000
ID = "msg_1ChJjTai2G96YBcMGvCnEd"
JSON = (("Content-Type", "application/json"),)
STREAM = (("Content-Type", "text/event-stream"),)


def state(phase: str, **more: Any) -> dict[str, Any]:
    return {
        "id": ID,
        "status": phase,
        "attempts": 1,
        "createdAt": NOW_MS,
        "updatedAt": NOW_MS,
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
    receiver.script(f"/v2/status/{ID}/stream", chunked([b": hello\n\n"], STREAM))

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
    told = [{"time": NOW_MS + n, "messageId": ID, "state": "CREATED", "url": f"http://x/{n}"} for n in range(3)]
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

    assert ran.code == 2
    assert "ids" in ran.err


async def test_progress_is_a_bar_on_a_terminal(receiver: Receiver, run_on_terminal: Run) -> None:
    receiver.script(f"/v2/status/{ID}", answer(state("pending")))
    told = [state("processing", progress=10 * n, note=f"step {n}") for n in (1, 5)]
    receiver.script(f"/v2/status/{ID}/stream", events("status", *told, state("completed", progress=100, result="done")))

    ran = await run_on_terminal("status", ID, "--wait", "--url", receiver.url("").rstrip("/"))

    assert ran.code == 0
    for shown in (
        r"processing .* 10% .* step 1",
        r"processing .* 50% .* step 5",
        r"completed .* 100%",
        r"result +done",
    ):
        assert re.search(shown, ran.out), shown


LISTED = {
    "messages": [
        {
            "messageId": ID, "url": "http://x/1", "method": "POST", "header": {}, "maxRetries": 3, "createdAt": NOW_MS,
            "notBefore": NOW_MS, "state": "waiting", "dueAt": NOW_MS, "waitsFor": "retry 2 of 5", "queueName": "mail",
        }
    ]
}  # fmt: skip


async def test_what_is_unfinished_is_listed_with_why_it_waits(receiver: Receiver, run_on_terminal: Run) -> None:
    receiver.script("/v2/messages", answer(LISTED))

    ran = await command(receiver, "messages", "--queue", "mail", "--queue", "sms", "--host", "x", "-n", "7")

    assert ran.rows == [[ID, "waiting", "2023-11-14T22:13:20Z", "retry 2 of 5", "mail", "http://x/1"]]
    [request] = receiver.requests("/v2/messages")
    assert request.target == "/v2/messages?queueName=mail&queueName=sms&host=x&count=7"
    assert (await command(receiver, "messages", "--json")).json == LISTED
    shown = (await run_on_terminal("messages", "--url", receiver.url("").rstrip("/"))).out
    assert re.search(r"message +state +due +waits for +queue or key +destination", shown)
    assert re.search(r"2023-11-14 22:13:20 \(\d+d ago\) +retry 2 of 5 +mail", shown)


async def test_everything_that_matches_is_cancelled_and_followed_to_the_end(
    receiver: Receiver, run_on_terminal: Run
) -> None:
    receiver.script("/v2/messages", answer(LISTED), answer({"cancelled": 9, "actionId": "blk_1"}))
    action = {"actionId": "blk_1", "kind": "cancel", "total": 9}
    receiver.script(
        "/v2/bulkActions/blk_1",
        answer(action | {"state": "IN_PROGRESS", "processed": 4}),
        answer(action | {"state": "FINISHED", "processed": 9}),
    )

    ran = await run_on_terminal("cancel", "--label", "l", "--url", receiver.url("").rstrip("/"), answer="y\n")

    assert ran.code == 0
    assert "Cancel 1 matching message?" in ran.out
    assert "9 messages cancelled." in ran.out
    assert [request.target for request in receiver.requests("/v2/messages")][-1] == "/v2/messages?label=l&async=true"


async def test_top_is_one_screen(receiver: Receiver, run_on_terminal: Run) -> None:
    told = [
        {"time": NOW_MS, "messageId": ID, "state": one, "url": f"http://{host}/a"}
        for host, count in (("busy:1", 3), ("calm:2", 1))
        for one in ("CREATED", "ACTIVE", "DELIVERED", "ERROR")
        for _ in range(count)
    ]
    receiver.script("/v2/events", answer({"events": told}))
    receiver.script("/v2/queues", answer([{"name": "mail", "lag": 12_345, "paused": True}]))
    receiver.script("/v2/flowControl", answer([{"flowControlKey": "k", "waitListSize": 7, "parallelismCount": 2}]))
    receiver.script("/v2/globalParallelism", answer({"parallelismMax": 0, "parallelismCount": 5}))
    receiver.script("/v2/messages", answer(LISTED))
    receiver.script("/v2/dlq", answer({"messages": [{}] * 3}))

    ran = await command(receiver, "top", "--json")

    assert ran.json["inFlight"] == 5
    assert (ran.json["unfinished"], ran.json["deadLetters"]) == (1, 3)
    assert [one["host"] for one in ran.json["destinations"]] == ["busy:1", "calm:2"]
    assert ran.json["destinations"][0]["errors"] == 0.5
    assert "queue\tmail\t12345\tyes\n" in (await command(receiver, "top")).out
    shown = (await run_on_terminal("top", "--once", "--url", receiver.url("").rstrip("/"))).out
    for text in ("delivered/s", "in flight", "dead letters", "Busiest destinations", "busy:1", "12,345"):
        assert text in shown


async def test_what_waits_is_changed(receiver: Receiver) -> None:
    receiver.script(f"/v2/messages/{ID}", answer({"messageId": ID}), status(409, b'{"error": "begun"}', JSON))

    ran = await command(receiver, "edit", ID, "--body", '{"a": 1}', "--delay", "10s", "-H", "X-New: yes")
    late = await command(receiver, "edit", ID, "--not-before", "2030-01-01T00:00Z")

    assert (ran.code, ran.out) == (0, f"{ID} is changed.\n")
    first, second = receiver.requests(f"/v2/messages/{ID}")
    assert (first.method, json.loads(first.body)) == (
        "PATCH",
        {
            "body": '{"a": 1}',
            "headers": {"Content-Type": "application/json", "Upstash-Forward-X-New": "yes"},
            "delay": "10s",
        },
    )
    assert json.loads(second.body) == {"notBefore": 1_893_456_000}
    assert (late.code, late.err) == (1, "postroad: begun (HTTP 409)\n")
    assert "something to change" in (await command(receiver, "edit", ID)).err


BUSY = status(503, b'{"error": "starting"}', JSON)


async def test_waiting_goes_on_over_a_restart_behind_a_proxy(receiver: Receiver) -> None:
    receiver.script(f"/v2/status/{ID}", answer(state("pending")))
    receiver.script(f"/v2/status/{ID}/stream", BUSY, status(502), events("status", state("completed")))

    assert (await command(receiver, "status", ID, "--wait")).code == 0


@pytest.mark.parametrize("between", [BUSY, status(429, b"{}", JSON), never()])
async def test_the_log_is_followed_over_what_passes(
    receiver: Receiver, between: Mood, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "_SILENCE_S", 0.5)
    told = [{"time": NOW_MS + n, "messageId": ID, "state": "CREATED", "url": f"http://x/{n}"} for n in range(2)]
    receiver.script(
        "/v2/events/stream",
        events("message", told[0]), between, events("message", told[1]), status(400, b'{"error": "the end"}', JSON),
    )  # fmt: skip

    ran = await command(receiver, "logs", "--follow", "--json")

    assert [json.loads(line) for line in ran.out.splitlines()] == told
    assert ran.err.count("It is tried again.") == 1
    assert ran.err.endswith("postroad: the end (HTTP 400)\n")


async def test_a_server_that_is_busy_from_the_start_is_not_followed(receiver: Receiver) -> None:
    receiver.script("/v2/events/stream", BUSY)

    ran = await command(receiver, "logs", "--follow")

    assert (ran.code, ran.err) == (1, "postroad: starting (HTTP 503)\n")


async def test_a_server_that_says_nothing_any_more_is_not_waited_for_without_end(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(phases, "_SILENCE_S", 0.2)
    monkeypatch.setattr(phases, "_PATIENCE_S", 0.1)
    receiver.script(f"/v2/status/{ID}", answer(state("pending")))
    receiver.script(f"/v2/status/{ID}/stream", never())

    ran = await command(receiver, "status", ID, "--wait")

    assert ran.code == 6
    assert "says nothing any more" in ran.err


async def test_a_time_to_wait_is_for_all_messages_together(receiver: Receiver) -> None:
    ids = [f"{ID[:-1]}{number}" for number in range(4)]
    receiver.script("/v2/publish/many", ok(json.dumps([{"messageId": one} for one in ids]).encode(), JSON))
    for one in ids:
        receiver.script(f"/v2/status/{one}", answer(state("pending")))
        receiver.script(f"/v2/status/{one}/stream", never())

    ran = await command(receiver, "publish", "many", "--within", "1s", "--json")

    assert ran.code == 5
    assert len(ran.json) == 4
    assert [len(receiver.requests(f"/v2/status/{one}/stream")) for one in ids] == [1, 0, 0, 0]


async def test_nothing_is_published_with_a_time_to_wait_that_is_none(receiver: Receiver) -> None:
    ran = await command(receiver, "publish", "http://x/", "--wait", "--within", "soon")
    other = await command(receiver, "enqueue", "q", "http://x/", "--wait", "--within", "soon")

    assert (ran.code, other.code) == (2, 2)
    assert receiver.requests() == []


async def test_the_ids_of_a_batch_that_ends_early_are_printed(receiver: Receiver) -> None:
    lines = "".join(f'{{"destination": "http://x/{number}"}}\n' for number in range(250))
    part = answer([{"messageId": f"msg_{number}"} for number in range(100)])
    too_large = status(413, b'{"error": "too large"}', JSON)
    receiver.script("/v2/batch", part, too_large, part, too_large, too_large)

    text = await command(receiver, "batch", "-", stdin=lines)
    document = await command(receiver, "batch", "-", "--json", stdin=lines)
    none = await command(receiver, "batch", "-", "--json", stdin=lines)

    assert text.out.splitlines() == [f"msg_{number}" for number in range(100)]
    assert [one["messageId"] for one in json.loads(document.out)] == text.out.splitlines()
    for ran in (text, document):
        said = "The first 100 messages of the file were sent.\npostroad: too large (HTTP 413)\n"
        assert (ran.code, ran.err) == (1, said)
    assert (none.out, none.err) == ("", "postroad: too large (HTTP 413)\n")


async def test_what_was_retried_is_printed_when_the_rest_is_refused(receiver: Receiver) -> None:
    letters = [{"dlqId": str(number)} for number in range(3)]
    receiver.script("/v2/dlq", answer({"messages": letters}))
    retried = {"responses": [{"messageId": "msg_1"}], "cursor": "2"}
    receiver.script("/v2/dlq/retry", answer(retried), status(429, b'{"error": "too many"}', JSON))

    ran = await command(receiver, "dlq", "retry", "--all", "--yes", "--json")

    assert json.loads(ran.out) == {"responses": [{"messageId": "msg_1"}]}
    assert ran.code == 1
    assert ran.err == "2 dead letters stayed.\npostroad: too many (HTTP 429)\n"
