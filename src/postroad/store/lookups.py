"""Messages read back by their tenant, one at a time or by filters."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import any_, literal, select
from sqlalchemy.dialects.postgresql import ARRAY, UUID

from postroad.domain.ids import MessageId
from postroad.domain.message import StoredMessage
from postroad.domain.tenant import TenantId
from postroad.store.engine import Connection, run
from postroad.store.filters import Filters, on_message
from postroad.store.messages import message_of
from postroad.store.tables import deliveries, messages

_FIND = """
select m.id, m.tenant_id, m.created_at, m.url, m.method, m.header, m.options, m.caller_ip, m.labels, m.source_id,
  m.queue, m.schedule_id, m.url_group,
  m.body, coalesce(octet_length(m.body), 0) as body_bytes
from messages m
where m.id = $1 and m.tenant_id = $2 and (
  exists (select from deliveries d where d.id = m.id)
  or (not exists (select from cancellations c where c.message_id = m.id and c.canceled_at is not null)
      and exists (select from attempts a where a.message_id = m.id and a.ended_at > now() - $3::interval)))
"""


async def find(
    connection: Connection, tenant_id: TenantId, message_id: MessageId, *, linger: timedelta
) -> StoredMessage | None:
    """A message that is unfinished, or whose last attempt ended less than linger ago; with its whole body."""
    row = await connection.fetchrow(_FIND, message_id, tenant_id, linger)
    return None if row is None else message_of(row)


async def unfinished_ids(
    connection: Connection, tenant_id: TenantId, filters: Filters, *, after: MessageId | None, limit: int
) -> list[MessageId]:
    """Ids of unfinished messages that match and whose cancellation was not asked for, ascending, from `after` on."""
    query = (
        select(deliveries.c.id)
        .where(deliveries.c.tenant_id == tenant_id, deliveries.c.cancel_requested_at.is_(None))
        .order_by(deliveries.c.id)
        .limit(limit)
    )
    if after is not None:
        query = query.where(deliveries.c.id > after)
    if filters.message_ids is not None:
        query = query.where(deliveries.c.id == any_(literal(list(filters.message_ids), ARRAY(UUID))))
    if filters.are_on_messages or filters.since is not None or filters.until is not None:
        query = query.join(messages, messages.c.id == deliveries.c.id).where(*on_message(messages, filters))
        if filters.since is not None:
            query = query.where(messages.c.created_at >= filters.since)
        if filters.until is not None:
            query = query.where(messages.c.created_at <= filters.until)
    return [row["id"] for row in await run(connection, query)]
