"""Retry expressions: their grammar, their limits and what they come to."""

import math
import operator
from collections.abc import Callable
from datetime import timedelta
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from postroad.domain.backoff import backoff
from postroad.domain.retry_expression import RetryExpression, parse_retry_expression, stored_expression
from postroad.errors import InvalidValue

DAY = timedelta(days=1)

Tree = tuple[Any, ...]
"""A number or retried alone, or an operator or function before its operands, which are trees again."""


def half_up(x: float) -> float:
    """Go's math.Round, in exact arithmetic."""
    return math.copysign(math.floor(abs(Fraction(x)) + Fraction(1, 2)), x)


ONE: dict[str, Callable[[float], float]] = {
    "sqrt": math.sqrt,
    "abs": abs,
    "exp": math.exp,
    "floor": math.floor,
    "ceil": math.ceil,
    "round": half_up,
    "neg": operator.neg,
    "pos": operator.pos,
}
TWO: dict[str, Callable[[float, float], float]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "pow": math.pow,
    "min": min,
    "max": max,
}
LEVEL = {"+": 1, "-": 1, "*": 2, "/": 2}

leaves = st.sampled_from(["retried", "0", "1", "2.5", "1000", ".5", "3.", "1e3", "1.5e-1", "2E2"]).map(
    lambda leaf: (leaf,)
)
trees: st.SearchStrategy[Tree] = st.recursive(
    leaves,
    lambda inner: (
        st.tuples(st.sampled_from(sorted(ONE)), inner) | st.tuples(st.sampled_from(sorted(TWO)), inner, inner)
    ),
    max_leaves=12,
)


def reference(tree: Tree, retried: int) -> float:
    """The value of the tree; ArithmeticError or ValueError where a step has none."""
    match tree:
        case ("retried",):
            return float(retried)
        case (str(number),):
            return float(number)
        case (str(name), operand):
            return float(ONE[name](reference(operand, retried)))
        case (str(name), left, right):
            value = TWO[name](reference(left, retried), reference(right, retried))
            if not math.isfinite(value):
                raise OverflowError
            return value
    raise AssertionError(tree)


def written(tree: Tree, blank: str, level: int = 0) -> str:
    """The tree as text, with parentheses only where precedence asks for them."""
    match tree:
        case (leaf,):
            return str(leaf)
        case ("neg" | "pos" as name, operand):
            return f"{'-' if name == 'neg' else '+'}{blank}{written(operand, blank, 3)}"
        case (name, operand):
            return f"{name}{blank}({blank}{written(operand, blank)}{blank})"
        case (str(name), left, right) if name in LEVEL:
            own = LEVEL[name]
            text = f"{written(left, blank, own)}{blank}{name}{blank}{written(right, blank, own + 1)}"
            return f"({text})" if own < level else text
        case (name, left, right):
            return f"{name}({written(left, blank)}{blank},{blank}{written(right, blank)})"
    raise AssertionError(tree)


def milliseconds(delay: timedelta) -> float:
    return delay / timedelta(milliseconds=1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1000", [1000, 1000, 1000, 1000]),
        ("1000 * (1 + retried)", [1000, 2000, 3000, 4000]),
        ("pow(2, retried) * 1000", [1000, 2000, 4000, 8000]),
        ("max(1000, pow(2, retried) * 100)", [1000, 1000, 1000, 1000]),
        ("min(2500, 1000 * retried)", [0, 1000, 2000, 2500]),
        ("10 - 3 - 2", [5]),
        ("100 / 10 / 5", [2]),
        ("2 + 3 * 4", [14]),
        ("(2 + 3) * 4", [20]),
        ("5 - -2", [7]),
        ("5-+2", [3]),
        ("--5", [5]),
        ("-2 * -3", [6]),
        ("1e3", [1000]),
        ("1.5E+2", [150]),
        ("round(2.5)", [3]),
        ("-round(-2.5)", [3]),
        ("round(2.4)", [2]),
        ("floor(2.9) + ceil(2.1)", [5]),
        ("floor(-2.5) + 10", [7]),
        ("sqrt(16) + abs(-1)", [5]),
        ("exp(0)", [1]),
        ("0.5", [0.5]),
        (" \t1\n", [1]),
        ("((((((((((((((((1))))))))))))))))", [1]),
    ],
)
def test_expressions_are_worked_out_as_in_school(text: str, expected: list[float]) -> None:
    expression = parse_retry_expression(text, 3)
    assert [milliseconds(expression.delay(retried)) for retried in range(len(expected))] == expected
    assert expression.text == text


