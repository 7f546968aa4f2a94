"""Dead letters as people look at them: grouped by where they were to go and by what was wrong, counted, and in short.

The newest that match by themselves are looked at, no more than a bound: messages have to be read to find their hosts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from sqlalchemy import BigInteger, ColumnElement, Select, Subquery, Text, any_, case, func, literal, or_, select
from sqlalchemy.dialects.postgresql import ARRAY, UUID

from postroad.domain.dead_letter import dlq_id
from postroad.domain.ids import MessageId
from postroad.domain.message import METHODS
from postroad.domain.tenant import TenantId
from postroad.store.engine import Connection, Row, run
from postroad.store.filters import Filters, at_host, on_message, place_of
from postroad.store.tables import dead_letters, messages

LOOK = 10_000
"""Letters that a page looks at, which takes some tens of milliseconds."""

LOOK_BEFORE_BULK = 200_000
"""Letters that are looked at before bulk work, so that its count is exact wherever there are fewer."""

MOST_GROUPS = 50
_MOST_REASON_CHARACTERS = 160
_ADDRESS = r": [^ ]+:\d+$"
_OF_A_MESSAGE = ("url", "method", "labels", "queue", "flow_key", "url_group", "schedule_id", "caller_ip")
_OF_A_LINE = (
    "number", "failed_at", "status", "reason", "message_id", "url", "method", "labels", "queue", "url_group",
    "schedule_id",
)  # fmt: skip


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
    """Letters to one host, at one port, with one error: a status, or none and a reason.

    The reason ends in an asterisk where it was cut, or where the address of a connection stood.
    """

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


async def grouped(
    connection: Connection, tenant_id: TenantId, wanted: Wanted, *, look: int = LOOK, most: int = MOST_GROUPS
) -> Grouped:
    """What matches among the newest `look` letters, in `most` groups at most, the largest first."""
    looked = _letters(tenant_id, wanted).order_by(dead_letters.c.id.desc()).limit(look).subquery("looked")
    joined = _joined(looked, wanted)
    reason = case((joined.c.status.is_(None), func.left(joined.c.reason, _MOST_REASON_CHARACTERS)))
    others = {name: values for name, values in wanted.filters.values.items() if name != "host"}
    # First by what stands between the slashes, which is found ten times sooner than the host in it.
    authority = func.split_part(joined.c.url, "/", 3)
    parts = (
        select(
            authority.label("authority"),
            joined.c.status,
            reason.label("reason"),
            func.count().label("count"),
            func.max(joined.c.failed_at).label("newest_at"),
            func.max(joined.c.number).label("up_to"),
        )
        .where(*on_message(joined, replace(wanted.filters, values=others)))
        .group_by(authority, joined.c.status, reason)
        # Or the condition on the host would be looked at before this.
        .offset(0)
        .subquery("parts")
    )
    url = literal("x://", Text) + parts.c.authority
    host = place_of(url)
    kind = func.regexp_replace(parts.c.reason, _ADDRESS, ": *")
    count = func.sum(parts.c.count)
    query = (
        select(
            host.label("host"),
            parts.c.status,
            kind.label("reason"),
            count.label("count"),
            func.max(parts.c.newest_at).label("newest_at"),
            func.sum(count).over().label("total"),
            func.count().over().label("number_of_groups"),
            func.max(func.max(parts.c.up_to)).over().label("up_to"),
        )
        .group_by(host, parts.c.status, kind)
        .order_by(count.desc(), host, parts.c.status, kind)
        .limit(most)
    )
    if (hosts := wanted.filters.values.get("host")) is not None:
        query = query.where(at_host(url, literal([one.lower() for one in hosts], ARRAY(Text))))
    rows = await run(connection, query)
    _, _, seen = await _reached(connection, looked)
    groups = [
        Group(row["host"] or "", row["status"], _whole(row["reason"]), int(row["count"]), row["newest_at"])
        for row in rows
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
    letters = _letters(tenant_id, wanted).order_by(dead_letters.c.id.desc()).limit(look)
    looked = (letters if before is None else letters.where(dead_letters.c.id < before)).subquery("looked")
    joined = _joined(looked, wanted)
    query = (
        select(*(joined.c[name] for name in _OF_A_LINE))
        .where(*on_message(joined, wanted.filters))
        .order_by(joined.c.number.desc())
        .limit(limit + 1)
    )
    lines = [_line(row) for row in await run(connection, query)]
    if len(lines) > limit:
        return lines[:limit], lines[limit - 1].number
    least, _, seen = await _reached(connection, looked)
    return lines, least if seen >= look else None


async def ids(
    connection: Connection, tenant_id: TenantId, wanted: Wanted, *, after: int, look: int
) -> tuple[list[tuple[int, str]], int | None]:
    """Numbers and ids of letters that match among the next `look`, the oldest first, and after which to go on.

    None is for the last of them.
    """
    letters = _letters(tenant_id, wanted).where(dead_letters.c.id > after).order_by(dead_letters.c.id).limit(look)
    joined = _joined(looked := letters.subquery("looked"), wanted)
    query = (
        select(joined.c.number, joined.c.failed_at).where(*on_message(joined, wanted.filters)).order_by(joined.c.number)
    )
    rows = await run(connection, query)
    _, most, seen = await _reached(connection, looked)
    return [(row["number"], dlq_id(row["number"], row["failed_at"])) for row in rows], most if seen >= look else None


async def _reached(connection: Connection, looked: Subquery) -> tuple[int | None, int | None, int]:
    """The least and the highest number of what was looked at, and how many there were."""
    number = looked.c.id
    query = select(func.min(number).label("least"), func.max(number).label("most"), func.count().label("seen"))
    row = (await run(connection, query))[0]
    return row["least"], row["most"], row["seen"]


def _line(row: Row) -> Line:
    number = row["method"]
    method = METHODS[number] if number < len(METHODS) else f"unknown-{number}"
    return Line(**{**row, "method": method, "labels": row["labels"] or ()})


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


def _joined(looked: Subquery, wanted: Wanted) -> Subquery:
    """The letters with what filters and lists need of their messages."""
    columns = [messages.c[name] for name in _OF_A_MESSAGE]
    if "api" in wanted.filters.values:
        columns.append(messages.c.options)
    letter = looked.c
    return (
        select(letter.id.label("number"), letter.failed_at, letter.status, letter.reason, letter.message_id, *columns)
        .select_from(looked.join(messages, messages.c.id == letter.message_id))
        # Conditions on messages are looked at after the join, or the planner would sift all messages that there are.
        .offset(0)
        .subquery("joined")
    )


def _is_like(reason: ColumnElement[str], pattern: str) -> ColumnElement[bool]:
    if "*" not in pattern:
        return reason == pattern
    escaped = pattern.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return reason.like(escaped.replace("*", "%"))


def _whole(reason: str | None) -> str | None:
    return f"{reason}*" if reason is not None and len(reason) == _MOST_REASON_CHARACTERS else reason
