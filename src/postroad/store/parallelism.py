"""How many deliveries of a tenant may be under way at a time, over all nodes.

Messages of such a tenant that have no flow-control key wait under one that nobody can name, the empty one, so that only
claims that count what is under way can take them. They do so while that key is there and pinned; its limit is in the
tenant's row, and goes for all keys of the tenant together.
"""

from __future__ import annotations

from uuid import UUID

from postroad.domain.tenant import TenantId
from postroad.store.engine import Connection

_STEP = 1_000
_START = UUID(int=0)


async def limit(connection: Connection, tenant_id: TenantId, parallelism: int) -> None:
    """Let no more deliveries of a tenant begin than this, as long as others are under way.

    Outside a transaction every step commits by itself. What is being published meanwhile, by a statement that began
    before, may be left out: gather that a moment later.
    """
    # The two belong together. First the tenant, as claims do, so that changes at once come one after the other.
    async with connection.transaction():
        await connection.execute("update tenants set parallelism = $2 where id = $1", tenant_id, parallelism)
        await connection.execute(
            """
            insert into flow_keys (tenant_id, key, parallelism_pinned) values ($1, '', true)
            on conflict (tenant_id, key) do update set parallelism_pinned = true
            """,
            tenant_id,
        )
    await gather(connection, tenant_id)


async def gather(connection: Connection, tenant_id: TenantId) -> int:
    """Put what a tenant with a limit has unfinished and without a key under the empty one; gives how many that were.

    Outside a transaction. Also what is under way: it may come back for a retry.
    """
    total, after = 0, _START
    while True:
        rows = await connection.fetch(
            """
            with step as materialized (
              select id from deliveries where tenant_id = $1 and flow_key_id is null and id > $2
              order by id limit $3 for update)
            update deliveries d set flow_key_id = k.id
            from flow_keys k
            where k.tenant_id = $1 and k.key = '' and k.parallelism_pinned and d.id = any(array(select id from step))
            returning d.id
            """,
            tenant_id,
            after,
            _STEP,
        )
        if not rows:
            break
        total, after = total + len(rows), max(row["id"] for row in rows)
    await connection.execute("update flow_keys set wake_at = now() where tenant_id = $1 and key = ''", tenant_id)
    return total


async def unlimit(connection: Connection, tenant_id: TenantId) -> None:
    """Let any number of deliveries of a tenant be under way. Outside a transaction.

    What is under way, or published at this very moment, stays under the empty key, where nothing holds it any more.
    """
    async with connection.transaction():
        await connection.execute("update tenants set parallelism = null where id = $1", tenant_id)
        await connection.execute(
            "update flow_keys set parallelism_pinned = false where tenant_id = $1 and key = ''", tenant_id
        )
    after = _START
    while True:
        rows = await connection.fetch(
            """
            with step as materialized (
              select id from deliveries
              where flow_key_id = (
                  select id from flow_keys where tenant_id = $1 and key = '' and not parallelism_pinned)
                and state <> 2 and id > $2
              order by id limit $3 for update)
            update deliveries set flow_key_id = null where id = any(array(select id from step)) returning id
            """,
            tenant_id,
            after,
            _STEP,
        )
        if not rows:
            break
        after = max(row["id"] for row in rows)
