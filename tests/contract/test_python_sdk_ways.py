"""The official Python client, `qstash` 3.4, unmodified: every option means the same by each way to publish."""

from __future__ import annotations

import json
import time
from base64 import b64decode
from typing import Any

import pytest
from qstash.chat import custom
from qstash.errors import QStashError

from tests.contract import accounts, python_sdk
from tests.contract.accounts import Account
from tests.contract.python_sdk import Sdk
from tests.moods import status
from tests.receiver import Receiver

pytestmark = pytest.mark.asyncio(loop_scope="module")
node, server, receiver, sdk = accounts.node, accounts.server, accounts.receiver, python_sdk.sdk

WAYS = [
    "message.publish",
    "message.publish_json",
    "message.enqueue",
    "message.enqueue_json",
    "message.batch",
    "message.batch_json",
]


def options(way: str, text: str) -> dict[str, Any]:
    """What this way needs: a body that arrives as this text, and a queue to enqueue to."""
    needed: dict[str, Any] = {"body": json.loads(text) if way.endswith("_json") else text}
    return needed | ({"queue": "q"} if "enqueue" in way else {})


@pytest.mark.parametrize("way", WAYS)
async def test_every_option_can_be_read_back(sdk: Sdk, server: Account, receiver: Receiver, way: str) -> None:
    enqueued = "enqueue" in way
    not_before = int(time.time()) + 3600
    wanted: dict[str, Any] = {
        "url": receiver.url("/hook?a=1"),
        "method": "PUT",
        "headers": {"test-header": "test-value"},
        "callback_headers": {"Forward-X-Report": "yes"},
        "failure_callback_headers": {"Forward-X-Failure": "no"},
        "retries": 4,
        "retry_delay": "1000 * (1 + retried)",
        "callback": receiver.url("/callback"),
        "failure_callback": receiver.url("/failure"),
        "deduplication_id": "only-once",
        "content_based_deduplication": True,
        "timeout": "1m30s",
        "label": "test-label",
        **options(way, '{"a": 1}'),
    }
    if not way.endswith("_json"):
        wanted |= {"content_type": "application/json"}
    if enqueued:
        await sdk("queue.upsert", "q", paused=True)
    else:
        wanted |= {
            "delay": "1d2h",
            "not_before": not_before,
            "flow_control": {"key": "k", "parallelism": 3, "rate": 10, "period": "1h30m3s"},
        }

    published = await sdk.publish(way, **wanted)
    again = await sdk.publish(way, **wanted)

    assert (again.message_id, published.deduplicated, again.deduplicated) == (published.message_id, False, True)
    message = await sdk("message.get", published.message_id)
    [created] = (await sdk("log.list")).logs
    # The client forgets the delay of a JSON batch's retries.
    retry_delay = None if way == "message.batch_json" else "1000 * (1 + retried)"
    for view in (message, created):
        assert (view.message_id, view.url, view.method) == (published.message_id, receiver.url("/hook?a=1"), "PUT")
        assert view.headers == {"Content-Type": ["application/json"], "Test-Header": ["test-value"]}
        assert (view.callback, view.callback_headers) == (receiver.url("/callback"), {"X-Report": ["yes"]})
        assert (view.failure_callback, view.failure_callback_headers) == (
            receiver.url("/failure"), {"X-Failure": ["no"]},
        )  # fmt: skip
        assert (view.max_retries, view.retry_delay_expression, view.label) == (4, retry_delay, "test-label")
        assert (view.queue, view.url_group, view.endpoint) == ("q" if enqueued else None, None, None)
        if enqueued:
            assert view.flow_control is None
        else:
            flow = view.flow_control
            assert (flow.key, flow.parallelism, flow.rate, flow.period) == ("k", 3, 10, 5403)
    assert (message.body, message.body_base64, message.caller_ip) == ('{"a": 1}', None, "127.0.0.1")
    assert abs(message.created_at - time.time() * 1000) < 60_000
    assert message.not_before == (message.created_at if enqueued else not_before * 1000)
    assert message.schedule_id is None
    assert b64decode(created.body_base64) == b'{"a": 1}'
    assert created.timeout == 90_000


@pytest.mark.parametrize("way", WAYS)
async def test_bodies_methods_and_headers_arrive(sdk: Sdk, receiver: Receiver, way: str) -> None:
    published = await sdk.publish(
        way,
        url=receiver.url("/hook?a=1&b=%2F"),
        method="PATCH",
        headers={"test-header": "test-value", "Upstash-Forward-Given": "1"},
        **options(way, '{"a": "\\u00e4"}'),
    )

    request = await receiver.next_request()
    assert (request.method, request.target) == ("PATCH", "/hook?a=1&b=%2F")
    assert request.body == b'{"a": "\\u00e4"}'
    assert (request.header("Test-Header"), request.header("Given")) == ("test-value", "1")
    assert request.header("Content-Type") == ("application/json" if way.endswith("_json") else None)
    assert request.header("Upstash-Message-Id") == published.message_id


