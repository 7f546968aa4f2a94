"""Dead letters as people look at them: grouped by where they were to go and by what was wrong, counted, and in short.

The newest that match by themselves are looked at, no more than a bound: messages have to be read to find their hosts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, FromClause, Select, Subquery, any_, case, func, literal, or_, select
from sqlalchemy.dialects.postgresql import ARRAY, UUID

from postroad.domain.dead_letter import dlq_id
from postroad.domain.ids import MessageId
from postroad.domain.message import METHODS
from postroad.domain.tenant import TenantId
from postroad.store.engine import Connection, Row, run
from postroad.store.filters import Filters, host_of, on_message
from postroad.store.tables import dead_letters, messages

LOOK = 10_000
"""Letters that a page looks at, which takes some tens of milliseconds."""

LOOK_BEFORE_BULK = 200_000
"""Letters that are looked at before bulk work, so that its count is exact wherever there are fewer."""

MOST_GROUPS = 50
_MOST_REASON_CHARACTERS = 160


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which dead letters: `statuses` has 0 for no response, `reasons` may have asterisks, which stand for anything.

    `numbers` picks letters by their own number, `up_to` leaves out those that were buried later.
    """

    filters: Filters = field(default_factory=Filters)
    statuses: tuple[int, ...] | None = None
    reasons: tuple[str, ...] | None = None
    numbers: tuple[int, ...] | None = None
    up_to: int | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """Letters to one host with one error: a status, or none and a reason, which ends in an asterisk if it was cut."""

    host: str
    status: int | None
    reason: str | None
    count: int
    newest_at: datetime


@dataclass(frozen=True, slots=True)
class Grouped:
    """The largest groups of what was found, how much that is, and the highest number in it.

    `is_bounded` says that there are more letters than were looked at.
    """

    groups: Sequence[Group]
    count: int
    number_of_groups: int
    up_to: int
    is_bounded: bool


@dataclass(frozen=True, slots=True)
class Line:
    """A dead letter in a list."""

    number: int
    failed_at: datetime
    status: int | None
    reason: str | None
    message_id: MessageId
    url: str
    method: str
    labels: Sequence[str]
    queue: str | None
    url_group: str | None
    schedule_id: str | None

    @property
    def id(self) -> str:
        """The id in the API."""
        return dlq_id(self.number, self.failed_at)


async def grouped(connection: Connection, tenant_id: TenantId, wanted: Wanted, *, look: int = LOOK) -> Grouped:
    """What matches among the newest `look` letters, in groups, the largest first."""
    looked = _looked(tenant_id, wanted, limit=look)
    reason = case((looked.c.status.is_(None), func.left(looked.c.reason, _MOST_REASON_CHARACTERS)))
    found = _joined(
        looked,
        wanted,
        host_of(messages.c.url).label("host"),
        looked.c.status,
        reason.label("reason"),
        looked.c.failed_at,
        looked.c.id,
    ).subquery("found")
    count = func.count()
    query = (
        select(
            found.c.host,
            found.c.status,
            found.c.reason,
            count.label("count"),
            func.max(found.c.failed_at).label("newest_at"),
            func.sum(count).over().label("total"),
            count.over().label("number_of_groups"),
            func.max(func.max(found.c.id)).over().label("up_to"),
        )
        .group_by(found.c.host, found.c.status, found.c.reason)
        .order_by(count.desc(), found.c.host, found.c.status, found.c.reason)
        .limit(MOST_GROUPS)
    )
    rows = await run(connection, query)
    _, seen = await _reached(connection, looked)
    groups = [
        Group(row["host"] or "", row["status"], _whole(row["reason"]), row["count"], row["newest_at"]) for row in rows
    ]
    first = rows[0] if rows else None
    return Grouped(
        groups,
        int(first["total"]) if first else 0,
        first["number_of_groups"] if first else 0,
        first["up_to"] if first else 0,
        seen >= look,
    )


