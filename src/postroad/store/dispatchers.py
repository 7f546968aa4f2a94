"""Process starts that may hold leases, and how they prove to be alive."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from postroad.store.engine import Connection, affected

ALIVE_FOR = timedelta(seconds=10)
"""How far a beat reaches. A dispatcher that has not beaten for this long is rescued from."""


async def register(connection: Connection, node: str) -> int:
    """A new dispatcher, alive from now on. `node` is for people to read; identity is the id alone."""
    dispatcher_id: int = await connection.fetchval(
        "insert into dispatchers (node, alive_until) values ($1, now() + $2::interval) returning id", node, ALIVE_FOR
    )
    return dispatcher_id


async def beat(connection: Connection, dispatcher_id: int) -> bool:
    """Stay alive. False when the dispatcher was declared dead: it holds nothing any more and has to start over."""
    status = await connection.execute(
        "update dispatchers set alive_until = now() + $2::interval where id = $1 and alive_until > now()",
        dispatcher_id,
        ALIVE_FOR,
    )
    return affected(status) == 1


async def forget(connection: Connection, dispatcher_ids: Sequence[int]) -> None:
    """Delete dispatchers that hold nothing."""
    await connection.execute("delete from dispatchers where id = any($1::bigint[])", list(dispatcher_ids))


async def any_dead(connection: Connection) -> bool:
    """Whether a dispatcher stopped beating; cheaper than locking to find out."""
    return await connection.fetchval("select true from dispatchers where alive_until < now() limit 1") is True


async def declare_all_dead(connection: Connection) -> None:
    """Let everything be rescued at once; only for whoever knows that no dispatcher is left."""
    await connection.execute("update dispatchers set alive_until = '-infinity'")
