"""The programs of a run: compiled, started on loopback, awaited, stopped, and never left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from typing import Any, Self

import psutil
import trustme

HERE = Path(__file__).parent
BIN = HERE / "bin"
POSTROAD = Path(sys.executable).with_name("postroad")
READY = "Postroad is running at "
_LONGEST_START_S = 120.0
_LONGEST_STOP_S = 60.0
_LONGEST_LOAD_S = 120
_NO_PROGRESS_S = 15.0


class BenchError(Exception):
    """The run cannot go on, or what it measured is wrong; one sentence for whoever runs it."""


def compiled(name: str) -> Path:
    """The C program tools/`name`.c in bin/, compiled when it is missing or older than its source."""
    source, program = HERE / "tools" / f"{name}.c", BIN / name
    if program.exists() and program.stat().st_mtime >= source.stat().st_mtime:
        return program
    compiler = next((found for one in ("cc", "gcc", "clang") if (found := shutil.which(one))), None)
    if compiler is None:
        raise BenchError(f"{source} must be compiled, and there is no C compiler: install gcc or clang")
    BIN.mkdir(exist_ok=True)
    draft = BIN / f".{name}.{os.getpid()}"
    done = subprocess.run([compiler, "-O2", "-o", draft, source], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BenchError(f"{compiler} cannot compile {source}:\n{done.stderr}")
    draft.rename(program)
    return program


def environment(**given: str) -> dict[str, str]:
    """Ours without what would change the product: its settings, and a Python that may not keep its bytecode.

    The bytecode goes to bin/, so that a start costs what it costs an installed package and the tree stays clean.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("POSTROAD_", "PYTHON"))}
    own = {"PYTHONPYCACHEPREFIX": str(BIN / "pycache"), "POSTROAD_LOG_LEVEL": "warning"}
    return kept | own | given


class Program:
    """A child process that writes into a file; as a context manager it is stopped at the end, with its children."""

    stdin = subprocess.DEVNULL

    def __init__(self, command: Sequence[str | Path], log: Path, **variables: str) -> None:
        self._log = log
        self._command = command
        with log.open("ab") as output:
            self._from = output.tell()
            # A session of its own: a Ctrl-C is for this run, which then stops its programs one by one.
            self._process = subprocess.Popen(
                command,
                cwd=HERE.parent,
                env=environment(**variables),
                stdin=self.stdin,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.started_at = time.perf_counter()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def said(self) -> list[str]:
        """The lines that it has written."""
        return self._log.read_bytes()[self._from :].decode(errors="replace").splitlines()

    def ready(self, beginning: str = READY) -> str:
        """What follows in the first line that begins so, as soon as it is written."""
        deadline = time.monotonic() + _LONGEST_START_S
        while time.monotonic() < deadline:
            ended = self._process.poll() is not None
            for line in self.said():
                if line.startswith(beginning):
                    return line.removeprefix(beginning).strip()
            if ended:
                break
            time.sleep(0.002)
        words = "\n".join(self.said()[-15:])
        raise BenchError(f"{' '.join(map(str, self._command))} did not start:\n{words}")

    def postmaster(self) -> int:
        """The PostgreSQL that it started."""
        return next(child.pid for child in psutil.Process(self.pid).children() if child.name() == "postgres")

    def stop(self) -> None:
        """Ask it to stop as Ctrl-C does, which is orderly also in the middle of a start; then see that all are gone."""
        if self._process.poll() is not None:
            return
        family = psutil.Process(self.pid).children(recursive=True)
        self._process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_LONGEST_STOP_S)
        _, left = psutil.wait_procs(family, timeout=2)
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


@dataclass(frozen=True, slots=True)
class Accepted:
    """What `load` saw: rate, milliseconds until the answer, and its own seconds of CPU."""

    per_second: float
    p50: float
    p99: float
    cpu_s: float


@dataclass(frozen=True, slots=True)
class Publish:
    """What `load` sends: the way behind the node's address, and what each request has.

    Each `@@@@` in the path and in the headers becomes the number of the message modulo `keys`; `some` is one more
    header on every so-manieth request. With a `batch`, so many messages for `destination` go in one request.
    """

    path: str
    headers: tuple[str, ...] = ()
    size: int = 1024
    keys: int = 0
    some: tuple[str, int] | None = None
    batch: int = 0
    destination: str = ""

    def options(self) -> list[str]:
        """For the command line of `load`."""
        given = [option for header in self.headers for option in ("-H", header)]
        given += ["-s", str(self.size)]
        if self.keys:
            given += ["-k", str(self.keys)]
        if self.some is not None:
            given += ["-x", self.some[0], "-e", str(self.some[1])]
        if self.batch:
            given += ["-b", str(self.batch), "-d", self.destination]
        return given


