"""What becomes of a message, from its publication to long after its end, as whoever waits for it sees it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from postroad.domain.ids import MessageId
from postroad.domain.tenant import TenantId

MOST_NOTE_CHARACTERS = 1_000
MOST_LOG_CHARACTERS = 64 * 1024


class Phase(StrEnum):
    """Where a message stands: the last three are ends."""

    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELED = "canceled"

    @property
    def is_end(self) -> bool:
        """Nothing follows."""
        return self not in (Phase.PENDING, Phase.PROCESSING)


@dataclass(frozen=True, slots=True)
class Report:
    """What a handler says while it works: how far it is in percent, two texts, and its result as JSON text."""

    progress: float | None = None
    note: str | None = None
    log: str | None = None
    result: bytes | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the log of a handler."""

    at: datetime
    text: str


@dataclass(frozen=True, slots=True)
class Status:
    """A message as it stands. `attempts` counts those that were begun; `error` is why the last one came to nothing.

    `result` is what the handler reported, as JSON text, or else the body of the response that ended it; of that only
    the beginning is there when it `is_cut`. `hides_body` says that bodies of this message are shown as hashes.
    """

    id: MessageId
    tenant_id: TenantId
    phase: Phase
    created_at: datetime
    updated_at: datetime
    attempts: int
    progress: float | None = None
    note: str | None = None
    error: str | None = None
    result: bytes | None = None
    is_cut: bool = False
    hides_body: bool = False
