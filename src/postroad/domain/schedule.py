"""Schedules: a publish that is made anew at every tick of a cron expression."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from functools import lru_cache

from postroad.domain.cron import Cron, parse_cron
from postroad.domain.headers import following
from postroad.domain.ids import MessageId
from postroad.domain.limits import Limits
from postroad.domain.message import Options
from postroad.domain.publication import Request, parse_options
from postroad.domain.publish_header import boolean
from postroad.domain.reply import Headers
from postroad.domain.tenant import TenantId
from postroad.errors import InvalidValue, PostroadError, Refused

MAX_ID_LENGTH = 256

MOST_TICKS = 100
"""Missed ticks of one schedule that fire after all."""

LONGEST_CATCH_UP = timedelta(days=1)
_MOST_COUNTED = 2_000

_ID = re.compile(r"[A-Za-z0-9._-]+")
_INSTANT = timedelta(microseconds=1)
_NOT_KEPT = ("upstash-cron", "upstash-schedule-id", "upstash-deduplication-id", "upstash-content-based-deduplication")
_LENIENT = Limits(
    max_delay=timedelta.max,
    max_retries=2**31,
    max_timeout=timedelta.max,
    max_forwarded_headers=2**31,
    max_forwarded_bytes=2**31,
    max_labels=2**31,
    max_label_length=2**31,
    max_callback_generations=2**31,
)


class TickState(StrEnum):
    """What became of a message of the last tick, in QStash's words."""

    IN_PROGRESS = "IN_PROGRESS"
    SUCCESS = "SUCCESS"
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule as it is stored: `request` is what every tick asks for, `cron` the text of its expression.

    `next_at` is the nominal time of the next tick, and stands still while the schedule is paused. `last_at` is when the
    last tick really fired, `last_messages` are the messages that it made, `error` says why it made none. Of one with
    `unopened`, which says why, it cannot be read what it publishes.
    """

    tenant_id: TenantId
    id: str
    cron: str
    request: Request
    paused: bool
    next_at: datetime
    last_at: datetime | None
    last_messages: tuple[MessageId, ...]
    error: str | None
    created_at: datetime
    unopened: PostroadError | None = None

    def upcoming(self, now: datetime) -> datetime | None:
        """When it fires next; of a paused one, when it would if it were resumed now. None if it never can."""
        if not self.paused or self.next_at > now:
            return self.next_at
        try:
            return next_tick(parse_cron(self.cron), now)
        except InvalidValue:
            return None

    def options(self, limits: Limits) -> Options:
        """What its own headers say. Limits that are lower now than they were then do not count, defaults do.

        The defaults alone where the headers cannot be read any more: `error` says so after the next tick.
        """
        return _options(tuple(self.request.fields), limits.default_retries)


@dataclass(frozen=True, slots=True)
class Due:
    """What there is to do about a schedule at some instant: nominal times, in order, and the next one after them."""

    ticks: tuple[datetime, ...]
    skipped: int
    next_at: datetime


def parse_schedule_id(text: str) -> str:
    """An id that a caller chose. Raises `InvalidValue`."""
    if not _ID.fullmatch(text) or len(text) > MAX_ID_LENGTH:
        raise InvalidValue(text, f"1 to {MAX_ID_LENGTH} letters, digits, '-', '_' and '.'")
    return text


def kept_fields(fields: Sequence[tuple[str, str]], defaults: Headers = ()) -> Headers:
    """Of the header fields of a request those that every tick reads; `defaults` are those of its URL group.

    The request's own headers are kept where they are to be forwarded, and never what authenticated the caller.
    Deduplication is not kept: messages of schedules are no duplicates of each other.
    """
    forwards = [value for name, value in (*defaults, *fields) if name == "upstash-header-forward"]
    forwards_all = bool(forwards) and boolean(forwards[-1].strip(), Limits())
    follow = {name for name, _ in following(fields)} if forwards_all else set()
    return tuple((name, value) for name, value in fields if is_kept(name) or name in follow)


def is_kept(name: str) -> bool:
    """Whether a schedule keeps the header of this name, which is in lower case, whatever else is said."""
    if name.startswith("upstash-"):
        return name not in _NOT_KEPT and not name.startswith("upstash-telemetry-")
    return name == "content-type"


@lru_cache(maxsize=1024)
def next_tick(cron: Cron, after: datetime) -> datetime:
    """The first tick after an instant. Raises `InvalidValue` when there is none.

    Many schedules share an expression and fire at the same time, so it is remembered.
    """
    try:
        return cron.next_after(after)
    except (ValueError, OverflowError, StopIteration):
        raise InvalidValue(cron.text, "a time that comes before the year 10000") from None


def due(cron: Cron, next_at: datetime, now: datetime, *, catch_up: timedelta) -> Due:
    """What is due of a schedule whose next tick was next_at, an instant that is not later than now.

    Ticks that were missed within catch_up all fire, the latest `MOST_TICKS` of them at most. Of older ones, only the
    very last missed tick fires, and that if nothing more recent does. `skipped` counts the others, not further than a
    few thousand. Raises `InvalidValue` when there is no next tick.
    """
    following = next_tick(cron, next_at)
    if following > now:
        return Due((next_at,), 0, following)
    since = now - min(catch_up, LONGEST_CATCH_UP)
    recent = cron.ticks(max(next_at, since - _INSTANT), now, most=_MOST_COUNTED)
    if next_at >= since:
        recent.insert(0, next_at)
    if not recent:
        recent = [cron.last_before_or_at(now) or following]
    older = 0
    if next_at < recent[0]:
        older = 1 + len(cron.ticks(next_at, recent[0] - _INSTANT, most=_MOST_COUNTED))
    ticks = recent[-MOST_TICKS:]
    return Due(tuple(ticks), older + len(recent) - len(ticks), next_tick(cron, now))


@lru_cache(maxsize=256)
def _options(fields: Headers, default_retries: int) -> Options:
    try:
        return parse_options(fields, limits=replace(_LENIENT, default_retries=default_retries), now_s=0)[0]
    except Refused:
        return Options(retries=default_retries)
