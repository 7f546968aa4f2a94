"""Commands as their users run them: in this process, or in one of their own with a terminal."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import subprocess
import sys
import termios
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from postroad import cli
from tests.conftest import KEYS, TOKEN, Running, Serve
from tests.receiver import Receiver

POSTROAD = Path(sys.executable).parent / "postroad"

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True, slots=True)
class Ran:
    """What a command ended with, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one document that it printed."""
        assert self.code in (0, 1, 3, 4, 5), self
        return json.loads(self.out)

    @property
    def rows(self) -> list[list[str]]:
        """The fields of each line."""
        assert self.code == 0, self
        return [line.split("\t") for line in self.out.splitlines()]

    @property
    def record(self) -> dict[str, str]:
        """Names and values."""
        return {row[0]: row[1] for row in self.rows}


def run_here(*arguments: str, stdin: str | bytes = "") -> Ran:
    """Run a command in this process, without a terminal; blocks."""
    code = 0
    with CliRunner().isolation(input=stdin) as (out, err, _):
        before, sys.argv = sys.argv, ["postroad", *arguments]
        try:
            cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            sys.argv = before
        sys.stdout.flush()
        sys.stderr.flush()
        return Ran(code, out.getvalue().decode(), err.getvalue().decode())


async def command(receiver: Receiver, *arguments: str, stdin: str = "") -> Ran:
    """Run a command against the receiver."""
    here = ("--url", receiver.url("").rstrip("/"), "--token", "t")
    return await asyncio.to_thread(run_here, *arguments, *here, stdin=stdin)


Run = Callable[..., Awaitable[Ran]]


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of an app under `postroad dev`."""
    monkeypatch.setenv("QSTASH_CURRENT_SIGNING_KEY", KEYS.current)
    monkeypatch.setenv("QSTASH_NEXT_SIGNING_KEY", KEYS.next)


@pytest.fixture
async def environment(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> Running:
    """A server as of `postroad dev` that commands find by QSTASH_URL and QSTASH_TOKEN."""
    server = await serve(dev=True, public=True)
    monkeypatch.setenv("QSTASH_URL", server.url)
    monkeypatch.setenv("QSTASH_TOKEN", TOKEN)
    return server


@pytest.fixture
def run(environment: Running) -> Run:
    """Run a command against the server."""

    async def one(*arguments: str, stdin: str | bytes = "") -> Ran:
        return await asyncio.to_thread(run_here, *arguments, stdin=stdin)

    return one


@pytest.fixture
def run_on_terminal(environment: Running) -> Run:
    """Run a command in a process of its own on a terminal, where `answer` is typed; without colours and motion."""

    async def one(*arguments: str, answer: str = "", columns: int = 160) -> Ran:
        code, text = await asyncio.to_thread(_on_terminal, arguments, answer, columns)
        return Ran(code, _ESCAPES.sub("", text).replace("\r\n", "\n"), "")

    return one


def _on_terminal(arguments: tuple[str, ...], answer: str, columns: int) -> tuple[int, str]:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(ours, (40, columns))
    process = subprocess.Popen(
        [str(POSTROAD), *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=os.environ | {"TERM": "xterm", "COLUMNS": str(columns)},
    )
    os.close(theirs)
    if answer:
        os.write(ours, answer.encode())
    pieces = []
    while True:
        try:
            piece = os.read(ours, 65_536)
        except OSError:  # Linux says so when nobody holds the other side any more.
            break
        if not piece:
            break
        pieces.append(piece)
    os.close(ours)
    return process.wait(timeout=30), b"".join(pieces).decode()
