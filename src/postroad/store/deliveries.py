"""Unfinished work: claimed by the batch, settled by the batch, rescued from the dead."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum
from typing import Any

from postroad.domain.ids import MessageId
from postroad.domain.tenant import TenantId
from postroad.store.engine import Connection, statement, vault_of
from postroad.store.sealing import seal_response

_CLAIM_DUE = statement("claim_due")
_CLAIM_FAIR = statement("claim_fair")
_CLAIM_SUSPECTS = statement("claim_suspects")
_LOCK_FLOW = statement("lock_flow")
_CLAIM_FLOW = statement("claim_flow")
_LOCK_SUSPECT_FLOW = statement("lock_suspect_flow")
_ENTER = statement("enter")
_SETTLE = statement("settle")
_LOCK_QUEUES = statement("lock_queues")
_RELEASE = statement("release")
_WAKE_FLOW = statement("wake_flow")
_CANCEL = statement("cancel")
_RESCUE = statement("rescue")
_GIVE_BACK = statement("give_back")

FIRST_DESTINATION = -(2**63)
"""Where the rotation over destinations begins."""

RESULT_BYTES = 64 * 1024
"""How much is kept of the body that a destination answered when all went well."""

_DESTINATIONS_A_TURN = 200
_FLOW_KEYS_A_TURN = 100
_SUSPECT_KEYS_A_TURN = 20
_ENTERING_A_TURN = 500
_NOW = timedelta(0)


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
    is_gated: bool


@dataclass(frozen=True, slots=True)
class Ahead:
    """How long until there is something to do, zero or less when it is now; None when nothing is in sight.

    `due` is for waiting deliveries without a flow-control key, `flow` for the keys, `suspect` for deliveries under a
    key that have lost dispatchers before, `entering` for delayed messages of queues.
    """

    due: timedelta | None
    flow: timedelta | None
    suspect: timedelta | None
    entering: timedelta | None

    @property
    def is_due(self) -> bool:
        """There may be something to claim."""
        return self.due is not None and self.due <= _NOW

    @property
    def is_flowing(self) -> bool:
        """There are keys to be looked at."""
        return self.flow is not None and self.flow <= _NOW

    @property
    def is_suspected(self) -> bool:
        """There is one that has to travel alone."""
        return self.suspect is not None and self.suspect <= _NOW

    @property
    def is_entering(self) -> bool:
        """There are delayed messages whose turn in their queue has come to be fixed."""
        return self.entering is not None and self.entering <= _NOW

    @property
    def later(self) -> list[timedelta]:
        """Those that lie ahead."""
        return [wait for wait in (self.due, self.flow, self.suspect, self.entering) if wait is not None and wait > _NOW]


@dataclass(slots=True)
class Settlement:
    """The end of an attempt on its way into the store.

    Where anything is stored of the response, it is known whose message it was.
    """

    id: MessageId
    lease: int
    ended: Ended
    duration: timedelta
    delay: timedelta | None = None
    status: int | None = None
    reason: str | None = None
    header: str | None = None
    body: bytes | None = None
    tenant_id: TenantId | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a queue. A message and its callbacks have the same."""

    queue_id: int
    seq: int


@dataclass(slots=True)
class Settled:
    """A settlement that took effect."""

    id: MessageId
    canceled: bool
    dead_letter_id: int | None
    failed_at: datetime | None
    place: Place | None
    flow_key_id: int | None


@dataclass(slots=True)
class Rescued:
    """A delivery taken from a dead dispatcher; `dead_letter_id` is set when it was buried as poison."""

    id: MessageId
    retried: int
    dead_letter_id: int | None
    failed_at: datetime | None
    place: Place | None
    flow_key_id: int | None


async def claim_due(connection: Connection, dispatcher_id: int, limit: int) -> list[Claimed]:
    """Claim up to limit due deliveries for a living dispatcher, the longest due first; skips rows that others hold."""
    return [_claimed(row) for row in await connection.fetch(_CLAIM_DUE, dispatcher_id, limit)]


