"""The pages of URL groups."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from postroad import dev
from tests.conftest import Running
from tests.console.conftest import XSS, said
from tests.receiver import Receiver


async def group(server: Running, name: str) -> dict[str, Any]:
    answer = await server.http.get(f"/v2/topics/{name}")
    return dict(answer.json()) if answer.status_code == 200 else {}


async def make(server: Running, name: str, *urls: str, **headers: str) -> None:
    answer = await server.http.post(
        f"/v2/topics/{name}/endpoints", json={"endpoints": [{"url": one} for one in urls]}, headers=headers
    )
    assert answer.status_code == 200, answer.text


async def test_a_group_is_made_changed_and_deleted(
    visitor: httpx.AsyncClient, server: Running, receiver: Receiver
) -> None:
    a, b, c = (receiver.url(path) for path in ("/a", "/b", "/c"))
    assert "No group yet" in (await visitor.get("/console/groups")).text
    answer = await visitor.post("/console/groups", data={"name": "orders", "endpoints": f"{a}\r\nsecond {b}\r\n"})
    page = await said(visitor, answer)
    assert ("The group orders is there." in page, "/console/send?group=orders" in page) == (True, True)
    assert (await group(server, "orders"))["endpoints"] == [{"url": a}, {"url": b, "name": "second"}]

    await visitor.post("/console/groups/orders/add", data={"endpoints": c})
    headers = "Upstash-Retries: 0\r\nUpstash-Forward-X-Source: orders"
    assert "The headers are set" in await said(
        visitor, await visitor.post("/console/groups/orders/headers", data={"headers": headers})
    )
    assert "Removed" in await said(visitor, await visitor.post("/console/groups/orders/remove", data={"url": b}))
    await server.http.post("/v2/publish/orders", content=b"hello")
    assert (await receiver.next_request("/a")).header("X-Source") == "orders"
    assert (await receiver.next_request("/c")).body == b"hello"
    assert len((await group(server, "orders"))["endpoints"]) == 2

    page = (await visitor.get("/console/groups", params={"search": "/C"})).text
    assert ("orders" in page, c.removeprefix("http://").partition("/")[0] in page) == (True, True)
    assert "The group orders is deleted" in await said(visitor, await visitor.post("/console/groups/orders/delete"))
    assert await group(server, "orders") == {}


async def test_the_last_endpoint_takes_the_group_along(
    visitor: httpx.AsyncClient, server: Running, receiver: Receiver
) -> None:
    await make(server, "small", receiver.url("/x"))
    assert "It is the last one, so the group is deleted." in (await visitor.get("/console/groups/small")).text
    answer = await visitor.post("/console/groups/small/remove", data={"url": receiver.url("/x")})
    assert answer.headers["location"] == "/console/groups"
    assert "the group small is deleted" in await said(visitor, answer)


@pytest.mark.parametrize(
    ("path", "data", "words"),
    [
        ("", {"name": "a b", "endpoints": "http://127.0.0.1/x"}, "letters, digits"),
        ("", {"name": "g", "endpoints": "ftp://x"}, "ftp://x"),
        ("", {"name": "g", "endpoints": "one two three"}, "one two three: expected a URL, or a name and a URL"),
        ("/known/add", {"endpoints": "nowhere"}, "nowhere"),
        ("/known/headers", {"headers": "X-Own: 1"}, "X-Own"),
        ("/known/headers", {"headers": "no colon"}, "no colon: expected a name, a colon and a value"),
    ],
)
async def test_what_is_wrong_is_said_and_stays_typed(
    visitor: httpx.AsyncClient, server: Running, receiver: Receiver, path: str, data: dict[str, str], words: str
) -> None:
    await make(server, "known", receiver.url("/x"))
    page = await visitor.post(f"/console/groups{path}", data=data)
    assert (page.status_code, words in page.text) == (400, True), page.text
    assert all(value in page.text for value in data.values())


async def test_a_reader_sees_no_buttons_and_is_refused(
    reader: httpx.AsyncClient, counter: httpx.AsyncClient, server: Running, receiver: Receiver
) -> None:
    await make(server, "orders", receiver.url("/x"))
    await server.http.patch("/v2/topics/orders", json={"headers": {"Upstash-Forward-X-Secret": "canary"}})
    for path in ("/console/groups", "/console/groups/orders"):
        page = (await reader.get(path)).text
        assert ("orders" in page, 'method="post" action="/console/groups' in page) == (True, False)
    assert "canary" in (await reader.get("/console/groups/orders")).text
    veiled = (await counter.get("/console/groups/orders")).text
    assert ("canary" in veiled, "hidden from this token" in veiled) == (False, True)
    for verb, data in (
        ("add", {"endpoints": receiver.url("/y")}),
        ("remove", {"url": receiver.url("/x")}),
        ("headers", {"headers": ""}),
        ("delete", {}),
    ):
        answer = await reader.post(f"/console/groups/orders/{verb}", data=data)
        text = await said(reader, answer)
        assert "this token is read-only and may not do this" in text, verb
    assert len((await group(server, "orders"))["endpoints"]) == 1


async def test_what_is_anothers_is_not_found(visitor: httpx.AsyncClient, server: Running, receiver: Receiver) -> None:
    await make(server, "theirs", receiver.url("/x"), Authorization=f"Bearer {dev.DEV_USERS[1].token}")
    assert (await visitor.get("/console/groups/theirs")).status_code == 404
    assert "theirs" not in (await visitor.get("/console/groups")).text
    answer = await visitor.post("/console/groups/theirs/remove", data={"url": receiver.url("/x")})
    assert "not found" in await said(visitor, answer)


async def test_nothing_that_is_shown_is_taken_for_markup(
    visitor: httpx.AsyncClient, server: Running, receiver: Receiver
) -> None:
    url = receiver.url("/x?q=%22'<b>&y=")
    answer = await server.http.post("/v2/topics/g/endpoints", json={"endpoints": [{"url": url, "name": XSS}]})
    if answer.status_code != 200:
        await make(server, "g", receiver.url("/x"))
    await server.http.patch("/v2/topics/g", json={"headers": {"Upstash-Forward-X": XSS}})
    pages = [(await visitor.get(path)).text for path in ("/console/groups", "/console/groups/g")]
    pages.append((await visitor.post("/console/groups", data={"name": XSS, "endpoints": XSS})).text)
    pages.append((await visitor.post("/console/groups/g/headers", data={"headers": XSS})).text)
    assert "&lt;script&gt;" in pages[1]
    for page in pages:
        assert "<script>alert" not in page
        assert "<img src=x" not in page
        assert "<b>" not in page
