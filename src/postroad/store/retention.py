"""The end of history: days are dropped whole, what is still needed moves out before, the rest goes in small steps."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from typing import TypeAlias
from uuid import UUID

import asyncpg

from postroad.domain.ids import first_id_of
from postroad.store.engine import Connection, affected

STEP = 1_000
"""Rows that one transaction moves or deletes."""

START = UUID(int=0)
"""Where a walk over message ids begins."""

Progress: TypeAlias = tuple[int, UUID | None]
"""What a step did: to how many rows, and where the next one goes on, None after the last."""

_LOCK = 7_064_116_843_113
"""Of a transaction-level advisory lock: one node prunes at a time."""

_NOT_NOW = (asyncpg.ObjectNotInPrerequisiteStateError, asyncpg.UndefinedTableError, asyncpg.DeadlockDetectedError,
            asyncpg.QueryCanceledError, TimeoutError)  # fmt: skip
"""Somebody reads the table for long, or another node has detached or dropped it: the next turn sees what is left."""


@dataclass(frozen=True, slots=True)
class Retention:
    """How long the log, with the finished messages that it is about, and how long dead letters are kept."""

    log: timedelta
    dead_letters: timedelta


@dataclass(frozen=True, slots=True)
class Day:
    """The partition of a day, or what a node that died left of it: on its way out, or a table by itself."""

    table: str
    is_attached: bool
    is_leaving: bool

    @property
    def has_messages(self) -> bool:
        """Messages rather than what became of them."""
        return self.table.startswith("messages")

    @property
    def parent(self) -> str:
        """The table that it is or was a partition of."""
        return "messages_recent" if self.has_messages else self.table[:-9]

    @property
    def ids(self) -> tuple[UUID, UUID]:
        """The bounds of the day's message ids, the second excluded."""
        digits = self.table[-8:]
        day = date(int(digits[:4]), int(digits[4:6]), int(digits[6:]))
        return first_id_of(day), first_id_of(day + timedelta(days=1))


async def alone(connection: Connection) -> bool:
    """Whether the caller's transaction is the only one that prunes, up to its end."""
    is_alone: bool = await connection.fetchval("select pg_try_advisory_xact_lock($1)", _LOCK)
    await still_alone(connection)
    return is_alone


async def still_alone(connection: Connection) -> None:
    """Raise unless the transaction is still there. To be asked at each step, or the server takes it for abandoned.

    A simple query without a snapshot: it also closes the portal of the query before, whose snapshot would make every
    detachment wait for this very transaction.
    """
    await connection.execute("show transaction_isolation")


async def oldest_day(connection: Connection, log: timedelta) -> date:
    """The first day that the log still needs, by the clock of the database."""
    day: date = await connection.fetchval(
        "select (greatest(now() - $1::interval, 'epoch') at time zone 'utc')::date", log
    )
    return day


async def days_before(connection: Connection, oldest: date) -> list[Day]:
    """The days to drop, table by table; what is on its way out first, because nothing else may leave before it."""
    rows = await connection.fetch(
        r"""
        select c.relname::text as name, i.inhrelid is not null as is_attached,
          coalesce(i.inhdetachpending, false) as is_leaving
        from pg_class c left join pg_inherits i on i.inhrelid = c.oid
        where c.relnamespace = current_schema()::regnamespace and c.relkind = 'r'
          and c.relname ~ '^(attempts|messages|reports)_\d{8}$' and right(c.relname, 8) < to_char($1::date, 'YYYYMMDD')
        order by left(c.relname, 8), is_leaving desc, c.relname
        """,
        oldest,
    )
    return [Day(row["name"], row["is_attached"], row["is_leaving"]) for row in rows]


async def keep(connection: Connection, after: UUID, *, day: Day) -> Progress:
    """Move messages of a day that something refers to out of its way: one step.

    A reader sees each in one place at any moment, since the update is one statement.
    """
    ids, last = await _referred(connection, after, day)
    status = await connection.execute(
        "update messages set kept = true where not kept and id >= $1 and id < $2 and id = any($3::uuid[])",
        *day.ids,
        ids,
    )
    return affected(status), last


async def left_behind(connection: Connection, after: UUID, *, day: Day) -> Progress:
    """Count messages in a detached day that something refers to: one step. There should be none."""
    ids, last = await _referred(connection, after, day)
    return len(ids), last


