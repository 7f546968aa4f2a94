"""Visitors of the console: signed in with tokens of every kind, as a browser would be."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import httpx
import pytest

from postroad.domain.tenant import Access
from postroad.store.engine import Connection
from tests.conftest import TOKEN, Running, Serve
from tests.security.test_tokens import a_token

XSS = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"

SignIn = Callable[[str], Awaitable[httpx.AsyncClient]]


@pytest.fixture
async def server(serve: Serve) -> Running:
    """A server whose visitors have to sign in."""
    return await serve(max_calls_per_second=0, public_url="http://localhost:1")


@pytest.fixture
async def sign_in(server: Running) -> AsyncIterator[SignIn]:
    """Give a client that is signed in with a token or the password."""
    async with AsyncExitStack() as stack:

        async def begin(secret: str) -> httpx.AsyncClient:
            client = await stack.enter_async_context(
                httpx.AsyncClient(base_url=server.url, headers={"Sec-Fetch-Site": "same-origin"}, timeout=30)
            )
            answer = await client.post("/console/login", data={"secret": secret})
            assert answer.status_code == 303, answer.text
            return client

        yield begin


@pytest.fixture
async def visitor(sign_in: SignIn) -> httpx.AsyncClient:
    """Somebody who may do everything."""
    return await sign_in(TOKEN)


@pytest.fixture
async def reader(sign_in: SignIn, connection: Connection) -> httpx.AsyncClient:
    """Somebody who may read."""
    return await sign_in(await a_token(connection, Access.READ_ONLY))


@pytest.fixture
async def counter(sign_in: SignIn, connection: Connection) -> httpx.AsyncClient:
    """Somebody who may see that there are messages, and nothing of what they say."""
    return await sign_in(await a_token(connection, Access.METADATA))


async def said(client: httpx.AsyncClient, answer: httpx.Response) -> str:
    """The page that a form leads to, with what it says of what was done."""
    assert answer.status_code == 303, answer.text
    page = await client.get(answer.headers["location"])
    assert page.status_code in (200, 404), page.text
    return page.text
