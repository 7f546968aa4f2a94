"""Which dead letters somebody means: a filter as it was typed, or those that were ticked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from datetime import date as date_of

from postroad.api.query import Query
from postroad.console.search import NAMES as NAMES_OF_ALL
from postroad.console.search import FilterError, parse, without
from postroad.domain.dead_letter import dead_letter_number
from postroad.store.dead_letter_groups import Group, Wanted

NAMES: Mapping[str, str] = {
    **{name: text for name, text in NAMES_OF_ALL.items() if name not in ("state", "messageIds")},
    "messageId": "ids of messages",
    "responseStatus": "status of the last response, 0 for none",
    "reason": "why there was no response, with * for anything",
    "day": "the day it failed, in UTC: 2026-12-31, today or yesterday",
}
"""What dead letters can be filtered by."""

TIMES = (
    ("", "Any time"),
    ("since=1h", "Last hour"),
    ("since=24h", "Last 24 hours"),
    ("day=yesterday", "Yesterday, UTC"),
)
"""Filters by time that are a click away."""

MOST_TICKED = 1_000
_DAY = timedelta(days=1)
_BEFORE_ALL = date_of(1970, 1, 1)


@dataclass(frozen=True, slots=True)
class Choice:
    """Dead letters as they were chosen: by a filter, or ticked."""

    q: str
    ids: Sequence[str]
    wanted: Wanted

    @property
    def words(self) -> str:
        """The choice in words, for the audit log."""
        if self.ids:
            return ", ".join(self.ids)
        return f"all that match {self.q}" if self.q else "all dead letters"


async def chosen(q: str, ids: Sequence[str] = (), *, now_ms: int, up_to: int | None = None) -> Choice:
    """Understand a choice; ids go before a filter. Raises `FilterError` and what the API says of a wrong value."""
    if ids:
        if len(ids) > MOST_TICKED:
            raise FilterError(f"{len(ids)} dead letters were ticked: expected at most {MOST_TICKED}, or a filter")
        numbers = tuple(number for one in ids if (number := dead_letter_number(one)) is not None)
        return Choice("", ids, Wanted(numbers=numbers))
    search = parse(q, now_ms=now_ms, names=NAMES)
    params = dict(search.params)
    # A state is known in other lists; here everything has failed.
    if params.pop("state", "FAILED") != "FAILED":
        raise FilterError("this list cannot be filtered by state: whatever is in it has failed")
    reason, day = params.pop("reason", None), params.pop("day", None)
    if day is not None:
        params |= _bounds(day, now_ms)
    query = Query()
    for name, value in params.items():
        query.add(name, value)
    statuses = query.take_all("responseStatus")
    filters = await query.take_filters()
    query.end()
    wanted = Wanted(
        filters,
        statuses=None if statuses is None else tuple(_status(one) for one in statuses),
        reasons=None if reason is None else (reason,),
        up_to=up_to,
    )
    return Choice(search.text, (), wanted)


def filter_of(group: Group, q: str) -> str:
    """The filter that finds a group of those that another one has found."""
    others = without(q, ("host", "responseStatus", "reason"), names=NAMES)
    if group.status is not None or group.reason is None:
        error = f"responseStatus={group.status or 0}"
    else:
        # A quotation mark would end the value.
        error = 'reason="{}"'.format(group.reason.replace('"', "*"))
    return " ".join(part for part in (others, f"host={group.host}" if group.host else "", error) if part)


def times_of(q: str) -> list[tuple[str, str, bool]]:
    """Filters for other times that are as this one else, with words, and whether they are this very one."""
    others = without(q, ("since", "until", "day"), names=NAMES)
    said = " ".join(q.split())
    filters = [(" ".join(part for part in (others, time) if part), words) for time, words in TIMES]
    return [(one, words, one == said) for one, words in filters]


def _bounds(day: str, now_ms: int) -> dict[str, str]:
    """The first and the last millisecond of a day."""
    today = datetime.fromtimestamp(now_ms / 1000, UTC).date()
    named = {"today": today, "yesterday": today - _DAY}
    try:
        date = named[day.lower()] if day.lower() in named else datetime.fromisoformat(day).date()
    except ValueError:
        date = _BEFORE_ALL
    if date <= _BEFORE_ALL:
        raise FilterError(f"day={day}: expected a date such as {today}, today or yesterday")
    start_ms = int(datetime(date.year, date.month, date.day, tzinfo=UTC).timestamp() * 1000)
    return {"fromDate": str(start_ms), "toDate": str(start_ms + int(_DAY.total_seconds() * 1000) - 1)}


def _status(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 3:
        raise FilterError(f"responseStatus={text}: expected an HTTP status, or 0 where no response came")
    return int(text)
