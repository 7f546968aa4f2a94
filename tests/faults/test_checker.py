"""The checker of runs under faults: it lets good histories pass, and finds what was corrupted in them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from random import Random

import orjson
import pytest

from tests.faults import corruptions_messages, corruptions_order, report
from tests.faults.checker import Kind, check
from tests.faults.corruption import Corruption
from tests.faults.histories import a_history
from tests.faults.records import Fault, FaultKind, Final, History, Intent, Outcome, Receipt, State, Verdict

SEEDS = (1, 2, 3)
CORRUPTIONS = [*corruptions_messages.found_as.all, *corruptions_order.found_as.all]


@cache
def _made(seed: int, faults: bool, audit: bool) -> History:
    return a_history(seed, faults=faults, audit=audit)


def _history(seed: int, *, faults: bool = True, audit: bool = True) -> History:
    """A good history with lists of its own."""
    made = _made(seed, faults, audit)
    return replace(
        made,
        intents=list(made.intents),
        outcomes=list(made.outcomes),
        cancellations=list(made.cancellations),
        receipts=list(made.receipts),
        faults=list(made.faults),
        claims=list(made.claims),
        settlements=list(made.settlements),
        finals=list(made.finals),
    )


@pytest.mark.parametrize("audit", [True, False], ids=["audited", "not_audited"])
@pytest.mark.parametrize("faults", [True, False], ids=["with_faults", "without_faults"])
@pytest.mark.parametrize("seed", range(1, 7))
def test_a_good_history_is_clean(seed: int, faults: bool, audit: bool) -> None:
    findings = check(_history(seed, faults=faults, audit=audit))

    assert findings.violations == []


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("corruption", CORRUPTIONS, ids=lambda one: one.name)
def test_a_corrupted_history_is_not(corruption: Corruption, seed: int) -> None:
    history = _history(seed, faults=corruption.faults, audit=corruption.audit)
    corruption.spoil(history, Random(f"{corruption.name}/{seed}"))

    found = check(history).counts

    assert corruption.kinds & set(found), f"{corruption.name} was found as {found}"


def test_there_are_at_least_forty_corruptions() -> None:
    assert len({one.name for one in CORRUPTIONS}) >= 40


def test_the_order_of_the_records_does_not_matter() -> None:
    history = _history(1)
    random = Random(1)
    for records in (history.receipts, history.claims, history.outcomes, history.faults, history.intents):
        random.shuffle(records)

    assert check(history).violations == []


@pytest.mark.parametrize("is_on_record", [True, False])
def test_what_a_paused_process_sends_when_it_wakes_up_is_explained_by_the_pause(is_on_record: bool) -> None:
    """It had not sent it when it was paused; another one then failed with the message; now it comes, and succeeds."""
    failures = [Receipt("msg_1", 1, n, "N1-1", 11.0 + n, 11.1 + n, 500) for n in range(4)]
    history = History(
        seed=0,
        intents=[Intent(1, 0.5)],
        outcomes=[Outcome(1, 0.6, Verdict.ACKNOWLEDGED, "msg_1", 201)],
        receipts=[*failures, Receipt("msg_1", 1, 0, "N0-1", 17.0, 17.1, 200)],
        faults=[Fault(FaultKind.PAUSE, 0.61, 16.0, "N0-1")] if is_on_record else [],
        finals=[Final("msg_1", State.FAILED, 0.6, dead_letters=1)],
    )

    assert set(check(history).counts) == (set() if is_on_record else {Kind.DENIED, Kind.RETRIED})


def test_the_figures_count_what_faults_explain() -> None:
    history = _history(1)

    figures = check(history).figures

    assert figures.acknowledged + figures.refused + figures.unknown == figures.ops == len(history.intents)
    assert figures.delivered + figures.failed + figures.cancelled == len(history.finals)
    assert figures.duplicates_explained["kill"] >= 1
    assert figures.duplicates_explained["pause"] >= 1
    assert figures.duplicates_explained["late"] >= 1
    assert figures.duplicates_per_kill == figures.duplicates_explained["kill"] / figures.faults["kill"]
    assert figures.repeated_attempts >= 1
    assert 8 <= figures.recovery.p50 <= figures.recovery.p99 <= figures.recovery.longest <= 13


def test_without_faults_there_is_nothing_to_explain() -> None:
    figures = check(_history(1, faults=False)).figures

    assert (figures.duplicates_explained, figures.repeated_attempts, figures.recovery.messages) == ({}, 0, 0)


def test_a_report_names_the_run_and_spells_out_what_was_found() -> None:
    history = _history(1)
    lost = next(one.message_id for one in history.outcomes if one.verdict is Verdict.ACKNOWLEDGED)
    history.finals[:] = [one for one in history.finals if one.message_id != lost]
    findings = check(history)

    text = report.as_text(findings, seed=1, commit="abc123", title="kills")
    document = orjson.loads(report.as_json(findings, seed=1, commit="abc123", title="kills"))

    assert text.startswith("kills: 1 violations (seed 1, commit abc123)")
    assert f"{lost} (op 1): acknowledged at" in text
    assert (document["seed"], document["commit"], document["clean"]) == (1, "abc123", False)
    assert (document["counts"], document["figures"]["lost"]) == ({"lost": 1}, 1)
    assert document["violations"][0]["message_id"] == lost
