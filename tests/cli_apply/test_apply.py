"""`postroad apply` brings a server to what a YAML file says, and then leaves it alone."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli_apply.conftest import Run, Write, got, state
from tests.conftest import TOKEN, Running, Serve
from tests.receiver import Receiver, status

EVERYTHING = """
schedules:
  - id: daily-report
    cron: "0 9 * * MON-FRI"
    zone: Europe/Berlin
    destination: http://127.0.0.1:9/api/report?day=1
    method: put
    headers: {X-Kind: daily, Authorization: "Bearer ${REPORT_TOKEN}", x-number: 5, X-Latin: "é"}
    body: {kind: daily, numbers: [1, 2.5, true, null, "ü"]}
    retries: 5
    retryDelay: 1000 * retried
    delay: 10s
    timeout: 1m
    callback: http://127.0.0.1:9/callback
    failureCallback: {url: http://127.0.0.1:9/failed, headers: {X-Token: abc}}
    queue: mails
    flowControl: {key: reports, rate: 10, period: 1m, parallelism: 2}
    labels: [a, b]
    paused: true
  - id: to-group
    cron: "@daily"
    destination: listeners
    body: plain text
    redact: [body]
queues:
  - {name: mails, parallelism: 2}
  - {name: slow, paused: true}
groups:
  - name: listeners
    endpoints:
      - http://127.0.0.1:9/a
      - {url: http://127.0.0.1:9/b, name: b}
    headers: {Upstash-Retries: "3", Upstash-Forward-X-A: "b"}
flow:
  - {key: openai/gpt 4, rate: 60, period: 1m, parallelism: 5}
  - {key: stopped, paused: true}
  - {key: nothing}
"""
SECRET = "a-token-of-length"


async def test_everything_that_a_file_says_is_there_after_one_run(run: Run, write: Write, server: Running) -> None:
    result = await run("apply", write(EVERYTHING), REPORT_TOKEN=SECRET)

    assert (result.code, result.error) == (0, "")
    assert "7 to create, 1 unchanged.\nDone." in result.out
    report, to_group = await got(server, "/v2/schedules")
    assert report["cron"] == "CRON_TZ=Europe/Berlin 0 9 * * MON-FRI"
    assert report["destination"] == "http://127.0.0.1:9/api/report?day=1"
    assert report["method"] == "PUT"
    assert report["header"] == {
        "Authorization": [f"Bearer {SECRET}"],
        "Content-Type": ["application/json"],
        "X-Kind": ["daily"],
        "X-Latin": ["é"],
        "X-Number": ["5"],
    }
    assert json.loads(report["body"]) == {"kind": "daily", "numbers": [1, 2.5, True, None, "ü"]}
    assert {name: report[name] for name in ("retries", "delay", "timeout", "isPaused", "queueName", "labels")} == {
        "retries": 5,
        "delay": 10,
        "timeout": 60,
        "isPaused": True,
        "queueName": "mails",
        "labels": ["a", "b"],
    }
    assert (report["callback"], report["failureCallback"]) == (
        "http://127.0.0.1:9/callback",
        "http://127.0.0.1:9/failed",
    )
    assert report["failureCallbackHeader"] == {"X-Token": ["abc"]}
    assert report["retryDelayExpression"] == "1000 * retried"
    assert [report[name] for name in ("flowControlKey", "rate", "period", "parallelism")] == ["reports", 10, 60, 2]
    assert (to_group["destination"], to_group["isPaused"]) == ("listeners", False)
    assert to_group["body"].startswith("REDACTED:")
    queues = {one["name"]: (one["parallelism"], one["paused"]) for one in await got(server, "/v2/queues")}
    assert queues == {"mails": (2, False), "slow": (1, True)}
    [group] = await got(server, "/v2/topics")
    assert group["endpoints"] == [{"url": "http://127.0.0.1:9/a"}, {"url": "http://127.0.0.1:9/b", "name": "b"}]
    assert group["headers"] == {"Upstash-Retries": ["3"], "Upstash-Forward-X-A": ["b"]}
    openai, stopped = await got(server, "/v2/flowControl")
    assert (openai["parallelismMax"], openai["rateMax"], openai["ratePeriod"]) == (5, 60, 60)
    assert (openai["isPinnedParallelism"], openai["isPinnedRate"], openai["isPaused"]) == (True, True, False)
    assert (stopped["isPaused"], stopped["isPinnedRate"]) == (True, False)


async def test_a_second_run_changes_nothing_at_all(run: Run, write: Write, server: Running) -> None:
    file = write(EVERYTHING)
    await run("apply", file, REPORT_TOKEN=SECRET)
    before = await state(server)

    result = await run("apply", file, "--prune", REPORT_TOKEN=SECRET)

    assert result.code == 0
    assert result.out.endswith("8 unchanged.\n")
    assert await state(server) == before


ODD = r"""
schedules:
  - {id: a, cron: "  0   9 * * mon-fri ", zone: Europe/Berlin, destination: "HTTP://127.0.0.1:9", method: patch,
     body: "", retries: 0, delay: 0, timeout: 1h, labels: [a, a, " b "],
     headers: {x-e: "", X-B: "  padded  ", Content-Type: x}}
  - id: b
    cron: "CRON_TZ=Europe/Berlin   0 9 * * *"
    destination: "http://127.0.0.1:9?x=1&y=%20"
    body: "a\r\nb\tü\0z"
    retryDelay: |
      pow(2, retried)
        * 1000
    callback: "http://127.0.0.1:9"
    failureCallback: {url: "HTTP://127.0.0.1:9/x", headers: {Authorization: secret, X-Q: "1"}}
    redact: [header]
    flowControl: {key: k, rate: 5}
  - {id: c, cron: "@hourly", destination: "http://127.0.0.1:9/", redact: ["header[X-A]", body, "header[x-b]"], body: {},
     headers: {X-A: "1", X-B: "2"}, flowControl: {key: "ké/?#% x", parallelism: 5, period: 10},
     callback: {url: "http://127.0.0.1:9/", headers: {X-A: "1"}}}
  - {id: d, cron: "0 0 1 1 7", destination: "G-1", body: "null", headers: {Content-Type: ""}}
  - {id: e, cron: "0 0 1 1 SUN", destination: "http://127.0.0.1:9/b/c//d", delay: 90, paused: true, method: GET}
queues: [{name: q-1.x_Y, parallelism: 1, paused: true}]
groups:
  - name: G-1
    endpoints: ["HTTP://127.0.0.1:9", {url: "http://127.0.0.1:9/x", name: " n "}]
    headers: {upstash-delay: " 1m ", Upstash-Retries: "03", upstash-forward-x: "", Upstash-Label: "a, b"}
flow:
  - {key: "ké/?#% x", rate: 7, period: 1d}
  - {key: "a/pause", paused: true}
"""


async def test_what_is_written_in_an_odd_way_is_the_same_the_second_time(
    run: Run, write: Write, server: Running
) -> None:
    first = await run("apply", write(ODD))
    before = await state(server)

    second = await run("apply", write(ODD), "--check", "--prune")

    assert (first.code, first.error) == (0, "")
    assert (second.code, second.out.splitlines()[-1]) == (0, "9 unchanged.")
    assert await state(server) == before
    assert (await got(server, "/v2/schedules/b"))["retryDelayExpression"] == "pow(2, retried) * 1000"


async def test_what_differs_is_changed_and_said_from_what_to_what(run: Run, write: Write, server: Running) -> None:
    await run("apply", write(EVERYTHING), REPORT_TOKEN=SECRET)
    changed = (
        EVERYTHING.replace("name: mails, parallelism: 2", "name: mails, parallelism: 3")
        .replace("{url: http://127.0.0.1:9/b, name: b}", "http://127.0.0.1:9/b")
        .replace("http://127.0.0.1:9/a\n", "http://127.0.0.1:9/c\n")
        .replace("plain text", "another text")
        .replace("retries: 5\n", "retries: 4\n")
        .replace("rate: 60, period: 1m, parallelism: 5", "parallelism: 6")
        .replace("key: stopped, paused: true", "key: stopped")
        .replace(', Upstash-Forward-X-A: "b"', "")
    )

    result = await run("apply", write(changed), REPORT_TOKEN=SECRET)

    assert (result.code, result.error) == (0, "")
    for line in (
        "~ change queue mails\n    parallelism  2 → 3\n",
        "    endpoint http://127.0.0.1:9/b  b → without a name\n",
        "    endpoint http://127.0.0.1:9/a  without a name → none\n",
        "    header Upstash-Forward-X-A     b → none\n",
        "~ change flow key openai/gpt 4\n    parallelism  5 → 6\n    rate         60 → none\n",
        "    period       1m → none\n",
        "~ change flow key stopped\n    paused  true → false\n",
        "~ change schedule daily-report\n    retries  5 → 4\n",
        "~ change schedule to-group\n    body  redacted, ",
    ):
        assert line in result.out
    again = await run("apply", write(changed), REPORT_TOKEN=SECRET)
    assert again.out.endswith("8 unchanged.\n")
    [group] = await got(server, "/v2/topics")
    assert sorted(one["url"] for one in group["endpoints"]) == ["http://127.0.0.1:9/b", "http://127.0.0.1:9/c"]
    assert (await got(server, "/v2/schedules/daily-report"))["isPaused"]


async def test_the_only_endpoint_of_a_group_can_lose_its_name_and_the_group_keeps_its_headers(
    run: Run, write: Write, server: Running
) -> None:
    text = "groups: [{name: g, endpoints: [{url: 'http://127.0.0.1:9/', name: n}], headers: {Upstash-Retries: '1'}}]"
    await run("apply", write(text))

    result = await run("apply", write(text.replace(", name: n}", "}")))

    assert result.code == 0
    [group] = await got(server, "/v2/topics")
    assert (group["endpoints"], group["headers"]) == ([{"url": "http://127.0.0.1:9/"}], {"Upstash-Retries": ["1"]})


async def test_a_pause_alone_does_not_make_a_schedule_anew(run: Run, write: Write, server: Running) -> None:
    text = "schedules: [{id: s, cron: '@daily', destination: 'http://127.0.0.1:9/', paused: true}]"
    await run("apply", write(text))
    made = await got(server, "/v2/schedules/s")

    await run("apply", write(text.replace("true", "false")))

    resumed = await got(server, "/v2/schedules/s")
    assert (resumed["isPaused"], resumed["createdAt"]) == (False, made["createdAt"])


async def test_a_dry_run_prints_the_plan_and_changes_nothing(run: Run, write: Write, server: Running) -> None:
    result = await run("apply", write(EVERYTHING), "--dry-run", "--prune", REPORT_TOKEN=SECRET)

    assert result.code == 0
    assert "+ create schedule daily-report" in result.out
    assert result.out.endswith("Nothing was changed: this was a dry run.\n")
    assert await state(server) == [[], [], [], []]


async def test_prune_deletes_what_the_file_does_not_have_but_only_of_the_kinds_it_has(
    run: Run, write: Write, server: Running, receiver: Receiver
) -> None:
    await run("apply", write(EVERYTHING), REPORT_TOKEN=SECRET)
    await server.http.post(f"/v2/enqueue/slow/{receiver.url()}")
    fewer = write("queues: [{name: mails, parallelism: 2}]\nflow: []")

    unpruned = await run("apply", fewer)
    pruned = await run("apply", fewer, "--prune", "--yes")

    assert "3 more on the server are not in the file: --prune deletes them." in unpruned.out
    assert "- delete queue slow: 1 message in it is cancelled\n" in pruned.out
    assert "3 to delete, 1 unchanged.\nDone." in pruned.out
    assert [one["name"] for one in await got(server, "/v2/queues")] == ["mails"]
    assert len(await got(server, "/v2/schedules")) == 2
    assert len(await got(server, "/v2/topics")) == 1
    keys = await got(server, "/v2/flowControl")
    assert not any(one["isPaused"] or one["isPinnedRate"] or one["isPinnedParallelism"] for one in keys)
    assert (await run("apply", fewer, "--prune")).out.endswith("1 unchanged.\n")


async def test_without_a_terminal_nothing_is_deleted_unless_it_is_said(run: Run, write: Write, server: Running) -> None:
    await run("apply", write("queues: [{name: a}, {name: b}]"))

    result = await run("apply", write("queues: [{name: a, parallelism: 2}]"), "--prune")

    assert result.code == 1
    assert "1 to delete, and nobody to ask: --yes deletes without a question" in result.error
    assert [(one["name"], one["parallelism"]) for one in await got(server, "/v2/queues")] == [("a", 1), ("b", 1)]


@pytest.mark.parametrize(("answer", "left"), [("n", ["a", "b"]), ("y", ["a"])])
async def test_at_a_terminal_it_asks_before_it_deletes(
    run: Run, write: Write, server: Running, answer: str, left: list[str]
) -> None:
    await run("apply", write("queues: [{name: a}, {name: b}]"))
    ours, theirs = pty.openpty()
    os.write(ours, f"{answer}\n".encode())

    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).parent / "postroad",
        "apply",
        str(write("queues: [{name: a}]")),
        "--prune",
        env={**os.environ, "QSTASH_URL": server.url, "QSTASH_TOKEN": TOKEN},
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    _, err = await process.communicate()
    os.close(ours)
    os.close(theirs)

    assert b"1 to delete. Go on?" in err
    assert process.returncode == (0 if answer == "y" else 1)
    assert [one["name"] for one in await got(server, "/v2/queues")] == left


async def test_secrets_are_not_printed(run: Run, write: Write) -> None:
    text = (
        "schedules: [{id: s, cron: '@daily', destination: 'http://127.0.0.1:9/', body: 'key ${MY_KEY}', "
        "headers: {X-Api-Key: plain-secret, X-Other: 'a ${MY_KEY}'}}]"
    )
    created = await run("apply", write(text), MY_KEY="older-secret")
    changed = await run("apply", write(text.replace("plain", "new")), MY_KEY="newer-secret")
    machine = await run("apply", write(text), "--json", MY_KEY="newest-secret")

    everything = created.out + changed.out + machine.out
    assert "-secret" not in everything
    assert "header X-Other    a ${MY_KEY}\n" in created.out
    assert "header X-Api-Key  (hidden) → (hidden)\n" in changed.out
    assert "header X-Other    (hidden) → a ${MY_KEY}\n" in changed.out


PRIVATE_KEY = 'begin "of" a key\nits-second-line/ü'


async def test_a_secret_is_not_printed_in_the_form_that_json_or_an_error_gives_it(run: Run, write: Write) -> None:
    text = "schedules: [{id: s, cron: '@daily', destination: 'http://127.0.0.1:9/', body: {key: '${MY_KEY}'}}]"
    wrong = "schedules: [{id: s, cron: '@daily', destination: 'ftp://${MY_KEY}'}]"

    created = await run("apply", write(text), MY_KEY=PRIVATE_KEY)
    refused = await run("apply", write(wrong), MY_KEY=PRIVATE_KEY)
    cut = await run("apply", write(wrong), MY_KEY="abc-" * 100)

    assert '    body                 {"key":"${MY_KEY}"}\n' in created.out
    assert "schedules[0].destination: got 'ftp://${MY_KEY}': endpoint has invalid scheme" in refused.error
    assert "schedules[0].destination: got 'ftp://${MY_KEY}…': endpoint has invalid scheme" in cut.error
    for part in ("begin", "second-line", "abc-"):
        assert part not in created.out + refused.error + cut.error


async def test_when_the_server_goes_away_half_way_it_is_said_what_was_made_and_what_was_not(
    run: Run, write: Write, receiver: Receiver
) -> None:
    for listed in ("queues", "topics", "flowControl", "schedules"):
        receiver.script(f"/v2/{listed}", status(200, b"[]"))
    receiver.script("/v2/keys", status(200, b"{}"))
    file = write("queues: [{name: a}, {name: b}]\ngroups: [{name: g, endpoints: ['http://127.0.0.1:9/']}]")

    receiver.script("/v2/queues", status(200, b"[]"), status(200, b""), status(200, b"no QStash"))
    result = await run("apply", file, QSTASH_URL=receiver.url(""))
    receiver.script("/v2/queues", status(200, b"[]"), status(200, b""), status(200, b"no QStash"))
    machine = await run("apply", file, "--json", QSTASH_URL=receiver.url(""))

    assert "Done." not in result.out
    assert "create queue b failed: what answers at " in result.error
    assert "create group g failed: not tried any more" in result.error
    assert "1 of 3 changes were made before: run it again for the others" in result.error
    assert [step.get("error", "")[:12] for step in json.loads(machine.out)["steps"]] == [
        "",
        "what answers",
        "not tried an",
    ]
    assert not json.loads(machine.out)["applied"]


async def test_a_check_changes_nothing_and_says_by_its_exit_code_whether_there_is_anything_to_do(
    run: Run, write: Write, server: Running
) -> None:
    file = write("queues: [{name: a}]")

    before = await run("apply", file, "--check")
    untouched = await state(server)
    await run("apply", file)
    after = await run("apply", file, "--check")
    pruned = await run("apply", write("queues: []"), "--check", "--prune")

    assert (before.code, after.code, pruned.code) == (7, 0, 7)
    assert "+ create queue a" in before.out
    assert untouched == [[], [], [], []]
    assert [one["name"] for one in await got(server, "/v2/queues")] == ["a"]


async def test_a_queue_with_a_name_that_no_path_can_hold_fails_alone(run: Run, write: Write, server: Running) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    await server.http.post("/v2/queues", json={"queueName": "..", "parallelism": 1}, headers=headers)

    result = await run("apply", write("queues: [{name: a}]"), "--prune", "--yes")

    assert "delete queue .. failed: '..' is no id and no name" in result.error
    assert "1 of 2 changes failed, 1 were made" in result.error
    assert [one["name"] for one in await got(server, "/v2/queues")] == ["..", "a"]


async def test_json_is_the_plan_and_its_outcome(run: Run, write: Write) -> None:
    await run("apply", write("queues: [{name: a}, {name: b}]"))

    result = await run("apply", write("queues: [{name: a, parallelism: 2}]"), "--prune", "--yes", "--json")

    assert json.loads(result.out) == {
        "applied": True,
        "steps": [
            {
                "action": "change",
                "kind": "queue",
                "name": "a",
                "changes": [{"field": "parallelism", "from": 1, "to": 2}],
            },
            {"action": "delete", "kind": "queue", "name": "b", "changes": []},
        ],
        "counts": {"change": 1, "delete": 1},
    }


async def test_what_policy_refuses_names_the_setting_and_keeps_the_rest_from_being_deleted(
    serve: Serve, run: Run, write: Write
) -> None:
    public = await serve(destinations="public")
    await run("apply", write("queues: [{name: old}]"), QSTASH_URL=public.url)
    text = "schedules: [{id: s, cron: '@daily', destination: 'http://10.1.2.3/'}]\nqueues: [{name: new}]"

    result = await run("apply", write(text), "--prune", "--yes", QSTASH_URL=public.url)

    assert result.code == 1
    assert "create schedule s failed: invalid destination url: " in result.error
    assert "POSTROAD_DESTINATIONS" in result.error
    assert "delete queue old failed: left alone, because something before it failed" in result.error
    assert "2 of 3 changes failed, 1 were made" in result.error
    assert [one["name"] for one in await got(public, "/v2/queues")] == ["new", "old"]


async def test_a_file_may_come_from_standard_input(run: Run, server: Running) -> None:
    result = await run("apply", "-", stdin="queues: [{name: a}]")

    assert result.code == 0
    assert [one["name"] for one in await got(server, "/v2/queues")] == ["a"]


async def test_the_example_of_the_documentation_does_what_it_says(run: Run, write: Write) -> None:
    text = (Path(__file__).parents[2] / "docs" / "as-code.md").read_text()
    [example] = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    [shown] = re.findall(r"```\n(\+ create.*?)```", text, re.DOTALL)

    # Names are not looked up: the receivers of an example do not exist.
    local = example.replace("app.example.com", "127.0.0.1:9").replace("https://", "http://")
    local = local.replace("one.example.com", "127.0.0.1:9/1").replace("two.example.com", "127.0.0.1:9/2")
    result = await run("apply", write(local), REPORT_TOKEN=SECRET)

    assert result.code == 0, result.error
    assert _plain(result.out) == _plain(shown)


def _plain(plan: str) -> list[str]:
    """The plan without what differs between the example and its test: hosts, hashes and the width of columns."""
    plan = re.sub(r"redacted, \w+…", "redacted", plan)
    return [" ".join(line.split()) for line in re.sub(r"https?://[^/]+/(?:[12]/)?", "url/", plan).splitlines()]
