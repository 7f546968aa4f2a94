"""What a run under faults needs: a server, nodes, a receiver and publishers, and in the end its history."""

from __future__ import annotations

import asyncio
import pickle
import shutil
import signal
import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Self

import httpx

from postroad.store import migrations
from tests.faults import collect
from tests.faults.cluster import Cluster, environment
from tests.faults.journal import Records
from tests.faults.mix import parallelism_of_queues
from tests.faults.postgres import PostgresServer, run_directory
from tests.faults.records import History, Schedule

ROOT = Path(__file__).parents[2]
TOKEN = "token-of-a-run-under-faults"

LONGEST_RUN_S = 3600
"""Publishers stop by themselves after that, whatever becomes of the runner."""

_LONGEST_START_S = 60.0
_LONGEST_LEAVE_S = 90.0


@dataclass(frozen=True, slots=True)
class Setup:
    """What a run consists of. `rate` is in messages a second; publishers go on until `messages` or until stopped."""

    seed: int
    rate: int = 300
    nodes: int = 3
    profile: str = "plain"
    receiver: str = "calm"
    schedules: int = 0
    retry_unknown: bool = False
    messages: int | None = None
    audit: bool = True
    memory: bool = False
    keep: Path | None = None
    """Where the history, pickled, and the logs of all processes are left for whoever wants to know more."""
    lead_s: float = 3.0
    """How long the load runs before the first fault and after the last one."""
    quiet_within_s: float = 120.0


class StageFailed(Exception):
    """The run cannot go on; with what went wrong before."""


class Program:
    """One of the programs beside the nodes; its complaints go to a file."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.log = directory / f"{name}.log"
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, *arguments: str) -> None:
        """Start `python -m tests.faults.<name>`."""
        with self.log.open("wb") as output:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", f"tests.faults.{self.name}", *arguments,
                cwd=ROOT, env=environment(), stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True,
            )  # fmt: skip

    async def ended(self) -> int:
        """Its exit code, when it has ended."""
        assert self._process is not None
        return await self._process.wait()

    async def stop(self) -> str | None:
        """SIGTERM, and what is wrong with the way it ended."""
        if self._process is None:
            return None
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            code = await asyncio.wait_for(self._process.wait(), _LONGEST_LEAVE_S)
        except TimeoutError:
            await self.kill()
            return f"the {self.name} did not leave within {_LONGEST_LEAVE_S:.0f} s"
        return f"the {self.name} ended with code {code}:\n{self.last_words()}" if code else None

    async def kill(self) -> None:
        """Leave nothing behind."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    def last_words(self) -> str:
        """The end of what it said."""
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])


class Stage:
    """A run's own PostgreSQL, nodes, receiver and publishers, all on loopback; nothing is left of it afterwards."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.troubles: list[str] = []
        """What makes a run worthless beside violations: a program that failed, deliveries that never ended."""
        self.began = 0.0
        self.ended = 0.0
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await self._set_up(stack)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def publish(self) -> None:
        """Start the publishers."""
        setup = self.setup
        nodes = self.directory / "nodes.txt"
        nodes.write_text("".join(f"{url}\n" for url in self.cluster.urls))
        until = ["--count", str(setup.messages)] if setup.messages else ["--duration", str(LONGEST_RUN_S)]
        await self._publishers.start(
            "--nodes", str(nodes), "--token", TOKEN, "--sink-port", self._port, "--out", str(self._published),
            "--seed", str(setup.seed), "--rate", str(setup.rate), "--profile", setup.profile,
            "--schedules", str(setup.schedules), *until, *(["--retry-unknown"] if setup.retry_unknown else []),
        )  # fmt: skip
        await self._until_written(self._received)
        self.began = monotonic()

    async def published(self) -> None:
        """Until the publishers have published what they were to."""
        await self._publishers.ended()

    async def finish(self) -> History:
        """Stop the publishers, wait until nothing moves, and gather what everybody wrote down."""
        self._note(await self._publishers.stop())
        self.ended = monotonic()
        await self.cluster.heal()
        try:
            history = await self._gather()
        except (httpx.HTTPError, OSError) as error:
            troubles = "\n".join(self.troubles + self.cluster.troubles)
            raise StageFailed(f"the nodes do not answer any more:\n{troubles}") from error
        await self.cluster.stop()
        self.troubles += self.cluster.troubles
        if self.setup.keep is not None:
            self._keep(history, self.setup.keep)
        return history

    async def _gather(self) -> History:
        where = {"api_url": self.cluster.urls[0], "token": TOKEN, "database_url": self.database_url}
        made = Records([self._published]).of(Schedule)
        schedules = await collect.end_schedules(**where, schedules=made)
        within = self.setup.quiet_within_s
        if left := await collect.quiesce(**where, within=within):
            self.troubles.append(f"{left} deliveries had not ended {within:.0f} s after the last fault")
        self._note(await self._sink.stop())
        return await collect.collect(
            seed=self.setup.seed,
            journals=[self._published, self._received],
            faults=self.cluster.faults,
            nodes=self.cluster.names,
            schedules=schedules,
            queues=parallelism_of_queues(self.setup.profile),
            **where,
        )

    async def _set_up(self, stack: AsyncExitStack) -> None:
        setup = self.setup
        self.directory = stack.enter_context(run_directory(memory=setup.memory))
        self._sink, self._publishers = Program("sink", self.directory), Program("publishers", self.directory)
        self._received = self.directory / "received.jsonl"
        self._published = self.directory / "published.jsonl"
        self.server = PostgresServer(self.directory / "postgres")
        await self.server.initialise()
        stack.push_async_callback(self.server.stop, "immediate")
        await self.server.start()
        self.database_url = await self.server.create_database("postroad")
        await migrations.migrate(self.database_url)
        if setup.audit:
            await collect.install_audit(self.database_url)
        settings = {
            "POSTROAD_DATABASE_URL": self.database_url,
            "POSTROAD_TOKEN": TOKEN,
            "POSTROAD_DESTINATIONS": "any",
            "POSTROAD_MAX_CALLS_PER_SECOND": "0",
        }
        self.cluster = Cluster(self.directory / "nodes", nodes=setup.nodes, seed=setup.seed, settings=settings)
        stack.push_async_callback(self.cluster.destroy)
        await self.cluster.start()
        stack.push_async_callback(self._sink.kill)
        port_file = self.directory / "sink.port"
        await self._sink.start(
            "--port-file", str(port_file), "--out", str(self._received), "--seed", str(setup.seed),
            "--keys", await collect.signing_keys(self.cluster.urls[0], TOKEN), "--profile", setup.receiver,
        )  # fmt: skip
        await self._until_written(port_file)
        self._port = port_file.read_text().strip()
        stack.push_async_callback(self._publishers.kill)

    def _keep(self, history: History, place: Path) -> None:
        place.mkdir(parents=True, exist_ok=True)
        (place / "history.pickle").write_bytes(pickle.dumps(history))
        for log in (*self.directory.glob("*.log"), *self.cluster.directory.glob("*.log"), self.server.log):
            shutil.copy(log, place)

    async def _until_written(self, file: Path) -> None:
        deadline = monotonic() + _LONGEST_START_S
        while not _is_written(file):
            if monotonic() > deadline:
                words = f"{self._sink.last_words()} {self._publishers.last_words()}"
                raise StageFailed(f"nobody wrote {file.name}: {words}")
            await asyncio.sleep(0.02)

    def _note(self, trouble: str | None) -> None:
        if trouble is not None:
            self.troubles.append(trouble)


def _is_written(file: Path) -> bool:
    return file.exists() and file.stat().st_size > 0
