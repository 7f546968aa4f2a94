"""Delays before the next attempt: the default one, and the one that a destination asks for."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroad.domain.backoff import backoff, requested_delay
from postroad.domain.duration import format_duration

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
DAY = timedelta(days=1)
STEERING = ["Retry-After", "X-RateLimit-Reset", "X-RateLimit-Reset-Requests", "X-RateLimit-Reset-Tokens"]

latin_1 = st.text(st.characters(max_codepoint=255))
nearly_values = st.sampled_from(
    ["5", "0", "90000", "1m", "1.5s", "Sun, 01 Mar 2026 12:00:30 GMT", "Mon, 31 Feb 2026 25:00:00 GMT", "9" * 5000]
)
any_headers = st.lists(
    st.tuples(latin_1 | st.sampled_from(STEERING), latin_1 | nearly_values | st.text("0123456789smhnu. -"))
).map(tuple)


@pytest.mark.parametrize(
    ("retried", "seconds"), [(0, 12.18), (1, 148.41), (2, 1808.04), (3, 22026.47), (4, 86400), (5, 86400), (999, 86400)]
)
def test_the_default_backoff_is_that_of_the_documentation(retried: int, seconds: float) -> None:
    assert round(backoff(retried).total_seconds(), 2) == seconds


@given(st.integers(0, 10**9))
def test_the_default_backoff_never_falls_and_never_passes_a_day(retried: int) -> None:
    assert timedelta() < backoff(retried) <= backoff(retried + 1) <= DAY


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("30", timedelta(seconds=30)),
        (" 30\t", timedelta(seconds=30)),
        ("0", timedelta()),
        ("86400", DAY),
        ("6m5s", timedelta(seconds=365)),
        ("24h", DAY),
        ("1.5s", timedelta(seconds=1.5)),
        ("500\xc2\xb5s", timedelta(microseconds=500)),
        ("Sun, 01 Mar 2026 12:00:30 GMT", timedelta(seconds=30)),
        ("Mon, 02 Mar 2026 12:00:00 GMT", DAY),
        ("Sun, 1 Mar 2026 12:00:01 GMT", timedelta(seconds=1)),
        ("Sat, 28 Feb 2026 12:00:00 GMT", timedelta()),
    ],
)
@pytest.mark.parametrize("name", STEERING)
def test_a_destination_may_ask_for_a_delay(name: str, value: str, expected: timedelta) -> None:
    assert requested_delay(((name, value),), NOW) == expected


@pytest.mark.parametrize(
    "value",
    [
        "",
        "soon",
        "-5",
        "+5",
        "1.5",
        "5 s",
        "٥",
        "86401",
        "24h1ms",
        "1d",
        "1767225600",
        "9" * 5000,
        "9" * 5000 + "s",
        "Mon, 02 Mar 2026 12:00:01 GMT",
        "Sun, 01 Mar 2026 12:00:30",
        "Sun, 01 Mar 2026 12:00:30 +0100",
        "Sun Mar  1 12:00:30 2026",
        "Tue, 31 Feb 2026 12:00:00 GMT",
        "Sun, 01 Mar 0000 12:00:00 GMT",
        "Sun, 01 Mar 2026 24:00:00 GMT",
    ],
)
def test_garbage_and_more_than_a_day_are_no_request(value: str) -> None:
    assert requested_delay((("Retry-After", value),), NOW) is None


def test_headers_of_other_names_ask_for_nothing() -> None:
    assert requested_delay((), NOW) is None
    assert requested_delay((("Retry-After-Ms", "5"), ("Content-Length", "5")), NOW) is None


@given(st.permutations(list(enumerate(STEERING, start=1))), st.integers(0, 3))
def test_the_first_of_the_documented_order_wins_wherever_it_stands(order: list[tuple[int, str]], absent: int) -> None:
    headers = tuple((name, str(number)) for number, name in order if number > absent)
    assert requested_delay(headers, NOW) == timedelta(seconds=absent + 1)


@given(st.permutations(list(enumerate(STEERING, start=1))), st.integers(0, 3))
def test_an_unusable_header_is_passed_over(order: list[tuple[int, str]], unusable: int) -> None:
    headers = tuple((name, str(number) if number > unusable else "1767225600") for number, name in order)
    assert requested_delay(headers, NOW) == timedelta(seconds=unusable + 1)


def test_a_repeated_header_counts_with_its_first_usable_value() -> None:
    headers = (("Retry-After", "later"), ("retry-after", "7"), ("Retry-After", "9"))
    assert requested_delay(headers, NOW) == timedelta(seconds=7)


@given(st.sampled_from(STEERING), st.integers(0, 86_400))
def test_names_are_compared_without_case(name: str, seconds: int) -> None:
    expected = timedelta(seconds=seconds)
    assert requested_delay(((name.lower(), str(seconds)),), NOW) == expected
    assert requested_delay(((name.upper(), str(seconds)),), NOW) == expected


@given(st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30)), st.integers(-86_400, 86_400))  # noqa: DTZ001
def test_a_date_is_relative_to_now(naive: datetime, seconds: int) -> None:
    now = naive.replace(microsecond=0, tzinfo=UTC)
    date = format_datetime(now + timedelta(seconds=seconds), usegmt=True)
    assert requested_delay((("Retry-After", date),), now) == max(timedelta(seconds=seconds), timedelta())


@given(st.integers(0, 86_399))
def test_a_duration_in_units_is_the_same_as_one_in_seconds(seconds: int) -> None:
    headers = (("Retry-After", format_duration(timedelta(seconds=seconds))),)
    assert requested_delay(headers, NOW) == timedelta(seconds=seconds)


@given(any_headers)
def test_no_answer_of_a_destination_makes_it_fail(headers: tuple[tuple[str, str], ...]) -> None:
    delay = requested_delay(headers, NOW)
    assert delay is None or timedelta() <= delay <= DAY


def test_a_value_that_takes_long_to_read_is_not_read() -> None:
    assert requested_delay((("Retry-After", "1s" * 32),), NOW) == timedelta(seconds=32)
    assert requested_delay((("Retry-After", "1s" * 33),), NOW) is None
