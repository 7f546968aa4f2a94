"""Test builds: copies of the product in which single texts are changed; and nodes that play a script on them.

    environment = build(directory, [Change("store/settle.sql", " and dispatcher_id = $1", "")])
    cluster = Cluster(..., settings=settings | environment)

`directory` then has `src/postroad` and `migrations`, as the checkout has them.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from time import monotonic
from typing import Any

import asyncpg
import httpx
import psutil

import postroad
from tests.conftest import TOKEN, Running, eventually, pass_time
from tests.faults import collect
from tests.faults.cluster import Cluster, Node
from tests.faults.journal import Journal
from tests.faults.records import Cancellation, History, Intent, Outcome, Receipt, Schedule, Verdict
from tests.moods import Mood, Stage, status
from tests.receiver import Received, Receiver

SOURCE = Path(postroad.__file__).parents[2]
"""The checkout that the tests run on."""


class BuildFailed(Exception):
    """The product is not what the changes were written for."""


@dataclass(frozen=True, slots=True)
class Change:
    """A text of a file below `src/postroad` and what stands in its place. The file has the text once."""

    file: str
    old: str
    new: str


QUICK = (
    Change("store/dispatchers.py", "ALIVE_FOR = timedelta(seconds=8)", "ALIVE_FOR = timedelta(seconds=4)"),
    Change("store/dispatchers.py", "BEAT_EVERY = timedelta(seconds=2)", "BEAT_EVERY = timedelta(seconds=0.5)"),
    Change("dispatch/janitor.py", "RESCUE_EVERY_S = 1.0", "RESCUE_EVERY_S = 0.3"),
)
"""What a dead dispatcher held is taken from it after about four seconds."""


def build(directory: Path, changes: Iterable[Change] = (), *, source: Path = SOURCE) -> dict[str, str]:
    """Copy the product and change it; gives what has to be in the environment of its processes.

    Changes are made one after the other. Raises `BuildFailed` when the old text is not there, or more than once.
    """
    # Compiled modules come along, with the dates of their sources, so that a process starts as fast as any other.
    shutil.copytree(source / "src" / "postroad", directory / "src" / "postroad", ignore=_UNFINISHED)
    shutil.copytree(source / "migrations", directory / "migrations", ignore=_UNFINISHED)
    for change in changes:
        _apply(directory / "src" / "postroad" / change.file, change)
    return {"PYTHONPATH": str(directory / "src")}


_UNFINISHED = shutil.ignore_patterns("*.pyc.*")
"""What another process writes at this moment."""


def _apply(file: Path, change: Change) -> None:
    text = file.read_text()
    if (times := text.count(change.old)) != 1:
        raise BuildFailed(f"{change.file} has this text {times} times and not once:\n{change.old}")
    file.write_text(text.replace(change.old, change.new))
    # A compiled module is taken for one of this source if the source has its date and size.
    for compiled in (file.parent / "__pycache__").glob(f"{file.stem}.*.pyc"):
        compiled.unlink()


@dataclass(frozen=True, slots=True)
class Reply:
    """How one attempt is answered: with this status, and not before the gate is open."""

    status: int = 200
    gate: asyncio.Event | None = None


class Scene:
    """Nodes that are started one by one, and a receiver; who did what is written down for the checker.

    An op is sent to the path `/m/<op>`, and its callbacks to `/callback/<op>` and `/failed/<op>`.
    """

    def __init__(self, database_url: str, directory: Path, receiver: Receiver, nodes: int) -> None:
        self.database_url = database_url
        self.receiver = receiver
        self.moved = timedelta(0)
        """How far time was moved: what was before is that much longer ago."""
        self._settings = {
            "POSTROAD_DATABASE_URL": database_url,
            "POSTROAD_TOKEN": TOKEN,
            "POSTROAD_ALLOW_DEV_CREDENTIALS": "true",
            "POSTROAD_DESTINATIONS": "any",
        }
        self.cluster = Cluster(directory / "nodes", nodes=nodes, seed=1, settings=self._settings)
        self._file = directory / "scene.jsonl"
        self._journal = Journal(self._file)
        self._scripted: set[str] = set()
        self._written = 0

    async def start(self, number: int, environment: Mapping[str, str] | None = None, *, may_die: bool = False) -> Node:
        """Start a node with more in its environment, and wait until it is ready; or dead, if it may die."""
        node = self.cluster.nodes[number]
        self.cluster.settings = self._settings | dict(environment or {})
        await node.start()
        assert node.ready or may_die, node.last_words()
        return node

    async def ask(
        self, node: Node | Running, method: str, path: str, body: bytes = b"", **headers: str
    ) -> httpx.Response:
        """The answer of a node; header names are written with underscores."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        async with httpx.AsyncClient(
            base_url=node.url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=30
        ) as client:
            return await client.request(method, path, content=body, headers=given)

    async def publish(
        self, node: Node | Running, intent: Intent, *replies: Reply, to: str = "publish", **headers: str
    ) -> str | None:
        """Have a message sent that is answered like this, the last reply again and again; gives its id.

        The headers say what the intent says, and so does `to` of a queue. None when the node has not accepted it.
        """
        self.answer(f"/m/{intent.op}", *replies)
        self._journal.add(replace(intent, at=monotonic()))
        where = f"/v2/{to}/{self.receiver.url(f'/m/{intent.op}')}"
        answer = await self.ask(node, "POST", where, str(intent.op).encode(), **headers)
        verdict = Verdict.ACKNOWLEDGED if answer.is_success else Verdict.REFUSED
        if answer.is_server_error:
            verdict = Verdict.UNKNOWN
        said = answer.json()
        self._journal.add(
            Outcome(
                intent.op,
                monotonic(),
                verdict,
                said.get("messageId"),
                answer.status_code,
                bool(said.get("deduplicated")),
            )
        )
        message_id: str | None = said.get("messageId")
        return message_id

    async def cancel(self, node: Node | Running, message_id: str) -> None:
        """Cancel a message, which has to be acknowledged."""
        asked_at = monotonic()
        answer = await self.ask(node, "DELETE", f"/v2/messages/{message_id}")
        assert answer.is_success, answer.text
        self._journal.add(Cancellation(message_id, asked_at, monotonic(), Verdict.ACKNOWLEDGED))

    def answer(self, path: str, *replies: Reply) -> None:
        """Have the receiver answer like this on a path, and write down what arrives there."""
        self._scripted.add(path)
        self.receiver.script(path, *(self._mood(reply) for reply in replies or (Reply(),)))

    async def time_passes(self, delta: timedelta) -> None:
        """Move time for all nodes."""
        self.moved += delta
        await pass_time(self.database_url, delta)

    async def unfinished(self) -> int:
        """How many deliveries there are."""
        count: int = await self.ask_database("select count(*) from deliveries")
        return count

    async def ask_database(self, query: str, *arguments: Any) -> Any:
        """One value."""
        connection = await asyncpg.connect(self.database_url)
        try:
            return await connection.fetchval(query, *arguments)
        finally:
            await connection.close()

    async def waits_for_a_lock(self, *nodes: Node) -> None:
        """Until each of these processes has a statement that waits for somebody's lock."""
        names = [f"%:{node.pid}" for node in nodes]
        query = """
            select count(distinct application_name) from pg_stat_activity
            where datname = current_database() and wait_event_type = 'Lock' and application_name like any($1)
            """
        await eventually(lambda: self.ask_database(query, names), lambda waiting: waiting == len(nodes), within=30)

    async def halt(self, *nodes: Node) -> None:
        """Halt processes at a moment when none is in a transaction, or others would wait for its locks.

        It is no fault of the run unless the node is paused as well.
        """
        names = [f"%:{node.pid}" for node in nodes]
        query = """
            select count(*) from pg_stat_activity
            where datname = current_database() and xact_start is not null and application_name like any($1)
            """

        async def is_between() -> bool:
            for node in nodes:
                psutil.Process(node.pid).suspend()
            if await self.ask_database(query, names) == 0:
                return True
            self.go_on(*nodes)
            return False

        await eventually(is_between, bool)

    def go_on(self, *nodes: Node) -> None:
        """Let halted processes go on."""
        for node in nodes:
            psutil.Process(node.pid).resume()

    async def history(self, node: Node | Running, schedules: Sequence[Schedule] = ()) -> History:
        """All that happened, as a node that works tells it."""
        # What has arrived is written down when it is answered: by now, or never.
        for _ in range(100):
            if self._unwritten() <= 0:
                break
            await asyncio.sleep(0.02)
        self._journal.flush()
        history = await collect.collect(
            node.url, TOKEN, self.database_url, seed=1, journals=[self._file], nodes=self.cluster.names,
            faults=self.cluster.faults, schedules=schedules,
        )  # fmt: skip
        moved_s = self.moved.total_seconds()
        history.intents = [replace(one, at=one.at - moved_s) if one.delay else one for one in history.intents]
        return history

    def _unwritten(self) -> int:
        return sum(one.path in self._scripted for one in self.receiver.requests()) - self._written

    def _mood(self, reply: Reply) -> Mood:
        async def play(stage: Stage) -> None:
            request: Received = stage.request
            if reply.gate is not None:
                await reply.gate.wait()
            self._journal.add(_receipt(request, None if stage.is_gone else reply.status))
            self._written += 1
            await stage.play(status(reply.status))

        return Mood(play)


@asynccontextmanager
async def scene(database_url: str, directory: Path, receiver: Receiver, *, nodes: int) -> AsyncIterator[Scene]:
    """A scene on a migrated database, which is audited; no process is left behind."""
    await collect.install_audit(database_url)
    one = Scene(database_url, directory, receiver, nodes)
    try:
        yield one
    finally:
        await one.cluster.destroy()


def _receipt(request: Received, answered: int | None) -> Receipt:
    _, kind, name = request.path.split("/")
    is_report = kind in ("callback", "failed")
    return Receipt(
        message_id=request.header("Upstash-Message-Id") or "",
        op=int(name) if kind == "m" else None,
        retried=int(request.header("Upstash-Retried") or 0),
        node=request.header("Upstash-Region") or "",
        began=request.arrived_at,
        ended=monotonic(),
        status=answered,
        body_is_right=kind != "m" or request.body == name.encode(),
        schedule_id=request.header("Upstash-Schedule-Id"),
        callback_of=int(name) if is_report else None,
        failed=kind == "failed",
    )
