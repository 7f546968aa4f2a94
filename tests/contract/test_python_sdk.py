"""The official Python client, `qstash` 3.4, unmodified: messages published, read back and cancelled."""

from __future__ import annotations

import asyncio
import json
import time
from base64 import b64decode
from datetime import timedelta
from typing import Any

import pytest
from qstash import AsyncQStash
from qstash.errors import QStashError
from qstash.log import LogState

from tests.conftest import eventually
from tests.contract import accounts, python_sdk
from tests.contract.accounts import Account
from tests.contract.python_sdk import Sdk
from tests.moods import hold, status
from tests.receiver import Receiver

pytestmark = pytest.mark.asyncio(loop_scope="module")
node, server, receiver, sdk = accounts.node, accounts.server, accounts.receiver, python_sdk.sdk


async def test_publish_sends_body_method_and_headers_as_given(sdk: Sdk, receiver: Receiver) -> None:
    body = bytes(range(256))

    answer = await sdk(
        "message.publish",
        url=receiver.url("/hook?a=1&b=%2F"),
        body=body,
        content_type="application/octet-stream",
        method="PATCH",
        headers={"test-header": "test-value", "Upstash-Forward-Given": "1"},
    )

    request = await receiver.next_request()
    assert (request.method, request.target, request.body) == ("PATCH", "/hook?a=1&b=%2F", body)
    assert request.header("Content-Type") == "application/octet-stream"
    assert (request.header("Test-Header"), request.header("Given")) == ("test-value", "1")
    assert request.header("Upstash-Message-Id") == answer.message_id
    assert answer.deduplicated is False


async def test_publish_json_sends_what_json_parses_again(sdk: Sdk, receiver: Receiver) -> None:
    for body in ({"ex_key": "ex_välue"}, [1, 2.5], None):
        await sdk("message.publish_json", url=receiver.url(), body=body)

        request = await receiver.next_request()
        assert json.loads(request.body) == body
        assert (request.method, request.header("Content-Type")) == ("POST", "application/json")


async def test_delay_and_not_before_hold_a_message_back(sdk: Sdk, server: Account, receiver: Receiver) -> None:
    not_before = int(time.time()) + 3600

    by_delay = await sdk("message.publish", url=receiver.url("/delay"), delay=3600)
    by_instant = await sdk("message.publish", url=receiver.url("/instant"), not_before=not_before, delay="1d")

    assert (await sdk("message.get", by_instant.message_id)).not_before == not_before * 1000
    await server.drain()
    assert receiver.requests() == []
    await server.time_passes(timedelta(hours=1, seconds=1))
    arrived = {request.header("Upstash-Message-Id") for request in await receiver.wait_for(2)}
    assert arrived == {by_delay.message_id, by_instant.message_id}


async def test_retries_and_retry_delay_rule_the_attempts(sdk: Sdk, server: Account, receiver: Receiver) -> None:
    receiver.script("/", status(500))

    published = await sdk("message.publish", url=receiver.url(), retries=2, retry_delay="pow(2, retried) * 10")

    await server.settled(published.message_id, "FAILED")
    assert [request.header("Upstash-Retried") for request in receiver.requests()] == ["0", "1", "2"]
    retries = (await sdk("log.list", filter={"message_id": published.message_id, "state": LogState.RETRY})).logs
    assert [retry.next_delivery_time - retry.time for retry in retries] == [20, 10]


@pytest.mark.parametrize("sdk", ["AsyncQStash"], indirect=True)
async def test_a_timeout_ends_an_attempt(sdk: Sdk, receiver: Receiver) -> None:
    release = asyncio.Event()
    receiver.script("/", hold(release))

    await sdk("message.publish", url=receiver.url(), timeout=1, retries=0)

    [letter] = (await eventually(lambda: sdk("dlq.list"), lambda page: page.messages)).messages
    assert letter.response_status == 0
    assert "timed out" in letter.response_body


async def test_callbacks_report_to_their_urls_with_their_headers(sdk: Sdk, receiver: Receiver) -> None:
    receiver.script("/work", status(500, b"no"))

    published = await sdk(
        "message.publish",
        url=receiver.url("/work"),
        body="source",
        retries=0,
        callback=receiver.url("/callback"),
        callback_headers={"Upstash-Callback-Forward-X-Report": "1", "Method": "PUT"},
        failure_callback=receiver.url("/failure"),
        failure_callback_headers={"Forward-X-Failure": "2"},
    )

    report, failure = await receiver.next_request("/callback"), await receiver.next_request("/failure")
    assert (report.method, report.header("X-Report")) == ("PUT", "1")
    assert (failure.method, failure.header("X-Failure")) == ("POST", "2")
    for document in (json.loads(report.body), json.loads(failure.body)):
        assert (document["status"], document["sourceMessageId"]) == (500, published.message_id)
        assert (b64decode(document["body"]), b64decode(document["sourceBody"])) == (b"no", b"source")
    [letter] = (await sdk("dlq.list", filter={"message_id": published.message_id})).messages
    assert json.loads(failure.body)["dlqId"] == letter.dlq_id


