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

MOST_BODY_BYTES = 64 * 1024
"""How much of a body an event shows; what a page holds in memory is a multiple of it."""


@dataclass(frozen=True, slots=True)
class Position:
    """The key of an event, which never changes: when, whose, and its place among those of one instant."""

    at: datetime
    message_id: MessageId
    ordinal: int


@dataclass(frozen=True, slots=True)
class Event:
    """One event of the log, with the message it is about and, where an attempt ended, the response.

    Bodies are cut, that of the message too, and None when none was asked for. `body_hash` is the SHA-256 of the whole
    body of a message that may only be shown as a hash, and that is here not whole.
    """

    position: Position
    state: State
    stored: StoredMessage
    next_due_at: datetime | None = None
    reason: str | None = None
    status: int | None = None
    headers: Headers = ()
    body: bytes | None = None
    body_hash: bytes | None = None


@dataclass(frozen=True, slots=True)
class History:
    """A message and those of its events that were asked for."""

    message_id: MessageId
    created_at: datetime
    events: tuple[Event, ...]

    @property
    def position(self) -> Position:
        """Where it stands among the histories: that of its creation."""
        return Position(self.created_at, self.message_id, 0)
