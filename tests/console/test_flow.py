"""The pages of flow control: how much of each limit is in use, and keys held, limited and let go."""

from __future__ import annotations

import httpx

from postroad import dev
from postroad.store.engine import Connection
from tests.conftest import Running
from tests.console.conftest import XSS, said
from tests.receiver import Receiver

LATER = {"Upstash_Delay": "1h"}
LIMITED = {"Upstash_Flow_Control_Value": "parallelism=2, rate=7, period=1h"}


async def key(server: Running, name: str) -> dict[str, object]:
    answer = await server.http.get("/v2/flowControl", params={"search": name})
    [found] = answer.json()
    return dict(found)


async def test_the_list_says_how_much_of_each_limit_is_in_use(
    visitor: httpx.AsyncClient, server: Running, receiver: Receiver
) -> None:
    await server.settled(await server.publish(receiver.url("/x"), Upstash_Flow_Control_Key="mail", **LIMITED))
    await server.publish(receiver.url("/x"), Upstash_Flow_Control_Key="sms/42", **LIMITED, **LATER)
    await server.http.post("/v2/flowControl/mail/pause")

    page = (await visitor.get("/console/flow")).text
    for words in ("mail", "sms/42", "1 of 7 in 1h", "0 of 2", "nothing is lost", "no limit"):
        assert words in page, words
    live = (await visitor.get("/console/flow/live", params={"search": "sms"})).text
    assert ("sms/42" in live, "mail" in live, "<h1>" in live) == (True, False, False)
    paused = (await visitor.get("/console/flow", params={"show": "paused"})).text
    assert ("Resume mail" in paused, "sms/42" in paused) == (True, False)
    backlog = (await visitor.get("/console/flow", params={"show": "waiting"})).text
    assert "No key is like that." in backlog
    assert "No key is like that." in (await visitor.get("/console/flow", params={"search": "fax"})).text


async def test_what_is_paused_waits_until_it_is_resumed(
    visitor: httpx.AsyncClient, server: Running, receiver: Receiver
) -> None:
    answer = await visitor.post("/console/flow/pause", data={"key": "to/pay", "back": "/console/flow?show=paused"})
    assert answer.headers["location"] == "/console/flow?show=paused"
    assert "to/pay is paused" in await said(visitor, answer)
    message = await server.publish(receiver.url("/x"), Upstash_Flow_Control_Key="to/pay", **LIMITED)
    await server.drain()
    assert await server.states(message) == ["CREATED"]
    assert "to/pay" in (await visitor.get("/console/flow", params={"show": "waiting"})).text

    page = (await visitor.get("/console/flow/key", params={"key": "to/pay"})).text
    assert "messages with this key are accepted and wait" in page
    assert "to/pay goes on" in await said(visitor, await visitor.post("/console/flow/resume", data={"key": "to/pay"}))
    await server.settled(message)


async def test_limits_are_pinned_and_unpinned(visitor: httpx.AsyncClient, server: Running) -> None:
    new = (await visitor.get("/console/flow/key", params={"key": "new"})).text
    assert "No message has this key yet" in new

    await visitor.post("/console/flow/pin", data={"key": "new", "parallelism": "3"})
    await visitor.post("/console/flow/pin", data={"key": "new", "rate": "9", "period": "1m"})
    pinned = await key(server, "new")
    assert (pinned["parallelismMax"], pinned["rateMax"], pinned["ratePeriod"]) == (3, 9, 60)
    assert (pinned["isPinnedParallelism"], pinned["isPinnedRate"]) == (True, True)

    await visitor.post("/console/flow/unpin", data={"key": "new", "what": "rate"})
    unpinned = await key(server, "new")
    assert (unpinned["isPinnedParallelism"], unpinned["isPinnedRate"]) == (True, False)


async def test_the_period_begins_anew(visitor: httpx.AsyncClient, server: Running, receiver: Receiver) -> None:
    await server.settled(await server.publish(receiver.url("/x"), Upstash_Flow_Control_Key="k", **LIMITED))
    assert "1 of 7" in (await visitor.get("/console/flow/key", params={"key": "k"})).text
    await visitor.post("/console/flow/reset", data={"key": "k"})
    assert "0 of 7" in (await visitor.get("/console/flow/key", params={"key": "k"})).text