async def detach(connection: Connection, day: Day) -> bool:
    """Take a day out of its table while others read and write; outside a transaction. False when it has to wait.

    It waits for whoever has the table open, and what is broken off meanwhile stays on its way out. Then nobody sees
    the day any more, and the next turn finishes it.
    """
    if not day.is_attached:
        return True
    how = "finalize" if day.is_leaving else "concurrently"
    try:
        await connection.execute(f"alter table {day.parent} detach partition {day.table} {how}")
    except _NOT_NOW:
        return False
    return True


async def attach(connection: Connection, day: Day) -> None:
    """Put a detached day of messages back."""
    first, beyond = day.ids
    await connection.execute(
        f"alter table {day.parent} attach partition {day.table} for values from ('{first}') to ('{beyond}')"
    )


async def drop(connection: Connection, day: Day) -> bool:
    """Drop a detached day, outside a transaction. False when somebody reads it."""
    try:
        await connection.execute(f"drop table if exists {day.table}")
    except _NOT_NOW:
        return False
    return True


async def prune_kept(connection: Connection, after: UUID, *, oldest: date) -> Progress:
    """Delete messages that were kept beyond their day, once nothing refers to them any more: one step.

    What has lost its references never gets another one: deliveries are stored with their message, and everything else
    comes out of a delivery.
    """
    row = await connection.fetchrow(
        """
        with looked as materialized (select id from messages_kept where id > $1 and id < $2 order by id limit $3),
        ended as materialized (
          select id from looked where not exists (select from deliveries d where d.id = looked.id)
            and not exists (select from dead_letters l where l.message_id = looked.id)),
        forgotten as materialized (
          select id from ended where not exists (select from attempts a where a.message_id = ended.id)
            and not exists (select from cancellations c where c.message_id = ended.id)),
        gone as (delete from messages_kept where id = any(array(select id from forgotten)) returning id)
        select (select count(*) from gone) as gone, (select count(*) from looked) as looked,
          (select id from looked order by id desc limit 1) as last
        """,
        after,
        first_id_of(oldest),
        STEP,
    )
    assert row is not None
    return row["gone"], row["last"] if row["looked"] == STEP else None


async def prune_cancellations(connection: Connection, _: UUID, *, log: timedelta) -> Progress:
    """Delete cancellations that are older than the log: one step. By tenant, because their index is."""
    status = await connection.execute(
        """
        with old as materialized (
          select c.message_id from tenants t cross join lateral (
            select message_id from cancellations
            where tenant_id = t.id and requested_at < now() - $1::interval
              and not exists (select from deliveries d where d.id = cancellations.message_id)
            order by requested_at limit $2) c
          limit $2)
        delete from cancellations where message_id = any(array(select message_id from old))
        """,
        log,
        STEP,
    )
    return _anew(affected(status))


async def prune_dead_letters(connection: Connection, _: UUID, *, older_than: timedelta) -> Progress:
    """Delete the oldest dead letters: one step. Their numbers ascend with time, so a younger one ends it."""
    status = await connection.execute(
        """
        with oldest as materialized (select id, failed_at from dead_letters order by id limit $2)
        delete from dead_letters
        where id = any(array(select id from oldest where failed_at < now() - $1::interval))
        """,
        older_than,
        STEP,
    )
    return _anew(affected(status))


async def _referred(connection: Connection, after: UUID, day: Day) -> tuple[list[UUID], UUID | None]:
    """Messages in a day's table to which a delivery, a dead letter or an entry of the log refers, a step of them.

    It walks over what refers and not over the day, which is larger by far. Every part has its own limit, or each step
    would read all that is ahead.
    """
    first, beyond = day.ids
    rows = await connection.fetch(
        f"""
        with referred as materialized (
          select id from (
            (select id from deliveries where id > $1 and id < $2 order by id limit $3)
            union all
            (select message_id from dead_letters where message_id > $1 and message_id < $2 order by 1 limit $3)
            union all
            (select distinct message_id from attempts where message_id > $1 and message_id < $2 order by 1 limit $3)
            union all
            (select message_id from cancellations where message_id > $1 and message_id < $2 order by 1 limit $3)) r
          group by id order by id limit $3)
        select r.id, m.id is not null as is_here from referred r left join {day.table} m on m.id = r.id order by r.id
        """,  # noqa: S608  the name is one that days_before found in the catalog
        max(after, first),
        beyond,
        STEP,
    )
    return [row["id"] for row in rows if row["is_here"]], rows[-1]["id"] if len(rows) == STEP else None


def _anew(count: int) -> Progress:
    """A step that always takes the oldest has no place to go on from."""
    return count, START if count == STEP else None
