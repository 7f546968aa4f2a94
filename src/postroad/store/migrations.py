"""Bring a database to this version's schema, or tell how far away it is."""

from __future__ import annotations

import asyncio
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy.exc import DBAPIError

from postroad.errors import Misconfigured
from postroad.store import partitions, wall
from postroad.store.connecting import sqlalchemy_engine
from postroad.store.engine import Connection, connected

if TYPE_CHECKING:
    from sqlalchemy import Connection as SyncConnection

OLDEST_SCHEMA = "0010"
"""Revisions ascend. This version also works with schemas from this one on, so that nodes can be replaced first."""

_LOCK = 7_064_116_843_111
_LOCKS_WITHIN = "1s"
_TRIES = 60
_PAUSE_S = 1.0
_LOCK_NOT_AVAILABLE = "55P03"
_DEADLOCK = "40P01"


async def migrate(url: str, *, walled: bool = True) -> str | None:
    """Upgrade to the newest revision, with the role of the wall, and make the partitions of the coming days.

    Gives the revision before, None for an empty database. Two nodes may do this at once: one waits for the other. A
    schema that is newer is left as it is. Nodes may be at work meanwhile: a migration waits for none of their locks
    longer than a moment, because whatever comes later would have to wait behind it.
    """
    async with connected(url) as connection:
        before = await revision(connection)
        if before is not None and before > newest():
            return before
        if walled:
            # First: a schema with a wall that nobody can go behind would be of no use.
            await wall.make_role(connection)
        if before != newest():
            await _upgrade(url)
        if walled:
            await wall.grant(connection)
        async with connection.transaction():
            await partitions.make(connection)
    return before


async def revision(connection: Connection) -> str | None:
    """The schema's revision, None when there is no schema."""
    if await connection.fetchval("select to_regclass('alembic_version')") is None:
        return None
    found: str | None = await connection.fetchval("select version_num from alembic_version")
    return found


async def check(connection: Connection) -> None:
    """Raise `Misconfigured` unless this version can work with the schema."""
    if (reason := await misfit(connection)) is not None:
        raise Misconfigured(reason)


async def misfit(connection: Connection) -> str | None:
    """Why this version cannot work with the schema; None if it can, though it may be older or newer than its own."""
    found = await revision(connection)
    if found is None or found < OLDEST_SCHEMA:
        return f"the database's schema is at {found or 'nothing'}, this version needs {newest()}: run postroad migrate"
    if found > newest():
        oldest: str = await connection.fetchval("select oldest_program from schema_compatibility")
        if oldest > newest():
            return (
                f"the database's schema is at {found}, and only versions that know {oldest} can work with it, this one "
                f"knows {newest()}: run a newer version of postroad"
            )
    return None


@cache
def newest() -> str:
    """The revision that this version of the program works with: they ascend, and files begin with theirs."""
    return max(path.name[:4] for path in (_directory() / "versions").glob("[0-9]*.py"))


async def _upgrade(url: str) -> None:
    engine = sqlalchemy_engine(url)
    try:
        for tried in range(1, _TRIES + 1):
            try:
                async with engine.begin() as connection:
                    await connection.exec_driver_sql(f"select pg_advisory_xact_lock({_LOCK})")
                    await connection.exec_driver_sql(f"set local lock_timeout = '{_LOCKS_WITHIN}'")
                    await connection.run_sync(_run)
                    return
            except DBAPIError as error:
                if getattr(error.orig, "sqlstate", None) not in (_LOCK_NOT_AVAILABLE, _DEADLOCK) or tried == _TRIES:
                    raise
            await asyncio.sleep(_PAUSE_S)
    finally:
        await engine.dispose()


def _run(connection: SyncConnection) -> None:
    # Slow to import, and every command on a database would wait for it.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_directory()))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _directory() -> Path:
    """The migrations inside an installed package, else those of the checkout."""
    package = Path(__file__).parent.parent
    return next(d for d in (package / "migrations", package.parent.parent / "migrations") if d.is_dir())
