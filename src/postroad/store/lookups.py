"""Messages read back by their tenant, one at a time or by filters."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    CTE,
    BigInteger,
    ColumnElement,
    FromClause,
    Integer,
    ScalarSelect,
    Select,
    Text,
    and_,
    any_,
    case,
    func,
    literal,
    literal_column,
    select,
    true,
)
from sqlalchemy.dialects.postgresql import ARRAY, UUID

from postroad.domain.ids import MessageId
from postroad.domain.message import StoredMessage
from postroad.domain.tenant import TenantId
from postroad.store import wall
from postroad.store.engine import Connection, run, vault_of
from postroad.store.filters import ORDERED, Filters, on_message
from postroad.store.messages import message_of
from postroad.store.passages import LABELLED, labelled, unfinished
from postroad.store.tables import deliveries, messages

MOST_BY_MESSAGE = 20_000
"""How far the index of a filter is followed, which leads to finished messages as well."""

_BEFORE_ALL = MessageId(uuid.UUID(int=0))

_FIND = """
select m.id, m.tenant_id, m.created_at, m.url, m.method, m.header, m.options, m.caller_ip, m.labels, m.source_id,
  m.queue, m.schedule_id, m.url_group, m.sealed,
  m.body, coalesce(octet_length(m.body), 0) as body_bytes
from messages m
where m.id = $1 and m.tenant_id = $2 and (
  exists (select from deliveries d where d.id = m.id)
  or (not exists (select from cancellations c where c.message_id = m.id and c.canceled_at is not null)
      and exists (select from attempts a where a.message_id = m.id and a.ended_at > now() - $3::interval)))
