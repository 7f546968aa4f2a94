"""What the audit of the database shows: leases, settlements, cancellations, and how fast work was taken over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

from tests.faults.checks_ledger import SETTLE, Kind, Ledger, Violation, told
from tests.faults.records import Cancellation, Claim, Fault, FaultKind, Receipt, Settlement, Verdict

UNDER_WAY = 0.5
"""How long after its claim a request may reach the receiver."""

FINAL = (0, 2)


def cancellations(ledger: Ledger) -> Iterator[Violation]:
    """No attempt starts after the answer to a cancellation."""
    for one in ledger.history.cancellations:
        if one.verdict is not Verdict.ACKNOWLEDGED:
            continue
        op = ledger.op_of.get(one.message_id)
        for claim in ledger.claims.get(one.message_id, ()):
            if claim.at > one.answered_at:
                facts = f"its cancellation was answered at {one.answered_at:.3f}; {_told(claim)}"
                yield Violation(Kind.CANCELED, facts, one.message_id, op)
        if not ledger.has_audit:
            yield from _sent_after(ledger, one, op)


def _sent_after(ledger: Ledger, cancellation: Cancellation, op: int | None) -> Iterator[Violation]:
    """Without the audit: a request that was under way when somebody asked may be followed by its leftovers."""
    receipts = ledger.receipts.get(cancellation.message_id, [])
    if any(one.began <= cancellation.answered_at and one.ended >= cancellation.asked_at for one in receipts):
        return
    for one in receipts:
        if one.began > cancellation.answered_at + UNDER_WAY and not ledger.is_late(one):
            facts = f"its cancellation was answered at {cancellation.answered_at:.3f}; {told(one)}"
            yield Violation(Kind.CANCELED, facts, cancellation.message_id, op)


def settlements(ledger: Ledger) -> Iterator[Violation]:
    """A lease is given once, ends once, and by who held it or by rescue; after the last word comes nothing."""
    for message_id, settled in ledger.settlements.items():
        yield from _of_message(ledger, message_id, settled)
    for message_id, claims in ledger.claims.items():
        for earlier, later in pairwise(claims):
            if later.lease == earlier.lease or later.at < earlier.at:
                facts = f"leases do not grow with time: {_told(earlier)}, {_told(later)}"
                yield _wrong(ledger, Kind.LEASE, message_id, facts)


def _of_message(ledger: Ledger, message_id: str, settled: list[Settlement]) -> Iterator[Violation]:
    claims = ledger.claims.get(message_id, [])
    holders = {one.lease: one for one in claims}
    for lease, times in Counter(one.lease for one in settled).items():
        if times > 1:
            yield _wrong(ledger, Kind.SETTLED_TWICE, message_id, f"lease {lease} was settled {times} times")
    for one in settled:
        holder = holders.get(one.lease)
        if holder is None:
            if ledger.has_audit:
                yield _wrong(ledger, Kind.LEASE, message_id, f"nobody had that lease: {_told_end(one)}")
            continue
        if not one.rescued and one.node != holder.node:
            yield _wrong(ledger, Kind.STALE, message_id, f"{_told(holder)}, {_told_end(one)}")
        following = next((claim for claim in claims if claim.lease > one.lease), None)
        if following is not None and following.at < one.at:
            yield _wrong(ledger, Kind.STALE, message_id, f"{_told(following)}, and then {_told_end(one)}")
    last = next((one for one in settled if one.outcome in FINAL), None)
    if last is None:
        return
    if settled[-1] is not last:
        facts = f"{_told_end(last)}, and then {_told_end(settled[-1])}"
        yield _wrong(ledger, Kind.SETTLED_TWICE, message_id, facts)
    if claims and claims[-1].at > last.at:
        yield _wrong(ledger, Kind.LEASE, message_id, f"{_told_end(last)}, and then {_told(claims[-1])}")


def recoveries(ledger: Ledger) -> list[float]:
    """For each message that a killed process held, how many seconds after the kill its next claim came, or without the
    audit its next receipt. Of messages that have to wait for others: when it was taken back.
    """
    kills = [one for one in ledger.faults.all if one.kind is FaultKind.KILL and one.node is not None]
    killed = {one.node: one for one in kills}
    if ledger.has_audit:
        found = (_next_claim(ledger, name, claims, killed) for name, claims in ledger.claims.items())
    else:
        found = (_next_receipt(receipts, killed) for receipts in ledger.receipts.values() if len(receipts) > 1)
    return sorted(max(0.0, seconds) for times in found for seconds in times)


def _next_claim(
    ledger: Ledger, message_id: str, claims: list[Claim], killed: dict[str | None, Fault]
) -> Iterator[float]:
    for earlier, later in pairwise(claims):
        fault = killed.get(earlier.node)
        if fault is None:
            continue
        ends = [one for one in ledger.settlements.get(message_id, ()) if one.lease == earlier.lease]
        if all(one.rescued for one in ends):
            back = min((one.at for one in ends), default=later.at)
            yield (back if _waits_for_others(ledger, message_id) else later.at) - fault.began


def _waits_for_others(ledger: Ledger, message_id: str) -> bool:
    intent = ledger.intents.get(ledger.op_of.get(message_id, -1))
    return intent is None or intent.queue is not None or intent.flow_key is not None


def _next_receipt(receipts: list[Receipt], killed: dict[str | None, Fault]) -> Iterator[float]:
    for earlier, later in pairwise(receipts):
        fault = killed.get(earlier.node)
        if (
            fault is not None
            and later.node != earlier.node
            and later.retried == earlier.retried
            and earlier.ended > fault.began - SETTLE
        ):
            yield later.began - fault.began


def _wrong(ledger: Ledger, kind: Kind, message_id: str, facts: str) -> Violation:
    return Violation(kind, facts, message_id, ledger.op_of.get(message_id))


def _told(claim: Claim) -> str:
    return f"{claim.node} had lease {claim.lease} from {claim.at:.3f}"


def _told_end(settlement: Settlement) -> str:
    verb = "rescued" if settlement.rescued else "settled"
    return f"{settlement.node} {verb} lease {settlement.lease} with outcome {settlement.outcome} at {settlement.at:.3f}"
