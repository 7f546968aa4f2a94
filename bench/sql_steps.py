"""What the durable statements cost a row, through the product's own functions, one connection at a time."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import uvloop
from bench.programs import BenchError
from bench.report import Samples
from bench.sample import publications, publisher
from bench.usage import Usage

from postroad import dev
from postroad.domain.ids import MessageId
from postroad.domain.tenant import TenantId
from postroad.store import deliveries, dispatchers, messages, tenants
from postroad.store.deliveries import Ended, Settlement
from postroad.store.embedded import EmbeddedPostgres
from postroad.store.engine import Database
from postroad.store.messages import NewMessage

INSERTS = {1: 10, 10: 2, 100: 1, 500: 1}
"""Rows a statement → the part of the rows that is measured so; single rows are slow and need fewer."""

BATCHES = (100, 500)
WINDOW = timedelta(minutes=10)

Held = list[tuple[MessageId, int]]
"""Ids and leases of deliveries that are leased to us."""


def run(server: EmbeddedPostgres, rows: int) -> Samples:
    """Microseconds a row: in all, and of CPU here and in PostgreSQL."""
    return uvloop.run(_run(server, rows))


async def _run(server: EmbeddedPostgres, rows: int) -> Samples:
    await dev.prepare(server.url)
    database = await Database.connect(server.url)
    try:
        async with database.connection() as connection:
            tenant_id = await tenants.ensure(connection, "default")
            dispatcher_id = await dispatchers.register(connection, socket.gethostname())
        store = _Store(database, server.pid, tenant_id, dispatcher_id)
        await store.warm_up()
        for size, part in INSERTS.items():
            await store.measure_inserts(size, rows // part)
        for size in BATCHES:
            await store.measure_claims(size, rows)
        async with database.connection() as connection:
            await dispatchers.forget(connection, [dispatcher_id])
    finally:
        await database.close()
    return store.samples


class _Store:
    """The statements, and what they were measured to cost."""

    def __init__(self, database: Database, postmaster: int, tenant_id: TenantId, dispatcher_id: int) -> None:
        self.samples: dict[str, float] = {}
        self._database = database
        self._postmaster = postmaster
        self._tenant_id = tenant_id
        self._dispatcher_id = dispatcher_id
        self._publisher = publisher()

    async def warm_up(self) -> None:
        """Often enough that PostgreSQL has chosen the plans that it keeps."""
        await self._insert(self._news(200, mine=False), 10)
        await self._settle(await self._claim(10, 200), 10)

    async def measure_inserts(self, size: int, count: int) -> None:
        """Insert as the intake does with a dispatcher in its process: leased to it at once."""
        await self._beat()
        news = self._news(count, mine=True)
        with self._measured(f"insert_plain, {size} rows", count):
            await self._insert(news, size)
        await self._beat()
        await self._settle([(new.message.id, 1) for new in news], 500)

    async def measure_claims(self, size: int, count: int) -> None:
        """Claim and read, then settle, what waits in the store."""
        await self._insert(self._news(count, mine=False), 500)
        await self._beat()
        with self._measured(f"claim_due and fetch, {size} rows", count):
            held = await self._claim(size, count)
        await self._beat()
        with self._measured(f"settle, {size} rows", count):
            await self._settle(held, size)

    def _news(self, count: int, *, mine: bool) -> list[NewMessage]:
        news = [
            self._publisher.message(self._tenant_id, publication, policy=None) for publication in publications(count)
        ]
        for new in news:
            new.mine = mine
        return news

    async def _beat(self) -> None:
        async with self._database.connection() as connection:
            if not await dispatchers.beat(connection, self._dispatcher_id):
                raise BenchError("a step took longer than a dispatcher lives: measure fewer rows")

    async def _insert(self, news: Sequence[NewMessage], size: int) -> None:
        for at in range(0, len(news), size):
            group = news[at : at + size]
            async with self._database.single() as connection:
                stored = await messages.insert(connection, group, dispatcher_id=self._dispatcher_id, window=WINDOW)
            if sum(one.handed_over for one in stored) != sum(new.mine for new in group):
                raise BenchError("the store did not hand over what it was asked to")

    async def _claim(self, size: int, count: int) -> Held:
        held: Held = []
        while len(held) < count:
            async with self._database.connection() as connection:
                claimed = await deliveries.claim_due(connection, self._dispatcher_id, size)
                stored = await messages.fetch(connection, [one.id for one in claimed])
            if not stored or len(stored) != len(claimed):
                raise BenchError(f"of {count} rows only {len(held) + len(stored)} could be claimed and read")
            held += [(one.id, one.lease) for one in claimed]
        return held

    async def _settle(self, held: Held, size: int) -> None:
        took = timedelta(milliseconds=3)
        for at in range(0, len(held), size):
            batch = [Settlement(one, lease, Ended.DELIVERED, took, status=200) for one, lease in held[at : at + size]]
            async with self._database.single() as connection:
                settled = await deliveries.settle(connection, self._dispatcher_id, batch)
            if len(settled) != len(batch):
                raise BenchError(f"{len(batch) - len(settled)} of {len(batch)} settlements did not take effect")

    @contextmanager
    def _measured(self, name: str, rows: int) -> Iterator[None]:
        before = Usage.now(python=os.getpid(), postmaster=self._postmaster)
        yield
        used = Usage.now(python=os.getpid(), postmaster=self._postmaster).since(before)
        self.samples[f"{name}: time, µs/row"] = used.at / rows * 1e6
        self.samples[f"{name}: CPU of python, µs/row"] = used.python / rows * 1e6
        self.samples[f"{name}: CPU of postgres, µs/row"] = used.postgres / rows * 1e6
