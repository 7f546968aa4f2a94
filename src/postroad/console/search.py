"""The filter language of the lists: names of the API's parameters with their values, and bare ids and URLs."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from postroad.api.query import FILTERS
from postroad.domain.duration import parse_duration
from postroad.domain.log import State
from postroad.errors import InvalidValue, PostroadError

STATES = tuple(state.value for state in State)

NAMES: Mapping[str, str] = {
    **{name: text for name, text in FILTERS.items() if name not in ("fromDate", "toDate", "api")},
    "state": f"states: {', '.join(STATES)}",
    "since": "how long ago at most, such as 15m or 1d",
    "until": "how long ago at least",
}
"""What can stand before an equals sign, with what it means."""

_WORD = re.compile(r'(?:([A-Za-z]+)=)?(?:"([^"]*)"|(\S+))')
_ALIASES = {
    "id": "messageIds",
    "messageid": "messageIds",
    "queue": "queueName",
    "group": "topicName",
    "schedule": "scheduleId",
}


class FilterError(PostroadError):
    """A filter that cannot be understood."""


@dataclass(frozen=True, slots=True)
class Search:
    """A filter as it was typed, and as the API takes it."""

    text: str
    params: Mapping[str, str]

    def refused_but(self, *names: str) -> None:
        """Raise `FilterError` for a filter that a list does not know."""
        for name in self.params:
            if name in names:
                raise FilterError(f"this list cannot be filtered by {name}")

    def __bool__(self) -> bool:
        return bool(self.params)


def parse(text: str, *, now_ms: int, names: Mapping[str, str] = NAMES) -> Search:
    """Read a filter such as `host=api.example.com state=FAILED since=1h`. Raises `FilterError`.

    A list may have names of its own.
    """
    found: dict[str, list[str]] = {}
    for match in _WORD.finditer(text.strip()):
        known, value = _read(match, names)
        if known is None:
            expected = ", ".join(names)
            raise FilterError(f"{match[1]} is no filter: expected one of {expected}, or an id, a URL or a host alone")
        found.setdefault(known, []).append(value)
    params = {name: ",".join(values) for name, values in found.items()}
    for name, parameter in (("since", "fromDate"), ("until", "toDate")):
        if (ago := params.pop(name, None)) is not None:
            params[parameter] = str(now_ms - _span(name, ago))
    if "state" in params:
        params["state"] = params["state"].upper()
    return Search(text.strip(), params)


def understood(text: str) -> str:
    """What a word without a name is taken for, as a filter that says so; nothing if there is no such word."""
    matches = list(_WORD.finditer(text.strip()))
    return " ".join(f"{_guess(m[2] or m[3])}={m[2] or m[3]}" for m in matches if m[1] is None and (m[2] or m[3]))


def without(text: str, dropped: Collection[str], *, names: Mapping[str, str] = NAMES) -> str:
    """The filter as it was typed, but for what it says of these names."""
    words = (match for match in _WORD.finditer(text.strip()) if _read(match, names)[0] not in dropped)
    return " ".join(match[0] for match in words)


def _read(match: re.Match[str], names: Mapping[str, str]) -> tuple[str | None, str]:
    """The name that a word is about, None if there is no such name, and its value."""
    name, quoted, bare = match.groups()
    value = bare if quoted is None else quoted
    if name is None:
        return _guess(value), value
    by_name = {known.lower(): known for known in names} | _ALIASES
    return by_name.get(name.lower()), value


def _guess(value: str) -> str:
    """What a word without a name is."""
    if value.startswith("msg_"):
        return "messageIds"
    if value.startswith("scd_"):
        return "scheduleId"
    if value.startswith(("http://", "https://")):
        return "url"
    if value.upper() in STATES:
        return "state"
    if value.startswith("/"):
        return "path"
    return "host" if "." in value or ":" in value or value.lower() == "localhost" else "label"


def _span(name: str, value: str) -> int:
    try:
        return int(parse_duration(value).total_seconds() * 1000)
    except InvalidValue as error:
        raise FilterError(f"{name}={value}: expected {error.expected}") from None
