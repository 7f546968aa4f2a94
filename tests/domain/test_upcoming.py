"""The next runs of an expression, and what is said of clocks that change meanwhile."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from postroad.domain.cron import parse_cron
from postroad.domain.upcoming import Run, upcoming

SPRING = datetime(2026, 3, 28, tzinfo=UTC)
AUTUMN = datetime(2026, 10, 24, tzinfo=UTC)
FORWARD = "Clocks go forward on 29 March 2026, from 02:00 to 03:00."
BACK = "Clocks go back on 25 October 2026, from 03:00 to 02:00."


def runs(times: str, after: datetime, count: int = 3, *, zone: str = "Europe/Berlin") -> list[Run]:
    return upcoming(parse_cron(f"CRON_TZ={zone} {times}"), after, count)


def local(found: list[Run]) -> list[str]:
    return [f"{run.local:%d %H:%M %z}" for run in found]


def test_runs_are_given_in_the_zone_and_in_utc() -> None:
    found = runs("0 9 * * *", SPRING, zone="Asia/Kolkata")

    assert local(found) == ["28 09:00 +0530", "29 09:00 +0530", "30 09:00 +0530"]
    assert [run.instant.hour for run in found] == [3, 3, 3]
    assert all(run.local == run.instant and run.instant.tzinfo is UTC and not run.notes for run in found)


def test_a_time_that_clocks_leave_out_is_told_before_the_next_run() -> None:
    found = runs("30 2 * * *", SPRING)

    assert local(found) == ["28 02:30 +0100", "30 02:30 +0200", "31 02:30 +0200"]
    assert [run.notes for run in found] == [(), (f"{FORWARD} 02:30 does not exist on that day and is skipped.",), ()]


def test_several_times_that_are_left_out_are_told_as_one() -> None:
    found = runs("*/20 2 * * *", SPRING, 4)

    assert found[3].notes == (
        f"{FORWARD} 02:00 does not exist on that day and is skipped, as are 2 more runs up to 02:40.",
    )


def test_nothing_is_skipped_of_a_schedule_that_means_elapsed_time() -> None:
    found = runs("*/30 * * * *", datetime(2026, 3, 29, 0, 15, tzinfo=UTC))

    assert local(found) == ["29 01:30 +0100", "29 03:00 +0200", "29 03:30 +0200"]
    assert [run.notes for run in found] == [(), (FORWARD,), ()]


def test_a_time_that_comes_twice_runs_the_first_time_only() -> None:
    found = runs("30 2 * * *", AUTUMN, 4)

    assert local(found) == ["24 02:30 +0200", "25 02:30 +0200", "26 02:30 +0100", "27 02:30 +0100"]
    assert [run.notes for run in found] == [
        (),
        ("02:30 comes twice on that day: it runs the first time only.",),
        (BACK,),
        (),
    ]


def test_both_passes_of_a_time_are_told_apart() -> None:
    found = runs("30 * * * *", datetime(2026, 10, 25, 0, 0, tzinfo=UTC), 3)

    assert local(found) == ["25 02:30 +0200", "25 02:30 +0100", "25 03:30 +0100"]
    assert [run.notes for run in found] == [
        ("02:30 comes twice on that day: this is the first time.",),
        (BACK, "02:30 comes twice on that day: this is the second time."),
        (),
    ]


def test_another_offset_between_two_runs_is_told_once() -> None:
    found = runs("0 9 1 * *", datetime(2026, 2, 15, tzinfo=UTC), 3)

    assert [run.notes for run in found] == [(), (FORWARD,), ()]


def test_clocks_that_are_back_where_they_were_are_not_told_unless_a_run_was_lost() -> None:
    assert runs("0 0 1 1 *", SPRING, 2)[0].notes == ()
    [first] = runs("30 2 29 3 *", SPRING, 1)
    assert (first.local.year, first.notes) == (2027, (f"{FORWARD} 02:30 does not exist on that day and is skipped.",))
    # A Sunday is lost as well where either day is enough.
    assert "02:30 does not exist" in runs("30 2 13 * SUN", SPRING, 1)[0].notes[0]
    assert runs("30 2 13 * MON", SPRING, 1)[0].notes == (FORWARD,)


@pytest.mark.parametrize(
    "text", ["0 0 29 2 *", "CRON_TZ=Europe/Berlin 0 0 29 2 MON", "* * * * *", "TZ=Asia/Tokyo @yearly"]
)
def test_what_comes_rarely_comes(text: str) -> None:
    assert len(upcoming(parse_cron(text), SPRING, 10)) == 10


def test_at_the_end_of_all_years_there_are_no_more_runs() -> None:
    assert upcoming(parse_cron("0 0 1 1 *"), datetime(9999, 6, 1, tzinfo=UTC), 10) == []
