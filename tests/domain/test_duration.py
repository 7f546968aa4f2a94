"""Durations: both grammars, their limits and the way back."""

import re
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroad.domain.duration import format_duration, parse_duration, parse_go_duration
from postroad.errors import InvalidValue

seconds = st.integers(0, 36_500 * 86_400)
nearly_durations = st.text("0123456789smhdnuµ.+- ")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("50s", timedelta(seconds=50)),
        ("0s", timedelta()),
        ("1d10h30m", timedelta(days=1, hours=10, minutes=30)),
        ("1h30m3s", timedelta(seconds=5403)),
        ("3s1h", timedelta(seconds=3603)),
        ("1m1m", timedelta(minutes=2)),
        ("007s", timedelta(seconds=7)),
        ("36500d", timedelta(days=36_500)),
    ],
)
def test_units_add_up(text: str, expected: timedelta) -> None:
    assert parse_duration(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "s", "5", "5ms", "5 s", " 5s", "5s ", "5s\n", "-5s", "+5s", "1.5s", "1h 30m", "5S", "5w", "٥s", "5s3", "1e3s"],
)
def test_anything_else_is_no_duration(text: str) -> None:
    with pytest.raises(InvalidValue, match="a duration such as"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["36501d", "36500d1s", "999999999999999999d", "999999999999999999s" * 50])
def test_a_duration_beyond_100_years_is_refused(text: str) -> None:
    with pytest.raises(InvalidValue, match="at most 100 years"):
        parse_duration(text)


def test_a_number_of_more_than_18_digits_is_refused_before_it_is_read() -> None:
    with pytest.raises(InvalidValue):
        parse_duration("9" * 10_000 + "s")
    with pytest.raises(InvalidValue):
        parse_duration("9" * 10_000, bare_seconds=True)
    with pytest.raises(InvalidValue):
        parse_go_duration("9" * 10_000 + "s")


def test_bare_digits_are_seconds_only_where_allowed() -> None:
    assert parse_duration("90", bare_seconds=True) == timedelta(seconds=90)
    assert parse_duration("90m", bare_seconds=True) == timedelta(minutes=90)
    with pytest.raises(InvalidValue):
        parse_duration("90")
    with pytest.raises(InvalidValue, match="at most 100 years"):
        parse_duration("999999999999999999", bare_seconds=True)
    with pytest.raises(InvalidValue):
        parse_duration("", bare_seconds=True)


@given(st.lists(st.tuples(st.integers(0, 4000), st.sampled_from("smhd")), min_size=1, max_size=8))
def test_a_duration_is_the_sum_of_its_parts(parts: list[tuple[int, str]]) -> None:
    text = "".join(f"{number}{unit}" for number, unit in parts)
    unit = {"s": timedelta(seconds=1), "m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}
    assert parse_duration(text) == sum((number * unit[name] for number, name in parts), timedelta())


@given(st.text() | nearly_durations, st.booleans())
def test_a_duration_is_within_its_limits_or_refused(text: str, bare_seconds: bool) -> None:
    try:
        duration = parse_duration(text, bare_seconds=bare_seconds)
    except InvalidValue:
        return
    assert timedelta() <= duration <= timedelta(days=36_500)
    assert text.isascii()
    assert text.isalnum()


@given(seconds)
def test_a_written_duration_reads_back_as_itself(count: int) -> None:
    delta = timedelta(seconds=count)
    assert parse_duration(format_duration(delta)) == delta


@given(seconds)
def test_a_written_duration_has_falling_units_and_no_zero_part(count: int) -> None:
    text = format_duration(timedelta(seconds=count))
    assert re.fullmatch(r"0s|(?=.)([1-9]\d*d)?([1-9]\d?h)?([1-9]\d?m)?([1-9]\d?s)?", text)


@pytest.mark.parametrize(
    ("delta", "text"),
    [
        (timedelta(), "0s"),
        (timedelta(seconds=5403), "1h30m3s"),
        (timedelta(days=1, hours=10, minutes=30), "1d10h30m"),
        (timedelta(seconds=86_400), "1d"),
        (timedelta(seconds=86_399, milliseconds=900), "23h59m59s"),
    ],
)
def test_durations_are_written_in_their_largest_units(delta: timedelta, text: str) -> None:
    assert format_duration(delta) == text


def test_a_negative_duration_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="negative"):
        format_duration(timedelta(milliseconds=-1))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", timedelta()),
        ("0s", timedelta()),
        ("6m5s", timedelta(seconds=365)),
        ("1.5s", timedelta(seconds=1.5)),
        (".5s", timedelta(seconds=0.5)),
        ("1.s", timedelta(seconds=1)),
        ("1h15m30.918273645s", timedelta(hours=1, minutes=15, seconds=30, microseconds=918_273)),
        ("300ms", timedelta(milliseconds=300)),
        ("5us", timedelta(microseconds=5)),
        ("5µs", timedelta(microseconds=5)),
        ("5μs", timedelta(microseconds=5)),
        ("1999ns", timedelta(microseconds=1)),
        ("1m5ms", timedelta(minutes=1, milliseconds=5)),
        ("0.1h", timedelta(minutes=6)),
    ],
)
def test_go_durations_are_read(text: str, expected: timedelta) -> None:
    assert parse_go_duration(text) == expected


@pytest.mark.parametrize(
    "text", ["", "1", ".", "s", ".s", "1d", "-1s", "+1s", "1 s", "1s ", "1..5s", "1,5s", "٥s", "1s\n"]
)
def test_anything_else_is_no_go_duration(text: str) -> None:
    with pytest.raises(InvalidValue, match="a Go duration"):
        parse_go_duration(text)


@pytest.mark.parametrize("text", ["876001h", "999999999999999999h"])
def test_a_go_duration_beyond_100_years_is_refused(text: str) -> None:
    with pytest.raises(InvalidValue, match="at most 100 years"):
        parse_go_duration(text)


@given(st.text() | nearly_durations)
def test_a_go_duration_is_within_its_limits_or_refused(text: str) -> None:
    try:
        duration = parse_go_duration(text)
    except InvalidValue:
        return
    assert timedelta() <= duration <= timedelta(days=36_500)


@given(st.integers(0, 10**6), st.integers(0, 999_999))
def test_a_decimal_of_a_go_duration_is_exact_to_the_microsecond(whole: int, microseconds: int) -> None:
    assert parse_go_duration(f"{whole}.{microseconds:06d}s") == timedelta(seconds=whole, microseconds=microseconds)
