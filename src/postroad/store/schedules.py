"""Schedules and their ticks: found when they are due, fired under their lock."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TypeAlias

import orjson
from sqlalchemy import ColumnElement, func, literal_column, select
from sqlalchemy.dialects.postgresql import insert

from postroad.domain.cron import Cron, parse_cron
from postroad.domain.ids import MessageId
from postroad.domain.publication import Request
from postroad.domain.schedule import Schedule, TickState, next_tick
from postroad.domain.tenant import TenantId
from postroad.errors import KeyMissing, PostroadError, QuotaExceeded, Unopenable
from postroad.store.engine import Connection, Row, affected, run, vault_of
from postroad.store.sealing import open_bytes, open_json, seal_bytes, seal_json
from postroad.store.tables import schedules, tenants
from postroad.vault import Vault, place

Key: TypeAlias = tuple[TenantId, str]
"""Which schedule."""

Tick: TypeAlias = tuple[TenantId, str, datetime]
"""Which schedule at which nominal time."""

DUE_BYTES = 8 * 1024 * 1024
"""Bodies of due schedules that are read at once."""

_schedule = schedules.c
_COLUMNS = (
    _schedule.tenant_id,
    _schedule.id,
    _schedule.cron,
    _schedule.destination,
    _schedule.fields,
    _schedule.body,
    _schedule.caller_ip,
    _schedule.paused,
    _schedule.next_at,
    _schedule.last_at,
    _schedule.last_messages,
    _schedule.error,
    _schedule.created_at,
    _schedule.sealed,
)


@dataclass(slots=True)
class Fired:
    """A tick, or several, on their way into the store. `messages` are those of the last one."""

    key: Key
    next_at: datetime
    messages: list[MessageId] = field(default_factory=list)
    error: str | None = None


# What callers ask for.


async def put(connection: Connection, tenant_id: TenantId, cron: Cron, request: Request, *, most: int) -> None:
    """Make a schedule, or put it in the place of the one with its id; it goes on from now and is not paused.

    One that is there already can be replaced when there are most of them. Raises `QuotaExceeded`, and `InvalidValue`
    for an expression without a next tick.
    """
    # One schedule at a time is made for a tenant, so that all of them together keep to the limit.
    now = select(func.clock_timestamp().label("now")).where(tenants.c.id == tenant_id).with_for_update(key_share=True)
    [row] = await run(connection, now)
    assert request.schedule_id is not None
    definition = {
        "cron": cron.text,
        "destination": request.destination,
        **_secrets(vault_of(connection), tenant_id, request.schedule_id, request),
        "caller_ip": request.caller_ip,
        "paused": False,
        "next_at": next_tick(cron, row["now"]),
        "last_at": None,
        "last_messages": [],
        "error": None,
        "created_at": func.now(),
        "updated_at": func.now(),
    }
    new = insert(schedules).values(tenant_id=tenant_id, id=request.schedule_id, **definition)
    replaced = new.on_conflict_do_update(index_elements=[_schedule.tenant_id, _schedule.id], set_=definition)
    # A row that nobody has updated or locked has no xmax.
    [row] = await run(connection, replaced.returning(literal_column("xmax = 0").label("is_new")))
    if row["is_new"]:
        [row] = await run(connection, select(func.count().label("n")).where(_schedule.tenant_id == tenant_id))
        if row["n"] > most:
            raise QuotaExceeded("maxSchedules", most)


async def change(connection: Connection, before: Schedule, cron: Cron, request: Request) -> bool:
    """Give a schedule another expression and request, in the caller's transaction; False if it is not as before.

    Its pause and its history stay, and with the same expression its next tick. Raises `InvalidValue` for an expression
    without one.
    """
    is_it = _is(before.tenant_id, before.id)
    query = select(*_COLUMNS, func.clock_timestamp().label("now")).where(*is_it)
    rows = await run(connection, query.with_for_update())
    if not rows:
        return False
    stored = _schedule_of(rows[0], vault_of(connection))
    if (stored.cron, stored.request) != (before.cron, before.request):
        return False
    values: dict[str, object] = {
        "destination": request.destination,
        **_secrets(vault_of(connection), before.tenant_id, before.id, request),
        "updated_at": func.now(),
    }
    if cron.text != before.cron:
        values |= {"cron": cron.text, "next_at": next_tick(cron, rows[0]["now"])}
    await run(connection, schedules.update().where(*is_it).values(values))
    return True


async def find(connection: Connection, tenant_id: TenantId, schedule_id: str) -> Schedule | None:
    """A schedule."""
    rows = await run(connection, select(*_COLUMNS).where(*_is(tenant_id, schedule_id)))
    return _schedule_of(rows[0], vault_of(connection)) if rows else None


async def page(connection: Connection, tenant_id: TenantId, *, after: str, limit: int) -> list[Schedule]:
    """Up to limit schedules of a tenant, by their ids, from `after` on."""
    query = select(*_COLUMNS).where(_schedule.tenant_id == tenant_id, _schedule.id > after)
    rows = await run(connection, query.order_by(_schedule.id).limit(limit))
    return [_schedule_of(row, vault_of(connection)) for row in rows]


async def states(connection: Connection, ids: Sequence[MessageId]) -> dict[MessageId, TickState]:
    """What became of messages. One that the log has forgotten, and that is no dead letter, is left out."""
    rows = await connection.fetch(_STATES, ids)
    return {row["id"]: TickState(row["state"]) for row in rows if row["state"] is not None}


async def pause(connection: Connection, tenant_id: TenantId, schedule_id: str) -> bool:
    """Let a schedule fire no more; whether there is one."""
    query = schedules.update().where(*_is(tenant_id, schedule_id)).values(paused=True, updated_at=func.now())
    return bool(await run(connection, query.returning(_schedule.id)))


async def resume(connection: Connection, tenant_id: TenantId, schedule_id: str) -> bool:
    """Let a paused schedule go on from now, in the caller's transaction; whether there is one.

    Nothing fires of the time in which it was paused. Raises `InvalidValue` when it has no next tick.
    """
    query = select(_schedule.cron, _schedule.paused, func.clock_timestamp().label("now"))
    rows = await run(connection, query.where(*_is(tenant_id, schedule_id)).with_for_update())
    if rows and rows[0]["paused"]:
        next_at = next_tick(parse_cron(rows[0]["cron"]), rows[0]["now"])
        again = schedules.update().where(*_is(tenant_id, schedule_id))
        await run(connection, again.values(paused=False, next_at=next_at, updated_at=func.now()))
    return bool(rows)


async def delete(connection: Connection, tenant_id: TenantId, schedule_id: str) -> None:
    """Delete a schedule, if there is one. Messages that it has made go their way."""
    await run(connection, schedules.delete().where(*_is(tenant_id, schedule_id)))


# What fires.


async def until_next(connection: Connection) -> timedelta | None:
    """How long until the next tick of any tenant, zero or less when one is due; None when there is none."""
    wait: timedelta | None = await connection.fetchval(
        "select next_at - clock_timestamp() from schedules where not paused order by next_at limit 1"
    )
    return wait


async def lock_due(connection: Connection, *, limit: int) -> list[Key]:
    """Lock up to limit due schedules, the longest due first, in the caller's transaction.

    Skips those that others hold: these fire them. Whether one is paused is looked at under its lock.
    """
    rows = await connection.fetch(_LOCK_DUE, limit)
    keys: list[Key] = []
    n_bytes = 0
    for row in rows:
        n_bytes += row["bytes"]
        if keys and n_bytes > DUE_BYTES:
            break
        keys.append((row["tenant_id"], row["id"]))
    return keys


async def lock_if_due(connection: Connection, key: Key) -> list[Key]:
    """Lock one schedule, if it is due still and nobody else holds it."""
    return [key] if await connection.fetch(_LOCK_IF_DUE, *key) else []


async def fetch(connection: Connection, keys: Sequence[Key]) -> tuple[datetime, list[Schedule]]:
    """This transaction's instant, and locked schedules as they are under their locks, the longest due first.

    Raises `KeyMissing`: another node may fire them. One that nobody can open says so.
    """
    rows = await connection.fetch(_FETCH, [tenant_id for tenant_id, _ in keys], [one for _, one in keys])
    locked = [_schedule_of(row, vault_of(connection)) for row in rows]
    for schedule in locked:
        if isinstance(schedule.unopened, KeyMissing):
            raise schedule.unopened
    return rows[0]["now"], locked


async def record(connection: Connection, ticks: Iterable[Tick]) -> set[Tick]:
    """Take ticks for oneself, in the caller's transaction; gives those that nobody has fired before."""
    columns = list(zip(*ticks, strict=True)) or [(), (), ()]
    rows = await connection.fetch(_RECORD, *columns)
    return {(row["tenant_id"], row["schedule_id"], row["tick_at"]) for row in rows}


