"""The command line beside a server in the test's own event loop."""

from __future__ import annotations

import asyncio
import gc
import warnings
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner
from typer.testing import Result as ClickResult

from postroad import dev
from postroad.cli import cli
from postroad.errors import PostroadError
from tests.conftest import TOKEN, Running

OTHER_TOKEN = dev.DEV_USERS[1].token


@dataclass(frozen=True)
class Result:
    """How a command ended; `error` is what it would have said on stderr."""

    code: int
    out: str
    error: str


Run = Callable[..., Awaitable[Result]]


@pytest.fixture
def run(server: Running) -> Run:
    """Run a command against the server, with these variables in its environment."""

    async def one(*arguments: str | Path, stdin: str = "", **environment: str) -> Result:
        variables: dict[str, str | None] = {
            "QSTASH_URL": server.url,
            "QSTASH_TOKEN": TOKEN,
            "CRON_SECRET": None,
            **environment,
        }
        given = [str(argument) for argument in arguments]
        # In a thread of its own, because the server needs the loop.
        return await asyncio.to_thread(_invoked, given, stdin, variables)

    return one


def _invoked(arguments: list[str], stdin: str, variables: dict[str, str | None]) -> Result:
    with warnings.catch_warnings():
        # A command leaves its connections to the end of its process, which is not that of the test.
        warnings.simplefilter("ignore", ResourceWarning)
        result = _result(CliRunner().invoke(cli, arguments, stdin, env=variables))
        gc.collect()
    return result


def _result(ended: ClickResult) -> Result:
    error = ended.exception
    if error is None or isinstance(error, SystemExit):
        return Result(ended.exit_code, ended.stdout, ended.stderr)
    assert isinstance(error, PostroadError), error
    return Result(ended.exit_code, ended.stdout, f"{ended.stderr}{error}")


Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a file for a command."""

    def one(text: str, name: str = "postroad.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return one


async def got(server: Running, path: str, token: str = TOKEN) -> Any:
    """What the API answers."""
    answer = await server.http.get(path, headers={"Authorization": f"Bearer {token}"})
    assert answer.is_success, answer.text
    return answer.json()


async def state(server: Running, token: str = TOKEN) -> list[Any]:
    """All that a file can say, as the API tells it, with its times: what is replaced gets new ones."""
    found = [await got(server, f"/v2/{name}", token) for name in ("schedules", "queues", "topics", "flowControl")]
    for one in found[0]:
        one.pop("nextScheduleTime", None)
    return found