def load(
    url: str,
    token: str,
    *,
    count: int,
    callers: int = 64,
    rate: float | None = None,
    publish: Publish | None = None,
) -> Accepted:
    """Send `count` messages, as fast as `callers` get answers or at `rate` a second; all must be accepted.

    `url` is the whole one, or the node's address when `publish` tells the rest. Bodies have 1 KB by default.
    """
    given = Publish("") if publish is None else publish
    command: list[str | Path] = [compiled("load"), "-u", url + given.path, "-n", str(count), "-c", str(callers)]
    command += ["-H", f"Authorization: Bearer {token}", "-t", str(_LONGEST_LOAD_S), *given.options()]
    if rate is not None:
        command += ["-r", str(rate)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BenchError(f"not every request was accepted: {done.stdout.strip()} {done.stderr.strip()}")
    seen: dict[str, Any] = json.loads(done.stdout)
    return Accepted(seen["mps"], seen["p50"], seen["p99"], seen["cpu_s"])


@dataclass(frozen=True, slots=True)
class Arrived:
    """What the sink saw since it was reset; latencies are milliseconds from the sending of the publish.

    `first` and `last` are Unix times in seconds.
    """

    count: int
    unique: int
    signed: int
    first: float
    last: float
    p50: float
    p99: float
    worst: float

    @property
    def seconds(self) -> float:
        """Between the first and the last."""
        return self.last - self.first

    @property
    def per_second(self) -> float:
        """Arrivals a second between the first and the last."""
        return self.count / self.seconds if self.seconds else 0.0


class Sink(Program):
    """The receiver. Several tries at a port may be needed: what is free now may be taken in a moment."""

    scheme = "http"

    def __init__(self, log: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self._port = int(probe.getsockname()[1])
        super().__init__(self._command_for(self._port), log)
        for _ in range(500):
            with suppress(ConnectionRefusedError):
                self.reset()
                return
            time.sleep(0.01)
        self.stop()
        raise BenchError(f"the sink does not listen on port {self._port}")

    @property
    def url(self) -> str:
        """The destination."""
        return f"{self.scheme}://127.0.0.1:{self._port}/hook"

    def stop(self) -> None:
        """It knows no orderly end."""
        self._process.kill()
        self._process.wait()

    def reset(self, *, failing_percent: float = 0.0) -> None:
        """Forget what arrived; from now on answer so many requests with 500."""
        self._ask("POST", f"/__reset?fail={failing_percent:g}")

    def arrived(self) -> Arrived:
        """What has arrived."""
        seen = json.loads(self._ask("GET", "/__stats"))
        return Arrived(
            seen["count"], seen["unique"], seen["sig"] - seen["failed"], seen["first_us"] / 1e6, seen["last_us"] / 1e6,
            seen["p50"], seen["p99"], seen["max"],
        )  # fmt: skip

    def await_all(self, count: int, *, each: int = 1, others: int = 0) -> Arrived:
        """What has arrived once all `count` have, each so many times, and so many others that have no number.

        Raises when nothing more comes, and when one came unsigned.
        """
        last, since = -1, time.monotonic()
        total = count * each + others
        while True:
            arrived = self.arrived()
            if arrived.unique >= count and arrived.count >= total:
                break
            if arrived.count > last:
                last, since = arrived.count, time.monotonic()
            elif time.monotonic() - since > _NO_PROGRESS_S:
                raise BenchError(f"lost: {total - arrived.count} of {total} deliveries did not arrive")
            time.sleep(0.05)
        if arrived.unique != count or arrived.signed != arrived.count:
            raise BenchError(f"{count} messages were published, and this arrived: {arrived}")
        return arrived

    def _command_for(self, port: int) -> list[str | Path]:
        return [compiled("sink"), "--port", str(port)]

    def _connected(self) -> HTTPConnection:
        return HTTPConnection("127.0.0.1", self._port, timeout=10)

    def _ask(self, method: str, path: str) -> str:
        connection = self._connected()
        try:
            connection.request(method, path)
            return connection.getresponse().read().decode()
        finally:
            connection.close()


class TlsSink(Sink):
    """A receiver behind TLS, with a certificate of its own authority, which is in `authority_file`. It needs Node."""

    scheme = "https"

    def __init__(self, directory: Path) -> None:
        authority = trustme.CA()
        self.authority_file = directory / "authority.pem"
        self._files = directory / "certificate.pem", directory / "key.pem"
        certificate = authority.issue_cert("127.0.0.1")
        authority.cert_pem.write_to_path(str(self.authority_file))
        certificate.cert_chain_pems[0].write_to_path(str(self._files[0]))
        certificate.private_key_pem.write_to_path(str(self._files[1]))
        super().__init__(directory / "tls-sink.log")

    def _command_for(self, port: int) -> list[str | Path]:
        node = shutil.which("node")
        if node is None:
            raise BenchError("the receiver behind TLS needs Node")
        return [node, HERE / "tools" / "tls_sink.mjs", str(port), *self._files]

    def _connected(self) -> HTTPConnection:
        trusting = ssl.create_default_context(cafile=str(self.authority_file))
        return HTTPSConnection("127.0.0.1", self._port, timeout=10, context=trusting)