async def advance(connection: Connection, fired: Iterable[Fired]) -> None:
    """Move schedules on to their next ticks."""
    await connection.executemany(_ADVANCE, [(*one.key, one.next_at, one.messages, one.error) for one in fired])


async def skip(connection: Connection, moved: Iterable[tuple[Key, datetime]]) -> None:
    """Move schedules whose ticks had been fired already on to their next ticks."""
    query = "update schedules set next_at = $3 where tenant_id = $1 and id = $2"
    await connection.executemany(query, [(*key, next_at) for key, next_at in moved])


async def stop(connection: Connection, key: Key, error: str) -> None:
    """Pause a schedule that has no next tick."""
    await connection.execute(
        "update schedules set paused = true, error = $3 where tenant_id = $1 and id = $2", *key, error
    )


async def prune_ticks(connection: Connection, *, older_than: timedelta, limit: int) -> int:
    """Delete up to limit ticks that fired long ago; gives how many there were."""
    status = await connection.execute(
        """
        with old as materialized (
          select tenant_id, schedule_id, tick_at from schedule_ticks where fired_at < now() - $1::interval
          order by fired_at limit $2 for update skip locked)
        delete from schedule_ticks t using old
        where t.tenant_id = old.tenant_id and t.schedule_id = old.schedule_id and t.tick_at = old.tick_at
        """,
        older_than,
        limit,
    )
    return affected(status)


