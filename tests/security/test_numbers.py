"""A number of a stranger's is decimal digits of ASCII, few enough, before anybody calculates with it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from postroad.api import dlq, logs
from postroad.api.query import Query
from postroad.domain.cron import parse_cron
from postroad.domain.dead_letter import dead_letter_number
from postroad.domain.destination import parse_url
from postroad.domain.duration import parse_duration, parse_go_duration
from postroad.domain.flow_control import parse_flow_value, parse_limit, parse_period
from postroad.domain.limits import Limits
from postroad.domain.publication import parse_options
from postroad.domain.retry_expression import parse_retry_expression
from postroad.errors import Refused

ODD = (
    "", "-1", "+1", " 1", "1 ", "1_0", "1e3", "1.0", "0x1", "0b1", "1,0", "\u0663", "\uff11", "\u00b2", "\u2460",
    "\U0001d7d9", "1\u0663", "1\n", "1\0", "NaN", "inf", "--1", "1-", "9" * 400, "9" * 5_000, "9" * 1_000_000,
)  # fmt: skip


def option(name: str) -> Callable[[str], object]:
    """The option of a publish by this name. What is around it is trimmed, as HTTP does."""
    return lambda text: parse_options([(name, f"!{text}" if text != text.strip() else text)], limits=Limits(), now_s=0)


def parameter(take: Callable[[Query], object]) -> Callable[[str], object]:
    """A query parameter."""

    def read(text: str) -> object:
        query = Query()
        query.add("n", text)
        return take(query)

    return read


def known(number: object) -> object:
    """The number of an id, which is not refused but unknown."""
    if number is None:
        raise Refused
    return number


PARSERS: dict[str, Callable[[str], object]] = {
    "seconds": lambda text: parse_duration(text, bare_seconds=True),
    "duration": lambda text: parse_duration(f"{text}s"),
    "go duration": lambda text: parse_go_duration(f"{text}h") if text != "1.0" else known(None),
    "limit": parse_limit,
    "period": parse_period,
    "rate": lambda text: parse_flow_value(f"rate=1,parallelism={'!' if text != text.strip() else ''}{text}"),
    "retries": option("upstash-retries"),
    "delay": option("upstash-delay"),
    "not before": option("upstash-not-before"),
    "timeout": option("upstash-timeout"),
    "count": parameter(lambda query: known(query.take_int("n", default=0, least=1, most=2**31 - 1) or None)),
    "instant": parameter(lambda query: query.take_instant("n")),
    "status": dlq._status,
    "cursor of dead letters": lambda text: known(dead_letter_number(f"1-{text}")),
    "cursor of the log": lambda text: logs._position(text or "x", oldest_first=False),
    "minute": lambda text: parse_cron(f"{text or 'x'} 0 * * *") if text == text.strip() else known(None),
    "step": lambda text: parse_cron(f"*/{text} * * * *") if text == text.strip() else known(None),
    "port": lambda text: parse_url(f"http://a:{text}/") if text else known(None),
}
"""By the ways in which a number comes in."""

TAKE_MORE = {"count", "step"}
"""What is above the most counts as the most there, whatever its length."""


LISTS = {"minute", "step"}
"""Where a comma stands between numbers."""


@pytest.mark.parametrize("name", PARSERS)
def test_a_number_is_decimal_digits(name: str) -> None:
    for text in ODD:
        if (name in TAKE_MORE and text.startswith("99")) or (name in LISTS and text == "1,0"):
            continue
        with pytest.raises(Refused):
            PARSERS[name](text)


@pytest.mark.parametrize("name", PARSERS)
def test_a_number_is_read_where_one_may_stand(name: str) -> None:
    assert PARSERS[name]("30") is not None


@pytest.mark.parametrize("seconds", ["253402300800", "999999999999", str(366 * 86_400 + 1)])
def test_no_message_waits_until_the_end_of_time(seconds: str) -> None:
    for name in ("upstash-not-before", "upstash-delay"):
        with pytest.raises(Refused):
            PARSERS["not before" if "not" in name else "delay"](seconds)


def test_the_edges_of_what_a_database_can_hold_are_refused() -> None:
    for text in (str(2**31), str(2**63), str(2**64)):
        with pytest.raises(Refused):
            parse_limit(text)
    with pytest.raises(Refused):
        PARSERS["retries"](str(2**31))
    assert parse_limit(str(2**31 - 1)) == 2**31 - 1


def test_texts_that_calculate_for_long_are_refused_unread() -> None:
    with pytest.raises(Refused, match="at most 1024 characters"):
        parse_duration("1s" * 513)
    with pytest.raises(Refused, match="at most 1024 characters"):
        parse_go_duration("1s" * 513)
    with pytest.raises(Refused, match="at most 1024 characters"):
        parse_flow_value("rate=1" + " " * 1024)
    with pytest.raises(Refused, match="at most 256 characters"):
        parse_retry_expression("1" + "+1" * 128, 3)
    assert parse_duration("1s" * 512) == timedelta(seconds=512)
