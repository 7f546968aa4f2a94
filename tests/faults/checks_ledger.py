"""The records of a run by message, by op and by node, and what faults explain: what all checks look things up in."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from operator import attrgetter

from tests.faults.records import (
    Claim,
    Fault,
    FaultKind,
    Final,
    History,
    Intent,
    Outcome,
    Receipt,
    Settlement,
    State,
    Verdict,
)

EPSILON = 0.5
"""How far the date of a fault may be off, in seconds: a receiver under load reads what the dead have sent."""

SETTLE = 5.0
"""How long the outcome of an attempt may be on its way into the database."""

LATE = 5.0
"""How long after a pause or an outage a process may still send what it had claimed before."""

OFFSET = 0.01
"""How far the clock of the database may be off, once it is converted."""

HANG_UP = 0.05
"""How much later than the sender the receiver may see that the sender has gone."""


class Kind(StrEnum):
    """What a run can do wrong."""

    LOST = "lost"
    STUCK = "stuck"
    ENDED_TWICE = "ended twice"
    UNPROVEN = "delivered without a receipt"
    DENIED = "not delivered in spite of a receipt"
    GAVE_UP = "gave up early"
    UNASKED = "cancelled by nobody"
    GHOST = "ghost"
    IDENTITY = "another message"
    DUPLICATE = "duplicate"
    RETRIED = "retried"
    ORDER = "order"
    OVERLAP = "overlap"
    PARALLELISM = "parallelism"
    RATE = "rate"
    DEDUPLICATION = "deduplication"
    TICK_MISSED = "tick missed"
    TICK_DOUBLED = "tick doubled"
    CANCELED = "sent after its cancellation"
    SETTLED_TWICE = "settled twice"
    STALE = "stale settlement"
    LEASE = "lease"
    CALLBACK_MISSING = "callback missing"
    CALLBACK_SURPLUS = "callback too many"
    BODY = "body"
    SIGNATURE = "signature"
    EARLY = "early"


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing that must not be, with the facts that show it."""

    kind: Kind
    sentence: str
    message_id: str | None = None
    op: int | None = None


class Faults:
    """The faults of a run, by the process that they hit. A stop is none: it has to be without consequences."""

    def __init__(self, faults: list[Fault]) -> None:
        self.all = sorted((one for one in faults if one.kind is not FaultKind.STOP), key=attrgetter("began"))
        self._everywhere = [one for one in self.all if one.node is None]
        self._longest = max((one.ended - one.began for one in self._everywhere), default=0.0)
        self._at: dict[str, list[Fault]] = defaultdict(list)
        for one in self.all:
            if one.node is not None:
                self._at[one.node].append(one)

    def hitting(self, node: str, since: float, until: float) -> Iterator[Fault]:
        """Those that a process had to live or to die with in a span, and perhaps some that came before it."""
        for fault in self._at.get(node, ()):
            if fault.began <= until:
                yield fault
        first = bisect_left(self._everywhere, since - self._longest, key=attrgetter("began"))
        for n in range(first, len(self._everywhere)):
            if self._everywhere[n].began > until:
                return
            yield self._everywhere[n]

    def cutting(self, receipt: Receipt, until: float) -> Fault | None:
        """The fault because of which the outcome of an attempt may not have been recorded when it was made again."""
        for fault in self.hitting(receipt.node, receipt.began - EPSILON, max(until, receipt.ended + SETTLE)):
            if fault.kind is FaultKind.KILL:
                if receipt.began - EPSILON <= fault.began <= receipt.ended + SETTLE:
                    return fault
            elif fault.began <= until and fault.ended >= receipt.began - EPSILON:
                return fault
        return None

    def between(self, began: float, ended: float) -> Fault | None:
        """Any fault, wherever, that overlaps a span."""
        return next((one for one in self.all if one.began <= ended and one.ended >= began), None)


