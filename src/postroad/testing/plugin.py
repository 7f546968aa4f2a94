"""The pytest plugin. It is loaded in every run where Postroad is installed, so it imports nothing before it is used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from postroad.testing.process import ServerProcess
    from postroad.testing.server import PostroadServer


@pytest.fixture(scope="session")
def postroad_process() -> Iterator[ServerProcess]:
    """One server with its own PostgreSQL for the run; with pytest-xdist, one for each worker."""
    from postroad.testing.process import ServerProcess

    process = ServerProcess.start()
    yield process
    process.stop()


@pytest.fixture
def postroad_server(postroad_process: ServerProcess) -> Iterator[PostroadServer]:
    """A server in which nothing has happened yet: the test has a tenant, keys and a receiver of its own."""
    from postroad.testing.server import PostroadServer

    with PostroadServer.of(postroad_process) as server:
        yield server


@pytest.fixture
def postroad_env(postroad_server: PostroadServer, monkeypatch: pytest.MonkeyPatch) -> PostroadServer:
    """The same server, with the four QSTASH_ variables in the environment, where the SDKs look for them."""
    for name, value in postroad_server.env.items():
        monkeypatch.setenv(name, value)
    return postroad_server
