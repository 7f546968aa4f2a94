"""Queues and flow control: the order of messages, how many are under way at once, and how many begin in a period."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf

from tests.faults.checks_ledger import Kind, Ledger, Violation
from tests.faults.records import Intent, Receipt

CLAIM_JITTER = 0.1
"""How much later than the start of its window, as the database counted it, a claim may be dated."""

RECEIPT_JITTER = 0.25
"""How much the way from a claim to the receiver may differ between two requests."""

_SPANS = (1, 2, 3, 5, 10, 20, 50, 100, 200, 500)


@dataclass(frozen=True, slots=True)
class Span:
    """From when until when something took a place."""

    name: str
    began: float
    ended: float
    op: int


def queues(ledger: Ledger) -> Iterator[Violation]:
    """Messages of a queue go in the order in which they were acknowledged, and no more at once than it lets."""
    spans: dict[str, list[Span]] = defaultdict(list)
    for op, intent in ledger.intents.items():
        if intent.queue is not None:
            spans[intent.queue] += _places(ledger, op)
    for queue, of_queue in spans.items():
        of_queue.sort(key=lambda one: one.began)
        parallelism = ledger.history.queues.get(queue, 1)
        if parallelism == 1:
            yield from _order(ledger, queue, of_queue)
        for span, others in _crowded(of_queue, parallelism):
            facts = f"in queue {queue} of parallelism {parallelism}, {_told(span)} began beside {_list(others)}"
            yield Violation(Kind.OVERLAP, facts, span.name, span.op)


def _places(ledger: Ledger, op: int) -> list[Span]:
    """The spans in which the messages of an op had their places: to the end of the last receipt of their callbacks."""
    spans: list[Span] = []
    for message_id in ledger.messages_of.get(op, ()):
        counted = _counted(ledger, ledger.receipts.get(message_id, ()))
        if counted:
            spans.append(Span(message_id, counted[0][0], max(ended for _, ended in counted), op))
    spans.sort(key=lambda one: one.began)
    for began, ended in _counted(ledger, ledger.callbacks.get(op, ())):
        n = bisect_right(spans, began, key=lambda one: one.began) - 1
        if n >= 0 and ended > spans[n].ended:
            spans[n] = Span(spans[n].name, spans[n].began, ended, op)
    return spans


def _counted(ledger: Ledger, receipts: Sequence[Receipt]) -> list[tuple[float, float]]:
    """Beginning and end of receipts, without what was a leftover from its first byte on."""
    found = ((one.began, ledger.counts_until(one)) for one in receipts)
    return [(began, until) for began, until in found if until > began]


def _order(ledger: Ledger, queue: str, spans: Sequence[Span]) -> Iterator[Violation]:
    """From the last to the first: who was acknowledged before this one was asked for may not begin after it."""
    first_acknowledged, after = inf, None
    for span in reversed(spans):
        acknowledged = ledger.acknowledged.get(span.name)
        intent = ledger.intents[span.op]
        if acknowledged is None or intent.delay > 0:
            continue
        if after is not None and first_acknowledged < intent.at:
            facts = (
                f"in queue {queue}, {_told(after)} was acknowledged at {first_acknowledged:.3f}, "
                f"and {_told(span)}, asked for at {intent.at:.3f}, began before it"
            )
            yield Violation(Kind.ORDER, facts, span.name, span.op)
        if acknowledged < first_acknowledged:
            first_acknowledged, after = acknowledged, span


def _crowded(spans: Sequence[Span], limit: int) -> Iterator[tuple[Span, list[Span]]]:
    """Spans that began when as many others as the limit lets were under way; `spans` are sorted by their beginning."""
    under_way: list[Span] = []
    for span in spans:
        under_way = [one for one in under_way if one.ended > span.began]
        if len(under_way) >= limit:
            yield span, under_way[:limit]
            # Those that end last stay: a span that is too much must not make all that follow too much.
            under_way = sorted([*under_way, span], key=lambda one: one.ended)[-limit:]
        else:
            under_way.append(span)


@dataclass(slots=True)
class Excused:
    """What the limits were exceeded by, by leftovers of processes that were dead, paused or cut off."""

    parallelism: int = 0


def flow_control(ledger: Ledger, excused: Excused) -> Iterator[Violation]:
    """A key's messages are no more at once, and begin no faster, than they may."""
    ops: dict[str, list[Intent]] = defaultdict(list)
    for intent in ledger.history.intents:
        if intent.flow_key is not None:
            ops[intent.flow_key].append(intent)
    for key, intents in ops.items():
        receipts = [
            receipt
            for intent in intents
            for message_id in ledger.messages_of.get(intent.op, ())
            for receipt in ledger.receipts.get(message_id, ())
        ]
        receipts.sort(key=lambda one: one.began)
        parallelism = max((one.parallelism for one in intents if one.parallelism is not None), default=None)
        if parallelism is not None:
            yield from _parallelism(ledger, key, parallelism, receipts, excused)
        rate = max((one.rate for one in intents if one.rate is not None), default=None)
        if rate is not None:
            period = min((one.period for one in intents if one.period is not None), default=1.0)
            yield from _rate(ledger, key, rate, period, receipts)


def _parallelism(
    ledger: Ledger, key: str, limit: int, receipts: Sequence[Receipt], excused: Excused
) -> Iterator[Violation]:
    seen = [Span(one.message_id, one.began, one.ended, one.op or 0) for one in receipts]
    counted = [
        Span(span.name, span.began, until, span.op)
        for span, one in zip(seen, receipts, strict=True)
        if (until := ledger.counts_until(one)) > one.began
    ]
    crowded = list(_crowded(counted, limit))
    excused.parallelism += max(0, sum(1 for _ in _crowded(seen, limit)) - len(crowded))
    for span, others in crowded:
        facts = f"under key {key} of parallelism {limit}, {_told(span)} began beside {_list(others)}"
        yield Violation(Kind.PARALLELISM, facts, span.name, span.op)


def _rate(ledger: Ledger, key: str, rate: int, period: float, receipts: Sequence[Receipt]) -> Iterator[Violation]:
    """By fixed windows a span of m periods touches at most m + 1 of them; each has at most `rate` beginnings."""
    if ledger.has_audit:
        names = {one.message_id for one in receipts}
        begun = sorted(claim.at for name in names for claim in ledger.claims.get(name, ()))
        jitter = CLAIM_JITTER
    else:
        begun = [one.began for one in receipts if not ledger.is_late(one)]
        jitter = RECEIPT_JITTER
    for periods in _SPANS:
        most = rate * (periods + 1)
        if most >= len(begun):
            return
        n = 0
        while n + most < len(begun):
            if begun[n + most] - begun[n] < periods * period - jitter:
                facts = (
                    f"under key {key} of {rate} in {period:g} s, {most + 1} began "
                    f"from {begun[n]:.3f} to {begun[n + most]:.3f}"
                )
                yield Violation(Kind.RATE, facts)
                n += most
            n += 1


def _told(span: Span) -> str:
    return f"{span.name} ({span.began:.3f}-{span.ended:.3f})"


def _list(spans: Sequence[Span]) -> str:
    return ", ".join(_told(one) for one in spans)