async def claim_suspects(connection: Connection, dispatcher_id: int, limit: int) -> list[Claimed]:
    """Claim up to limit due deliveries that have lost two dispatchers before, or one that has lost more."""
    return [_claimed(row) for row in await connection.fetch(_CLAIM_SUSPECTS, dispatcher_id, limit)]


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


async def claim_flow(
    connection: Connection, dispatcher_id: int, limit: int, *, share: int | None = None, saturated: Iterable[int] = ()
) -> tuple[list[Claimed], bool]:
    """Claim up to limit due deliveries within the limits of their flow-control keys, in the caller's transaction.

    With a share, none of the saturated destinations, and no more than that of one key. Gives what was claimed, and
    whether there were keys to look at. The keys are locked by one statement and counted under by the next: one that
    does both counts with the snapshot from before it waited for the lock.
    """
    keys = [row["id"] for row in await connection.fetch(_LOCK_FLOW, _FLOW_KEYS_A_TURN)]
    if not keys:
        return [], False
    of_one_key = max(1, -(-limit // len(keys))) if share is None else share
    rows = await connection.fetch(_CLAIM_FLOW, dispatcher_id, limit, keys, of_one_key, list(saturated), False)
    return [_claimed(row) for row in rows], True


async def claim_suspect_flow(connection: Connection, dispatcher_id: int) -> list[Claimed]:
    """Claim one delivery that has lost dispatchers before, within the limits of its key.

    In the caller's transaction.
    """
    keys = [row["id"] for row in await connection.fetch(_LOCK_SUSPECT_FLOW, _SUSPECT_KEYS_A_TURN)]
    if not keys:
        return []
    return [_claimed(row) for row in await connection.fetch(_CLAIM_FLOW, dispatcher_id, 1, keys, 1, [], True)]


async def enter(connection: Connection) -> int:
    """Give delayed messages of queues that fall due their places, in the caller's transaction; gives how many."""
    rows = await connection.fetch(_ENTER, _ENTERING_A_TURN)
    await release(connection, queue_ids={row["queue_id"] for row in rows})
    return len(rows)


async def settle(connection: Connection, dispatcher_id: int, settlements: Sequence[Settlement]) -> list[Settled]:
    """End attempts. Only those that the dispatcher still holds under the same lease take effect and come back."""
    vault = vault_of(connection)
    responses = [(s.header, s.body) for s in settlements]
    if vault.number is not None:
        responses = [seal_response(vault, s.header, s.body, s.tenant_id, s.id) for s in settlements]
    columns: list[list[Any]] = [
        [s.id for s in settlements],
        [s.lease for s in settlements],
        [s.ended for s in settlements],
        [None if s.delay is None else s.delay.total_seconds() for s in settlements],
        [s.status for s in settlements],
        [s.reason for s in settlements],
        [header for header, _ in responses],
        [body for _, body in responses],
        [s.duration.total_seconds() for s in settlements],
    ]
    rows = await connection.fetch(_SETTLE, dispatcher_id, *columns, vault.number)
    return [
        Settled(
            row["id"],
            row["canceled"],
            row["dead_letter_id"],
            row["failed_at"],
            None if row["seq"] is None else Place(row["queue_id"], row["seq"]),
            row["flow_key_id"],
        )
        for row in rows
    ]


async def lock_queues(connection: Connection, ended: Iterable[Settled | Rescued]) -> None:
    """Lock the queues of deliveries that ended, before their callbacks lock any flow-control key: queues come first."""
    if queues := {one.place.queue_id for one in ended if one.place is not None}:
        await connection.fetch(_LOCK_QUEUES, list(queues))


async def release(
    connection: Connection, ended: Iterable[Settled | Rescued] = (), *, queue_ids: Iterable[int] = ()
) -> None:
    """Let go what waited behind deliveries that ended or were returned, and open the windows of queues.

    The last step of every transaction that ends, returns or adds deliveries, or changes a queue. Whoever runs it takes
    the locks of the queues and keys here, after those of the deliveries.
    """
    ended = list(ended)
    queues = {*queue_ids, *(one.place.queue_id for one in ended if one.place is not None)}
    keys = {one.flow_key_id for one in ended if one.flow_key_id is not None}
    if queues:
        await connection.fetch(_LOCK_QUEUES, list(queues))
        keys |= {row["flow_key_id"] for row in await connection.fetch(_RELEASE, list(queues))}
    await wake(connection, keys)


async def wake(connection: Connection, keys: Collection[int]) -> None:
    """Have flow-control keys looked at: something became due under them, or a slot free."""
    if keys:
        await connection.execute(_WAKE_FLOW, list(keys))


async def cancel(connection: Connection, tenant_id: TenantId, ids: Sequence[MessageId]) -> int:
    """Cancel what is unfinished of these messages, in the caller's transaction; gives how many that were.

    Unknown ids are passed over.
    """
    rows = await connection.fetch(_CANCEL, tenant_id, ids)
    await release(connection, queue_ids={row["queue_id"] for row in rows if row["queue_id"] is not None})
    return len(rows)


async def release_now(connection: Connection, tenant_id: TenantId, message_id: MessageId) -> bool | None:
    """Make a waiting delivery due now, without counting an attempt.

    None when it belongs to a queue, False when there is nothing that waits for its time.
    """
    queued = "select true from deliveries where tenant_id = $1 and id = $2 and state < 2 and queue_id is not null"
    if await connection.fetchval(queued, tenant_id, message_id):
        return None
    released: bool | None = await connection.fetchval(
        """
        with target as materialized (
          select id, flow_key_id from deliveries
          where tenant_id = $1 and id = $2 and state = 1 and queue_id is null and cancel_requested_at is null
          for update),
        released as (update deliveries set due_at = now() where id = any(array(select id from target))),
        woken as (
          update flow_keys k set wake_at = least(k.wake_at, now()) from target where k.id = target.flow_key_id)
        select true from target
        """,
        tenant_id,
        message_id,
    )
    return released is True


async def give_back(
    connection: Connection,
    dispatcher_id: int,
    in_memory: Sequence[tuple[MessageId, int]] = (),
    *,
    older_than: timedelta = timedelta(0),
) -> int:
    """Return deliveries that are leased to the dispatcher, but not under a lease in its memory; gives how many.

    In the caller's transaction.
    """
    ids, leases = [one for one, _ in in_memory], [lease for _, lease in in_memory]
    rows = await connection.fetch(_GIVE_BACK, dispatcher_id, ids, leases, older_than)
    await release(connection, queue_ids={row["queue_id"] for row in rows if row["queue_id"] is not None})
    await wake(connection, {row["flow_key_id"] for row in rows if row["flow_key_id"] is not None})
    return len(rows)


async def rescue(connection: Connection, dead: Sequence[int]) -> list[Rescued]:
    """Take up to 1,000 deliveries from dead dispatchers that `dispatchers.lock_dead` returned in this transaction."""
    rows = await connection.fetch(_RESCUE, dead)
    return [
        Rescued(
            row["id"],
            row["retried"],
            row["dead_letter_id"],
            row["failed_at"],
            None if row["seq"] is None else Place(row["queue_id"], row["seq"]),
            row["flow_key_id"],
        )
        for row in rows
    ]


async def look_ahead(connection: Connection) -> Ahead:
    """What is to be done next, and when."""
    row = await connection.fetchrow(
        """
        select
          (select due_at - clock_timestamp() from deliveries
           where state = 1 and flow_key_id is null order by due_at limit 1) as due,
          (select wake_at - clock_timestamp() from flow_keys
           where wake_at < 'infinity' order by wake_at limit 1) as flow,
          (select due_at - clock_timestamp() from deliveries
           where state = 1 and unsettled_claims >= 2 and flow_key_id is not null order by due_at limit 1) as suspect,
          (select due_at - clock_timestamp() from deliveries
           where state = 0 and seq is null order by due_at limit 1) as entering
        """
    )
    assert row is not None
    return Ahead(row["due"], row["flow"], row["suspect"], row["entering"])


def _claimed(row: Any) -> Claimed:
    return Claimed(row["id"], row["lease"], row["retried"], row["destination"], row["is_gated"])
