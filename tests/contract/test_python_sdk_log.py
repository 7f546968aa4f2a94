"""The official Python client, `qstash` 3.4, unmodified: the log and the dead letters."""

from __future__ import annotations

import asyncio
import time
from base64 import b64decode
from typing import Any

import pytest
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


async def test_the_log_is_filtered_by_every_field(sdk: Sdk, server: Account, receiver: Receiver) -> None:
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


async def test_the_log_knows_every_state(sdk: Sdk, server: Account, receiver: Receiver) -> None:
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


async def test_an_error_in_the_log_has_the_answer(sdk: Sdk, server: Account, receiver: Receiver) -> None:
    receiver.script("/", status(503, b"busy", [("X-Why", "load")]), status(200))

    published = await sdk("message.publish", url=receiver.url(), retries=1, retry_delay="0")

    await server.settled(published.message_id)
    [error] = (await sdk("log.list", filter={"message_id": published.message_id, "state": LogState.ERROR})).logs
    assert (error.response_status, b64decode(error.response_body)) == (503, b"busy")
    assert error.response_headers["X-Why"] == ["load"]
    assert error.error


async def test_the_log_comes_in_pages_that_neither_repeat_nor_skip(
    sdk: Sdk, server: Account, receiver: Receiver
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