async def test_a_limit_that_is_wrong_stays_typed(visitor: httpx.AsyncClient) -> None:
    answer = await visitor.post("/console/flow/pin", data={"key": "k", "rate": "many", "period": "1m"})
    assert (answer.status_code, 'value="many"' in answer.text) == (400, True)
    assert "expected an integer from 1" in answer.text


async def test_the_parallelism_of_the_tenant_is_shown(visitor: httpx.AsyncClient, connection: Connection) -> None:
    assert "0 under way, no limit" in (await visitor.get("/console/flow")).text
    await connection.execute("update tenants set parallelism = 17 where name = 'default'")
    assert "0 of 17 at a time" in (await visitor.get("/console/flow")).text


async def test_a_long_list_has_pages(visitor: httpx.AsyncClient, connection: Connection) -> None:
    insert = "insert into flow_keys (tenant_id, key, paused) select 1, to_char(i, 'fm0000'), i > 149 from"
    await connection.execute(f"{insert} generate_series(1, 150) i")
    first, last = [(await visitor.get(f"/console/flow{query}")).text for query in ("", "?after=0100")]
    assert [words in first for words in ("0100</a>", "0101</a>", "after=0100")] == [True, False, True]
    assert [words in last for words in ("0101</a>", "0150</a>", "after=0150")] == [True, True, False]
    paused = (await visitor.get("/console/flow?show=paused")).text
    assert ("0150</a>" in paused, "0149</a>" in paused) == (True, False)
    for nonsense in ("\0", "\ud7ff", "ü" * 5000):
        assert (await visitor.get("/console/flow", params={"after": nonsense, "search": nonsense})).status_code == 200


async def test_a_reader_sees_no_buttons_and_is_refused(
    reader: httpx.AsyncClient, server: Running, receiver: Receiver
) -> None:
    await server.publish(receiver.url("/x"), Upstash_Flow_Control_Key="mail", **LIMITED, **LATER)
    for path in ("/console/flow", "/console/flow/key?key=mail"):
        page = (await reader.get(path)).text
        assert ("mail" in page, 'action="/console/flow/' in page) == (True, False)
    for verb in ("pause", "resume", "reset", "pin", "unpin"):
        answer = await reader.post(f"/console/flow/{verb}", data={"key": "mail", "what": "rate", "rate": "1"})
        text = await said(reader, answer)
        assert "this token is read-only and may not do this" in text, verb
    assert (await key(server, "mail"))["isPaused"] is False


async def test_keys_of_others_are_not_there(visitor: httpx.AsyncClient, server: Running) -> None:
    other = {"Authorization": f"Bearer {dev.DEV_USERS[1].token}"}
    assert (await server.http.post("/v2/flowControl/theirs/pause", headers=other)).status_code == 200
    assert "theirs" not in (await visitor.get("/console/flow")).text
    assert "No message has this key yet" in (await visitor.get("/console/flow/key?key=theirs")).text
    gone = await said(visitor, await visitor.post("/console/flow/resume", data={"key": "theirs"}))
    assert "not found" in gone
    assert (await server.http.get("/v2/flowControl/theirs", headers=other)).json()["isPaused"] is True


async def test_a_key_is_not_taken_for_markup(visitor: httpx.AsyncClient) -> None:
    await visitor.post("/console/flow/pause", data={"key": XSS})
    for path, params in (
        ("", {}),
        ("/live", {}),
        ("", {"search": XSS}),
        ("/key", {"key": XSS}),
        ("/key/live", {"key": XSS}),
    ):
        page = await visitor.get(f"/console/flow{path}", params=params)
        assert page.status_code == 200
        assert "<script>alert" not in page.text
        assert "<img src=x" not in page.text
    assert "&lt;script&gt;" in (await visitor.get("/console/flow")).text
