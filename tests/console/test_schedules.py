"""The pages of schedules: the list, one with its runs, and what can be done with it."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

import httpx
import orjson
import pytest

from postroad.dev import DEV_USERS
from postroad.store.engine import Connection
from tests.conftest import Running
from tests.console.conftest import XSS, said
from tests.receiver import Receiver

WEEKDAYS = "CRON_TZ=Europe/Berlin 0 9 * * MON-FRI"
RICH = {
    "Content-Type": "application/json",
    "Upstash-Method": "PUT",
    "Upstash-Retries": "7",
    "Upstash-Timeout": "20s",
    "Upstash-Label": "one,two",
    "Upstash-Redact-Fields": "header[X-Secret]",
    "Upstash-Forward-X-Secret": "hush",
    "Upstash-Forward-X-Open": "seen",
    "Upstash-Flow-Control-Key": "key",
    "Upstash-Flow-Control-Value": "parallelism=2, rate=10, period=1h",
    "Upstash-Callback-Retries": "1",
    "Upstash-Callback-Forward-X-Secret": "hush too",
    "Upstash-Header-Forward": "true",
    "X-Own": "mine",
}


async def make(server: Running, destination: str, schedule_id: str = "s", *, cron: str = WEEKDAYS, **more: Any) -> None:
    headers = {"Upstash-Cron": cron, "Upstash-Schedule-Id": schedule_id, **more.get("headers", {})}
    path = f"/v2/schedules/{destination}"
    answer = await server.http.post(path, headers=headers, content=more.get("content", b""))
    assert answer.status_code == 201, answer.text


async def stored(connection: Connection, schedule_id: str = "s") -> dict[str, Any]:
    row = await connection.fetchrow("select * from schedules where id = $1", schedule_id)
    assert row is not None
    return dict(row)


def ids(page: httpx.Response) -> list[str]:
    assert page.status_code == 200, page.text
    return re.findall(r'<tr data-key="([^"]+)"', page.text)


def form_in(page: httpx.Response) -> dict[str, str]:
    """What a browser would send if the form were saved as it is."""
    assert page.status_code == 200, page.text
    form = page.text[page.text.index('class="schedule-form"') :]
    values = {}
    for tag in re.findall(r"<input\b[^>]*>", form):
        name, value = re.search(r'name="(\w+)"', tag), re.search(r'value="([^"]*)"', tag)
        if name and 'type="checkbox"' not in tag:
            values[name[1]] = unescape(value[1] if value else "")
    for name, text in re.findall(r'<textarea[^>]*name="(\w+)"[^>]*>\n(.*?)</textarea>', form, re.DOTALL):
        values[name] = unescape(text).replace("\r\n", "\n").replace("\n", "\r\n")
    chosen = re.search(r"<option selected>(\w+)", form)
    return values | {"method": chosen[1] if chosen else ""}


async def test_the_list_says_when_in_words_and_can_be_searched(visitor: httpx.AsyncClient, server: Running) -> None:
    await make(server, "http://127.0.0.1:9/report", "daily")
    await make(server, "http://127.0.0.1:9/clean", "cleanup", cron="*/15 * * * *")
    await server.http.post("/v2/schedules/cleanup/pause")

    page = await visitor.get("/console/schedules")

    assert ids(page) == ["cleanup", "daily"]
    assert "every weekday at 09:00, Europe/Berlin" in page.text
    assert [await found(visitor, q=q) for q in ("DAI", "/clean", "berlin", "*/15", "%")] == [
        ["daily"], ["cleanup"], ["daily"], ["cleanup"], [],
    ]  # fmt: skip
    assert await found(visitor, show="paused") == ["cleanup"]
    assert await found(visitor, show="running") == ["daily"]
    rows = await visitor.get("/console/schedules/-/rows", params={"ids": "daily,none"})
    assert ids(rows) == ["daily"]


async def found(visitor: httpx.AsyncClient, **params: str) -> list[str]:
    return ids(await visitor.get("/console/schedules", params=params))


async def test_more_schedules_than_fit_come_page_by_page(visitor: httpx.AsyncClient, server: Running) -> None:
    for number in range(53):
        await make(server, "http://127.0.0.1:9/", f"s{number:02}")

    first = await visitor.get("/console/schedules")
    more = re.search(r'href="([^"]+)">More', first.text)
    assert more is not None
    assert ids(first) + ids(await visitor.get(unescape(more[1]))) == [f"s{number:02}" for number in range(53)]


async def test_a_schedule_shows_its_next_and_last_runs(
    visitor: httpx.AsyncClient, server: Running, receiver: Receiver
) -> None:
    await make(
        server, receiver.url("/s"), content=b'{"a": 1}', headers=RICH | {"Upstash-Callback": receiver.url("/cb")}
    )
    run = await visitor.post("/console/schedules/s/run")
    message = run.headers["location"].rpartition("/")[2]
    await server.settled(message)

    page = (await visitor.get("/console/schedules/s")).text

    assert "Every weekday at 09:00, Europe/Berlin" in page
    assert len(re.findall(r"<td>(?:Mon|Tue|Wed|Thu|Fri) \d{4}-\d\d-\d\d 09:00", page)) == 10
    assert re.search(rf'href="/console/messages/{message}" data-state="delivered"', page)
    assert re.search(r"delivered, \d{4}-\d\d-\d\d [\d:]+ UTC, 1 attempt<", page)
    assert "hush" not in page
    assert "10 in 1h, 2 at a time" in re.sub(r"\s+", " ", page)
    for words in ("Edit", "Delete", "Run now"):
        assert words in page


async def test_a_run_by_hand_is_what_a_tick_sends_and_leaves_the_schedule(
    visitor: httpx.AsyncClient, server: Running, receiver: Receiver, connection: Connection
) -> None:
    await make(server, receiver.url("/s"), content=b"body", headers=RICH | {"Upstash-Callback": receiver.url("/cb")})
    before = await stored(connection)

    assert "was run" in await said(visitor, await visitor.post("/console/schedules/s/run"))

    request = await receiver.next_request("/s")
    assert (request.method, request.body, request.header("X-Secret")) == ("PUT", b"body", "hush")
    assert (await receiver.next_request("/cb")).header("X-Secret") == "hush too"
    assert await stored(connection) == before


async def test_a_form_that_is_saved_as_it_is_changes_nothing(
    visitor: httpx.AsyncClient, server: Running, receiver: Receiver, connection: Connection
) -> None:
    headers = RICH | {"Upstash-Callback": receiver.url("/cb"), "Upstash-Queue-Name": "line"}
    await make(server, receiver.url("/s?a=%2F&b"), content=b"\r\n one\ntwo\r\n", headers=headers)
    before = await stored(connection)
    form = form_in(await visitor.get("/console/schedules/s/edit"))
    assert "hush" not in str(form)

    assert "Nothing was changed." in await said(visitor, await visitor.post("/console/schedules/s/edit", data=form))

    assert await stored(connection) == before


async def test_an_edit_changes_what_was_changed_and_nothing_else(
    visitor: httpx.AsyncClient, server: Running, receiver: Receiver, connection: Connection
) -> None:
    await make(server, receiver.url("/s"), content=b"old", headers=RICH | {"Upstash-Callback": receiver.url("/cb")})
    await server.http.post("/v2/schedules/s/pause")
    before = await stored(connection)
    form = form_in(await visitor.get("/console/schedules/s/edit"))
    form["headers"] = form["headers"].replace("X-Open: seen", "X-Open: other\r\nX-New: 1")
    form["options"] = form["options"].replace("Upstash-Callback-Retries: 1", "Upstash-Callback-Retries: 4")
    form |= {"cron": "30 9 * * *", "retries": "", "method": "PATCH"}

    assert "It is changed." in await said(visitor, await visitor.post("/console/schedules/s/edit", data=form))

    after = await stored(connection)
    assert {name for name in before if before[name] != after[name]} == {"cron", "fields", "next_at", "updated_at"}
    assert after["cron"] == "CRON_TZ=Europe/Berlin 30 9 * * *"
    expected = dict(orjson.loads(before["fields"])) | {
        "upstash-forward-x-open": "other",
        "upstash-forward-x-new": "1",
        "upstash-callback-retries": "4",
        "upstash-method": "PATCH",
    }
    del expected["upstash-retries"]
    assert dict(orjson.loads(after["fields"])) == expected
    audit = await connection.fetchrow("select action, target, outcome from audit_entries order by id desc limit 1")
    assert audit is not None
    assert tuple(audit) == ("change a schedule", "s: cron, headers", "done")


async def test_a_body_that_is_hidden_stays_until_another_one_is_typed(
    visitor: httpx.AsyncClient, server: Running, connection: Connection
) -> None:
    await make(server, "http://127.0.0.1:9/", content=b"hush", headers={"Upstash-Redact-Fields": "body"})
    page = await visitor.get("/console/schedules/s/edit")
    assert "It is redacted." in page.text
    assert "hush" not in page.text

    await visitor.post("/console/schedules/s/edit", data=form_in(page) | {"cron": "0 8 * * *"})
    assert (await stored(connection))["body"] == b"hush"
    page = await visitor.get("/console/schedules/s/edit")
    await visitor.post("/console/schedules/s/edit", data=form_in(page) | {"body": "new"})
    assert (await stored(connection))["body"] == b"new"
    page = await visitor.get("/console/schedules/s/edit")
    await visitor.post("/console/schedules/s/edit", data=form_in(page) | {"no_body": "on"})
    assert (await stored(connection))["body"] is None


async def test_what_others_changed_meanwhile_is_not_overwritten_unseen(
    visitor: httpx.AsyncClient, server: Running, connection: Connection
) -> None:
    await make(server, "http://127.0.0.1:9/")
    form = form_in(await visitor.get("/console/schedules/s/edit")) | {"cron": "0 8 * * *"}
    await server.http.patch("/v2/schedules/s", json={"headers": {"Upstash-Retries": "1"}})

    refused = await visitor.post("/console/schedules/s/edit", data=form)

    assert (refused.status_code, "somebody has changed this schedule" in refused.text) == (400, True)
    assert (await stored(connection))["cron"] == WEEKDAYS


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cron": "0 99 * * *"}, "expected 0 to 23 as the hour"),
        ({"zone": "Mars/Base"}, "an IANA time zone"),
        ({"retries": "many"}, "invalid Upstash-Retries"),
        ({"destination": "ftp://x"}, "destination"),
        ({"headers": "no colon"}, "is no header"),
        ({"options": "Upstash-Retries: 3"}, "Upstash-Retries has a field of its own"),
        ({"headers": "X-A: \u20ac"}, "X-A"),
        ({"cron": XSS}, "expected"),
        ({"destination": XSS}, "destination"),
    ],
)
async def test_what_is_refused_is_shown_again_with_the_words(
    visitor: httpx.AsyncClient, server: Running, connection: Connection, change: dict[str, str], words: str
) -> None:
    await make(server, "http://127.0.0.1:9/")
    before = await stored(connection)
    form = form_in(await visitor.get("/console/schedules/s/edit")) | change
    made = {**form, "id": "new"}

    for path, data in (("s/edit", form), ("-/new", made)):
        refused = await visitor.post(f"/console/schedules/{path}", data=data)
        assert refused.status_code == 400, refused.text
        assert words.lower() in unescape(refused.text).lower()
        assert "<script>alert" not in refused.text
        for value in change.values():
            assert value in unescape(refused.text)

    assert await stored(connection) == before
    assert [one["scheduleId"] for one in (await server.http.get("/v2/schedules")).json()] == ["s"]


async def test_a_new_schedule_is_made_exactly_as_it_was_typed(visitor: httpx.AsyncClient, server: Running) -> None:
    form = form_in(await visitor.get("/console/schedules/-/new"))
    form |= {
        "id": "mine",
        "cron": "0 9 * * MON",
        "zone": "Asia/Tokyo",
        "destination": "http://[::1]:9/a?b=%2F&c=d e#f",
        "body": "x\r\ny",
        "headers": "X-A: 1\r\nX-A: 2",
        "queue": "line",
        "options": "Upstash-Redact-Fields: body",
    }

    assert "It is made." in await said(visitor, await visitor.post("/console/schedules/-/new", data=form))

    shown = (await server.http.get("/v2/schedules/mine")).json()
    assert shown["destination"] == "http://[::1]:9/a?b=%2F&c=d%20e%23f"
    assert shown["cron"] == "CRON_TZ=Asia/Tokyo 0 9 * * MON"
    assert (shown["header"]["X-A"], shown["queueName"]) == (["1", "2"], "line")
    again = await visitor.post("/console/schedules/-/new", data=form | {"cron": "0 1 * * *"})
    assert (again.status_code, "there is a schedule mine already" in again.text) == (400, True)
    assert (await server.http.get("/v2/schedules/mine")).json()["cron"] == "CRON_TZ=Asia/Tokyo 0 9 * * MON"


async def test_the_words_of_what_is_typed_are_those_of_the_server(visitor: httpx.AsyncClient) -> None:
    async def words(cron: str, zone: str = "UTC") -> str:
        return (await visitor.get("/console/schedules/-/words", params={"cron": cron, "zone": zone})).text

    assert "Every weekday at 09:00, Europe/Berlin" in await words("0 9 * * 1-5", "Europe/Berlin")
    assert "Every weekday at 09:00, Asia/Tokyo" in await words("TZ=Asia/Tokyo 0 9 * * 1-5", "Europe/Berlin")
    assert "expected 0 to 59 as the minute" in await words("60 9 * * *")
    assert "expected an IANA time zone" in await words("0 9 * * *", "Mars/Base")
    assert "Say when it fires" in await words("")
    assert "<script>" not in await words(XSS, XSS)


async def test_pause_resume_and_delete(visitor: httpx.AsyncClient, server: Running, connection: Connection) -> None:
    await make(server, "http://127.0.0.1:9/")

    assert "s is paused" in await said(visitor, await visitor.post("/console/schedules/s/pause"))
    assert (await stored(connection))["paused"] is True
    assert "if it were resumed" in (await visitor.get("/console/schedules/s")).text
    back = await visitor.post("/console/schedules/s/resume", data={"back": "/console/schedules"})
    assert back.headers["location"] == "/console/schedules"
    assert (await stored(connection))["paused"] is False
    assert "is deleted" in await said(visitor, await visitor.post("/console/schedules/s/delete"))
    assert (await visitor.get("/console/schedules/s")).status_code == 404
    actions = await connection.fetch("select action from audit_entries order by id")
    assert [row["action"] for row in actions] == ["pause a schedule", "resume a schedule", "delete a schedule"]


async def test_a_reader_looks_and_changes_nothing(
    reader: httpx.AsyncClient, counter: httpx.AsyncClient, server: Running, connection: Connection
) -> None:
    await make(server, "http://127.0.0.1:9/", content=b"a body", headers={"Upstash-Forward-X": "a header"})
    before = await stored(connection)
    for client in (reader, counter):
        for path in ("", "/s", "/s/live"):
            page = await client.get(f"/console/schedules{path}")
            assert page.status_code == 200
            for word in ("Edit", "Delete", "Run now", "New schedule", "/pause"):
                assert word not in page.text
            assert "a body" not in page.text or client is reader
        for path in ("s/edit", "-/new"):
            assert (await client.get(f"/console/schedules/{path}")).status_code == 403
        for path in ("s/edit", "-/new", "s/run", "s/pause", "s/resume", "s/delete"):
            form = {"cron": "* * * * *", "destination": "http://127.0.0.1:9/", "id": "t"}
            answer = await client.post(f"/console/schedules/{path}", data=form, follow_redirects=True)
            assert "may not do this" in answer.text
    assert "hidden from this token" in (await counter.get("/console/schedules/s")).text
    assert await stored(connection) == before
    assert len((await server.http.get("/v2/schedules")).json()) == 1


async def test_another_tenants_schedules_are_not_found(visitor: httpx.AsyncClient, server: Running) -> None:
    stranger = {"Authorization": f"Bearer {DEV_USERS[1].token}", "Upstash-Cron": WEEKDAYS, "Upstash-Schedule-Id": "s"}
    answer = await server.http.post("/v2/schedules/http://127.0.0.1:9/theirs", headers=stranger)
    assert answer.status_code == 201

    assert ids(await visitor.get("/console/schedules")) == []
    assert ids(await visitor.get("/console/schedules/-/rows?ids=s")) == []
    for path in ("s", "s/live", "s/edit"):
        assert (await visitor.get(f"/console/schedules/{path}")).status_code == 404
    for path in ("run", "pause", "resume", "edit"):
        assert "not found" in await said(visitor, await visitor.post(f"/console/schedules/s/{path}"))
    await visitor.post("/console/schedules/s/delete")
    still = await server.http.get("/v2/schedules/s", headers=stranger)
    assert (still.status_code, still.json()["isPaused"]) == (200, False)


async def test_hostile_texts_are_shown_as_texts(visitor: httpx.AsyncClient, server: Running) -> None:
    header = XSS.replace("\n", "")
    headers = {"Upstash-Label": header, "Upstash-Forward-X-Evil": header, "Upstash-Flow-Control-Key": header}
    headers["Upstash-Flow-Control-Value"] = "rate=1"
    await make(server, "http://127.0.0.1:9/<script>alert(1)</script>", content=XSS.encode(), headers=headers)

    for path in (
        "",
        "/s",
        "/s/live",
        "/s/edit",
        "?q=%3Cscript%3Ealert(1)%3C/script%3E",
        "/-/new?destination=%3Cscript%3Ealert(1)",
    ):
        page = await visitor.get(f"/console/schedules{path}")
        assert page.status_code == 200
        assert "<script>alert" not in page.text
        assert "<img src=x" not in page.text
