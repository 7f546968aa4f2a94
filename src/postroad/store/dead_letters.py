"""The dead letter queue: listed by page, taken out to be retried or deleted."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import BigInteger, Select, Text, any_, func, literal, select
from sqlalchemy.dialects.postgresql import ARRAY, UUID

from postroad.domain.dead_letter import DeadLetter
from postroad.domain.ids import MessageId
from postroad.domain.tenant import TenantId
from postroad.errors import KeyMissing, Unopenable
from postroad.store import wall
from postroad.store.engine import Connection, Row, run, vault_of
from postroad.store.filters import Filters, on_message
from postroad.store.messages import message_of
from postroad.store.passages import labelled
from postroad.store.sealing import open_response
from postroad.store.tables import dead_letters, messages
from postroad.vault import Vault

_FEW = 1_000


async def page(
    connection: Connection,
    tenant_id: TenantId,
    filters: Filters,
    *,
    numbers: Sequence[int] | None,
    statuses: Sequence[int] | None,
    before: int | None,
    limit: int,
    oldest_first: bool = False,
) -> list[DeadLetter]:
    """Dead letters that match, the newest first unless said otherwise, from `before` on.

    `numbers` picks letters by their own number, `statuses` by the last response's status, 0 for none.
    """
    query = _matching(tenant_id, filters, numbers=numbers, statuses=statuses)
    if (ids := await _labelled(connection, filters)) is not None:
        query = query.where(dead_letters.c.message_id == any_(literal(ids, ARRAY(UUID))))
    number = dead_letters.c.id
    if before is not None:
        query = query.where(number > before if oldest_first else number < before)
    rows = await run(connection, query.order_by(number if oldest_first else number.desc()).limit(limit))
    return [_letter(row, vault_of(connection)) for row in rows]


async def lock(connection: Connection, tenant_id: TenantId, numbers: Sequence[int]) -> list[DeadLetter]:
    """Dead letters by number, locked against anybody else who retries or deletes them."""
    query = _matching(tenant_id, Filters(), numbers=numbers, statuses=None)
    rows = await run(connection, query.order_by(dead_letters.c.id).with_for_update(of=dead_letters, skip_locked=True))
    return [_letter(row, vault_of(connection)) for row in rows]


async def delete(connection: Connection, tenant_id: TenantId, numbers: Sequence[int]) -> int:
    """Delete dead letters by number; gives how many there were."""
    query = (
        dead_letters.delete()
        .where(
            dead_letters.c.tenant_id == tenant_id, dead_letters.c.id == any_(literal(list(numbers), ARRAY(BigInteger)))
        )
        .returning(dead_letters.c.id)
    )
    return len(await run(connection, query))


async def _labelled(connection: Connection, filters: Filters) -> list[MessageId] | None:
    """Behind the wall, where their index leads nowhere, the messages with these labels if few have them; else None."""
    if "label" not in filters.values or not await wall.is_behind(connection):
        return None
    found = labelled(literal(filters.values["label"], ARRAY(Text)), most=literal(_FEW, BigInteger))
    ids = [row["id"] for row in await run(connection, select(found.c.id))]
    return None if None in ids else ids


def _matching(
    tenant_id: TenantId, filters: Filters, *, numbers: Sequence[int] | None, statuses: Sequence[int] | None
) -> Select[tuple[object, ...]]:
    letter, message = dead_letters.c, messages.c
    query: Select[tuple[object, ...]] = (
        select(
            letter.id.label("number"),
            letter.failed_at,
            letter.status,
            letter.reason,
            letter.header.label("response_header"),
            letter.body.label("response_body"),
            letter.sealed.label("response_sealed"),
            message.id,
            message.tenant_id,
            message.created_at,
            message.url,
            message.method,
            message.header,
            message.options,
            message.caller_ip,
            message.labels,
            message.source_id,
            message.queue,
            message.schedule_id,
            message.url_group,
            message.sealed,
            message.body,
            func.coalesce(func.octet_length(message.body), 0).label("body_bytes"),
        )
        .join(messages, message.id == letter.message_id)
        .where(letter.tenant_id == tenant_id, *on_message(messages, filters))
    )
    if filters.message_ids is not None:
        query = query.where(letter.message_id == any_(literal(list(filters.message_ids), ARRAY(UUID))))
    if filters.since is not None:
        query = query.where(letter.failed_at >= filters.since)
    if filters.until is not None:
        query = query.where(letter.failed_at <= filters.until)
    if numbers is not None:
        query = query.where(letter.id == any_(literal(list(numbers), ARRAY(BigInteger))))
    if statuses is not None:
        query = query.where(func.coalesce(letter.status, 0).in_(statuses))
    return query


def _letter(row: Row, vault: Vault) -> DeadLetter:
    response = (row["response_header"], row["response_body"], row["response_sealed"])
    try:
        headers, body = open_response(vault, *response, row["tenant_id"], row["id"])
    except (KeyMissing, Unopenable) as error:
        headers, body = (), str(error).encode()
    return DeadLetter(
        number=row["number"],
        stored=message_of(row, vault),
        failed_at=row["failed_at"],
        status=row["status"],
        reason=row["reason"],
        headers=headers,
        body=body or b"",
    )
