"""Process starts that may hold leases, and how they prove to be alive."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from secrets import randbits

from postroad.store import deliveries
from postroad.store.engine import Connection, affected, statement

ALIVE_FOR = timedelta(seconds=8)
"""How far a beat reaches. A dispatcher that has not beaten for this long is rescued from."""

BEAT_EVERY = timedelta(seconds=2)

_ID_BITS = 62
_LOCK_DEAD = statement("lock_dead")


async def register(connection: Connection, node: str) -> int:
    """A new dispatcher, alive from now on. `node` is for people to read; identity is the id alone.

    The id is drawn, not counted: after a failover or a restore a counter may give out what living nodes have already.
    """
    dispatcher_id: int = await connection.fetchval(
        """
        insert into dispatchers (id, node, alive_until) overriding system value
        values ($3, $1, now() + $2::interval) returning id
        """,
        node,
        ALIVE_FOR,
        randbits(_ID_BITS),
    )
    return dispatcher_id


async def beat(connection: Connection, dispatcher_id: int) -> bool:
    """Stay alive. False when the dispatcher was declared dead: it holds nothing any more and has to start over.

    Rescue deletes the row in the transaction that takes the deliveries: as long as there is a row, nothing was taken,
    however late the beat is. A gap as long as a beat reaches is written down: whoever could not beat himself is no
    witness that others could.
    """
    status = await connection.execute(
        """
        update dispatchers set alive_until = now() + $2::interval,
          steady_since = case when alive_until < now() then now() else steady_since end
        where id = $1
        """,
        dispatcher_id,
        ALIVE_FOR,
    )
    return affected(status) == 1


async def sign_off(connection: Connection, dispatcher_id: int) -> None:
    """Give everything back and be gone, in the caller's transaction.

    The row is locked first, so that a hand-over under way is either seen here or finds no living dispatcher.
    """
    await connection.fetch("select id from dispatchers where id = $1 for update", dispatcher_id)
    await deliveries.give_back(connection, dispatcher_id)
    await forget(connection, [dispatcher_id])


async def lock_dead(connection: Connection, but: int) -> list[int]:
    """Those that stopped beating though they could, oneself aside, locked so that no lease can be born for them."""
    return [row["id"] for row in await connection.fetch(_LOCK_DEAD, but, ALIVE_FOR, BEAT_EVERY)]


async def forget(connection: Connection, dispatcher_ids: Sequence[int]) -> None:
    """Delete dispatchers that hold nothing."""
    await connection.execute("delete from dispatchers where id = any($1::bigint[])", list(dispatcher_ids))


async def any_dead(connection: Connection, but: int) -> bool:
    """Whether a dispatcher, oneself aside, stopped beating; cheaper than locking to find out."""
    found = await connection.fetchval(
        "select true from dispatchers where alive_until < now() and id <> $1 limit 1", but
    )
    return found is True


async def declare_all_dead(connection: Connection) -> None:
    """Let everything be rescued at once; only for whoever knows that no dispatcher is left."""
    await connection.execute("update dispatchers set alive_until = '-infinity'")
