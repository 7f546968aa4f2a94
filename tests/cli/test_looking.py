"""status, message, messages, edit, cancel, clock and top, against a server."""

from __future__ import annotations

import asyncio
import json
import re

import httpx
import pytest

from postroad.clock import Clock
from tests.cli.conftest import POSTROAD, Run, command
from tests.conftest import Running, Serve, eventually
from tests.moods import Mood, handled, never, ok, status
from tests.receiver import Received, Receiver

ID = "msg_1ChJjTai2G96YBcMGvCnEd"
CURSORS: tuple[dict[str, str], ...] = ({"cursor": "7"}, {})
PROGRESS = ((10, "begun"), (50, "half of it"), (100, "nearly"))


def reporting(said: list[int]) -> Mood:
    """A handler that reports its progress before it answers; `said` grows with each report that is stored."""

    async def handle(request: Received) -> Mood:
        async with httpx.AsyncClient() as client:
            for progress, note in PROGRESS:
                url = request.header("Upstash-Status-Url") or ""
                report = {"progress": progress, "note": note, "log": f"line {progress}"}
                assert (await client.post(url, json=report)).status_code == 200
                said.append(progress)
                await asyncio.sleep(0.2)
        return ok(b'{"rows": 3}')

    return handled(handle)


async def test_progress_of_a_handler_is_seen_as_a_bar(run_on_terminal: Run, receiver: Receiver) -> None:
    said: list[int] = []
    receiver.script("/work", reporting(said))

    ran = await run_on_terminal("publish", receiver.url("/work"), "--body", "x", "--wait", "--within", "20s")

    assert ran.code == 0
    assert said == [10, 50, 100]
    assert re.search(r"processing .* 50% .* half of it", ran.out)
    assert re.search(r"completed .* 100%", ran.out)
    assert re.search(r'result +\{"rows":3\}', ran.out)


async def test_the_end_of_a_message_is_an_exit_code(run: Run, environment: Running, receiver: Receiver) -> None:
    receiver.script("/bad", status(500))
    waiting = await environment.publish(receiver.url(), upstash_delay="1h")

    good = await run("publish", receiver.url("/good"), "--wait", "--json")
    bad = await run("publish", receiver.url("/bad"), "--retries", "0", "--wait")

    assert (good.code, good.json["status"]) == (0, "completed")
    assert (bad.code, "status\tfailed\n" in bad.out) == (3, True)
    assert (await run("status", waiting)).code == 5
    assert (await run("status", waiting, "--wait", "--within", "1s")).code == 5
    assert (await run("cancel", waiting)).code == 0
    assert (await run("status", waiting, "--wait")).code == 4
    assert (await run("status", "msg_nothing")).code == 1


async def test_all_that_is_known_of_a_message(run: Run, environment: Running, receiver: Receiver) -> None:
    receiver.script("/work", reporting([]))
    message_id = await environment.publish(receiver.url("/work"), "hello", upstash_label="a", upstash_forward_x="y")
    await environment.settled(message_id)

    text, document = await run("message", message_id), (await run("message", message_id, "--json")).json

    names = dict(line.split("\t")[:2] for line in text.out.splitlines())
    assert (names["status"], names["labels"], names["body"]) == ("completed", "a", "hello")
    assert names["headers"] == "X: y"
    assert [line.split("\t")[1] for line in text.out.splitlines() if line.startswith("20")] == [
        "CREATED", "ACTIVE", "DELIVERED", "line 10", "line 50", "line 100",
    ]  # fmt: skip
    assert document["message"]["messageId"] == message_id
    assert document["status"]["result"] == {"rows": 3}
    assert [event["state"] for event in document["events"]] == ["CREATED", "ACTIVE", "DELIVERED"]


async def test_a_message_that_is_gone_is_known_by_its_log(run: Run, serve: Serve, receiver: Receiver) -> None:
    server = await serve(message_linger="0s")
    message_id = await server.publish(receiver.url("/work"), "hello")
    await server.settled(message_id)

    ran = await run("message", message_id, "--url", server.url)

    assert f"destination\tPOST {receiver.url('/work')}\n" in ran.out
    assert "body\thello\n" in ran.out
    assert (await run("message", "msg_nothing", "--url", server.url)).code == 1


