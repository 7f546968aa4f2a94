"""Cron expressions: what is accepted, which days and minutes match, and what happens when the clocks change."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postroad.domain.cron import Cron, parse_cron
from postroad.errors import InvalidValue

MINUTE = timedelta(minutes=1)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def ticks_on(text: str, day: str) -> list[str]:
    """The ticks of a local day in UTC, as `day hour:minute`."""
    cron = parse_cron(text)
    midnight = datetime.fromisoformat(day).replace(tzinfo=ZoneInfo(cron.zone))
    start, end = (time.astimezone(UTC) - MINUTE for time in (midnight, midnight + timedelta(days=1)))
    return [f"{tick:%d %H:%M}" for tick in cron.ticks(start, end, most=5000)]


def dates(text: str, after: str, count: int) -> list[str]:
    cron = parse_cron(text)
    return [f"{tick:%Y-%m-%d}" for tick in cron.ticks(at(after), at("2900-01-01"), most=count)]


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("@yearly", "0 0 1 1 *"),
        ("@annually", "0 0 1 1 *"),
        ("@monthly", "0 0 1 * *"),
        ("@weekly", "0 0 * * 0"),
        ("@daily", "0 0 * * *"),
        ("@midnight", "0 0 * * *"),
        ("@hourly", "0 * * * *"),
        ("@Hourly", "0 * * * *"),
        ("CRON_TZ=Asia/Tokyo @DAILY", "CRON_TZ=Asia/Tokyo 0 0 * * *"),
        ("TZ=Asia/Tokyo 0 0 * * *", "CRON_TZ=Asia/Tokyo 0 0 * * *"),
        ("CRON_TZ=UTC 0 0 * * *", "0 0 * * *"),
        ("  CRON_TZ=Asia/Tokyo \t 0 \t0  * * *\r\n", "CRON_TZ=Asia/Tokyo 0 0 * * *"),
        ("0 0 * jan-MAR,Dec *", "0 0 * 1-3,12 *"),
        ("0 0 * * mon-FRI", "0 0 * * 1-5"),
        ("0 0 * * Sun,wed", "0 0 * * 0,3"),
        ("0 0 * * 7", "0 0 * * SUN"),
        ("0 0 * * 5-7", "0 0 * * 0,5,6"),
        ("0 0 * * 0-7", "0 0 * * *"),
        ("0 0 13 * 6,7", "0 0 13 * 0,6"),
        ("0 0 13 * 1-7", "0 0 * * *"),
        ("0 0 ? * ?", "0 0 * * *"),
        ("0 0 ? * 1", "0 0 * * 1"),
        ("5/20 * * * *", "5,25,45 * * * *"),
        ("10-30/10 * * * *", "10,20,30 * * * *"),
        ("*/25 * * * *", "0,25,50 * * * *"),
        ("*/100 * * * *", "0 * * * *"),
        ("0 0 1/10 * *", "0 0 1,11,21,31 * *"),
        ("0 0 * */5 *", "0 0 * 1,6,11 *"),
        ("0 0 * OCT/1 *", "0 0 * 10,11,12 *"),
        ("0 0 * * 1/2", "0 0 * * 1,3,5"),
        ("0 0 * * */2", "0 0 * * 0,2,4,6"),
        ("007 00 01 * *", "7 0 1 * *"),
        ("3,1,2,1-2 * * * *", "1-3 * * * *"),
        (f"*/1{'0' * 200} * * * *", "0 * * * *"),
    ],
)
def test_an_expression_can_be_written_in_more_than_one_way(text: str, same: str) -> None:
    start, end = at("2026-01-15 12:34"), at("2031-01-01 00:00")
    assert parse_cron(text).ticks(start, end, most=100) == parse_cron(same).ticks(start, end, most=100)


def test_the_text_is_kept_but_for_the_blanks_around_it() -> None:
    cron = parse_cron(" \tCRON_TZ=Europe/Berlin  0 9 * *  mon\n")
    assert cron.text == "CRON_TZ=Europe/Berlin  0 9 * *  mon"
    assert cron.zone == "Europe/Berlin"
    assert cron == parse_cron(cron.text)
    assert parse_cron("0 9 * * *").zone == "UTC"


FIVE = "five fields: minute, hour, day of month, month and day of week"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", FIVE),
        ("   ", FIVE),
        ("* * * *", FIVE),
        ("* * * * * * * *", FIVE),
        ("0 * * * * *", f"{FIVE}; the finest resolution is a minute"),
        ("0 0 12 * * MON 2030", f"{FIVE}; the finest resolution is a minute"),
        ("CRON_TZ=UTC", FIVE),
        ("CRON_TZ=UTC ", FIVE),
        ("@every 1h", "five fields or one of @yearly, .*; @every and @reboot are not supported"),
        ("@reboot", "@every and @reboot are not supported"),
        ("@", "five fields or one of"),
        ("@daily 1", "five fields or one of"),
        ("60 * * * *", "0 to 59 as the minute, not '60'"),
        ("* 24 * * *", "0 to 23 as the hour, not '24'"),
        ("* * 0 * *", "1 to 31 as the day of month, not '0'"),
        ("* * 32 * *", "1 to 31 as the day of month, not '32'"),
        ("* * * 0 *", "1 to 12 as the month, not '0'"),
        ("* * * 13 *", "1 to 12 as the month, not '13'"),
        ("* * * * 8", "0 to 6 as the day of week, not '8'"),
        ("0-60 * * * *", "0 to 59 as the minute, not '60'"),
        (f"{'9' * 200} * * * *", "0 to 59 as the minute"),
        ("* * * MONDAY *", "1 to 12 as the month, not 'MONDAY'"),
        ("* * * MON *", "1 to 12 as the month, not 'MON'"),
        ("JAN * * * *", "0 to 59 as the minute, not 'JAN'"),
        ("* * L * *", "1 to 31 as the day of month, not 'L'"),
        ("* * 15W * *", "as the day of month, not '15W'"),
        ("* * * * 5L", "as the day of week, not '5L'"),
        ("* * * * 1#2", "as the day of week, not '1#2'"),
        ("H * * * *", "0 to 59 as the minute, not 'H'"),
        ("H(0-5) * * * *", "as the minute, not 'H.0-5.'"),
        ("R * * * *", "0 to 59 as the minute, not 'R'"),
        ("5-2 * * * *", "a range that rises as the minute, not '5-2'"),
        ("* * * * FRI-SUN", "a range that rises as the day of week, not 'FRI-SUN'"),
        ("* * * * 7/2", "a range that rises as the day of week, not '7/2'"),
        ("*/0 * * * *", "a step of 1 or more for the minute, not '\\*/0'"),
        ("* 1-5/00 * * *", "a step of 1 or more for the hour, not '1-5/00'"),
        ("? * * * *", "0, 1-5, \\*/2 or \\* as the minute, not '\\?'"),
        ("* ? * * *", "as the hour, not '\\?'"),
        ("* * * ? *", "as the month, not '\\?'"),
        ("1,,2 * * * *", "as the minute, not ''"),
        (",1 * * * *", "as the minute, not ''"),
        ("* 1- * * *", "as the hour, not '1-'"),
        ("* -1 * * *", "as the hour, not '-1'"),
        ("* +1 * * *", "as the hour, not '\\+1'"),
        ("* 1.5 * * *", "as the hour, not '1.5'"),
        ("* 1-2-3 * * *", "as the hour, not '1-2-3'"),
        ("* */2/2 * * *", "as the hour, not '\\*/2/2'"),
        ("* */ * * *", "as the hour, not '\\*/'"),
        ("* */-1 * * *", "as the hour, not '\\*/-1'"),
        ("* ** * * *", "as the hour, not '\\*\\*'"),
        ("* *-5 * * *", "as the hour, not '\\*-5'"),
        ("* * * * */MON", "as the day of week, not '\\*/MON'"),
        ("0 0 30 2 *", "a date that exists; this one never comes"),
        ("0 0 30,31 FEB *", "a date that exists"),
        ("0 0 31 4,6,9,11 *", "a date that exists"),
        ("٥ * * * *", "a cron expression of ASCII characters"),
        ("* * * * *\x00", "a cron expression of ASCII characters"),
        ("* *\n* * *", "a cron expression of ASCII characters"),
        ("* *\u00a0* * *", "a cron expression of ASCII characters"),
        ("* * * * \x7f", "a cron expression of ASCII characters"),
        ("* * * * \ud800", "a cron expression of ASCII characters"),
        ("0 0 * * *" + " " * 248, "a cron expression of at most 256 characters"),
        ("1," * 100_000 + "1 * * * *", "a cron expression of at most 256 characters"),
    ],
)
def test_anything_else_is_refused_with_a_reason(text: str, expected: str) -> None:
    with pytest.raises(InvalidValue, match=f"expected .*{expected}"):
        parse_cron(text)


@pytest.mark.parametrize(
    "zone",
    [
        "",
        "Europe/Atlantis",
        "europe/berlin",
        "Europe",
        "Europe/",
        "/Europe/Berlin",
        "Europe//Berlin",
        "Europe/../Europe/Berlin",
        "./UTC",
        "../etc",
        "../../../etc/passwd",
        "/etc/localtime",
        "/etc/passwd",
        "localtime",
        "Local",
        "posixrules",
        "posix/UTC",
        "right/UTC",
        "tzdata.zi",
        "zone.tab",
        "+03",
        "UTC+3",
        "UTC\\",
        "a" * 200,
    ],
)
@pytest.mark.parametrize("prefix", ["CRON_TZ", "TZ"])
def test_a_zone_is_one_of_the_iana_names_and_no_path(prefix: str, zone: str) -> None:
    with pytest.raises(InvalidValue, match="expected an IANA time zone"):
        parse_cron(f"{prefix}={zone} 0 9 * * *")


nearly_cron = st.text("0123456789*/,-? \tJANSUNLW#@CRON_TZ=hourly", max_size=40)
nearly_fields = st.lists(st.text("0123456789*/,-?MON", max_size=6), min_size=4, max_size=6).map(" ".join)


@settings(max_examples=300, deadline=None)
@given(st.text() | nearly_cron | nearly_fields | nearly_cron.map("CRON_TZ=".__add__))
def test_any_text_is_an_expression_that_fires_or_is_refused(text: str) -> None:
    try:
        cron = parse_cron(text)
    except InvalidValue:
        return
    assert cron.next_after(at("2026-01-01 00:00")) > at("2026-01-01 00:00")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0 0 13 * FRI", ["2026-01-02", "2026-01-09", "2026-01-13", "2026-01-16", "2026-01-23"]),
        ("0 0 1-31 * FRI", ["2026-01-02", "2026-01-03", "2026-01-04", "2026-01-05", "2026-01-06"]),
        ("0 0 13 * 0-6", ["2026-01-02", "2026-01-03", "2026-01-04", "2026-01-05", "2026-01-06"]),
        ("0 0 */2 * MON", ["2026-01-03", "2026-01-05", "2026-01-07", "2026-01-09", "2026-01-11"]),
        ("0 0 ?/10 * MON", ["2026-01-05", "2026-01-11", "2026-01-12", "2026-01-19", "2026-01-21"]),
        ("0 0 13 * */5", ["2026-01-02", "2026-01-04", "2026-01-09", "2026-01-11", "2026-01-13"]),
        ("0 0 30 2 SUN", ["2026-02-01", "2026-02-08", "2026-02-15", "2026-02-22", "2027-02-07"]),
    ],
)
def test_a_day_matches_one_of_the_day_fields_where_both_are_restricted(text: str, expected: list[str]) -> None:
    assert dates(text, "2026-01-01", 5) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0 0 * * FRI", ["2026-01-02", "2026-01-09", "2026-01-16"]),
        ("0 0 13 * *", ["2026-01-13", "2026-02-13", "2026-03-13"]),
        ("0 0 ? * FRI", ["2026-01-02", "2026-01-09", "2026-01-16"]),
        ("0 0 */1 * MON", ["2026-01-05", "2026-01-12", "2026-01-19"]),
        ("0 0 13,* * FRI", ["2026-01-02", "2026-01-09", "2026-01-16"]),
    ],
)
def test_a_day_matches_both_day_fields_where_one_has_a_star(text: str, expected: list[str]) -> None:
    assert dates(text, "2026-01-01", 3) == expected


def test_a_rare_date_is_found_however_far_it_is() -> None:
    assert dates("0 0 29 2 *", "2096-02-28 23:59", 2) == ["2096-02-29", "2104-02-29"]
    assert parse_cron("0 0 29 2 *").last_before_or_at(at("2104-02-28 23:59")) == at("2096-02-29")


def test_the_next_tick_is_later_and_the_last_one_may_be_now() -> None:
    cron = parse_cron("*/5 * * * *")
    assert cron.next_after(at("2026-01-01 10:05")) == at("2026-01-01 10:10")
    assert cron.next_after(at("2026-01-01 10:04:59.999999")) == at("2026-01-01 10:05")
    assert cron.last_before_or_at(at("2026-01-01 10:05")) == at("2026-01-01 10:05")
    assert cron.last_before_or_at(at("2026-01-01 10:04:59.999999")) == at("2026-01-01 10:00")


def test_an_instant_may_come_in_any_zone_and_a_tick_is_in_utc() -> None:
    cron = parse_cron("CRON_TZ=Asia/Kolkata 0 9 * * *")
    tick = cron.next_after(datetime(2026, 1, 1, 0, 0, tzinfo=ZoneInfo("America/New_York")))
    assert tick == at("2026-01-02 03:30")
    assert tick.tzinfo is UTC


def test_ticks_are_after_the_one_instant_until_the_other_and_not_too_many() -> None:
    cron = parse_cron("0 * * * *")
    noon, three = at("2026-01-01 12:00"), at("2026-01-01 15:00")
    assert [tick.hour for tick in cron.ticks(noon, three, most=10)] == [13, 14, 15]
    assert [tick.hour for tick in cron.ticks(noon, three, most=2)] == [13, 14]
    assert cron.ticks(noon, three, most=0) == []
    assert cron.ticks(noon, noon, most=10) == []
    assert cron.ticks(three, noon, most=10) == []


@pytest.mark.parametrize(
    ("text", "day", "expected"),
    [
        # 02:00 EST becomes 03:00 EDT.
        ("CRON_TZ=America/New_York 30 1 * * *", "2024-03-10", ["10 06:30"]),
        ("CRON_TZ=America/New_York 30 2 * * *", "2024-03-10", []),
        ("CRON_TZ=America/New_York 0 3 * * *", "2024-03-10", ["10 07:00"]),
        ("CRON_TZ=America/New_York 30 0-4 * * *", "2024-03-10", ["10 05:30", "10 06:30", "10 07:30", "10 08:30"]),
        ("CRON_TZ=America/New_York 0 */6 * * *", "2024-03-10", ["10 05:00", "10 10:00", "10 16:00", "10 22:00"]),
        # 02:00 CET becomes 03:00 CEST.
        ("CRON_TZ=Europe/Berlin 30 2 * * *", "2024-03-31", []),
        ("CRON_TZ=Europe/Berlin */30 1-3 * * *", "2024-03-31", ["31 00:00", "31 00:30", "31 01:00", "31 01:30"]),
        # 01:00 GMT becomes 02:00 IST, of which GMT is the saving time.
        ("CRON_TZ=Europe/Dublin 30 0-2 * * *", "2024-03-31", ["31 00:30", "31 01:30"]),
        # 02:00 becomes 02:30.
        ("CRON_TZ=Australia/Lord_Howe */15 2 * * *", "2024-10-06", ["05 15:30", "05 15:45"]),
        # Midnight becomes 01:00.
        ("CRON_TZ=Africa/Cairo 0 0 * * *", "2024-04-26", []),
        ("CRON_TZ=Africa/Cairo 0 0,1 * * *", "2024-04-26", ["25 22:00"]),
        ("CRON_TZ=Asia/Beirut @daily", "2024-03-31", []),
        (
            "CRON_TZ=Asia/Beirut @hourly",
            "2024-03-31",
            [f"{30 + (22 + h) // 24} {(22 + h) % 24:02}:00" for h in range(23)],
        ),
    ],
)
def test_a_skipped_local_time_does_not_fire(text: str, day: str, expected: list[str]) -> None:
    assert ticks_on(text, day) == expected


def test_a_day_that_a_zone_leaves_out_does_not_fire() -> None:
    """Samoa went from 29 to 31 December 2011 at midnight, and from UTC-10 to UTC+14."""
    noon = parse_cron("CRON_TZ=Pacific/Apia 0 12 * * *")
    assert noon.ticks(at("2011-12-28"), at("2012-01-01"), most=9) == [
        at("2011-12-28 22:00"),
        at("2011-12-29 22:00"),
        at("2011-12-30 22:00"),
        at("2011-12-31 22:00"),
    ]
    thirtieth = parse_cron("CRON_TZ=Pacific/Apia 0 12 30 * *")
    assert thirtieth.ticks(at("2011-11-01"), at("2012-02-01"), most=9) == [
        at("2011-11-30 22:00"),
        at("2012-01-29 22:00"),
    ]
    assert thirtieth.last_before_or_at(at("2012-01-01")) == at("2011-11-30 22:00")


@pytest.mark.parametrize(
    ("text", "day", "expected"),
    [
        # 02:00 EDT becomes 01:00 EST.
        ("CRON_TZ=America/New_York 30 1 * * *", "2024-11-03", ["03 05:30"]),
        ("CRON_TZ=America/New_York 0 1,2 * * *", "2024-11-03", ["03 05:00", "03 07:00"]),
        (
            "CRON_TZ=America/New_York 30 0-23/1 3 11 *",
            "2024-11-03",
            ["03 04:30", "03 05:30", *(f"03 {h:02}:30" for h in range(7, 24)), *(f"04 {h:02}:30" for h in range(5))],
        ),
        # 03:00 CEST becomes 02:00 CET.
        ("CRON_TZ=Europe/Berlin 30 2 * * *", "2024-10-27", ["27 00:30"]),
        ("CRON_TZ=Europe/Dublin 30 1 * * *", "2024-10-27", ["27 00:30"]),
        # 02:00 becomes 01:30.
        (
            "CRON_TZ=Australia/Lord_Howe */15 1,2 * * *",
            "2024-04-07",
            [f"06 {time}" for time in ("14:00", "14:15", "14:30", "14:45", "15:30", "15:45", "16:00", "16:15")],
        ),
        # Midnight becomes 23:00 of the day before.
        ("CRON_TZ=Africa/Cairo 30 23 * * *", "2024-10-31", ["31 20:30"]),
        ("CRON_TZ=Africa/Cairo 0 0 * * *", "2024-11-01", ["31 22:00"]),
        ("CRON_TZ=Asia/Beirut 30 23 * * *", "2024-10-26", ["26 20:30"]),
    ],
)
def test_a_local_time_that_comes_twice_fires_when_it_comes_first(text: str, day: str, expected: list[str]) -> None:
    assert ticks_on(text, day) == expected


@pytest.mark.parametrize(
    ("text", "day", "expected"),
    [
        (
            "CRON_TZ=America/New_York */30 * 3 11 *",
            "2024-11-03",
            ["04:00", "04:30", "05:00", "05:30", "06:00", "06:30", "07:00"],
        ),
        ("CRON_TZ=America/New_York 30 */1 * * *", "2024-11-03", ["04:30", "05:30", "06:30", "07:30", "08:30"]),
        ("CRON_TZ=Europe/Berlin 30 */2 * * *", "2024-10-27", ["22:30", "00:30", "01:30", "03:30", "05:30"]),
        ("CRON_TZ=Australia/Lord_Howe 45 * * * *", "2024-04-07", ["13:45", "14:45", "15:15", "16:15", "17:15"]),
    ],
)
def test_with_a_star_as_the_hour_both_passes_fire(text: str, day: str, expected: list[str]) -> None:
    assert [tick[3:] for tick in ticks_on(text, day)][: len(expected)] == expected


def test_in_the_middle_of_a_repeated_hour_the_neighbours_are_right() -> None:
    cron = parse_cron("CRON_TZ=America/New_York 30 * * * *")
    once = parse_cron("CRON_TZ=America/New_York 30 1 * * *")
    for instant, last, following in (
        ("05:29:59", "04:30", "05:30"),
        ("05:30:00", "05:30", "06:30"),
        ("05:59:59", "05:30", "06:30"),
        ("06:29:59", "05:30", "06:30"),
        ("06:30:00", "06:30", "07:30"),
    ):
        now = at(f"2024-11-03 {instant}")
        assert cron.last_before_or_at(now) == at(f"2024-11-03 {last}")
        assert cron.next_after(now) == at(f"2024-11-03 {following}")
    assert once.last_before_or_at(at("2024-11-03 06:10")) == at("2024-11-03 05:30")
    assert once.next_after(at("2024-11-03 05:30")) == at("2024-11-04 06:30")


TRANSITIONS = [
    ("UTC", "2024-02-28 12:00"),
    ("America/New_York", "2024-03-10 07:00"),
    ("America/New_York", "2024-11-03 06:00"),
    ("Europe/Berlin", "2024-03-31 01:00"),
    ("Europe/Berlin", "2024-10-27 01:00"),
    ("Europe/Dublin", "2024-03-31 01:00"),
    ("Europe/Dublin", "2024-10-27 01:00"),
    ("Australia/Lord_Howe", "2024-04-06 15:00"),
    ("Australia/Lord_Howe", "2024-10-05 15:30"),
    ("Antarctica/Troll", "2024-03-31 01:00"),
    ("Antarctica/Troll", "2024-10-27 01:00"),
    ("Africa/Cairo", "2024-04-25 22:00"),
    ("Africa/Cairo", "2024-10-31 21:00"),
    ("Asia/Beirut", "2024-03-30 22:00"),
    ("Asia/Beirut", "2024-10-26 21:00"),
    ("America/St_Johns", "2010-11-07 02:31"),
    ("Pacific/Apia", "2011-12-30 10:00"),
    ("Pacific/Kwajalein", "1969-09-30 13:00"),
    ("Pacific/Kwajalein", "1993-08-21 12:00"),
]

Field = tuple[str, frozenset[int]]


def starred(low: int, high: int) -> st.SearchStrategy[Field]:
    return st.integers(1, 12).map(
        lambda step: (f"*/{step}" if step > 1 else "*", frozenset(range(low, high + 1, step))),
    )


def restricted(low: int, high: int) -> st.SearchStrategy[Field]:
    def item(first: int, last: int, step: int) -> Field:
        first, last = min(first, last), max(first, last)
        return f"{first}-{last}/{step}", frozenset(range(first, last + 1, step))

    numbers = st.integers(low, high)
    items = numbers.map(lambda number: (str(number), frozenset([number]))) | st.builds(
        item, numbers, numbers, st.integers(1, 9)
    )
    return st.lists(items, min_size=1, max_size=3).map(
        lambda several: (",".join(text for text, _ in several), frozenset().union(*(values for _, values in several))),
    )


def either(low: int, high: int) -> st.SearchStrategy[Field]:
    return starred(low, high) | restricted(low, high)


everything: st.SearchStrategy[Field] = st.just(("*", frozenset(range(60))))
days = everything | either(1, 31)
weekdays = everything | either(0, 6)
expressions = st.tuples(either(0, 59), either(0, 23), days, everything | restricted(1, 12), weekdays)
transitions = st.sampled_from(TRANSITIONS)


@cache
def clock(zone: str, transition: str) -> list[tuple[datetime, datetime]]:
    """Every minute from two days before a transition to two days after it, in UTC and as the clock shows it."""
    minutes = [at(transition) + n * MINUTE for n in range(-2 * 1440, 2 * 1440)]
    return [(minute, minute.astimezone(ZoneInfo(zone)).replace(tzinfo=None, fold=0)) for minute in minutes]


def is_on(day: date, fields: tuple[Field, ...]) -> bool:
    (day_text, days_of_month), (_, months), (weekday_text, days_of_week) = fields[2:]
    matches = day.day in days_of_month, day.isoweekday() % 7 in days_of_week
    both = "*" in (day_text, weekday_text)
    return day.month in months and (all(matches) if both else any(matches))


def scanned(zone: str, transition: str, fields: tuple[Field, ...]) -> Iterator[datetime]:
    (_, minutes), (hour_text, hours) = fields[:2]
    seen: set[datetime] = set()
    for instant, local in clock(zone, transition):
        if local.minute in minutes and local.hour in hours and is_on(local.date(), fields):
            if hour_text.startswith("*") or local not in seen:
                yield instant
            seen.add(local)


def parsed(zone: str, fields: tuple[Field, ...]) -> Cron | None:
    """The expression, or None if its date never comes."""
    try:
        return parse_cron(f"CRON_TZ={zone} {' '.join(text for text, _ in fields)}")
    except InvalidValue as refusal:
        if "a date that exists" not in refusal.expected:
            raise
        return None


@settings(max_examples=100, deadline=None)
@given(transitions, expressions, st.integers(-1500 * 60, 1500 * 60))
def test_ticks_are_the_matching_minutes_of_the_clock(
    where: tuple[str, str], fields: tuple[Field, ...], seconds: int
) -> None:
    cron = parsed(where[0], fields)
    expected = list(scanned(*where, fields))
    if cron is None:
        assert expected == []
        return
    now = at(where[1]) + timedelta(seconds=seconds)
    ahead = [tick for tick in expected if tick > now]
    behind = [tick for tick in expected if tick <= now]
    assert cron.ticks(now, clock(*where)[-1][0], most=5000) == ahead
    assert not ahead or cron.next_after(now) == ahead[0]
    assert not behind or cron.last_before_or_at(now) == behind[-1]


@settings(max_examples=100, deadline=None)
@given(transitions, expressions, st.integers(-1500, 1500))
def test_ticks_are_what_next_after_gives_again_and_again(
    where: tuple[str, str], fields: tuple[Field, ...], minutes: int
) -> None:
    cron = parsed(where[0], fields)
    if cron is None:
        return
    now = at(where[1]) + minutes * MINUTE
    ticks = [now]
    for _ in range(10):
        ticks.append(cron.next_after(ticks[-1]))
    assert ticks == sorted(set(ticks))
    assert cron.ticks(now, ticks[-1], most=10) == ticks[1:]
    assert cron.last_before_or_at(ticks[1]) == ticks[1]
    assert all((tick.second, tick.microsecond, tick.tzinfo) == (0, 0, UTC) for tick in ticks)