@settings(max_examples=400, deadline=None)
@given(trees, st.integers(0, 5), st.sampled_from(["", " ", "\t"]))
def test_an_expression_comes_to_what_its_tree_comes_to(tree: Tree, retried: int, blank: str) -> None:
    text = written(tree, blank)
    assume(len(text) <= 256)
    try:
        expected = [reference(tree, n) for n in range(retried + 1)][-1]
    except (ArithmeticError, ValueError):
        with pytest.raises(InvalidValue, match="a finite delay"):
            parse_retry_expression(text, retried)
        return
    delay = parse_retry_expression(text, retried).delay(retried)
    assert delay == timedelta(milliseconds=min(max(expected, 0), 86_400_000))
    assert stored_expression(text).delay(retried) == delay


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("", "at the end"),
        ("   ", "at the end"),
        ("1 +", "at the end"),
        ("(1", "')' at the end"),
        ("1)", "at character 2"),
        ("1 2", "at character 3"),
        ("2retried", "at character 2"),
        ("2(3)", "at character 2"),
        ("1 ** 2", "at character 4"),
        ("5 % 2", "at character 3"),
        ("2 ^ 3", "at character 3"),
        ("1 // 2", "at character 4"),
        ("1.2.3", "at character 1"),
        (".", "at character 1"),
        ("1e", "at character 2"),
        ("0x10", "at character 2"),
        ("1_000", "at character 2"),
        ("1e999", "below 1e308"),
        ("٣", "at character 1"),
        ("retry", "at character 1"),
        ("Retried", "at character 1"),
        ("pow", "'(' at the end"),
        ("pow(2)", "',' at character 6"),
        ("pow(1, 2, 3)", "')' at character 9"),
        ("min(1, 2, 3)", "')' at character 9"),
        ("max(1)", "',' at character 6"),
        ("sqrt(1, 2)", "')' at character 7"),
        ("sqrt()", "at character 6"),
        ("()", "at character 2"),
        ("log(2)", "at character 1"),
        ("__import__('os')", "at character 1"),
        ("inf", "at character 1"),
        ("nan", "at character 1"),
        ("retried.real", "at character 8"),
        ("1;2", "at character 2"),
    ],
)
def test_anything_else_is_no_expression(text: str, where: str) -> None:
    with pytest.raises(InvalidValue) as refusal:
        parse_retry_expression(text, 0)
    assert where in refusal.value.expected


@pytest.mark.parametrize(
    ("text", "retries", "reason"),
    [
        ("1 / retried", 0, "divides by zero for retried = 0"),
        ("1000 / (3 - retried)", 3, "divides by zero for retried = 3"),
        ("sqrt(2 - retried)", 5, "none for retried = 3"),
        ("exp(retried)", 999, "none for retried = 710"),
        ("pow(2, retried)", 5000, None),
        ("pow(10, retried)", 999, "none for retried = 309"),
        ("1e308 * 10", 0, "none for retried = 0"),
        ("1 / (1e308 * 10)", 0, "none for retried = 0"),
        ("1e308 + 1e308", 0, "none for retried = 0"),
        ("1e308 / 0.1", 0, "none for retried = 0"),
        ("-1e308 - 1e308", 0, "none for retried = 0"),
        ("pow(0, -1)", 0, "none for retried = 0"),
        ("pow(-8, 0.5)", 0, "none for retried = 0"),
        ("min(1, exp(1000))", 0, "none for retried = 0"),
    ],
)
def test_a_step_without_a_finite_value_is_refused_with_the_retry_it_happens_at(
    text: str, retries: int, reason: str | None
) -> None:
    if reason is None:
        parse_retry_expression(text, retries)
        return
    with pytest.raises(InvalidValue) as refusal:
        parse_retry_expression(text, retries)
    assert refusal.value.expected.startswith("a finite delay, but ")
    assert refusal.value.expected.endswith(reason)


