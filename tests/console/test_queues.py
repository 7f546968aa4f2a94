"""The pages of queues: the list, one with its first messages, and what can be done with it."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest

from postroad.dev import DEV_USERS
from postroad.store.engine import Connection
from tests.conftest import Running
from tests.console.conftest import XSS, said
from tests.receiver import Receiver

URL = "http://127.0.0.1:9/x"


async def make(
    server: Running, name: str = "line", *, paused: bool = True, waiting: int = 0, at_a_time: int = 1
) -> list[str]:
    """A queue with messages in it, by their ids."""
    document = {"queueName": name, "parallelism": at_a_time, "paused": paused}
    assert (await server.http.post("/v2/queues", json=document)).status_code == 200
    answers = [await server.http.post(f"/v2/enqueue/{name}/{URL}/{number}") for number in range(waiting)]
    return [answer.json()["messageId"] for answer in answers]


async def queue(server: Running, name: str = "line") -> dict[str, Any]:
    found: dict[str, Any] = (await server.http.get(f"/v2/queues/{name}")).json()
    return found


async def test_the_list_shows_what_waits(visitor: httpx.AsyncClient, server: Running) -> None:
    await make(server, "mails", waiting=3)
    await make(server, "images", paused=False, at_a_time=4)

    page = (await visitor.get("/console/queues")).text

    assert re.findall(r'<tr data-key="([^"]+)"', page) == ["images", "mails"]
    [images, mails] = re.findall(r"<tr data-key.*?</tr>", page, re.DOTALL)
    assert re.findall(r'class="number"[^>]*>(\d+)<', mails) == ["1", "3", "0"]
    assert re.findall(r'class="number"[^>]*>(\d+)<', images) == ["4", "0", "0"]
    assert ("paused" in mails, "/mails/resume" in mails) == (True, True)
    assert ("running" in images, "/images/pause" in images) == (True, True)
    rows = await visitor.get("/console/queues/-/rows", params={"ids": "mails,none"})
    assert re.findall(r'<tr data-key="([^"]+)"', rows.text) == ["mails"]


async def test_the_first_messages_stand_in_their_order_with_their_places(
    visitor: httpx.AsyncClient, server: Running
) -> None:
    ids = await make(server, waiting=52)
    later = await server.publish(URL, Upstash_Queue_Name="line", Upstash_Delay="1h")

    page = (await visitor.get("/console/queues/line")).text

    assert re.findall(r'data-name="Place">(\d+)<', page) == [str(place) for place in range(1, 51)]
    assert re.findall(r'href="/console/messages/(msg_\w+)"', page) == ids[:50]
    assert later not in page
    assert "The first 50 of 53" in page
    assert "which is paused" in page


async def test_a_queue_is_paused_from_the_list_and_goes_on_in_order(
    visitor: httpx.AsyncClient, server: Running, receiver: Receiver, connection: Connection
) -> None:
    await make(server, paused=False)
    back = {"back": "/console/queues"}

    paused = await visitor.post("/console/queues/line/pause", data=back)
    assert paused.headers["location"] == "/console/queues"
    assert "line is paused" in await said(visitor, paused)
    for number in range(3):
        await server.http.post(f"/v2/enqueue/line/{receiver.url('/q')}", content=str(number))
    assert (await queue(server))["lag"] == 3
    assert receiver.requests() == []
    await visitor.post("/console/queues/line/resume", data=back)

    assert [(await receiver.next_request("/q")).body for _ in range(3)] == [b"0", b"1", b"2"]
    actions = await connection.fetch("select action, target from audit_entries order by id")
    assert [tuple(row) for row in actions] == [("pause a queue", "line"), ("resume a queue", "line")]


async def test_another_parallelism_leaves_the_pause(visitor: httpx.AsyncClient, server: Running) -> None:
    await make(server, waiting=2)

    changed = await visitor.post("/console/queues/line/parallelism", data={"parallelism": "7"})

    assert "It lets 7 go at a time." in await said(visitor, changed)
    assert ((await queue(server))["parallelism"], (await queue(server))["paused"]) == (7, True)
    for wrong in ("0", "many", "", "9" * 400, "1.5"):
        refused = await visitor.post("/console/queues/line/parallelism", data={"parallelism": wrong})
        assert "arallelism" in await said(visitor, refused)
    assert (await queue(server))["parallelism"] == 7


async def test_a_queue_is_made_once(visitor: httpx.AsyncClient, server: Running) -> None:
    made = await visitor.post("/console/queues", data={"name": "new", "parallelism": "3"})

    assert "It is made." in await said(visitor, made)
    assert (await queue(server, "new"))["parallelism"] == 3
    for name, words in (
        ("new", "there is a queue new already"),
        ("a b", "queueName"),
        ("", "queueName"),
        (XSS, "queueName"),
    ):
        again = await visitor.post("/console/queues", data={"name": name, "parallelism": "5"})
        assert (again.status_code, words in again.text) == (400, True)
        assert "<script>alert" not in again.text
    assert [one["name"] for one in (await server.http.get("/v2/queues")).json()] == ["new"]
    assert (await queue(server, "new"))["parallelism"] == 3


async def test_a_queue_is_deleted_with_what_waits_in_it(visitor: httpx.AsyncClient, server: Running) -> None:
    [first, _] = await make(server, waiting=2)
    assert "The 2 messages that have not ended in it are canceled" in (await visitor.get("/console/queues/line")).text

    assert "line is deleted" in await said(visitor, await visitor.post("/console/queues/line/delete"))

    assert await server.settled(first, "CANCELED")
    assert (await visitor.get("/console/queues/line")).status_code == 404


@pytest.mark.parametrize("name", ["-", "rows", "live", "..."])
async def test_a_queue_of_any_name_has_its_page(visitor: httpx.AsyncClient, server: Running, name: str) -> None:
    await make(server, name)

    assert f'<span class="id">{name}</span>' in (await visitor.get(f"/console/queues/{name}")).text


async def test_a_reader_looks_and_changes_nothing(
    reader: httpx.AsyncClient, counter: httpx.AsyncClient, server: Running
) -> None:
    await make(server, waiting=1)
    before = await queue(server)
    for client in (reader, counter):
        for path in ("", "/line", "/line/live"):
            page = await client.get(f"/console/queues{path}")
            assert page.status_code == 200
            for word in ("Delete", "/resume", "New queue", "Set<"):
                assert word not in page.text
        for path in ("", "/line/resume", "/line/delete", "/line/parallelism"):
            form = {"name": "other", "parallelism": "2"}
            answer = await client.post(f"/console/queues{path}", data=form, follow_redirects=True)
            assert "may not do this" in answer.text
    assert await queue(server) == before


async def test_another_tenants_queue_is_not_found(visitor: httpx.AsyncClient, server: Running) -> None:
    stranger = {"Authorization": f"Bearer {DEV_USERS[1].token}"}
    await server.http.post("/v2/queues", json={"queueName": "theirs", "parallelism": 2}, headers=stranger)

    assert "theirs" not in (await visitor.get("/console/queues")).text
    for path in ("theirs", "theirs/live"):
        assert (await visitor.get(f"/console/queues/{path}")).status_code == 404
    for path in ("pause", "resume", "parallelism"):
        answer = await visitor.post(f"/console/queues/theirs/{path}", data={"parallelism": "1"})
        assert "not found" in await said(visitor, answer)
    await visitor.post("/console/queues/theirs/delete")
    still = (await server.http.get("/v2/queues/theirs", headers=stranger)).json()
    assert (still["parallelism"], still["paused"]) == (2, False)


async def test_hostile_texts_are_shown_as_texts(visitor: httpx.AsyncClient, server: Running) -> None:
    await make(server)
    await server.publish(f"{URL}?<script>alert(1)</script>", Upstash_Queue_Name="line", Upstash_Label=XSS)

    page = await visitor.get("/console/queues/line")

    assert "img src=x" in page.text
    assert "<img src=x" not in page.text
    assert "<script>alert" not in page.text
