"""Procrastinate: deferred on a pool of connections, 64 jobs at a time in one worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import procrastinate  # type: ignore[import-not-found, unused-ignore]  # of the peers' own environment
from bench.peers.driver import Deliver

CONCURRENCY = 64
CONNECTIONS = 32


class Procrastinate:
    """The queue; its worker runs as a task of this process."""

    def __init__(self, app: procrastinate.App) -> None:
        self._app = app
        retry = procrastinate.RetryStrategy(max_attempts=4, exponential_wait=2)
        self._post: Any = app.task(name="post", retry=retry)(self._deliver)
        self._http: Deliver | None = None
        self._worker: asyncio.Task[None] | None = None

    async def _deliver(self, url: str, body: str) -> None:
        assert self._http is not None
        await self._http(url, body)

    async def enqueue(self, url: str, body: str) -> None:
        """Defer one job."""
        await self._post.defer_async(url=url, body=body)

    async def start(self, deliver: Deliver) -> None:
        """Run a worker that deletes what succeeded."""
        self._http = deliver
        self._worker = asyncio.create_task(
            self._app.run_worker_async(concurrency=CONCURRENCY, delete_jobs="successful", install_signal_handlers=False)
        )

    async def stop(self) -> None:
        """A cancelled worker finishes its jobs."""
        assert self._worker is not None
        self._worker.cancel()
        await asyncio.wait({self._worker})


@asynccontextmanager
async def opened() -> AsyncIterator[Procrastinate]:
    """Connected, with its schema in the database."""
    app = procrastinate.App(connector=procrastinate.PsycopgConnector(min_size=CONNECTIONS, max_size=CONNECTIONS))
    async with app.open_async():
        if not await app.check_connection_async():
            await app.schema_manager.apply_schema_async()
        yield Procrastinate(app)
