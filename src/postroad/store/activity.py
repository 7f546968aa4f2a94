"""Counts of what goes on, by tenant, host and time; a node adds what it has counted itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from postroad.domain.tenant import TenantId
from postroad.store.connecting import Row
from postroad.store.engine import Connection, affected

EVERYTHING = ""
"""In place of a host: the whole tenant, by ten seconds; hosts are counted by the minute."""


@dataclass(slots=True)
class Tally:
    """Messages accepted, attempts by their end, and how long these took and were late, in milliseconds."""

    accepted: int = 0
    delivered: int = 0
    retried: int = 0
    failed: int = 0
    took_ms: int = 0
    longest_ms: int = 0
    late_ms: int = 0

    def add(self, other: Tally) -> None:
        """Count what the other has counted as well."""
        self.accepted += other.accepted
        self.delivered += other.delivered
        self.retried += other.retried
        self.failed += other.failed
        self.took_ms += other.took_ms
        self.longest_ms = max(self.longest_ms, other.longest_ms)
        self.late_ms = max(self.late_ms, other.late_ms)


@dataclass(frozen=True, slots=True)
class Moment:
    """What went on from an instant on."""

    at: datetime
    tally: Tally


@dataclass(frozen=True, slots=True)
class Destination:
    """What went on with a host, and when the last attempt ended that was made there, to the minute."""

    host: str
    last_at: datetime
    tally: Tally


_COLUMNS = ("accepted", "delivered", "retried", "failed", "took_ms", "longest_ms", "late_ms")
_SUMS = """
  sum(accepted)::bigint as accepted, sum(delivered)::bigint as delivered, sum(retried)::bigint as retried,
  sum(failed)::bigint as failed, sum(took_ms)::bigint as took_ms, max(longest_ms) as longest_ms, max(late_ms) as late_ms
"""


async def add(connection: Connection, counted: Mapping[tuple[TenantId, str], Tally]) -> None:
    """Count all this as of now."""
    # In one order, so that no two nodes wait for each other's rows in turn.
    rows = sorted(counted.items())
    await connection.execute(
        """
        insert into activity as a
          (tenant_id, at, host, accepted, delivered, retried, failed, took_ms, longest_ms, late_ms)
        select tenant_id, date_bin(case host when '' then interval '10 s' else interval '1 min' end, now(), 'epoch'),
          host, accepted, delivered, retried, failed, took_ms, longest_ms, late_ms
        from unnest($1::int[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[],
          $8::bigint[], $9::bigint[])
          as t(tenant_id, host, accepted, delivered, retried, failed, took_ms, longest_ms, late_ms)
        on conflict (tenant_id, at, host) do update set
          accepted = a.accepted + excluded.accepted, delivered = a.delivered + excluded.delivered,
          retried = a.retried + excluded.retried, failed = a.failed + excluded.failed,
          took_ms = a.took_ms + excluded.took_ms, longest_ms = greatest(a.longest_ms, excluded.longest_ms),
          late_ms = greatest(a.late_ms, excluded.late_ms)
        """,
        [tenant_id for (tenant_id, _), _ in rows],
        [host for (_, host), _ in rows],
        *([getattr(tally, column) for _, tally in rows] for column in _COLUMNS),
    )


async def course(connection: Connection, tenant_id: TenantId, *, back: timedelta, step: timedelta) -> list[Moment]:
    """What went on in each step of the time that far back, the oldest first; steps without anything as well."""
    rows = await connection.fetch(
        f"""
        with counts as (
          select date_bin($3::interval, at, 'epoch') as step, {_SUMS}
          from activity
          where tenant_id = $1 and host = '' and at >= date_bin($3::interval, now() - $2::interval, 'epoch')
          group by 1)
        select s.step as at, c.* from generate_series(
          date_bin($3::interval, now() - $2::interval, 'epoch') + $3::interval, now(), $3::interval) s(step)
        left join counts c on c.step = s.step order by s.step
        """,  # noqa: S608  the columns are ours
        tenant_id,
        back,
        step,
    )
    return [Moment(row["at"], _tally(row)) for row in rows]


async def destinations(
    connection: Connection, tenant_id: TenantId, *, back: timedelta, limit: int
) -> list[Destination]:
    """The hosts with the most trouble in that time, and behind them those with the most attempts."""
    rows = await connection.fetch(
        f"""
        select host, max(at) as last_at, {_SUMS} from activity
        where tenant_id = $1 and host <> '' and at >= now() - $2::interval
        group by host order by sum(failed) desc, sum(retried) desc, sum(delivered) desc, host limit $3
        """,  # noqa: S608  the columns are ours
        tenant_id,
        back,
        limit,
    )
    return [Destination(row["host"], row["last_at"], _tally(row)) for row in rows]


async def prune(connection: Connection, *, limit: int, older_than: timedelta) -> int:
    """Delete up to limit counts of that long ago; gives how many there were."""
    status = await connection.execute(
        """
        with old as materialized (
          select tenant_id, at, host from activity where at < now() - $2::interval
          order by at limit $1 for update skip locked)
        delete from activity a using old
        where a.tenant_id = old.tenant_id and a.at = old.at and a.host = old.host
        """,
        limit,
        older_than,
    )
    return affected(status)


def _tally(row: Row) -> Tally:
    return Tally(*(row[column] or 0 for column in _COLUMNS))
