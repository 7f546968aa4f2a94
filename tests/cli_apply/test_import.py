"""`postroad import` brings here what another QStash or Postroad has."""

from __future__ import annotations

import json
from base64 import b64encode

import pytest

from postroad.domain.tenant import Access
from postroad.store.engine import Connection
from tests.cli_apply.conftest import OTHER_TOKEN, Run, Write, got, state
from tests.cli_apply.test_apply import EVERYTHING
from tests.conftest import TOKEN, Running
from tests.receiver import Receiver, status
from tests.security.test_tokens import a_token

UNREDACTED = EVERYTHING.replace("    redact: [body]\n", "")
TIMES = {"createdAt", "updatedAt", "nextScheduleTime", "lastScheduleTime"}


@pytest.fixture
def source(server: Running) -> tuple[str, ...]:
    """The arguments that name the other side: here another tenant, so that nothing is shared."""
    return ("import", "--from", server.url, "--from-token", OTHER_TOKEN)


async def _without_times(server: Running, token: str) -> list[object]:
    return [
        [{name: value for name, value in one.items() if name not in TIMES} for one in listed]
        for listed in await state(server, token)
    ]


async def test_everything_is_here_afterwards_as_it_is_there(
    run: Run, write: Write, server: Running, source: tuple[str, ...]
) -> None:
    await run("apply", write(UNREDACTED), QSTASH_TOKEN=OTHER_TOKEN, REPORT_TOKEN="a-secret")
    headers = {"Authorization": f"Bearer {OTHER_TOKEN}", "Upstash-Cron": "@daily", "Upstash-Schedule-Id": "binary"}
    await server.http.post("/v2/schedules/http://127.0.0.1:9/", content=b"\xff\x00", headers=headers)

    result = await run(*source)
    again = await run(*source)

    assert (result.code, result.error) == (0, "")
    assert "8 to create.\nDone." in result.out
    assert await _without_times(server, TOKEN) == await _without_times(server, OTHER_TOKEN)
    assert (await got(server, "/v2/schedules/binary"))["bodyBase64"] == b64encode(b"\xff\x00").decode()
    assert again.out.endswith("8 unchanged.\n")


async def test_what_is_redacted_there_is_skipped_by_name(
    run: Run, write: Write, server: Running, source: tuple[str, ...]
) -> None:
    await run("apply", write(EVERYTHING), QSTASH_TOKEN=OTHER_TOKEN, REPORT_TOKEN="a-secret")

    result = await run(*source, "--only", "schedules,groups")

    assert "! skip schedule to-group: redacted there, so it cannot be read: body; make it by hand" in result.out
    assert "2 to create, 1 skipped.\nDone." in result.out
    assert [one["scheduleId"] for one in await got(server, "/v2/schedules")] == ["daily-report"]
    # With the same secret given here, it is known to be the same by its hash.
    await run("apply", write(EVERYTHING), REPORT_TOKEN="a-secret")
    assert "  unchanged schedule to-group\n" in (await run(*source)).out


async def test_what_is_here_and_differs_is_kept_unless_it_may_be_overwritten(
    run: Run, write: Write, server: Running, source: tuple[str, ...]
) -> None:
    await run("apply", write("queues: [{name: a, parallelism: 5}, {name: b}]"), QSTASH_TOKEN=OTHER_TOKEN)
    await run("apply", write("queues: [{name: a, parallelism: 2}, {name: mine}]"))

    kept = await run(*source)
    after = {one["name"]: one["parallelism"] for one in await got(server, "/v2/queues")}
    overwritten = await run(*source, "--overwrite")

    assert "! keep queue a: it is here and differs\n    parallelism  2 → 5\n" in kept.out
    assert after == {"a": 2, "b": 1, "mine": 1}
    assert "1 to change, 1 unchanged.\nDone." in overwritten.out
    assert {one["name"]: one["parallelism"] for one in await got(server, "/v2/queues")} == {"a": 5, "b": 1, "mine": 1}


async def test_only_what_is_named_is_imported_and_a_dry_run_imports_nothing(
    run: Run, write: Write, server: Running, source: tuple[str, ...]
) -> None:
    await run("apply", write(UNREDACTED), QSTASH_TOKEN=OTHER_TOKEN, REPORT_TOKEN="a-secret")

    dry = await run(*source, "--dry-run")
    empty = await state(server)
    await run(*source, "--only", "queues, groups")

    assert "8 to create." not in dry.out
    assert "7 to create.\nNothing was changed: this was a dry run." in dry.out
    assert empty == [[], [], [], []]
    assert [len(found) for found in await state(server)] == [0, 2, 1, 0]


