"""How long to wait before the next attempt, when the publisher did not say."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta

from postroad.domain.duration import parse_go_duration
from postroad.domain.reply import Headers
from postroad.errors import InvalidValue

LONGEST_DELAY = timedelta(days=1)
"""No attempt waits longer for its turn, whoever asks for it."""


def backoff(retried: int) -> timedelta:
    """Delay before retry number retried + 1: e^(2.5·n) seconds for n = retried + 1, at most one day (QStash's rule)."""
    return min(timedelta(seconds=math.exp(2.5 * min(retried + 1, 5))), LONGEST_DELAY)


def requested_delay(headers: Headers, now: datetime) -> timedelta | None:
    """The delay that the destination asks for in its answer, or None. Never raises.

    QStash's headers, the first usable one in this order: Retry-After, X-RateLimit-Reset, X-RateLimit-Reset-Requests,
    X-RateLimit-Reset-Tokens. A value is whole seconds, a date as RFC 1123 writes it (GMT) or a Go duration; the past
    is no delay at all. More than a day, as a Unix timestamp in X-RateLimit-Reset always is, and anything else is passed
    over. now is aware.
    """
    found = [(_PRECEDENCE[lower], value) for name, value in headers if (lower := name.lower()) in _PRECEDENCE]
    for _, value in sorted(found, key=lambda header: header[0]):
        delay = _delay(value.strip(" \t"), now)
        if delay is not None and delay <= LONGEST_DELAY:
            return max(delay, timedelta())
    return None


_PRECEDENCE = {
    "retry-after": 0,
    "x-ratelimit-reset": 1,
    "x-ratelimit-reset-requests": 2,
    "x-ratelimit-reset-tokens": 3,
}


def _delay(value: str, now: datetime) -> timedelta | None:
    if len(value) > _LONGEST_VALUE:
        return None
    if _SECONDS.fullmatch(value):
        return timedelta(seconds=int(value))
    if date := _HTTP_DATE.fullmatch(value):
        day, name, year, hour, minute, second = date.groups()
        month = _MONTHS.index(name) + 1
        try:
            return datetime(int(year), month, int(day), int(hour), int(minute), int(second), tzinfo=UTC) - now
        except ValueError:  # There is no such day or time, as in 31 Feb: the header is garbage.
            return None
    try:
        # Go writes microseconds with a µ in UTF-8, of which a header value holds the single bytes.
        return parse_go_duration(value.replace("\xc2\xb5", "µ"))
    except InvalidValue:  # What a destination answers is never an error of ours.
        return None


_LONGEST_VALUE = 64
"""Whoever means it writes less; a duration of many parts would take long to read."""
_SECONDS = re.compile(r"[0-9]{1,12}")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_HTTP_DATE = re.compile(
    rf"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), ([0-9]{{1,2}}) ({'|'.join(_MONTHS)}) ([0-9]{{4}})"
    r" ([0-9]{2}):([0-9]{2}):([0-9]{2}) (?:GMT|UTC)"
)
