"""The official Python client, `qstash` 3.4, unmodified: URL groups."""

from __future__ import annotations

import time

import pytest
from qstash.errors import QStashError

from tests.contract import accounts, python_sdk
from tests.contract.accounts import Account
from tests.contract.python_sdk import Sdk
from tests.moods import status
from tests.receiver import Receiver

pytestmark = pytest.mark.asyncio(loop_scope="module")
node, server, receiver, sdk = accounts.node, accounts.server, accounts.receiver, python_sdk.sdk


async def test_a_group_is_made_by_its_endpoints_and_keeps_their_order(sdk: Sdk, receiver: Receiver) -> None:
    await sdk("url_group.upsert_endpoints", "g", [{"url": receiver.url("/b"), "name": "the second"}])
    made = await sdk("url_group.get", "g")
    await sdk(
        "url_group.upsert_endpoints", "g", [{"url": receiver.url("/a")}, {"url": receiver.url("/c"), "name": "c"}]
    )

    group = await sdk("url_group.get", "g")

    assert group.name == "g"
    assert [(one.url, one.name) for one in group.endpoints] == [
        (receiver.url("/b"), "the second"), (receiver.url("/a"), None), (receiver.url("/c"), "c"),
    ]  # fmt: skip
    assert group.created_at == made.created_at <= made.updated_at <= group.updated_at
    assert abs(made.created_at - time.time() * 1000) < 60_000
    assert await sdk("url_group.list") == [group]


async def test_an_endpoint_is_renamed_by_its_url_and_moved_by_its_name(sdk: Sdk, receiver: Receiver) -> None:
    await sdk("url_group.upsert_endpoints", "g", [{"url": receiver.url("/a"), "name": "old"}])

    await sdk("url_group.upsert_endpoints", "g", [{"url": receiver.url("/a"), "name": "new"}])
    await sdk("url_group.upsert_endpoints", "g", [{"url": receiver.url("/b"), "name": "new"}])

    [endpoint] = (await sdk("url_group.get", "g")).endpoints
    assert (endpoint.url, endpoint.name) == (receiver.url("/b"), "new")
    [sent] = await sdk("message.publish", url_group="g")
    assert (await receiver.next_request("/b")).header("Upstash-Message-Id") == sent.message_id


async def test_endpoints_are_removed_by_url_and_by_name_and_the_last_takes_the_group_along(
    sdk: Sdk, receiver: Receiver
) -> None:
    endpoints = [{"url": receiver.url(f"/{name}"), "name": name} for name in "abc"]
    await sdk("url_group.upsert_endpoints", "g", endpoints)

    await sdk("url_group.remove_endpoints", "g", [{"url": receiver.url("/a")}, {"name": "c"}])

    assert [one.name for one in (await sdk("url_group.get", "g")).endpoints] == ["b"]
    await sdk("message.publish", url_group="g")
    await receiver.next_request("/b")
    assert len(receiver.requests()) == 1
    await sdk("url_group.remove_endpoints", "g", [{"name": "b"}])
    assert await sdk("url_group.list") == []
    with pytest.raises(QStashError, match=r'status: 404, body: \{"error":"topic g not found"\}'):
        await sdk("url_group.get", "g")
    with pytest.raises(QStashError, match="status: 404"):
        await sdk("url_group.remove_endpoints", "g", [{"name": "b"}])


async def test_a_deleted_group_is_gone_and_may_be_deleted_again(sdk: Sdk, receiver: Receiver) -> None:
    for name in ("-a", "_b", "c.d"):
        await sdk("url_group.upsert_endpoints", name, [{"url": receiver.url()}])

    await sdk("url_group.delete", "-a")
    await sdk("url_group.delete", "-a")

    assert sorted(group.name for group in await sdk("url_group.list")) == ["_b", "c.d"]
    with pytest.raises(QStashError, match=r'status: 404, body: \{"error":"topic -a not found"\}'):
        await sdk("message.publish", url_group="-a")


async def test_what_is_on_its_way_when_its_group_is_deleted_arrives(
    sdk: Sdk, server: Account, receiver: Receiver
) -> None:
    await sdk("queue.upsert", "q", paused=True)
    await sdk("url_group.upsert_endpoints", "g", [{"url": receiver.url()}])
    [sent] = await sdk("message.enqueue", queue="q", url_group="g")

    await sdk("url_group.delete", "g")
    await sdk("queue.resume", "q")

    assert (await receiver.next_request()).header("Upstash-Message-Id") == sent.message_id
    await server.settled(sent.message_id)


async def test_dead_letters_of_a_group_are_found_by_its_name(sdk: Sdk, server: Account, receiver: Receiver) -> None:
    receiver.script("/", status(500))
    await sdk("url_group.upsert_endpoints", "g", [{"url": receiver.url(), "name": "here"}])
    [of_group] = await sdk("message.publish", url_group="g", retries=0)
    other = await sdk("message.publish", url=receiver.url(), retries=0)
    await server.settled(of_group.message_id, "FAILED")
    await server.settled(other.message_id, "FAILED")

    [letter] = (await sdk("dlq.list", filter={"url_group": "g"})).messages

    assert (letter.message_id, letter.url_group, letter.endpoint) == (of_group.message_id, "g", "here")
    assert letter.url == receiver.url()


@pytest.mark.parametrize(
    ("group", "endpoint", "words"),
    [
        ("g", {"url": "example.com"}, "invalid scheme"),
        ("g", {"url": ""}, "non-empty|endpoint"),
        ("not a name", {"url": "http://127.0.0.1:9"}, "name|topic"),
    ],
)
async def test_an_endpoint_that_is_not_valid_is_refused(
    sdk: Sdk, group: str, endpoint: dict[str, str], words: str
) -> None:
    with pytest.raises(QStashError, match=rf'(?s)status: 400, body: \{{"error":".*({words})'):
        await sdk("url_group.upsert_endpoints", group, [{"url": "http://127.0.0.1:9/fine"}, endpoint])

    assert await sdk("url_group.list") == []
