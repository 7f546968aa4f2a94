"""Judges a run by its records: what must not be, and how much of everything there was. Knows no product code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain

from tests.faults.checks_attempts import Repeats, callbacks, repeats
from tests.faults.checks_audit import cancellations, recoveries, settlements
from tests.faults.checks_endings import contents, deduplications, endings, ghosts, ticks
from tests.faults.checks_ledger import Kind, Ledger, Violation
from tests.faults.checks_order import Excused, flow_control, queues
from tests.faults.records import FaultKind, History, State, Verdict

__all__ = ["Figures", "Findings", "Kind", "Recovery", "Violation", "check"]


@dataclass(frozen=True, slots=True)
class Recovery:
    """Seconds from a kill until the work of the dead was taken up again."""

    messages: int = 0
    p50: float = 0.0
    p99: float = 0.0
    longest: float = 0.0


@dataclass(slots=True)
class Figures:
    """How much there was. Verdicts count ops, the rest of the states messages; a deduplicated op is acknowledged too.

    `duplicates_explained` has the kinds of faults, and `late` for what a fenced process sent; `repeated_attempts` are
    those that had not succeeded. `duplicates_per_kill` and `most_duplicates_of_a_kill` count explained ones only.
    """

    ops: int = 0
    acknowledged: int = 0
    deduplicated: int = 0
    refused: int = 0
    unknown: int = 0
    receipts: int = 0
    delivered: int = 0
    failed: int = 0
    cancelled: int = 0
    lost: int = 0
    stuck: int = 0
    duplicates_explained: dict[str, int] = field(default_factory=dict)
    duplicates_unexplained: int = 0
    duplicates_per_kill: float = 0.0
    most_duplicates_of_a_kill: int = 0
    repeated_attempts: int = 0
    excess_explained: int = 0
    order_violations: int = 0
    overlap_violations: int = 0
    parallelism_violations: int = 0
    rate_violations: int = 0
    deduplication_violations: int = 0
    ticks: int = 0
    ticks_missed: int = 0
    ticks_doubled: int = 0
    cancel_violations: int = 0
    stale_settlements: int = 0
    callbacks: int = 0
    claims: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    recovery: Recovery = field(default_factory=Recovery)


@dataclass(slots=True)
class Findings:
    """The verdict on a run: `violations` is empty when all is well."""

    figures: Figures
    violations: list[Violation]

    @property
    def is_clean(self) -> bool:
        """Whether nothing was found."""
        return not self.violations

    @property
    def counts(self) -> dict[Kind, int]:
        """How many violations of each kind there are, of those kinds that there are."""
        return dict(Counter(one.kind for one in self.violations))


def check(history: History) -> Findings:
    """Judge a run."""
    ledger = Ledger(history)
    explained, excused = Repeats(), Excused()
    violations = list(
        chain(
            endings(ledger),
            ghosts(ledger),
            repeats(ledger, explained),
            queues(ledger),
            flow_control(ledger, excused),
            deduplications(ledger),
            ticks(ledger),
            cancellations(ledger),
            settlements(ledger),
            callbacks(ledger),
            contents(ledger),
        )
    )
    return Findings(_figures(ledger, violations, explained, excused), violations)


def _figures(ledger: Ledger, violations: Sequence[Violation], explained: Repeats, excused: Excused) -> Figures:
    history = ledger.history
    kinds = Counter(one.kind for one in violations)
    states = Counter(one.state for one in ledger.finals.values())
    verdicts = Counter(_verdict(ledger, op) for op in ledger.intents)
    faults = Counter(one.kind for one in history.faults)
    kills = faults[FaultKind.KILL]
    return Figures(
        ops=len(ledger.intents),
        acknowledged=verdicts[Verdict.ACKNOWLEDGED],
        deduplicated=sum(one.deduplicated for one in history.outcomes),
        refused=verdicts[Verdict.REFUSED],
        unknown=verdicts[Verdict.UNKNOWN],
        receipts=len(history.receipts),
        delivered=states[State.DELIVERED],
        failed=states[State.FAILED],
        cancelled=states[State.CANCELED],
        lost=kinds[Kind.LOST],
        stuck=kinds[Kind.STUCK],
        duplicates_explained=dict(explained.by_cause),
        duplicates_unexplained=kinds[Kind.DUPLICATE],
        duplicates_per_kill=explained.by_kill.total() / kills if kills else 0.0,
        most_duplicates_of_a_kill=max(explained.by_kill.values(), default=0),
        repeated_attempts=explained.attempts,
        excess_explained=excused.parallelism,
        order_violations=kinds[Kind.ORDER],
        overlap_violations=kinds[Kind.OVERLAP],
        parallelism_violations=kinds[Kind.PARALLELISM],
        rate_violations=kinds[Kind.RATE],
        deduplication_violations=kinds[Kind.DEDUPLICATION],
        ticks=sum(one.schedule_id is not None for one in ledger.finals.values()),
        ticks_missed=kinds[Kind.TICK_MISSED],
        ticks_doubled=kinds[Kind.TICK_DOUBLED],
        cancel_violations=kinds[Kind.CANCELED],
        stale_settlements=kinds[Kind.STALE],
        callbacks=sum(one.callback_of is not None for one in history.receipts),
        claims=len(history.claims),
        faults={kind.value: count for kind, count in faults.items()},
        recovery=_recovery(recoveries(ledger)),
    )


def _verdict(ledger: Ledger, op: int) -> Verdict:
    verdicts = {one.verdict for one in ledger.outcomes.get(op, ())}
    if Verdict.ACKNOWLEDGED in verdicts:
        return Verdict.ACKNOWLEDGED
    return Verdict.REFUSED if verdicts == {Verdict.REFUSED} else Verdict.UNKNOWN


def _recovery(seconds: Sequence[float]) -> Recovery:
    if not seconds:
        return Recovery()
    last = len(seconds) - 1
    return Recovery(len(seconds), seconds[last // 2], seconds[round(last * 0.99)], seconds[-1])
