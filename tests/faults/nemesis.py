"""Who breaks things: a seeded schedule of faults, carried out on nodes and on their database."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from time import monotonic

from tests.faults.cluster import Cluster, Node
from tests.faults.postgres import PostgresServer
from tests.faults.records import Fault, FaultKind


class Act(StrEnum):
    """What may be done to the system."""

    KILL = "kill"
    """`kill -9` of a node; it comes back after a while, perhaps with a fault point armed that kills it again."""
    PAUSE = "pause"
    """SIGSTOP of a node for longer than its leases last, then SIGCONT."""
    ROLL = "roll"
    """SIGTERM of a node, and a new process as soon as it has left; the next act waits for it."""
    KILL_POSTGRES = "kill postgres"
    """`kill -9` of the postmaster, and a start."""
    RESTART_POSTGRES_FAST = "restart postgres fast"
    """A restart that ends connections and writes a checkpoint."""
    RESTART_POSTGRES_IMMEDIATE = "restart postgres immediate"
    """A restart that replays the log of the database."""
    END_CONNECTIONS = "end connections"
    """pg_terminate_backend of every connection."""


OF_A_NODE = frozenset({Act.KILL, Act.PAUSE, Act.ROLL})

KILLING_POINTS = {
    "before_publish_commit": 1,
    "after_publish_commit": 1,
    "before_first_byte": 1,
    "after_response": 1,
    "after_claim_commit": 5,
    "before_settle_commit": 5,
    "after_settle_commit": 5,
}
"""Fault points, and how much rarer than once a message they are reached."""


@dataclass(frozen=True, slots=True)
class Step:
    """One act: `gap` seconds after the one before; `target` is a node's number, `duration` is that of a pause."""

    act: Act
    gap: float
    target: int
    duration: float


@dataclass(frozen=True, slots=True)
class Rebirth:
    """How a killed node comes back: after `pause` seconds, with these fault points."""

    pause: float
    points: str


@dataclass(frozen=True, slots=True)
class Habits:
    """What a nemesis does, how often, and for how long."""

    deck: Mapping[Act, int]
    """How many of each act are in a deck that is shuffled, drawn from until it is empty, and shuffled again."""
    mean_gap_s: float = 2.5
    least_gap_s: float = 0.1
    pauses_s: tuple[float, float] = (12.0, 15.0)
    down_s: tuple[float, float] = (0.0, 3.0)
    armed: float = 0.0
    """The share of killed nodes that come back with a fault point armed."""
    strikes: float = 0.01
    """The probability with which a point strikes that each message reaches once."""


def schedule(seed: int, habits: Habits, nodes: int) -> Iterator[Step]:
    """The acts of a seed, without end. What a gap has beyond the least is exponential, up to three times its mean."""
    random = Random(f"acts {seed}")
    deck = [act for act, times in habits.deck.items() for _ in range(times)]
    beyond = habits.mean_gap_s - habits.least_gap_s
    while True:
        for act in random.sample(deck, len(deck)):
            gap = habits.least_gap_s + min(random.expovariate(1 / beyond), 3 * beyond)
            yield Step(act, gap, random.randrange(nodes), random.uniform(*habits.pauses_s))


def rebirth(seed: int, habits: Habits, node: int, incarnation: int) -> Rebirth:
    """How the process after this incarnation of a node begins."""
    random = Random(f"rebirth {seed} {node} {incarnation}")
    pause, armed, point = random.uniform(*habits.down_s), random.random(), random.choice(list(KILLING_POINTS))
    probability = min(1.0, habits.strikes * KILLING_POINTS[point])
    return Rebirth(pause, f"{point}:kill@{probability:.4f}" if armed < habits.armed else "")


class Nemesis:
    """Carries out the schedule of a seed, and brings back whoever it took down."""

    def __init__(self, cluster: Cluster, server: PostgresServer, habits: Habits, seed: int) -> None:
        self.acts: list[tuple[Step, float, float]] = []
        """What was done, from when to when; of the database: until it accepted connections again."""
        self._cluster = cluster
        self._server = server
        self._habits = habits
        self._seed = seed
        self._pauses: set[asyncio.Task[None]] = set()

    async def run(self, count: int | None = None, until: asyncio.Event | None = None) -> None:
        """Act `count` times or until told to stop; afterwards everybody lives, and nobody is armed.

        A kill at a fault point counts as an act, too.
        """
        stop = until or asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            for node in self._cluster.nodes:
                tasks.create_task(self._keep(node, stop))
            await self._act(count, stop)
            stop.set()
        await asyncio.gather(*self._pauses)
        await self._cluster.heal()

    async def _act(self, count: int | None, stop: asyncio.Event) -> None:
        for step in schedule(self._seed, self._habits, len(self._cluster.nodes)):
            if count is not None and self._done() >= count:
                return
            if await _first(stop, within=step.gap):
                return
            began = monotonic()
            if step.act in OF_A_NODE:
                began = await self._strike(step)
            else:
                await self._strike_database(step.act)
            self.acts.append((step, began, monotonic()))

    def _done(self) -> int:
        by_points = sum(1 for fault in self._cluster.faults if fault.kind is FaultKind.KILL and "@" in fault.note)
        return len(self.acts) + by_points

    async def _strike(self, step: Step) -> float:
        node = await self._victim(step.target)
        began = monotonic()
        match step.act:
            case Act.KILL:
                await node.kill("by the nemesis")
            case Act.PAUSE:
                node.pause()
                task = asyncio.create_task(self._resume_later(node, step.duration))
                self._pauses.add(task)
                task.add_done_callback(self._pauses.discard)
            case _:
                incarnation = node.incarnation
                await node.stop("by the nemesis")
                await _until(lambda: node.works and node.incarnation > incarnation)
        return began

    async def _victim(self, target: int) -> Node:
        """The node of this number or the next one that works, as soon as another one does too."""
        nodes = self._cluster.nodes
        least = min(2, len(nodes))
        await _until(lambda: sum(node.works for node in nodes) >= least)
        return next(node for node in [*nodes[target:], *nodes[:target]] if node.works)

    async def _resume_later(self, node: Node, duration: float) -> None:
        try:
            await asyncio.sleep(duration)
        finally:
            node.resume("by the nemesis")

    async def _strike_database(self, act: Act) -> None:
        began = monotonic()
        match act:
            case Act.KILL_POSTGRES:
                await self._server.kill()
                await self._server.start()
            case Act.RESTART_POSTGRES_FAST:
                await self._server.restart("fast")
            case Act.RESTART_POSTGRES_IMMEDIATE:
                await self._server.restart("immediate")
            case _:
                await self._server.terminate_backends()
        self._cluster.faults.append(Fault(FaultKind.DATABASE, began, monotonic(), None, str(act)))

    async def _keep(self, node: Node, stop: asyncio.Event) -> None:
        """Bring a node back whenever it is gone: at once after a stop, else when its time has come."""
        while await _first(node.ended, stop) and not stop.is_set():
            if node.was_stopped:
                await node.start()
                continue
            next_life = rebirth(self._seed, self._habits, node.number, node.incarnation)
            await asyncio.sleep(next_life.pause)
            await node.start(next_life.points)


async def _first(*events: asyncio.Event, within: float | None = None) -> bool:
    """Wait for one of the events; whether it came in time."""
    waiting = [asyncio.create_task(event.wait()) for event in events]
    try:
        done, _ = await asyncio.wait(waiting, timeout=within, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()
    return bool(done)


async def _until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110  nodes become ready by themselves, and no event says so
        await asyncio.sleep(0.02)
