"""Deliveries in the hands of their handlers: each attempt stays open until it is acknowledged, given up or overdue.

Such a delivery is active as any other, so queues, keys and cancellations treat it as under way. It is held under a
dispatcher id that no process has, and so outlives them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from postroad.domain.ids import MessageId
from postroad.domain.tenant import TenantId
from postroad.store.engine import Connection

HANDLERS = 0
"""Who holds them: never the id of a dispatcher, nor a row among these."""


@dataclass(frozen=True, slots=True)
class Held:
    """An attempt that waits for its handler, as its delivery says."""

    message_id: MessageId
    tenant_id: TenantId
    lease: int
    retried: int
    destination: int
    is_gated: bool
    duration: timedelta
    span: timedelta


@dataclass(frozen=True, slots=True)
class Overdue:
    """A wait whose deadline has passed."""

    tenant_id: TenantId
    message_id: MessageId
    lease: int
    deadline: datetime


_OF_THE_DELIVERY = ("lease", "retried", "destination", "is_gated", "duration")


async def begin(
    connection: Connection, dispatcher_id: int, waits: Sequence[tuple[MessageId, int, timedelta]]
) -> set[MessageId]:
    """Leave attempts, given by message, lease and the longest silence, to their handlers; gives those that were held.

    One statement, which commits by itself.
    """
    rows = await connection.fetch(
        """
        with given as materialized (
          select * from unnest($2::uuid[], $3::bigint[], $4::float8[]) as g(id, lease, span_s)),
        held as materialized (
          select d.id, d.tenant_id, d.lease, make_interval(secs => g.span_s) as span
          from deliveries d join given g on g.id = d.id and g.lease = d.lease
          where d.id = any($2::uuid[]) and d.state = 2 and d.dispatcher_id = $1 order by d.id for update of d),
        left_to as (
          update deliveries set dispatcher_id = 0, unsettled_claims = 0 where id = any(array(select id from held)))
        insert into waits (message_id, tenant_id, lease, span, deadline)
        select id, tenant_id, lease, span, now() + span from held
        on conflict (message_id) do update
        set lease = excluded.lease, span = excluded.span, deadline = excluded.deadline
        returning message_id
        """,
        dispatcher_id,
        [one for one, _, _ in waits],
        [lease for _, lease, _ in waits],
        [span.total_seconds() for _, _, span in waits],
    )
    return {row["message_id"] for row in rows}


async def take(
    connection: Connection, tenant_id: TenantId, message_id: MessageId, lease: int | None, *, overdue: bool = False
) -> Held | None:
    """End a wait, in the transaction that settles the attempt. None if it is over, or not `overdue` when it should be.

    Without a lease it is that of whichever attempt waits. The delivery is locked first, as everywhere.
    """
    delivery = await connection.fetchrow(
        """
        select id, lease, retried, destination, queue_id is not null or flow_key_id is not null as is_gated,
          clock_timestamp() - active_at as duration
        from deliveries
        where id = $1 and tenant_id = $2 and lease = coalesce($3, lease) and state = 2 and dispatcher_id = $4 for update
        """,
        message_id,
        tenant_id,
        lease,
        HANDLERS,
    )
    if delivery is None:
        if overdue:
            await _forget(connection, message_id, lease)
        return None
    span = await connection.fetchval(
        "delete from waits where message_id = $1 and lease = $2 and (deadline <= now() or not $3) returning span",
        message_id,
        delivery["lease"],
        overdue,
    )
    if span is None:
        return None
    return Held(message_id, tenant_id, span=span, **{name: delivery[name] for name in _OF_THE_DELIVERY})


async def prolong(
    connection: Connection, tenant_id: TenantId, message_id: MessageId, lease: int | None, span: timedelta | None
) -> datetime | None:
    """Move the deadline to a span from now, by default as long as before; gives it, or None if nothing waits."""
    deadline: datetime | None = await connection.fetchval(
        """
        update waits set span = coalesce($4::interval, span), deadline = now() + coalesce($4::interval, span)
        where message_id = $1 and tenant_id = $2 and lease = coalesce($3, lease) returning deadline
        """,
        message_id,
        tenant_id,
        lease,
        span,
    )
    return deadline


async def overdue(connection: Connection, limit: int, *, after: Overdue | None) -> list[Overdue]:
    """The next waits whose deadline has passed, the oldest first."""
    rows = await connection.fetch(
        """
        select tenant_id, message_id, lease, deadline from waits
        where deadline <= now() and (deadline, message_id) > ($2, $3) order by deadline, message_id limit $1
        """,
        limit,
        _EVER if after is None else after.deadline,
        _FIRST if after is None else after.message_id,
    )
    return [Overdue(**row) for row in rows]


async def _forget(connection: Connection, message_id: MessageId, lease: int | None) -> None:
    """Delete a wait that no attempt is left of, so that nobody comes back to it."""
    await connection.execute(
        """
        delete from waits where message_id = $1 and lease = $2 and not exists (
          select from deliveries d
          where d.id = waits.message_id and d.lease = waits.lease and d.state = 2 and d.dispatcher_id = $3)
        """,
        message_id,
        lease,
        HANDLERS,
    )


_EVER, _FIRST = datetime(1970, 1, 1, tzinfo=UTC), UUID(int=0)
