"""What the tests of the official clients share."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract import javascript
from tests.contract.accounts import Account
from tests.contract.javascript import Client, Driver

COVERAGE: dict[str, tuple[int, int]] = {}
"""How many methods of a client were called, and how many it has, by the client's name and version."""


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Where the tests run in several processes, learn from each how much of the clients was used."""
    COVERAGE.update(
        {name: tuple(counts) for name, counts in getattr(node, "workeroutput", {}).get("coverage", {}).items()}
    )


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Tell the process that started this one how much of the clients was used."""
    if (output := getattr(session.config, "workeroutput", None)) is not None:
        output["coverage"] = COVERAGE


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say at the end how much of each client was used."""
    for name, (called, total) in sorted(COVERAGE.items()):
        terminalreporter.write_line(f"{name}: {called}/{total} methods")


@pytest.fixture(scope="session")
def driver(request: pytest.FixtureRequest) -> Iterator[Driver]:
    """The Node process in which the JavaScript clients run. When all of their tests have run, nothing is uncalled."""
    javascript.install()
    with Driver() as one:
        yield one
        uncalled = []
        for package, name in ((javascript.NEWEST, "@upstash/qstash 2.12"), (javascript.OLD, "@upstash/qstash 2.7")):
            total, missing = len(one.methods(package)), one.missing(package)
            COVERAGE[name] = (total - len(missing), total)
            uncalled += [f"{name}: {method}" for method in sorted(missing)]
    if _ran_whole(request.session, "test_js_sdk*.py"):
        assert uncalled == []


Connect = Callable[..., Client]


@pytest.fixture
def connect(driver: Driver, server: Account) -> Connect:
    """Make JavaScript clients of the server, with options beside address and token."""

    def make(package: str = javascript.NEWEST, **options: Any) -> Client:
        return Client(driver, package, {"baseUrl": server.url, "token": server.token, **options})

    return make


@pytest.fixture
def client(connect: Connect) -> Client:
    """The newest JavaScript client as a user makes it."""
    return connect()


@pytest.fixture
def old_client(connect: Connect) -> Client:
    """The same of 2.7."""
    return connect(javascript.OLD)


def _ran_whole(session: pytest.Session, modules: str) -> bool:
    """Whether every test of these modules was to run, and none has failed."""
    ran = {(item.path.name, item.originalname) for item in session.items if isinstance(item, pytest.Function)}
    return not session.testsfailed and all(
        (path.name, name) in ran
        for path in Path(__file__).parent.glob(modules)
        for name in re.findall(r"^async def (test_\w+)", path.read_text(), re.MULTILINE)
    )
