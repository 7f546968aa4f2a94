"""The crons of a vercel.json become schedules."""

from __future__ import annotations

from datetime import timedelta

from tests.cli_apply.conftest import Run, Write, got, state
from tests.conftest import Running
from tests.receiver import Receiver

# Indented by tabs, as many are.
VERCEL = """{
\t"$schema": "https://openapi.vercel.sh/vercel.json",
\t"functions": {"api/*.ts": {"maxDuration": 30}},
\t"crons": [
\t\t{"path": "/api/cron/daily", "schedule": "0 5 * * *"},
\t\t{"path": "/api/cron/daily?x=1", "schedule": "0 5 * * *"},
\t\t{"path": "/", "schedule": "*/10 * * * *"}
\t]
}"""
BASE = ("--base-url", "http://127.0.0.1:9/")


async def test_each_cron_job_calls_the_app_with_the_secret(
    run: Run, write: Write, server: Running, receiver: Receiver
) -> None:
    file = write(VERCEL, "vercel.json")

    result = await run("apply", file, "--base-url", receiver.url("/base/"), CRON_SECRET="a-cron-secret")
    await server.time_passes(timedelta(days=1))

    assert result.code == 0
    requests = {request.target: request for request in await receiver.wait_for(3)}
    assert sorted(requests) == ["/base/", "/base/api/cron/daily", "/base/api/cron/daily?x=1"]
    assert {request.method for request in requests.values()} == {"GET"}
    assert {request.header("Authorization") for request in requests.values()} == {"Bearer a-cron-secret"}
    # The secret is nobody's business who may only look.
    assert "a-cron-secret" not in str(await got(server, "/v2/schedules")) + result.out


async def test_the_second_run_changes_nothing_and_another_base_changes_the_same_schedules(
    run: Run, write: Write, server: Running
) -> None:
    file = write(VERCEL, "vercel.json")
    await run("apply", file, *BASE, CRON_SECRET="a-cron-secret")
    before = await state(server)

    again = await run("apply", file, *BASE, "--prune", CRON_SECRET="a-cron-secret")

    assert again.out.endswith("3 unchanged.\n")
    assert await state(server) == before
    moved = await run("apply", file, "--base-url", "http://127.0.0.1:8", "--prune", CRON_SECRET="a-cron-secret")
    assert "3 to change.\nDone." in moved.out


async def test_prune_deletes_only_what_an_earlier_vercel_apply_has_made_for_this_app(
    run: Run, write: Write, server: Running
) -> None:
    mine = "schedules: [{id: vercel-mine, cron: '0 5 * * *', method: GET, destination: 'http://127.0.0.1:9/api'}]"
    await run("apply", write(f"{mine}\nqueues: [{{name: q}}]"))
    await run("apply", write(VERCEL, "vercel.json"), "--base-url", "http://127.0.0.1:9/with/a/path")
    other = write('{"crons": [{"path": "/other", "schedule": "*/10 * * * *"}]}', "vercel.json")
    await run("apply", other, "--base-url", "http://127.0.0.1:9/with/a/pathology")
    fewer = write('{"crons": [{"path": "/", "schedule": "*/10 * * * *"}]}', "vercel.json")

    result = await run("apply", fewer, "--base-url", "http://127.0.0.1:9/with/a/path", "--prune", "--yes")

    assert "2 to delete, 1 unchanged.\nDone." in result.out
    left = {one["scheduleId"]: one["destination"] for one in await got(server, "/v2/schedules")}
    assert left.pop("vercel-mine") == "http://127.0.0.1:9/api"
    assert sorted(left.values()) == ["http://127.0.0.1:9/with/a/path/", "http://127.0.0.1:9/with/a/pathology/other"]
    assert len(await got(server, "/v2/queues")) == 1


async def test_a_file_without_its_last_cron_job_has_none_and_what_vercel_may_add_is_passed_over(
    run: Run, write: Write, server: Running
) -> None:
    more = '{"crons": [{"path": "/a", "schedule": "@daily", "description": "new at Vercel"}], "regions": ["fra1"]}'
    made = await run("apply", write(more, "vercel.json"), *BASE)
    one = await got(server, "/v2/schedules")

    pruned = await run("apply", write('{"regions": ["fra1"]}', "vercel.json"), *BASE, "--prune", "--yes")

    assert (made.code, len(one)) == (0, 1)
    assert (pruned.code, pruned.error) == (0, "")
    assert await got(server, "/v2/schedules") == []


async def test_a_secret_that_no_header_can_carry_is_refused_before_anything_is_changed(
    run: Run, write: Write, server: Running
) -> None:
    file = write(VERCEL, "vercel.json")

    broken = await run("apply", file, *BASE, CRON_SECRET="one-line\nanother-line")
    empty = await run("apply", file, *BASE, CRON_SECRET="")

    assert "the environment variable CRON_SECRET cannot be sent: expected a header value in Latin-1" in broken.error
    assert "-line" not in broken.error
    assert "the environment variable CRON_SECRET is empty: unset it" in empty.error
    assert await state(server) == [[], [], [], []]


async def test_mistakes_in_it_are_told_with_their_places(run: Run, write: Write, server: Running) -> None:
    text = '{\n"crons": [\n{"path": "api", "schedule": "61 5 * * *"},\n{"path": "/a", "cron": "@daily"},\n'
    text += '{"path": "/b#c", "schedule": "@daily"}\n]\n}'

    result = await run("apply", write(text, "vercel.json"), *BASE)

    for said in (
        "vercel.json, line 3, crons[0].path: got 'api', expected a path that begins with /",
        "vercel.json, line 3, crons[0].schedule: got '61 5 * * *', expected 0 to 59 as the minute",
        "vercel.json, line 4, crons[1]: schedule is missing",
        "vercel.json, line 5, crons[2].path: got '/b#c', expected a path without a fragment",
        "vercel.json, line 4, crons[1].cron: unknown field",
    ):
        assert said in result.error
    assert await state(server) == [[], [], [], []]


async def test_it_needs_the_address_of_the_app(run: Run, write: Write) -> None:
    file = write(VERCEL, "vercel.json")

    missing = await run("apply", file)
    wrong = await run("apply", file, "--base-url", "app.example.com")
    useless = await run("apply", write("queues: []"), *BASE)

    assert (missing.code, wrong.code, useless.code) == (2, 2, 2)
    assert "--base-url https://app.example.com" in " ".join(missing.error.replace("│", "").split())
    assert "endpoint has invalid scheme" in wrong.error
    assert "it is for the crons of a vercel.json" in useless.error
