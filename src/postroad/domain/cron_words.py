"""Cron expressions in words: "every weekday at 09:00, Europe/Berlin"."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from postroad.domain.cron import Cron

_MOST_TIMES = 6
"""More times of a day than these are not listed one by one."""

_LEAST_STEPS = 4
"""So many numbers at equal distances are told by their distance."""

_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
_WEEKDAYS = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
_WORKDAYS = (1, 2, 3, 4, 5)
_LEAP_DAY = (29, 2)
_EVERY_MINUTE, _EVERY_HOUR, _EVERY_DAY, _EVERY_MONTH = range(60), range(24), range(1, 32), range(1, 13)


def in_words(cron: Cron) -> str:
    """When an expression fires, in one English sentence without its full stop. Different times have different words."""
    minutes, hours, days, months, weekdays = cron.numbers
    day, time = _day(days, months, weekdays, either=cron.either_day), _time(minutes, hours)
    if time.startswith("at "):
        return f"{day} {time}, {cron.zone}"
    return f"{time}, {cron.zone}" if day == "every day" else f"{time}, {day}, {cron.zone}"


def _time(minutes: Sequence[int], hours: Sequence[int]) -> str:
    if len(minutes) * len(hours) <= _MOST_TIMES:
        return f"at {_listed([f'{hour:02}:{minute:02}' for hour in hours for minute in minutes])}"
    hour_step, is_around_the_clock = _step(hours), len(hours) == len(_EVERY_HOUR)
    if len(minutes) == 1 and hour_step is not None:
        often = _often(hour_step, "hour")
        if not is_around_the_clock:
            return f"{often} from {_from_to(hours, minutes)}"
        return often if minutes[0] == 0 else f"{often} at minute {minutes[0]}"
    even, step = _even(minutes), _step(minutes)
    if (even is not None and hour_step == 1) or (step is not None and len(hours) == 1):
        often = _often(even or step or 1, "minute")
        return often if is_around_the_clock else f"{often} from {_from_to(hours, minutes)}"
    if even is not None:
        within = _often(even, "minute")
    elif step is not None:
        within = f"{_often(step, 'minute')} from minute {minutes[0]} to {minutes[-1]}"
    else:
        within = f"at minute{'s' if len(minutes) > 1 else ''} {_listed(_ranges(minutes))}"
    return f"{within} of {'every hour' if is_around_the_clock else _hours(hours)}"


def _often(step: int, what: str) -> str:
    return f"every {what}" if step == 1 else f"every {step} {what}s"


def _hours(hours: Sequence[int]) -> str:
    step = _step(hours)
    if step is not None and step > 1:
        return f"every {_ordinal(step)} hour from {hours[0]} to {hours[-1]}"
    return f"the hour{'s' if len(hours) > 1 else ''} {_listed(_ranges(hours))}"


def _from_to(hours: Sequence[int], minutes: Sequence[int]) -> str:
    return f"{hours[0]:02}:{minutes[0]:02} to {hours[-1]:02}:{minutes[-1]:02}"


def _day(days: Sequence[int], months: Sequence[int], weekdays: Sequence[int], *, either: bool) -> str:
    is_any_day, is_any_weekday = len(days) == len(_EVERY_DAY), len(weekdays) == len(_WEEKDAYS)
    in_months = ""
    if len(months) < len(_EVERY_MONTH):
        is_span = _runs(months) == [(months[0], months[-1])] and len(months) > 2
        in_months = f" {'from' if is_span else 'in'} {_named(months, _MONTHS, first=1)}"
    if (is_any_day and is_any_weekday) or (either and (is_any_day or is_any_weekday)):
        return f"every day{in_months}"
    if is_any_day:
        return f"{_weekdays(weekdays)}{in_months}"
    if not is_any_weekday:
        return f"on {_days(days)} of the month and {_weekdays(weekdays)}{in_months}"
    if len(days) == len(months) == 1:
        when = "in leap years" if (days[0], months[0]) == _LEAP_DAY else "every year"
        return f"{when} on {days[0]} {_MONTHS[months[0] - 1]}"
    return f"on {_days(days)} of {_named(months, _MONTHS, first=1) if in_months else 'every month'}"


def _days(days: Sequence[int]) -> str:
    step = _step(days)
    if step is not None and step > 1:
        return f"every {_ordinal(step)} day from day {days[0]} to {days[-1]}"
    return f"day{'s' if len(days) > 1 else ''} {_listed(_ranges(days))}"


def _weekdays(weekdays: Sequence[int]) -> str:
    if tuple(weekdays) == _WORKDAYS:
        return "every weekday"
    # The week of those who read this begins with Monday.
    from_monday = sorted((day - 1) % 7 for day in weekdays)
    return f"every {_named(from_monday, (*_WEEKDAYS[1:], _WEEKDAYS[0]), first=0)}"


def _named(numbers: Sequence[int], names: Sequence[str], *, first: int) -> str:
    """Names of numbers; three and more of them in a row as the first and the last one."""
    words = []
    for low, high in _runs(numbers):
        if high - low < 2:
            words += [names[number - first] for number in range(low, high + 1)]
        else:
            words.append(f"{names[low - first]} to {names[high - first]}")
    return _listed(words)


def _ranges(numbers: Sequence[int]) -> list[str]:
    words: list[str] = []
    for low, high in _runs(numbers):
        words += [str(low)] if low == high else [str(low), str(high)] if high == low + 1 else [f"{low} to {high}"]
    return words


def _runs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """The first and last number of each run of numbers without a gap."""
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return runs


def _even(minutes: Sequence[int]) -> int | None:
    """The distance of minutes that go round the clock in equal steps from 0 on."""
    step = minutes[1] - minutes[0] if len(minutes) > 1 else 0
    return step if step and tuple(minutes) == tuple(_EVERY_MINUTE[::step]) and len(_EVERY_MINUTE) % step == 0 else None


def _step(numbers: Sequence[int]) -> int | None:
    """The distance of numbers that are equally far from each other, None if they are not, or too few."""
    distances = {later - earlier for earlier, later in pairwise(numbers)}
    return distances.pop() if len(distances) == 1 and len(numbers) >= _LEAST_STEPS else None


def _ordinal(number: int) -> str:
    endings = {1: "st", 2: "nd", 3: "rd"}
    return f"{number}{'th' if 10 < number < 14 else endings.get(number % 10, 'th')}"


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
