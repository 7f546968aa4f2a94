"""All commands there are, by the tree that typer itself makes of them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from postroad.cli import cli
from tests.cli.conftest import POSTROAD, run_here

SILENT = {("dev",), ("serve",), ("tenant", "create"), ("token", "revoke"), ("keys", "set")}
"""They print nothing that a program would read."""


def _leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if hasattr(command, "commands"):
        for name, one in command.commands.items():
            yield from _leaves(one, (*path, name))
    else:
        yield path, command


COMMANDS = dict(_leaves(typer.main.get_command(cli)))
each_command = pytest.mark.parametrize("path", COMMANDS, ids=" ".join)


def test_the_commands_are_those_that_are_promised() -> None:
    groups = {
        "dlq": "list show retry delete",
        "queues": "list show set pause resume delete",
        "groups": "list show add remove delete",
        "flow": "list show pin unpin pause resume reset",
        "schedules": "list show next create run pause resume delete",
        "clock": "show advance",
    }
    promised: set[tuple[str, ...]] = {(group, verb) for group, verbs in groups.items() for verb in verbs.split()}
    alone = "publish enqueue batch messages message cancel logs status verify top doctor apply import"
    promised |= {(name,) for name in alone.split(" ")}

    assert promised <= COMMANDS.keys()


@each_command
def test_a_command_and_all_of_its_options_have_help(path: tuple[str, ...]) -> None:
    command = COMMANDS[path]

    assert len(command.help or "") > 10
    assert command.help.splitlines()[0].endswith((".", ":"))
    assert [one.name for one in command.params if not getattr(one, "help", None)] == []


@each_command
def test_a_command_that_prints_something_prints_json_as_well(path: tuple[str, ...]) -> None:
    options = {name for one in COMMANDS[path].params for name in one.opts}

    assert ("--json" in options) is (path not in SILENT)


@each_command
def test_a_command_prints_its_help(path: tuple[str, ...]) -> None:
    ran = run_here(*path, "--help")

    assert ran.code == 0
    assert f"Usage: postroad {' '.join(path)}" in " ".join(ran.out.split())


@pytest.mark.parametrize(
    "path", [path for path in COMMANDS if path[-1] in ("delete", "remove", "cancel", "retry", "revoke")]
)
def test_what_destroys_can_be_tried_and_agreed_to(path: tuple[str, ...]) -> None:
    options = {name for one in COMMANDS[path].params for name in one.opts}

    assert {"--yes", "--dry-run"} <= options


def test_completion_is_there() -> None:
    ran = subprocess.run(
        [str(POSTROAD)],
        env=os.environ | {"_POSTROAD_COMPLETE": "complete_bash", "COMP_WORDS": "postroad dlq ", "COMP_CWORD": "2"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert ran.stdout.split() == ["list", "show", "retry", "delete"]


def test_help_loads_neither_the_server_nor_its_clients() -> None:
    code = (
        "import sys; sys.argv = ['postroad', 'queues', '--help']\n"
        "from postroad.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print('LOADED', *(m for m in ('fastapi', 'asyncpg', 'sqlalchemy', 'uvicorn') if m in sys.modules))"
    )

    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert ran.stdout.splitlines()[-1].split() == ["LOADED"]
