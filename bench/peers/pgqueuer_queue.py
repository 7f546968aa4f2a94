"""PgQueuer: enqueued on a small pool, taken in batches of 200 by one worker."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial

import asyncpg
from bench.peers.driver import Deliver
from pgqueuer import (  # type: ignore[import-not-found, unused-ignore]  # of the peers' own environment
    AsyncpgPoolDriver,
    DatabaseRetryEntrypointExecutor,
    Job,
    Queries,
    QueueManager,
)

BATCH = 200
CONNECTIONS = 10


class PgQueuer:
    """The queue; its worker runs as a task of this process."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._queries = Queries(AsyncpgPoolDriver(pool))
        self._manager: QueueManager | None = None
        self._worker: asyncio.Task[None] | None = None

    async def enqueue(self, url: str, body: str) -> None:
        """Enqueue one job."""
        await self._queries.enqueue("post", json.dumps([url, body]).encode())

    async def start(self, deliver: Deliver) -> None:
        """Run a manager of its own: one that was shut down does not start again."""

        async def post(job: Job) -> None:
            url, body = json.loads(job.payload)
            await deliver(url, body)

        self._manager = QueueManager(Queries(AsyncpgPoolDriver(self._pool)))
        retrying = partial(DatabaseRetryEntrypointExecutor, max_attempts=4)  # after the first
        self._manager.entrypoint("post", executor_factory=retrying)(post)
        self._worker = asyncio.create_task(self._manager.run(batch_size=BATCH, max_concurrent_tasks=2 * BATCH))

    async def stop(self) -> None:
        """Let the manager finish its jobs."""
        assert self._manager is not None
        assert self._worker is not None
        self._manager.shutdown.set()
        await self._worker


@asynccontextmanager
async def opened() -> AsyncIterator[PgQueuer]:
    """Connected, with its schema in the database."""
    async with asyncpg.create_pool(min_size=CONNECTIONS, max_size=CONNECTIONS) as pool:
        with suppress(asyncpg.DuplicateObjectError, asyncpg.DuplicateTableError):
            await Queries(AsyncpgPoolDriver(pool)).install()
        yield PgQueuer(pool)
