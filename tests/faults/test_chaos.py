"""A little of every fault under a little of every load; `make chaos` does the same at length."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Protocol

import pytest

from tests.faults.checker import Violation
from tests.faults.nemesis import Act, Habits, rebirth, schedule
from tests.faults.records import FaultKind, History, Verdict
from tests.faults.scenarios import Result, perform, seconds_until_rate
from tests.faults.stage import Setup

MEMORY = Path("/dev/shm")
IN_MEMORY = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 2 << 30


class Named(Protocol):
    """A record of one message."""

    @property
    def message_id(self) -> str: ...


def full(seed: int, nodes: int) -> Setup:
    """All kinds of messages, to a receiver of many moods."""
    return Setup(
        seed, rate=100, nodes=nodes, profile="full", receiver="chaotic", schedules=2, memory=IN_MEMORY, lead_s=1
    )


def assert_clean(result: Result) -> None:
    violations = "\n".join(str(one) for one in result.findings.violations[:20])
    stories = "\n\n".join(story(result.history, one) for one in result.findings.violations[:3])
    assert result.is_clean, f"{violations}\n{stories}\n{result.troubles}\n{result.figures}\n{result.history.faults}"
    acknowledged = sum(one.verdict is Verdict.ACKNOWLEDGED for one in result.history.outcomes)
    assert acknowledged > 100, "there was no load"


def story(history: History, violation: Violation) -> str:
    """All that was written down of the message or op of a violation."""
    ids = {violation.message_id} - {None}
    ops = {violation.op} | {one.op for one in history.outcomes if one.message_id in ids} - {None}
    kept: list[object] = [one for one in history.intents if one.op in ops]
    kept += [one for one in history.outcomes if one.op in ops]
    for records in (history.cancellations, history.receipts, history.claims, history.settlements, history.finals):
        named: Iterable[Named] = records
        kept += [one for one in named if one.message_id in ids]
    return "\n".join(map(str, kept))


def kinds(result: Result) -> list[FaultKind]:
    return [fault.kind for fault in result.history.faults]


@pytest.mark.timeout(300)
async def test_nodes_that_die_or_pause_lose_nothing_and_break_no_rule() -> None:
    """Some are killed from outside, some die at fault points; the pause is longer than a lease lasts."""
    habits = Habits(
        {Act.KILL: 5, Act.PAUSE: 1}, mean_gap_s=1, pauses_s=(10.5, 11), down_s=(0, 1), armed=0.5, strikes=0.05
    )
    result = await perform("nodes", full(seed=1, nodes=3), habits, count=6)

    assert_clean(result)
    assert kinds(result).count(FaultKind.KILL) >= 5
    assert kinds(result).count(FaultKind.PAUSE) == 1


async def test_a_database_that_dies_and_comes_back_loses_nothing() -> None:
    deck = {Act.KILL_POSTGRES: 1, Act.RESTART_POSTGRES_IMMEDIATE: 1, Act.END_CONNECTIONS: 1}
    result = await perform("postgres", full(seed=3, nodes=2), Habits(deck, mean_gap_s=1.5), count=3)

    assert_clean(result)
    assert kinds(result).count(FaultKind.DATABASE) == 3


async def test_a_rolling_restart_is_seen_by_nobody() -> None:
    setup = Setup(seed=4, rate=100, nodes=2, receiver="chaotic", retry_unknown=True, memory=IN_MEMORY, lead_s=1)
    result = await perform("rolling", setup, Habits({Act.ROLL: 1}, mean_gap_s=0.5), count=2)

    assert_clean(result)
    acknowledged = {one.op for one in result.history.outcomes if one.verdict is Verdict.ACKNOWLEDGED}
    assert acknowledged == {one.op for one in result.history.intents}
    assert result.findings.figures.repeated_attempts == 0


def test_a_seed_names_one_schedule() -> None:
    habits = Habits({Act.KILL: 2, Act.PAUSE: 1}, mean_gap_s=2, armed=0.5)
    first, again, other = (list(islice(schedule(seed, habits, nodes=3), 300)) for seed in (1, 1, 2))

    assert first == again != other
    assert sum(step.act is Act.PAUSE for step in first) == 100
    assert {step.target for step in first} == {0, 1, 2}
    assert 1.6 < sum(step.gap for step in first) / 300 < 2.4
    assert rebirth(1, habits, node=0, incarnation=4) == rebirth(1, habits, node=0, incarnation=4)
    assert 30 < sum(bool(rebirth(1, habits, 0, number).points) for number in range(100)) < 70


@pytest.mark.parametrize(
    ("back_at", "expected"), [(103.0, 3.0), (100.0, 0.0), (150.0, None)], ids=["after 3 s", "at once", "never"]
)
def test_the_rate_is_back_when_a_whole_second_has_it(back_at: float, expected: float | None) -> None:
    before = [80 + n / 100 for n in range(2_000)]
    meanwhile = [99.5 + n / 10 for n in range(int((back_at - 99.5) * 10))]
    afterwards = [back_at + n / 100 for n in range(1_000)]

    seconds = seconds_until_rate([*before, *meanwhile, *afterwards], before=99.0, after=100.0, until=125.0)

    assert seconds == (expected if expected is None else pytest.approx(expected, abs=0.1))
