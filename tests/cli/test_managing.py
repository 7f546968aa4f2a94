"""dlq, queues, groups, flow, schedules and clock."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

import pytest

from tests.cli.conftest import Run, run_here
from tests.conftest import Running, Serve, eventually
from tests.moods import status
from tests.receiver import Receiver

Bury = Callable[[int], Awaitable[list[str]]]


@pytest.fixture
def bury(environment: Running, receiver: Receiver) -> Bury:
    """Make so many dead letters; gives their ids."""

    async def some(count: int) -> list[str]:
        receiver.script("/fail", status(500, b"no\tgood\x1b[31m"))
        for number in range(count):
            await environment.publish(receiver.url("/fail"), f"body {number}", upstash_retries="0", upstash_label="l")
        await eventually(lambda: environment.events(state="FAILED"), lambda failed: len(failed) == count)
        return [letter["dlqId"] for letter in await environment.dead_letters()]

    return some


async def test_dead_letters_are_listed_and_shown(run: Run, bury: Bury, receiver: Receiver) -> None:
    [dlq_id] = await bury(1)

    [row] = (await run("dlq", "list")).rows
    shown = (await run("dlq", "show", dlq_id)).record

    assert (row[0], row[2], row[3], row[4]) == (dlq_id, "500", receiver.url("/fail"), "no good\\x1b[31m")
    assert (shown["body"], shown["response"], shown["labels"]) == ("body 0", "500", "l")
    assert (await run("dlq", "list", "--json")).json["messages"][0]["dlqId"] == dlq_id
    assert (await run("dlq", "show", dlq_id, "--json")).json["dlqId"] == dlq_id
    assert (await run("dlq", "list", "--response-status", "404")).rows == []
    assert (await run("dlq", "list", "--since", "1h", "--label", "other")).rows == []


async def test_a_list_says_when_there_is_more(run: Run, bury: Bury) -> None:
    await bury(3)

    ran = await run("dlq", "list", "-n", "2")

    assert len(ran.rows) == 2
    assert "more than these 2" in ran.err


async def test_a_dead_letter_is_retried_with_other_options(run: Run, bury: Bury, environment: Running) -> None:
    [dlq_id] = await bury(1)

    ran = await run("dlq", "retry", dlq_id, "-H", "Upstash-Delay: 1d", "-H", "Upstash-Retries: 7")

    message = (await environment.http.get(f"/v2/messages/{ran.out.strip()}")).json()
    assert message["maxRetries"] == 7
    assert await environment.dead_letters() == []


async def test_all_dead_letters_that_match_are_retried_page_after_page(
    run: Run, bury: Bury, environment: Running, receiver: Receiver
) -> None:
    await bury(120)
    receiver.script("/fail", status(200))

    counted = await run("dlq", "retry", "--all", "--label", "l", "--dry-run")
    assert counted.out == "120 dead letters would be retried.\n"
    assert len(await environment.dead_letters(count=100)) == 100
    ran = await run("dlq", "retry", "--all", "--label", "l", "--yes")

    assert len(set(ran.out.split())) == 120
    assert await environment.dead_letters() == []


async def test_dead_letters_are_deleted_after_a_word_of_consent(run: Run, bury: Bury, environment: Running) -> None:
    ids = await bury(3)

    assert (await run("dlq", "delete", ids[0])).code == 1
    assert (await run("dlq", "delete", ids[0], "--dry-run", "--json")).json == {"dryRun": True, "deleted": 1}
    assert len(await environment.dead_letters()) == 3
    assert (await run("dlq", "delete", ids[0], "--yes", "--json")).json == {"deleted": 1}
    assert (await run("dlq", "delete", "--all", "--yes")).out == "2 dead letters deleted.\n"
    assert await environment.dead_letters() == []


@pytest.mark.parametrize("arguments", [[], ["1-1", "--all"], ["1-1", "--label", "l"], ["--label", "l"]])
async def test_what_could_mean_too_much_is_refused(run: Run, arguments: list[str]) -> None:
    for verb in ("retry", "delete"):
        ran = await run("dlq", verb, *arguments, "--yes")

        assert ran.code == 2
        assert "expected either ids, or --all with or without filters" in ran.err


async def test_a_bulk_action_shows_how_far_it_is_on_a_terminal(run_on_terminal: Run, bury: Bury) -> None:
    await bury(3)

    ran = await run_on_terminal("dlq", "delete", "--all", answer="y\n")

    assert ran.code == 0
    assert "Delete 3 dead letters?" in ran.out
    assert re.search(r"Deleting .* 3/3", ran.out)


async def test_queues(run: Run, environment: Running) -> None:
    assert (await run("queues", "list")).rows == []
    assert (await run("queues", "set", "mail")).code == 2
    assert (await run("queues", "set", "mail", "--parallelism", "3")).record["parallelism"] == "3"
    paused = (await run("queues", "set", "mail", "--paused")).record
    assert (paused["parallelism"], paused["paused"]) == ("3", "yes")
    assert (await run("queues", "resume", "mail")).record["paused"] == "no"
    assert (await run("queues", "pause", "mail", "--json")).json["paused"] is True
    await run("enqueue", "mail", "http://127.0.0.1:1/never")
    [row] = (await run("queues", "list")).rows
    assert row[:5] == ["mail", "3", "yes", "1", "0"] or row[:5] == ["mail", "3", "yes", "1", "1"]
    assert (await run("queues", "show", "mail", "--json")).json["lag"] == 1

    dry = await run("queues", "delete", "mail", "--dry-run")
    assert dry.out == "The queue would be deleted, and 1 message cancelled.\n"
    assert (await run("queues", "delete", "mail", "--yes")).out == "mail is deleted.\n"
    assert (await run("queues", "list", "--json")).json == []
    assert (await run("queues", "delete", "mail", "--yes")).code == 1


async def test_url_groups(run: Run, receiver: Receiver) -> None:
    a, b, c = (receiver.url(f"/{name}") for name in "abc")

    assert (await run("groups", "add", "team", f"first={a}", b, f"{c}?x=1")).record["endpoints"] == (
        f"first={a} {b} {c}?x=1"
    )
    [row] = (await run("groups", "list")).rows
    assert row[:3] == ["team", "3", f"{a}, {b}, {c}?x=1"]
    assert (await run("groups", "remove", "team", "nobody", "--yes")).code == 1
    assert "remove 1 endpoint of team" in (await run("groups", "remove", "team", "first", "--dry-run")).out
    assert (await run("groups", "remove", "team", "first", b, "--yes", "--json")).json["endpoints"] == [
        {"url": f"{c}?x=1"}
    ]
    assert "all of them" in (await run("groups", "remove", "team", f"{c}?x=1", "--dry-run")).out
    ran = await run("publish", "team", "--body", "to all", "--json")
    assert [one["url"] for one in ran.json] == [f"{c}?x=1"]
    assert (await run("groups", "delete", "team", "--dry-run")).code == 0
    assert (await run("groups", "show", "team", "--json")).json["name"] == "team"
    assert (await run("groups", "delete", "team", "--yes", "--json")).json == {"deleted": "team"}
    assert (await run("groups", "list", "--json")).json == []


async def test_the_last_endpoint_takes_its_group_with_it(run: Run, receiver: Receiver) -> None:
    await run("groups", "add", "team", receiver.url())

    assert (await run("groups", "remove", "team", receiver.url(), "--yes")).out == "team is deleted.\n"


async def test_flow_control_keys(run: Run) -> None:
    assert (await run("flow", "pin", "k/1", "--rate", "5", "--period", "1m")).record["rate"] == "5 (pinned) each 1m"
    assert (await run("flow", "pin", "k/1")).code == 2
    [row] = (await run("flow", "list", "--search", "k/")).rows
    assert row == ["k/1", "no", "0", "0", "none", "5 (pinned) each 1m", "0"]
    assert (await run("flow", "pause", "k/1")).record["paused"] == "yes"
    assert (await run("flow", "resume", "k/1", "--json")).json["isPaused"] is False
    assert (await run("flow", "reset", "k/1")).code == 0
    assert (await run("flow", "unpin", "k/1", "--parallelism")).record["rate"] == "5 (pinned) each 1m"
    assert (await run("flow", "unpin", "k/1")).record["rate"] == "5 each 1m"
    assert (await run("flow", "show", "k/1", "--json")).json["flowControlKey"] == "k/1"


async def test_schedules(run: Run, environment: Running, receiver: Receiver) -> None:
    ran = await run(
        *("schedules", "create", receiver.url("/s"), "--cron", "CRON_TZ=Europe/Berlin 30 2 * * *", "--id", "daily"),
        *("--body", '{"x": 1}', "-H", "X-Own: yes", "--retries", "7", "--label", "l", "--method", "PUT"),
    )
    assert ran.out == "daily\n"
    [row] = (await run("schedules", "list")).rows
    assert (row[0], row[1], row[5]) == ("daily", "CRON_TZ=Europe/Berlin 30 2 * * *", receiver.url("/s"))
    shown = (await run("schedules", "show", "daily")).record
    assert (shown["destination"], shown["retries"], shown["body"]) == (f"PUT {receiver.url('/s')}", "7", '{"x": 1}')
    assert (await run("schedules", "pause", "daily")).record["paused"] == "yes"
    assert (await run("schedules", "list")).rows[0][2] == "paused"
    assert (await run("schedules", "resume", "daily", "--json")).json["isPaused"] is False
    assert "would be deleted" in (await run("schedules", "delete", "daily", "--dry-run")).out
    assert (await run("schedules", "delete", "daily", "--yes")).out == "daily is deleted.\n"
    assert (await run("schedules", "list", "--json")).json == []
    assert (await run("schedules", "delete", "daily", "--yes")).code == 1


async def test_a_run_of_a_schedule_publishes_what_its_tick_would(
    run: Run, environment: Running, receiver: Receiver
) -> None:
    await run(
        *("schedules", "create", receiver.url("/s"), "--cron", "0 0 1 1 *", "--id", "s", "--body", '{"x": 1}'),
        *("-H", "X-Own: yes", "--label", "a", "--label", "b", "--method", "PUT", "--callback", receiver.url("/cb")),
        *("--flow-key", "k", "--rate", "9", "--period", "7s", "--parallelism", "2", "--timeout", "20s"),
    )

    ran = await run("schedules", "run", "s")
    by_hand = await receiver.next_request("/s")
    await environment.http.delete(f"/v2/messages/{ran.out.strip()}")
    await receiver.next_request("/cb")

    assert (by_hand.method, by_hand.body) == ("PUT", b'{"x": 1}')
    assert [by_hand.header(name) for name in ("X-Own", "Content-Type", "Upstash-Label")] == [
        "yes", "application/json", "a,b",
    ]  # fmt: skip
    message = (await environment.http.get(f"/v2/messages/{ran.out.strip()}")).json()
    schedule = (await environment.http.get("/v2/schedules/s")).json()
    for name in ("method", "header", "callback", "flowControlKey", "rate", "period", "parallelism", "labels", "body"):
        assert message[name] == schedule[name], name


async def test_a_schedule_that_hides_its_body_is_run_with_it(run: Run, receiver: Receiver) -> None:
    await run(
        *("schedules", "create", receiver.url("/s"), "--cron", "0 0 1 1 *", "--id", "s", "--body", "secret"),
        *("-H", "Upstash-Redact-Fields: body"),
    )

    assert (await run("schedules", "run", "s")).code == 0

    assert (await receiver.next_request("/s")).body == b"secret"
    assert (await run("schedules", "run", "none")).code != 0


async def test_the_next_runs_are_those_of_the_server(run: Run, environment: Running, receiver: Receiver) -> None:
    await run("schedules", "create", receiver.url(), "--cron", "CRON_TZ=Asia/Tokyo */7 3 * * *", "--id", "s")
    schedule = (await environment.http.get("/v2/schedules/s")).json()

    answer = (await run("schedules", "next", "s", "-n", "3", "--json")).json

    assert answer["zone"] == "Asia/Tokyo"
    assert answer["next"][0]["unixMs"] == schedule["nextScheduleTime"]
    assert [one["local"][11:16] for one in answer["next"]] == ["03:00", "03:07", "03:14"]
    assert len((await run("schedules", "next", "s")).rows) == 10


def test_runs_of_an_expression_need_no_server() -> None:
    ran = run_here("schedules", "next", "--cron", "0 9 * * MON", "-n", "2")

    assert all(re.fullmatch(r"Mon \d{4}-\d\d-\d\d 09:00 \+0000", row[0]) for row in ran.rows)
    assert len(ran.rows) == 2
    wrong = run_here("schedules", "next", "--cron", "0 99 * * *")
    assert wrong.code == 2
    assert wrong.err == "postroad: invalid --cron: got '0 99 * * *', expected 0 to 23 as the hour, not '99'\n"
    assert run_here("schedules", "next").code == 2


async def test_the_clock_of_a_server_that_is_no_toy_is_not_moved(run: Run, serve: Serve) -> None:
    ran = await run("clock", "advance", "1h", "--url", (await serve()).url)

    assert ran.code == 1
    assert "only under postroad dev" in ran.err
