"""Deduplication keys: claimed by `insert`, forgotten here."""

from __future__ import annotations

from postroad.store.engine import Connection, affected


async def prune(connection: Connection, *, limit: int) -> int:
    """Delete up to limit keys whose window is over; gives how many there were."""
    status = await connection.execute(
        """
        with over as materialized (
          select tenant_id, key from deduplications where expires_at < now()
          order by expires_at limit $1 for update skip locked)
        delete from deduplications d using over where d.tenant_id = over.tenant_id and d.key = over.key
        """,
        limit,
    )
    return affected(status)
