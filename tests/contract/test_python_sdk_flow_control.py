"""The official Python client, `qstash` 3.4, unmodified: flow control."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from qstash.errors import QStashError

from tests.conftest import eventually
from tests.contract import accounts, python_sdk
from tests.contract.accounts import Account
from tests.contract.python_sdk import Sdk
from tests.moods import hold
from tests.receiver import Receiver

pytestmark = pytest.mark.asyncio(loop_scope="module")
node, server, receiver, sdk = accounts.node, accounts.server, accounts.receiver, python_sdk.sdk


def flow(**limits: Any) -> dict[str, Any]:
    return {"key": "k", **limits}


async def test_a_key_is_there_as_soon_as_something_was_published_with_it(
    sdk: Sdk, server: Account, receiver: Receiver
) -> None:
    limits = flow(parallelism=3, rate=10, period="1m")
    published = await sdk("message.publish", url=receiver.url(), flow_control=limits)
    await server.settled(published.message_id)

    key = await sdk("flow_control.get", "k")

    assert (key.key, key.wait_list_size, key.parallelism_max, key.parallelism_count) == ("k", 0, 3, 0)
    assert (key.rate_max, key.rate_count, key.rate_period) == (10, 1, 60)
    assert abs(key.rate_period_start - time.time()) < 60
    assert (key.is_paused, key.is_pinned_parallelism, key.is_pinned_rate) == (False, False, False)
    with pytest.raises(QStashError, match=r'status: 404, body: \{"error":".+not found"\}'):
        await sdk("flow_control.get", "other")


@pytest.mark.parametrize(
    ("limits", "shown"),
    [
        ({"parallelism": 3}, (3, None, 1)),
        ({"rate": 7}, (None, 7, 1)),
        ({"rate": 7, "period": 60}, (None, 7, 60)),
        ({"rate": 7, "period": "1d"}, (None, 7, 86400)),
        ({"parallelism": 3, "rate": 7, "period": "1h30m3s"}, (3, 7, 5403)),
    ],
)
async def test_a_message_has_the_limits_that_it_was_given_and_no_others(
    sdk: Sdk, receiver: Receiver, limits: dict[str, Any], shown: tuple[int | None, int | None, int]
) -> None:
    published = await sdk("message.publish_json", url=receiver.url(), delay=60, flow_control=flow(**limits))

    of_message = (await sdk("message.get", published.message_id)).flow_control
    [created] = (await sdk("log.list", filter={"message_id": published.message_id})).logs

    for one in (of_message, created.flow_control):
        assert (one.key, one.parallelism, one.rate, one.period) == ("k", *shown)


async def test_messages_beyond_the_parallelism_wait(sdk: Sdk, receiver: Receiver) -> None:
    release = asyncio.Event()
    receiver.script("/", hold(release))
    for _ in range(5):
        await sdk("message.publish", url=receiver.url(), flow_control=flow(parallelism=2))
    await receiver.wait_for(2)

    key = await eventually(lambda: sdk("flow_control.get", "k"), lambda key: key.parallelism_count == 2)
    everything = await sdk("flow_control.get_global_parallelism")

    assert (key.wait_list_size, key.parallelism_max, len(receiver.requests())) == (3, 2, 2)
    assert everything.parallelism_count == 2
    assert isinstance(everything.parallelism_max, int)
    release.set()
    await receiver.wait_for(5)
    await eventually(lambda: sdk("flow_control.get_global_parallelism"), lambda one: one.parallelism_count == 0)


async def test_a_paused_key_lets_nothing_go_until_it_is_resumed(sdk: Sdk, server: Account, receiver: Receiver) -> None:
    await sdk("flow_control.pause", "k")
    await sdk("message.publish", url=receiver.url("/waits"), flow_control=flow(rate=5))
    other = await sdk("message.publish", url=receiver.url("/other"), flow_control={"key": "other", "rate": 5})
    await server.settled(other.message_id)
    key = await eventually(lambda: sdk("flow_control.get", "k"), lambda key: key.wait_list_size == 1)
    assert key.is_paused
    assert receiver.requests("/waits") == []

    await sdk("flow_control.resume", "k")

    await receiver.next_request("/waits")
    assert (await sdk("flow_control.get", "k")).is_paused is False


async def test_pinned_limits_stay_until_they_are_unpinned_one_by_one(sdk: Sdk, receiver: Receiver) -> None:
    async def publish() -> tuple[Any, ...]:
        """What stands after a message that brings 9, 9 and 9."""
        limits = flow(parallelism=9, rate=9, period=9)
        await sdk("message.publish", url=receiver.url(), delay=60, flow_control=limits)
        key = await sdk("flow_control.get", "k")
        return (
            (key.parallelism_max, key.rate_max, key.rate_period), (key.is_pinned_parallelism, key.is_pinned_rate)
        )  # fmt: skip

    await sdk("flow_control.pin", "k", {"parallelism": 2, "rate": 5, "period": 60})
    assert await publish() == ((2, 5, 60), (True, True))
    await sdk("flow_control.unpin", "k", {"parallelism": False, "rate": False})
    assert await publish() == ((2, 5, 60), (True, True))
    await sdk("flow_control.unpin", "k", {"parallelism": True})
    key = await sdk("flow_control.get", "k")
    assert (key.parallelism_max, key.is_pinned_parallelism, key.is_pinned_rate) == (2, False, True)
    assert await publish() == ((9, 5, 60), (False, True))
    await sdk("flow_control.unpin", "k", {"rate": True})
    assert await publish() == ((9, 9, 9), (False, False))


async def test_a_pin_rules_what_is_delivered(sdk: Sdk, receiver: Receiver) -> None:
    release = asyncio.Event()
    receiver.script("/", hold(release))
    await sdk("flow_control.pin", "k", {"parallelism": 1})

    for _ in range(3):
        await sdk("message.publish", url=receiver.url(), flow_control=flow(parallelism=3))
    await receiver.wait_for(1)
    key = await sdk("flow_control.get", "k")

    assert (key.parallelism_count, key.wait_list_size, len(receiver.requests())) == (1, 2, 1)
    release.set()
    await receiver.wait_for(3)


async def test_resetting_the_rate_lets_the_next_one_go(sdk: Sdk, server: Account, receiver: Receiver) -> None:
    for number in range(2):
        await sdk("message.publish", url=receiver.url(), body=str(number), flow_control=flow(rate=1, period="1h"))
    await receiver.wait_for(1)
    await server.drain()
    key = await sdk("flow_control.get", "k")
    assert (key.rate_count, key.wait_list_size, len(receiver.requests())) == (1, 1, 1)

    await sdk("flow_control.reset_rate", "k")

    await receiver.wait_for(2)


@pytest.mark.parametrize("options", [{"parallelism": 0}, {"rate": -1}, {"rate": 1, "period": 8 * 86400}, {}])
async def test_a_pin_that_is_not_valid_is_refused(sdk: Sdk, options: dict[str, int]) -> None:
    with pytest.raises(QStashError, match=r'status: 400, body: \{"error":'):
        await sdk("flow_control.pin", "k", options)

    with pytest.raises(QStashError, match="status: 404"):
        await sdk("flow_control.get", "k")
