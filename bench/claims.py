"""Claims and settlements by the product's own functions, each of them timed."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import TypeVar

import asyncpg
from bench.report import Samples
from bench.sample import publications, publisher

from postroad.domain.tenant import TenantId
from postroad.store import deliveries, dispatchers
from postroad.store.deliveries import FIRST_DESTINATION, Claimed, Ended, Settlement
from postroad.store.engine import Connection, Database

T = TypeVar("T")
Timings = dict[str, list[float]]


async def claims(database: Database, times: int, *, go_on: Callable[[], bool] = lambda: False) -> Samples:
    """Claim and settle as a dispatcher does, one statement after the other; `go_on` may ask for more than `times`."""
    timings: Timings = defaultdict(list)
    async with database.connection() as connection:
        dispatcher = await dispatchers.register(connection, "bench")
        done = 0
        while done < times or go_on():
            done += 1
            await _claim_and_settle(connection, dispatcher, timings)
        for _ in range(20):
            fair = deliveries.claim_fair(connection, dispatcher, 500, share=25, saturated=[], after=FIRST_DESTINATION)
            claimed, _, _ = await _timed(timings["fair claim"], fair)
            await _settle(connection, dispatcher, claimed, timings)
        await dispatchers.forget(connection, [dispatcher])
    return _shown(timings)


async def steady(
    database: Database, rate: int, held_s: float, show: Callable[[str, Samples], None], url: str, destination: str
) -> None:
    """Store and claim at a fixed rate, without a snapshot that is held, with one, and after it."""
    before = min(15.0, held_s)
    phases = (("before", before, False), ("a snapshot is held", held_s, True), ("after", before, False))
    for name, seconds, held in phases:
        holder = await asyncpg.connect(url)
        if held:
            await holder.execute("begin isolation level repeatable read; select count(*) from deliveries")
        timings: Timings = defaultdict(list)
        stop = asyncio.Event()
        claiming = asyncio.create_task(_claim_until(database, stop, timings))
        await _store_steadily(database, rate, seconds, destination, timings)
        stop.set()
        await claiming
        # The last third has what has piled up by then.
        for part, of in (("", timings), (", its last third", {k: v[-len(v) // 3 :] for k, v in timings.items()})):
            show(f"{rate}/s for {seconds:g} s, {name}{part}", _shown(of))
        await holder.close()
        if held:
            await _vacuum(url)


def quantile(values: Sequence[float], q: float) -> float:
    """The value that this part of them does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]


async def _claim_and_settle(connection: Connection, dispatcher: int, timings: Timings) -> int:
    await dispatchers.beat(connection, dispatcher)
    await _timed(timings["look ahead"], deliveries.look_ahead(connection))
    claimed = await _timed(timings["claim"], deliveries.claim_due(connection, dispatcher, 500))
    await _settle(connection, dispatcher, claimed, timings)
    return len(claimed)


async def _settle(connection: Connection, dispatcher: int, claimed: Sequence[Claimed], timings: Timings) -> None:
    if claimed:
        took = timedelta(milliseconds=5)
        done = [Settlement(one.id, one.lease, Ended.DELIVERED, took, status=200) for one in claimed]
        await _timed(timings["settlement"], deliveries.settle(connection, dispatcher, done))


async def _vacuum(url: str) -> None:
    """Autovacuum would come within a minute; the time after is to begin at once."""
    connection = await asyncpg.connect(url)
    await connection.execute("vacuum deliveries", timeout=600)
    await connection.close()


async def _claim_until(database: Database, stop: asyncio.Event, timings: Timings) -> None:
    async with database.connection() as connection:
        dispatcher = await dispatchers.register(connection, "bench")
        claimed = 1
        while claimed or not stop.is_set():
            claimed = await _claim_and_settle(connection, dispatcher, timings)
            await asyncio.sleep(0.02)  # about as often as a busy dispatcher that is told of each publish
        await dispatchers.forget(connection, [dispatcher])


async def _store_steadily(database: Database, rate: int, seconds: float, destination: str, timings: Timings) -> None:
    makes, group, began = publisher(), max(1, rate // 20), time.perf_counter()
    sample = publications(1)[0]
    for n in range(int(rate * seconds / group)):
        await asyncio.sleep(max(0.0, began + n * group / rate - time.perf_counter()))
        news = [makes.message(TenantId(1), sample, policy=None) for _ in range(group)]
        async with database.single() as connection:
            await _timed(timings["insertion"], makes.store(connection, news))


async def _timed(into: list[float], work: Awaitable[T]) -> T:
    began = time.perf_counter()
    result = await work
    into.append((time.perf_counter() - began) * 1000)
    return result


def _shown(timings: Timings) -> Samples:
    return {
        f"{name} p{q}, ms": quantile(values, q / 100) for name, values in timings.items() for q in (50, 99) if values
    }
