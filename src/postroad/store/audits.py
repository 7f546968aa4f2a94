"""The audit log: who did what in the console, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from postroad.domain.tenant import TenantId
from postroad.store.engine import Connection, affected

MOST_TARGET_CHARACTERS = 500


@dataclass(frozen=True, slots=True)
class Entry:
    """Who did what with what, and what came of it, all in words."""

    id: int
    at: datetime
    actor: str
    action: str
    target: str
    outcome: str


async def add(
    connection: Connection, tenant_id: TenantId, *, actor: str, action: str, target: str, outcome: str
) -> None:
    """Write an entry. Nothing of it may be secret."""
    await connection.execute(
        "insert into audit_entries (tenant_id, actor, action, target, outcome) values ($1, $2, $3, $4, $5)",
        tenant_id,
        *(text.replace("\0", "")[:MOST_TARGET_CHARACTERS] for text in (actor, action, target, outcome)),
    )


async def page(
    connection: Connection, tenant_id: TenantId, *, before: int | None, limit: int, words: str = ""
) -> list[Entry]:
    """Entries of a tenant, the newest first; only those that have these words in who, what, with what or outcome."""
    rows = await connection.fetch(
        """
        select id, at, actor, action, target, outcome from audit_entries
        where tenant_id = $1 and ($2::bigint is null or id < $2)
          and ($4 = '' or position(lower($4) in lower(concat_ws(' ', actor, action, target, outcome))) > 0)
        order by id desc limit $3
        """,
        tenant_id,
        before,
        limit,
        words.replace("\0", ""),
    )
    return [Entry(**row) for row in rows]


async def prune(connection: Connection, *, limit: int, older_than: timedelta) -> int:
    """Delete up to limit entries of that long ago; gives how many there were."""
    status = await connection.execute(
        """
        delete from audit_entries where id = any(array(
          select id from audit_entries where at < now() - $2::interval order by id limit $1 for update skip locked))
        """,
        limit,
        older_than,
    )
    return affected(status)
