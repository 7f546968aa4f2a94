"""Where the peers keep their messages, started anew for each of their turns."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qs, urlsplit

from bench.peers.installed import redis_server
from bench.programs import BenchError, Program
from bench.scenarios import postgres
from bench.usage import Usage

_LONGEST_START_S = 30.0


@dataclass(frozen=True, slots=True)
class Store:
    """A running server: how its clients are told where it is, and its seconds of CPU until now."""

    variables: Mapping[str, str]
    cpu_s: Callable[[], float]


Stores = Callable[[Path], AbstractContextManager[Store]]
"""Starts a store that writes into a directory."""


@contextmanager
def postgresql(_: Path) -> Iterator[Store]:
    """The PostgreSQL that Postroad brings, with Postroad's settings; the variables are those of libpq."""
    with postgres() as server:
        place = urlsplit(server.url)
        variables = {
            "PGHOST": parse_qs(place.query)["host"][0],
            "PGUSER": str(place.username),
            "PGDATABASE": place.path.removeprefix("/"),
        }
        yield Store(variables, lambda: Usage.now(python=server.pid, postmaster=server.pid).postgres)


def redis(appendfsync: Literal["always", "everysec"]) -> Stores:
    """Debian's Redis with an append-only file, and neither snapshots nor rewrites of that file meanwhile."""

    @contextmanager
    def start(directory: Path) -> Iterator[Store]:
        data = directory / f"redis-{appendfsync}"
        data.mkdir(exist_ok=True)
        place = data / "socket"
        options = {
            "--port": "0",
            "--unixsocket": str(place),
            "--dir": str(data),
            "--appendonly": "yes",
            "--appendfsync": appendfsync,
            "--save": "",
            "--auto-aof-rewrite-percentage": "0",
        }
        command = [redis_server(), *(part for option in options.items() for part in option)]
        with Program(command, data / "log") as server:
            _await_pong(place, server)
            yield Store({"REDIS_SOCKET": str(place)}, lambda: Usage.now(python=server.pid).python)

    return start


def _await_pong(place: Path, server: Program) -> None:
    deadline = time.monotonic() + _LONGEST_START_S
    while time.monotonic() < deadline:
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(place))
                client.sendall(b"PING\r\n")
                if client.recv(64).startswith(b"+PONG"):
                    return
        except (FileNotFoundError, ConnectionRefusedError):
            pass  # it is about to listen
        time.sleep(0.01)
    words = "\n".join(server.said()[-10:])
    raise BenchError(f"redis-server does not answer:\n{words}")
