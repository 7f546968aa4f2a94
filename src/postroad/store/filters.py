"""One filter language for messages, dead letters and the log: different fields AND, values of one field OR."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, FromClause, any_, bindparam, case, func, literal, or_
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.types import Text

from postroad.domain.ids import MessageId

_PATH = r"^[^:]+://[^/?#]*([^?#]*)"


@dataclass(frozen=True, slots=True)
class Filters:
    """What a caller asked for. `message_ids` is None when any message will do; `values` has the other fields.

    `since` and `until` are inclusive.
    """

    message_ids: tuple[MessageId, ...] | None = None
    values: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    since: datetime | None = None
    until: datetime | None = None

    @property
    def are_on_messages(self) -> bool:
        """Whether any condition needs the message itself."""
        return bool(self.values)


ORDERED = {"scheduleId": "schedule_id", "queueName": "queue", "flowControlKey": "flow_key", "topicName": "url_group"}
"""Filters whose column has an index that gives the messages of one value in the order of their creation."""

MESSAGE_FIELDS = frozenset({"url", "host", "path", "label", "callerIp", "api", *ORDERED})
"""Filters on the message, by their names in the API."""


def on_message(messages: FromClause, filters: Filters) -> list[ColumnElement[bool]]:
    """The conditions on a row of messages, ids and instants aside."""
    return [
        _condition(messages, name, literal(_prepared(name, values), ARRAY(Text)))
        for name, values in filters.values.items()
    ]


def on_fields(messages: FromClause, names: Iterable[str]) -> list[ColumnElement[bool]]:
    """The same for a statement that is used again and again: what `bound` gives is yet to be bound."""
    return [_condition(messages, name, bindparam(f"of_{name}", type_=ARRAY(Text))) for name in names]


def bound(filters: Filters) -> dict[str, list[str]]:
    """What the conditions of `on_fields` compare with."""
    return {f"of_{name}": _prepared(name, values) for name, values in filters.values.items()}


def place_of(url: ColumnElement[str]) -> ColumnElement[str]:
    """The host of a URL, with its port where that is written. By splitting: five times as fast as a pattern."""
    authority = func.split_part(url, "/", 3)
    return func.lower(func.split_part(func.split_part(authority, "?", 1), "#", 1))


def at_host(url: ColumnElement[str], values: ColumnElement[Any]) -> ColumnElement[bool]:
    """Whether the URL leads to one of some hosts: at any port, or at the one that is named."""
    place = place_of(url)
    host = case((place.like("[%"), func.split_part(place, "]", 1).op("||")("]")), else_=func.split_part(place, ":", 1))
    return or_(host == any_(values), place == any_(values))


def _prepared(name: str, values: Iterable[str]) -> list[str]:
    return [value.lower() if name == "host" else value for value in values]


def _condition(messages: FromClause, name: str, values: ColumnElement[Any]) -> ColumnElement[bool]:
    column = messages.c
    if name in ORDERED:
        return column[ORDERED[name]] == any_(values)
    match name:
        case "url":
            return column.url == any_(values)
        case "host":
            return at_host(column.url, values)
        case "path":
            return func.coalesce(func.nullif(func.substring(column.url, _PATH), ""), "/") == any_(values)
        case "label":
            return column.labels.op("&&")(values)
        case "callerIp":
            return column.caller_ip == any_(values)
        case "api":
            return column.options.op("->>")("api") == any_(values)
    raise AssertionError(name)
