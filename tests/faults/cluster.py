"""The nodes of a run: processes of `postroad serve` that are killed, paused and stopped, and what was done to them."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic

import psutil

from tests.faults.postgres import free_port
from tests.faults.records import Fault, FaultKind

POSTROAD = Path(sys.executable).with_name("postroad")

_LONGEST_START_S = 90.0
_GRACE_S = 35.0
"""The product's own grace, and what it may need to leave."""
_LOOK_EVERY_S = 0.05
_LATE = re.compile(rb'took_effect(?:=False|": false)')
_SECOND = re.compile(rb'"time": "([^."]+)')


class NodeFailed(Exception):
    """A node does not do what it was told; with its last words."""


def environment(**given: str) -> dict[str, str]:
    """Ours without the settings of a product that somebody runs in this shell."""
    return {name: value for name, value in os.environ.items() if not name.startswith("POSTROAD_")} | given


class Node:
    """One place of the cluster: a fixed port, and one process after the other on it.

    Every process has a name of its own, `N<number>-<incarnation>`, which it sends as its region. Whatever ends or halts
    a process becomes a fault, also when the process did it to itself at a fault point.
    """

    def __init__(self, number: int, cluster: Cluster) -> None:
        self.number = number
        self.port = free_port()
        self.incarnation = 0
        self.ended = asyncio.Event()
        """Set while there is no process."""
        self.ended.set()
        self.ready = False
        self.armed = False
        """Whether its process may die at a fault point."""
        self._cluster = cluster
        self._process: asyncio.subprocess.Process | None = None
        self._asked: tuple[FaultKind, float, str] | None = None
        self._paused_at: float | None = None
        self._watching: list[asyncio.Task[None]] = []

    @property
    def name(self) -> str:
        """The name of the process that runs, or of the last one."""
        return f"N{self.number}-{self.incarnation}"

    @property
    def url(self) -> str:
        """Where its API is, whichever process serves it."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        """The process id, while there is a process."""
        return None if self._process is None or self.ended.is_set() else self._process.pid

    @property
    def is_paused(self) -> bool:
        """Whether its process is halted."""
        return self._paused_at is not None

    @property
    def works(self) -> bool:
        """Whether its process serves."""
        return self.ready and not self.ended.is_set() and not self.is_paused

    @property
    def was_stopped(self) -> bool:
        """Whether its last process was asked to leave, and not killed."""
        return self._asked is not None and self._asked[0] is FaultKind.STOP

    async def start(self, points: str = "") -> None:
        """Start a new process, with these fault points, and wait until it is ready.

        One that a fault point kills before is that: a process that died. One that gives up is started again, because
        the database may be away.
        """
        deadline = monotonic() + _LONGEST_START_S
        while True:
            await self._spawn(points)
            while not self.ended.is_set() and monotonic() < deadline:
                if await self._is_ready():
                    self.ready = True
                    return
                with suppress(TimeoutError):
                    await asyncio.wait_for(self.ended.wait(), 0.05)
            assert self._process is not None
            if self._process.returncode == -signal.SIGKILL:
                return
            if monotonic() > deadline:
                raise NodeFailed(f"{self.name} did not start:\n{self.last_words()}")

    async def heal(self) -> None:
        """Have a process that works and will not die at a fault point."""
        self.resume()
        if self.armed:
            await self.kill("so that it dies no more by itself")
        if self.ended.is_set():
            await self.start()

    async def kill(self, note: str = "") -> None:
        """SIGKILL, and wait until the process is gone."""
        self._ask(FaultKind.KILL, note)
        self._send(signal.SIGKILL)
        await self.ended.wait()

    async def stop(self, note: str = "") -> None:
        """SIGTERM, and wait until the process has left; one that stays is killed, which is a trouble of the run."""
        self._ask(FaultKind.STOP, note)
        self._send(signal.SIGTERM)
        try:
            await asyncio.wait_for(self.ended.wait(), _GRACE_S)
        except TimeoutError:
            self._cluster.troubles.append(f"{self.name} was still there {_GRACE_S:.0f} s after SIGTERM")
            await self.kill("did not leave after SIGTERM")

    def pause(self) -> None:
        """SIGSTOP."""
        if self._paused_at is None:
            self._paused_at = monotonic()
            self._send(signal.SIGSTOP)

    def resume(self, note: str = "") -> None:
        """SIGCONT."""
        if self._paused_at is not None:
            began, self._paused_at = self._paused_at, None
            self._send(signal.SIGCONT)
            self._cluster.faults.append(Fault(FaultKind.PAUSE, began, monotonic(), self.name, note))

    def last_words(self) -> str:
        """The end of what its last process said."""
        lines = self._log.read_text(errors="replace").splitlines() if self._log.exists() else []
        return "\n".join(lines[-15:])

    @property
    def _log(self) -> Path:
        return self._cluster.directory / f"{self.name}.log"

    def _ask(self, kind: FaultKind, note: str) -> None:
        self._asked = (kind, monotonic(), note)

    def _send(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def _spawn(self, points: str) -> None:
        self.incarnation += 1
        self._asked, self._paused_at, self.ready, self.armed = None, None, False, bool(points)
        variables = self._cluster.settings | {"POSTROAD_REGION": self.name, "POSTROAD_PORT": str(self.port)}
        if points:
            seed = f"{self._cluster.seed}{self.number:02}{self.incarnation:04}"
            variables |= {"POSTROAD_FAULTS": points, "POSTROAD_FAULTS_SEED": seed}
        with self._log.open("wb") as output:
            self._process = await asyncio.create_subprocess_exec(
                str(POSTROAD), "serve",
                env=environment(**variables), stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
                stderr=output, start_new_session=True,
            )  # fmt: skip
        self._cluster.names[self._process.pid] = self.name
        self.ended.clear()
        self._watching = [asyncio.create_task(self._await_end(self._process, points))]
        if "pause" in points:
            self._watching.append(asyncio.create_task(self._await_halts(self._process.pid, points)))

    async def _await_end(self, process: asyncio.subprocess.Process, points: str) -> None:
        code = await process.wait()
        now = monotonic()
        if self._paused_at is not None:
            self._cluster.faults.append(Fault(FaultKind.PAUSE, self._paused_at, now, self.name))
            self._paused_at = None
        kind, began, note = self._asked or (FaultKind.KILL, now, points)
        if code == -signal.SIGKILL:
            self._cluster.faults.append(Fault(FaultKind.KILL, began, now, self.name, note))
            if not note and self._asked is None:
                self._cluster.troubles.append(f"somebody killed {self.name}")
        elif kind is FaultKind.STOP:
            self._cluster.faults.append(Fault(FaultKind.STOP, began, now, self.name, note))
            if code != 0:
                self._cluster.troubles.append(f"{self.name} left with code {code}:\n{self.last_words()}")
        elif self.ready:
            self._cluster.troubles.append(f"{self.name} ended by itself with code {code}:\n{self.last_words()}")
        self.ready = False
        self.ended.set()

    async def _await_halts(self, pid: int, points: str) -> None:
        """A process that halts itself goes on after as long as the cluster says."""
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            while not self.ended.is_set() and self.pid == pid:
                if not self.is_paused and process.status() == psutil.STATUS_STOPPED:
                    self._paused_at = monotonic() - _LOOK_EVERY_S
                    await asyncio.sleep(self._cluster.halt_s)
                    self.resume(points)
                await asyncio.sleep(_LOOK_EVERY_S)

    async def _is_ready(self) -> bool:
        try:
            async with asyncio.timeout(5):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.write(b"GET /v2/readiness HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
                answer = await reader.read()
                writer.close()
        except (OSError, TimeoutError):
            return False
        return answer.startswith(b"HTTP/1.1 200")


class Cluster:
    """Nodes on one database, and all that happened to them."""

    def __init__(self, directory: Path, *, nodes: int, seed: int, settings: Mapping[str, str]) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.seed = seed
        self.settings = dict(settings)
        self.halt_s = 12.0
        """How long a process that halted itself at a fault point stays so."""
        self.faults: list[Fault] = []
        self.names: dict[int, str] = {}
        """From process ids to names, for the audit of the database."""
        self.troubles: list[str] = []
        """What no fault explains: a process that ended by itself, or did not when it should have."""
        self.largest_rss_bytes = 0
        self.nodes: Sequence[Node] = [Node(number, self) for number in range(nodes)]
        self._sampling: asyncio.Task[None] | None = None

    @property
    def urls(self) -> list[str]:
        """Where the API of each node is."""
        return [node.url for node in self.nodes]

    async def start(self) -> None:
        """Start all nodes."""
        await asyncio.gather(*(node.start() for node in self.nodes))
        self._sampling = asyncio.create_task(self._sample())

    async def heal(self) -> None:
        """Let everybody go on, start who is down, and have nobody armed."""
        await asyncio.gather(*(node.heal() for node in self.nodes))

    async def stop(self) -> None:
        """Stop all nodes in an orderly way."""
        if self._sampling is not None:
            self._sampling.cancel()
        await asyncio.gather(*(node.stop("end of the run") for node in self.nodes if not node.ended.is_set()))

    async def destroy(self) -> None:
        """Leave no process behind, however the run ended."""
        if self._sampling is not None:
            self._sampling.cancel()
        await asyncio.gather(*(node.kill("end of the run") for node in self.nodes if not node.ended.is_set()))

    def log_lines(self) -> dict[str, int]:
        """How many lines each process has written."""
        return {log.stem: log.read_bytes().count(b"\n") for log in sorted(self.directory.glob("N*.log"))}

    def late_results(self) -> int:
        """How many results the nodes saw refused, because they had lost the lease meanwhile."""
        return sum(len(_LATE.findall(log.read_bytes())) for log in self.directory.glob("N*.log"))

    def busiest_second(self) -> int:
        """The most lines that a process wrote within a second, those about single attempts aside."""
        most = 0
        for log in self.directory.glob("N*.log"):
            lines = (line for line in log.read_bytes().splitlines() if b"postroad.attempt" not in line)
            seconds = Counter(found[1] for line in lines if (found := _SECOND.search(line)))
            most = max([most, *seconds.values()])
        return most

    async def _sample(self) -> None:
        while True:
            for node in self.nodes:
                with suppress(psutil.Error):
                    if (pid := node.pid) is not None:
                        self.largest_rss_bytes = max(self.largest_rss_bytes, psutil.Process(pid).memory_info().rss)
            await asyncio.sleep(2)
