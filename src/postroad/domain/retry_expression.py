"""The publisher's own formula for the delay before a retry, as `Upstash-Retry-Delay` brings it."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import lru_cache

from postroad.domain.backoff import LONGEST_DELAY, backoff
from postroad.errors import InvalidValue

Formula = Callable[[float], float]
"""From the number of retries already made to milliseconds. Raises ArithmeticError or ValueError where undefined."""

_MAX_CHARACTERS = 256
_MAX_NODES = 64
_MAX_DEPTH = 16
_MAX_RETRIED = 1000
_MAX_STEPS = 6_400
"""What checking an expression may take: a batch may bring thousands of them."""
_MAX_MILLISECONDS = LONGEST_DELAY / timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class RetryExpression:
    """A parsed expression; equal to another when the texts are."""

    text: str
    _formula: Formula = field(repr=False, compare=False)

    def delay(self, retried: int) -> timedelta:
        """Delay before retry number retried + 1, at most one day; a negative result is no delay. Never raises.

        Where the formula has no value, which only a retried beyond the checked ones can bring about, it is the default
        backoff.
        """
        try:
            milliseconds = self._formula(float(retried))
        except (ArithmeticError, ValueError):  # A delivery must go on, and the publisher cannot be told any more.
            return backoff(retried)
        return timedelta(milliseconds=min(max(milliseconds, 0.0), _MAX_MILLISECONDS))


@lru_cache(maxsize=256)
def parse_retry_expression(text: str, retries: int) -> RetryExpression:
    """The expression in this text, which has a value for every retried from 0 to retries (or 1000, if that is less).

    QStash's grammar: the variable retried, numbers, `+ - * /`, parentheses and the functions pow, sqrt, abs, exp,
    floor, ceil, round, min and max, the last two of exactly two arguments. All numbers are floats; round takes halves
    away from zero. At most 256 characters, 64 numbers, names, operators and calls together, and 16 levels of nesting.
    Raises InvalidValue, also for a division by zero, an overflow or any other step without a finite value; of an
    expression with more than six of these, it looks for that only among the first retries, 100 at least.
    """
    parser = _Parser(text)
    formula = parser.formula()
    for retried in range(min(retries, _MAX_RETRIED, _MAX_STEPS // parser.nodes) + 1):
        try:
            formula(float(retried))
        except ZeroDivisionError:
            raise InvalidValue(text, f"a finite delay, but it divides by zero for retried = {retried}") from None
        except (ArithmeticError, ValueError):
            raise InvalidValue(text, f"a finite delay, but there is none for retried = {retried}") from None
    return RetryExpression(text, formula)


@lru_cache(maxsize=256)
def stored_expression(text: str) -> RetryExpression:
    """The expression in a text that was parsed when it was published. Never raises.

    A text that this version cannot read any more has the default backoff as its delay.
    """
    try:
        return RetryExpression(text, _Parser(text).formula())
    except InvalidValue:  # The message was accepted with it and must not be held up by it.
        return RetryExpression(text, _undefined)


class _Parser:
    """Recursive descent, one method per level of precedence, straight into closures."""

    def __init__(self, text: str) -> None:
        if len(text) > _MAX_CHARACTERS:
            raise InvalidValue(text, f"a retry delay expression of at most {_MAX_CHARACTERS} characters")
        self._text = text
        self._tokens = [
            (token.group(), token.start()) for token in _TOKEN.finditer(text) if not token.group().isspace()
        ]
        self._tokens.append(("", len(text)))
        self._position = 0
        self.nodes = 0
        self._depth = 0

    def formula(self) -> Formula:
        whole = self._sum()
        if self._ahead():
            raise self._expected("an operator or the end")
        return whole

    def _sum(self) -> Formula:
        left = self._product()
        while (sign := self._ahead()) in _ADDITIVE:
            self._next()
            left = self._binary(_ADDITIVE[sign], left, self._product())
        return left

    def _product(self) -> Formula:
        left = self._signed()
        while (sign := self._ahead()) in _MULTIPLICATIVE:
            self._next()
            left = self._binary(_MULTIPLICATIVE[sign], left, self._signed())
        return left

    def _signed(self) -> Formula:
        sign = self._ahead()
        if sign not in _SIGNS:
            return self._operand()
        self._next()
        self._descend()
        operand = self._signed()
        self._depth -= 1
        return self._unary(_SIGNS[sign], operand)

    def _operand(self) -> Formula:
        word = self._ahead()
        if word == "(":
            return self._arguments(1)[0]
        if word == "retried":
            self._next()
            self._count()
            return _retried
        if word in _UNARY:
            self._next()
            return self._unary(_UNARY[word], *self._arguments(1))
        if word in _BINARY:
            self._next()
            return self._binary(_BINARY[word], *self._arguments(2))
        if _NUMBER.fullmatch(word):
            return self._number(float(word))
        raise self._expected("a number, retried, a function or a parenthesis")

    def _arguments(self, count: int) -> list[Formula]:
        """What stands between parentheses: count formulas with commas between them."""
        self._descend()
        arguments = []
        for before in "(" + "," * (count - 1):
            self._take(before)
            arguments.append(self._sum())
        self._take(")")
        self._depth -= 1
        return arguments

    def _number(self, number: float) -> Formula:
        if not math.isfinite(number):
            raise self._expected("a number below 1e308")
        self._next()
        self._count()
        return lambda retried: number

    def _unary(self, function: Callable[[float], float], operand: Formula) -> Formula:
        self._count()
        return lambda retried: function(operand(retried))

    def _binary(self, function: Callable[[float, float], float], left: Formula, right: Formula) -> Formula:
        self._count()
        return lambda retried: _finite(function(left(retried), right(retried)))

    def _ahead(self) -> str:
        return self._tokens[self._position][0]

    def _next(self) -> None:
        self._position += 1

    def _take(self, token: str) -> None:
        if self._ahead() != token:
            raise self._expected(f"{token!r}")
        self._next()

    def _count(self) -> None:
        self.nodes += 1
        if self.nodes > _MAX_NODES:
            raise InvalidValue(self._text, f"at most {_MAX_NODES} numbers, names, operators and calls")

    def _descend(self) -> None:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise InvalidValue(self._text, f"at most {_MAX_DEPTH} levels of parentheses and signs")

    def _expected(self, what: str) -> InvalidValue:
        token, start = self._tokens[self._position]
        return InvalidValue(self._text, f"{what} {f'at character {start + 1}' if token else 'at the end'}")


def _retried(retried: float) -> float:
    return retried


def _undefined(_retried: float) -> float:
    raise ArithmeticError


def _finite(result: float) -> float:
    # Python's floats overflow silently in + - * /, and an infinity could vanish again in a later division.
    if not math.isfinite(result):
        raise OverflowError
    return result


def _floor(x: float) -> float:
    return float(math.floor(x))


def _ceil(x: float) -> float:
    return float(math.ceil(x))


def _round(x: float) -> float:
    """To the nearest whole number, halves away from zero as in Go; Python's own round takes them to the even one."""
    whole = math.trunc(x)
    return float(whole + math.copysign(1, x) if abs(x - whole) >= 0.5 else whole)


_TOKEN = re.compile(r"\s+|[0-9.]+(?:[eE][+-]?[0-9]+)?|[A-Za-z_][A-Za-z_0-9]*|.", re.DOTALL)
_NUMBER = re.compile(r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_ADDITIVE = {"+": operator.add, "-": operator.sub}
_MULTIPLICATIVE = {"*": operator.mul, "/": operator.truediv}
_SIGNS: dict[str, Callable[[float], float]] = {"+": operator.pos, "-": operator.neg}
_UNARY: dict[str, Callable[[float], float]] = {
    "sqrt": math.sqrt,
    "abs": abs,
    "exp": math.exp,
    "floor": _floor,
    "ceil": _ceil,
    "round": _round,
}
_BINARY: dict[str, Callable[[float, float], float]] = {"pow": math.pow, "min": min, "max": max}
