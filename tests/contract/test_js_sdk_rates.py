"""How the official JavaScript clients understand the two kinds of 429."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conftest import TOKEN, Running, Serve
from tests.contract.javascript import NEWEST, OLD, Client, ClientError, Driver

both = pytest.mark.parametrize("package", [NEWEST, OLD], ids=["2.12", "2.7"])


@pytest.fixture
async def narrow(serve: Serve) -> Running:
    """A server that allows one call in a second, and one message in a day."""
    return await serve(max_calls_per_second=1, max_messages_per_day=1)


@both
async def test_the_quota_of_the_day_and_of_the_second_are_errors_of_their_own(
    driver: Driver, narrow: Running, package: str
) -> None:
    client = Client(driver, package, {"baseUrl": narrow.url, "token": TOKEN})

    async def call_often(method: str, *arguments: Any) -> None:
        for _ in range(20):
            await client(method, *arguments)

    async def error(method: str, *arguments: Any) -> str:
        with pytest.raises(ClientError) as thrown:
            await call_often(method, *arguments)
        assert thrown.value.status == 429
        return thrown.value.name

    assert await error("publish", {"url": "http://127.0.0.1:9/x"}) == "QstashDailyRatelimitError"
    assert await error("urlGroups.list") == "QstashRatelimitError"
