"""The audit log: who did what in the console, and what came of it."""

from __future__ import annotations

import re
from html import unescape

import httpx

from postroad.domain.tenant import TenantId
from postroad.store import audits
from postroad.store.engine import Connection
from tests.conftest import Running
from tests.console.conftest import XSS
from tests.receiver import Receiver


async def note(connection: Connection, *, tenant: int = 1, action: str = "pause", target: str = "t") -> None:
    await audits.add(connection, TenantId(tenant), actor="somebody", action=action, target=target, outcome="done")


async def test_the_newest_stand_first_and_pages_follow_each_other(
    visitor: httpx.AsyncClient, connection: Connection
) -> None:
    assert "Nothing yet" in (await visitor.get("/console/audit")).text
    for number in range(60):
        await note(connection, target=f"queue-{number:02}")

    first = await visitor.get("/console/audit")
    older = re.search(r'class="button" href="([^"]+)">Older', first.text)
    assert older is not None
    second = await visitor.get(unescape(older[1]))
    seen = re.findall(r"queue-\d\d", first.text + second.text)
    assert seen == [f"queue-{number:02}" for number in reversed(range(60))]
    assert ">Older" not in second.text


async def test_an_entry_says_who_what_with_what_and_what_came_of_it(
    visitor: httpx.AsyncClient, server: Running
) -> None:
    message = await server.publish("http://127.0.0.1:9/x", Upstash_Delay="1h")
    await visitor.post(f"/console/messages/{message}/cancel")
    page = (await visitor.get("/console/audit")).text
    for words in ("cancel a message", f'href="/console/messages/{message}"', "(token …", "done", "<time datetime"):
        assert words in page, words


async def test_words_find_entries(reader: httpx.AsyncClient, connection: Connection) -> None:
    await note(connection, action="delete a queue", target="Emails")
    await note(connection, action="pause a queue", target="orders")

    async def found(q: str) -> list[str]:
        return re.findall("Emails|orders", (await reader.get("/console/audit", params={"q": q})).text)

    assert await found("EMAILS") == await found("delete a") == ["Emails"]
    assert await found("somebody") == ["orders", "Emails"]
    assert await found("%") == await found("nobody") == []


async def test_a_tenant_sees_its_own_and_nothing_as_markup(visitor: httpx.AsyncClient, connection: Connection) -> None:
    await note(connection, tenant=2, target="theirs")
    await audits.add(connection, TenantId(1), actor=XSS, action=XSS, target=XSS, outcome=XSS)
    for q in ("", XSS):
        page = (await visitor.get("/console/audit", params={"q": q})).text
        assert "theirs" not in page
        assert "&lt;script&gt;alert" in page
        assert "<script>alert" not in page
        assert "<img src=x" not in page


async def test_what_is_sent_is_written_down(visitor: httpx.AsyncClient, receiver: Receiver) -> None:
    await visitor.post("/console/send", data={"kind": "publish", "destination": receiver.url("/sent"), "body": "x"})
    await visitor.post("/console/send", data={"kind": "publish", "destination": "ftp://nowhere", "body": "x"})

    page = (await visitor.get("/console/audit")).text
    assert "ftp://nowhere" in page
    assert receiver.url("/sent") in page
    assert "refused: " in page
