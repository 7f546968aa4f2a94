"""A cancellation that commits while somebody who ends the delivery waits for its row."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from postroad.store import deliveries, dispatchers
from postroad.store.deliveries import Claimed, Ended, Settlement
from postroad.store.engine import Connection, Database
from postroad.store.messages import insert
from tests.builders import TENANT, a_new_message
from tests.conftest import eventually

End = Callable[[Connection, int, Claimed], Awaitable[Any]]


async def settle(connection: Connection, me: int, claimed: Claimed) -> None:
    failed = Settlement(claimed.id, claimed.lease, Ended.RETRY, timedelta(0), delay=timedelta(0), status=500)
    assert [one.canceled for one in await deliveries.settle(connection, me, [failed])] == [True]


async def rescue(connection: Connection, me: int, _: Claimed) -> None:
    assert len(await deliveries.rescue(connection, [me])) == 1


async def give_back(connection: Connection, me: int, _: Claimed) -> None:
    assert await deliveries.give_back(connection, me) == 1


@pytest.mark.parametrize("end", [settle, rescue, give_back], ids=lambda end: end.__name__)
async def test_a_cancellation_is_completed_by_whoever_waited_for_it(
    database: Database, connection: Connection, end: End
) -> None:
    me = await dispatchers.register(connection, "test")
    new = a_new_message()
    await insert(connection, [new], dispatcher_id=None, window=timedelta(minutes=10))
    [claimed] = await deliveries.claim_due(connection, me, 1)

    async def ending() -> None:
        async with database.transaction() as own:
            await end(own, me, claimed)

    async with database.transaction() as cancelling:
        assert await deliveries.cancel(cancelling, TENANT, [new.message.id]) == 1
        task = asyncio.create_task(ending())
        waiting = (
            "select count(*) from pg_locks join pg_stat_activity using (pid) "
            "where not granted and datname = current_database()"
        )
        await eventually(lambda: connection.fetchval(waiting), lambda count: count > 0)
    await task

    assert await connection.fetchval("select count(*) from deliveries") == 0
    row = await connection.fetchrow("select message_id, canceled_at >= requested_at as ended from cancellations")
    assert row is not None
    assert tuple(row) == (new.message.id, True)
