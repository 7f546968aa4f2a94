"""Ways to spoil what a history says of limits and leases, each of which the checker must find."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from random import Random

from tests.faults.checker import Kind
from tests.faults.corruption import Register, a_plain, asked, ends, is_plain, once, swap
from tests.faults.records import Claim, Final, History, Outcome, Receipt, Settlement, State, Verdict

found_as = Register()

# Queues and flow control


def _neighbours(history: History, random: Random) -> tuple[Receipt, Receipt]:
    """Two messages of a queue, the second of which was asked for when the first was acknowledged."""
    found = []
    acknowledged = {one.message_id: one.at for one in history.outcomes if one.verdict is Verdict.ACKNOWLEDGED}
    for n in range(4):
        in_queue = once(history, lambda one, n=n: one.queue == f"fifo-{n}" and not one.callback)  # type: ignore[misc]
        found += [
            (earlier, later)
            for earlier, later in pairwise(in_queue)
            if acknowledged[earlier.message_id] < asked(history, later.op).at
        ]
    return random.choice(found)


@found_as(Kind.ORDER)
def _two_messages_of_a_queue_change_places(history: History, random: Random) -> None:
    earlier, later = _neighbours(history, random)
    swap(history.receipts, earlier, replace(earlier, began=later.began, ended=later.ended))
    swap(history.receipts, later, replace(later, began=earlier.began, ended=earlier.ended))


@found_as(Kind.OVERLAP)
def _a_message_of_a_queue_begins_before_the_last_one_ended(history: History, random: Random) -> None:
    earlier, later = _neighbours(history, random)
    swap(history.receipts, earlier, replace(earlier, ended=later.began + 0.005))


@found_as(Kind.OVERLAP)
def _a_message_of_a_queue_begins_between_two_attempts(history: History, random: Random) -> None:
    earlier, later = _neighbours(history, random)
    swap(history.receipts, earlier, replace(earlier, status=500))
    history.receipts.append(replace(earlier, retried=1, began=later.ended + 0.01, ended=later.ended + 0.02))


@found_as(Kind.OVERLAP)
def _a_message_of_a_queue_does_not_wait_for_a_callback(history: History, random: Random) -> None:
    earlier, later = _neighbours(history, random)
    intent = asked(history, earlier.op)
    swap(history.intents, intent, replace(intent, callback=True))
    history.receipts.append(
        replace(earlier, message_id="msg_report", op=None, callback_of=earlier.op, ended=later.began + 0.01)
    )


@found_as(Kind.OVERLAP)
def _a_queue_lets_too_many_go(history: History, random: Random) -> None:
    some = random.sample(once(history, lambda one: one.queue == "wide"), 4)
    for one in some:
        swap(history.receipts, one, replace(one, began=some[0].began, ended=some[0].ended))


@found_as(Kind.PARALLELISM)
def _a_key_lets_too_many_go(history: History, random: Random) -> None:
    some = random.sample(once(history, lambda one: one.parallelism is not None), 3)
    for one in some:
        swap(history.receipts, one, replace(one, began=some[0].began, ended=some[0].ended))


@found_as(Kind.RATE)
def _too_many_are_claimed_in_a_period(history: History, random: Random) -> None:
    some = {one.message_id for one in random.sample(once(history, lambda one: one.rate is not None), 5)}
    for one in [one for one in history.claims if one.message_id in some]:
        swap(history.claims, one, replace(one, at=1_010.0 + len(some) / 100))


@found_as(Kind.RATE, audit=False)
def _too_many_begin_in_a_period(history: History, random: Random) -> None:
    some = random.sample(once(history, lambda one: one.rate is not None), 5)
    for n, one in enumerate(some):
        swap(history.receipts, one, replace(one, began=1_010 + n / 10, ended=1_010.01 + n / 10))


# Deduplication, ticks, cancellations


def _storm(history: History, random: Random) -> list[Outcome]:
    ops = {one.op: one.deduplication for one in history.intents if (one.deduplication or "").startswith("storm")}
    key = random.choice(sorted({one for one in ops.values() if one is not None}))
    return [one for one in history.outcomes if ops.get(one.op) == key]


@found_as(Kind.DEDUPLICATION)
def _a_deduplication_id_names_two_messages(history: History, random: Random) -> None:
    old = next(one for one in _storm(history, random) if one.deduplicated)
    other = random.choice([one for one in ends(history) if one.message_id != old.message_id])
    swap(history.outcomes, old, replace(old, message_id=other.message_id))


@found_as(Kind.DEDUPLICATION)
def _two_are_told_that_they_have_made_it(history: History, random: Random) -> None:
    old = next(one for one in _storm(history, random) if one.deduplicated)
    swap(history.outcomes, old, replace(old, deduplicated=False))


@found_as(Kind.DEDUPLICATION)
def _all_are_called_repetitions(history: History, random: Random) -> None:
    old = next(one for one in _storm(history, random) if not one.deduplicated)
    swap(history.outcomes, old, replace(old, deduplicated=True))


@found_as(Kind.DEDUPLICATION)
def _an_unknown_publish_was_stored_beside_its_repetition(history: History, random: Random) -> None:
    old = next(one for one in _storm(history, random) if one.deduplicated)
    swap(history.outcomes, old, Outcome(old.op, old.at, Verdict.UNKNOWN))
    model = a_plain(history, random)
    history.receipts.append(replace(model, message_id="msg_second", op=old.op))


def _tick(history: History, random: Random) -> Final:
    return random.choice([one for one in history.finals if one.schedule_id is not None])


@found_as(Kind.TICK_MISSED)
def _a_tick_is_missing(history: History, random: Random) -> None:
    history.finals.remove(_tick(history, random))


@found_as(Kind.TICK_DOUBLED, faults=True)
def _a_tick_fires_twice(history: History, random: Random) -> None:
    history.finals.append(replace(_tick(history, random), message_id="msg_again"))


@found_as(Kind.TICK_DOUBLED, Kind.TICK_MISSED)
def _a_tick_fires_in_another_minute(history: History, random: Random) -> None:
    old = _tick(history, random)
    swap(history.finals, old, replace(old, created_at=old.created_at + 60))


@found_as(Kind.TICK_DOUBLED)
def _a_schedule_fires_before_it_was_made(history: History, random: Random) -> None:
    old = _tick(history, random)
    history.finals.append(replace(old, message_id="msg_before", created_at=history.schedules[0].made_at - 1))


@found_as(Kind.CANCELED)
def _a_claim_follows_a_cancellation(history: History, random: Random) -> None:
    one = random.choice(history.cancellations)
    history.claims.append(Claim(one.message_id, 9, "N0-1", one.answered_at + 0.001))


@found_as(Kind.CANCELED, audit=False)
def _a_request_follows_a_cancellation(history: History, random: Random) -> None:
    canceled = {one.message_id for one in ends(history, State.CANCELED)}
    one = random.choice([one for one in history.cancellations if one.message_id in canceled])
    op = next(outcome.op for outcome in history.outcomes if outcome.message_id == one.message_id)
    began = one.answered_at + 3
    history.receipts.append(Receipt(one.message_id, op, 0, "N0-1", began, began + 0.1, 500))


# Leases and settlements


def _settlement(history: History, random: Random) -> Settlement:
    ids = {one.message_id for one in once(history, is_plain)}
    return random.choice([one for one in history.settlements if one.message_id in ids and not one.rescued])


@found_as(Kind.SETTLED_TWICE)
def _a_lease_is_settled_twice(history: History, random: Random) -> None:
    history.settlements.append(_settlement(history, random))


@found_as(Kind.SETTLED_TWICE)
def _a_settlement_follows_the_last_one(history: History, random: Random) -> None:
    old = _settlement(history, random)
    history.claims.append(Claim(old.message_id, old.lease + 1, old.node, old.at - 0.001))
    history.settlements.append(replace(old, lease=old.lease + 1, at=old.at + 1))


@found_as(Kind.STALE, faults=True)
def _another_node_settles(history: History, random: Random) -> None:
    old = _settlement(history, random)
    swap(history.settlements, old, replace(old, node="N9-1"))


@found_as(Kind.STALE, faults=True)
def _a_settlement_follows_the_next_claim(history: History, random: Random) -> None:
    old = random.choice([one for one in history.settlements if one.rescued])
    swap(history.settlements, old, replace(old, at=old.at + 5))


@found_as(Kind.LEASE)
def _what_nobody_held_is_settled(history: History, random: Random) -> None:
    old = _settlement(history, random)
    swap(history.settlements, old, replace(old, lease=7))


@found_as(Kind.LEASE, faults=True)
def _a_lease_is_given_twice(history: History, random: Random) -> None:
    old = random.choice(history.claims)
    history.claims.append(replace(old, node="N9-1", at=old.at + 0.01))


@found_as(Kind.LEASE)
def _leases_fall(history: History, random: Random) -> None:
    old = random.choice([one for one in history.claims if one.lease == 2])
    swap(history.claims, old, replace(old, at=old.at - 5))


@found_as(Kind.LEASE)
def _a_claim_follows_the_end(history: History, random: Random) -> None:
    old = _settlement(history, random)
    history.claims.append(Claim(old.message_id, old.lease + 1, "N1-1", old.at + 1))


# Callbacks and contents


def _report(history: History, random: Random, *, failed: bool) -> Receipt:
    return random.choice([one for one in history.receipts if one.callback_of is not None and one.failed is failed])


@found_as(Kind.CALLBACK_MISSING)
def _a_callback_does_not_come(history: History, random: Random) -> None:
    name = _report(history, random, failed=False).message_id
    history.receipts[:] = [one for one in history.receipts if one.message_id != name]


@found_as(Kind.CALLBACK_MISSING, audit=False)
def _without_the_audit_a_callback_does_not_come(history: History, random: Random) -> None:
    _a_callback_does_not_come(history, random)


@found_as(Kind.CALLBACK_MISSING)
def _a_failure_callback_does_not_come(history: History, random: Random) -> None:
    name = _report(history, random, failed=True).message_id
    history.receipts[:] = [one for one in history.receipts if one.message_id != name]


@found_as(Kind.CALLBACK_SURPLUS, faults=True)
def _an_attempt_is_reported_twice(history: History, random: Random) -> None:
    history.receipts.append(replace(_report(history, random, failed=False), message_id="msg_report"))


@found_as(Kind.CALLBACK_SURPLUS, audit=False)
def _without_the_audit_an_attempt_is_reported_twice(history: History, random: Random) -> None:
    _an_attempt_is_reported_twice(history, random)


@found_as(Kind.CALLBACK_SURPLUS)
def _a_burial_is_reported_twice(history: History, random: Random) -> None:
    history.receipts.append(replace(_report(history, random, failed=True), message_id="msg_report"))


@found_as(Kind.BODY, faults=True)
def _a_body_is_wrong(history: History, random: Random) -> None:
    old = random.choice(history.receipts)
    swap(history.receipts, old, replace(old, body_is_right=False))


@found_as(Kind.SIGNATURE, faults=True)
def _a_signature_is_wrong(history: History, random: Random) -> None:
    old = random.choice(history.receipts)
    swap(history.receipts, old, replace(old, signature_is_right=False))


@found_as(Kind.EARLY)
def _a_delayed_message_is_early(history: History, random: Random) -> None:
    old = random.choice(once(history, lambda one: one.delay > 0))
    intent = asked(history, old.op)
    swap(history.receipts, old, replace(old, began=intent.at + intent.delay - 0.01))
