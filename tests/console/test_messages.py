"""The pages of messages: the list with its filters, a message with its attempts, and what can be done."""

from __future__ import annotations

import re
from base64 import b64encode
from urllib.parse import quote

import httpx
import pytest

from postroad import dev
from tests.conftest import Running, eventually
from tests.console.conftest import XSS, said
from tests.moods import status
from tests.receiver import Receiver

LATER = {"Upstash_Delay": "1h"}


def ids(page: httpx.Response) -> list[str]:
    assert page.status_code == 200, page.text
    return re.findall(r'<tr data-key="(msg_\w+)"', page.text)


async def test_the_filter_is_that_of_the_api(visitor: httpx.AsyncClient, server: Running, receiver: Receiver) -> None:
    nightly = await server.publish(receiver.url("/a"), Upstash_Label="nightly", **LATER)
    spaced = await server.publish(receiver.url("/b"), Upstash_Label="two words", **LATER)
    good = await server.publish(receiver.url("/c"))
    await server.settled(good)

    async def found(q: str, show: str = "all") -> list[str]:
        return ids(await visitor.get("/console/messages", params={"q": q, "show": show}))

    assert await found("") == [good, spaced, nightly]
    assert await found("label=nightly") == await found("nightly") == [nightly]
    assert await found('label="two words"') == [spaced]
    assert await found("state=delivered") == await found("DELIVERED") == await found("", "DELIVERED") == [good]
    assert await found(receiver.url("/a")) == [nightly]
    assert await found("/b") == await found("path=/b since=1h") == [spaced]
    assert await found(f"id={good}") == [good]
    assert await found("until=1h") == []
    assert await found("", "unfinished") == [nightly, spaced]
    assert await found("nightly", "unfinished") == [nightly]
    straight = await visitor.get("/console/messages", params={"q": f" {good} "})
    assert (straight.status_code, straight.headers["location"]) == (303, f"/console/messages/{good}")


@pytest.mark.parametrize(
    ("q", "words"),
    [
        ("color=red", "color is no filter: expected one of"),
        ("state=BROKEN", "BROKEN"),
        ("since=yesterday", "since=yesterday: expected"),
        (XSS, "is no filter"),
    ],
)
async def test_a_filter_that_is_wrong_is_said_to_be(visitor: httpx.AsyncClient, q: str, words: str) -> None:
    page = await visitor.get("/console/messages", params={"q": q})

    assert (page.status_code, words in page.text) == (200, True)
    assert "<script>alert" not in page.text


@pytest.mark.parametrize(
    ("q", "words"),
    [
        ("emails", "No message matches label=emails."),
        ("localhost", "No message matches host=localhost."),
        ("127.0.0.1:9", "No message matches host=127.0.0.1:9."),
        ("host=nowhere", "No message matches."),
    ],
)
async def test_what_a_word_was_taken_for_is_said(visitor: httpx.AsyncClient, q: str, words: str) -> None:
    assert words in (await visitor.get("/console/messages", params={"q": q})).text


async def test_pages_follow_each_other(visitor: httpx.AsyncClient, server: Running) -> None:
    answer = await server.http.post(
        "/v2/batch",
        json=[{"destination": "http://127.0.0.1:9/x", "headers": {"Upstash-Delay": "1h"}} for _ in range(120)],
    )
    assert answer.status_code == 200
    for show in ("all", "unfinished"):
        seen: list[str] = []
        path: str | None = f"/console/messages?show={show}"
        while path is not None:
            page = await visitor.get(path)
            seen += ids(page)
            more = re.search(r'class="button" href="([^"]+)">(?:Older|Later)', page.text)
            path = None if more is None else more[1].replace("&amp;", "&")
        assert (len(seen), len(set(seen))) == (120, 120)


async def test_rows_are_put_right_where_they_stand(
    visitor: httpx.AsyncClient, server: Running, receiver: Receiver
) -> None:
    old = await server.publish(receiver.url("/a"))
    await server.settled(old)
    fresh = await visitor.get("/console/messages/rows", params={"show": "all", "q": "", "ids": old})
    assert (ids(fresh), fresh.headers["x-news"]) == ([old], "0")

    await server.publish(receiver.url("/b"))
    again = await visitor.get("/console/messages/rows", params={"show": "all", "q": "", "ids": old})
    assert (ids(again), again.headers["x-news"]) == ([old], "1")


async def test_why_a_message_failed(visitor: httpx.AsyncClient, server: Running, receiver: Receiver) -> None:
    receiver.script("/bad", status(503, b'{"error": "no stock"}', [("Retry-After", "7")]))
    message = await server.publish(
        receiver.url("/bad"), b'{"order": 4711}', Content_Type="application/json", Upstash_Retries="1"
    )
    await server.settled(message, "RETRY")
    page = (await visitor.get(f"/console/messages/{message}")).text
    for words in ("the destination answered 503", "no stock", "4711", "Waits for retry 1 of 1", "Attempt 1", "Cancel"):
        assert words in page, words
    assert "Attempt 2" not in page


async def test_texts_and_bytes_of_every_kind_are_shown(
    visitor: httpx.AsyncClient, server: Running, receiver: Receiver
) -> None:
    for body, expected in (
        (b"plain & simple", "plain &amp; simple"),
        (b"\x00\x01\xff", "00 01 ff"),
        ("grüße".encode(), "grüße"),
        (b"", "Empty."),
        (b"[1", "[1"),
    ):
        message = await server.publish(receiver.url("/x"), body, **LATER)
        page = (await visitor.get(f"/console/messages/{message}")).text
        assert expected in page, body
    hidden = await server.publish(receiver.url("/x"), b"secret", Upstash_Redact_Fields="body", **LATER)
    page = (await visitor.get(f"/console/messages/{hidden}")).text
    assert "Redacted when it was published" in page
    assert "secret" not in page


