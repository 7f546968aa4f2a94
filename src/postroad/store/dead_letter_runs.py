"""Bulk work on dead letters that goes on when its page has been left: how far it is, and whether it is to stop.

What it is about stays in the dead letters until its turn comes, so nothing is lost with the process that works on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from postroad.domain.tenant import TenantId
from postroad.store.engine import Connection

DEAD_AFTER = timedelta(seconds=30)
"""A process that was not heard of for so long works on it no more."""

KEPT = 100
"""Runs of a tenant that are remembered, the newest."""


@dataclass(frozen=True, slots=True)
class Run:
    """Bulk work: `kind` is retry or delete, `q` the filter in words, `per_second` None for as fast as it goes.

    `kept` counts what was refused or had gone, `why` is what was said of one of these. `outcome` is None while it goes
    on; `is_lost` says that its process has died.
    """

    id: int
    actor: str
    kind: str
    q: str
    per_second: int | None
    total: int
    done: int
    kept: int
    why: str | None
    is_stopping: bool
    outcome: str | None
    created_at: datetime
    seen_at: datetime
    is_lost: bool


_SELECT = """
select id, actor, kind, q, per_second, total, done, kept, why, is_stopping, outcome, created_at, seen_at,
  outcome is null and seen_at < now() - $2::interval as is_lost
from dead_letter_runs where tenant_id = $1
"""


async def begin(
    connection: Connection,
    tenant_id: TenantId,
    *,
    actor: str,
    kind: str,
    q: str,
    per_second: int | None,
    total: int,
) -> int:
    """Remember bulk work that begins, instead of the oldest of many; gives its id."""
    await connection.execute(
        """
        delete from dead_letter_runs where tenant_id = $1 and id <= (
          select id from dead_letter_runs where tenant_id = $1 order by id desc offset $2 limit 1)
        """,
        tenant_id,
        KEPT - 1,
    )
    number: int = await connection.fetchval(
        """
        insert into dead_letter_runs (tenant_id, actor, kind, q, per_second, total) values ($1, $2, $3, $4, $5, $6)
        returning id
        """,
        tenant_id,
        actor,
        kind,
        q,
        per_second,
        total,
    )
    return number


async def advance(
    connection: Connection, tenant_id: TenantId, run_id: int, *, done: int, kept: int, why: str | None
) -> bool:
    """Write down how far it is; gives whether it is to go on."""
    is_stopping = await connection.fetchval(
        """
        update dead_letter_runs set done = $3, kept = $4, why = $5, seen_at = now() where tenant_id = $1 and id = $2
        returning is_stopping
        """,
        tenant_id,
        run_id,
        done,
        kept,
        why,
    )
    return is_stopping is False


async def end(connection: Connection, tenant_id: TenantId, run_id: int, *, outcome: str) -> None:
    """Write down what came of it."""
    await connection.execute(
        """
        update dead_letter_runs set outcome = $3, seen_at = now() where tenant_id = $1 and id = $2 and outcome is null
        """,
        tenant_id,
        run_id,
        outcome,
    )


async def stop(connection: Connection, tenant_id: TenantId, run_id: int) -> bool:
    """Ask whoever works on it to stop. False if there is nothing to be stopped."""
    return (
        await connection.fetchval(
            """
            update dead_letter_runs set is_stopping = true where tenant_id = $1 and id = $2 and outcome is null
            returning id
            """,
            tenant_id,
            run_id,
        )
        is not None
    )


async def find(connection: Connection, tenant_id: TenantId, run_id: int) -> Run | None:
    """One of them."""
    row = await connection.fetchrow(f"{_SELECT} and id = $3", tenant_id, DEAD_AFTER, run_id)
    return None if row is None else Run(**row)


async def under_way(connection: Connection, tenant_id: TenantId) -> list[Run]:
    """Those that go on, or are to be."""
    rows = await connection.fetch(
        f"{_SELECT} and outcome is null and seen_at > now() - $2::interval order by id desc limit 10",
        tenant_id,
        DEAD_AFTER,
    )
    return [Run(**row) for row in rows]