async def test_what_is_unfinished_and_why(run: Run, environment: Running, receiver: Receiver) -> None:
    receiver.script("/hang", never())
    late = await environment.publish(receiver.url("/late"), upstash_delay="1h", upstash_label="l")
    active = await environment.publish(receiver.url("/hang"))
    await receiver.next_request("/hang")
    await run("queues", "set", "mail", "--paused")
    queued = (await run("enqueue", "mail", receiver.url("/mail"))).out.strip()

    rows = {row[0]: row for row in (await run("messages")).rows}

    assert rows.keys() == {late, active, queued}
    assert "its time, " in rows[late][3]
    assert (rows[active][1], rows[active][3]) == ("active", "the destination to answer")
    assert rows[queued][1:5:2] == ["held", "queue mail, which is paused"]
    assert list(rows)[-1] == late, "the first due first"
    assert [row[0] for row in (await run("messages", "--label", "l")).rows] == [late]
    limited = await run("messages", "-n", "1")
    assert len(limited.rows) == 1
    assert "more than these 1" in limited.err


async def test_all_that_match_are_cancelled(run: Run, environment: Running, receiver: Receiver) -> None:
    for number in range(30):
        label = "odd" if number % 2 else "even"
        await environment.publish(receiver.url(f"/{number}"), upstash_delay="1h", upstash_label=label)

    assert (await run("cancel", "--label", "odd", "--dry-run")).out == "15 messages would be cancelled.\n"
    assert (await run("cancel", "--label", "odd")).code == 1
    assert len((await run("messages")).rows) == 30
    assert (await run("cancel", "--label", "odd", "--yes", "--json")).json["cancelled"] == 15
    left = [row[0] for row in (await run("messages")).rows]
    assert len(left) == 15
    assert (await run("cancel", *left[:3], "--dry-run", "--json")).json == {"dryRun": True, "cancelled": 3}
    assert (await run("cancel", *left[:3], "--yes")).out == "3 messages cancelled.\n"
    assert (await run("cancel", "--all", "--yes")).out == "12 messages cancelled.\n"
    assert (await run("messages")).rows == []


async def test_an_id_of_nothing_among_others_is_told_by_the_exit_code(
    run: Run, environment: Running, receiver: Receiver
) -> None:
    waiting = [await environment.publish(receiver.url(), upstash_delay="1h") for _ in range(2)]

    some = await run("cancel", waiting[0], "msg_nothing", "--yes", "--json")
    all_ = await run("cancel", waiting[1], waiting[1], "--yes")

    assert (some.code, some.json["cancelled"]) == (1, 1)
    assert some.err == "postroad: 1 of the ids is of no unfinished message\n"
    assert (all_.code, all_.out) == (0, "1 message cancelled.\n")
    gone = await run("dlq", "delete", "1-1", "2-2", "--yes")
    assert (gone.code, gone.err) == (1, "postroad: 2 of the ids were not deleted\n")
    assert (await run("dlq", "retry", "1-1", "2-2", "--yes")).code == 1


