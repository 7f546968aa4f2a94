"""Cron expressions as `Upstash-Cron` brings them, and the instants at which they fire.

The fields speak of local time in the expression's zone. Where its clocks change, a local time that is skipped does not
fire on that day, and one that comes twice fires once, when it comes first. An expression with a star in its hour field
(`*` or `*/n`) means elapsed time instead and fires in both passes, so that `*/15 * * * *` never pauses for an hour.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import dropwhile, islice, takewhile
from typing import NamedTuple
from zoneinfo import ZoneInfo, available_timezones

from croniter import croniter

from postroad.errors import InvalidValue

_MAX_CHARACTERS = 256
_MINUTE = timedelta(minutes=1)
_YEARS_AHEAD = 40  # 29 February can take so long to fall on the same weekday again, with 2100 in between.
_YEARS_BACK = 8  # 29 February can take so long to come again at all.


@dataclass(frozen=True, slots=True)
class Cron:
    """A parsed expression, equal to another when the texts are; its text is trimmed and has its prefix still."""

    text: str
    _zone: ZoneInfo = field(repr=False, compare=False)
    _times: str = field(repr=False, compare=False)
    _either_day: bool = field(repr=False, compare=False)
    _both_passes: bool = field(repr=False, compare=False)

    @property
    def zone(self) -> str:
        """The IANA name of the zone whose local time the fields speak of."""
        return self._zone.key

    @property
    def numbers(self) -> tuple[tuple[int, ...], ...]:
        """What the fields stand for, each in order: minutes, hours, days, months, days of the week from Sunday, 0."""
        found = (
            range(form.lowest, form.highest + 1) if part == "*" else {int(one) for one in part.split(",")}
            for part, form in zip(self._times.split(), _FORMS, strict=True)
        )
        minutes, hours, days, months, weekdays = (tuple(sorted(one)) for one in found)
        return minutes, hours, days, months, tuple(sorted({day % 7 for day in weekdays}))

    @property
    def either_day(self) -> bool:
        """Whether a day that matches one of its two fields is enough."""
        return self._either_day

    @property
    def both_passes(self) -> bool:
        """Whether it fires again when the clock shows a time again: it means elapsed time then."""
        return self._both_passes

    def next_after(self, instant: datetime) -> datetime:
        """The first tick after an aware instant, in UTC. OverflowError or ValueError if that is after the year 9999."""
        return next(self._after(instant))

    def ticks(self, after: datetime, until: datetime, *, most: int) -> list[datetime]:
        """The first ticks, most of them at most, later than one aware instant and no later than another; in UTC."""
        return list(islice(takewhile(lambda tick: tick <= until, self._after(after)), most))

    def last_before_or_at(self, instant: datetime) -> datetime | None:
        """The latest tick no later than an aware instant, in UTC, or None if there was none for eight years."""
        here = instant.astimezone(self._zone)
        latest = here + self._repetition(here) if here.fold else here
        found: list[datetime] = []
        for time in self._matches(latest + _MINUTE, _YEARS_BACK).all_prev(datetime):
            ticks = self._ticks_at(time)
            found += [tick for tick in ticks if tick <= instant]
            if ticks and ticks[-1] <= instant:  # Earlier times of the clock are earlier in either pass.
                break
        return max(found, default=None)

    def _after(self, instant: datetime) -> Iterator[datetime]:
        here = instant.astimezone(self._zone)
        earliest = here if here.fold else here - self._repetition(here)
        return dropwhile(lambda tick: tick <= instant, self._in_order(earliest))

    def _in_order(self, earliest: datetime) -> Iterator[datetime]:
        """All ticks at later times of the clock than this; those of a second pass wait for the end of the first."""
        waiting: deque[datetime] = deque()
        for time in self._matches(earliest, _YEARS_AHEAD).all_next(datetime):
            ticks = self._ticks_at(time)
            while ticks and waiting and waiting[0] < ticks[0]:
                yield waiting.popleft()
            yield from ticks[:1]
            waiting.extend(ticks[1:])

    def _matches(self, start: datetime, years: int) -> croniter:
        """The matching times of the clock around this one, none of them further than so many years from the last."""
        naive = start.replace(tzinfo=None)  # With a zone, croniter would follow rules of its own where clocks change.
        return croniter(self._times, naive, day_or=self._either_day, max_years_between_matches=years)

    def _ticks_at(self, time: datetime) -> list[datetime]:
        """The instants, none, one or two, at which it fires for this time of the clock."""
        first, last = self._instants(time)
        if first > last:
            return []
        return [first, last] if self._both_passes and first < last else [first]

    def _repetition(self, here: datetime) -> timedelta:
        """How much later the clock shows this time again; zero if it does not."""
        first, last = self._instants(here)
        return last - first

    def _instants(self, time: datetime) -> tuple[datetime, datetime]:
        """When the clock shows this time first and last; the wrong way round (PEP 495) if it skips it."""
        local = time.replace(tzinfo=self._zone)
        return local.replace(fold=0).astimezone(UTC), local.replace(fold=1).astimezone(UTC)


@lru_cache(maxsize=1024)
def parse_cron(text: str) -> Cron:
    """The expression in a text such as `*/5 * * * *`, `CRON_TZ=Europe/Berlin 0 9 * * MON-FRI` or `@daily`.

    An IANA zone behind `CRON_TZ=` or `TZ=`, UTC without, and the grammar of robfig/cron's standard parser without
    @every: minute, hour, day of month, month and day of week, each a list of `*`, numbers, names, ranges and steps,
    with `?` for `*` in the day fields; or @yearly, @annually, @monthly, @weekly, @daily, @midnight or @hourly. 7 is
    Sunday as 0 is, which robfig/cron refuses. A day must match both day fields if one of them is a star, and else
    either of them: as in robfig/cron 3, and other than in Vixie's cron, `*/2` is a list of days and no star. At most
    256 characters of ASCII; blanks around them are trimmed. Raises InvalidValue, also for a date that never comes.
    """
    if len(text) > _MAX_CHARACTERS:
        raise InvalidValue(text, f"a cron expression of at most {_MAX_CHARACTERS} characters")
    trimmed = text.strip(" \t\r\n")
    if not _PLAIN.fullmatch(trimmed):
        raise InvalidValue(text, "a cron expression of ASCII characters, with blanks between its fields")
    prefixed = _PREFIXED.fullmatch(trimmed)
    zone, expression = prefixed.groups() if prefixed else ("UTC", trimmed)
    if zone not in _zones():
        raise InvalidValue(text, "an IANA time zone, as in CRON_TZ=Europe/Berlin 0 9 * * *")
    parts = _parts(text, expression)
    numbers = [_numbers(text, part, form) for part, form in zip(parts, _FORMS, strict=True)]
    _, _, days, months, _ = numbers
    _, hour, day, _, weekday = parts
    either_day = not (_is_star(day) or _is_star(weekday))
    if not either_day and not any(min(days) <= _LONGEST.get(month, 31) for month in months):
        raise InvalidValue(text, "a date that exists; this one never comes")
    times = " ".join(
        "*" if part in form.stars else ",".join(map(str, sorted(values)))
        for part, form, values in zip(parts, _FORMS, numbers, strict=True)
    )
    return Cron(trimmed, ZoneInfo(zone), times, either_day, "*" in hour)


@lru_cache(maxsize=1)
def _zones() -> frozenset[str]:
    # Only a listed name is ever looked up: ZoneInfo would look for any other among the files of the machine.
    return frozenset(available_timezones() - {"localtime", "Factory"})


def _parts(text: str, expression: str) -> list[str]:
    """The five fields of the expression."""
    if expression.startswith("@"):
        if expression.lower() not in _DESCRIPTORS:
            raise InvalidValue(
                text, f"five fields or one of {', '.join(_DESCRIPTORS)}; @every and @reboot are not supported"
            )
        expression = _DESCRIPTORS[expression.lower()]
    parts = expression.split()
    if len(parts) in (6, 7):
        raise InvalidValue(text, f"{_FIVE_FIELDS}; the finest resolution is a minute")
    if len(parts) != len(_FORMS):
        raise InvalidValue(text, _FIVE_FIELDS)
    return parts


def _numbers(text: str, part: str, form: _Form) -> set[int]:
    """All that a field stands for."""
    numbers: set[int] = set()
    for item in part.split(","):
        match = _ITEM.fullmatch(item)
        if not match or match["star"] not in form.stars:
            raise InvalidValue(text, f"{form.lowest}, 1-5, */2 or * as the {form.name}, not {item!r}")
        star, low, high, step = match["star"], match["low"], match["high"], match["step"]
        first = form.lowest if star else _number(text, low, form)
        last = form.highest if star or (step and not high) else _number(text, high or low, form)
        if first > last:
            raise InvalidValue(text, f"a range that rises as the {form.name}, not {item!r}")
        if step and int(step) == 0:
            raise InvalidValue(text, f"a step of 1 or more for the {form.name}, not {item!r}")
        numbers.update(range(first, last + 1, int(step or 1)))
    return numbers


def _number(text: str, word: str, form: _Form) -> int:
    if word.upper() in form.names:
        return form.lowest + form.names.index(word.upper())
    if not word.isdecimal() or not form.lowest <= int(word) <= form.limit:
        raise InvalidValue(text, f"{form.lowest} to {form.highest} as the {form.name}, not {word!r}")
    return int(word)


def _is_star(part: str) -> bool:
    return any(item in ("*", "?", "*/1", "?/1") for item in part.split(","))


class _Form(NamedTuple):
    """What a field may hold. A star or an open step ends at the highest number, a range at the limit: 7 is Sunday."""

    name: str
    lowest: int
    highest: int
    limit: int
    stars: tuple[str | None, ...]
    names: tuple[str, ...] = ()


_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_WEEKDAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_FORMS = (
    _Form("minute", 0, 59, 59, (None, "*")),
    _Form("hour", 0, 23, 23, (None, "*")),
    _Form("day of month", 1, 31, 31, (None, "*", "?")),
    _Form("month", 1, 12, 12, (None, "*"), _MONTHS),
    _Form("day of week", 0, 6, 7, (None, "*", "?"), _WEEKDAYS),
)
_FIVE_FIELDS = "five fields: minute, hour, day of month, month and day of week"
_DESCRIPTORS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_LONGEST = {2: 29, 4: 30, 6: 30, 9: 30, 11: 30}
_PLAIN = re.compile(r"[\t -~]*")
_PREFIXED = re.compile(r"(?:CRON_)?TZ=(\S*)\s*(.*)")
_ITEM = re.compile(
    r"(?:(?P<star>[*?])|(?P<low>[0-9]+|[A-Za-z]+)(?:-(?P<high>[0-9]+|[A-Za-z]+))?)(?:/(?P<step>[0-9]+))?"
)
