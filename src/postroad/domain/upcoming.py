"""The next runs of a cron expression, with what the clocks of its zone do meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from postroad.domain.cron import Cron

_FAR = timedelta(days=366 * 40)
"""Far enough that what comes once in a leap year comes."""

_LAST = datetime.max.replace(tzinfo=UTC)
_DAY, _MINUTE = timedelta(days=1), timedelta(minutes=1)
_MOST_DAYS = 8_000
"""How many days are looked through for changes of the clocks; later ones are not told."""


@dataclass(frozen=True, slots=True)
class Run:
    """A run in UTC, what clocks in the zone show then, and what is to be said of the clocks since the run before."""

    instant: datetime
    local: datetime
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Turn:
    """Clocks that are put from one local time to another."""

    instant: datetime
    before: datetime
    after: datetime

    @property
    def by(self) -> timedelta:
        """How far they are put forward; less than zero for back."""
        return self.after.replace(tzinfo=None) - self.before.replace(tzinfo=None)


def upcoming(cron: Cron, after: datetime, count: int) -> list[Run]:
    """The first runs after an instant, none for an expression that never fires again."""
    zone = ZoneInfo(cron.zone)
    try:
        ticks = cron.ticks(after, after + min(_FAR, _LAST - after), most=count)
    except (OverflowError, ValueError):
        return []
    turns = list(_turns(zone, after, ticks[-1])) if ticks else []
    runs: list[Run] = []
    since = after
    for tick in ticks:
        local = tick.astimezone(zone)
        meanwhile = [turn for turn in turns if since < turn.instant <= tick]
        notes = [told for turn in meanwhile if (told := _skipped(cron, turn))]
        if not notes and meanwhile and _offset(zone, since) != _offset(zone, tick):
            notes = [_told(meanwhile[-1])]
        runs.append(Run(tick, local, (*notes, *_twice(cron, local))))
        since = tick
    return runs


def _turns(zone: ZoneInfo, start: datetime, end: datetime) -> Iterator[_Turn]:
    """When clocks are put, from one instant to another."""
    at = start.astimezone(UTC)
    for _ in range(_MOST_DAYS):
        if at >= end:
            return
        following = min(at + _DAY, end.astimezone(UTC))
        if _offset(zone, at) != _offset(zone, following):
            yield _turn(zone, at, following)
        at = following


def _turn(zone: ZoneInfo, low: datetime, high: datetime) -> _Turn:
    """When the offset changes between two instants, to the minute."""
    low = low.replace(second=0, microsecond=0)
    minutes = int((high - low) / _MINUTE) + 1
    first, last = 0, minutes
    while last - first > 1:
        middle = (first + last) // 2
        if _offset(zone, low + middle * _MINUTE) == _offset(zone, low):
            first = middle
        else:
            last = middle
    instant = low + last * _MINUTE
    return _Turn(instant, instant + _offset(zone, low), instant + _offset(zone, instant))


def _told(turn: _Turn) -> str:
    way = "forward" if turn.by > timedelta() else "back"
    return f"Clocks go {way} on {turn.before.day} {turn.before:%B %Y}, from {turn.before:%H:%M} to {turn.after:%H:%M}."


def _skipped(cron: Cron, turn: _Turn) -> str:
    """What is said of runs that clocks leave out; nothing where there are none."""
    lost = [] if cron.both_passes else [time for time in _between(turn) if _matches(cron, time)]
    if not lost:
        return ""
    more = f", as are {len(lost) - 1} more runs up to {lost[-1]:%H:%M}" if len(lost) > 1 else ""
    return f"{_told(turn)} {lost[0]:%H:%M} does not exist on that day and is skipped{more}."


def _twice(cron: Cron, local: datetime) -> list[str]:
    first, second = local.replace(fold=0), local.replace(fold=1)
    if first.utcoffset() == second.utcoffset():
        return []
    if not cron.both_passes:
        return [f"{local:%H:%M} comes twice on that day: it runs the first time only."]
    return [f"{local:%H:%M} comes twice on that day: this is the {'second' if local.fold else 'first'} time."]


def _between(turn: _Turn) -> Iterator[datetime]:
    """The minutes that clocks leave out."""
    time = turn.before
    while time < turn.after:
        yield time
        time += _MINUTE


def _matches(cron: Cron, time: datetime) -> bool:
    minutes, hours, days, months, weekdays = cron.numbers
    if time.minute not in minutes or time.hour not in hours or time.month not in months:
        return False
    is_day, is_weekday = time.day in days, time.isoweekday() % 7 in weekdays
    return is_day or is_weekday if cron.either_day else is_day and is_weekday


def _offset(zone: ZoneInfo, instant: datetime) -> timedelta:
    return instant.astimezone(zone).utcoffset() or timedelta()