async def test_what_can_be_done(visitor: httpx.AsyncClient, server: Running, receiver: Receiver) -> None:
    message = await server.publish(receiver.url("/x"), b"before", **LATER)

    form = (await visitor.get(f"/console/messages/{message}/edit")).text
    assert ">\nbefore</textarea>" in form
    answer = await visitor.post(
        f"/console/messages/{message}/edit",
        data={"body": "after\r\nthat", "body_before": "before", "headers": "X-New: 1", "delay": ""},
    )
    assert "It is changed." in await said(visitor, answer)
    wrong = await visitor.post(
        f"/console/messages/{message}/edit",
        data={"body": "x", "body_before": "", "headers": "", "delay": "soon", "back": f"/console/messages/{message}"},
    )
    assert "expected a duration" in await said(visitor, wrong)
    assert "It is due now." in await said(visitor, await visitor.post(f"/console/messages/{message}/hasten"))
    arrived = await receiver.next_request("/x")
    assert (arrived.body, arrived.header("X-New")) == (b"after\nthat", "1")

    other = await server.publish(receiver.url("/x"), **LATER)
    await visitor.post(f"/console/messages/{other}/cancel")
    assert await server.settled(other, "CANCELED")
    assert (await visitor.get(f"/console/messages/{other}/edit")).status_code == 404


async def test_a_reader_sees_no_buttons_and_is_refused(
    reader: httpx.AsyncClient, server: Running, receiver: Receiver
) -> None:
    message = await server.publish(receiver.url("/x"), b"the body", **LATER)
    page = (await reader.get(f"/console/messages/{message}")).text
    assert "the body" in page
    assert 'method="post" action="/console/messages' not in page
    for action, data in (("cancel", {}), ("hasten", {}), ("edit", {"delay": "0s"})):
        answer = await reader.post(f"/console/messages/{message}/{action}", data=data)
        assert "this token is read-only and may not do this" in await said(reader, answer)
    assert await server.states(message) == ["CREATED"]


async def test_a_counter_sees_no_payloads(counter: httpx.AsyncClient, server: Running, receiver: Receiver) -> None:
    receiver.script("/bad", status(500, b"canary-answer"))
    message = await server.publish(receiver.url("/bad"), b"canary-body", Upstash_Forward_X="canary-header")
    await server.settled(message, "RETRY")
    pages = [(await counter.get(f"/console/messages{path}")).text for path in ("", f"/{message}", f"/{message}/live")]
    assert all("the destination answered 500" in page for page in pages[1:])
    assert "hidden from this token" in pages[1]
    assert all("canary" not in page for page in pages)


async def test_what_is_anothers_is_not_found(visitor: httpx.AsyncClient, server: Running, receiver: Receiver) -> None:
    other = {"Authorization": f"Bearer {dev.DEV_USERS[1].token}"}
    answer = await server.http.post(
        f"/v2/publish/{receiver.url('/x')}", headers={**other, "Upstash-Delay": "1h"}, content=b"theirs"
    )
    message = answer.json()["messageId"]

    for path in ("", "/live", "/edit"):
        assert (await visitor.get(f"/console/messages/{message}{path}")).status_code == 404
    for action in ("cancel", "hasten", "edit"):
        answer = await visitor.post(f"/console/messages/{message}/{action}", data={"delay": "0s"})
        assert "not found" in await said(visitor, answer)
    assert ids(await visitor.get("/console/messages", params={"q": f"id={message}", "show": "all"})) == []
    rows = await visitor.get("/console/messages/rows", params={"ids": message})
    assert ids(rows) == []


async def test_nothing_that_is_shown_is_taken_for_markup(
    visitor: httpx.AsyncClient, server: Running, receiver: Receiver
) -> None:
    receiver.script("/bad", status(500, XSS.encode(), [("X-Answer", XSS)]))
    headers = {
        "Upstash-Forward-X": XSS,
        "Upstash-Label": XSS.replace(",", ""),
        "Upstash-Flow-Control-Key": "k",
        "Upstash-Flow-Control-Value": "rate=100",
        "Content-Type": "text/html",
    }
    answer = await server.http.post(
        f"/v2/publish/{receiver.url('/bad')}?x={quote(XSS)}&y='\"<b>", headers=headers, content=XSS.encode()
    )
    assert answer.status_code == 201, answer.text
    message = answer.json()["messageId"]
    await server.settled(message, "RETRY")
    reported = await server.http.post(
        f"/v2/status/{message}", json={"progress": 5, "note": XSS, "log": XSS, "result": {XSS: XSS}}
    )
    assert reported.status_code == 200

    await eventually(lambda: server.states(message), lambda states: "RETRY" in states)
    for path in ("", f"/{message}", f"/{message}/live"):
        page = (await visitor.get(f"/console/messages{path}")).text
        assert message in page or path
        assert "<script>alert" not in page
        assert "<img src=x" not in page
        assert "<b>" not in page
    assert "&lt;script&gt;alert(1)" in (await visitor.get(f"/console/messages/{message}")).text
    assert b64encode(XSS.encode()).decode() not in page
