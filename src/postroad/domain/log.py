"""The life of a message as events, derived from what is stored once."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from postroad.domain.ids import MessageId
from postroad.domain.message import StoredMessage
from postroad.domain.reply import Headers


class State(StrEnum):
    """What can happen to a message, in QStash's words."""

    CREATED = "CREATED"
    ACTIVE = "ACTIVE"
    DELIVERED = "DELIVERED"
    ERROR = "ERROR"
    RETRY = "RETRY"
    FAILED = "FAILED"
    CANCEL_REQUESTED = "CANCEL_REQUESTED"
    CANCELED = "CANCELED"


IN_PROGRESS = (State.ACTIVE, State.RETRY, State.ERROR)
"""What the filter value IN_PROGRESS stands for."""


@dataclass(frozen=True, slots=True)
class Position:
    """The key of an event, which never changes: when, whose, and its place among those of one instant."""

    at: datetime
    message_id: MessageId
    ordinal: int


@dataclass(frozen=True, slots=True)
class Event:
    """One event of the log, with the message it is about and, where an attempt ended, the response."""

    position: Position
    state: State
    stored: StoredMessage
    next_due_at: datetime | None = None
    reason: str | None = None
    status: int | None = None
    headers: Headers = ()
    body: bytes | None = None