async def test_the_log_is_followed_as_it_happens(
    run: Run, environment: Running, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = await asyncio.create_subprocess_exec(
        str(POSTROAD), "logs", "--follow", "--json", "--label", "l", "--since", "1h",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    await environment.publish(receiver.url("/other"))
    message_id = await environment.publish(receiver.url("/mine"), upstash_label="l")
    assert process.stdout is not None
    events = [json.loads(await asyncio.wait_for(process.stdout.readline(), 20)) for _ in range(3)]
    process.send_signal(2)
    await process.communicate()

    assert [event["state"] for event in events] == ["CREATED", "ACTIVE", "DELIVERED"]
    assert {event["messageId"] for event in events} == {message_id}
    assert process.returncode == 0


async def test_the_clock_shows_what_comes_next_and_is_moved(run: Run, environment: Running, receiver: Receiver) -> None:
    message_id = await environment.publish(receiver.url("/late"), upstash_delay="2h")
    await run("schedules", "create", receiver.url(), "--cron", "0 0 1 1 *", "--id", "yearly")

    shown = (await run("clock", "show")).record

    assert (shown["can be moved"], shown["next message"], shown["next schedule"]) == ("yes", message_id, "yearly")
    assert (await run("clock", "advance", "1h")).out == "1h have passed.\n"
    assert receiver.requests("/late") == []
    assert (await run("clock", "advance", "61m", "--json")).json == {"advanced": "1h1m"}
    await receiver.next_request("/late")


async def test_the_clock_of_a_server_that_is_no_toy_cannot_be_moved(run: Run, serve: Serve) -> None:
    assert (await run("clock", "show", "--url", (await serve()).url)).record == {"can be moved": "no"}


async def test_top_counts_what_a_server_does(run: Run, environment: Running, receiver: Receiver) -> None:
    receiver.script("/bad", status(500))
    receiver.script("/hang", never())
    for path in ("/good", "/good", "/hang"):
        await environment.publish(receiver.url(path))
    await environment.publish(receiver.url("/bad"), upstash_retries="0")
    await eventually(environment.dead_letters, lambda letters: len(letters) == 1)
    await receiver.next_request("/hang")
    await eventually(lambda: environment.events(state="DELIVERED"), lambda events: len(events) == 2)

    picture = (await run("top", "--json")).json

    assert (picture["inFlight"], picture["unfinished"], picture["deadLetters"]) == (1, 1, 1)
    [busiest] = picture["destinations"]
    assert busiest["host"] == receiver.url("").removeprefix("http://").rstrip("/")
    assert busiest["errors"] == pytest.approx(1 / 3, abs=0.001)
    assert picture["perSecond"]["published"] > picture["perSecond"]["delivered"] > 0
    assert picture["sample"] == {"events": 12, "seconds": 60.0, "isWhole": True}
    assert (await run("top")).record["rates are of"] == "the last 60 s"


async def test_top_looks_back_a_second_at_the_least_and_says_how_far(receiver: Receiver) -> None:
    """2,000 published in this moment, and before that one each millisecond."""
    now_ms = Clock().now_ms()
    told = [{"state": "CREATED", "time": now_ms - max(0, n - 2_000), "url": "http://x/"} for n in range(12_000)]
    pages = [{"events": told[at : at + 1_000], "cursor": "more"} for at in range(0, len(told), 1_000)]
    empty = {"queues": [], "flowControl": [], "globalParallelism": {"parallelismCount": 0}}
    for path, view in (empty | {"messages": {"messages": []}, "dlq": {"messages": []}}).items():
        receiver.script(f"/v2/{path}", ok(json.dumps(view).encode()))
    receiver.script("/v2/events", *(ok(json.dumps(page).encode()) for page in pages))

    picture = (await command(receiver, "top", "--json")).json

    seen, seconds = picture["sample"]["events"], picture["sample"]["seconds"]
    assert not picture["sample"]["isWhole"]
    assert 1 <= seconds < 60
    assert 2_000 < seen <= 4_000
    assert picture["perSecond"]["published"] == pytest.approx(seen / seconds, rel=0.01)
    receiver.script("/v2/events", *(ok(json.dumps(page).encode()) for page in pages))
    said = (await command(receiver, "top")).record["rates are of"]
    assert re.fullmatch(r"the newest [\d,]+ events, the last [\d.]+ s", said)


async def test_nothing_of_a_long_message_is_left_out(receiver: Receiver) -> None:
    path = f"/v2/status/{ID}"
    event = {"state": "RETRY", "time": 1, "messageId": ID}
    receiver.script(f"/v2/messages/{ID}", ok(json.dumps({"method": "POST", "url": "http://x/"}).encode()))
    receiver.script("/v2/events", *(ok(json.dumps({"events": [event] * 1_000} | more).encode()) for more in CURSORS))
    receiver.script(path, ok(b'{"status": "pending"}'))
    line = {"time": 1, "text": "said"}
    receiver.script(f"{path}/log", *(ok(json.dumps({"lines": [line] * 100} | more).encode()) for more in CURSORS))

    document = (await command(receiver, "message", ID, "--json")).json

    assert (len(document["events"]), len(document["lines"])) == (2_000, 200)
    assert receiver.requests(f"{path}/log")[1].target.endswith("?cursor=7")
    assert not any("trimBody" in request.target for request in receiver.requests())


async def test_what_waits_is_changed(run: Run, environment: Running, receiver: Receiver) -> None:
    message_id = await environment.publish(receiver.url("/edited"), "before", upstash_delay="1h")

    assert (await run("edit", message_id)).code == 2
    assert (await run("edit", message_id, "--body", "after", "--delay", "0s", "-H", "X-New: yes")).code == 0

    request = await receiver.next_request("/edited")
    assert (request.body, request.header("X-New")) == (b"after", "yes")
    await environment.settled(message_id)
    assert (await run("edit", message_id, "--body", "too late")).code == 1
