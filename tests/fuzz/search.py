"""The search for a text that a parser does not bear."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import HypothesisException

from tests.fuzz.grammar import mutated
from tests.fuzz.targets import Target

MOST_CPU_S = 0.05
"""For a text of less than 10 kB, with all that is checked of it."""

_GENERATED = 500
_MUTATED = 2_000
_MOST_KEPT = 500


class TooSlow(AssertionError):
    """A text takes too long to read."""


@dataclass(frozen=True)
class Finding:
    """A text and what it did."""

    text: str
    what: str


@dataclass
class Score:
    """How far a search has come: texts read, those of them that were accepted, and the longest time for one."""

    texts: int = 0
    accepted: int = 0
    slowest_s: float = 0.0


def read(target: Target, text: str, score: Score, *, timed: bool) -> None:
    """Read a text. Raises whatever the parser must not."""
    score.texts += 1
    started = time.thread_time()
    accepted = target.read(text) is not None
    taken = time.thread_time() - started
    score.accepted += accepted
    if timed and taken > MOST_CPU_S and len(text) < 10_000:
        # Once more: collections of garbage and others of this machine are no doing of the parser's.
        for _ in range(3):
            started = time.thread_time()
            target.read(text)
            taken = min(taken, time.thread_time() - started)
        if taken > MOST_CPU_S:
            raise TooSlow(f"{taken * 1000:.0f} ms of CPU for {len(text)} characters")
    score.slowest_s = max(score.slowest_s, taken)


def search(target: Target, *, seconds: float, first_seed: int, score: Score) -> Iterator[Finding]:
    """Findings, until the time is over: by turns texts of the grammar and mutations of what was accepted."""
    ends_at = time.monotonic() + seconds
    number = first_seed
    known: list[str] = list(target.seeds)
    while time.monotonic() < ends_at:
        finding = generated(target, number, score, known=known) or _mutations(target, number, score, known)
        if finding is not None:
            yield finding
        number += 1


def generated(
    target: Target,
    number: int,
    score: Score,
    *,
    known: list[str] | None = None,
    examples: int = _GENERATED,
    timed: bool = True,
) -> Finding | None:
    """Texts of the grammar; one that fails is made small."""
    last = [""]

    @seed(number)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(target.texts)
    def fuzz(text: str) -> None:
        last[0] = text
        before = score.accepted
        read(target, text, score, timed=timed)
        if known is not None and score.accepted > before and len(known) < _MOST_KEPT and len(text) < 2000:
            known.append(text)

    try:
        fuzz()
    except HypothesisException:
        raise
    except Exception:  # noqa: BLE001  whatever it is, it is what was looked for
        return Finding(last[0], traceback.format_exc(limit=-6))
    return None


def _mutations(target: Target, number: int, score: Score, known: list[str]) -> Finding | None:
    random = Random(number)
    for _ in range(_MUTATED):
        text = mutated(random, known)
        before = score.accepted
        try:
            read(target, text, score, timed=True)
        except Exception:  # noqa: BLE001  as above
            return _smaller(target, Finding(text, traceback.format_exc(limit=-6)))
        if score.accepted > before and len(text) < 300:
            if len(known) < _MOST_KEPT:
                known.append(text)
            else:
                known[random.randrange(len(target.seeds), _MOST_KEPT)] = text
    return None


def _smaller(target: Target, finding: Finding) -> Finding:
    """The same with whatever left out that it does not need."""
    size = len(finding.text) // 2
    while size:
        start = 0
        while start < len(finding.text):
            text = finding.text[:start] + finding.text[start + size :]
            try:
                read(target, text, Score(), timed=True)
                start += size
            except Exception:  # noqa: BLE001  as above
                finding = Finding(text, traceback.format_exc(limit=-6))
        size //= 2
    return finding
