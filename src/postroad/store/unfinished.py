"""What is unfinished, page by page in the order in which it falls due, and what each of it waits for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, any_, func, literal, literal_column, select, true, tuple_, union_all
from sqlalchemy.dialects.postgresql import ARRAY, UUID

from postroad.domain.ids import MessageId
from postroad.domain.message import StoredMessage
from postroad.domain.tenant import TenantId
from postroad.store import messages as stored_messages
from postroad.store.engine import Connection, Row, run
from postroad.store.filters import Filters, on_message
from postroad.store.tables import Instant, deliveries, messages

REACH = 20_000
"""How many a page looks at: with filters that match few, pages are short, but none takes long."""

MOST_BEFORE = 1_000
"""How far places in a queue are counted."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a delivery stands in the order of due times."""

    due_at: datetime
    message_id: MessageId


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A delivery with its message, and what decides when it goes on.

    `before` is how many are ahead of it in its queue, `MOST_BEFORE` for more; None without a place there.
    `is_with_handler` says that an attempt waits for its handler, until the `deadline`. `in_progress` counts the
    deliveries under the same flow-control key.
    """

    stored: StoredMessage
    state: int
    due_at: datetime
    is_due: bool
    attempts: int
    retried: int
    cancel_requested: bool
    is_with_handler: bool
    deadline: datetime | None
    before: int | None
    queue_paused: bool
    has_flow_key: bool
    flow_paused: bool
    flow_parallelism: int | None
    flow_rate: int | None
    flow_wakes_at: datetime | None
    in_progress: int


async def page(
    connection: Connection, tenant_id: TenantId, filters: Filters, *, after: Place | None, limit: int
) -> tuple[list[Unfinished], Place | None]:
    """Up to `limit` deliveries that match, the first due first; and the place of the last one, if there may be more.

    The first statement of a transaction, all of which then sees one moment.
    """
    # One moment for both statements: what ends between them would be missing, and its callback not be there yet.
    await connection.execute("set transaction isolation level repeatable read")
    rows = await run(connection, _looked(tenant_id, filters, after, limit))
    if not rows:
        return [], None
    found = [row for row in rows if row["id"] is not None][:limit]
    is_full, seen = len(found) == limit, rows[0]["seen"]
    last = None
    if is_full:
        last = Place(found[-1]["due_at"], found[-1]["id"])
    elif seen == REACH:
        last = Place(rows[0]["last_due"], rows[0]["last_id"])
    return await _details(connection, found), last


def _looked(tenant_id: TenantId, filters: Filters, after: Place | None, limit: int) -> Select[Any]:
    d = deliveries.c
    active: ColumnElement[int] = literal_column("2")

    def part(in_state: ColumnElement[bool]) -> Select[Any]:
        conditions = [d.tenant_id == tenant_id, in_state]
        if after is not None:
            key = tuple_(literal(after.due_at, Instant), literal(after.message_id, UUID))
            conditions.append(tuple_(d.due_at, d.id) > key)
        if filters.message_ids is not None:
            conditions.append(d.id == any_(literal(list(filters.message_ids), ARRAY(UUID))))
        first = select(d.id, d.due_at).where(*conditions).order_by(d.due_at, d.id).limit(REACH)
        return select(first.subquery())

    # Apart, because those under way are few, and have no index of their own that every publish would pay for.
    both = union_all(part(d.state == active), part(d.state != active)).subquery()
    looked = select(both).order_by(both.c.due_at, both.c.id).limit(REACH).cte("looked").prefix_with("materialized")
    m = messages.c
    conditions = on_message(messages, filters)
    conditions += [m.created_at >= filters.since] if filters.since is not None else []
    conditions += [m.created_at <= filters.until] if filters.until is not None else []
    one = select(m.id).where(m.id == looked.c.id, *conditions).limit(1).lateral()
    found = select(looked).join(one, true()).order_by(looked.c.due_at, looked.c.id).limit(limit).subquery()
    last = select(looked.c.due_at, looked.c.id).order_by(looked.c.due_at.desc(), looked.c.id.desc()).limit(1).subquery()
    extent = select(
        select(func.count()).select_from(looked).scalar_subquery().label("seen"),
        select(last.c.due_at).scalar_subquery().label("last_due"),
        select(last.c.id).scalar_subquery().label("last_id"),
    ).subquery()
    everything: Select[Any] = select(extent, found).select_from(extent.outerjoin(found, true()))
    return everything.order_by(found.c.due_at, found.c.id)


async def _details(connection: Connection, found: Sequence[Row]) -> list[Unfinished]:
    ids = [row["id"] for row in found]
    stored = {one.message.id: one for one in await stored_messages.fetch(connection, ids)}
    rows = await connection.fetch(
        """
        select d.id, d.state, d.due_at, d.due_at <= now() as is_due, d.lease, d.retried,
          d.cancel_requested_at is not null as cancel_requested,
          w.deadline, coalesce(q.paused, false) as queue_paused,
          case when d.seq is not null then (
            select count(*) from (
              select from deliveries b where b.queue_id = d.queue_id and b.seq < d.seq and b.sub = 0 limit $2) ahead
          ) end as before,
          k.id is not null as has_flow_key, coalesce(k.paused, false) as flow_paused, k.parallelism, k.rate, k.wake_at,
          (select count(*) from deliveries a where a.flow_key_id = d.flow_key_id and a.state = 2) as in_progress
        from unnest($1::uuid[]) with ordinality as wanted(id, n)
        join deliveries d on d.id = wanted.id
        left join waits w on w.message_id = d.id and d.state = 2 and w.lease = d.lease
        left join queues q on q.id = d.queue_id
        left join flow_keys k on k.id = d.flow_key_id
        order by wanted.n
        """,
        ids,
        MOST_BEFORE,
    )
    return [
        Unfinished(
            stored[row["id"]],
            state=row["state"],
            due_at=row["due_at"],
            is_due=row["is_due"],
            attempts=row["lease"],
            retried=row["retried"],
            cancel_requested=row["cancel_requested"],
            is_with_handler=row["deadline"] is not None,
            deadline=row["deadline"],
            before=row["before"],
            queue_paused=row["queue_paused"],
            has_flow_key=row["has_flow_key"],
            flow_paused=row["flow_paused"],
            flow_parallelism=row["parallelism"],
            flow_rate=row["rate"],
            flow_wakes_at=_instant(row["wake_at"]),
            in_progress=row["in_progress"],
        )
        for row in rows
        if row["id"] in stored
    ]


def _instant(value: datetime | None) -> datetime | None:
    """What is `infinity` there is so far away that asyncpg has no time zone for it."""
    return None if value is None or value.year >= 9999 else value