async def page(
    connection: Connection, tenant_id: TenantId, wanted: Wanted, *, before: int | None, limit: int, look: int = LOOK
) -> tuple[list[Line], int | None]:
    """Letters that match, the newest first, and before which number to go on; that may be with none found yet."""
    if not wanted.filters.are_on_messages:
        look = limit + 1
    looked = _looked(tenant_id, wanted, limit=look, before=before)
    message = messages.c
    query = (
        _joined(
            looked,
            wanted,
            looked.c.id.label("number"),
            looked.c.failed_at,
            looked.c.status,
            looked.c.reason,
            looked.c.message_id,
            message.url,
            message.method,
            message.labels,
            message.queue,
            message.url_group,
            message.schedule_id,
        )
        .order_by(looked.c.id.desc())
        .limit(limit + 1)
    )
    lines = [_line(row) for row in await run(connection, query)]
    if len(lines) > limit:
        return lines[:limit], lines[limit - 1].number
    reached, seen = await _reached(connection, looked)
    return lines, reached if seen >= look else None


async def ids(
    connection: Connection, tenant_id: TenantId, wanted: Wanted, *, after: int, limit: int
) -> list[tuple[int, str]]:
    """Numbers and ids of letters that match, the oldest first: all there are, whatever it takes to find them."""
    looked = _letters(tenant_id, wanted).where(dead_letters.c.id > after).subquery("looked")
    query = _joined(looked, wanted, looked.c.id, looked.c.failed_at).order_by(looked.c.id).limit(limit)
    return [(row["id"], dlq_id(row["id"], row["failed_at"])) for row in await run(connection, query)]


async def _reached(connection: Connection, looked: Subquery) -> tuple[int | None, int]:
    rows = await run(connection, select(func.min(looked.c.id).label("least"), func.count().label("seen")))
    return rows[0]["least"], rows[0]["seen"]


def _line(row: Row) -> Line:
    number = row["method"]
    method = METHODS[number] if number < len(METHODS) else f"unknown-{number}"
    return Line(**{**row, "method": method, "labels": row["labels"] or ()})


def _looked(tenant_id: TenantId, wanted: Wanted, *, limit: int, before: int | None = None) -> Subquery:
    query = _letters(tenant_id, wanted)
    if before is not None:
        query = query.where(dead_letters.c.id < before)
    return query.order_by(dead_letters.c.id.desc()).limit(limit).subquery("looked")


def _letters(tenant_id: TenantId, wanted: Wanted) -> Select[tuple[object, ...]]:
    """The letters that match as far as can be seen without their messages."""
    letter, filters = dead_letters.c, wanted.filters
    query: Select[tuple[object, ...]] = select(
        letter.id, letter.message_id, letter.failed_at, letter.status, letter.reason
    ).where(letter.tenant_id == tenant_id)
    if filters.message_ids is not None:
        query = query.where(letter.message_id == any_(literal(list(filters.message_ids), ARRAY(UUID))))
    if filters.since is not None:
        query = query.where(letter.failed_at >= filters.since)
    if filters.until is not None:
        query = query.where(letter.failed_at <= filters.until)
    if wanted.statuses is not None:
        query = query.where(func.coalesce(letter.status, 0).in_(wanted.statuses))
    if wanted.reasons is not None:
        query = query.where(or_(*(_is_like(letter.reason, reason) for reason in wanted.reasons)))
    if wanted.numbers is not None:
        query = query.where(letter.id == any_(literal(list(wanted.numbers), ARRAY(BigInteger))))
    return query if wanted.up_to is None else query.where(letter.id <= wanted.up_to)


def _joined(looked: FromClause, wanted: Wanted, *columns: ColumnElement[Any]) -> Select[tuple[object, ...]]:
    query: Select[tuple[object, ...]] = select(*columns)
    both = looked.join(messages, messages.c.id == looked.c.message_id)
    return query.select_from(both).where(*on_message(messages, wanted.filters))


def _is_like(reason: ColumnElement[str], pattern: str) -> ColumnElement[bool]:
    if "*" not in pattern:
        return reason == pattern
    escaped = pattern.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return reason.like(escaped.replace("*", "%"))


def _whole(reason: str | None) -> str | None:
    return f"{reason}*" if reason is not None and len(reason) == _MOST_REASON_CHARACTERS else reason
