"""One server for the tests of a module, and an account of its own for each of them.

Accounts share nothing but the server: a test sees only what it did itself, and waits for no database and no start.
A module says so with

    pytestmark = pytest.mark.asyncio(loop_scope="module")
    node, server, receiver = accounts.node, accounts.server, accounts.receiver
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import asyncpg
import httpx
import pytest_asyncio

from postroad.domain.tenant import SigningKeys
from postroad.store import tenants, tokens
from postroad.store.engine import connected
from tests import conftest
from tests.conftest import Running, at_database
from tests.receiver import Receiver

_numbers = count(1)


@dataclass
class Account(Running):
    """A server as one account sees it."""

    token: str
    keys: SigningKeys

    async def message(self, message_id: str) -> dict[str, Any]:
        """A message as it can be read now."""
        answer = await self.http.get(f"/v2/messages/{message_id}")
        assert answer.status_code == 200, answer.text
        message: dict[str, Any] = answer.json()
        return message


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node(postgres: str, template: str) -> AsyncIterator[Running]:
    """A server on a database of its own, as its first account sees it."""
    name = f"contract_{next(_numbers)}"
    admin = await asyncpg.connect(postgres)
    await admin.execute(f"create database {name} template {template} strategy wal_log")
    async with conftest.running(at_database(postgres, name)) as one:
        yield one
    await admin.execute(f"drop database {name} with (force)")
    await admin.close()


@pytest_asyncio.fixture(loop_scope="module")
async def server(node: Running) -> AsyncIterator[Account]:
    """The module's server, as an account sees it that nobody has used yet."""
    name = f"account-{next(_numbers)}"
    async with connected(node.database_url) as connection:
        tenant_id = await tenants.ensure(connection, name)
        await tokens.add(connection, tenant_id, name, name="contract")
        keys = await tenants.signing_keys(connection, tenant_id)
    headers = {"Authorization": f"Bearer {name}"}
    async with httpx.AsyncClient(base_url=node.url, headers=headers, timeout=30, verify=False) as client:
        yield Account(node.url, client, node.node, node.database_url, name, keys)
        # What is left would come due when the next test moves the time.
        for schedule in (await client.get("/v2/schedules")).json():
            await client.delete(f"/v2/schedules/{schedule['scheduleId']}")
        await client.delete("/v2/messages")


@pytest_asyncio.fixture(loop_scope="module")
async def receiver() -> AsyncIterator[Receiver]:
    """A real HTTP server that answers as told and records what arrives."""
    async with Receiver() as one:
        yield one
