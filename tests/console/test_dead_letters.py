"""The pages of dead letters: groups, the list with its filters, one of them, and what is done with one or with many."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

import httpx
import pytest

from postroad import dev
from postroad.domain.tenant import TenantId
from postroad.store import dead_letter_groups, tokens
from postroad.store.dead_letter_groups import Wanted
from postroad.store.engine import Connection, Database
from postroad.store.filters import Filters
from tests.conftest import TOKEN, Running, eventually, running
from tests.console.conftest import XSS, SignIn, said
from tests.moods import ok, status
from tests.receiver import Receiver
from tests.security.test_tokens import a_token, id_of

ONE = TenantId(1)
ONCE = {"Upstash-Retries": "0"}
NOBODY = "http://127.0.0.1:9/gone"


async def buried(server: Running, destinations: list[str], **headers: str) -> list[dict[str, Any]]:
    """Publish these, have them fail for good, and give the dead letters, the oldest first."""
    fields = ONCE | {name.replace("_", "-"): value for name, value in headers.items()}
    before = len(await server.dead_letters())
    for destination in destinations:
        answer = await server.http.post(f"/v2/publish/{destination}", content=b"body", headers=fields)
        assert answer.is_success, answer.text
    expected = min(before + len(destinations), 100)
    return list(reversed(await eventually(server.dead_letters, lambda letters: len(letters) == expected)))


def listed(page: httpx.Response) -> list[str]:
    """The dead letters in the list."""
    assert page.status_code == 200, page.text
    return re.findall(r'name="dlqIds" value="([\d-]+)"', page.text)


def groups(page: httpx.Response) -> dict[str, int]:
    """The filters that the groups lead to, with the count of each."""
    rows = re.findall(r'<th scope="row"><a href="([^"]+)">.*?data-name="Letters">([\d,]+)<', page.text, re.DOTALL)
    filters = {httpx.URL(unescape(href)).params["q"]: int(count.replace(",", "")) for href, count in rows}
    assert len(filters) == len(rows)
    return filters


def hidden(page: httpx.Response) -> dict[str, Any]:
    """The form that a question is answered with, as a browser would send it."""
    fields: dict[str, Any] = {}
    for name, value in re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', page.text):
        fields.setdefault(name, []).append(unescape(value))
    return fields


async def asked(visitor: httpx.AsyncClient, kind: str, **params: Any) -> httpx.Response:
    page = await visitor.get("/console/dlq/bulk", params={"do": kind, **params})
    assert page.status_code == 200, page.text
    return page


async def test_groups_lead_to_what_is_in_them(visitor: httpx.AsyncClient, server: Running, receiver: Receiver) -> None:
    receiver.script("/500", status(500))
    receiver.script("/404", status(404))
    bad, gone = receiver.url("/500"), NOBODY
    named = receiver.url("/404", host="localhost")
    await buried(server, [bad, bad, receiver.url("/404"), named, gone], Upstash_Label="one")
    await buried(server, [bad], Upstash_Label="two words")

    here = receiver.url("").removeprefix("http://")
    found = groups(await visitor.get("/console/dlq"))
    assert found == {
        f"host={here} responseStatus=500": 3,
        f"host={here} responseStatus=404": 1,
        'host=127.0.0.1:9 reason="connection refused: *"': 1,
        f"host=localhost:{receiver.port} responseStatus=404": 1,
    }
    for q, count in found.items():
        assert len(listed(await visitor.get("/console/dlq", params={"q": q}))) == count, q
    narrower = groups(await visitor.get("/console/dlq", params={"q": "label=one host=127.0.0.1 host=localhost"}))
    assert narrower[f"label=one host={here} responseStatus=500"] == 2
    assert sum(narrower.values()) == 5
    assert groups(await visitor.get("/console/dlq", params={"q": "responseStatus=404 host=LOCALHOST"})) == {}
    assert "This retries <strong>1 dead letter</strong>" in (await asked(visitor, "retry", q="host=localhost")).text


async def test_the_filter_is_that_of_the_api_and_more(
    visitor: httpx.AsyncClient, server: Running, receiver: Receiver
) -> None:
    receiver.script("/bad", status(503))
    first, second = await buried(server, [receiver.url("/bad"), NOBODY], Upstash_Label="two words")

    async def found(q: str) -> list[str]:
        return listed(await visitor.get("/console/dlq", params={"q": q}))

    by_id = {letter["url"]: letter["dlqId"] for letter in (first, second)}
    answered, refused = by_id[receiver.url("/bad")], by_id[NOBODY]
    assert sorted(await found("")) == sorted([answered, refused])
    assert await found("responseStatus=503") == await found("path=/bad") == await found("/bad") == [answered]
    assert await found("responseStatus=0") == await found("reason=*refused*") == [refused]
    assert await found("responseStatus=503,0 path=/gone") == [refused]
    assert len(await found('label="two words" since=1h host=127.0.0.1')) == 2
    assert len(await found("day=today")) == 2
    assert await found("day=yesterday") == await found("day=2020-02-29") == []
    assert await found("until=1h") == await found("host=elsewhere.example") == await found("reason=100%") == []
    message = next(letter["messageId"] for letter in (first, second) if letter["dlqId"] == answered)
    assert await found(f"messageId={message}") == await found(message) == [answered]
    straight = await visitor.get("/console/dlq", params={"q": f" {answered} "})
    assert (straight.status_code, straight.headers["location"]) == (303, f"/console/dlq/{answered}")


@pytest.mark.parametrize(
    ("q", "words"),
    [
        ("color=red", "color is no filter: expected one of"),
        ("state=FAILED", "state is no filter"),
        ("ACTIVE", "cannot be filtered by state"),
        ("responseStatus=many", "responseStatus=many: expected an HTTP status"),
        ("since=yesterday", "since=yesterday: expected"),
        ("day=someday", "day=someday: expected a date"),
        ("day=1969-12-31", "day=1969-12-31: expected a date"),
        (XSS, "is no filter"),
    ],
)
async def test_a_filter_that_is_wrong_is_said_to_be(visitor: httpx.AsyncClient, q: str, words: str) -> None:
    page = await visitor.get("/console/dlq", params={"q": q})
    assert (page.status_code, words in page.text) == (200, True)
    assert "<script>alert" not in page.text

    for kind in ("retry", "delete"):
        assert words in await said(visitor, await visitor.post(f"/console/dlq/{kind}", data={"q": q, "now": "1"}))


async def test_pages_follow_each_other(visitor: httpx.AsyncClient, server: Running) -> None:
    await buried(server, [NOBODY] * 60)
    for q in ("", "host=127.0.0.1"):
        first = await visitor.get("/console/dlq", params={"q": q})
        older = re.search(r'class="button" href="([^"]+)">Older', first.text)
        assert older is not None
        second = await visitor.get(unescape(older[1]))
        assert (len(listed(first)), len(set(listed(first) + listed(second)))) == (50, 60)
        assert ">Older" not in second.text


async def test_no_more_is_looked_at_than_a_bound(server: Running, receiver: Receiver, database: Database) -> None:
    receiver.script("/rare", status(500))
    await buried(server, [receiver.url("/rare", host="localhost")])
    await buried(server, [NOBODY] * 4)
    rare = Wanted(Filters(values={"host": ("localhost",)}))

    async with database.reading(ONE) as behind:
        newest = await dead_letter_groups.grouped(behind, ONE, Wanted(), look=4)
        nothing, before = await dead_letter_groups.page(behind, ONE, rare, before=None, limit=10, look=4)
        found, end = await dead_letter_groups.page(behind, ONE, rare, before=before, limit=10, look=4)
        some, after = await dead_letter_groups.ids(behind, ONE, rare, after=0, look=4)
        rest, over = await dead_letter_groups.ids(behind, ONE, rare, after=after or 0, look=4)

    assert (newest.count, newest.is_bounded, [group.host for group in newest.groups]) == (4, True, ["127.0.0.1:9"])
    assert (nothing, [line.status for line in found], end) == ([], [500], None)
    assert ([number for number, _ in some], rest, over) == ([found[0].number], [], None)


async def test_a_dead_letter_says_why_and_can_be_retried(
    visitor: httpx.AsyncClient, server: Running, receiver: Receiver
) -> None:
    receiver.script("/bad", status(500, b'{"error": "no stock"}', [("X-Answer", "4711")]), ok())
    (letter,) = await buried(server, [receiver.url("/bad")], Upstash_Label="orders")

    page = await visitor.get(f"/console/dlq/{letter['dlqId']}")
    again = f"/console/send?again={letter['messageId']}&amp;dlq={letter['dlqId']}"
    for words in ("no stock", "4711", "The destination answered 500.", "body", "orders", again, letter["messageId"]):
        assert words in page.text, words

    answer = await visitor.post("/console/dlq/retry", data={"dlqIds": letter["dlqId"]})
    assert "It is on its way again" in await said(visitor, answer)
    await server.settled(answer.headers["location"].rpartition("/")[2])
    assert len(receiver.requests("/bad")) == 2
    assert await server.dead_letters() == []
    answer = await visitor.post("/console/dlq/retry", data={"dlqIds": letter["dlqId"]})
    assert "not found" in await said(visitor, answer)


async def test_what_is_refused_stays_and_it_is_said_why(
    visitor: httpx.AsyncClient, server: Running, connection: Connection
) -> None:
    letter, _ = await buried(server, [NOBODY, NOBODY])
    await connection.execute("update tenants set destinations = 'public'")
    refused = await eventually(
        lambda: visitor.post("/console/dlq/retry", data={"dlqIds": letter["dlqId"]}),
        lambda answer: answer.headers["location"] == f"/console/dlq/{letter['dlqId']}",
    )
    assert "invalid destination" in await said(visitor, refused)

    left = await said(visitor, await visitor.post("/console/dlq/retry", data={"q": "", "now": "", "rate": ""}))
    assert "invalid destination" in left
    assert "What is left is in the dead letters still." in left


async def test_ticked_ones_are_asked_about_and_retried(
    visitor: httpx.AsyncClient, server: Running, receiver: Receiver
) -> None:
    receiver.script("/bad", *[status(500)] * 3, ok())
    letters = await buried(server, [receiver.url("/bad")] * 3)
    ids = [letter["dlqId"] for letter in letters]

    page = await asked(visitor, "retry", dlqIds=ids[:2])
    assert "This retries <strong>2 dead letters</strong>" in page.text
    assert f"to <strong>127.0.0.1:{receiver.port}</strong>" in page.text
    answer = await visitor.post("/console/dlq/retry", data={**hidden(page), "rate": ""})
    assert "2 dead letters are on the way again." in await said(visitor, answer)
    assert [letter["dlqId"] for letter in await server.dead_letters()] == ids[2:]
    await receiver.wait_for(5, "/bad")


@pytest.mark.parametrize("kind", ["retry", "delete"])
async def test_nothing_that_is_ticked_never_means_everything(
    visitor: httpx.AsyncClient, server: Running, kind: str
) -> None:
    await buried(server, [NOBODY])
    asked = await visitor.get("/console/dlq/bulk", params={"do": kind})
    assert "Nothing is ticked" in await said(visitor, asked)
    done = await visitor.post(f"/console/dlq/{kind}", data={"now": "1", "rate": ""})
    assert "Nothing is ticked" in await said(visitor, done)
    assert len(await server.dead_letters()) == 1


async def test_all_that_match_are_counted_and_deleted(
    visitor: httpx.AsyncClient, server: Running, receiver: Receiver
) -> None:
    receiver.script("/bad", status(500))
    await buried(server, [receiver.url("/bad"), *[NOBODY] * 3])

    page = await asked(visitor, "delete", q="reason=*refused*")
    assert "This deletes <strong>3 dead letters</strong>" in page.text
    later = (await buried(server, [NOBODY]))[-1]
    answer = await visitor.post("/console/dlq/delete", data=hidden(page))
    assert "3 dead letters are deleted." in await said(visitor, answer)
    assert {letter["url"] for letter in await server.dead_letters()} == {receiver.url("/bad"), NOBODY}
    assert later["dlqId"] in [letter["dlqId"] for letter in await server.dead_letters()]
    assert "Nothing matches" in await said(visitor, await visitor.get("/console/dlq/bulk?do=delete&q=label=none"))


async def test_a_throttled_retry_can_be_looked_at_and_stopped(
    visitor: httpx.AsyncClient, reader: httpx.AsyncClient, server: Running, receiver: Receiver
) -> None:
    receiver.script("/bad", *[status(500)] * 12, ok())
    await buried(server, [receiver.url("/bad")] * 12)

    page = await asked(visitor, "retry", q="")
    answer = await visitor.post("/console/dlq/retry", data={**hidden(page), "rate": "1"})
    where = answer.headers["location"]
    assert where.startswith("/console/dlq/runs/")
    assert "of 12" in (await visitor.get(where)).text
    assert "Look, or stop it" in (await visitor.get("/console/dlq")).text
    assert 'action="/console/dlq/runs' not in (await reader.get(where)).text
    assert "may look at dead letters" in await said(reader, await reader.post(f"{where}/stop"))

    again = (await receiver.wait_for(15, "/bad"))[12:]
    assert again[2].arrived_at - again[0].arrived_at > 1.5

    assert "It stops" in await said(visitor, await visitor.post(f"{where}/stop"))
    live = await eventually(lambda: visitor.get(f"{where}/live"), lambda page: "Ended" in page.text)
    retried = int(re.search(r"<dt>Retried</dt><dd>(\d+)<", live.text)[1])  # type: ignore[index]
    assert 0 < retried < 12
    assert len(await server.dead_letters()) == 12 - retried
    assert "It had ended already." in await said(visitor, await visitor.post(f"{where}/stop"))
    audit = (await visitor.get("/console/audit")).text
    for words in ("retry dead letters", "begun: 12, 1 a second", f"stopped: {retried} retried", "stop to retry"):
        assert words in audit, words


async def test_a_moment_without_the_database_makes_it_wait_and_not_give_up(
    visitor: httpx.AsyncClient, server: Running, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await buried(server, [NOBODY] * 3)
    inside = server.node._console_runs._inside
    door, answers = inside._door, iter([503, 429])

    async def troubled(scope: Any, receive: Any, send: Any) -> None:
        if (code := next(answers, None)) is None:
            await door(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": code, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    monkeypatch.setattr(inside, "_door", troubled)
    await visitor.post("/console/dlq/delete", data={"q": "", "now": ""})
    run = await eventually(
        lambda: connection.fetchrow("select outcome, done from dead_letter_runs"),
        lambda run: run["outcome"] is not None,
    )
    assert tuple(run) == ("done", 3)


async def test_a_server_that_stops_says_what_it_broke_off(database_url: str, connection: Connection) -> None:
    async with running(database_url) as server:
        await buried(server, [NOBODY] * 20)
        async with httpx.AsyncClient(base_url=server.url, headers={"Sec-Fetch-Site": "same-origin"}) as visitor:
            await visitor.post("/console/login", data={"secret": TOKEN})
            await visitor.post("/console/dlq/retry", data={"q": "", "now": "", "rate": "1"})

    run = await connection.fetchrow("select outcome, done from dead_letter_runs")
    assert run is not None
    assert run["outcome"] == "broken off: the server stopped"
    assert run["done"] < 20


async def test_a_run_ends_with_the_token_that_began_it(
    visitor: httpx.AsyncClient, sign_in: SignIn, server: Running, connection: Connection
) -> None:
    token = await a_token(connection)
    brief = await sign_in(token)
    await buried(server, [NOBODY] * 20)
    answer = await brief.post("/console/dlq/retry", data={"q": "", "now": "", "rate": "1"})
    where = answer.headers["location"]

    await tokens.revoke(connection, await id_of(connection, token))

    live = await eventually(lambda: visitor.get(f"{where}/live"), lambda page: "Ended" in page.text)
    assert "the token that began it is not valid any more" in live.text
    assert len(await server.dead_letters()) > 10


async def test_a_run_whose_process_has_died_says_so(visitor: httpx.AsyncClient, connection: Connection) -> None:
    run_id = await connection.fetchval(
        """
        insert into dead_letter_runs (tenant_id, actor, kind, q, total, done, seen_at)
        values (1, 'somebody', 'retry', 'host=x.example', 9, 4, now() - interval '1 minute') returning id
        """
    )
    page = (await visitor.get(f"/console/dlq/runs/{run_id}")).text
    for words in ("Broken off", "4 of 9", "has died", "What is left is in the dead letters still.", "host%3Dx.example"):
        assert words in page, words
    assert "Stop</button>" not in page


async def test_a_reader_sees_no_buttons_and_is_refused(
    reader: httpx.AsyncClient, server: Running, receiver: Receiver
) -> None:
    receiver.script("/bad", status(500, b"canary-answer"))
    (letter,) = await buried(server, [receiver.url("/bad")])
    pages = [(await reader.get(path)).text for path in ("/console/dlq", f"/console/dlq/{letter['dlqId']}")]
    assert "canary-answer" in pages[1]
    for page in pages:
        assert 'method="post" action="/console/dlq' not in page
        assert "/console/dlq/bulk?" not in page
    for kind in ("retry", "delete"):
        assert (await reader.get("/console/dlq/bulk", params={"do": kind, "q": ""})).status_code == 403
        for data, words in (({"dlqIds": letter["dlqId"]}, "read-only"), ({"q": "", "now": ""}, "your token may look")):
            assert words in await said(reader, await reader.post(f"/console/dlq/{kind}", data=data))
    assert len(await server.dead_letters()) == 1


async def test_a_counter_sees_no_payloads(counter: httpx.AsyncClient, server: Running, receiver: Receiver) -> None:
    receiver.script("/bad", status(500, b"canary-answer", [("X-Canary", "canary-header")]))
    (letter,) = await buried(server, [receiver.url("/bad")], Upstash_Forward_X="canary-sent")
    page = (await counter.get(f"/console/dlq/{letter['dlqId']}")).text
    assert "hidden from this token" in page
    assert "canary" not in page.replace("X-Canary", "canary")
    assert "canary" not in (await counter.get("/console/dlq")).text


async def test_what_is_anothers_is_not_found(
    visitor: httpx.AsyncClient, server: Running, connection: Connection
) -> None:
    other = {"Authorization": f"Bearer {dev.DEV_USERS[1].token}"}
    await server.http.post(f"/v2/publish/{NOBODY}", headers={**other, **ONCE})

    async def theirs() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await server.http.get("/v2/dlq", headers=other)).json()["messages"]
        return found

    (letter,) = await eventually(theirs, lambda letters: len(letters) == 1)
    run_id = await connection.fetchval(
        "insert into dead_letter_runs (tenant_id, actor, kind, q, total) values (2, 'x', 'retry', '', 1) returning id"
    )
    assert listed(await visitor.get("/console/dlq")) == []
    assert (await visitor.get(f"/console/dlq/{letter['dlqId']}")).status_code == 404
    for path in (f"/console/dlq/runs/{run_id}", f"/console/dlq/runs/{run_id}/live", "/console/dlq/runs/x"):
        assert (await visitor.get(path)).status_code == 404
    for kind in ("retry", "delete"):
        for now in ({}, {"now": ""}):
            answer = await visitor.post(f"/console/dlq/{kind}", data={"dlqIds": letter["dlqId"], **now})
            assert re.search("not found|Nothing matches", await said(visitor, answer))
    assert "was not found" in await said(visitor, await visitor.post(f"/console/dlq/runs/{run_id}/stop"))
    assert len(await theirs()) == 1


async def test_nothing_that_is_shown_is_taken_for_markup(
    visitor: httpx.AsyncClient, server: Running, receiver: Receiver, connection: Connection
) -> None:
    receiver.script("/bad", status(500, XSS.encode(), [("X-Answer", XSS)]))
    letter, _ = await buried(
        server, [receiver.url("/bad"), NOBODY], Upstash_Label=XSS.replace(",", ""), Upstash_Forward_X=XSS
    )
    await connection.execute("update dead_letters set reason = $1 where status is null", XSS)
    await connection.execute("update messages set url_group = $1", XSS)
    run_id = await connection.fetchval(
        """
        insert into dead_letter_runs (tenant_id, actor, kind, q, total, why, outcome)
        values (1, $1, 'retry', $1, 1, $1, $1) returning id
        """,
        XSS,
    )
    await connection.execute("update dead_letter_runs set outcome = $1", XSS)
    found = groups(await visitor.get("/console/dlq"))
    assert len(found) == 2
    for path, params in [
        ("/console/dlq", {}),
        *(("/console/dlq", {"q": q}) for q in found),
        *(("/console/dlq/bulk", {"do": "retry", "q": q}) for q in found),
        (f"/console/dlq/{letter['dlqId']}", {}),
        (f"/console/dlq/runs/{run_id}", {}),
    ]:
        page = await visitor.get(path, params=params)
        assert page.status_code == 200
        assert "<script>alert" not in page.text
        assert "<img src=x" not in page.text
    for q, count in found.items():
        assert len(listed(await visitor.get("/console/dlq", params={"q": q}))) == count
