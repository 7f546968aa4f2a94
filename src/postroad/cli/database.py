"""The database that a command works on: the configured one, or that of `postroad dev`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

import typer

from postroad import settings
from postroad.errors import Misconfigured

if TYPE_CHECKING:
    from postroad.store.engine import Connection

T = TypeVar("T")


def with_database(work: Callable[[str], Awaitable[T]]) -> T:
    """Run database work on the configured server, else on the embedded one of `dev`, whether that runs or not."""
    from postroad.store import embedded, migrations
    from postroad.store.engine import connected

    async def run(url: str) -> T:
        async with connected(url) as connection:
            await migrations.check(connection)
        return await work(url)

    chosen = settings.load()
    if chosen.database_url is not None:
        return asyncio.run(run(chosen.database_url.get_secret_value()))
    if not chosen.data_dir.exists():
        raise Misconfigured(
            "set POSTROAD_DATABASE_URL; without it this works on the database of `postroad dev`, and there is none "
            f"in {chosen.data_dir}"
        )
    typer.echo(f"On the database of `postroad dev` in {chosen.data_dir}:", err=True)
    if (url := embedded.url_in_use(chosen.data_dir)) is not None:
        return asyncio.run(run(url))
    with embedded.running(chosen.data_dir) as url:
        return asyncio.run(run(url))


@asynccontextmanager
async def unlocked(url: str) -> AsyncIterator[Connection]:
    """A connection over which signing keys are sealed and opened. Raises `Misconfigured` without the key for that."""
    from postroad.store import data_keys
    from postroad.store.engine import connected

    async with connected(url) as connection:
        await data_keys.unlock(connection, settings.load().master_keys())
        yield connection
