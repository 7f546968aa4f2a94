"""The role of the wall: who makes it, and what becomes of nodes and migrations where it is not."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from itertools import count
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import asyncpg
import pytest

from postroad import production
from postroad.domain.tenant import TenantId
from postroad.errors import DatabaseUnavailable, Misconfigured
from postroad.settings import load
from postroad.store import migrations, wall
from postroad.store.engine import Connection, Database
from tests.conftest import _PROCESS, at_database

ONE = TenantId(1)

_numbers = count(1)


class Cluster:
    """A server as its administrator sees it. Its roles are of this test alone, and go with it."""

    def __init__(self, url: str, admin: asyncpg.Connection[asyncpg.Record]) -> None:
        self.url = url
        self.admin = admin
        self._roles: list[str] = []
        self._databases: list[str] = []

    def name(self, of: str) -> str:
        """A name for a role that nobody else has."""
        self._roles.append(f"{of}_{_PROCESS}{next(_numbers)}")
        return self._roles[-1]

    async def database_of(self, attributes: str = "") -> tuple[str, str]:
        """An empty database of a user with these attributes; gives the user and the URL."""
        user = self.name("user")
        await self.admin.execute(f"create role {user} login {attributes}")
        self._databases.append(f"of_{user}")
        await self.admin.execute(f"create database of_{user} owner {user}")
        parts = urlsplit(at_database(self.url, f"of_{user}"))
        # Where the URL has a password, it is the administrator's.
        host = parts.netloc.rpartition("@")[2]
        return user, urlunsplit(parts._replace(netloc=f"{user}@{host}", query=urlencode(parse_qsl(parts.query))))

    async def clear(self) -> None:
        """Everything goes."""
        for database in self._databases:
            await self.admin.execute(f"drop database {database} with (force)")
        for role in reversed(self._roles):
            if await self.admin.fetchval("select true from pg_roles where rolname = $1", role):
                await self.admin.execute(f"drop owned by {role}")
                await self.admin.execute(f"drop role {role}")


@pytest.fixture
async def cluster(postgres: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Cluster]:
    """A cluster that has no role for the wall yet."""
    one = Cluster(postgres, await asyncpg.connect(postgres))
    monkeypatch.setattr(wall, "ROLE", one.name("wall"))
    yield one
    await one.clear()
    await one.admin.close()


async def is_behind(url: str) -> bool:
    """Whether a node with this URL reads behind the wall."""
    database = await Database.connect(url)
    try:
        async with database.reading(ONE) as connection:
            await connection.fetch("select id from messages")
            return await wall.is_behind(connection)
    finally:
        await database.close()


@pytest.mark.parametrize("attributes", ["superuser", "createrole"])
async def test_whoever_may_make_roles_makes_it_in_passing(cluster: Cluster, attributes: str) -> None:
    _, url = await cluster.database_of(attributes)

    assert await migrations.migrate(url) is None
    assert await migrations.migrate(url) == migrations.newest()

    assert await is_behind(url)


@pytest.mark.parametrize("is_there", [False, True])
async def test_whoever_may_not_is_told_what_an_administrator_has_to_run(cluster: Cluster, is_there: bool) -> None:
    user, url = await cluster.database_of()
    if is_there:
        await cluster.admin.execute(f"create role {wall.ROLE} nologin")

    with pytest.raises(Misconfigured) as refused:
        await migrations.migrate(url)
    said = re.search("`(.*)`", str(refused.value))
    assert said is not None
    assert ("create role" in said[1]) != is_there
    assert f"grant {wall.ROLE} to {user}" in said[1]
    there = await asyncpg.connect(url)
    assert await migrations.revision(there) is None
    await there.close()

    await cluster.admin.execute(said[1])
    await migrations.migrate(url)

    assert await is_behind(url)


async def test_an_operator_can_do_without_the_role(cluster: Cluster) -> None:
    _, url = await cluster.database_of()

    await migrations.migrate(url, walled=False)

    database = await Database.connect(url, walled=False)
    async with database.reading(ONE) as connection:
        assert not await wall.is_behind(connection)
    await database.close()
    token = {"token": "a-token-of-an-operator"}
    await production.prepare(load({}, row_level_security=False, **token), url)
    with pytest.raises(Misconfigured, match="POSTROAD_ROW_LEVEL_SECURITY=false"):
        await production.prepare(load({}, **token), url)


async def test_databases_of_one_cluster_may_be_migrated_at_the_same_time(cluster: Cluster) -> None:
    users = [await cluster.database_of("superuser") for _ in range(3)]
    for _, url in users:
        await migrations.migrate(url, walled=False)
    connections = [await asyncpg.connect(url) for _, url in users for _ in range(3)]

    async def build(connection: Connection) -> None:
        await wall.make_role(connection)
        await wall.grant(connection)

    for _ in range(5):
        await asyncio.gather(*(build(connection) for connection in connections))
        for connection in connections:
            await wall.check(connection)
        for connection in connections:
            await connection.execute(f"drop owned by {wall.ROLE}")
        await cluster.admin.execute(f"drop role {wall.ROLE}")
    for connection in connections:
        await connection.close()


async def test_one_user_may_join_it_from_several_connections(cluster: Cluster) -> None:
    user, url = await cluster.database_of("createrole")
    connections = [await asyncpg.connect(url) for _ in range(8)]
    for _ in range(10):
        await asyncio.gather(*(wall.make_role(connection) for connection in connections))
        await cluster.admin.execute(f"revoke {wall.ROLE} from {user} cascade; drop role {wall.ROLE}")
    for connection in connections:
        await connection.close()


async def test_tables_may_be_in_a_schema_of_the_users_own(cluster: Cluster) -> None:
    user, url = await cluster.database_of("createrole")
    there = await asyncpg.connect(url)
    await there.execute(f"create schema {user}")
    await there.close()

    await migrations.migrate(url)

    assert await is_behind(url)


async def test_a_schema_that_is_made_later_and_comes_first_hides_no_tables(cluster: Cluster) -> None:
    user, url = await cluster.database_of("createrole")
    await migrations.migrate(url)
    there = await asyncpg.connect(url)
    await there.execute(f"create schema {user}")
    await wall.check(there)
    await there.close()

    assert await is_behind(url)


async def test_what_a_dump_does_not_bring_back_comes_with_a_migration(
    connection: Connection, database_url: str
) -> None:
    for table in sorted({table for table, _, _ in wall.RIGHTS}):
        await connection.execute(f"revoke all on {table} from {wall.ROLE}")
    await connection.execute(f"revoke all on function postroad_unfinished from {wall.ROLE}")
    await connection.execute("grant execute on function postroad_unfinished to public")
    with pytest.raises(Misconfigured, match="run postroad migrate"):
        await wall.check(connection)

    await migrations.migrate(database_url)

    await wall.check(connection)
    assert await is_behind(database_url)


async def test_without_its_role_nothing_is_read_until_it_is_back(cluster: Cluster) -> None:
    user, url = await cluster.database_of("createrole")
    await migrations.migrate(url)
    database = await Database.connect(url)
    try:
        async with database.reading(ONE) as connection:
            assert await wall.is_behind(connection)

        await cluster.admin.execute(f"revoke {wall.ROLE} from {user} cascade")
        for _ in range(3):
            with pytest.raises(DatabaseUnavailable):
                async with database.reading(ONE):
                    pass
        async with database.connection() as connection:
            assert await connection.fetchval("select count(*) from messages") == 0

        await cluster.admin.execute(f"grant {wall.ROLE} to {user}")
        async with database.reading(ONE) as connection:
            assert await wall.is_behind(connection)
    finally:
        await database.close()
