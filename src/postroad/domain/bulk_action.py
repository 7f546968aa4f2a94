"""Bulk actions: cancellations by filter, which are worked on in steps and can be looked at meanwhile."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NewType

from postroad.domain.ids import random_text

BulkActionId = NewType("BulkActionId", str)

MOST_RUNNING = 1_000
"""Bulk actions of a tenant that may be in progress."""

_ID = re.compile(r"blk_[1-9A-HJ-NP-Za-km-z]{28}")


class Progress(StrEnum):
    """Whether there is something left to do, in QStash's words."""

    IN_PROGRESS = "IN_PROGRESS"
    FINISHED = "FINISHED"


@dataclass(frozen=True, slots=True)
class BulkAction:
    """What is to be cancelled, and how far that is.

    `filter` has the values by the names that the API gives to filters. `total` is how many unfinished messages matched
    when it was accepted, `processed` how many of them were cancelled: those that have ended by themselves are not.
    """

    id: BulkActionId
    kind: str
    filter: Mapping[str, Sequence[str]]
    total: int
    processed: int
    created_at: datetime
    completed_at: datetime | None

    @property
    def state(self) -> Progress:
        """Finished when nothing that matches is left of what there was at its creation."""
        return Progress.IN_PROGRESS if self.completed_at is None else Progress.FINISHED


def new_bulk_action_id() -> BulkActionId:
    """An id that nobody can guess."""
    return BulkActionId(random_text("blk_"))


def parse_bulk_action_id(text: str) -> BulkActionId | None:
    """The id, or None for a text that is none."""
    return BulkActionId(text) if _ID.fullmatch(text) else None
