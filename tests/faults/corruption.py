"""What the corruptions of histories are made of: their form, and what they choose from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import TypeVar

from tests.faults.checker import Kind
from tests.faults.records import Final, History, Intent, Receipt, State, Verdict

_T = TypeVar("_T")
Spoil = Callable[[History, Random], None]


@dataclass(frozen=True, slots=True)
class Corruption:
    """What is done, to which sort of history, and of which kinds at least one violation must be."""

    spoil: Spoil
    kinds: frozenset[Kind]
    faults: bool
    audit: bool

    @property
    def name(self) -> str:
        """What was done, by the name of the function."""
        return self.spoil.__name__.strip("_")


class Register:
    """Takes functions that spoil a history."""

    def __init__(self) -> None:
        self.all: list[Corruption] = []

    def __call__(self, *kinds: Kind, faults: bool = False, audit: bool = True) -> Callable[[Spoil], Spoil]:
        def register(spoil: Spoil) -> Spoil:
            self.all.append(Corruption(spoil, frozenset(kinds), faults, audit))
            return spoil

        return register


def swap(records: list[_T], old: _T, new: _T) -> None:
    """Put one record in the place of another."""
    records[records.index(old)] = new


def end_of(history: History, message_id: str) -> Final:
    """The end of a message."""
    return next(one for one in history.finals if one.message_id == message_id)


def asked(history: History, op: int | None) -> Intent:
    """What was asked for as this op."""
    return next(one for one in history.intents if one.op == op)


def ends(history: History, state: State = State.DELIVERED) -> list[Final]:
    """The ends of acknowledged messages that ended so."""
    ids = {one.message_id for one in history.outcomes if one.verdict is Verdict.ACKNOWLEDGED}
    return [one for one in history.finals if one.message_id in ids and one.state is state]


def once(history: History, is_wanted: Callable[[Intent], bool]) -> list[Receipt]:
    """In order of time, receipts of delivered, acknowledged messages that have one only, of the ops that are wanted."""
    wanted = {one.op for one in history.intents if is_wanted(one)}
    ids = {one.message_id for one in ends(history)}
    times = Counter(one.message_id for one in history.receipts)
    return [
        one for one in history.receipts if one.op in wanted and one.message_id in ids and times[one.message_id] == 1
    ]


def is_plain(intent: Intent) -> bool:
    """Whether an op has nothing special."""
    return not (intent.queue or intent.flow_key or intent.delay or intent.callback or intent.deduplication)


def a_plain(history: History, random: Random) -> Receipt:
    """The receipt of a plain message."""
    return random.choice(once(history, is_plain))


def attempts_of_one(history: History, random: Random, state: State, least: int) -> list[Receipt]:
    """All receipts of a plain message that ended so, with at least so many of them."""
    ops = {one.op for one in history.intents if is_plain(one)}
    ids = {one.message_id for one in ends(history, state)}
    by_id: dict[str, list[Receipt]] = {}
    for one in history.receipts:
        if one.op in ops and one.message_id in ids:
            by_id.setdefault(one.message_id, []).append(one)
    return random.choice([found for found in by_id.values() if len(found) >= least])


def repetition(receipt: Receipt, after: float = 1.0) -> Receipt:
    """The same request, some time after it ended."""
    return replace(receipt, began=receipt.ended + after, ended=receipt.ended + after + 0.1)
