"""The official Python client, `qstash` 3.4, unmodified, in both of its forms against a running server."""

from __future__ import annotations

import asyncio
import inspect
import json
import time
from base64 import b64decode
from collections.abc import AsyncIterator
from datetime import timedelta
from operator import attrgetter
from typing import Any

import pytest
from qstash import AsyncQStash, QStash
from qstash import Receiver as SignatureReceiver
from qstash.errors import QStashError, SignatureError
from qstash.log import LogState

from tests.conftest import KEYS, TOKEN, Running, eventually
from tests.moods import hold, status
from tests.receiver import Received, Receiver


class Sdk:
    """A client whose methods are called by name, in a thread if they would block the server's event loop."""

    def __init__(self, client: Any) -> None:
        self._client = client

    async def __call__(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        function = attrgetter(name)(self._client)
        if inspect.iscoroutinefunction(function):
            return await function(*args, **kwargs)
        return await asyncio.to_thread(function, *args, **kwargs)


@pytest.fixture(params=["QStash", "AsyncQStash"])
async def sdk(request: pytest.FixtureRequest, server: Running) -> AsyncIterator[Sdk]:
    """The client as a user makes it: with a token and the server's address."""
    if request.param == "QStash":
        blocking = QStash(TOKEN, retry=False, base_url=server.url)
        yield Sdk(blocking)
        blocking.http._client.close()
    else:
        client = AsyncQStash(TOKEN, retry=False, base_url=server.url)
        yield Sdk(client)
        await client.http._client.aclose()


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


async def test_every_option_of_a_publish_can_be_read_back(sdk: Sdk, receiver: Receiver) -> None:
    published = await sdk(
        "message.publish_json",
        url=receiver.url("/hook"),
        body={"a": 1},
        method="PUT",
        headers={"test-header": "test-value"},
        callback_headers={"Forward-X-Report": "yes"},
        failure_callback_headers={"Forward-X-Failure": "no"},
        retries=7,
        retry_delay="1000 * (1 + retried)",
        callback=receiver.url("/callback"),
        failure_callback=receiver.url("/failure"),
        delay="1h30m3s",
        timeout="1m30s",
        label="test-label",
    )

    message = await sdk("message.get", published.message_id)
    assert message.message_id == published.message_id
    assert (message.url, message.method, message.body) == (receiver.url("/hook"), "PUT", '{"a": 1}')
    assert message.body_base64 is None
    assert message.headers == {"Content-Type": ["application/json"], "Test-Header": ["test-value"]}
    assert message.callback_headers == {"X-Report": ["yes"]}
    assert message.failure_callback_headers == {"X-Failure": ["no"]}
    assert (message.max_retries, message.retry_delay_expression) == (7, "1000 * (1 + retried)")
    assert (message.callback, message.failure_callback) == (receiver.url("/callback"), receiver.url("/failure"))
    assert message.not_before - message.created_at == 5_403_000
    assert abs(message.created_at - time.time() * 1000) < 60_000
    assert (message.label, message.caller_ip) == ("test-label", "127.0.0.1")
    assert (message.url_group, message.queue, message.schedule_id, message.flow_control) == (None, None, None, None)
    [created] = (await sdk("log.list", filter={"message_id": published.message_id})).logs
    assert created.state is LogState.CREATED
    assert (created.url, created.method, created.max_retries) == (receiver.url("/hook"), "PUT", 7)
    assert created.headers == {"Content-Type": ["application/json"], "Test-Header": ["test-value"]}
    assert created.callback_headers == {"X-Report": ["yes"]}
    assert created.failure_callback_headers == {"X-Failure": ["no"]}
    assert (created.callback, created.failure_callback) == (receiver.url("/callback"), receiver.url("/failure"))
    assert created.retry_delay_expression == "1000 * (1 + retried)"
    assert created.next_delivery_time == message.not_before
    assert (created.timeout, created.label) == (90_000, "test-label")
    assert json.loads(b64decode(created.body_base64)) == {"a": 1}


async def test_delay_and_not_before_hold_a_message_back(sdk: Sdk, server: Running, receiver: Receiver) -> None:
    not_before = int(time.time()) + 3600

    by_delay = await sdk("message.publish", url=receiver.url("/delay"), delay=3600)
    by_instant = await sdk("message.publish", url=receiver.url("/instant"), not_before=not_before, delay="1d")

    assert (await sdk("message.get", by_instant.message_id)).not_before == not_before * 1000
    await server.drain()
    assert receiver.requests() == []
    await server.time_passes(timedelta(hours=1, seconds=1))
    arrived = {request.header("Upstash-Message-Id") for request in await receiver.wait_for(2)}
    assert arrived == {by_delay.message_id, by_instant.message_id}


async def test_retries_and_retry_delay_rule_the_attempts(sdk: Sdk, server: Running, receiver: Receiver) -> None:
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


async def test_a_deduplication_id_stores_one_message_only(sdk: Sdk, server: Running, receiver: Receiver) -> None:
    first = await sdk("message.publish", url=receiver.url(), body="1", deduplication_id="order-1")
    second = await sdk("message.publish", url=receiver.url(), body="2", deduplication_id="order-1")
    other = await sdk("message.publish", url=receiver.url(), body="3", deduplication_id="order-2")

    assert (first.deduplicated, second.deduplicated, other.deduplicated) == (False, True, False)
    assert second.message_id == first.message_id != other.message_id
    await receiver.wait_for(2)
    await server.drain()
    assert sorted(request.body for request in receiver.requests()) == [b"1", b"3"]


async def test_content_based_deduplication_looks_at_the_content(sdk: Sdk, server: Running, receiver: Receiver) -> None:
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


async def test_redacted_fields_are_hashes_everywhere_but_at_the_destination(
    sdk: Sdk, server: Running, receiver: Receiver
) -> None:
    receiver.script("/", status(500))

    published = await sdk(
        "message.publish",
        url=receiver.url(),
        body="secret",
        headers={"Authorization": "Bearer secret", "X-Open": "seen"},
        retries=0,
        redact={"body": True, "header": ["authorization"]},
    )

    request = await receiver.next_request()
    assert (request.body, request.header("Authorization")) == (b"secret", "Bearer secret")
    await server.settled(published.message_id, "FAILED")
    [letter] = (await sdk("dlq.list")).messages
    log = (await sdk("log.list")).logs
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


async def test_a_binary_body_comes_back_as_base64(sdk: Sdk, receiver: Receiver) -> None:
    published = await sdk("message.publish", url=receiver.url(), body=b"\xff\x00", delay=60)

    message = await sdk("message.get", published.message_id)
    assert (message.body, b64decode(message.body_base64)) == (None, b"\xff\x00")


async def test_an_unknown_message_is_an_error_with_our_text(sdk: Sdk) -> None:
    for method in ("message.get", "message.cancel"):
        with pytest.raises(QStashError, match=r'status: 404, body: \{"error":".+not found"\}'):
            await sdk(method, "msg_1111111111111111111111")


async def test_a_cancelled_message_is_never_delivered(sdk: Sdk, server: Running, receiver: Receiver) -> None:
    cancelled = await sdk("message.publish", url=receiver.url("/cancelled"), delay=60)
    await sdk("message.publish", url=receiver.url("/kept"), delay=60)

    assert await sdk("message.cancel", cancelled.message_id) is None

    await server.time_passes(timedelta(minutes=2))
    await receiver.next_request("/kept")
    await server.drain()
    assert receiver.requests("/cancelled") == []
    assert await server.states(cancelled.message_id) == ["CREATED", "CANCEL_REQUESTED", "CANCELED"]
    assert (await sdk("dlq.list")).messages == []


async def test_many_messages_are_cancelled_and_counted(sdk: Sdk, server: Running, receiver: Receiver) -> None:
    ids = [(await sdk("message.publish", url=receiver.url(), delay=60)).message_id for _ in range(3)]

    assert await sdk("message.cancel_many", ids[:2]) == 2
    assert await sdk("message.cancel_many", ids[:2]) == 0
    assert await server.states(ids[2]) == ["CREATED"]
    assert await sdk("message.cancel_all") == 1
    assert await sdk("message.cancel_all") == 0

    await server.time_passes(timedelta(minutes=2))
    await server.drain()
    assert receiver.requests() == []


async def test_an_empty_list_of_ids_cancels_and_deletes_nothing(sdk: Sdk, server: Running, receiver: Receiver) -> None:
    receiver.script("/", status(500))
    waiting = await sdk("message.publish", url=receiver.url(), delay=60)
    failed = await sdk("message.publish", url=receiver.url(), retries=0)
    await server.settled(failed.message_id, "FAILED")

    assert (await sdk("message.cancel_many", []), await sdk("dlq.delete_many", [])) == (0, 0)

    assert await server.states(waiting.message_id) == ["CREATED"]
    assert len((await sdk("dlq.list")).messages) == 1


async def test_a_dead_letter_has_the_message_and_the_last_answer(sdk: Sdk, receiver: Receiver) -> None:
    receiver.script("/", status(404, b"404 Not Found", [("X-Why", "gone")]))

    published = await sdk(
        "message.publish",
        url=receiver.url(),
        body="body",
        headers={"test-header": "1"},
        retries=0,
        retry_delay="1000",
        label="a",
        callback_headers={"Forward-C": "1"},
        callback=receiver.url("/callback"),
    )

    [letter] = (await eventually(lambda: sdk("dlq.list"), lambda page: page.messages)).messages
    assert (letter.message_id, letter.url, letter.body) == (published.message_id, receiver.url(), "body")
    assert letter.headers == {"Test-Header": ["1"]}
    assert (letter.response_status, letter.response_body) == (404, "404 Not Found")
    assert letter.response_headers["X-Why"] == ["gone"]
    assert letter.response_body_base64 is None
    assert (letter.max_retries, letter.retry_delay_expression, letter.label) == (0, "1000", "a")
    assert (letter.callback, letter.callback_headers) == (receiver.url("/callback"), {"C": ["1"]})
    assert letter.caller_ip == "127.0.0.1"
    assert await sdk("dlq.get", letter.dlq_id) == letter


async def test_dead_letters_are_filtered_by_every_field(sdk: Sdk, receiver: Receiver) -> None:
    receiver.script("/a", status(500))
    receiver.script("/b", status(404))
    a = (await sdk("message.publish", url=receiver.url("/a"), retries=0, label="a")).message_id
    b = (await sdk("message.publish", url=receiver.url("/b"), retries=0, label="b")).message_id
    page = await eventually(lambda: sdk("dlq.list"), lambda page: len(page.messages) == 2)
    assert page.cursor is None

    async def found(**filters: Any) -> set[str]:
        return {letter.message_id for letter in (await sdk("dlq.list", filter=filters)).messages}

    assert await found(message_id=a) == {a}
    assert await found(url=receiver.url("/b")) == {b}
    assert await found(label="a") == {a}
    assert await found(response_status=404) == {b}
    assert await found(caller_ip="127.0.0.1") == {a, b}
    assert await found(caller_ip="10.0.0.1") == set()
    now = int(time.time() * 1000)
    assert await found(from_time=now - 60_000, to_time=now + 60_000) == {a, b}
    assert await found(from_time=now + 60_000) == await found(to_time=now - 60_000) == set()
    assert await found(label="a", response_status=404) == set()
    assert await found(url_group="g") == await found(queue="q") == await found(schedule_id="s") == set()


async def test_dead_letters_come_in_pages_until_the_cursor_is_none(sdk: Sdk, receiver: Receiver) -> None:
    receiver.script("/", status(500))
    ids = {(await sdk("message.publish", url=receiver.url(), retries=0)).message_id for _ in range(5)}
    await eventually(lambda: sdk("dlq.list"), lambda page: len(page.messages) == 5)

    pages = [await sdk("dlq.list", count=2)]
    while pages[-1].cursor is not None:
        pages.append(await sdk("dlq.list", count=2, cursor=pages[-1].cursor))

    assert [len(page.messages) for page in pages] == [2, 2, 1]
    assert {letter.message_id for page in pages for letter in page.messages} == ids


async def test_a_deleted_dead_letter_is_gone(sdk: Sdk, receiver: Receiver) -> None:
    receiver.script("/", status(500))
    for _ in range(4):
        await sdk("message.publish", url=receiver.url(), retries=0)
    page = await eventually(lambda: sdk("dlq.list"), lambda page: len(page.messages) == 4)
    one, two, three, kept = [letter.dlq_id for letter in page.messages]

    await sdk("dlq.delete", one)
    assert await sdk("dlq.delete_many", [two, three, one]) == 2

    assert [letter.dlq_id for letter in (await sdk("dlq.list")).messages] == [kept]
    for method in ("dlq.get", "dlq.delete"):
        with pytest.raises(QStashError, match="status: 404"):
            await sdk(method, one)
    assert len(receiver.requests()) == 4


async def test_the_log_is_filtered_by_every_field(sdk: Sdk, server: Running, receiver: Receiver) -> None:
    a = (await sdk("message.publish", url=receiver.url("/a"), label="a")).message_id
    b = (await sdk("message.publish", url=receiver.url("/b"), label="b")).message_id
    await server.settled(a)
    await server.settled(b)
    page = await sdk("log.list")
    assert page.cursor is None
    times = [entry.time for entry in page.logs]
    assert times == sorted(times, reverse=True)

    async def found(**filters: Any) -> set[tuple[str, str]]:
        return {(e.message_id, e.state.value) for e in (await sdk("log.list", filter=filters)).logs}

    whole = {(one, state) for one in (a, b) for state in ("CREATED", "ACTIVE", "DELIVERED")}
    of_a = {pair for pair in whole if pair[0] == a}
    assert await found() == whole
    assert await found(message_id=a) == of_a
    assert await found(message_ids=[a, b]) == whole
    assert await found(message_ids=[a]) == of_a
    assert await found(url=receiver.url("/a")) == await found(label="a") == of_a
    assert await found(state=LogState.DELIVERED) == {(a, "DELIVERED"), (b, "DELIVERED")}
    assert await found(state=LogState.DELIVERED, label="b") == {(b, "DELIVERED")}
    assert await found(from_time=times[-1], to_time=times[0] + 1) == whole
    assert await found(from_time=times[0] + 1) == await found(to_time=times[-1] - 1) == set()
    assert await found(url_group="g") == await found(queue="q") == await found(schedule_id="s") == set()


async def test_the_log_knows_every_state(sdk: Sdk, server: Running, receiver: Receiver) -> None:
    release = asyncio.Event()
    receiver.script("/fails", status(500))
    receiver.script("/holds", hold(release))
    delivered = (await sdk("message.publish", url=receiver.url())).message_id
    failed = (await sdk("message.publish", url=receiver.url("/fails"), retries=1, retry_delay="0")).message_id
    cancelled = (await sdk("message.publish", url=receiver.url(), delay=60)).message_id
    held = (await sdk("message.publish", url=receiver.url("/holds"))).message_id
    await sdk("message.cancel", cancelled)
    await server.settled(delivered)
    await server.settled(failed, "FAILED")
    await receiver.next_request("/holds")

    async def found(state: LogState) -> list[str]:
        return [entry.message_id for entry in (await sdk("log.list", filter={"state": state})).logs]

    assert set(await found(LogState.CREATED)) == {delivered, failed, cancelled, held}
    assert await found(LogState.DELIVERED) == [delivered]
    assert await found(LogState.ERROR) == [failed, failed]
    assert await found(LogState.RETRY) == await found(LogState.FAILED) == [failed]
    assert await found(LogState.CANCEL_REQUESTED) == await found(LogState.CANCELED) == [cancelled]
    assert held in await found(LogState.ACTIVE)
    assert held in await found(LogState.IN_PROGRESS)
    assert cancelled not in await found(LogState.IN_PROGRESS)
    release.set()


async def test_an_error_in_the_log_has_the_answer(sdk: Sdk, server: Running, receiver: Receiver) -> None:
    receiver.script("/", status(503, b"busy", [("X-Why", "load")]), status(200))

    published = await sdk("message.publish", url=receiver.url(), retries=1, retry_delay="0")

    await server.settled(published.message_id)
    [error] = (await sdk("log.list", filter={"message_id": published.message_id, "state": LogState.ERROR})).logs
    assert (error.response_status, b64decode(error.response_body)) == (503, b"busy")
    assert error.response_headers["X-Why"] == ["load"]
    assert error.error


async def test_the_log_comes_in_pages_that_neither_repeat_nor_skip(
    sdk: Sdk, server: Running, receiver: Receiver
) -> None:
    ids = [(await sdk("message.publish", url=receiver.url())).message_id for _ in range(3)]
    for message_id in ids:
        await server.settled(message_id)
    whole = (await sdk("log.list")).logs

    pages = [await sdk("log.list", count=2)]
    while pages[-1].cursor is not None:
        pages.append(await sdk("log.list", count=2, cursor=pages[-1].cursor))

    assert [len(page.logs) for page in pages] == [2, 2, 2, 2, 1]
    assert [entry for page in pages for entry in page.logs] == whole


async def test_the_signing_keys_are_the_pair_that_deliveries_are_signed_with(sdk: Sdk, receiver: Receiver) -> None:
    keys = await sdk("signing_key.get")

    assert (keys.current, keys.next) == (KEYS.current, KEYS.next)
    await sdk("message.publish", url=receiver.url(), body="x")
    _verify(await receiver.next_request(), receiver.url(), keys.current, "sig_unused")


async def test_after_one_rotation_the_old_pair_still_verifies_and_after_two_no_more(
    sdk: Sdk, receiver: Receiver
) -> None:
    old = await sdk("signing_key.get")

    new = await sdk("signing_key.rotate")

    assert new.current == old.next
    assert new.next not in (old.current, old.next)
    assert await sdk("signing_key.get") == new
    await sdk("message.publish", url=receiver.url(), body="after one")
    request = await receiver.next_request()
    _verify(request, receiver.url(), old.current, old.next)
    _verify(request, receiver.url(), new.current, new.next)

    await sdk("signing_key.rotate")
    await sdk("message.publish", url=receiver.url(), body="after two")
    request = await receiver.next_request()
    _verify(request, receiver.url(), new.current, new.next)
    with pytest.raises(SignatureError):
        _verify(request, receiver.url(), old.current, old.next)


async def test_the_receiver_accepts_what_arrived_and_nothing_else(sdk: Sdk, receiver: Receiver) -> None:
    url = receiver.url("/a%20b?q=1&q=2")
    for body in ("", "grüße 🌍"):
        await sdk("message.publish", url=url, body=body)
        request = await receiver.next_request()

        _verify(request, url, KEYS.current, KEYS.next)

        with pytest.raises(SignatureError):
            _verify(request, url, "sig_wrong", "sig_wrong_too")
        with pytest.raises(SignatureError, match="Invalid subject"):
            _verify(request, receiver.url("/a b?q=1&q=2"), KEYS.current, KEYS.current)
        with pytest.raises(SignatureError, match="Invalid body hash"):
            _verify(request, url, KEYS.current, KEYS.current, body=body + " ")


async def test_a_bad_destination_is_an_error_with_our_text(sdk: Sdk) -> None:
    for destination, code, text in (
        ({"url": "example.com/x"}, 400, "invalid destination url: endpoint has invalid scheme"),
        ({"url_group": "no-such-group"}, 404, "topic no-such-group not found"),
        ({"url": ""}, 400, "a non-empty destination must be provided"),
    ):
        with pytest.raises(QStashError, match=rf'status: {code}, body: \{{"error":"{text}'):
            await sdk("message.publish", body="x", **destination)

    assert (await sdk("log.list")).logs == []


async def test_a_bad_token_is_an_error_with_our_text(server: Running, receiver: Receiver) -> None:
    client = AsyncQStash("wrong", retry=False, base_url=server.url)

    with pytest.raises(QStashError, match=r'status: 401, body: \{"error":"unable to authenticate: invalid token"\}'):
        await client.message.publish(url=receiver.url())

    await client.http._client.aclose()
    assert await server.events() == []


def _verify(request: Received, url: str, current: str, following: str, *, body: str | None = None) -> None:
    """As an application verifies; raises `SignatureError`."""
    SignatureReceiver(current, following).verify(
        signature=request.header("Upstash-Signature") or "",
        body=request.body.decode() if body is None else body,
        url=url,
    )