_LOCK_DUE = """
select tenant_id, id, coalesce(octet_length(body), 0) as bytes from schedules
where not paused and next_at <= now() order by next_at limit $1 for update skip locked
"""

_LOCK_IF_DUE = """
select id from schedules where tenant_id = $1 and id = $2 and not paused and next_at <= now() for update skip locked
"""

# A statement of its own: the one that locked them goes on with the rows from before it had the locks.
_FETCH = """
select s.tenant_id, s.id, s.cron, s.destination, s.fields, s.body, s.caller_ip, s.paused, s.next_at, s.last_at,
  s.last_messages, s.error, s.created_at, s.sealed, now() as now
from schedules s join unnest($1::int[], $2::text[]) as k(tenant_id, id) on s.tenant_id = k.tenant_id and s.id = k.id
order by s.next_at, s.tenant_id, s.id
"""

_RECORD = """
insert into schedule_ticks (tenant_id, schedule_id, tick_at)
select * from unnest($1::int[], $2::text[], $3::timestamptz[]) order by 1, 2, 3
on conflict do nothing returning tenant_id, schedule_id, tick_at
"""

_ADVANCE = """
update schedules set next_at = $3, last_at = now(), last_messages = $4, error = $5 where tenant_id = $1 and id = $2
"""

_STATES = """
select m.id, case
  when exists (select from deliveries d where d.id = m.id) then 'IN_PROGRESS'
  when exists (select from dead_letters l where l.message_id = m.id)
    or exists (select from cancellations c where c.message_id = m.id and c.canceled_at is not null)
    or exists (select from attempts a where a.message_id = m.id and a.outcome = 2) then 'FAIL'
  when exists (select from attempts a where a.message_id = m.id and a.outcome = 0) then 'SUCCESS'
  end as state
from unnest($1::uuid[]) as m(id)
"""


def _is(tenant_id: TenantId, schedule_id: str) -> list[ColumnElement[bool]]:
    return [_schedule.tenant_id == tenant_id, _schedule.id == schedule_id]


def _secrets(vault: Vault, tenant_id: TenantId, schedule_id: str, request: Request) -> dict[str, object]:
    """What a schedule publishes, as it is stored."""
    fields, body = [list(pair) for pair in request.fields], request.body or None
    if vault.number is None:
        return {"fields": fields, "body": body, "sealed": None}
    fields_at, body_at = _places(tenant_id, schedule_id, request.destination)
    return {
        "fields": vault.seal_text(orjson.dumps(fields).decode(), fields_at),
        "body": seal_bytes(vault, body, body_at),
        "sealed": vault.number,
    }


def seal_stored(vault: Vault, row: Row) -> tuple[str | None, bytes | None]:
    """Fields and body in a row that has them plain, for their columns."""
    fields_at, body_at = _places(row["tenant_id"], row["id"], row["destination"])
    return seal_json(vault, row["fields"], fields_at), seal_bytes(vault, row["body"], body_at)


def _places(tenant_id: TenantId, schedule_id: str, destination: str) -> tuple[bytes, bytes]:
    """Where the secrets of a schedule stand. With the destination, so that they cannot be had sent elsewhere."""
    row = f"{schedule_id} {destination}".encode()
    return place("schedules.fields", tenant_id, row), place("schedules.body", tenant_id, row)


def _schedule_of(row: Row, vault: Vault) -> Schedule:
    fields_at, body_at = _places(row["tenant_id"], row["id"], row["destination"])
    unopened: PostroadError | None = None
    try:
        fields = open_json(vault, row["fields"], row["sealed"], fields_at)
        body = open_bytes(vault, row["body"], row["sealed"], body_at)
    except (KeyMissing, Unopenable) as error:
        fields, body, unopened = None, None, error
    return Schedule(
        tenant_id=row["tenant_id"],
        id=row["id"],
        cron=row["cron"],
        request=Request(
            destination=row["destination"],
            fields=tuple((name, value) for name, value in orjson.loads(fields or "[]")),
            body=body or b"",
            caller_ip=row["caller_ip"],
            schedule_id=row["id"],
        ),
        paused=row["paused"],
        next_at=row["next_at"],
        last_at=row["last_at"],
        last_messages=tuple(row["last_messages"]),
        error=row["error"] if unopened is None else str(unopened),
        created_at=row["created_at"],
        unopened=unopened,
    )
