"""Several schedulers on one database, some of which die in the middle of their work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from itertools import count
from typing import Any

import pytest

from postroad.clock import Clock
from postroad.dispatch import scheduler
from postroad.dispatch.scheduler import Scheduler
from postroad.domain.cron import parse_cron
from postroad.domain.limits import Limits
from postroad.domain.network import parse_policy
from postroad.domain.publication import Request
from postroad.publish import Publisher
from postroad.resolver import Resolver
from postroad.store import schedules
from postroad.store.engine import Connection, Database, TryAgain
from postroad.store.messages import NewMessage, Stored
from tests.builders import TENANT
from tests.conftest import eventually, pass_time

MINUTE = timedelta(minutes=1)
_DEATHS = ("before it stores", "after it has stored")


class MortalPublisher(Publisher):
    """Every few times it stores something, the task that asked for it is gone before, or after that."""

    def __init__(self, die_every: int, turn: Callable[[], int]) -> None:
        super().__init__(
            clock=Clock(),
            resolver=Resolver(parse_policy("any")),
            limits=Limits(),
            deduplication_window=timedelta(minutes=10),
        )
        self._die_every = die_every
        self._turn = turn

    async def store(self, connection: Connection, group: Sequence[NewMessage], **more: Any) -> list[Stored]:
        """Store, or die."""
        turn = self._turn()
        dies = turn % self._die_every == 0
        if dies and turn % (2 * self._die_every) == 0:
            raise asyncio.CancelledError(_DEATHS[0])
        stored = await super().store(connection, group, **more)
        if dies:
            raise asyncio.CancelledError(_DEATHS[1])
        return stored


def a_scheduler(database: Database, publisher: Publisher) -> Scheduler:
    return Scheduler(database=database, publisher=publisher, catch_up=timedelta(minutes=10), expect=lambda wait: None)


async def put(connection: Connection, name: str, cron: str = "* * * * *", **fields: str) -> None:
    headers = tuple((f"upstash-{header.replace('_', '-')}", value) for header, value in fields.items())
    async with connection.transaction():
        request = Request("http://127.0.0.1:9/", headers, b"x", None, name)
        await schedules.put(connection, TENANT, parse_cron(cron), request, most=10_000)


async def made(connection: Connection) -> set[tuple[int, int]]:
    """How many ticks and how many messages there are of the schedules."""
    rows = await connection.fetch(
        "select (select count(*) from schedule_ticks t where t.schedule_id = s.id) as ticks, "
        "(select count(*) from messages m where m.schedule_id = s.id) as messages from schedules s"
    )
    return {(row["ticks"], row["messages"]) for row in rows}


async def immortal(database: Database, publisher: Publisher, deaths: list[str]) -> None:
    """A scheduler that is started again whenever it dies."""
    while True:
        try:
            await a_scheduler(database, publisher).run()
        except asyncio.CancelledError as death:
            if str(death) not in _DEATHS:
                raise
            deaths.append(str(death))


async def test_no_tick_is_lost_or_doubled_while_nodes_die(
    database_url: str, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "SCHEDULES", 10)
    for n in range(100):
        await put(connection, f"s{n}", **({"queue_name": f"q{n % 7}"} if n % 2 else {}))
    turns, deaths = count(1), list[str]()
    publisher = MortalPublisher(3, lambda: next(turns))
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as nodes:
        running = []
        for _ in range(4):
            database = await Database.connect(database_url, connections=4)
            stack.push_async_callback(database.close)
            running.append(nodes.create_task(immortal(database, publisher, deaths)))
        for n in range(1, 6):
            await pass_time(database_url, MINUTE)
            await eventually(lambda: made(connection), lambda rows, n=n: min(rows)[0] >= n)  # type: ignore[misc]
        for node in running:
            node.cancel()

    assert {ticks == messages for ticks, messages in await made(connection)} == {True}
    assert set(deaths) == set(_DEATHS)


async def test_a_deadlock_is_tried_again_at_once(database: Database, connection: Connection) -> None:
    class UnluckyPublisher(MortalPublisher):
        async def store(self, connection: Connection, group: Sequence[NewMessage], **more: Any) -> list[Stored]:
            if self._turn() == 1:
                raise TryAgain("deadlock detected")
            return await Publisher.store(self, connection, group, **more)

    turns = count(1)
    await put(connection, "s")
    await connection.execute("update schedules set next_at = now()")

    async with background(a_scheduler(database, UnluckyPublisher(1, lambda: next(turns)))):
        await eventually(lambda: made(connection), lambda rows: rows == {(1, 1)})

    found = await schedules.find(connection, TENANT, "s")
    assert found is not None
    assert found.error is None


async def test_a_large_catch_up_is_stored_in_pieces(
    database: Database, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "_CHUNK_MESSAGES", 7)
    monkeypatch.setattr(scheduler, "MESSAGES", 25)
    sizes: list[int] = []

    class ObservedPublisher(MortalPublisher):
        async def store(self, connection: Connection, group: Sequence[NewMessage], **more: Any) -> list[Stored]:
            sizes.append(len(group))
            return await Publisher.store(self, connection, group, **more)

    for n in range(6):
        await put(connection, f"s{n}")
    await connection.execute("update schedules set next_at = date_trunc('minute', now()) - interval '8 minutes'")

    async with background(a_scheduler(database, ObservedPublisher(1, lambda: 1))):
        await eventually(lambda: made(connection), lambda rows: min(rows)[0] >= 9)

    assert {ticks == messages for ticks, messages in await made(connection)} == {True}
    assert max(sizes) == 7


class background:  # noqa: N801  reads as a phrase where it is used
    """A scheduler that runs for as long as this lasts."""

    def __init__(self, one: Scheduler) -> None:
        self._one = one

    async def __aenter__(self) -> None:
        self._task = asyncio.create_task(self._one.run())

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
