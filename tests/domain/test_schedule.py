"""When schedules fire, and what of a request they keep."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postroad.domain.cron import parse_cron
from postroad.domain.limits import Limits
from postroad.domain.publication import Request
from postroad.domain.schedule import MOST_TICKS, Schedule, due, kept_fields, next_tick, parse_schedule_id
from postroad.domain.tenant import TenantId
from postroad.errors import InvalidValue

TEN_MINUTES = timedelta(minutes=10)
MINUTELY = parse_cron("* * * * *")
HOURLY = parse_cron("0 * * * *")


def at(text: str) -> datetime:
    return datetime.fromisoformat(f"{text}+00:00")


def test_a_tick_on_time_fires_alone() -> None:
    now = at("2026-03-01 12:00:00.041")

    what = due(MINUTELY, at("2026-03-01 12:00"), now, catch_up=TEN_MINUTES)

    assert (what.ticks, what.skipped, what.next_at) == ((at("2026-03-01 12:00"),), 0, at("2026-03-01 12:01"))


def test_a_late_tick_fires_under_its_nominal_time_however_late() -> None:
    what = due(HOURLY, at("2026-03-01 12:00"), at("2026-03-01 12:59"), catch_up=TEN_MINUTES)

    assert (what.ticks, what.skipped) == ((at("2026-03-01 12:00"),), 0)


def test_what_was_missed_within_the_catch_up_all_fires_in_order() -> None:
    what = due(MINUTELY, at("2026-03-01 12:00"), at("2026-03-01 12:07:30"), catch_up=TEN_MINUTES)

    assert what.ticks == tuple(at(f"2026-03-01 12:0{n}") for n in range(8))
    assert (what.skipped, what.next_at) == (0, at("2026-03-01 12:08"))


def test_what_is_older_is_skipped_where_something_recent_fires() -> None:
    what = due(MINUTELY, at("2026-03-01 11:00"), at("2026-03-01 12:00:30"), catch_up=TEN_MINUTES)

    assert what.ticks == (*(at(f"2026-03-01 11:{n}") for n in range(51, 60)), at("2026-03-01 12:00"))
    assert what.skipped == 51


def test_of_what_is_all_older_the_last_one_fires() -> None:
    what = due(HOURLY, at("2026-03-01 12:00"), at("2026-03-02 12:30"), catch_up=TEN_MINUTES)

    assert what.ticks == (at("2026-03-02 12:00"),)
    assert (what.skipped, what.next_at) == (24, at("2026-03-02 13:00"))


def test_no_more_than_so_many_fire_at_once() -> None:
    what = due(MINUTELY, at("2026-03-01 00:00"), at("2026-03-01 10:00"), catch_up=timedelta(hours=10))

    assert len(what.ticks) == MOST_TICKS
    assert what.ticks[-1] == at("2026-03-01 10:00")
    assert what.skipped == 601 - MOST_TICKS


def test_without_catch_up_the_last_missed_tick_fires() -> None:
    what = due(MINUTELY, at("2026-03-01 12:00"), at("2026-03-01 12:05:30"), catch_up=timedelta(0))

    assert (what.ticks, what.skipped) == ((at("2026-03-01 12:05"),), 5)


def test_a_year_of_absence_is_counted_in_no_time() -> None:
    what = due(MINUTELY, at("2025-03-01 12:00"), at("2026-03-01 12:00:30"), catch_up=TEN_MINUTES)

    assert len(what.ticks) == 10
    assert what.skipped > 1000


def test_time_that_was_moved_makes_a_tick_at_any_instant() -> None:
    odd = at("2026-03-01 11:58:30")

    assert due(HOURLY, odd, at("2026-03-01 11:59"), catch_up=TEN_MINUTES).ticks == (odd,)


@settings(deadline=None)
@given(
    next_at=st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    late=st.timedeltas(timedelta(0), timedelta(days=1)),
    catch_up=st.timedeltas(timedelta(0), timedelta(hours=5)),
    cron=st.sampled_from(
        ["* * * * *", "*/7 * * * *", "30 2 * * *", "CRON_TZ=America/New_York 30 1,2 * * *", "@weekly"]
    ),
)
def test_ticks_rise_lie_in_what_was_missed_and_end_before_the_next(
    next_at: datetime, late: timedelta, catch_up: timedelta, cron: str
) -> None:
    now = next_at + late

    what = due(parse_cron(cron), next_at, now, catch_up=catch_up)

    assert 1 <= len(what.ticks) <= MOST_TICKS
    assert list(what.ticks) == sorted(set(what.ticks))
    assert next_at <= what.ticks[0]
    assert what.ticks[-1] <= now < what.next_at
    assert what.skipped + len(what.ticks) == 1 + len(parse_cron(cron).ticks(next_at, now, most=2_000))


def test_a_tick_beyond_all_years_is_a_refusal() -> None:
    with pytest.raises(InvalidValue, match="a time that comes"):
        next_tick(MINUTELY, datetime(9999, 12, 31, 23, 59, 30, tzinfo=UTC))


@pytest.mark.parametrize("text", ["a", "A.b_c-9", "x" * 256])
def test_an_id_may_be(text: str) -> None:
    assert parse_schedule_id(text) == text


@pytest.mark.parametrize("text", ["", "a b", "a/b", "ä", "x" * 257, "a\n", "a:b"])
def test_an_id_may_not_be(text: str) -> None:
    with pytest.raises(InvalidValue):
        parse_schedule_id(text)


FIELDS = (
    ("upstash-cron", "* * * * *"),
    ("upstash-schedule-id", "s"),
    ("upstash-telemetry-sdk", "x"),
    ("upstash-deduplication-id", "d"),
    ("upstash-retries", "1"),
    ("upstash-callback-forward-a", "b"),
    ("content-type", "text/plain"),
    ("authorization", "Bearer secret"),
    ("cookie", "secret"),
    ("host", "here"),
    ("x-own", "1"),
)


def test_what_counts_is_kept() -> None:
    assert [name for name, _ in kept_fields(FIELDS)] == [
        "upstash-retries",
        "upstash-callback-forward-a",
        "content-type",
    ]


@pytest.mark.parametrize(
    ("own", "default", "follows"),
    [
        ("true", None, True),
        ("TRUE", "false", True),
        ("false", "true", False),
        (None, "true", True),
        (None, None, False),
    ],
)
def test_other_headers_are_kept_where_they_are_to_follow(own: str | None, default: str | None, follows: bool) -> None:
    given = (*FIELDS, ("upstash-header-forward", own)) if own is not None else FIELDS
    defaults = () if default is None else (("upstash-header-forward", default),)

    names = {name for name, _ in kept_fields(given, defaults)}

    assert ("x-own" in names) is follows
    assert names.isdisjoint({"authorization", "cookie", "host"})


def a_schedule(cron: str = "@daily", fields: tuple[tuple[str, str], ...] = (), *, paused: bool = False) -> Schedule:
    instant = at("2026-03-01 12:00")
    request = Request("http://x", fields, b"", None, "s")
    return Schedule(TenantId(1), "s", cron, request, paused, instant, None, (), None, instant)


def test_a_paused_schedule_shows_when_it_would_fire() -> None:
    now = at("2026-04-01 12:30")

    assert a_schedule().upcoming(now) == at("2026-03-01 12:00")
    assert a_schedule(paused=True).upcoming(now) == at("2026-04-02 00:00")
    assert a_schedule("CRON_TZ=No/Where * * * * *", paused=True).upcoming(now) is None


def test_options_are_read_whatever_the_limits_have_become() -> None:
    schedule = a_schedule(fields=(("upstash-retries", "5000"), ("upstash-delay", "1000d")))

    assert schedule.options(Limits()).retries == 5000
    assert a_schedule(fields=(("upstash-retries", "x"),)).options(Limits(default_retries=8)).retries == 8
