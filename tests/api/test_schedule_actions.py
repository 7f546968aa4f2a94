"""Schedules over HTTP: run now, and changed in part without losing the rest."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from postroad.store.engine import Connection
from tests.api.test_schedules import made, post
from tests.conftest import Running, Serve
from tests.receiver import Receiver
from tests.security.test_sealing import a_key

EVERYTHING = {
    "Content_Type": "application/json",
    "Upstash_Method": "PUT",
    "Upstash_Retries": "7",
    "Upstash_Retry_Delay": "1000",
    "Upstash_Timeout": "20s",
    "Upstash_Label": "one,two",
    "Upstash_Redact_Fields": "body,header[X-Secret]",
    "Upstash_Forward_X_Secret": "hush",
    "Upstash_Forward_X_Open": "seen",
    "Upstash_Queue_Name": "line",
    "Upstash_Flow_Control_Key": "key",
    "Upstash_Flow_Control_Value": "parallelism=2, rate=10, period=1h",
    "Upstash_Callback_Retries": "1",
    "Upstash_Callback_Method": "PATCH",
    "Upstash_Callback_Forward_X_A": "a",
    "Upstash_Header_Forward": "true",
    "X_Own": "mine",
}


async def row(connection: Connection, schedule_id: str = "s") -> dict[str, Any]:
    found = await connection.fetchrow("select * from schedules where id = $1", schedule_id)
    assert found is not None
    return dict(found)


async def change(server: Running, document: Any, status: int = 200) -> str:
    answer = await server.http.patch("/v2/schedules/s", json=document)
    assert answer.status_code == status, answer.text
    return answer.text


async def test_a_run_is_what_the_next_tick_would_be(
    server: Running, receiver: Receiver, connection: Connection
) -> None:
    await made(
        server,
        receiver.url("/s"),
        b'{"a": 1}',
        Upstash_Schedule_Id="s",
        Upstash_Callback=receiver.url("/report"),
        **EVERYTHING,
    )
    await server.http.post("/v2/schedules/s/pause")
    before = await row(connection)

    answer = await server.http.post("/v2/schedules/s/run")
    assert answer.status_code == 201
    by_hand, reported = await receiver.next_request("/s"), await receiver.next_request("/report")
    assert await row(connection) == before
    await server.http.post("/v2/schedules/s/resume")
    await connection.execute("update schedules set next_at = now()")
    ticked, reported_tick = await receiver.next_request("/s"), await receiver.next_request("/report")

    assert (by_hand.method, by_hand.body, by_hand.header("X-Secret")) == ("PUT", b'{"a": 1}', "hush")
    assert (by_hand.method, by_hand.body) == (ticked.method, ticked.body)
    assert (reported.method, reported.header("X-A")) == ("PATCH", "a") == (reported_tick.method, "a")
    rows = await connection.fetch(
        "select method, url, header, options, labels, queue, schedule_id from messages where source_id is null"
    )
    assert len(rows) == 2
    assert rows[0] == rows[1]
    assert rows[0]["schedule_id"] == "s"


async def test_a_run_of_a_group_answers_for_each_endpoint(server: Running, receiver: Receiver) -> None:
    endpoints = [{"url": receiver.url("/1")}, {"url": receiver.url("/2")}]
    await server.http.post("/v2/topics/news/endpoints", json={"endpoints": endpoints})
    await made(server, "news", b"x", Upstash_Schedule_Id="s")

    answer = await server.http.post("/v2/schedules/s/run")

    assert [one["url"] for one in answer.json()] == [one["url"] for one in endpoints]
    assert {(await receiver.next_request(path)).body for path in ("/1", "/2")} == {b"x"}
    await server.http.delete("/v2/topics/news")
    assert (await server.http.post("/v2/schedules/s/run")).status_code == 404
    assert (await server.http.post("/v2/schedules/none/run")).status_code == 404


async def test_a_change_loses_nothing_of_the_rest(server: Running, receiver: Receiver, connection: Connection) -> None:
    await made(
        server,
        receiver.url("/s"),
        b"body",
        Upstash_Schedule_Id="s",
        Upstash_Callback=receiver.url("/report"),
        **EVERYTHING,
    )
    await connection.execute("update schedules set next_at = now()")
    await receiver.next_request("/s")
    await server.http.post("/v2/schedules/s/pause")
    before = await row(connection)

    await change(server, {"cron": "TZ=Asia/Tokyo 5 4 * * *"})

    after = await row(connection)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"cron", "next_at", "updated_at"}
    assert after["paused"] is True
    assert after["last_at"] is not None

    # A tick that is due, and not fired yet, is not passed over by an edit.
    await connection.execute("update schedules set next_at = now() - interval '1 s'")
    after = await row(connection)
    await change(server, {"headers": {"upstash-Retries": "2", "Upstash-Forward-X-Open": None, "X-Own": "other"}})
    assert fields(await row(connection)) == {
        **{name: value for name, value in fields(before).items() if name != "upstash-forward-x-open"},
        "upstash-retries": "2",
        "x-own": "other",
    }
    assert (await row(connection))["next_at"] == after["next_at"]
    await change(server, {"body": "new", "destination": receiver.url("/elsewhere")})
    last = await row(connection)
    assert (last["body"], last["destination"]) == (b"new", receiver.url("/elsewhere"))
    await change(server, {"bodyBase64": "AP8="})
    assert (await row(connection))["body"] == b"\x00\xff"


def fields(stored: dict[str, Any]) -> dict[str, str]:
    return dict(orjson.loads(stored["fields"]))


async def test_a_change_of_a_repeated_header_stays_in_its_place(server: Running) -> None:
    await made(server, Upstash_Schedule_Id="s", Upstash_Forward_A="1", Upstash_Forward_B="2")

    await change(server, {"headers": {"Upstash-Forward-A": ["3", "4"]}})

    assert (await server.http.get("/v2/schedules/s")).json()["header"] == {"A": ["3", "4"], "B": ["2"]}


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({}, "something to change: cron, destination, body, bodyBase64, headers"),
        ({"paused": True}, "paused"),
        ({"cron": "0 99 * * *"}, "invalid cron: got '0 99 * * *', expected 0 to 23 as the hour"),
        ({"cron": 5}, "invalid cron"),
        ({"cron": "0 0 31 2 *"}, "a date that exists"),
        ({"destination": ""}, "destination"),
        ({"destination": "ftp://x/"}, "destination"),
        ({"destination": 1}, "invalid destination"),
        ({"destination": "nowhere"}, "nowhere"),
        ({"body": 1}, "invalid body"),
        ({"body": "", "bodyBase64": ""}, "nothing, because body is given"),
        ({"bodyBase64": "%"}, "a string in base64"),
        ({"headers": []}, "an object of names and values"),
        ({"headers": {"Upstash-Retries": "x"}}, "invalid Upstash-Retries"),
        ({"headers": {"Upstash-Retries": 3}}, "a string, a list of strings or null"),
        ({"headers": {"Upstash-Cron": "@daily"}}, "a header that a schedule keeps"),
        ({"headers": {"Upstash-Not-Before": "1"}}, "a header that a schedule keeps"),
        ({"headers": {"Upstash-Deduplication-Id": "1"}}, "a header that a schedule keeps"),
        ({"headers": {"Authorization": "Bearer x"}}, "a header that a schedule keeps"),
        ({"headers": {"Upstash-Callback": "http://[::1"}}, "Upstash-Callback"),
    ],
)
async def test_a_change_that_is_refused_changes_nothing(
    server: Running, connection: Connection, document: Any, words: str
) -> None:
    await made(server, Upstash_Schedule_Id="s")
    before = await row(connection)

    status = 404 if document == {"destination": "nowhere"} else 400
    assert words in await change(server, document, status)

    assert await row(connection) == before


async def test_what_sealing_keeps_is_changed_as_well(serve: Serve, receiver: Receiver) -> None:
    server = await serve(encryption_key=a_key())
    await made(server, receiver.url("/s"), b"secret", Upstash_Schedule_Id="s", Upstash_Forward_A="1")

    await change(server, {"destination": receiver.url("/t")})
    await server.http.post("/v2/schedules/s/run")

    request = await receiver.next_request("/t")
    assert (request.body, request.header("A")) == (b"secret", "1")


async def test_a_schedule_that_is_gone_is_not_changed(server: Running) -> None:
    await change(server, {"cron": "@daily"}, 404)
    assert (await post(server, Upstash_Schedule_Id="s")).status_code == 201
    await change(server, {"cron": "@daily"})
