"""A message that was given up, with the last answer of its destination."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

from postroad.domain.message import StoredMessage
from postroad.domain.reply import Headers

_DLQ_ID = re.compile(r"([0-9]{1,15})-([0-9]{1,18})")


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """`status` is None when no response came; `reason` then says why."""

    number: int
    stored: StoredMessage
    failed_at: datetime
    status: int | None
    reason: str | None
    headers: Headers
    body: bytes

    @property
    def id(self) -> str:
        """The id in the API."""
        return dlq_id(self.number, self.failed_at)


def dlq_id(number: int, failed_at: datetime) -> str:
    """Milliseconds of the burial and the row's number, in QStash's shape `1725323658779-0`."""
    return f"{int(failed_at.timestamp() * 1000)}-{number}"


def dead_letter_number(text: str) -> int | None:
    """The row's number in an id; None for what cannot be one."""
    match = _DLQ_ID.fullmatch(text)
    return None if match is None else int(match[2])
