"""Queues: messages that go one after the other, or a few at a time."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime

from postroad.errors import InvalidValue

MAX_NAME_LENGTH = 256

_NAME = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue and what is in it.

    `lag` counts messages that have not ended; `counts` has them by state: held (not their turn), waiting (for their
    time, a retry or a slot) and active.
    """

    name: str
    parallelism: int
    paused: bool
    created_at: datetime
    updated_at: datetime
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def lag(self) -> int:
        """Messages that have not ended."""
        return sum(self.counts.values())


def parse_queue_name(text: str) -> str:
    """The name of a queue. Raises `InvalidValue`."""
    if not _NAME.fullmatch(text) or len(text) > MAX_NAME_LENGTH:
        raise InvalidValue(text, f"1 to {MAX_NAME_LENGTH} letters, digits, '-', '_' and '.'")
    return text
