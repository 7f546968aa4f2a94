"""How the official Python client, `qstash` 3.4, understands the two kinds of 429."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from qstash import AsyncQStash
from qstash.errors import DailyMessageLimitExceededError, RateLimitExceededError

from tests.conftest import TOKEN, Serve

URL = "http://127.0.0.1:9/x"


@pytest.fixture
async def client(serve: Serve) -> AsyncIterator[AsyncQStash]:
    """A client of a server with narrow limits."""
    server = await serve(max_calls_per_second=1, max_messages_per_day=1)
    one = AsyncQStash(TOKEN, retry=False, base_url=server.url)
    yield one
    await one.http._client.aclose()


async def test_the_quota_of_the_day_is_the_clients_daily_error(client: AsyncQStash) -> None:
    await client.message.publish(url=URL)

    with pytest.raises(DailyMessageLimitExceededError) as raised:
        await client.message.publish(url=URL)

    assert (raised.value.limit, raised.value.remaining) == ("1", "0")
    assert int(raised.value.reset or 0) > 1_700_000_000


async def test_too_many_calls_are_the_clients_burst_error(client: AsyncQStash) -> None:
    async def call_three_times() -> None:
        for _ in range(3):
            await client.signing_key.get()

    with pytest.raises(RateLimitExceededError) as raised:
        await call_three_times()

    assert not isinstance(raised.value, DailyMessageLimitExceededError)
    assert (raised.value.limit, raised.value.remaining) == ("1", "0")
    assert int(raised.value.reset or 0) > 1_700_000_000
