"""Durations as QStash and Go write them."""

from __future__ import annotations

import re
from datetime import timedelta

from postroad.errors import InvalidValue

_MAX_CHARACTERS = 1024
_LONGEST = timedelta(days=36_500)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_NANOSECONDS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,  # U+00B5, the micro sign
    "μs": 1_000,  # U+03BC, the Greek letter
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}


def parse_duration(text: str, *, bare_seconds: bool = False) -> timedelta:
    """The duration that a text such as `50s` or `1d10h30m` writes, to the second, at most 100 years.

    One or more numbers of up to 18 digits, each with a unit of s, m, h or d, in any order and without blanks, signs or
    decimals, in at most 1024 characters. With bare_seconds a number alone means seconds. Raises InvalidValue. The
    grammar is QStash's.
    """
    if len(text) > _MAX_CHARACTERS:
        raise InvalidValue(text, f"a duration of at most {_MAX_CHARACTERS} characters")
    if _DURATION.fullmatch(text):
        seconds = sum(int(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(text))
    elif bare_seconds and _BARE_SECONDS.fullmatch(text):
        seconds = int(text)
    else:
        raise InvalidValue(text, "a duration such as 30s, 15m or 1d10h30m")
    return _bounded(text, seconds, timedelta(seconds=1))


_DURATION = re.compile(r"(?:[0-9]{1,18}[smhd])+")
_DURATION_PART = re.compile(r"([0-9]+)([smhd])")
_BARE_SECONDS = re.compile(r"[0-9]{1,18}")


def parse_go_duration(text: str) -> timedelta:
    """The duration that a Go program writes, such as `6m5s`, `1.5s` or `0`, cut to the microsecond, at most 100 years.

    Go's `time.ParseDuration` without signs; a number has up to 18 digits on either side of its point, and all of it at
    most 1024 characters. Raises InvalidValue.
    """
    if len(text) > _MAX_CHARACTERS:
        raise InvalidValue(text, f"a Go duration of at most {_MAX_CHARACTERS} characters")
    if text == "0":
        return timedelta()
    if not _GO_DURATION.fullmatch(text):
        raise InvalidValue(text, "a Go duration such as 1.5s, 300ms or 1h30m")
    nanoseconds = 0
    for whole, fraction, unit in _GO_DURATION_PART.findall(text):
        nanoseconds += int(f"{whole}{fraction}") * _NANOSECONDS[unit] // 10 ** len(fraction)
    return _bounded(text, nanoseconds // 1000, timedelta(microseconds=1))


_GO_UNIT = "ns|us|µs|μs|ms|s|m|h"
_GO_DURATION = re.compile(rf"(?:(?:[0-9]{{1,18}}(?:\.[0-9]{{0,18}})?|\.[0-9]{{1,18}})(?:{_GO_UNIT}))+")
_GO_DURATION_PART = re.compile(rf"([0-9]*)\.?([0-9]*)({_GO_UNIT})")


def format_duration(delta: timedelta) -> str:
    """The text that parse_duration reads as this duration: units falling, none twice, none zero; `0s` for nothing.

    Parts of a second are left out. A negative duration has no text and raises ValueError.
    """
    if delta < timedelta():
        raise ValueError(f"{delta} is negative")
    minutes, seconds = divmod(delta.days * 86_400 + delta.seconds, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = ((days, "d"), (hours, "h"), (minutes, "m"), (seconds, "s"))
    return "".join(f"{number}{unit}" for number, unit in parts if number) or "0s"


def _bounded(text: str, count: int, unit: timedelta) -> timedelta:
    if count > _LONGEST // unit:
        raise InvalidValue(text, "a duration of at most 100 years")
    return count * unit
