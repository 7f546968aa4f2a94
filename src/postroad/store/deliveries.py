"""Unfinished work: claimed by the batch, settled by the batch, rescued from the dead."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum
from typing import Any

from postroad.domain.ids import MessageId
from postroad.domain.tenant import TenantId
from postroad.store.engine import Connection, statement

_CLAIM_DUE = statement("claim_due")
_CLAIM_FAIR = statement("claim_fair")
_CLAIM_SUSPECT = statement("claim_suspect")
_SETTLE = statement("settle")
_CANCEL = statement("cancel")
_LOCK_DEAD = statement("lock_dead")
_RESCUE = statement("rescue")
_GIVE_BACK = statement("give_back")

FIRST_DESTINATION = -(2**63)
"""Where the rotation over destinations begins."""

_DESTINATIONS_A_TURN = 200


class Ended(IntEnum):
    """How an attempt ended, as it is stored."""

    DELIVERED = 0
    RETRY = 1
    FAILED = 2
    LOST = 3


@dataclass(slots=True)
class Claimed:
    """A delivery that was leased to this dispatcher."""

    id: MessageId
    lease: int
    retried: int
    destination: int


@dataclass(slots=True)
class Settlement:
    """The end of an attempt on its way into the store. The response is stored of attempts that failed."""

    id: MessageId
    lease: int
    ended: Ended
    duration: timedelta
    delay: timedelta | None = None
    status: int | None = None
    reason: str | None = None
    header: str | None = None
    body: bytes | None = None


@dataclass(slots=True)
class Settled:
    """A settlement that took effect."""

    id: MessageId
    canceled: bool
    dead_letter_id: int | None
    failed_at: datetime | None


@dataclass(slots=True)
class Rescued:
    """A delivery taken from a dead dispatcher; `dead_letter_id` is set when it was buried as poison."""

    id: MessageId
    retried: int
    dead_letter_id: int | None
    failed_at: datetime | None


async def claim_due(connection: Connection, dispatcher_id: int, limit: int) -> list[Claimed]:
    """Claim up to limit due deliveries for a living dispatcher, the longest due first; skips rows that others hold."""
    return [_claimed(row) for row in await connection.fetch(_CLAIM_DUE, dispatcher_id, limit)]


async def claim_suspect(connection: Connection, dispatcher_id: int) -> list[Claimed]:
    """Claim one due delivery that has lost dispatchers before."""
    return [_claimed(row) for row in await connection.fetch(_CLAIM_SUSPECT, dispatcher_id)]


async def claim_fair(
    connection: Connection, dispatcher_id: int, limit: int, *, share: int, saturated: Iterable[int], after: int
) -> tuple[list[Claimed], int, bool]:
    """Claim up to share due deliveries of each destination that is not saturated, going on from the rotation's place.

    Gives what was claimed, the place where the rotation goes on, and whether it has been round.
    """
    rows = await connection.fetch(
        _CLAIM_FAIR, dispatcher_id, limit, share, list(saturated), after, _DESTINATIONS_A_TURN
    )
    claimed = [_claimed(row) for row in rows if row["id"] is not None]
    if len(claimed) >= limit:
        return claimed, max(one.destination for one in claimed), False
    if rows[0]["seen"] < _DESTINATIONS_A_TURN or rows[0]["stands_at"] is None:
        return claimed, FIRST_DESTINATION, True
    return claimed, rows[0]["stands_at"], False


async def settle(connection: Connection, dispatcher_id: int, settlements: Sequence[Settlement]) -> list[Settled]:
    """End attempts. Only those that the dispatcher still holds under the same lease take effect and come back."""
    columns: list[list[Any]] = [
        [s.id for s in settlements],
        [s.lease for s in settlements],
        [s.ended for s in settlements],
        [None if s.delay is None else s.delay.total_seconds() for s in settlements],
        [s.status for s in settlements],
        [s.reason for s in settlements],
        [s.header for s in settlements],
        [s.body for s in settlements],
        [s.duration.total_seconds() for s in settlements],
    ]
    rows = await connection.fetch(_SETTLE, dispatcher_id, *columns)
    return [Settled(row["id"], row["canceled"], row["dead_letter_id"], row["failed_at"]) for row in rows]


async def cancel(connection: Connection, tenant_id: TenantId, ids: Sequence[MessageId]) -> int:
    """Cancel what is unfinished of these messages; gives how many that were. Unknown ids are passed over."""
    return len(await connection.fetch(_CANCEL, tenant_id, ids))


async def release_now(connection: Connection, tenant_id: TenantId, message_id: MessageId) -> bool | None:
    """Make a waiting delivery due now, without counting an attempt.

    None when it belongs to a queue, False when there is nothing that waits for its time.
    """
    row = await connection.fetchrow(
        """
        with target as materialized (
          select id, queue_id from deliveries
          where tenant_id = $1 and id = $2 and state = 1 and cancel_requested_at is null for update),
        released as (
          update deliveries d set due_at = now() from target where d.id = target.id and target.queue_id is null)
        select queue_id from target
        """,
        tenant_id,
        message_id,
    )
    if row is None:
        return False
    return None if row["queue_id"] is not None else True


async def give_back(
    connection: Connection,
    dispatcher_id: int,
    in_memory: Sequence[tuple[MessageId, int]] = (),
    *,
    older_than: timedelta = timedelta(0),
) -> int:
    """Return deliveries that are leased to the dispatcher, but not under a lease in its memory; gives how many."""
    ids, leases = [one for one, _ in in_memory], [lease for _, lease in in_memory]
    count: int = await connection.fetchval(_GIVE_BACK, dispatcher_id, ids, leases, older_than)
    return count


async def lock_dead(connection: Connection, but: int) -> list[int]:
    """Dispatchers that stopped beating, oneself aside, locked so that no lease can be born for them."""
    return [row["id"] for row in await connection.fetch(_LOCK_DEAD, but)]


async def rescue(connection: Connection, dead: Sequence[int]) -> list[Rescued]:
    """Take up to 1,000 deliveries from dead dispatchers that lock_dead returned in this transaction."""
    rows = await connection.fetch(_RESCUE, dead)
    return [Rescued(row["id"], row["retried"], row["dead_letter_id"], row["failed_at"]) for row in rows]


async def until_next_due(connection: Connection) -> timedelta | None:
    """How long until the earliest waiting delivery is due; zero or less when one is, None when none waits."""
    wait: timedelta | None = await connection.fetchval(
        """
        select due_at - clock_timestamp() from deliveries
        where state = 1 and flow_key_id is null order by due_at limit 1
        """
    )
    return wait


def _claimed(row: Any) -> Claimed:
    return Claimed(row["id"], row["lease"], row["retried"], row["destination"])
