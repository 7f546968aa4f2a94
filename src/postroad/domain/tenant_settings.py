"""What an operator may set for a tenant, and how each of it is read: by the command line and by the admin API."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from postroad.domain.destination import parse_url
from postroad.domain.flow_control import MOST, parse_limit
from postroad.domain.network import parse_policy
from postroad.errors import InvalidDestination, InvalidValue

Value: TypeAlias = str | int
TenantSettings: TypeAlias = Mapping[str, Value | None]
"""Values by the names in `SETTINGS`; None takes a value away."""


def _url(text: str) -> str:
    try:
        return parse_url(text).text
    except InvalidDestination as error:
        raise InvalidValue(text, f"a URL ({error.reason})") from None


def _destinations(text: str) -> str:
    parse_policy(text)
    return text


def _rate(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 10 or int(text) > MOST:
        raise InvalidValue(text, f"an integer from 0 to {MOST}, 0 for no limit")
    return int(text)


SETTINGS: dict[str, Callable[[str], Value]] = {
    "failure_callback": _url,
    "parallelism": parse_limit,
    "destinations": _destinations,
    "max_calls_per_second": _rate,
    "max_messages_per_day": _rate,
}
"""How the text of a value is read. Each raises `InvalidValue`."""
