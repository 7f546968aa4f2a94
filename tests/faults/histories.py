"""Makes up good histories: what a system that keeps its promises would have written down, with faults and without."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from math import floor
from random import Random

from tests.faults.records import (
    Cancellation,
    Claim,
    Fault,
    FaultKind,
    Final,
    History,
    Intent,
    Outcome,
    Receipt,
    Schedule,
    Settlement,
    State,
    Verdict,
)

NODES = 4
PACE = 0.25
"""Seconds between two publishes, on average."""

BEGAN = 1_000.0
WALL = 1_800_000_000.0 - BEGAN
"""What is to be added to an instant for the database's Unix time."""

QUEUES = {"wide": 3}
WEIGHTS = {
    "plain": 22, "failing": 6, "fifo": 20, "wide": 8, "parallel": 8, "rate": 10, "delayed": 6, "storm": 4,
    "callback": 6, "cancel": 4, "unknown": 6, "repeated": 4, "refused": 3,
}  # fmt: skip


def a_history(seed: int, *, ops: int = 300, faults: bool = True, audit: bool = True) -> History:
    """A good history; the same for the same arguments."""
    run = _Run(seed, ops=ops, faults=faults)
    run.play(ops)
    history = run.history
    if not audit:
        history = replace(history, claims=[], settlements=[])
    return history


@dataclass(slots=True)
class _Node:
    """A process, from its start to its end, and what it went through."""

    name: str
    began: float
    faults: list[Fault]
    ended: float = float("inf")

    def is_up(self, at: float) -> bool:
        return self.began <= at < self.ended and not any(
            one.kind is not FaultKind.KILL and one.began - 0.5 <= at <= one.ended + 0.5 for one in self.faults
        )


@dataclass(slots=True)
class _Message:
    """A message on its way: how its attempts are answered, and what it is part of."""

    id: str
    op: int | None
    statuses: Sequence[int]
    schedule_id: str | None = None
    callback_of: int | None = None
    failed: bool = False
    callback: bool = False
    rate: tuple[str, int] | None = None
    lease: int = 0


