"""Attempts: what came again is explained by a fault, counts are right, and every attempt is reported."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.faults.checks_ledger import SETTLE, Kind, Ledger, Violation, told
from tests.faults.records import Fault, FaultKind, Intent, Receipt, State


@dataclass(slots=True)
class Repeats:
    """What was explained: duplicates by the kind of their fault, those after kills by each kill, and attempts that
    were made again without having succeeded.

    A duplicate whose own sender was fenced counts as `late`.
    """

    by_cause: Counter[str] = field(default_factory=Counter)
    by_kill: Counter[Fault] = field(default_factory=Counter)
    attempts: int = 0


def repeats(ledger: Ledger, explained: Repeats) -> Iterator[Violation]:
    """What was sent again though it had succeeded, and attempts with the same number, each without a fault."""
    for message_id, receipts in ledger.receipts.items():
        intent = None if receipts[0].callback_of is not None else ledger.intent_of(message_id)
        if intent is not None:
            yield from _too_often(intent, receipts)
        if len(receipts) > 1:
            yield from _duplicates(ledger, receipts, explained)
            yield from _numbers(ledger, receipts, explained)


def _too_often(intent: Intent, receipts: list[Receipt]) -> Iterator[Violation]:
    for one in receipts:
        if not 0 <= one.retried <= intent.retries:
            facts = f"may be retried {intent.retries} times: {told(one)}"
            yield Violation(Kind.RETRIED, facts, one.message_id, one.op)


def _duplicates(ledger: Ledger, receipts: list[Receipt], explained: Repeats) -> Iterator[Violation]:
    succeeded: list[Receipt] = []
    for later in receipts:
        before = [one for one in succeeded if one.ended <= later.began]
        is_late = False
        if before:
            earlier = max(before, key=lambda one: one.ended)
            fault = ledger.faults.cutting(earlier, later.began)
            is_late = ledger.is_late(later)
            if fault is not None:
                explained.by_cause[fault.kind.value] += 1
                if fault.kind is FaultKind.KILL:
                    explained.by_kill[fault] += 1
            elif is_late:
                explained.by_cause["late"] += 1
            else:
                facts = f"{told(earlier)}, then {told(later)}, and no fault of {earlier.node}"
                yield Violation(Kind.DUPLICATE, facts, later.message_id, later.op)
        # What a fenced process sends explains nothing that others send later.
        if later.succeeded and not is_late:
            succeeded.append(later)


def _numbers(ledger: Ledger, receipts: list[Receipt], explained: Repeats) -> Iterator[Violation]:
    earlier = receipts[0]
    for later in receipts[1:]:
        if later.retried > earlier.retried:
            earlier = later
            continue
        if ledger.is_late(later):
            continue
        if later.retried == earlier.retried:
            is_explained = ledger.faults.cutting(earlier, later.began) is not None or ledger.is_late(earlier)
            if is_explained and not earlier.succeeded:
                explained.attempts += 1
        else:
            is_explained = False
        if not is_explained:
            facts = f"{told(earlier)}, then {told(later)}, and no fault of {earlier.node}"
            yield Violation(Kind.RETRIED, facts, later.message_id, later.op)
        earlier = later


def callbacks(ledger: Ledger) -> Iterator[Violation]:
    """Each attempt that was settled is reported once, and so is each burial, if the op wants callbacks of both kinds.

    Attempts are counted by the audit, or else by the number of the last one.
    """
    for op, intent in ledger.intents.items():
        if not intent.callback and op not in ledger.callbacks:
            continue
        received = ledger.callbacks.get(op, [])
        reports = {one.message_id for one in received if not one.failed}
        burials = {one.message_id for one in received if one.failed}
        least, most, failed = 0, 0, 0
        for message_id in ledger.messages_of.get(op, ()):
            low, high = _attempts(ledger, message_id, intent)
            least, most = least + low, most + high
            final = ledger.finals.get(message_id)
            failed += final is not None and final.state is State.FAILED
        if intent.callback and len(reports) < least:
            facts = f"{least} attempts were settled, and {len(reports)} callbacks came"
            yield Violation(Kind.CALLBACK_MISSING, facts, None, op)
        if intent.callback and len(burials) < failed:
            yield Violation(Kind.CALLBACK_MISSING, f"{failed} messages failed, no failure callback came", None, op)
        if len(reports) > most:
            facts = f"at most {most} attempts were settled, and callbacks came as {sorted(reports)}"
            yield Violation(Kind.CALLBACK_SURPLUS, facts, None, op)
        if len(burials) > failed > 0:
            facts = f"{failed} messages failed, and failure callbacks came as {sorted(burials)}"
            yield Violation(Kind.CALLBACK_SURPLUS, facts, None, op)


def _attempts(ledger: Ledger, message_id: str, intent: Intent) -> tuple[int, int]:
    """How many attempts of a message are to be reported, at least and at most.

    What rescue buries is reported if there is a failure callback. Of a message that was cancelled while it was under
    way, the last attempt is not.
    """
    final = ledger.finals.get(message_id)
    has_ended = final is not None and final.state in (State.DELIVERED, State.FAILED)
    if ledger.has_audit:
        settlements = ledger.settlements.get(message_id, [])
        settled = sum(not one.rescued for one in settlements)
        buried = sum(one.rescued and one.outcome == 2 for one in settlements)
        return settled if has_ended else 0, settled + buried
    receipts = ledger.receipts.get(message_id, [])
    last = max((one.retried for one in receipts), default=-1)
    if not has_ended:
        return 0, last + 1
    assert final is not None
    if final.state is State.DELIVERED:
        return last + 1, last + 1
    was_cut = not receipts or ledger.faults.cutting(receipts[-1], receipts[-1].ended + SETTLE) is not None
    return last + (not was_cut), intent.retries + 1
