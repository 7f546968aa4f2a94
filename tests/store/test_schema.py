"""The migrations, the tables as SQLAlchemy sees them, and the partitions agree."""

from __future__ import annotations

from base64 import b64encode
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Connection as SyncConnection
from sqlalchemy.exc import DBAPIError

from postroad.store import data_keys, migrations, partitions
from postroad.store.connecting import sqlalchemy_engine
from postroad.store.engine import Connection
from postroad.store.tables_of_console import metadata
from postroad.vault import parse_master_keys
from tests.conftest import at_database

_NOT_OURS = ("messages_", "attempts_", "reports_", "alembic_")


def _is_ours(_: Any, name: str | None, kind: str, __: bool, ___: Any) -> bool:
    return not (kind == "table" and name is not None and name.startswith(_NOT_OURS))


async def test_upgrading_from_empty_gives_the_tables_of_the_code(database_url: str) -> None:
    def compare(connection: SyncConnection) -> list[Any]:
        context = MigrationContext.configure(connection, opts={"include_object": _is_ours, "compare_type": True})
        return list(compare_metadata(context, metadata))

    engine = sqlalchemy_engine(database_url)
    async with engine.connect() as connection:
        differences = await connection.run_sync(compare)
    await engine.dispose()

    assert differences == []


async def test_every_constraint_and_index_of_the_code_is_in_the_database(connection: Connection) -> None:
    """What alembic does not compare: CHECKs, and the predicates of partial indexes."""
    checks = {row["conname"] for row in await connection.fetch("select conname from pg_constraint where contype = 'c'")}
    indexes = {
        row["indexname"]: row["indexdef"]
        for row in await connection.fetch("select indexname, indexdef from pg_indexes")
    }

    for table in metadata.tables.values():
        for constraint in table.constraints:
            if type(constraint).__name__ == "CheckConstraint":
                assert constraint.name in checks
        for index in table.indexes:
            assert index.name in indexes
            where = index.dialect_options["postgresql"]["where"]
            assert (" WHERE " in indexes[index.name]) == (where is not None), index.name


async def test_migrations_can_be_taken_back(postgres: str) -> None:
    admin = await asyncpg.connect(postgres)
    await admin.execute("create database downgraded")
    url = at_database(postgres, "downgraded")
    assert await migrations.migrate(url) is None
    assert await migrations.migrate(url) == migrations.newest()

    await _downgrade(url, "base")

    there = await asyncpg.connect(url)
    assert [row["relname"] for row in await there.fetch(
        "select relname from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'p')"
    )] == ["alembic_version"]  # fmt: skip
    await there.close()
    await admin.execute("drop database downgraded with (force)")
    await admin.close()


async def _downgrade(url: str, revision: str) -> None:
    def down(connection: SyncConnection) -> None:
        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parents[2] / "migrations"))
        config.set_main_option("path_separator", "os")
        config.attributes["connection"] = connection
        command.downgrade(config, revision)

    engine = sqlalchemy_engine(url)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(down)
    finally:
        await engine.dispose()


async def test_what_is_sealed_is_not_taken_back_to_a_schema_that_would_lose_its_keys(
    database_url: str, connection: Connection
) -> None:
    await data_keys.unlock(connection, parse_master_keys(b64encode(bytes(32)).decode()))

    with pytest.raises(DBAPIError, match="secrets in this database are sealed"):
        await _downgrade(database_url, "0005")

    assert await migrations.revision(connection) == migrations.newest()


async def test_partitions_reach_a_week_ahead_and_have_no_default(connection: Connection) -> None:
    assert await partitions.days_left(connection) == partitions.DAYS_AHEAD
    assert await connection.fetchval("select count(*) from pg_partitioned_table where partdefid <> 0") == 0

    await connection.execute(
        "do $$ declare t text; begin for t in select relname from pg_class where relkind = 'r' and relname like "
        "'messages_20%' order by relname desc limit 3 loop execute 'drop table ' || t; end loop; end $$"
    )
    assert await partitions.days_left(connection) == partitions.DAYS_AHEAD - 3
    async with connection.transaction():
        await partitions.make(connection)

    assert await partitions.days_left(connection) == partitions.DAYS_AHEAD


async def test_a_partition_has_the_indexes_of_its_parent(connection: Connection) -> None:
    names = await connection.fetch(
        "select relname from pg_class where relkind = 'r' and relname like 'messages_20%' order by 1"
    )
    for row in names:
        count = await connection.fetchval("select count(*) from pg_indexes where tablename = $1", row["relname"])
        assert count == 7, row["relname"]


@pytest.mark.parametrize("days", [0, 1, 7])
async def test_a_message_finds_its_partition_by_its_id(connection: Connection, days: int) -> None:
    from postroad.domain.ids import IdMint

    now = await connection.fetchval("select now()")
    mint = IdMint()
    identity = mint.message_id(int((now + timedelta(days=days)).timestamp() * 1000))

    await connection.execute("insert into messages (id, tenant_id, url) values ($1, 1, 'http://x')", identity)

    name = await connection.fetchval("select tableoid::regclass::text from messages where id = $1", identity)
    assert name == f"messages_{now + timedelta(days=days):%Y%m%d}"