class _Run:
    def __init__(self, seed: int, *, ops: int, faults: bool) -> None:
        self._random = Random(seed)
        self.history = History(seed, queues=dict(QUEUES))
        self._ends = BEGAN + ops * PACE
        self._nodes = [_Node(f"N{n}-1", 0.0, []) for n in range(NODES)]
        self._running = list(self._nodes)
        self._outages: list[Fault] = []
        self._free: dict[str, list[float]] = {}
        self._dispatched: dict[tuple[str, int], int] = defaultdict(int)
        self._ids = 0
        self._op = 0
        if faults:
            self._plan()

    # Faults

    def _plan(self) -> None:
        kinds = ["kill", "kill", "pause", "kill", "cut off", "stop", "kill", "outage"]
        at, n = BEGAN + 3.0, 0
        while at < self._ends:
            self._strike(kinds[n % len(kinds)], n % NODES, at)
            at += self._random.uniform(3.5, 5.5)
            n += 1

    def _strike(self, kind: str, n: int, at: float) -> None:
        node = self._running[n]
        if any(one.ended > at for one in node.faults):
            return
        match kind:
            case "kill" | "stop":
                back = at + self._random.uniform(0.5, 3)
                what = FaultKind.KILL if kind == "kill" else FaultKind.STOP
                fault = Fault(what, at, back if kind == "kill" else at + 0.4, node.name)
                # Who is stopped takes nothing more on, and ends what it has.
                node.ended = at if kind == "kill" else at - 5
                self._running[n] = _Node(f"N{n}-{int(node.name.split('-')[1]) + 1}", back, [])
                self._nodes.append(self._running[n])
            case "outage":
                fault = Fault(FaultKind.DATABASE, at, at + 2)
                self._outages.append(fault)
            case _:
                what = FaultKind.PAUSE if kind == "pause" else FaultKind.DATABASE
                fault = Fault(what, at, at + self._random.uniform(12.5, 15), node.name)
        self.history.faults.append(fault)
        if fault.node is not None and kind != "stop":
            node.faults.append(fault)

    def _pick(self, at: float) -> tuple[_Node, float]:
        while True:
            outage = next((one for one in self._outages if one.began - 0.1 <= at <= one.ended), None)
            if outage is not None:
                at = outage.ended + 0.01
            up = [one for one in self._nodes if one.is_up(at)]
            if up:
                return self._random.choice(up), at
            at += 0.25

    # Messages

    def play(self, ops: int) -> None:
        """Publish so many ops, strike what is under way, let schedules fire."""
        at = BEGAN
        kinds = list(WEIGHTS)
        order = [kind for kind in kinds for _ in range(2)]
        self._random.shuffle(order)
        while self._op < ops:
            at += self._random.uniform(0, 2 * PACE)
            kind = order.pop() if order else self._random.choices(kinds, list(WEIGHTS.values()))[0]
            self._publish(kind, at)
        for fault in list(self.history.faults):
            self._under_way(fault)
        for name in ("minutely-1", "minutely-2"):
            self._schedule(name, at)
        self.history.receipts.sort(key=lambda one: one.began)

    def _publish(self, kind: str, at: float) -> None:
        match kind:
            case "storm":
                self._storm(at)
            case "unknown":
                self._unknown(at)
            case "repeated":
                self._repeated(at)
            case "cancel":
                self._cancel(at)
            case "refused":
                intent = self._intend(at)
                self._answer(intent.op, at, Verdict.REFUSED, status=400)
            case _:
                self._ordinary(kind, at)

    def _ordinary(self, kind: str, at: float) -> None:
        statuses = self._random.choices(([200], [500, 200], [429, 503, 200]), (8, 2, 1))[0]
        match kind:
            case "failing":
                statuses = self._random.choice(([500] * 4, [500, 489]))
                intent = self._intend(at)
            case "fifo":
                intent = self._intend(
                    at, queue=f"fifo-{self._random.randrange(4)}", callback=self._random.random() < 0.3
                )
            case "wide":
                intent = self._intend(at, queue="wide")
            case "parallel":
                intent = self._intend(at, flow_key="parallel", parallelism=2)
            case "rate":
                intent = self._intend(at, flow_key="rate", rate=2, period=1.0)
                statuses = [200]
            case "delayed":
                intent = self._intend(at, delay=self._random.uniform(1, 4))
            case "callback":
                intent = self._intend(at, callback=True)
                statuses = self._random.choice((statuses, [500] * 4))
            case _:
                intent = self._intend(at)
        message = self._message(intent, statuses)
        self._answer(intent.op, at, Verdict.ACKNOWLEDGED, message.id)
        self._go(intent, message, at + intent.delay + 0.006)

    def _go(
        self, intent: Intent, message: _Message, at: float, node: _Node | None = None, settle: float = 0.01
    ) -> None:
        """Make the attempts, when there is a place for the message."""
        resource, places = intent.queue or intent.flow_key, QUEUES.get(intent.queue or "", intent.parallelism or 1)
        if resource is None or intent.rate is not None:
            self._deliver(message, at, node=node, settle=settle)
            return
        free = self._free.setdefault(resource, [0.0] * places)
        heappush(free, self._deliver(message, max(at, heappop(free) + 0.003), node=node, settle=settle))

    def _storm(self, at: float) -> None:
        """The same id from four clients; the second is the first to be heard."""
        key = f"storm-{self._op}"
        intents = [self._intend(at + n / 1000, deduplication=key) for n in range(4)]
        message = self._message(intents[1], [200])
        for n, intent in enumerate(intents):
            self._answer(intent.op, at + n / 1000, Verdict.ACKNOWLEDGED, message.id, deduplicated=n != 1)
        self._deliver(message, at + 0.01)

    def _unknown(self, at: float) -> None:
        intent = self._intend(at)
        self._answer(intent.op, at, Verdict.UNKNOWN, status=self._random.choice((503, None)))
        if self._random.random() < 0.5:
            self._deliver(self._message(intent, [500, 200]), at + 0.01)

    def _repeated(self, at: float) -> None:
        """An unknown answer, and again: without a deduplication id there may be two messages, with one there is one."""
        key = f"again-{self._op}" if self._random.random() < 0.5 else None
        intent = self._intend(at, deduplication=key)
        self._answer(intent.op, at, Verdict.UNKNOWN)
        message = self._message(intent, [200])
        self._deliver(message, at + 0.01)
        if key is None:
            message = self._message(intent, [200])
            self._deliver(message, at + 0.31)
        self._answer(intent.op, at + 0.3, Verdict.ACKNOWLEDGED, message.id, deduplicated=key is not None)

    def _cancel(self, at: float) -> None:
        """In time, or when it was delivered already."""
        intent = self._intend(at, delay=3.0)
        message = self._message(intent, [200])
        self._answer(intent.op, at, Verdict.ACKNOWLEDGED, message.id)
        if self._random.random() < 0.7:
            asked = at + 1.0
            self._end(message, State.CANCELED, at)
        else:
            asked = self._deliver(message, at + 3.01) + 1.0
        self.history.cancellations.append(Cancellation(message.id, asked, asked + 0.02, Verdict.ACKNOWLEDGED))

    def _under_way(self, fault: Fault) -> None:
        """Messages that a fault meets: before the first byte, one of which then fails, while they are answered, and
        before they are settled.
        """
        node = next((one for one in self._nodes if one.name == fault.node and fault in one.faults), None)
        if node is None:
            return
        met = ((0.002, 0.01, [200]), (0.003, 0.01, [500] * 4), (0.01, 0.01, [200]), (0.3, 1.0, [200]))
        for before, settle, statuses in met:
            at = fault.began - before
            intent = self._intend(at - 0.02)
            message = self._message(intent, statuses)
            self._answer(intent.op, at - 0.02, Verdict.ACKNOWLEDGED, message.id)
            self._deliver(message, at, node=node, duration=0.2, settle=settle)

    def _schedule(self, name: str, ends: float) -> None:
        made, ended = BEGAN + WALL, max(ends, BEGAN + 130) + WALL
        self.history.schedules.append(Schedule(name, made, ended))
        for minute in range(floor(made / 60) + 1, floor(ended / 60) + 1):
            message = _Message(self._id(), None, [200], schedule_id=name)
            self._deliver(message, minute * 60 - WALL + self._random.uniform(0.05, 0.5))

    # One message

    def _deliver(
        self,
        message: _Message,
        at: float,
        *,
        node: _Node | None = None,
        duration: float | None = None,
        settle: float = 0.01,
    ) -> float:
        """Attempts until the end, callbacks included; the instant of the end."""
        created, ended, outcome = at, at, 1
        for retried, status in enumerate(message.statuses):
            is_last = retried == len(message.statuses) - 1
            outcome = 0 if status == 200 else 2 if is_last else 1
            recorded = False
            while not recorded:
                if message.rate is not None:
                    at = self._in_turn(message.rate, at)
                at, recorded = self._attempt(message, at, retried, outcome, node, duration, settle)
                node = None
            ended = max(ended, at)
            if message.callback:
                ended = max(ended, self._report(message, at, failed=False))
                if outcome == 2:
                    ended = max(ended, self._report(message, at, failed=True))
            at += 0.2
        self._end(message, State.DELIVERED if outcome == 0 else State.FAILED, created)
        return ended

    def _report(self, message: _Message, at: float, *, failed: bool) -> float:
        statuses = self._random.choice(([200], [200], [500, 200]))
        return self._deliver(_Message(self._id(), None, statuses, callback_of=message.op, failed=failed), at + 0.02)

    def _attempt(
        self,
        message: _Message,
        at: float,
        retried: int,
        outcome: int,
        node: _Node | None,
        took: float | None,
        settle: float,
    ) -> tuple[float, bool]:
        """One attempt: when it was settled, or else when it was rescued."""
        if node is None:
            node, at = self._pick(at)
        message.lease += 1
        self.history.claims.append(Claim(message.id, message.lease, node.name, at))
        began = at + 0.004
        ended = began + (self._random.uniform(0.01, 0.3) if took is None else took)
        settled = ended + settle
        status: int | None = message.statuses[retried]
        fault = next((one for one in node.faults if at <= one.began <= settled), None)
        if fault is None:
            settled = next((one.ended + 0.1 for one in self._outages if one.began <= settled <= one.ended), settled)
            self._receive(message, retried, node, (began, ended), status)
            self.history.settlements.append(Settlement(message.id, message.lease, node.name, settled, outcome))
            return settled + 0.001, True
        if fault.kind is FaultKind.PAUSE and fault.began <= began:
            late = fault.ended + self._random.uniform(0.02, 2)
            self._receive(message, retried, node, (late, late + 0.1), 200)
        elif fault.kind is not FaultKind.KILL:
            self._receive(message, retried, node, (began, ended), status)
        elif fault.began > began:
            if ended > fault.began:
                ended, status = fault.began + 0.01, None
            self._receive(message, retried, node, (began, ended), status)
        rescuer, rescued = self._pick(fault.began + self._random.uniform(9, 11))
        self.history.settlements.append(Settlement(message.id, message.lease, rescuer.name, rescued, 3, rescued=True))
        return rescued + 0.05, False

    def _receive(
        self, message: _Message, retried: int, node: _Node, span: tuple[float, float], status: int | None
    ) -> None:
        self.history.receipts.append(
            Receipt(
                message.id, message.op, retried, node.name, *span, status,
                schedule_id=message.schedule_id, callback_of=message.callback_of, failed=message.failed,
            )
        )  # fmt: skip

    def _in_turn(self, rate: tuple[str, int], at: float) -> float:
        key, most = rate
        while self._dispatched[key, floor(at)] >= most:
            at = floor(at) + 1.001
        self._dispatched[key, floor(at)] += 1
        return at

    # Records

    def _intend(
        self, at: float, *, queue: str | None = None, flow_key: str | None = None, parallelism: int | None = None,
        rate: int | None = None, period: float | None = None, deduplication: str | None = None, delay: float = 0.0,
        callback: bool = False,
    ) -> Intent:  # fmt: skip
        self._op += 1
        intent = Intent(self._op, at, queue, flow_key, parallelism, rate, period, deduplication, delay, 3, callback)
        self.history.intents.append(intent)
        return intent

    def _answer(
        self, op: int, at: float, verdict: Verdict, message_id: str | None = None, *, status: int | None = None,
        deduplicated: bool = False,
    ) -> None:  # fmt: skip
        if verdict is Verdict.ACKNOWLEDGED:
            status = 202 if deduplicated else 201
        self.history.outcomes.append(Outcome(op, at + 0.005, verdict, message_id, status, deduplicated))

    def _message(self, intent: Intent, statuses: Sequence[int]) -> _Message:
        rate = None if intent.rate is None or intent.flow_key is None else (intent.flow_key, intent.rate)
        return _Message(self._id(), intent.op, statuses, callback=intent.callback, rate=rate)

    def _id(self) -> str:
        self._ids += 1
        return f"msg_{self._ids}"

    def _end(self, message: _Message, state: State, created: float) -> None:
        letters = int(state is State.FAILED)
        self.history.finals.append(Final(message.id, state, created + WALL, letters, message.schedule_id))
