"""Flow-control keys: looked at, paused, pinned. Publishing makes them, and claims go by them."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum

from postroad.domain.flow_control import FlowKey
from postroad.domain.tenant import TenantId
from postroad.store.engine import Connection, Row, affected

_COUNTED = 100_000
_COUNTED_EACH = 10_000
"""Of waiting messages at most, so that a look at keys does not last as long as their backlog is deep."""

_SELECT = """
select k.key, k.parallelism, k.rate, k.period, k.parallelism_pinned, k.rate_pinned, k.paused,
  case when k.period_start + k.period > now() then k.period_start end as period_start,
  case when k.period_start + k.period > now() then k.period_count else 0 end as period_count,
  (select count(*) from deliveries d where d.flow_key_id = k.id and d.state = 2) as active,
  (select count(*) from (
     select from deliveries d where d.flow_key_id = k.id and d.state = 1 and d.due_at <= now()
     limit {counted}) w) as waiting
from flow_keys k
where k.tenant_id = $1 and k.key <> ''
"""


class Only(StrEnum):
    """Which keys are asked for, where not all of them are."""

    WAITING = "waiting"
    PAUSED = "paused"
    PINNED = "pinned"


_CONDITIONS = {
    Only.WAITING: """exists (
      select from deliveries d where d.flow_key_id = k.id and d.state = 1 and d.due_at <= now())""",
    Only.PAUSED: "k.paused",
    Only.PINNED: "(k.parallelism_pinned or k.rate_pinned)",
}


async def list_(
    connection: Connection,
    tenant_id: TenantId,
    *,
    search: str | None,
    limit: int,
    only: Only | None = None,
    after: str = "",
) -> list[FlowKey]:
    """Keys that hold a text, or all of them, by key, those behind `after`.

    Of each, at most 10,000 waiting messages are counted.
    """
    condition = f" and {_CONDITIONS[only]}" if only is not None else ""
    rows = await connection.fetch(
        _SELECT.format(counted=_COUNTED_EACH)
        + f" and ($2::text is null or position($2 in k.key) > 0) and k.key > $4{condition} order by k.key limit $3",
        tenant_id,
        search,
        limit,
        after,
    )
    return [_key(row) for row in rows]


async def find(connection: Connection, tenant_id: TenantId, key: str) -> FlowKey | None:
    """A key as it stands. At most 100,000 waiting messages are counted."""
    row = await connection.fetchrow(f"{_SELECT.format(counted=_COUNTED)} and k.key = $2", tenant_id, key)
    return None if row is None else _key(row)


async def pause(connection: Connection, tenant_id: TenantId, key: str) -> bool:
    """Let nothing with this key go; the running period goes on. A key that does not exist is made: True always."""
    await connection.execute(
        """
        insert into flow_keys as k (tenant_id, key, paused) values ($1, $2, true)
        on conflict (tenant_id, key) do update set paused = true
        """,
        tenant_id,
        key,
    )
    return True


async def resume(connection: Connection, tenant_id: TenantId, key: str) -> bool:
    """Let messages with this key go again; False when there is none."""
    return await _change(connection, "paused = false", tenant_id, key)


async def pin(
    connection: Connection,
    tenant_id: TenantId,
    key: str,
    *,
    parallelism: int | None,
    rate: int | None,
    period: timedelta | None,
) -> bool:
    """Fix limits against what messages bring, and begin a new period. What is None is left as it is.

    Pinning a key that does not exist makes it, so the answer is always True.
    """
    await connection.execute(
        """
        insert into flow_keys as k (tenant_id, key, parallelism, rate, period, parallelism_pinned, rate_pinned)
        values ($1, $2, $3, $4, coalesce($5::interval, interval '1 s'), $3::int is not null, $4::int is not null)
        on conflict (tenant_id, key) do update set
          parallelism = coalesce($3, k.parallelism), parallelism_pinned = k.parallelism_pinned or $3 is not null,
          rate = coalesce($4, k.rate), rate_pinned = k.rate_pinned or $4 is not null or $5 is not null,
          period = coalesce($5, k.period),
          period_start = null, period_count = 0, wake_at = now(), used_at = now()
        """,
        tenant_id,
        key,
        parallelism,
        rate,
        period,
    )
    return True


async def unpin(connection: Connection, tenant_id: TenantId, key: str, *, parallelism: bool, rate: bool) -> bool:
    """Let messages change limits again; the values stay until one does. False when there is no such key."""
    return await _change(
        connection,
        "parallelism_pinned = parallelism_pinned and not $3, rate_pinned = rate_pinned and not $4",
        tenant_id,
        key,
        parallelism,
        rate,
    )


async def reset_rate(connection: Connection, tenant_id: TenantId, key: str) -> bool:
    """Forget what the running period has used up, and begin a new one; False when there is no such key."""
    return await _change(connection, "period_start = null, period_count = 0", tenant_id, key)


async def wake_sleepers(connection: Connection) -> list[int]:
    """Wake keys that could let something go, and sleep over it: there should be none."""
    rows = await connection.fetch(
        """
        update flow_keys k set wake_at = now()
        where not paused and wake_at > now() + interval '5 s'
          and exists (select from deliveries d
                      where d.flow_key_id = k.id and d.state = 1 and d.due_at < now() - interval '5 s'
                        and d.unsettled_claims < 2)
          and (parallelism is null or parallelism > (
                select count(*) from deliveries d where d.flow_key_id = k.id and d.state = 2))
          and (rate is null or period_start is null or period_start + period <= now() or period_count < rate)
        returning id
        """
    )
    return [row["id"] for row in rows]


async def overall(connection: Connection, tenant_id: TenantId) -> tuple[int | None, int]:
    """How many deliveries of a tenant may be made at once, and how many are, on all nodes."""
    row = await connection.fetchrow(
        """
        select (select parallelism from tenants where id = $1) as most,
          (select count(*) from deliveries where state = 2 and dispatcher_id is not null and tenant_id = $1) as count
        """,
        tenant_id,
    )
    assert row is not None
    return row["most"], row["count"]


async def _change(connection: Connection, assignments: str, tenant_id: TenantId, key: str, *values: object) -> bool:
    """Every change wakes the key, so that the next claim sees it with new eyes."""
    status = await connection.execute(
        f"update flow_keys set {assignments}, wake_at = now(), used_at = now() where tenant_id = $1 and key = $2",  # noqa: S608  texts of this module
        tenant_id,
        key,
        *values,
    )
    return affected(status) == 1


def _key(row: Row) -> FlowKey:
    return FlowKey(
        key=row["key"],
        parallelism=row["parallelism"],
        rate=row["rate"],
        period=row["period"],
        parallelism_pinned=row["parallelism_pinned"],
        rate_pinned=row["rate_pinned"],
        paused=row["paused"],
        waiting=row["waiting"],
        active=row["active"],
        rate_count=row["period_count"],
        period_start=row["period_start"],
    )
