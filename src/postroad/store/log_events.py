"""The log: merged from messages, attempts, deliveries and cancellations, page by page, with keys that never change."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    FromClause,
    Integer,
    Select,
    any_,
    case,
    cast,
    exists,
    literal,
    null,
    select,
    tuple_,
    union_all,
)
from sqlalchemy.dialects.postgresql import ARRAY, UUID

from postroad.domain.ids import MessageId
from postroad.domain.log import Event, Position, State
from postroad.domain.message import StoredMessage
from postroad.domain.tenant import TenantId
from postroad.store import messages as stored_messages
from postroad.store.deliveries import Ended
from postroad.store.engine import Connection, Row, run
from postroad.store.filters import Filters, on_message
from postroad.store.tables import Instant, attempts, cancellations, deliveries, messages


@dataclass(frozen=True, slots=True)
class _Source:
    """One of the tables that events come from."""

    table: FromClause
    tenant_id: ColumnElement[int]
    message_id: ColumnElement[Any]
    at: ColumnElement[datetime]
    ordinal: int
    state: ColumnElement[str]
    lease: ColumnElement[int]
    states: frozenset[State]
    where: Sequence[ColumnElement[bool]] = ()


async def page(
    connection: Connection,
    tenant_id: TenantId,
    filters: Filters,
    *,
    states: Collection[State] | None,
    after: Position | None,
    limit: int,
    oldest_first: bool = False,
) -> tuple[list[Event], Position | None]:
    """Up to limit events beyond `after`, the newest first unless said otherwise; and the last one if there are more.

    Going down by (instant, message, ordinal) neither repeats nor skips an event, whatever is written meanwhile.
    """
    wanted = frozenset(states) if states is not None else frozenset(State)
    parts = [
        _part(source, tenant_id, filters, wanted, after, limit + 1, oldest_first)
        for source in _sources()
        if source.states & wanted
    ]
    if not parts:
        return [], None
    merged = union_all(*parts).subquery()
    keys = (merged.c.at, merged.c.message_id, merged.c.n)
    order = keys if oldest_first else tuple(key.desc() for key in keys)
    rows = await run(connection, select(merged).order_by(*order).limit(limit + 1))
    last = rows[limit - 1] if len(rows) > limit else None
    more = None if last is None else Position(last["at"], last["message_id"], last["n"])
    return await _with_details(connection, rows[:limit]), more


def _sources() -> list[_Source]:
    """CREATED, ACTIVE of ended and of running attempts, ends of attempts, what followed, cancellations."""
    a, d, c = attempts.c, deliveries.c, cancellations.c
    nothing: ColumnElement[int] = cast(null(), BigInteger)
    ended = case((a.outcome == Ended.DELIVERED, State.DELIVERED.value), else_=State.ERROR.value)
    followed = case((a.next_due_at.is_not(None), State.RETRY.value), else_=State.FAILED.value)
    return [
        _source(messages, messages.c.id, messages.c.created_at, 0, State.CREATED, nothing),
        _source(attempts, a.message_id, a.active_at, 1, State.ACTIVE, a.lease),
        _source(deliveries, d.id, d.active_at, 1, State.ACTIVE, d.lease, d.state == 2),
        _Source(
            attempts,
            a.tenant_id,
            a.message_id,
            a.ended_at,
            2,
            ended,
            a.lease,
            frozenset({State.DELIVERED, State.ERROR}),
        ),
        _Source(
            attempts,
            a.tenant_id,
            a.message_id,
            a.ended_at,
            3,
            followed,
            a.lease,
            frozenset({State.RETRY, State.FAILED}),
            [a.outcome != Ended.DELIVERED, (a.outcome == Ended.FAILED) | a.next_due_at.is_not(None)],
        ),
        _source(cancellations, c.message_id, c.requested_at, 4, State.CANCEL_REQUESTED, nothing),
        _source(cancellations, c.message_id, c.canceled_at, 5, State.CANCELED, nothing, c.canceled_at.is_not(None)),
    ]


def _source(
    table: FromClause,
    message_id: ColumnElement[Any],
    at: ColumnElement[Any],
    ordinal: int,
    state: State,
    lease: ColumnElement[int],
    *where: ColumnElement[bool],
) -> _Source:
    return _Source(
        table, table.c.tenant_id, message_id, at, ordinal, literal(state.value), lease, frozenset({state}), where
    )


def _part(
    source: _Source,
    tenant_id: TenantId,
    filters: Filters,
    wanted: frozenset[State],
    after: Position | None,
    limit: int,
    oldest_first: bool,
) -> Any:
    at, message_id, ordinal = source.at, source.message_id, literal(source.ordinal, Integer)
    query: Select[Any] = (
        select(
            message_id.label("message_id"),
            at.label("at"),
            ordinal.label("n"),
            source.state.label("state"),
            source.lease.label("lease"),
        )
        .select_from(source.table)
        .where(source.tenant_id == tenant_id, *source.where)
    )
    if after is not None:
        key = tuple_(at, message_id, ordinal)
        beyond = tuple_(literal(after.at, Instant), literal(after.message_id, UUID), literal(after.ordinal, Integer))
        # The second condition says what follows from the first in words that an index understands.
        ahead = (key > beyond, at >= after.at) if oldest_first else (key < beyond, at <= after.at)
        query = query.where(*ahead)
    if not source.states <= wanted:
        query = query.where(source.state.in_([state.value for state in source.states & wanted]))
    if filters.message_ids is not None:
        query = query.where(message_id == any_(literal(list(filters.message_ids), ARRAY(UUID))))
    if filters.since is not None:
        query = query.where(at >= filters.since)
    if filters.until is not None:
        query = query.where(at <= filters.until)
    if filters.are_on_messages:
        if source.table is messages:
            query = query.where(*on_message(messages, filters))
        else:
            m = messages.alias()
            query = query.where(exists().where(m.c.id == message_id, *on_message(m, filters)))
    order = (at, message_id) if oldest_first else (at.desc(), message_id.desc())
    return query.order_by(*order).limit(limit).subquery().select()


async def _with_details(connection: Connection, rows: Sequence[Row]) -> list[Event]:
    ids = list({row["message_id"] for row in rows})
    by_id = {one.message.id: one for one in await stored_messages.fetch(connection, ids)}
    ended = [(row["message_id"], row["lease"]) for row in rows if row["n"] in (2, 3) and row["state"] != "DELIVERED"]
    details = {(row["message_id"], row["lease"]): row for row in await _attempts(connection, ended)}
    return [
        _event(row, by_id[row["message_id"]], details.get((row["message_id"], row["lease"])))
        for row in rows
        if row["message_id"] in by_id
    ]


async def _attempts(connection: Connection, keys: Sequence[tuple[MessageId, int]]) -> list[Row]:
    if not keys:
        return []
    return await connection.fetch(
        """
        select a.message_id, a.lease, a.outcome, a.status, a.reason, a.header,
          substring(a.body for 65536) as body, a.next_due_at
        from (select distinct * from unnest($1::uuid[], $2::bigint[]) as k(message_id, lease)) k
        join attempts a on a.message_id = k.message_id and a.lease = k.lease
        """,
        [message_id for message_id, _ in keys],
        [lease for _, lease in keys],
    )


def _event(row: Row, stored: StoredMessage, attempt: Row | None) -> Event:
    position = Position(row["at"], row["message_id"], row["n"])
    state = State(row["state"])
    if state is State.CREATED and stored.not_before > stored.created_at:
        return Event(position, state, stored, next_due_at=stored.not_before)
    if attempt is None or state not in (State.ERROR, State.RETRY, State.FAILED):
        return Event(position, state, stored)
    if state is State.RETRY:
        return Event(position, state, stored, next_due_at=attempt["next_due_at"], reason=attempt["reason"])
    headers = orjson.loads(attempt["header"]) if attempt["header"] else []
    return Event(
        position,
        state,
        stored,
        reason=attempt["reason"],
        status=attempt["status"],
        headers=tuple((name, value) for name, value in headers),
        body=attempt["body"],
    )
