"""Queues: made, changed and deleted; their windows are opened by `deliveries.release`."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import Select, any_, case, func, literal, select
from sqlalchemy.dialects.postgresql import ARRAY, TEXT, insert

from postroad.domain.ids import MessageId
from postroad.domain.queue import Queue
from postroad.domain.tenant import TenantId
from postroad.errors import QuotaExceeded
from postroad.store.deliveries import cancel, release, wake
from postroad.store.engine import Connection, Row, run
from postroad.store.tables import queues

STATES = ("held", "waiting", "active")
"""The states of a delivery by their numbers."""


async def admit(connection: Connection, tenant_id: TenantId, names: Collection[str], *, most: int) -> None:
    """Refuse new queues beyond what a tenant may have. Raises `QuotaExceeded`."""
    count, known = await _count(connection, tenant_id, names)
    if count + len(names) - known > most and known < len(names):
        raise QuotaExceeded("maxQueues", most)


async def upsert(connection: Connection, tenant_id: TenantId, name: str, *, parallelism: int, paused: bool) -> None:
    """Make a queue, or change it, and open or close its window; in the caller's transaction."""
    values = {"parallelism": parallelism, "paused": paused}
    query = insert(queues).values(tenant_id=tenant_id, name=name, **values)
    changed = query.on_conflict_do_update(constraint="queues_name", set_={**values, "updated_at": func.now()})
    [row] = await run(connection, changed.returning(queues.c.id))
    await release(connection, queue_ids=[row["id"]])


async def set_paused(connection: Connection, tenant_id: TenantId, name: str, *, paused: bool) -> bool:
    """Pause or resume a queue, in the caller's transaction; False when there is none of this name."""
    query = (
        queues.update()
        .where(queues.c.tenant_id == tenant_id, queues.c.name == name)
        .values(paused=paused, updated_at=func.now())
        .returning(queues.c.id)
    )
    rows = await run(connection, query)
    await release(connection, queue_ids=[row["id"] for row in rows])
    return bool(rows)


async def list_(connection: Connection, tenant_id: TenantId) -> list[Queue]:
    """All queues of a tenant, by name."""
    return await _queues(connection, select(queues).where(queues.c.tenant_id == tenant_id).order_by(queues.c.name))


async def find(connection: Connection, tenant_id: TenantId, name: str) -> Queue | None:
    """A queue and what is in it."""
    query = select(queues).where(queues.c.tenant_id == tenant_id, queues.c.name == name)
    found = await _queues(connection, query)
    return found[0] if found else None


async def first(connection: Connection, tenant_id: TenantId, name: str, *, limit: int) -> list[MessageId]:
    """The messages that have the first places of a queue, in order; those that wait for their time have none yet."""
    rows = await connection.fetch(
        """
        select d.id from queues q join deliveries d on d.queue_id = q.id
        where q.tenant_id = $1 and q.name = $2 and d.seq is not null and d.sub = 0
        order by d.seq limit $3
        """,
        tenant_id,
        name,
        limit,
    )
    return [row["id"] for row in rows]


async def remove(connection: Connection, tenant_id: TenantId, name: str) -> int | None:
    """Delete a queue; gives the number under which its messages are still to be cancelled, None when there was none."""
    query = queues.delete().where(queues.c.tenant_id == tenant_id, queues.c.name == name).returning(queues.c.id)
    rows = await run(connection, query)
    return rows[0]["id"] if rows else None


async def gone(connection: Connection) -> list[int]:
    """Queues that were deleted, but have something left."""
    rows = await connection.fetch(
        """
        with recursive used(id) as (
          (select queue_id from deliveries where queue_id is not null order by queue_id limit 1)
          union all
          select (select d.queue_id from deliveries d where d.queue_id > used.id order by d.queue_id limit 1)
          from used where used.id is not null)
        select id from used where id is not null and not exists (select from queues q where q.id = used.id)
        """
    )
    return [row["id"] for row in rows]


async def empty(connection: Connection, queue_id: int, *, limit: int) -> int:
    """Cancel messages of a deleted queue, in the caller's transaction; gives how many were looked at, at most limit.

    Callbacks of messages that had their turn are not cancelled with them: they go on without the queue.
    """
    rows = await connection.fetch(
        """
        select tenant_id, id from deliveries
        where queue_id = $1 and sub = 0 and cancel_requested_at is null limit $2
        """,
        queue_id,
        limit,
    )
    if rows:
        # A queue belongs to one tenant.
        await cancel(connection, TenantId(rows[0]["tenant_id"]), [row["id"] for row in rows])
    freed = await connection.fetch(
        """
        with callback as materialized (
          select id from deliveries where queue_id = $1 and sub > 0 and state <> 2 order by id for update skip locked)
        update deliveries set queue_id = null, seq = null, sub = 0, fifo = false, state = 1
        where id = any(array(select id from callback)) returning flow_key_id
        """,
        queue_id,
    )
    await wake(connection, {row["flow_key_id"] for row in freed if row["flow_key_id"] is not None})
    return len(rows)


async def stuck(connection: Connection) -> list[int]:
    """Queues whose window is not where it should be: narrower than it could be, or open while they are paused.

    A few may be found in passing, where a release skipped a row that somebody else had locked.
    """
    rows = await connection.fetch(
        """
        select q.id from queues q
        where not q.paused
          and exists (select from deliveries d where d.queue_id = q.id and d.state = 0 and d.seq is not null)
          and q.parallelism > (
            select count(*) from (
              select distinct d.seq from deliveries d
              where d.queue_id = q.id and d.state <> 0 limit q.parallelism) opened)
        union all
        select q.id from queues q
        where q.paused and exists (select from deliveries d where d.queue_id = q.id and d.state = 1)
        """
    )
    return [row["id"] for row in rows]


async def _queues(connection: Connection, query: Select[tuple[object, ...]]) -> list[Queue]:
    rows = await run(connection, query)
    counts: dict[int, dict[str, int]] = {row["id"]: dict.fromkeys(STATES, 0) for row in rows}
    if counts:
        for row in await _counts(connection, list(counts)):
            counts[row["queue_id"]][STATES[row["state"]]] = row["count"]
    return [_queue(row, counts[row["id"]]) for row in rows]


async def _counts(connection: Connection, queue_ids: Sequence[int]) -> list[Row]:
    return await connection.fetch(
        """
        select queue_id, state, count(*) from deliveries
        where queue_id = any($1::bigint[]) and sub = 0 group by 1, 2
        """,
        queue_ids,
    )


async def _count(connection: Connection, tenant_id: TenantId, names: Collection[str]) -> tuple[int, int]:
    is_named = queues.c.name == any_(literal(list(names), ARRAY(TEXT)))
    query = select(func.count(), func.count(case((is_named, 1)))).where(queues.c.tenant_id == tenant_id)
    [row] = await run(connection, query)
    return row[0], row[1]


def _queue(row: Row, counts: dict[str, int]) -> Queue:
    return Queue(row["name"], row["parallelism"], row["paused"], row["created_at"], row["updated_at"], counts)