async def test_what_a_qstash_leaves_out_has_its_default(run: Run, server: Running, receiver: Receiver) -> None:
    """Fields that are not set are absent there, and states of a run are there that are nobody's to copy."""
    schedule = {
        "scheduleId": "scd_7Q", "cron": "*/5 * * * *", "destination": "http://127.0.0.1:9/", "createdAt": 1754288640041,
        "method": "POST", "retries": 3, "header": {"Content-Type": ["application/json"]}, "body": "{}",
        "callerIP": "1.2.3.4", "lastScheduleTime": 1754288640041, "nextScheduleTime": 1754288700000,
        "lastScheduleStates": {"msg_26hZ": "IN_PROGRESS"}, "label": "nightly",
    }  # fmt: skip
    for path, listed in {
        "/v2/schedules": [schedule],
        "/v2/queues": [{"name": "q", "parallelism": 3, "lag": 7, "createdAt": 1, "updatedAt": 1}],
        "/v2/topics": [{"name": "g", "createdAt": 1, "updatedAt": 1, "endpoints": [{"url": "http://127.0.0.1:9/"}]}],
        "/v2/flowControl": [{"flowControlKey": "k", "waitListSize": 3, "parallelismMax": 5, "rateMax": 10}],
    }.items():
        receiver.script(path, status(200, json.dumps(listed).encode()))

    result = await run("import", "--from", receiver.url(""), "--from-token", "theirs")

    assert (result.code, result.error) == (0, "")
    assert "3 to create.\nDone." in result.out
    [made], [queue], [group], keys = await state(server)
    assert {name: made[name] for name in schedule if name in made and not name.startswith(("created", "caller"))} == {
        name: schedule[name]
        for name in ("scheduleId", "cron", "destination", "method", "retries", "header", "body", "label")
    }
    assert (made["isPaused"], queue["parallelism"], queue["paused"], len(group["endpoints"])) == (False, 3, False, 1)
    # Limits that came with messages come with them again.
    assert keys == []
    assert {request.header("Authorization") for request in receiver.requests()} == {"Bearer theirs"}
    assert {request.method for request in receiver.requests()} == {"GET"}


async def test_what_cannot_come_along_is_said_and_the_rest_comes(run: Run, server: Running, receiver: Receiver) -> None:
    schedule = {
        "scheduleId": "s", "cron": "@daily", "destination": "http://127.0.0.1:9/", "createdAt": 1, "method": "POST",
        "retries": 3, "header": {"Host": ["a.example.com"], "X-A": ["1"]}, "body": "{}",
    }  # fmt: skip
    foreign = {**schedule, "scheduleId": "t", "header": {"X-Name": ["日本"]}}
    receiver.script("/v2/schedules", status(200, json.dumps([foreign, schedule]).encode()))
    arguments = ("import", "--from", receiver.url(""), "--from-token", "theirs", "--only", "schedules")

    result = await run(*arguments)
    again = await run(*arguments)

    assert "+ create schedule s: without Host, which Postroad does not forward\n" in result.out
    assert "create schedule t failed: a header cannot hold '日本'" in result.error
    assert (await got(server, "/v2/schedules/s"))["header"] == {"X-A": ["1"]}
    assert "  unchanged schedule s\n" in again.out


async def test_a_token_that_sees_no_payloads_is_refused(
    run: Run, write: Write, server: Running, connection: Connection
) -> None:
    token = await a_token(connection, Access.METADATA)

    imported = await run("import", "--from", server.url, "--from-token", token, QSTASH_TOKEN=OTHER_TOKEN)
    planned = await run("apply", write("queues: []"), "--dry-run", QSTASH_TOKEN=token)

    said = f"the token for {server.url} is for metadata and sees no headers and bodies: take one that does"
    assert said in imported.error
    assert said in planned.error


async def test_errors_say_which_side_they_come_from(
    run: Run, server: Running, source: tuple[str, ...], receiver: Receiver
) -> None:
    receiver.script("/v2/queues", status(200, b'[{"id": 1}]'))
    stranger = await run("import", "--from", receiver.url(""), "--from-token", "x")
    unknown = await run("import", "--from", server.url, "--from-token", "wrong")
    itself = await run("import", "--from", server.url, "--from-token", TOKEN)
    kind = await run(*source, "--only", "tokens")

    assert unknown.error == f"{server.url} cannot be read: it does not know the token of --from-token (HTTP 401)"
    assert stranger.error.startswith(f"what {receiver.url('')} answers is not what a QStash answers (KeyError: 'name')")
    assert "which is where it would be imported: set QSTASH_URL or --url" in itself.error
    assert kind.code == 2
    assert "tokens is none of queues, groups, flow, schedules" in kind.error
