"""Flow control: how fast messages with one key may go, whatever their destination."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from postroad.domain.duration import parse_duration
from postroad.errors import InvalidValue

MAX_KEY_LENGTH = 256
MAX_VALUE_LENGTH = 1024
MAX_PERIOD = timedelta(weeks=1)
DEFAULT_PERIOD = timedelta(seconds=1)
MOST = 2**31 - 1


@dataclass(frozen=True, slots=True)
class FlowControl:
    """The key of a message and the limits that it brings: at most `parallelism` deliveries at a time, and at most
    `rate` that begin within a `period`. None is no limit.
    """

    key: str
    parallelism: int | None
    rate: int | None
    period: timedelta = DEFAULT_PERIOD


@dataclass(frozen=True, slots=True)
class FlowKey:
    """A key as it stands: its limits, what is pinned, and what waits and runs under it."""

    key: str
    parallelism: int | None
    rate: int | None
    period: timedelta
    parallelism_pinned: bool
    rate_pinned: bool
    paused: bool
    waiting: int
    active: int
    rate_count: int
    period_start: datetime | None


def parse_flow_key(text: str) -> str:
    """A key as it is given. Raises `InvalidValue`."""
    if not text or len(text) > MAX_KEY_LENGTH or not text.isprintable():
        raise InvalidValue(text, f"1 to {MAX_KEY_LENGTH} printable characters")
    return text


def parse_flow_value(text: str) -> tuple[int | None, int | None, timedelta]:
    """Parallelism, rate and period of `parallelism=N, rate=N, period=D`, in any order, the first two not both missing.

    A period is a duration or a number of seconds, from a second to a week. Raises `InvalidValue`.
    """
    if len(text) > MAX_VALUE_LENGTH:
        raise InvalidValue(text, f"parallelism=N, rate=N, period=D in at most {MAX_VALUE_LENGTH} characters")
    found: dict[str, str] = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        name = name.strip().lower()
        if not equals or name not in ("parallelism", "rate", "period") or name in found:
            raise InvalidValue(text, "parallelism=N, rate=N, period=D with each of them once")
        found[name] = value.strip()
    parallelism = parse_limit(found["parallelism"]) if "parallelism" in found else None
    rate = parse_limit(found["rate"]) if "rate" in found else None
    if parallelism is None and rate is None:
        raise InvalidValue(text, "parallelism=N, rate=N or both")
    return parallelism, rate, parse_period(found["period"]) if "period" in found else DEFAULT_PERIOD


def parse_limit(text: str) -> int:
    """A parallelism or a rate. Raises `InvalidValue`."""
    if not (text.isascii() and text.isdigit()) or len(text) > 10 or not 1 <= int(text) <= MOST:
        raise InvalidValue(text, f"an integer from 1 to {MOST}")
    return int(text)


def parse_period(text: str) -> timedelta:
    """A duration, or a number of seconds. Raises `InvalidValue`."""
    period = parse_duration(text, bare_seconds=True)
    if not timedelta(seconds=1) <= period <= MAX_PERIOD:
        raise InvalidValue(text, "a period from 1s to 7d")
    return period
