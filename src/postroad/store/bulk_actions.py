"""Bulk actions: made, worked on step by step by whoever holds them, looked at, forgotten."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import sha256
from typing import TypeAlias

import orjson
from sqlalchemy import func, literal, null, select, tuple_
from sqlalchemy.dialects.postgresql import insert

from postroad.domain.bulk_action import MOST_RUNNING, BulkAction, BulkActionId, Progress, new_bulk_action_id
from postroad.domain.callback import milliseconds
from postroad.domain.ids import MessageId
from postroad.domain.tenant import TenantId
from postroad.errors import QuotaExceeded
from postroad.store import deliveries
from postroad.store.engine import Connection, Row, affected, run
from postroad.store.filters import Filters
from postroad.store.lookups import Looked, count_through, find_by_message, look_through
from postroad.store.tables import Instant, bulk_actions

STEP = 5_000
"""Messages that one transaction cancels at most."""

LEASE = timedelta(seconds=10)
"""For how long an action belongs to whoever took its last step; then anybody may go on with it."""

CANCEL = "cancel"

Place: TypeAlias = tuple[datetime, BulkActionId]
"""Where a page begins: behind the action that was created then and has this id."""

_ABANDONED_A_TURN = 100
_REACH = 50_000
_OF_A_MILLISECOND = timedelta(microseconds=999)

_action = bulk_actions.c
_COLUMNS = (
    _action.id,
    _action.kind,
    _action.filter,
    _action.total,
    _action.processed,
    _action.created_at,
    _action.completed_at,
)


async def create(
    connection: Connection, tenant_id: TenantId, filters: Filters, *, most: int | None
) -> tuple[BulkAction, bool]:
    """An action that cancels the messages that match now, at most so many; and whether it is new, and the caller's.

    If one that is the same is running, it is that one. Raises `QuotaExceeded`, though not exactly when calls race.
    """
    wanted = _written(filters)
    identity = _hash(wanted, most)
    while True:
        if (running := await _running(connection, tenant_id, identity)) is not None:
            return running, False
        total = await _total(connection, tenant_id, filters, most)
        now = func.clock_timestamp()
        new = insert(bulk_actions).values(
            id=new_bulk_action_id(),
            tenant_id=tenant_id,
            kind=CANCEL,
            filter=wanted,
            filter_hash=identity,
            total=total,
            most=most,
            held_until=now + LEASE,
            # Behind the count, so that whatever was counted is also cancelled.
            created_at=now,
            completed_at=null() if total else now,
        )
        if rows := await run(connection, new.on_conflict_do_nothing().returning(*_COLUMNS)):
            return _bulk_action(rows[0]), True


async def go_on(connection: Connection, action_id: BulkActionId, *, holds: bool) -> BulkAction | None:
    """Take the next step of an action, in the caller's transaction, and hold it for another while.

    Only whoever `holds` it may do so before its lease is over. None when it is finished, or somebody else is at it.
    """
    row = await connection.fetchrow(
        """
        select * from bulk_actions
        where id = $1 and completed_at is null and ($2 or held_until < clock_timestamp()) for update skip locked
        """,
        action_id,
        holds,
    )
    if row is None:
        return None
    found = await _next(connection, row)
    count = await deliveries.cancel(connection, row["tenant_id"], found.ids) if found.ids else 0
    row = await connection.fetchrow(
        """
        update bulk_actions set
          processed = processed + $2, total = greatest(total, processed + $2), after = $3,
          held_until = clock_timestamp() + $4::interval,
          completed_at = case when $3::uuid is null or processed + $2 >= most then clock_timestamp() end
        where id = $1 returning *
        """,
        action_id,
        count,
        found.after,
        LEASE,
    )
    assert row is not None
    return _bulk_action(row)


async def abandoned(connection: Connection) -> list[BulkActionId]:
    """Some of the actions whose lease is over."""
    rows = await connection.fetch(
        """
        select id from bulk_actions
        where completed_at is null and held_until < clock_timestamp() order by held_until limit $1
        """,
        _ABANDONED_A_TURN,
    )
    return [row["id"] for row in rows]


async def find(connection: Connection, tenant_id: TenantId, action_id: BulkActionId) -> BulkAction | None:
    """An action of a tenant."""
    query = select(*_COLUMNS).where(_action.tenant_id == tenant_id, _action.id == action_id)
    rows = await run(connection, query)
    return _bulk_action(rows[0]) if rows else None


async def page(
    connection: Connection, tenant_id: TenantId, *, state: Progress | None, after: Place | None, limit: int
) -> list[BulkAction]:
    """Actions of a tenant, the newest first, beyond a place."""
    query = select(*_COLUMNS).where(_action.tenant_id == tenant_id)
    match state:
        case Progress.IN_PROGRESS:
            query = query.where(_action.completed_at.is_(None))
        case Progress.FINISHED:
            query = query.where(_action.completed_at.is_not(None))
    if after is not None:
        query = query.where(tuple_(_action.created_at, _action.id) < tuple_(literal(after[0], Instant), after[1]))
    query = query.order_by(_action.created_at.desc(), _action.id.desc()).limit(limit)
    return [_bulk_action(row) for row in await run(connection, query)]


async def prune(connection: Connection, *, older_than: timedelta, limit: int) -> int:
    """Delete some of the actions that were finished so long ago; gives how many."""
    status = await connection.execute(
        """
        with old as materialized (
          select id from bulk_actions where completed_at < now() - $1::interval order by completed_at limit $2)
        delete from bulk_actions where id = any(array(select id from old))
        """,
        older_than,
        limit,
    )
    return affected(status)


async def _running(connection: Connection, tenant_id: TenantId, identity: bytes) -> BulkAction | None:
    """The running action that is the same. Raises `QuotaExceeded` when there is none and there may be no other."""
    row = await connection.fetchrow(
        """
        select count(*), max(id) filter (where kind = $2 and filter_hash = $3) as same
        from bulk_actions where tenant_id = $1 and completed_at is null
        """,
        tenant_id,
        CANCEL,
        identity,
    )
    assert row is not None
    if row["same"] is not None:
        return await find(connection, tenant_id, row["same"])
    if row["count"] >= MOST_RUNNING:
        raise QuotaExceeded("maxBulkActions", MOST_RUNNING)
    return None


async def _total(connection: Connection, tenant_id: TenantId, filters: Filters, most: int | None) -> int:
    """How many messages there are to be cancelled, counted piece by piece so that no statement takes long."""
    total, reach = 0, _first_reach(most)
    after: MessageId | None = None
    while True:
        count, after = await count_through(connection, tenant_id, filters, after=after, reach=reach)
        total += count
        if most is not None and total >= most:
            return most
        if after is None:
            return total
        if reach < _REACH and (ids := await find_by_message(connection, tenant_id, filters)) is not None:
            return len(ids) if most is None else min(len(ids), most)
        reach = _REACH


async def _next(connection: Connection, row: Row) -> Looked:
    """What the next step is about: the messages that come next among those that were there at its creation.

    If few are left that lie far apart, and there is an index that leads to them, the last step takes all.
    """
    tenant_id, filters, until = row["tenant_id"], _read(row["filter"]), row["created_at"]
    limit = STEP if row["most"] is None else min(STEP, row["most"] - row["processed"])
    look = partial(look_through, connection, tenant_id, filters, until=until)
    first = await look(after=row["after"], limit=limit, reach=_first_reach(limit))
    if first.after is None or len(first.ids) == limit:
        return first
    if row["total"] - row["processed"] <= STEP:
        ids = await find_by_message(connection, tenant_id, filters, until=until)
        if ids is not None:
            return Looked(ids, None) if len(ids) <= limit else Looked(ids[:limit], ids[limit - 1])
    second = await look(after=first.after, limit=limit - len(first.ids), reach=_REACH)
    return Looked(first.ids + second.ids, second.after)


def _first_reach(limit: int | None) -> int:
    """How far the first look goes: where many match, a short one finds enough."""
    return 2_000 + 4 * min(limit or STEP, STEP)


def _written(filters: Filters) -> dict[str, list[str]]:
    """Filters as they are stored and shown; ids are none of them, because these are cancelled without an action."""
    assert filters.message_ids is None
    instants = {"fromDate": filters.since, "toDate": filters.until}
    return {name: list(values) for name, values in filters.values.items()} | {
        name: [str(milliseconds(instant))] for name, instant in instants.items() if instant is not None
    }


def _read(text: str) -> Filters:
    values = {name: tuple(found) for name, found in orjson.loads(text).items()}
    since, until = (_instant(values.pop(name, ())) for name in ("fromDate", "toDate"))
    return Filters(values=values, since=since, until=None if until is None else until + _OF_A_MILLISECOND)


def _instant(values: tuple[str, ...]) -> datetime | None:
    return datetime.fromtimestamp(int(values[0]) / 1000, UTC) if values else None


def _hash(wanted: dict[str, list[str]], most: int | None) -> bytes:
    canonical = sorted((name, sorted(values)) for name, values in wanted.items())
    return sha256(orjson.dumps([canonical, most])).digest()


def _bulk_action(row: Row) -> BulkAction:
    return BulkAction(
        id=row["id"],
        kind=row["kind"],
        filter=orjson.loads(row["filter"]),
        total=row["total"],
        processed=row["processed"],
        created_at=row["created_at"],
        completed_at=row["completed_at"],
    )
