"""Changes of messages that no attempt was made at yet, and of the time of those that wait for the next one."""

from __future__ import annotations

from dataclasses import dataclass, replace

from postroad.domain.ids import MessageId
from postroad.domain.limits import Limits
from postroad.domain.message import NotBefore, StoredMessage
from postroad.domain.publication import check_headers
from postroad.domain.reply import Headers
from postroad.domain.tenant import TenantId
from postroad.errors import InvalidField
from postroad.store import messages, wall
from postroad.store.deliveries import wake
from postroad.store.engine import Connection, vault_of


@dataclass(frozen=True, slots=True)
class Revision:
    """What is to be changed: None stays as it is, and so do headers of names that are not among these."""

    body: bytes | None
    headers: Headers
    when: NotBefore | None


async def revise(
    connection: Connection, *, tenant_id: TenantId, message_id: MessageId, revision: Revision, limits: Limits
) -> StoredMessage | None:
    """Change a message, in the caller's transaction behind the wall; None if it has ended, or an attempt has begun.

    Only the time can be changed of one that waits for its next attempt. Raises `InvalidField` for the time of a message
    that goes by its place in a queue, and for more headers than the limits allow together with those that stay. What
    was changed was never delivered, so no history is rewritten.
    """
    row = await connection.fetchrow(
        """
        select seq, flow_key_id, lease from deliveries
        where id = $1 and tenant_id = $2 and state < 2 and cancel_requested_at is null for update
        """,
        message_id,
        tenant_id,
    )
    was_tried = row is not None and row["lease"] > 0
    if row is None or (was_tried and (revision.body is not None or revision.headers)):
        return None
    if revision.when is not None and row["seq"] is not None and not was_tried:
        raise InvalidField("delay", "a time", "none: this message goes when it is its turn in its queue")
    found = await connection.fetchrow(
        """
        select id, tenant_id, created_at, url, method, header, options, caller_ip, labels, source_id, queue,
          schedule_id, url_group, sealed, body, coalesce(octet_length(body), 0) as body_bytes
        from messages where id = $1 and tenant_id = $2
        """,
        message_id,
        tenant_id,
    )
    if found is None:
        return None
    stored = messages.message_of(found, vault_of(connection))
    if stored.message.unopened is not None:
        raise stored.message.unopened
    changed = stored if was_tried else _changed(stored, revision)
    if revision.headers:
        check_headers(changed.message.options.headers, limits, "headers: Upstash-")
    # Messages cannot be written behind the wall, because nothing else changes them.
    await wall.leave(connection)
    if not was_tried:
        await messages.rewrite(connection, changed.message)
    if revision.when is not None:
        await connection.execute(
            "update deliveries set due_at = to_timestamp($2) where id = $1", message_id, revision.when.unix_seconds
        )
        await wake(connection, [] if row["flow_key_id"] is None else [row["flow_key_id"]])
    return changed


def _changed(stored: StoredMessage, revision: Revision) -> StoredMessage:
    message = stored.message
    replaced = {name for name, _ in revision.headers}
    kept = tuple(pair for pair in message.options.headers if pair[0] not in replaced)
    options = replace(message.options, headers=kept + revision.headers, when=revision.when or message.options.when)
    body = message.body if revision.body is None else revision.body
    return replace(stored, message=replace(message, options=options, body=body, body_bytes=len(body or b"")))