class Ledger:
    """A history with its indexes. Lists are in the order of time, claims in that of their leases."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.faults = Faults(history.faults)
        self.intents: dict[int, Intent] = {one.op: one for one in history.intents}
        self.outcomes: dict[int, list[Outcome]] = defaultdict(list)
        self.acknowledged: dict[str, float] = {}
        self.op_of: dict[str, int] = {}
        self.receipts: dict[str, list[Receipt]] = defaultdict(list)
        self.callbacks: dict[int, list[Receipt]] = defaultdict(list)
        self.messages_of: dict[int, list[str]] = defaultdict(list)
        self.finals: dict[str, Final] = {one.message_id: one for one in history.finals}
        self.claims: dict[str, list[Claim]] = defaultdict(list)
        self.settlements: dict[str, list[Settlement]] = defaultdict(list)
        self.has_audit = bool(history.claims)
        self._read_outcomes()
        self._read_receipts()
        for claim in history.claims:
            self.claims[claim.message_id].append(claim)
        for claims in self.claims.values():
            claims.sort(key=attrgetter("lease", "at"))
        for settlement in sorted(history.settlements, key=attrgetter("at")):
            self.settlements[settlement.message_id].append(settlement)

    def _read_outcomes(self) -> None:
        for one in sorted(self.history.outcomes, key=attrgetter("at")):
            self.outcomes[one.op].append(one)
            if one.verdict is Verdict.ACKNOWLEDGED and one.message_id is not None:
                self.acknowledged.setdefault(one.message_id, one.at)

    def _read_receipts(self) -> None:
        for one in sorted(self.history.receipts, key=attrgetter("began")):
            if not one.message_id and one.status is None:
                continue  # The sender was gone before the head of its request was written.
            self.receipts[one.message_id].append(one)
            if one.callback_of is not None:
                self.callbacks[one.callback_of].append(one)
            elif one.op is not None:
                self.op_of.setdefault(one.message_id, one.op)
        for outcome in self.history.outcomes:
            if outcome.message_id is not None and not outcome.deduplicated:
                self.op_of.setdefault(outcome.message_id, outcome.op)
        for message_id, op in self.op_of.items():
            self.messages_of[op].append(message_id)

    def may_be_stored(self, op: int) -> bool:
        """Whether some request of an op has no answer that says what became of it."""
        outcomes = self.outcomes.get(op)
        return not outcomes or any(one.verdict is Verdict.UNKNOWN for one in outcomes)

    def intent_of(self, message_id: str) -> Intent | None:
        """What was asked for; None for callbacks, ticks and what nobody asked for."""
        op = self.op_of.get(message_id)
        return None if op is None else self.intents.get(op)

    def last_settled_at(self, message_id: str) -> float | None:
        """When the database had the last outcome of a message, if it was audited."""
        settlements = self.settlements.get(message_id)
        return settlements[-1].at if settlements else None

    def counts_until(self, receipt: Receipt) -> float:
        """The instant until which a request was that of whoever had the right to make it.

        The end of the request, unless a fault fenced its sender before: a dead process is no longer there, and what a
        paused one holds is taken from it. Not after `began` for a request that was a leftover from its first byte on.
        """
        end = receipt.ended if receipt.status is not None else max(receipt.began, receipt.ended - HANG_UP)
        for fault in self.faults.hitting(receipt.node, receipt.began - LATE, receipt.ended):
            if fault.kind is not FaultKind.KILL and fault.ended < receipt.began - LATE:
                continue
            end = min(end, self._fenced_at(receipt, fault))
        return end

    def is_late(self, receipt: Receipt) -> bool:
        """Whether a request began when its sender had lost the right to it, by a fault."""
        return self.counts_until(receipt) <= receipt.began

    def _fenced_at(self, receipt: Receipt, fault: Fault) -> float:
        """When the right to a request ended because of a fault: by the audit, or else by what others then did."""
        claims = self.claims.get(receipt.message_id, [])
        held = [one for one in claims if one.node == receipt.node and one.at <= receipt.began + OFFSET]
        if held:
            lease = held[-1].lease
            ends = [
                one.at for one in self.settlements.get(receipt.message_id, ()) if one.lease == lease and one.rescued
            ]
            ends += [one.at for one in claims if one.lease > lease]
            return min(ends, default=float("inf"))
        if fault.kind is FaultKind.KILL or self._was_taken_over(receipt):
            return fault.began
        return float("inf")

    def _was_taken_over(self, receipt: Receipt) -> bool:
        if any(one.node != receipt.node for one in self.receipts[receipt.message_id]):
            return True
        final = self.finals.get(receipt.message_id)
        return final is not None and final.state in (State.FAILED, State.CANCELED)


def told(receipt: Receipt) -> str:
    """A receipt in a few words."""
    status = "no answer" if receipt.status is None else str(receipt.status)
    return f"{receipt.node} {receipt.began:.3f}-{receipt.ended:.3f} (retried {receipt.retried}, {status})"


def told_fault(fault: Fault | None) -> str:
    """A fault in a few words."""
    if fault is None:
        return "no fault"
    return f"{fault.kind} of {fault.node or 'all'} {fault.began:.3f}-{fault.ended:.3f}"
