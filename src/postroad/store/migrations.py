"""Bring a database to this version's schema, or tell how far away it is."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection as SyncConnection

from postroad.errors import Misconfigured
from postroad.store import partitions
from postroad.store.connecting import sqlalchemy_engine
from postroad.store.engine import Connection, connected

_LOCK = 7_064_116_843_111


async def migrate(url: str) -> str | None:
    """Upgrade to the newest revision and make the partitions of the coming days.

    Gives the revision before, None for an empty database. Two nodes may do this at once: one waits for the other.
    """
    async with connected(url) as connection:
        before = await revision(connection)
        if before != newest():
            await _upgrade(url)
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
    """Raise `Misconfigured` unless the schema is this version's."""
    found = await revision(connection)
    if found != newest():
        raise Misconfigured(
            f"the database's schema is at {found or 'nothing'}, this version needs {newest()}: run postroad migrate"
        )


@cache
def newest() -> str:
    """The revision that this version of the program works with."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    assert head is not None
    return head


async def _upgrade(url: str) -> None:
    engine = sqlalchemy_engine(url)
    try:
        async with engine.begin() as connection:
            await connection.exec_driver_sql(f"select pg_advisory_xact_lock({_LOCK})")
            await connection.run_sync(_run)
    finally:
        await engine.dispose()


def _run(connection: SyncConnection) -> None:
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _config() -> Config:
    """The migrations inside an installed package, else those of the checkout."""
    package = Path(__file__).parent.parent
    directory = next(d for d in (package / "migrations", package.parent.parent / "migrations") if d.is_dir())
    config = Config()
    config.set_main_option("script_location", str(directory))
    config.set_main_option("path_separator", "os")
    return config
