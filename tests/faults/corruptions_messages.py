"""Ways to spoil what a history says of messages, each of which the checker must find: ends, ghosts, attempts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

from tests.faults.checker import Kind
from tests.faults.corruption import (
    Register,
    a_plain,
    asked,
    attempts_of_one,
    end_of,
    ends,
    is_plain,
    once,
    repetition,
    swap,
)
from tests.faults.records import Cancellation, Fault, FaultKind, History, Receipt, State, Verdict

found_as = Register()

# Ends


@found_as(Kind.UNPROVEN)
def _a_receipt_is_missing(history: History, random: Random) -> None:
    history.receipts.remove(a_plain(history, random))


@found_as(Kind.LOST)
def _an_acknowledged_message_has_no_end(history: History, random: Random) -> None:
    history.finals.remove(random.choice(ends(history)))


@found_as(Kind.LOST, faults=True, audit=False)
def _an_acknowledged_message_is_lost_in_a_run_with_faults(history: History, random: Random) -> None:
    lost = random.choice(ends(history))
    history.finals.remove(lost)
    history.receipts[:] = [one for one in history.receipts if one.message_id != lost.message_id]


@found_as(Kind.LOST)
def _an_acknowledgement_names_no_message(history: History, random: Random) -> None:
    old = random.choice([one for one in history.outcomes if one.verdict is Verdict.ACKNOWLEDGED])
    swap(history.outcomes, old, replace(old, message_id=None))


@found_as(Kind.STUCK)
def _a_message_waits_for_ever(history: History, random: Random) -> None:
    old = random.choice(ends(history))
    swap(history.finals, old, replace(old, state=State.WAITING))


@found_as(Kind.STUCK, faults=True)
def _a_message_is_active_for_ever(history: History, random: Random) -> None:
    old = random.choice(history.finals)
    swap(history.finals, old, replace(old, state=State.ACTIVE))


@found_as(Kind.ENDED_TWICE)
def _there_are_two_dead_letters(history: History, random: Random) -> None:
    old = random.choice(ends(history, State.FAILED))
    swap(history.finals, old, replace(old, dead_letters=2))


@found_as(Kind.ENDED_TWICE)
def _there_is_no_dead_letter(history: History, random: Random) -> None:
    old = random.choice(ends(history, State.FAILED))
    swap(history.finals, old, replace(old, dead_letters=0))


@found_as(Kind.ENDED_TWICE)
def _what_was_delivered_has_a_dead_letter(history: History, random: Random) -> None:
    old = random.choice(ends(history))
    swap(history.finals, old, replace(old, dead_letters=1))


@found_as(Kind.ENDED_TWICE)
def _a_message_has_two_ends(history: History, random: Random) -> None:
    old = random.choice(ends(history))
    history.finals.append(replace(old, state=State.CANCELED))


@found_as(Kind.DENIED)
def _what_succeeded_has_failed(history: History, random: Random) -> None:
    old = end_of(history, a_plain(history, random).message_id)
    swap(history.finals, old, replace(old, state=State.FAILED, dead_letters=1))


@found_as(Kind.DENIED)
def _what_succeeded_was_cancelled(history: History, random: Random) -> None:
    receipt = a_plain(history, random)
    old = end_of(history, receipt.message_id)
    swap(history.finals, old, replace(old, state=State.CANCELED))
    asked = Cancellation(old.message_id, receipt.ended + 1, receipt.ended + 1.1, Verdict.ACKNOWLEDGED)
    history.cancellations.append(asked)


@found_as(Kind.UNASKED)
def _a_message_was_cancelled_by_nobody(history: History, random: Random) -> None:
    final = random.choice(ends(history, State.CANCELED))
    history.cancellations[:] = [one for one in history.cancellations if one.message_id != final.message_id]


@found_as(Kind.GAVE_UP)
def _a_message_failed_before_its_last_attempt(history: History, random: Random) -> None:
    attempts = attempts_of_one(history, random, State.FAILED, 4)
    history.receipts.remove(attempts[-1])


# Ghosts


@found_as(Kind.GHOST)
def _what_was_refused_arrives(history: History, random: Random) -> None:
    refused = random.choice([one.op for one in history.outcomes if one.verdict is Verdict.REFUSED])
    model = a_plain(history, random)
    history.receipts.append(replace(model, message_id="msg_refused", op=refused))


@found_as(Kind.GHOST)
def _what_nobody_intended_arrives(history: History, random: Random) -> None:
    model = a_plain(history, random)
    history.receipts.append(replace(model, message_id="msg_ghost", op=999_999))


@found_as(Kind.GHOST)
def _an_unknown_schedule_fires(history: History, random: Random) -> None:
    old = random.choice([one for one in history.receipts if one.schedule_id is not None])
    swap(history.receipts, old, replace(old, schedule_id="nobody-made-it"))


@found_as(Kind.GHOST)
def _a_callback_was_not_asked_for(history: History, random: Random) -> None:
    old = asked(history, random.choice([one.callback_of for one in history.receipts if one.callback_of is not None]))
    swap(history.intents, old, replace(old, callback=False))


@found_as(Kind.GHOST)
def _a_failure_is_reported_of_what_was_delivered(history: History, random: Random) -> None:
    receipt = random.choice(once(history, lambda one: one.callback))
    history.receipts.append(
        replace(repetition(receipt), message_id="msg_report", op=None, callback_of=receipt.op, failed=True)
    )


@found_as(Kind.IDENTITY)
def _a_message_comes_under_another_id(history: History, random: Random) -> None:
    model = a_plain(history, random)
    history.receipts.append(replace(model, message_id="msg_other"))


@found_as(Kind.IDENTITY)
def _a_message_brings_the_body_of_another(history: History, random: Random) -> None:
    attempts = attempts_of_one(history, random, State.DELIVERED, 2)
    other = next(one for one in once(history, is_plain) if one.message_id != attempts[0].message_id)
    swap(history.receipts, attempts[1], replace(attempts[1], op=other.op))


# Attempts


@found_as(Kind.DUPLICATE)
def _a_success_is_sent_again(history: History, random: Random) -> None:
    history.receipts.append(repetition(a_plain(history, random)))


@found_as(Kind.DUPLICATE, audit=False)
def _a_success_is_sent_again_by_another_node(history: History, random: Random) -> None:
    history.receipts.append(replace(repetition(a_plain(history, random), 11.0), node="N9-1", retried=1))


def _forget(history: History, random: Random, kind: FaultKind, instead: Callable[[Fault], list[Fault]]) -> None:
    """Have something else in place of a fault that explains a duplicate, when nothing else does."""
    history.faults[:] = [one for one in history.faults if one.node is not None]
    sent = {one.node for one in history.receipts if one.succeeded and _is_repeated(history, one)}
    old = random.choice(
        [one for one in history.faults if one.kind is kind and one.node in sent and _explains(history, one)]
    )
    n = history.faults.index(old)
    history.faults[n : n + 1] = instead(old)


def _is_repeated(history: History, receipt: Receipt) -> bool:
    return any(one.message_id == receipt.message_id and one.began > receipt.ended for one in history.receipts)


def _explains(history: History, fault: Fault) -> bool:
    return any(
        one.node == fault.node and one.succeeded and abs(one.ended - fault.began) < 0.5 and _is_repeated(history, one)
        for one in history.receipts
    )


@found_as(Kind.DUPLICATE, faults=True)
def _a_kill_is_not_on_record(history: History, random: Random) -> None:
    _forget(history, random, FaultKind.KILL, lambda _: [])


@found_as(Kind.DUPLICATE, faults=True, audit=False)
def _a_pause_is_not_on_record(history: History, random: Random) -> None:
    _forget(history, random, FaultKind.PAUSE, lambda _: [])


@found_as(Kind.DUPLICATE, faults=True)
def _an_outage_of_one_node_is_not_on_record(history: History, random: Random) -> None:
    _forget(history, random, FaultKind.DATABASE, lambda _: [])


@found_as(Kind.DUPLICATE, faults=True)
def _the_kill_hit_another_node(history: History, random: Random) -> None:
    _forget(history, random, FaultKind.KILL, lambda old: [replace(old, node="N9-1")])


@found_as(Kind.DUPLICATE, faults=True)
def _the_kill_was_only_a_stop(history: History, random: Random) -> None:
    _forget(history, random, FaultKind.KILL, lambda old: [replace(old, kind=FaultKind.STOP)])


@found_as(Kind.DUPLICATE, faults=True)
def _the_kill_came_later(history: History, random: Random) -> None:
    _forget(history, random, FaultKind.KILL, lambda old: [replace(old, began=old.began + 7, ended=old.ended + 7)])


@found_as(Kind.RETRIED)
def _the_number_of_an_attempt_falls(history: History, random: Random) -> None:
    first, second = attempts_of_one(history, random, State.FAILED, 4)[1:3]
    swap(history.receipts, first, replace(first, retried=second.retried))
    swap(history.receipts, second, replace(second, retried=first.retried))


@found_as(Kind.RETRIED, faults=True)
def _the_number_of_an_attempt_falls_after_a_kill(history: History, random: Random) -> None:
    killed = {one.node for one in history.faults if one.kind is FaultKind.KILL}
    paused = {one.node for one in history.faults if one.kind is FaultKind.PAUSE}
    delivered = {one.message_id for one in ends(history)}
    again = {one.message_id: one.began for one in history.receipts if one.node not in paused}
    cut = [
        one
        for one in history.receipts
        if one.node in killed - paused and one.message_id in delivered and one.succeeded
        and again[one.message_id] > one.ended
    ]  # fmt: skip
    old = random.choice(cut)
    swap(history.receipts, old, replace(old, retried=1))


@found_as(Kind.RETRIED)
def _the_number_of_an_attempt_is_repeated(history: History, random: Random) -> None:
    history.receipts.append(repetition(attempts_of_one(history, random, State.FAILED, 4)[1], 0.01))


@found_as(Kind.RETRIED)
def _there_are_more_attempts_than_were_asked_for(history: History, random: Random) -> None:
    last = attempts_of_one(history, random, State.FAILED, 4)[-1]
    history.receipts.append(replace(repetition(last), retried=last.retried + 1))
