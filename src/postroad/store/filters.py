"""One filter language for messages, dead letters and the log: different fields AND, values of one field OR."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import ColumnElement, FromClause, any_, false, func, literal
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.types import Text

from postroad.domain.ids import MessageId

_HOST = r"^[^:]+://(\[[^\]]*\]|[^/?#:]*)"
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


MESSAGE_FIELDS = frozenset(
    {"url", "host", "path", "label", "callerIp", "topicName", "queueName", "scheduleId", "flowControlKey"}
)
"""Filters on the message, by their names in the API."""


def on_message(messages: FromClause, filters: Filters) -> list[ColumnElement[bool]]:
    """The conditions on a row of messages, ids and instants aside."""
    return [_condition(messages, name, values) for name, values in filters.values.items()]


def _condition(messages: FromClause, name: str, values: Sequence[str]) -> ColumnElement[bool]:
    column = messages.c
    match name:
        case "url":
            return column.url == _any(values)
        case "host":
            return func.lower(func.substring(column.url, _HOST)) == _any([value.lower() for value in values])
        case "path":
            return func.coalesce(func.nullif(func.substring(column.url, _PATH), ""), "/") == _any(values)
        case "label":
            return column.labels.op("&&")(literal(list(values), ARRAY(Text)))
        case "callerIp":
            return column.caller_ip == _any(values)
        case "topicName" | "queueName" | "scheduleId" | "flowControlKey":
            # No message of this version has one, so none matches.
            return false()
    raise AssertionError(name)


def _any(values: Sequence[str]) -> ColumnElement[bool]:
    return any_(literal(list(values), ARRAY(Text)))
