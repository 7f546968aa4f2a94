"""The page of settings."""

from __future__ import annotations

import httpx

from postroad import __version__
from postroad.console.passwords import hashed
from postroad.store import migrations, sessions
from postroad.store.engine import Connection
from tests.conftest import TOKEN, Running
from tests.console.conftest import SignIn


async def test_a_tenant_sees_what_concerns_it(
    visitor: httpx.AsyncClient, counter: httpx.AsyncClient, connection: Connection
) -> None:
    await connection.execute("update tenants set max_messages_per_day = 1234, parallelism = 17 where name = 'default'")
    for client in (visitor, counter):
        page = (await client.get("/console/settings")).text
        for words in (__version__, "Limits of default", "10.0 MiB", "1,234; 0 today, in UTC", "17", "14d", "90d"):
            assert words in page, words
        for words in ("POSTROAD_", "Storage", "Nodes", "Schema"):
            assert words not in page, words


async def test_the_operator_sees_the_server_without_its_secrets(
    sign_in: SignIn, connection: Connection, server: Running
) -> None:
    async with connection.transaction():
        await sessions.set_password(connection, hashed("the password"))
    operator = await sign_in("the password")
    page = (await operator.get("/console/settings")).text
    for words in (
        "POSTROAD_LOG_RETENTION",
        "POSTROAD_DESTINATIONS",
        "Storage",
        "alive",
        "messages",
        migrations.newest(),
    ):
        assert words in page, words
    assert TOKEN not in page
    assert server.database_url not in page
