"""How commands fail: one sentence on stderr, and a code that scripts can rely on."""

from __future__ import annotations

import pytest

from postroad.cli.exits import MEANINGS, ExitCode
from tests.cli.conftest import Run, run_here
from tests.conftest import Running


def test_a_server_that_is_not_there() -> None:
    ran = run_here("queues", "list", "--url", "http://127.0.0.1:1")

    assert ran.code == 6
    assert ran.err.startswith("postroad: cannot reach http://127.0.0.1:1: ")
    assert ran.err.endswith("is QSTASH_URL right, and does it run?\n")


async def test_something_else_that_answers_is_not_taken_for_the_api(run: Run, environment: Running) -> None:
    ran = await run("queues", "list", "--url", f"{environment.url}/docs#")

    assert ran.code != 0
    assert ran.out == ""


async def test_what_the_server_refuses(run: Run) -> None:
    ran = await run("queues", "show", "nowhere")

    assert (ran.code, ran.out) == (ExitCode.REFUSED, "")
    assert ran.err == "postroad: queue nowhere not found (HTTP 404)\n"


@pytest.mark.parametrize("name", ["", ".", ".."])
async def test_what_would_mean_another_path_is_not_sent(run: Run, name: str) -> None:
    for command in (
        "queues delete",
        "queues show",
        "schedules show",
        "flow pause",
        "groups delete",
        "cancel",
        "message",
    ):
        ran = await run(*command.split(), name)

        assert ran.code == 1, command
        assert "is no id and no name" in ran.err


async def test_what_http_cannot_write_is_not_taken_for_a_server_that_is_away(run: Run) -> None:
    ran = await run("publish", "http://127.0.0.1:1/", "--label", "a\nb")

    assert ran.code == 1
    assert "cannot be sent by HTTP" in ran.err
    far = await run("publish", "http://127.0.0.1:1/", "--label", "日本")
    assert (far.code, far.err) == (
        1,
        "postroad: a header cannot hold '日本': expected letters of Latin-1, as HTTP has them\n",
    )


async def test_a_wrong_token_and_none(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = await run("queues", "list", "--token", "wrong")
    monkeypatch.delenv("QSTASH_TOKEN")
    none = await run("queues", "list")

    assert (wrong.code, none.code) == (1, 1)
    assert "is QSTASH_TOKEN right?" in wrong.err
    assert "wrong" not in wrong.err
    assert "set QSTASH_TOKEN or say --token" in none.err


def test_wrong_usage() -> None:
    assert run_here("queues", "list", "--nonsense").code == 2
    assert run_here("nonsense").code == 2
    assert run_here("publish").code == 2


def test_the_codes_are_in_the_help() -> None:
    shown = " ".join(run_here("--help").out.replace("│", " ").split())

    assert " ".join(MEANINGS.split()) in shown
    for code in ExitCode:
        assert f"{int(code)} " in MEANINGS


async def test_what_destroys_is_refused_where_nobody_can_be_asked(run: Run, environment: Running) -> None:
    await environment.http.post("/v2/queues", json={"queueName": "kept"})

    ran = await run("queues", "delete", "kept")

    assert ran.code == 1
    assert "no terminal to ask" in ran.err
    assert "--yes" in ran.err
    assert (await environment.http.get("/v2/queues/kept")).status_code == 200


async def test_what_destroys_asks_on_a_terminal(run_on_terminal: Run, environment: Running) -> None:
    await environment.http.post("/v2/queues", json={"queueName": "kept"})

    no = await run_on_terminal("queues", "delete", "kept", answer="n\n")
    assert (await environment.http.get("/v2/queues/kept")).status_code == 200
    yes = await run_on_terminal("queues", "delete", "kept", answer="y\n")

    assert (no.code, yes.code) == (1, 0)
    assert "Delete the queue kept and cancel 0 messages?" in no.out
    assert "nothing was done" in no.out
    assert (await environment.http.get("/v2/queues/kept")).status_code == 404
