"""Moving time: what lies ahead comes nearer, history stays where it is. For `postroad dev` and for tests."""

from __future__ import annotations

from datetime import timedelta

from postroad.store.engine import Connection

_SHIFTS = (
    """
    with ahead as materialized (select id from deliveries where state in (0, 1) order by id for update)
    update deliveries set due_at = due_at - $1::interval where id = any(array(select id from ahead))
    """,
    """
    with ahead as materialized (select tenant_id, key from deduplications order by tenant_id, key for update)
    update deduplications d set expires_at = expires_at - $1::interval
    from ahead where d.tenant_id = ahead.tenant_id and d.key = ahead.key
    """,
    """
    with ahead as materialized (select id from flow_keys order by tenant_id, key for update)
    update flow_keys set wake_at = wake_at - $1::interval, period_start = period_start - $1::interval
    where id = any(array(select id from ahead))
    """,
    "update waits set deadline = deadline - $1::interval",
    "update schedules set next_at = next_at - $1::interval",
    # The order makes every row go before the first one comes back: a tick takes the place of the one a minute before.
    """
    with gone as (delete from schedule_ticks returning tenant_id, schedule_id, tick_at, fired_at)
    insert into schedule_ticks (tenant_id, schedule_id, tick_at, fired_at)
    select tenant_id, schedule_id, tick_at - $1::interval, fired_at - $1::interval from gone order by tick_at
    """,
)


async def advance(connection: Connection, delta: timedelta) -> None:
    """Let time pass for everything that waits for an instant, of all tenants, in the caller's transaction.

    A delivery that is under way, and what a dispatcher must do to stay alive, go by the clock as before.
    """
    for shift in _SHIFTS:
        await connection.execute(shift, delta)
