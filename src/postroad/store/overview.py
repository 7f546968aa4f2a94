"""How things stand: what waits, what is under way, what has failed, and who works on it. Counts are bounded."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from postroad.domain.tenant import TenantId
from postroad.store.engine import Connection

MOST_COUNTED = 10_000


@dataclass(frozen=True, slots=True)
class Standing:
    """Numbers of messages, `MOST_COUNTED` + 1 for more than that, and since when the first one should be under way."""

    waiting: int
    active: int
    dead: int
    dead_today: int
    oldest_due_at: datetime | None
    now: datetime


@dataclass(frozen=True, slots=True)
class Upcoming:
    """When a schedule fires next."""

    id: str
    cron: str
    destination: str
    next_at: datetime


@dataclass(frozen=True, slots=True)
class Working:
    """A process that delivers, and how many deliveries it has in its hands."""

    id: int
    node: str | None
    is_alive: bool
    active: int


@dataclass(frozen=True, slots=True)
class Room:
    """What a kind of table takes of the disk, and how much of that is of days that retention drops within a day."""

    name: str
    bytes: int
    soon_free_bytes: int


async def standing(connection: Connection, tenant_id: TenantId) -> Standing:
    """How a tenant's messages stand. What is late is what is due and waits for nothing but a free slot."""
    row = await connection.fetchrow(
        """
        select now() as now,
          (select count(*) from (
             select from deliveries where tenant_id = $1 and state <> 2 limit $2) w) as waiting,
          (select count(*) from deliveries where tenant_id = $1 and state = 2) as active,
          (select count(*) from (select from dead_letters where tenant_id = $1 limit $2) d) as dead,
          (select count(*) from (
             select failed_at from dead_letters where tenant_id = $1 order by id desc limit $2) d
           where failed_at > now() - interval '1 day') as dead_today,
          (select min(due_at) from (
             select due_at, state, flow_key_id from deliveries where tenant_id = $1 and state <> 2 and due_at <= now()
             order by due_at, id limit 100) l
           where state = 1 and flow_key_id is null) as oldest_due_at
        """,
        tenant_id,
        MOST_COUNTED + 1,
    )
    assert row is not None
    return Standing(**row)


async def upcoming(connection: Connection, tenant_id: TenantId, *, limit: int) -> list[Upcoming]:
    """The schedules that fire next."""
    rows = await connection.fetch(
        """
        select id, cron, destination, next_at from schedules where tenant_id = $1 and not paused
        order by next_at limit $2
        """,
        tenant_id,
        limit,
    )
    return [Upcoming(**row) for row in rows]


async def working(connection: Connection) -> list[Working]:
    """Every process that delivers, those that have just died as well. For operators: of all tenants."""
    rows = await connection.fetch(
        """
        select d.id, d.node, d.alive_until > now() as is_alive,
          (select count(*) from deliveries where state = 2 and dispatcher_id = d.id) as active
        from dispatchers d order by d.id
        """
    )
    return [Working(**row) for row in rows]


async def rooms(connection: Connection, *, log_kept: timedelta) -> list[Room]:
    """What the database takes, the largest first. For operators: of all tenants."""
    rows = await connection.fetch(
        r"""
        with tables as (
          select regexp_replace(relname, '_(\d{8}|recent|kept)$', '') as name, pg_total_relation_size(oid) as bytes,
            relname ~ '_\d{8}$' and right(relname, 8) <= to_char(now() - $1::interval, 'YYYYMMDD') as is_over
          from pg_class where relkind = 'r' and relnamespace = current_schema()::regnamespace)
        select name, sum(bytes)::bigint as bytes,
          coalesce(sum(bytes) filter (where is_over), 0)::bigint as soon_free_bytes
        from tables group by name order by 2 desc, name
        """,
        log_kept,
    )
    return [Room(**row) for row in rows]