async def test_a_deduplication_id_stores_one_message_only(sdk: Sdk, server: Account, receiver: Receiver) -> None:
    first = await sdk("message.publish", url=receiver.url(), body="1", deduplication_id="order-1")
    second = await sdk("message.publish", url=receiver.url(), body="2", deduplication_id="order-1")
    other = await sdk("message.publish", url=receiver.url(), body="3", deduplication_id="order-2")

    assert (first.deduplicated, second.deduplicated, other.deduplicated) == (False, True, False)
    assert second.message_id == first.message_id != other.message_id
    await receiver.wait_for(2)
    await server.drain()
    assert sorted(request.body for request in receiver.requests()) == [b"1", b"3"]


async def test_content_based_deduplication_looks_at_the_content(sdk: Sdk, server: Account, receiver: Receiver) -> None:
    async def publish(body: Any, *, by_content: bool = True) -> Any:
        return await sdk("message.publish_json", url=receiver.url(), body=body, content_based_deduplication=by_content)

    first, equal, different, not_asked = [
        await publish(1), await publish(1), await publish(2), await publish(1, by_content=False)
    ]  # fmt: skip

    assert [one.deduplicated for one in (first, equal, different, not_asked)] == [False, True, False, False]
    assert equal.message_id == first.message_id
    await receiver.wait_for(3)
    await server.drain()
    assert sorted(request.body for request in receiver.requests()) == [b"1", b"1", b"2"]


async def test_a_binary_body_comes_back_as_base64(sdk: Sdk, receiver: Receiver) -> None:
    published = await sdk("message.publish", url=receiver.url(), body=b"\xff\x00", delay=60)

    message = await sdk("message.get", published.message_id)
    assert (message.body, b64decode(message.body_base64)) == (None, b"\xff\x00")


async def test_an_unknown_message_is_an_error_with_our_text(sdk: Sdk) -> None:
    for method in ("message.get", "message.cancel"):
        with pytest.raises(QStashError, match=r'status: 404, body: \{"error":".+not found"\}'):
            await sdk(method, "msg_1111111111111111111111")


async def test_a_cancelled_message_is_never_delivered(sdk: Sdk, server: Account, receiver: Receiver) -> None:
    cancelled = await sdk("message.publish", url=receiver.url("/cancelled"), delay=60)
    await sdk("message.publish", url=receiver.url("/kept"), delay=60)

    assert await sdk("message.cancel", cancelled.message_id) is None

    await server.time_passes(timedelta(minutes=2))
    await receiver.next_request("/kept")
    await server.drain()
    assert receiver.requests("/cancelled") == []
    assert await server.states(cancelled.message_id) == ["CREATED", "CANCEL_REQUESTED", "CANCELED"]
    assert (await sdk("dlq.list")).messages == []


async def test_many_messages_are_cancelled_and_counted(sdk: Sdk, server: Account, receiver: Receiver) -> None:
    ids = [(await sdk("message.publish", url=receiver.url(), delay=60)).message_id for _ in range(3)]

    assert await sdk("message.cancel_many", ids[:2]) == 2
    assert await sdk("message.cancel_many", ids[:2]) == 0
    assert await server.states(ids[2]) == ["CREATED"]
    assert await sdk("message.cancel_all") == 1
    assert await sdk("message.cancel_all") == 0

    await server.time_passes(timedelta(minutes=2))
    await server.drain()
    assert receiver.requests() == []


async def test_an_empty_list_of_ids_cancels_and_deletes_nothing(sdk: Sdk, server: Account, receiver: Receiver) -> None:
    receiver.script("/", status(500))
    waiting = await sdk("message.publish", url=receiver.url(), delay=60)
    failed = await sdk("message.publish", url=receiver.url(), retries=0)
    await server.settled(failed.message_id, "FAILED")

    assert (await sdk("message.cancel_many", []), await sdk("dlq.delete_many", [])) == (0, 0)

    assert await server.states(waiting.message_id) == ["CREATED"]
    assert len((await sdk("dlq.list")).messages) == 1


async def test_a_bad_destination_is_an_error_with_our_text(sdk: Sdk) -> None:
    for destination, code, text in (
        ({"url": "example.com/x"}, 400, "invalid destination url: endpoint has invalid scheme"),
        ({"url_group": "no-such-group"}, 404, "topic no-such-group not found"),
        ({"url": ""}, 400, "a non-empty destination must be provided"),
    ):
        with pytest.raises(QStashError, match=rf'status: {code}, body: \{{"error":"{text}'):
            await sdk("message.publish", body="x", **destination)

    assert (await sdk("log.list")).logs == []


async def test_a_bad_token_is_an_error_with_our_text(server: Account, receiver: Receiver) -> None:
    client = AsyncQStash("wrong", retry=False, base_url=server.url)

    with pytest.raises(QStashError, match=r'status: 401, body: \{"error":"unable to authenticate: invalid token"\}'):
        await client.message.publish(url=receiver.url())

    await client.http._client.aclose()
    assert await server.events() == []
