"""Schedules as a list shows them: without what they publish, which may be much."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from postroad.domain.ids import MessageId
from postroad.domain.tenant import TenantId
from postroad.store.engine import Connection


@dataclass(frozen=True, slots=True)
class Listed:
    """A schedule in a list; what its names mean is said of `Schedule`."""

    id: str
    cron: str
    destination: str
    paused: bool
    next_at: datetime
    last_at: datetime | None
    last_messages: Sequence[MessageId]
    error: str | None


async def counts(connection: Connection, tenant_id: TenantId) -> tuple[int, int]:
    """How many schedules are active, and how many paused."""
    row = await connection.fetchrow(
        """
        select count(*) filter (where not paused) as active, count(*) filter (where paused) as paused
        from schedules where tenant_id = $1
        """,
        tenant_id,
    )
    assert row is not None
    return row["active"], row["paused"]


async def page(
    connection: Connection,
    tenant_id: TenantId,
    *,
    search: str = "",
    paused: bool | None = None,
    after: str = "",
    limit: int,
) -> list[Listed]:
    """Up to limit schedules by their ids, those with the search in their id, destination or expression, in any case."""
    rows = await connection.fetch(
        """
        select id, cron, destination, paused, next_at, last_at, last_messages, error from schedules
        where tenant_id = $1 and id > $2 and ($3::bool is null or paused = $3)
          and ($4 = '' or strpos(lower(id || ' ' || destination || ' ' || cron), lower($4)) > 0)
        order by id limit $5
        """,
        tenant_id,
        after,
        paused,
        search,
        limit,
    )
    return [Listed(**row) for row in rows]


async def named(connection: Connection, tenant_id: TenantId, ids: Sequence[str]) -> list[Listed]:
    """Schedules of these ids, by id."""
    rows = await connection.fetch(
        """
        select id, cron, destination, paused, next_at, last_at, last_messages, error from schedules
        where tenant_id = $1 and id = any($2::text[]) order by id
        """,
        tenant_id,
        ids,
    )
    return [Listed(**row) for row in rows]