@pytest.mark.parametrize("way", WAYS)
async def test_what_is_redacted_is_a_hash_everywhere_but_at_the_destination(
    sdk: Sdk, server: Account, receiver: Receiver, way: str
) -> None:
    receiver.script("/", status(500))
    published = await sdk.publish(
        way,
        url=receiver.url(),
        headers={"Authorization": "Bearer secret", "X-Open": "seen"},
        retries=0,
        redact={"body": True, "header": ["authorization"]},
        **options(way, '"secret"'),
    )

    request = await receiver.next_request()
    await server.settled(published.message_id, "FAILED")
    [letter] = (await sdk("dlq.list")).messages
    log = (await sdk("log.list")).logs
    assert (request.body, request.header("Authorization")) == (b'"secret"', "Bearer secret")
    for shown in (letter.body, *(entry.body_base64 for entry in log)):
        assert shown.startswith("REDACTED:")
    for shown in (letter.headers, *(entry.headers for entry in log)):
        assert shown["Authorization"][0].startswith("REDACTED:")
        assert shown["X-Open"] == ["seen"]


async def test_redacting_all_headers_leaves_none_to_read(sdk: Sdk, receiver: Receiver) -> None:
    published = await sdk(
        "message.publish", url=receiver.url(), headers={"A": "1", "B": "2"}, delay=60, redact={"header": True}
    )

    message = await sdk("message.get", published.message_id)
    assert set(message.headers) == {"A", "B"}
    assert all(value[0].startswith("REDACTED:") for value in message.headers.values())


@pytest.mark.parametrize("way", WAYS)
async def test_every_endpoint_of_a_url_group_gets_a_message(sdk: Sdk, receiver: Receiver, way: str) -> None:
    await sdk(
        "url_group.upsert_endpoints", "g", [{"url": receiver.url(path), "name": path[1:]} for path in ("/a", "/b")]
    )

    answers = await sdk.publish(way, url_group="g", deduplication_id="once", **options(way, "1"))
    again = await sdk.publish(way, url_group="g", deduplication_id="once", **options(way, "1"))

    assert [answer.url for answer in answers] == [receiver.url("/a"), receiver.url("/b")]
    assert [answer.deduplicated for answer in answers] == [False, False]
    assert [answer.deduplicated for answer in again] == [True, True]
    assert [answer.message_id for answer in again] == [answer.message_id for answer in answers]
    for answer, name in zip(answers, "ab", strict=True):
        request = await receiver.next_request(f"/{name}")
        assert (request.header("Upstash-Message-Id"), request.header("Upstash-Topic-Name")) == (answer.message_id, "g")
        message = await sdk("message.get", answer.message_id)
        assert (message.url_group, message.endpoint) == ("g", name)
        log = (await sdk("log.list", filter={"url_group": "g", "message_id": answer.message_id})).logs
        assert {(entry.url_group, entry.endpoint) for entry in log} == {("g", name)}


@pytest.mark.parametrize("way", WAYS)
async def test_a_provider_of_models_is_called_with_its_token(sdk: Sdk, receiver: Receiver, way: str) -> None:
    provider = custom(base_url=receiver.url("/v1/chat/completions"), token="model-token")

    await sdk.publish(
        way, api={"name": "llm", "provider": provider}, headers={}, callback=receiver.url("/callback"),
        **options(way, '{"model": "m"}'),
    )  # fmt: skip

    request = await receiver.next_request("/v1/chat/completions")
    assert (request.header("Authorization"), request.body) == ("Bearer model-token", b'{"model": "m"}')
    await receiver.next_request("/callback")


async def test_a_batch_mixes_urls_groups_and_queues_and_answers_in_its_order(sdk: Sdk, receiver: Receiver) -> None:
    await sdk("url_group.upsert_endpoints", "g", [{"url": receiver.url("/one")}, {"url": receiver.url("/two")}])
    await sdk("queue.upsert", "q", paused=True)

    for method in ("message.batch", "message.batch_json"):
        to_url, to_group, to_queue, group_in_queue = await sdk(
            method,
            [
                {"url": receiver.url("/url")},
                {"url_group": "g"},
                {"url": receiver.url("/queued"), "queue": "q"},
                {"url_group": "g", "queue": "q"},
            ],
        )

        assert (await receiver.next_request("/url")).header("Upstash-Message-Id") == to_url.message_id
        assert (await receiver.next_request("/one")).header("Upstash-Message-Id") == to_group[0].message_id
        assert (await receiver.next_request("/two")).header("Upstash-Message-Id") == to_group[1].message_id
        for answer in (to_queue, *group_in_queue):
            assert (await sdk("message.get", answer.message_id)).queue == "q"
    assert (await sdk("queue.get", "q")).lag == 6
    assert receiver.requests("/queued") == []


async def test_a_batch_in_json_without_a_body_sends_null(sdk: Sdk, receiver: Receiver) -> None:
    await sdk("message.batch_json", [{"url": receiver.url()}])

    assert (await receiver.next_request()).body == b"null"


async def test_one_bad_message_refuses_its_batch(sdk: Sdk, receiver: Receiver) -> None:
    with pytest.raises(QStashError, match=r"status: 400.+invalid scheme.+item 1"):
        await sdk("message.batch", [{"url": receiver.url()}, {"url": "ftp://example.com"}])

    assert (await sdk("log.list")).logs == []
