"""Schedules over HTTP: made, looked at, replaced, paused, deleted, refused."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from postroad.api import schedules
from postroad.dev import DEV_USERS
from postroad.domain.tenant import Access, TenantId
from postroad.store import tokens
from postroad.store.engine import Connection
from tests.conftest import Running, Serve

URL = "https://127.0.0.1:9/hook?a=1&b=%2F"


async def post(server: Running, destination: str = URL, body: bytes = b"", **headers: str) -> Any:
    """Ask for a schedule; header names are written with underscores."""
    named = {"Upstash-Cron": "@yearly"} | {name.replace("_", "-"): value for name, value in headers.items()}
    return await server.http.post(f"/v2/schedules/{destination}", content=body, headers=named)


async def made(server: Running, destination: str = URL, body: bytes = b"", **headers: str) -> dict[str, Any]:
    """Make a schedule and look at it."""
    answer = await post(server, destination, body, **headers)
    assert answer.status_code == 201, answer.text
    shown: dict[str, Any] = (await server.http.get(f"/v2/schedules/{answer.json()['scheduleId']}")).json()
    return shown


async def test_a_schedule_is_shown_as_it_was_made(server: Running) -> None:
    shown = await made(
        server,
        body=b'{"a": 1}',
        Upstash_Cron="CRON_TZ=Europe/Berlin  0 9 * * MON-FRI",
        Content_Type="application/json",
        Upstash_Method="PUT",
        Upstash_Forward_test_header="v",
        Upstash_Retries="7",
        Upstash_Retry_Delay="1000 * (1 + retried)",
        Upstash_Delay="1m5s",
        Upstash_Timeout="30",
        Upstash_Callback="http://127.0.0.1:9/report",
        Upstash_Callback_Forward_X_A="a",
        Upstash_Failure_Callback="http://127.0.0.1:9/failure",
        Upstash_Failure_Callback_Forward_X_B="b",
        Upstash_Queue_Name="line",
        Upstash_Flow_Control_Key="key",
        Upstash_Flow_Control_Value="parallelism=2, rate=10, period=1h30m3s",
        Upstash_Label="one, two",
        Upstash_Telemetry_Sdk="some",
    )

    created, upcoming = shown.pop("createdAt"), shown.pop("nextScheduleTime")
    assert upcoming > created > 1_700_000_000_000
    assert datetime.fromtimestamp(upcoming / 1000, UTC).hour in (7, 8)
    assert shown.pop("scheduleId").startswith("scd_")
    assert shown == {
        "cron": "CRON_TZ=Europe/Berlin  0 9 * * MON-FRI",
        "destination": URL,
        "method": "PUT",
        "header": {"Content-Type": ["application/json"], "Test-Header": ["v"]},
        "body": '{"a": 1}',
        "retries": 7,
        "retryDelayExpression": "1000 * (1 + retried)",
        "delay": 65,
        "timeout": 30,
        "callback": "http://127.0.0.1:9/report",
        "callbackHeader": {"X-A": ["a"]},
        "failureCallback": "http://127.0.0.1:9/failure",
        "failureCallbackHeader": {"X-B": ["b"]},
        "callerIP": "127.0.0.1",
        "callerIp": "127.0.0.1",
        "isPaused": False,
        "queueName": "line",
        "flowControlKey": "key",
        "parallelism": 2,
        "rate": 10,
        "period": 5403,
        "label": "one",
        "labels": ["one", "two"],
    }


async def test_a_plain_schedule_shows_no_more_than_it_has(server: Running) -> None:
    shown = await made(server)

    assert shown.keys() == {
        "scheduleId", "cron", "destination", "createdAt", "method", "header", "retries", "isPaused",
        "nextScheduleTime", "callerIP", "callerIp",
    }  # fmt: skip
    assert (shown["method"], shown["retries"], shown["header"], shown["isPaused"]) == ("POST", 3, {}, False)
    [listed] = (await server.http.get("/v2/schedules")).json()
    assert listed == shown


async def test_a_publish_with_a_cron_makes_a_schedule_whose_cron_is_trimmed(server: Running) -> None:
    answer = await server.http.post(f"/v2/publish/{URL}", headers={"Upstash-Cron": "* * * * *"}, content=b"x")
    by_query = await server.http.post("/v2/publish/http://127.0.0.1:9/?upstash-cron=%20@daily+&c=2")

    enqueued = await server.http.post(
        f"/v2/enqueue/line/{URL}", headers={"Upstash-Cron": "@daily", "Upstash-Delay": "1h"}
    )

    assert [one.status_code for one in (answer, by_query, enqueued)] == [201, 201, 201]
    first, second, third = [
        (await server.http.get(f"/v2/schedules/{one.json()['scheduleId']}")).json()
        for one in (answer, by_query, enqueued)
    ]
    assert (third["queueName"], third["delay"]) == ("line", 3600)
    assert (first["cron"], first["body"], first["destination"]) == ("* * * * *", "x", URL)
    assert (second["cron"], second["destination"]) == ("@daily", "http://127.0.0.1:9/?c=2")


async def test_an_id_may_be_chosen_and_replaces_everything_when_it_is_given_again(server: Running) -> None:
    before = await made(
        server,
        body=b"old",
        Upstash_Schedule_Id="my.schedule_1-x",
        Upstash_Retries="1",
        Upstash_Label="old",
        Content_Type="text/plain",
    )
    await server.http.post("/v2/schedules/my.schedule_1-x/pause")

    after = await made(server, "http://127.0.0.1:9/new", Upstash_Schedule_Id="my.schedule_1-x", Upstash_Cron="@daily")

    assert before["scheduleId"] == after["scheduleId"] == "my.schedule_1-x"
    assert (after["destination"], after["cron"]) == ("http://127.0.0.1:9/new", "@daily")
    assert not after["isPaused"]
    assert after["createdAt"] >= before["createdAt"]
    assert after["retries"] == 3
    assert after["header"] == {}
    assert after.keys().isdisjoint({"body", "label", "lastScheduleTime", "error"})
    assert len((await server.http.get("/v2/schedules")).json()) == 1


@pytest.mark.parametrize(
    ("headers", "named"),
    [
        ({"Upstash_Cron": ""}, "Upstash-Cron"),
        ({"Upstash_Cron": "* * * *"}, "Upstash-Cron"),
        ({"Upstash_Cron": "* * * * * *"}, "Upstash-Cron"),
        ({"Upstash_Cron": "0 0 30 2 *"}, "Upstash-Cron"),
        ({"Upstash_Cron": "@every 5s"}, "Upstash-Cron"),
        ({"Upstash_Cron": "CRON_TZ=Mars/Olympus 0 0 * * *"}, "Upstash-Cron"),
        ({"Upstash_Schedule_Id": "a b"}, "Upstash-Schedule-Id"),
        ({"Upstash_Schedule_Id": "a/b"}, "Upstash-Schedule-Id"),
        ({"Upstash_Schedule_Id": "x" * 257}, "Upstash-Schedule-Id"),
        ({"Upstash_Not_Before": "2000000000"}, "Upstash-Not-Before"),
        ({"Upstash_Retries": "many"}, "Upstash-Retries"),
        ({"Upstash_Delay": "400d"}, "maxDelay"),
        ({"Upstash_Queue_Name": "a b"}, "Upstash-Queue-Name"),
        ({"Upstash_Callback": "nowhere"}, "Upstash-Callback"),
        ({"Upstash_Callback_Retries": "1"}, "Upstash-Callback"),
        ({"Upstash_Flow_Control_Key": "k"}, "Upstash-Flow-Control-Value"),
        ({"Upstash_Deduplication_Id": "a:b"}, "DeduplicationId"),
        ({"Upstash_Callback": "http://169.254.169.254/"}, "callback url"),
    ],
    ids=repr,
)
async def test_a_bad_header_is_refused_by_name_and_nothing_is_stored(
    server: Running, headers: dict[str, str], named: str
) -> None:
    answer = await post(server, URL, b"", **headers)

    assert answer.status_code == 400, answer.text
    assert named in answer.json()["error"]
    assert (await server.http.get("/v2/schedules")).json() == []


async def test_a_schedule_without_a_cron_is_refused(server: Running) -> None:
    answer = await server.http.post(f"/v2/schedules/{URL}")

    assert answer.status_code == 400
    assert "Upstash-Cron" in answer.json()["error"]


@pytest.mark.parametrize(
    ("destination", "status", "text"),
    [
        ("", 400, "a non-empty destination must be provided"),
        ("ftp://x", 400, "invalid destination url: endpoint has invalid scheme, add http:// or https://"),
        ("http://169.254.169.254/latest", 400, None),
        ("nogroup", 404, "topic nogroup not found"),
        ("api/llm", 400, None),
    ],
)
async def test_a_destination_is_vetted_as_that_of_a_publish(
    server: Running, destination: str, status: int, text: str | None
) -> None:
    answer = await post(server, destination)
    published = await server.http.post(f"/v2/publish/{destination}")

    assert answer.status_code == published.status_code == status
    assert answer.json() == published.json()
    assert text is None or answer.json() == {"error": text}


async def test_a_schedule_may_go_to_the_llm_endpoint(serve: Serve) -> None:
    server = await serve(llm_url="http://127.0.0.1:9/v1/chat")

    assert (await made(server, "api/llm"))["destination"] == "api/llm"


async def test_a_schedule_of_a_group_keeps_its_name(server: Running) -> None:
    await server.http.post("/v2/topics/news/endpoints", json={"endpoints": [{"url": "http://127.0.0.1:9/"}]})

    assert (await made(server, "news"))["destination"] == "news"
    assert (await made(server, "news/"))["destination"] == "news"


@pytest.mark.parametrize("verb", ["POST", "PATCH"])
@pytest.mark.parametrize("path", ["/v2/schedules/s/{}", "//v2/Schedules/s/{}/", "/v2/SCHEDULES/s/{}"])
async def test_a_schedule_is_paused_and_resumed_by_either_verb_again_and_again(
    server: Running, verb: str, path: str
) -> None:
    await made(server, Upstash_Schedule_Id="s")

    for action in ("pause", "pause", "resume", "resume"):
        answer = await server.http.request(verb, server.url + path.format(action))
        assert (answer.status_code, answer.content) == (200, b"")
        assert (await server.http.get("/v2/schedules/s")).json()["isPaused"] is (action == "pause")


async def test_what_does_not_exist_is_not_found_but_may_be_deleted(server: Running) -> None:
    for method, path in (
        ("GET", "/v2/schedules/none"),
        ("POST", "/v2/schedules/none/pause"),
        ("PATCH", "/v2/schedules/none/resume"),
    ):
        answer = await server.http.request(method, path)
        assert (answer.status_code, answer.json()) == (404, {"error": "schedule none not found"})
    assert (await server.http.get("/v2/schedules/a%00b")).status_code == 404

    for name in ("none", "a%00b"):
        answer = await server.http.delete(f"/v2/schedules/{name}")
        assert (answer.status_code, answer.content) == (200, b"")


@pytest.mark.parametrize("path", ["/v2/Schedules", "/v2/schedules/", "//v2/schedules"])
async def test_the_path_is_read_as_clients_write_it(server: Running, path: str) -> None:
    listed = server.url + path
    one = listed.rstrip("/")
    answer = await server.http.post(f"{one}/{URL}", headers={"Upstash-Cron": "@daily", "Upstash-Schedule-Id": "s"})
    assert answer.json() == {"scheduleId": "s"}

    assert [it["scheduleId"] for it in (await server.http.get(listed)).json()] == ["s"]
    assert (await server.http.get(f"{one}/s/")).json()["scheduleId"] == "s"
    assert (await server.http.delete(f"{one}/s")).status_code == 200
    assert (await server.http.get(listed)).json() == []


async def test_a_long_list_comes_whole(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedules, "PAGE", 3)
    for n in range(9):
        ids = [one["scheduleId"] for one in (await server.http.get("/v2/schedules")).json()]
        assert ids == [f"s{m}" for m in range(n)]
        await made(server, Upstash_Schedule_Id=f"s{n}")


async def test_an_unknown_parameter_of_the_list_is_refused(server: Running) -> None:
    assert (await server.http.get("/v2/schedules?cursor=1")).status_code == 400


async def test_what_is_to_be_redacted_is_shown_as_a_hash(server: Running) -> None:
    shown = await made(
        server,
        body=b"secret",
        Upstash_Redact_Fields="body,header[X-Key]",
        Upstash_Forward_X_Key="k",
        Upstash_Forward_A="1",
    )

    assert shown["body"].startswith("REDACTED:")
    assert shown["header"]["X-Key"][0].startswith("REDACTED:")
    assert shown["header"]["A"] == ["1"]


async def test_a_body_that_is_no_text_is_shown_as_base64(server: Running) -> None:
    shown = await made(server, body=b"\xff\x00")

    assert shown["bodyBase64"] == "/wA="
    assert "body" not in shown


async def test_headers_of_the_request_follow_when_that_is_asked_for_and_never_what_authenticates(
    server: Running, connection: Connection
) -> None:
    await made(server, Upstash_Schedule_Id="all", Upstash_Header_Forward="true", X_Own="1", Cookie="c=1")
    await made(server, Upstash_Schedule_Id="none", Upstash_Header_Forward="false", X_Own="1")

    assert (await server.http.get("/v2/schedules/all")).json()["header"]["X-Own"] == ["1"]
    assert (await server.http.get("/v2/schedules/none")).json()["header"] == {}
    for fields in await connection.fetch("select fields::text from schedules"):
        assert "uthorization" not in fields[0]
        assert "ookie" not in fields[0]
        assert "upstash-cron" not in fields[0]


async def test_a_group_may_have_the_headers_of_a_schedule_forwarded(server: Running, connection: Connection) -> None:
    await server.http.post("/v2/topics/news/endpoints", json={"endpoints": [{"url": "http://127.0.0.1:9/"}]})
    await server.http.patch("/v2/topics/news", json={"headers": {"Upstash-Header-Forward": "true"}})

    await made(server, "news", X_Own="1")

    [row] = await connection.fetch("select fields::text from schedules")
    assert "x-own" in row[0]


async def test_schedules_beyond_the_quota_are_refused_but_known_ones_can_be_replaced(serve: Serve) -> None:
    server = await serve(max_schedules=2)
    for name in ("a", "b"):
        await made(server, Upstash_Schedule_Id=name)

    answer = await post(server, Upstash_Schedule_Id="c")

    assert answer.status_code == 412
    assert answer.json() == {"error": "quota maxSchedules exceeded, current limit: 2"}
    assert (await made(server, body=b"new", Upstash_Schedule_Id="b"))["body"] == "new"
    assert [one["scheduleId"] for one in (await server.http.get("/v2/schedules")).json()] == ["a", "b"]
    await server.http.delete("/v2/schedules/a")
    await made(server, Upstash_Schedule_Id="c")


async def test_a_queue_beyond_the_quota_is_refused_when_the_schedule_is_made(serve: Serve) -> None:
    server = await serve(max_queues=1)
    await server.http.post("/v2/queues", json={"queueName": "known"})

    assert (await post(server, Upstash_Queue_Name="another")).status_code == 412
    assert (await post(server, Upstash_Queue_Name="known")).status_code == 201


async def test_tenants_do_not_see_each_others_schedules(server: Running) -> None:
    mine = await made(server, body=b"mine", Upstash_Schedule_Id="s")
    stranger = {"Authorization": f"Bearer {DEV_USERS[1].token}"}

    assert (await server.http.get("/v2/schedules", headers=stranger)).json() == []
    for method, path in (("GET", "s"), ("POST", "s/pause"), ("PATCH", "s/resume")):
        answer = await server.http.request(method, f"/v2/schedules/{path}", headers=stranger)
        assert answer.status_code == 404
    await server.http.delete("/v2/schedules/s", headers=stranger)
    await server.http.post(
        "/v2/schedules/http://127.0.0.1:9/theirs",
        headers={**stranger, "Upstash-Cron": "@daily", "Upstash-Schedule-Id": "s"},
    )

    assert (await server.http.get("/v2/schedules/s")).json() == mine


async def test_a_token_does_what_its_access_allows(server: Running, connection: Connection) -> None:
    await made(server, Upstash_Schedule_Id="s")
    for access in (Access.READ_ONLY, Access.PUBLISH_ONLY):
        await tokens.add(connection, TenantId(1), f"token-{access}", name="test", access=access)
    reader = {"Authorization": "Bearer token-read-only"}
    publisher = {"Authorization": "Bearer token-publish-only", "Upstash-Cron": "@daily"}

    assert (await server.http.get("/v2/schedules", headers=reader)).status_code == 200
    assert (await server.http.get("/v2/schedules/s", headers=reader)).status_code == 200
    refused = [
        await server.http.post("/v2/schedules/s/pause", headers=reader),
        await server.http.delete("/v2/schedules/s", headers=reader),
        await server.http.post(f"/v2/schedules/{URL}", headers={**reader, "Upstash-Cron": "@daily"}),
        await server.http.post(f"/v2/schedules/{URL}", headers=publisher),
        await server.http.post(f"/v2/publish/{URL}", headers=publisher),
        await server.http.get("/v2/schedules", headers=publisher),
    ]
    assert [answer.status_code for answer in refused] == [403] * 6
    assert (await server.http.get("/v2/schedules")).json()[0]["isPaused"] is False
