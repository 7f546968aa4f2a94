"""The examples do what their README says, against a running server."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from postroad import dev
from tests.conftest import KEYS, TOKEN, Running, Serve, eventually
from tests.contract.javascript import SCRIPTS, application, install, next_line

EXAMPLES = Path(__file__).parents[1] / "examples"
EXAMPLE = EXAMPLES / "background-jobs"


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The example as after `npm install`."""
    return _installed(EXAMPLE, tmp_path)


def _installed(example: Path, tmp_path: Path) -> Path:
    install()
    copy = shutil.copytree(example, tmp_path / "example", ignore=shutil.ignore_patterns("node_modules"))
    (copy / "node_modules").symlink_to(SCRIPTS / "node_modules")
    return copy


@asynccontextmanager
async def started(example: Path, server: Running, **environment: str) -> AsyncIterator[httpx.AsyncClient]:
    """The app as `npm start` starts it, on any port and with the server's address, and a browser in front of it."""
    start = json.loads((example / "package.json").read_text())["scripts"]["start"]
    program, *arguments, script = start.split()
    assert program == "node"
    variables = {"PORT": "0", "QSTASH_URL": server.url, **environment}
    async with application(*arguments, script, cwd=example, environment=variables) as process:
        address = (await next_line(process)).removeprefix("Open ").strip()
        async with httpx.AsyncClient(base_url=address, verify=False) as browser:
            yield browser


async def test_a_click_becomes_a_job_whose_result_is_shown(installed: Path, server: Running) -> None:
    async with started(installed, server) as app:
        page = await app.get("/")
        begun = await app.post("/jobs", json={"number": 10_000})
        states = await server.settled(begun.json()["messageId"])
        job = await app.get(f"/jobs/{begun.json()['id']}")

    assert (page.status_code, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert 'fetch("/jobs"' in page.text
    assert begun.status_code == 202
    assert states == ["CREATED", "ACTIVE", "DELIVERED"]
    assert job.json() == {"state": "done", "result": "Prime number 10000 is 104729."}


async def test_a_forged_job_is_refused(installed: Path, server: Running) -> None:
    async with started(installed, server) as app:
        begun = await app.post("/jobs", json={"number": 1})
        await server.settled(begun.json()["messageId"])
        forged = {"id": "forged", "number": 1}

        unsigned = await app.post("/work", json=forged)
        badly_signed = await app.post("/work", json=forged, headers={"Upstash-Signature": "a.b.c"})
        job = await app.get("/jobs/forged")

    assert (unsigned.status_code, badly_signed.status_code, job.status_code) == (401, 401, 404)


async def test_an_app_with_wrong_keys_gets_the_job_again_when_it_has_the_right_ones(
    installed: Path, server: Running
) -> None:
    wrong = {"QSTASH_CURRENT_SIGNING_KEY": "no", "QSTASH_NEXT_SIGNING_KEY": "no"}
    async with started(installed, server, **wrong) as app:
        begun = (await app.post("/jobs", json={"number": 3})).json()
        await server.settled(begun["messageId"], "RETRY")
        job = await app.get(f"/jobs/{begun['id']}")
        port = str(app.base_url.port)
    [failed] = await server.events(messageId=begun["messageId"], state="ERROR")

    async with started(installed, server, PORT=port) as app:
        await server.time_passes(timedelta(seconds=13))
        await server.settled(begun["messageId"])
        done = await eventually(lambda: app.get(f"/jobs/{begun['id']}"), lambda answer: answer.status_code == 200)

    assert job.json() == {"state": "waiting"}
    assert failed["responseStatus"] == 401
    assert done.json()["result"] == "Prime number 3 is 5."


async def test_what_cannot_be_published_is_told(installed: Path, server: Running) -> None:
    async with started(installed, server, QSTASH_TOKEN="wrong") as app:
        refused = await app.post("/jobs", json={"number": 3})
        too_many = await app.post("/jobs", json={"number": 100_001})

    assert (refused.status_code, too_many.status_code) == (500, 400)
    assert "unable to authenticate" in refused.json()["error"]


def test_the_defaults_of_the_example_are_what_dev_prints() -> None:
    printed = dev.announcement("http://127.0.0.1:8080", KEYS).splitlines()

    said = (EXAMPLE / ".env").read_text().splitlines()

    assert TOKEN in said[2]
    assert [line for line in said if not line.startswith("#")] == [line for line in printed if "=" in line]


def test_the_example_has_the_client_that_the_contract_is_tested_with() -> None:
    example, contract = [json.loads((folder / "package.json").read_text()) for folder in (EXAMPLE, SCRIPTS)]

    assert example["dependencies"] == {"@upstash/qstash": contract["dependencies"]["@upstash/qstash"]}


def test_every_file_of_the_example_is_used() -> None:
    readme = (EXAMPLE / "README.md").read_text()
    files = {path.name for path in EXAMPLE.iterdir()} - {"node_modules", "package-lock.json"}

    assert files == {"README.md", "package.json", *(name for name in ("server.mjs", ".env") if f"]({name})" in readme)}


async def test_a_job_shows_its_progress_by_the_three_lines_of_a_status_route(tmp_path: Path, serve: Serve) -> None:
    server = await serve(public=True)
    seen: list[tuple[str, float | None, str | None]] = []
    async with started(_installed(EXAMPLES / "progress", tmp_path), server, STEP_MS="600") as app:
        page = await app.get("/")
        begun = await app.post("/jobs", json={"rows": 5000})
        job: dict[str, Any] = {}
        while job.get("status") not in ("completed", "failed", "canceled"):
            job = (await app.get(f"/api/status/{begun.json()['id']}")).json()
            state = (job["status"], job.get("progress"), job.get("note"))
            if state not in seen[-1:]:
                seen.append(state)

    assert 'fetch("/api/status/" + id)' in page.text
    assert [state for state in seen if state[1] is not None][:2] == [
        ("processing", 10, "counting 5000 rows"),
        ("processing", 50, "writing 5000 rows"),
    ]
    assert seen[-1] == ("completed", 100, "done")
    assert job["result"] == {"rows": 5000}