"""


@dataclass(frozen=True, slots=True)
class Looked:
    """What a look through unfinished messages has found, ascending, and where the next one goes on; None at the end."""

    ids: list[MessageId]
    after: MessageId | None


async def find(
    connection: Connection, tenant_id: TenantId, message_id: MessageId, *, linger: timedelta
) -> StoredMessage | None:
    """A message that is unfinished, or whose last attempt ended less than linger ago; with its whole body."""
    row = await connection.fetchrow(_FIND, message_id, tenant_id, linger)
    return None if row is None else message_of(row, vault_of(connection))


async def look_through(
    connection: Connection,
    tenant_id: TenantId,
    filters: Filters,
    *,
    after: MessageId | None,
    limit: int,
    reach: int,
    until: datetime | None = None,
) -> Looked:
    """The next unfinished messages that match and whose cancellation was not asked for, up to `limit` of them.

    It goes from `after` along the ids of all unfinished messages, `reach` of them and no further: so a walk of many
    looks reads each of them once, and no look takes long. `until` bounds the creation, beside the filters.
    """
    looked = await _along(connection, tenant_id, filters, after, reach)
    found = _matching(looked, filters, until).order_by(looked.c.id).limit(limit)
    [row] = await run(connection, select(_ids(found), *_extent(looked)))
    ids: list[MessageId] = row["ids"]
    if len(ids) == limit:
        return Looked(ids, ids[-1])
    return Looked(ids, row["last"] if row["seen"] == reach else None)


async def count_through(
    connection: Connection, tenant_id: TenantId, filters: Filters, *, after: MessageId | None, reach: int
) -> tuple[int, MessageId | None]:
    """How many such messages there are among the next `reach` that are unfinished, and where to go on."""
    looked = await _along(connection, tenant_id, filters, after, reach)
    found = _matching(looked, filters, None).subquery()
    [row] = await run(connection, select(_count(found).label("found"), *_extent(looked)))
    return row["found"], row["last"] if row["seen"] == reach else None


async def find_by_message(
    connection: Connection, tenant_id: TenantId, filters: Filters, *, until: datetime | None = None
) -> list[MessageId] | None:
    """All that looks would find, by way of the index of one filter: at once, when few messages have its value.

    None without such a filter, and when it leads to too many messages, finished ones among them.
    """
    driving = next((name for name in (*ORDERED, "label") if name in filters.values), None)
    if driving is None:
        return None
    values = filters.values[driving]
    if driving == "label" and await wall.is_behind(connection):
        by_index = select(labelled(literal(values, ARRAY(Text)), most=literal(MOST_BY_MESSAGE + 1, BigInteger)))
    else:
        only = Filters(values={driving: values})
        by_index = select(*_FILTERED).where(*on_message(messages, only)).limit(MOST_BY_MESSAGE + 1)
    if driving in ORDERED:
        # Of labels there is one index for all tenants, and with a tenant here the planner may prefer another one.
        by_index = by_index.where(messages.c.tenant_id == tenant_id)
    having = by_index.cte("having").prefix_with("materialized")
    too_many = case((having.c.id.is_(None), MOST_BY_MESSAGE + 1))
    seen = select(func.coalesce(func.max(too_many), func.count())).select_from(having).scalar_subquery()
    delivery = _each(select(deliveries.c.id).where(deliveries.c.id == having.c.id, *_on_delivery(tenant_id, filters)))
    conditions = [seen <= MOST_BY_MESSAGE, *_on_message(having, filters, until)]
    found: Select[Any] = select(having.c.id).select_from(having.join(delivery, true())).where(*conditions)
    found = found.order_by(having.c.id)
    [row] = await run(connection, select(_ids(found), seen.label("seen")))
    ids: list[MessageId] = row["ids"]
    return ids if row["seen"] <= MOST_BY_MESSAGE else None


_ZERO: ColumnElement[int] = literal_column("0", Integer)
_FILTERED = [messages.c[name] for name in LABELLED]


def _each(one: Select[Any]) -> FromClause:
    """What a query gives for each row of another. OFFSET 0 keeps the planner from making a join of all out of it."""
    return one.offset(_ZERO).lateral()


async def _along(
    connection: Connection, tenant_id: TenantId, filters: Filters, after: MessageId | None, reach: int
) -> CTE:
    """The next unfinished messages of all tenants; that of them which are candidates is said.

    Behind the wall, those of others are left out, and `place` says where they were.
    """
    beyond = after or _BEFORE_ALL
    if await wall.is_behind(connection):
        seen = unfinished(literal(beyond, UUID), literal(reach, Integer))
        is_wanted = and_(seen.c.is_candidate, *_on_ids(seen.c.id, filters)).label("is_candidate")
        along = select(seen.c.id, is_wanted, seen.c.place)
    else:
        number, is_candidate = deliveries.c.id, and_(*_on_delivery(tenant_id, filters)).label("is_candidate")
        along = select(number, is_candidate).where(number > beyond).order_by(number).limit(reach)
    return along.cte("looked").prefix_with("materialized")


def _matching(looked: CTE, filters: Filters, until: datetime | None) -> Select[Any]:
    found: Select[Any] = select(looked.c.id).where(looked.c.is_candidate)
    if not _needs_messages(filters, until):
        return found
    message = _each(select(*_FILTERED).where(messages.c.id == looked.c.id))
    return found.select_from(looked.join(message, true())).where(*_on_message(message, filters, until))


def _extent(looked: CTE) -> tuple[ColumnElement[Any], ...]:
    last = select(looked.c.id).order_by(looked.c.id.desc()).limit(1).scalar_subquery()
    seen = select(func.max(looked.c.place)).scalar_subquery() if "place" in looked.c else _count(looked)
    return seen.label("seen"), last.label("last")


def _ids(found: Select[Any]) -> ColumnElement[Any]:
    return func.array(found.scalar_subquery()).label("ids")


def _count(rows: FromClause) -> ScalarSelect[int]:
    return select(func.count()).select_from(rows).scalar_subquery()


def _on_delivery(tenant_id: TenantId, filters: Filters) -> list[ColumnElement[bool]]:
    delivery = deliveries.c
    return [
        delivery.tenant_id == tenant_id,
        delivery.cancel_requested_at.is_(None),
        *_on_ids(delivery.id, filters),
    ]


def _on_ids(message_id: ColumnElement[Any], filters: Filters) -> list[ColumnElement[bool]]:
    ids = filters.message_ids
    return [] if ids is None else [message_id == any_(literal(list(ids), ARRAY(UUID)))]


def _needs_messages(filters: Filters, until: datetime | None) -> bool:
    return filters.are_on_messages or any(one is not None for one in (filters.since, filters.until, until))


def _on_message(message: FromClause, filters: Filters, until: datetime | None) -> list[ColumnElement[bool]]:
    created_at = message.c.created_at
    since = [created_at >= filters.since] if filters.since is not None else []
    return [
        *on_message(message, filters),
        *since,
        *(created_at <= one for one in (filters.until, until) if one is not None),
    ]
