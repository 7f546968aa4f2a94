"""The signature doctor."""

from __future__ import annotations

from base64 import b64encode
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from postroad import dev
from tests.conftest import KEYS, Running
from tests.console.conftest import XSS
from tests.receiver import Receiver

BODY = b'{"order":4711,\r\n "name":"gr\xc3\xbc\xc3\x9fe"}'


@pytest.fixture
async def signed(server: Running, receiver: Receiver) -> dict[str, str]:
    """The signature of a delivery, with its body and URL, as they would be pasted."""
    await server.publish(receiver.url("/hook"), BODY)
    arrived = await receiver.next_request("/hook")
    return {
        "signature": arrived.header("Upstash-Signature") or "",
        "body": BODY.decode(),
        "url": receiver.url("/hook"),
    }


async def test_a_good_signature_is_accepted(visitor: httpx.AsyncClient, signed: dict[str, str]) -> None:
    page = (await visitor.post("/console/verify", data=signed)).text
    for words in ("It is accepted", "made with the current key", f"the hash of the {len(BODY)} bytes"):
        assert words in page, words
    assert KEYS.current not in page
    assert KEYS.next not in page
    bytes_of = {**signed, "body": b64encode(BODY).decode(), "encoding": "base64"}
    assert "It is accepted" in (await visitor.post("/console/verify", data=bytes_of)).text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"url": "https://app.example.com/hook"}, "It is not accepted: url"),
        ({"body": '{"order":4712}'}, "It is not accepted: body"),
        ({"body": "", "is_empty": "1"}, "something read the stream before"),
        ({"body": ""}, "the field Body takes one"),
        ({"url": ""}, "the field URL compares that with yours"),
        ({"at": (datetime.now(UTC) + timedelta(days=2)).isoformat()}, "the field Checked at says when"),
        ({"signature": "abc"}, "this is no JWT"),
    ],
    ids=["url", "body", "empty", "no body", "no url", "late", "no token"],
)
async def test_what_fails_is_named_with_its_cause(
    visitor: httpx.AsyncClient, signed: dict[str, str], change: dict[str, str], words: str
) -> None:
    page = await visitor.post("/console/verify", data=signed | change)
    assert (page.status_code, words in page.text) == (200, True), page.text


async def test_a_whole_request_is_read(visitor: httpx.AsyncClient, signed: dict[str, str]) -> None:
    host, _, path = signed["url"].removeprefix("http://").partition("/")
    for request in (
        f"POST /{path} HTTP/1.1\r\nHost: {host}\r\nUpstash-Signature: {signed['signature']}\r\n\r\n{signed['body']}",
        f"curl {signed['url']} -H 'Upstash-Signature: {signed['signature']}' --data-binary '{signed['body']}'",
    ):
        page = (await visitor.post("/console/verify", data={"request": request})).text
        assert "It is accepted" in page, page


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({}, "there is no signature"),
        ({"request": "hello"}, "what was pasted is no request"),
        ({"request": "curl http://x.test -d 1"}, "the request has no Upstash-Signature"),
        ({"signature": "a.b.c", "body": "%", "encoding": "base64"}, "the body is no base64"),
        ({"signature": "a.b.c", "at": "soon"}, "soon is no time"),
        ({"signature": "a.b.c", "at": "99999999999"}, "this is no JWT"),
        ({"signature": "a.b.c", "body": "x" * 600_000}, "that is more than 512.0 KiB"),
    ],
)
async def test_what_cannot_be_read_is_said(visitor: httpx.AsyncClient, data: dict[str, str], words: str) -> None:
    assert words in (await visitor.post("/console/verify", data=data)).text


async def test_a_reader_may_ask_and_learns_no_key(reader: httpx.AsyncClient, signed: dict[str, str]) -> None:
    page = (await reader.post("/console/verify", data=signed)).text
    assert "made with the current key" in page
    assert KEYS.current not in page


async def test_the_key_of_another_tenant_is_not_known(
    visitor: httpx.AsyncClient, server: Running, receiver: Receiver, signed: dict[str, str]
) -> None:
    answer = await server.http.post(
        f"/v2/publish/{receiver.url('/theirs')}", headers={"Authorization": f"Bearer {dev.DEV_USERS[1].token}"}
    )
    assert answer.status_code == 201
    theirs = (await receiver.next_request("/theirs")).header("Upstash-Signature") or ""
    page = (await visitor.post("/console/verify", data={"signature": theirs})).text
    assert "made with neither the current key nor the next key" in page


async def test_nothing_that_is_typed_is_taken_for_markup(visitor: httpx.AsyncClient, signed: dict[str, str]) -> None:
    for data in (
        {"signature": XSS, "body": XSS, "url": XSS, "at": XSS, "request": XSS},
        {**signed, "body": XSS, "url": f"http://x/{XSS}"},
    ):
        page = (await visitor.post("/console/verify", data=data)).text
        assert "&lt;script&gt;" in page
        assert "<script>alert" not in page
        assert "<img src=x" not in page