def test_only_the_retries_that_can_happen_are_checked() -> None:
    expression = parse_retry_expression("1000 / (3 - retried)", 2)
    assert milliseconds(expression.delay(2)) == 1000


def test_a_long_expression_is_checked_for_the_first_hundred_retries() -> None:
    """Each takes its time, and a batch may bring thousands of expressions."""
    longest = "1000 / (%d - retried)" + " + 1" * 29
    assert parse_retry_expression(longest % 102, 1000).delay(102) == backoff(102)
    with pytest.raises(InvalidValue, match="retried = 101"):
        parse_retry_expression("1000 / (101 - retried)", 1000)
    with pytest.raises(InvalidValue, match="retried = 100"):
        parse_retry_expression(longest % 100, 1000)


def test_a_negative_delay_is_none_at_all() -> None:
    assert parse_retry_expression("-1000", 3).delay(0) == timedelta()
    assert parse_retry_expression("1000 - 600 * retried", 3).delay(3) == timedelta()
    assert parse_retry_expression("-1e300", 3).delay(0) == timedelta()


def test_a_delay_is_at_most_a_day() -> None:
    assert parse_retry_expression("86400000", 0).delay(0) == DAY
    assert parse_retry_expression("86400001", 0).delay(0) == DAY
    assert parse_retry_expression("1e300", 0).delay(0) == DAY


def test_limits_of_length_size_and_depth_are_exact() -> None:
    for longest, too_long in (
        ("1" + " " * 255, "1" + " " * 256),
        ("+".join("1" * 32), "+".join("1" * 33)),
        ("(" * 16 + "1" + ")" * 16, "(" * 17 + "1" + ")" * 17),
        ("-" * 16 + "1", "-" * 17 + "1"),
        ("abs(" * 16 + "1" + ")" * 16, "abs(" * 17 + "1" + ")" * 17),
    ):
        parse_retry_expression(longest, 0)
        with pytest.raises(InvalidValue, match="at most"):
            parse_retry_expression(too_long, 0)


def test_depth_is_that_of_the_nesting_and_not_of_the_length() -> None:
    parse_retry_expression("+".join(["abs(-(1))"] * 16), 0)


@pytest.mark.parametrize("text", ["(" * 250, "-" * 250, "pow(" * 60, "1+" * 127 + "1", "1" * 10_000, "(" * 100_000])
def test_no_text_is_too_large_to_be_refused(text: str) -> None:
    with pytest.raises(InvalidValue):
        parse_retry_expression(text, 10**9)


@given(
    st.text(max_size=300)
    | st.lists(
        st.sampled_from(
            [*"()+-*/,.% 0123", "1e9", "1e400", "retried", "é", *(name for name in [*ONE, "pow", "min", "max"])]
        ),
        max_size=20,
    ).map("".join),
    st.integers(0, 20),
)
@settings(max_examples=400, deadline=None)
def test_any_text_is_an_expression_or_refused(text: str, retries: int) -> None:
    try:
        expression = parse_retry_expression(text, retries)
    except InvalidValue:
        return
    for retried in range(retries + 1):
        assert timedelta() <= expression.delay(retried) <= DAY


def test_a_stored_expression_without_a_value_falls_back_to_the_default_backoff() -> None:
    expression = stored_expression("1000 / (3 - retried)")
    assert milliseconds(expression.delay(2)) == 1000
    assert expression.delay(3) == backoff(3)


@given(st.text(), st.integers(0, 10**6))
def test_a_stored_text_that_cannot_be_read_means_the_default_backoff(text: str, retried: int) -> None:
    try:
        parse_retry_expression(text, 0)
    except InvalidValue:
        assert stored_expression(text + ")").delay(retried) == backoff(retried)
        assert stored_expression(text + ")").text == text + ")"


def test_expressions_are_compared_by_their_texts() -> None:
    assert parse_retry_expression("1000", 1) == stored_expression("1000")
    assert parse_retry_expression("1000", 1) != stored_expression("1001")
    assert repr(stored_expression("1000")) == "RetryExpression(text='1000')"
    assert len({parse_retry_expression("1000", 1), stored_expression("1000")}) == 1
    assert isinstance(stored_expression("1000"), RetryExpression)
