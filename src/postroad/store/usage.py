"""How many messages each tenant has published on each day of UTC."""

from __future__ import annotations

from datetime import date, timedelta

from postroad.domain.tenant import TenantId
from postroad.store.engine import Connection, affected


async def take(connection: Connection, tenant_id: TenantId, count: int, *, most: int) -> bool:
    """Count messages of today, if there may be so many; one statement, so that no two callers take the same."""
    taken = await connection.fetchval(
        """
        insert into usage as u (tenant_id, day, messages)
        select $1, (now() at time zone 'utc')::date, $2::bigint where $2::bigint <= $3::bigint
        on conflict (tenant_id, day) do update set messages = u.messages + excluded.messages
        where u.messages + excluded.messages <= $3::bigint
        returning true
        """,
        tenant_id,
        count,
        most,
    )
    return taken is True


async def today(connection: Connection, tenant_id: TenantId) -> tuple[int, int]:
    """How many messages were counted today, and when tomorrow begins, in Unix seconds."""
    row = await connection.fetchrow(
        """
        select coalesce((select messages from usage where tenant_id = $1 and day = today), 0) as count,
          extract(epoch from (today + 1)::timestamp at time zone 'utc')::bigint as tomorrow
        from (select (now() at time zone 'utc')::date) as t(today)
        """,
        tenant_id,
    )
    assert row is not None
    return row["count"], row["tomorrow"]


async def days(connection: Connection, tenant_id: TenantId) -> list[tuple[date, int]]:
    """How many messages were counted on each day that is remembered, the latest first."""
    rows = await connection.fetch("select day, messages from usage where tenant_id = $1 order by day desc", tenant_id)
    return [(row["day"], row["messages"]) for row in rows]


async def prune(connection: Connection, *, limit: int, older_than: timedelta) -> int:
    """Delete up to limit counts of days that long ago; gives how many there were."""
    status = await connection.execute(
        """
        with old as materialized (
          select tenant_id, day from usage where day < (now() at time zone 'utc' - $2::interval)::date
          limit $1 for update skip locked)
        delete from usage u using old where u.tenant_id = old.tenant_id and u.day = old.day
        """,
        limit,
        older_than,
    )
    return affected(status)
