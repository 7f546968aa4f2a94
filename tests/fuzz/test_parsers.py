"""Whatever a stranger sends, each parser gives a value or its own refusal; `python -m tests.fuzz` looks for longer."""

from __future__ import annotations

from random import Random

import pytest

from tests.fuzz.grammar import ODD, mutated
from tests.fuzz.search import Score, generated, read
from tests.fuzz.targets import TARGETS, Target

EXAMPLES = 60
MUTATIONS = 400
LONG = 1_000_000

every_parser = pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)


@every_parser
def test_a_parser_bears_texts_of_its_grammar(target: Target) -> None:
    finding = generated(target, 1, score := Score(), examples=EXAMPLES, timed=False)

    assert finding is None, finding
    assert score.accepted > 0


@every_parser
def test_a_parser_bears_what_is_nearly_right(target: Target) -> None:
    random = Random(2)
    score = Score()
    for seed in target.seeds:
        read(target, seed, score, timed=False)
    assert score.accepted > 0
    for _ in range(MUTATIONS):
        text = mutated(random, target.seeds, most=2_000)
        try:
            read(target, text, score, timed=False)
        except Exception as error:
            raise AssertionError(text) from error


@every_parser
def test_a_parser_bears_what_is_odd_and_long(target: Target) -> None:
    """The longest texts would be worked on for hours if the time were more than in proportion to their length."""
    for odd in ODD:
        for text in (odd, odd * 50, *(seed + odd for seed in target.seeds), *(odd + seed for seed in target.seeds)):
            read(target, text, Score(), timed=False)
    for unit in (*target.seeds, "a", "1", "0,", "(", "[", "1s", " ", "=", "&", '"', "\\", "/", "header[a],", "x: y\n"):
        read(target, unit * (LONG // len(unit)), Score(), timed=False)
