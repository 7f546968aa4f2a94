"""Cron expressions in words: they are right, and never the same for different times."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from postroad.domain.cron import Cron, parse_cron
from postroad.domain.cron_words import in_words
from postroad.errors import InvalidValue

MONTHS = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"]
WEEKDAYS = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("* * * * *", "every minute, UTC"),
        ("*/5 * * * *", "every 5 minutes, UTC"),
        ("*/7 * * * *", "every 7 minutes from minute 0 to 56 of every hour, UTC"),
        ("*/7 3 * * *", "every 7 minutes from 03:00 to 03:56, UTC"),
        ("0-29 * * * *", "every minute from minute 0 to 29 of every hour, UTC"),
        ("*/20 8-10 * * *", "every 20 minutes of the hours 8 to 10, UTC"),
        ("*/20 8-11 * * *", "every 20 minutes from 08:00 to 11:40, UTC"),
        ("*/15 9-17 * * MON-FRI", "every 15 minutes from 09:00 to 17:45, every weekday, UTC"),
        ("*/10 0,12 * * *", "every 10 minutes of the hours 0 and 12, UTC"),
        ("*/10 */3 * * *", "every 10 minutes of every 3rd hour from 0 to 21, UTC"),
        ("* 9 * * *", "every minute from 09:00 to 09:59, UTC"),
        ("1,2,3,9 2-5 * * *", "every day at minutes 1 to 3 and 9 of the hours 2 to 5, UTC"),
        ("@hourly", "every hour, UTC"),
        ("5 * * * *", "every hour at minute 5, UTC"),
        ("5,35 * * * *", "every day at minutes 5 and 35 of every hour, UTC"),
        ("0 */2 * * *", "every 2 hours from 00:00 to 22:00, UTC"),
        ("30 9-17 * * SAT,SUN", "every hour from 09:30 to 17:30, every Saturday and Sunday, UTC"),
        ("CRON_TZ=Europe/Berlin 0 9 * * MON-FRI", "every weekday at 09:00, Europe/Berlin"),
        ("TZ=Asia/Tokyo 0 9 * * 7", "every Sunday at 09:00, Asia/Tokyo"),
        ("0 9 * * MON,WED,FRI", "every Monday, Wednesday and Friday at 09:00, UTC"),
        ("0 9 * * 0-6", "every day at 09:00, UTC"),
        ("0 9 * * MON-THU", "every Monday to Thursday at 09:00, UTC"),
        ("0 9 * JAN MON", "every Monday in January at 09:00, UTC"),
        ("0 12 * 3-5 *", "every day from March to May at 12:00, UTC"),
        ("0 9,17 * * *", "every day at 09:00 and 17:00, UTC"),
        ("0 8-20/4 * * *", "every day at 08:00, 12:00, 16:00 and 20:00, UTC"),
        ("@monthly", "on day 1 of every month at 00:00, UTC"),
        ("0 0 1,15 JAN,JUL *", "on days 1 and 15 of January and July at 00:00, UTC"),
        ("0 0 */2 * *", "on every 2nd day from day 1 to 31 of every month at 00:00, UTC"),
        ("0 0 13 * FRI", "on day 13 of the month and every Friday at 00:00, UTC"),
        ("0 0 1-31 * MON", "every day at 00:00, UTC"),
        ("@yearly", "every year on 1 January at 00:00, UTC"),
        ("0 0 29 2 *", "in leap years on 29 February at 00:00, UTC"),
    ],
)
def test_words_of_expressions(text: str, words: str) -> None:
    assert in_words(parse_cron(text)) == words


def field(lowest: int, highest: int, *, names: list[str] | None = None, star: str = "*") -> st.SearchStrategy[str]:
    """One field: stars, numbers, names, ranges and steps, in lists."""
    number = st.integers(lowest, highest).map(str)
    if names:
        number |= st.sampled_from(names)
    pair = st.tuples(st.integers(lowest, highest), st.integers(lowest, highest)).map(sorted)
    span = pair.map(lambda two: f"{two[0]}-{two[1]}")
    step = st.integers(1, 12).map(lambda n: f"/{n}")
    item = number | span | st.tuples(span | st.sampled_from(star), step).map("".join)
    return st.sampled_from(star) | st.lists(item, min_size=1, max_size=5).map(",".join)


EXPRESSIONS = st.tuples(
    field(0, 59),
    field(0, 23),
    field(1, 31, star="*?"),
    field(1, 12, names=MONTHS),
    field(0, 6, names=WEEKDAYS, star="*?") | st.just("5-7"),
).map(list)


def parsed(parts: list[str]) -> Cron | None:
    try:
        return parse_cron(" ".join(parts))
    except InvalidValue:  # the date never comes, or the text is too long
        return None


def times(cron: Cron) -> tuple[object, ...]:
    """What tells expressions apart: with either day enough, one that is any day makes the other one idle."""
    minutes, hours, days, months, weekdays = cron.numbers
    if cron.either_day and (len(days) == 31 or len(weekdays) == 7):
        return minutes, hours, months, "any day"
    if len(days) == 31 and len(weekdays) == 7:
        return minutes, hours, months, "any day"
    return minutes, hours, months, days, weekdays


@given(EXPRESSIONS, st.integers(0, 4), EXPRESSIONS)
@example(["0", "0", "1-31", "*", "MON"], 4, ["0", "0", "*", "*", "TUE"])
@example(["0-56/7", "0-3", "*", "*", "*"], 1, ["0", "0-4", "*", "*", "*"])
def test_different_times_have_different_words_which_are_never_long(one: list[str], at: int, others: list[str]) -> None:
    other = [*one]
    other[at] = others[at]
    first, second = parsed(one), parsed(other)
    if first is None or second is None:
        return

    assert (in_words(first) == in_words(second)) == (times(first) == times(second))
    assert len(in_words(first)) < 500
    assert in_words(first).isprintable()
