"""What became of messages: nothing lost, no ghosts, one message for one id, every tick once, contents right."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from math import floor, inf

from tests.faults.checks_ledger import Kind, Ledger, Violation, told
from tests.faults.records import Final, Intent, Outcome, Receipt, State, Verdict

NON_RETRYABLE = 489
EARLY = 0.005
"""Seconds that a delayed message may come early: the clocks of two processes are read at different moments."""

LONGEST_WAIT = 30.0
_MINUTE = 60


def endings(ledger: Ledger) -> Iterator[Violation]:
    """Every acknowledged message has ended, in one way, and its receipts agree with that."""
    for message_id, at in ledger.acknowledged.items():
        if message_id not in ledger.finals:
            op = ledger.op_of.get(message_id)
            yield Violation(Kind.LOST, f"acknowledged at {at:.3f}, and nothing is known of it", message_id, op)
    for one in ledger.history.outcomes:
        if one.verdict is Verdict.ACKNOWLEDGED and one.message_id is None:
            yield Violation(Kind.LOST, f"acknowledged at {one.at:.3f} without a message id", None, one.op)
    asked = {one.message_id for one in ledger.history.cancellations if one.verdict is not Verdict.REFUSED}
    seen: set[str] = set()
    for final in ledger.history.finals:
        if final.message_id in seen:
            yield _wrong(ledger, final, Kind.ENDED_TWICE, f"ends a second time, as {final.state}")
        seen.add(final.message_id)
        yield from _ending(ledger, final, was_asked=final.message_id in asked)


def _ending(ledger: Ledger, final: Final, *, was_asked: bool) -> Iterator[Violation]:
    state, letters = final.state, final.dead_letters
    if state in (State.WAITING, State.ACTIVE):
        yield _wrong(ledger, final, Kind.STUCK, f"is {state} when nothing moves any more")
    if letters != (state is State.FAILED):
        yield _wrong(ledger, final, Kind.ENDED_TWICE, f"is {state} with {letters} dead letters")
    receipts = ledger.receipts.get(final.message_id, [])
    if state is State.DELIVERED:
        if not any(one.succeeded for one in receipts):
            yield _wrong(ledger, final, Kind.UNPROVEN, f"none of its {len(receipts)} receipts succeeded")
    elif state in (State.FAILED, State.CANCELED):
        yield from _denied(ledger, final, receipts)
    if state is State.CANCELED and not was_asked:
        yield _wrong(ledger, final, Kind.UNASKED, "is cancelled, and nobody asked for that")
    if state is State.FAILED:
        yield from _gave_up(ledger, final, receipts)


def _denied(ledger: Ledger, final: Final, receipts: list[Receipt]) -> Iterator[Violation]:
    for n, one in enumerate(receipts):
        if not one.succeeded:
            continue
        until = receipts[n + 1].began if n + 1 < len(receipts) else one.ended + LONGEST_WAIT
        if ledger.faults.cutting(one, until) is None and not ledger.is_late(one):
            yield _wrong(ledger, final, Kind.DENIED, f"is {final.state}, but no fault is near the receipt {told(one)}")


def _gave_up(ledger: Ledger, final: Final, receipts: list[Receipt]) -> Iterator[Violation]:
    """Attempts that nobody saw: only a fault keeps an attempt from its destination, or counts one as lost."""
    intent = ledger.intent_of(final.message_id)
    if intent is None or (receipts and receipts[-1].status == NON_RETRYABLE):
        return
    missing = set(range(intent.retries + 1)) - {one.retried for one in receipts}
    if not missing:
        return
    until = ledger.last_settled_at(final.message_id)
    if ledger.faults.between(intent.at, inf if until is None else until) is None:
        facts = f"failed without attempts {sorted(missing)} of {intent.retries + 1}, and without a fault"
        yield _wrong(ledger, final, Kind.GAVE_UP, facts)


def _wrong(ledger: Ledger, final: Final, kind: Kind, facts: str) -> Violation:
    return Violation(kind, facts, final.message_id, ledger.op_of.get(final.message_id))


def ghosts(ledger: Ledger) -> Iterator[Violation]:
    """Nothing arrives that nobody asked for, or under another id than that which was acknowledged."""
    schedules = {one.id for one in ledger.history.schedules}
    for receipts in ledger.receipts.values():
        for one in receipts:
            if one.callback_of is not None:
                yield from _ghost_callback(ledger, one)
            elif one.op is None:
                # Of a request that broke off in its body it may not be known whose it was.
                was_cut = one.status is None and one.message_id in ledger.finals
                if one.schedule_id not in schedules and not was_cut:
                    yield Violation(Kind.GHOST, f"of no op and no known schedule: {told(one)}", one.message_id)
            else:
                yield from _ghost_message(ledger, one, one.op)


def _ghost_callback(ledger: Ledger, receipt: Receipt) -> Iterator[Violation]:
    op = receipt.callback_of
    assert op is not None
    intent = ledger.intents.get(op)
    facts = None
    if intent is None:
        facts = "the callback of an op that nobody intended"
    elif not receipt.failed and not intent.callback:
        facts = "a callback that was not asked for"
    elif receipt.failed and not any(_has_failed(ledger, one) for one in ledger.messages_of.get(op, ())):
        facts = "a failure callback of what did not fail"
    if facts is not None:
        yield Violation(Kind.GHOST, f"{facts}: {told(receipt)}", receipt.message_id, op)


def _has_failed(ledger: Ledger, message_id: str) -> bool:
    final = ledger.finals.get(message_id)
    return final is not None and final.state is State.FAILED


def _ghost_message(ledger: Ledger, receipt: Receipt, op: int) -> Iterator[Violation]:
    intent = ledger.intents.get(op)
    outcomes = ledger.outcomes.get(op, [])
    if intent is None:
        yield Violation(Kind.GHOST, f"an op that nobody intended: {told(receipt)}", receipt.message_id, op)
        return
    if outcomes and all(one.verdict is Verdict.REFUSED for one in outcomes):
        facts = f"refused with {outcomes[-1].status} at {outcomes[-1].at:.3f}, and yet {told(receipt)}"
        yield Violation(Kind.GHOST, facts, receipt.message_id, op)
        return
    if ledger.op_of[receipt.message_id] != op:
        facts = f"came with the body of op {ledger.op_of[receipt.message_id]} before: {told(receipt)}"
        yield Violation(Kind.IDENTITY, facts, receipt.message_id, op)
    elif not _may_have_id(ledger, intent, outcomes, receipt.message_id):
        ids = sorted({one.message_id for one in outcomes if one.message_id is not None})
        yield Violation(Kind.IDENTITY, f"acknowledged as {ids}, and came: {told(receipt)}", receipt.message_id, op)


def _may_have_id(ledger: Ledger, intent: Intent, outcomes: list[Outcome], message_id: str) -> bool:
    ids = {one.message_id for one in outcomes if one.verdict is Verdict.ACKNOWLEDGED}
    if not ids or message_id in ids:
        return True
    return intent.deduplication is None and ledger.may_be_stored(intent.op)


def deduplications(ledger: Ledger) -> Iterator[Violation]:
    """All requests with one deduplication id name one message, and one of them made it."""
    ops: dict[str, list[int]] = defaultdict(list)
    for intent in ledger.history.intents:
        if intent.deduplication is not None:
            ops[intent.deduplication].append(intent.op)
    for key, of_key in ops.items():
        yield from _deduplication(ledger, key, of_key)


def _deduplication(ledger: Ledger, key: str, ops: list[int]) -> Iterator[Violation]:
    acknowledged = [
        one
        for op in ops
        for one in ledger.outcomes.get(op, ())
        if one.verdict is Verdict.ACKNOWLEDGED and one.message_id
    ]
    ids = {one.message_id for one in acknowledged if one.message_id is not None}
    ids |= {message_id for op in ops for message_id in ledger.messages_of.get(op, ())}
    if len(ids) > 1:
        yield Violation(Kind.DEDUPLICATION, f"the id {key} has made {sorted(ids)}", min(ids), ops[0])
    makers = sum(not one.deduplicated for one in acknowledged)
    if makers > 1:
        facts = f"{makers} requests with the id {key} were told that they had made the message"
        yield Violation(Kind.DEDUPLICATION, facts, min(ids), ops[0])
    if acknowledged and not makers and not any(ledger.may_be_stored(op) for op in ops):
        facts = f"all {len(acknowledged)} requests with the id {key} were called repetitions"
        yield Violation(Kind.DEDUPLICATION, facts, min(ids), ops[0])


def ticks(ledger: Ledger) -> Iterator[Violation]:
    """Each schedule made one message in every minute of its life."""
    made: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
    for final in ledger.history.finals:
        if final.schedule_id is not None:
            made[final.schedule_id][floor(final.created_at / _MINUTE)].add(final.message_id)
    for schedule in ledger.history.schedules:
        first, last = floor(schedule.made_at / _MINUTE) + 1, floor(schedule.ended_at / _MINUTE)
        minutes = made.get(schedule.id, {})
        for minute in range(first, last + 1):
            if minute not in minutes:
                yield Violation(Kind.TICK_MISSED, f"the schedule {schedule.id} made nothing at {minute * _MINUTE}")
        for minute, ids in sorted(minutes.items()):
            if len(ids) > 1 or minute < first:
                facts = f"the schedule {schedule.id} made {sorted(ids)} at {minute * _MINUTE}"
                yield Violation(Kind.TICK_DOUBLED, facts, min(ids))


def contents(ledger: Ledger) -> Iterator[Violation]:
    """Every request was what was published, was signed, and none came before its time."""
    for one in ledger.history.receipts:
        if not one.body_is_right:
            yield Violation(Kind.BODY, told(one), one.message_id, one.op)
        if not one.signature_is_right:
            yield Violation(Kind.SIGNATURE, told(one), one.message_id, one.op)
        if one.op is None or one.callback_of is not None:
            continue
        intent = ledger.intents.get(one.op)
        if intent is not None and intent.delay > 0 and one.began < intent.at + intent.delay - EARLY:
            facts = f"asked for at {intent.at:.3f} with a delay of {intent.delay:g} s, and came {told(one)}"
            yield Violation(Kind.EARLY, facts, one.message_id, one.op)
