"""Partitions of a day, made ahead of time."""

from __future__ import annotations

from datetime import date, timedelta

from postroad.domain.ids import first_id_of
from postroad.store.engine import Connection

DAYS_AHEAD = 7

_LOCK = 7_064_116_843_112
"""Of a transaction-level advisory lock: one node makes partitions at a time."""


async def make(connection: Connection) -> None:
    """Make the partitions of yesterday to a week ahead that are missing, in the caller's transaction.

    Attaching takes a weaker lock than `create table … partition of`, so publishes go on meanwhile.
    """
    await connection.execute("select pg_advisory_xact_lock($1)", _LOCK)
    today: date = await connection.fetchval("select (now() at time zone 'utc')::date")
    present = {
        row["relname"]
        for row in await connection.fetch(
            "select relname from pg_class where relkind = 'r' and relnamespace = current_schema()::regnamespace"
        )
    }
    for day in (today + timedelta(days=n) for n in range(-1, DAYS_AHEAD + 1)):
        following = day + timedelta(days=1)
        bounds = {
            f"messages_{day:%Y%m%d}": ("messages_recent", str(first_id_of(day)), str(first_id_of(following))),
            **{
                f"{table}_{day:%Y%m%d}": (table, f"{day} 00:00+00", f"{following} 00:00+00")
                for table in ("attempts", "reports")
            },
        }
        for name, (parent, lower, upper) in bounds.items():
            if name not in present:
                await connection.execute(
                    f"create table {name} (like {parent} including defaults including constraints including storage)"
                )
                await connection.execute(
                    f"alter table {parent} attach partition {name} for values from ('{lower}') to ('{upper}')"
                )


async def days_left(connection: Connection) -> int:
    """For how many whole days from now on partitions exist."""
    newest: str | None = await connection.fetchval(
        "select max(relname) from pg_class where relname like 'messages_20______' and relkind = 'r' "
        "and relnamespace = current_schema()::regnamespace"
    )
    today: date = await connection.fetchval("select (now() at time zone 'utc')::date")
    if newest is None:
        return 0
    last = date(int(newest[9:13]), int(newest[13:15]), int(newest[15:17]))
    return (last - today).days
