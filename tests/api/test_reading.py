"""Looking at what happened: messages, dead letters, the log, keys, health, documents."""

from __future__ import annotations

import asyncio
import json
import re
from base64 import b64encode
from datetime import timedelta
from hashlib import sha256
from typing import Any

import pytest

from postroad.dev import DEV_USERS
from postroad.store.engine import Connection
from tests.conftest import KEYS, Running, Serve, eventually
from tests.moods import status
from tests.receiver import Receiver


async def test_paging_through_the_log_repeats_and_skips_nothing_while_it_grows(
    server: Running, receiver: Receiver
) -> None:
    before = set()
    for n in range(40):
        before.add(await server.publish(receiver.url(), f"{n}"))
    await receiver.wait_for(40)
    await server.drain()

    seen: list[tuple[str, str]] = []
    cursor: str | None = None
    while True:
        answer = await server.http.get("/v2/events", params={"count": 7} | ({"cursor": cursor} if cursor else {}))
        page = answer.json()
        seen += [(event["messageId"], event["state"]) for event in page["events"]]
        cursor = page.get("cursor")
        if cursor is None:
            break
        await server.publish(receiver.url(), b"meanwhile")

    of_before = [key for key in seen if key[0] in before]
    assert len(seen) == len(set(seen))
    assert sorted(of_before) == sorted((m, s) for m in before for s in ("CREATED", "ACTIVE", "DELIVERED"))
    assert len(seen) == 120, "what was written meanwhile lies before the cursor"


async def test_the_log_can_be_read_from_the_oldest_on(server: Running, receiver: Receiver) -> None:
    message_id = await server.publish(receiver.url())
    await server.settled(message_id)

    states: list[str] = []
    cursor: str | None = None
    while True:
        params = {"order": "earliestFirst", "count": "1"} | ({"cursor": cursor} if cursor else {})
        page = (await server.http.get("/v2/logs", params=params)).json()
        assert page["logs"] == page["events"]
        states += [event["state"] for event in page["logs"]]
        cursor = page.get("cursor")
        if cursor is None:
            break

    assert states == ["CREATED", "ACTIVE", "DELIVERED"]


async def test_a_number_of_milliseconds_is_a_cursor(server: Running, receiver: Receiver) -> None:
    message_id = await server.publish(receiver.url())
    await server.settled(message_id)
    events = await server.events()

    assert await server.events(cursor=events[-1]["time"] - 1) == []
    assert await server.events(cursor=events[0]["time"] + 1000) == events


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"label": "a"}, {"one"}),
        ({"label": "a,b"}, {"one", "two"}),
        ({"label": ["a", "b"], "path": "/two"}, {"two"}),
        ({"path": "/one"}, {"one"}),
        ({"host": "127.0.0.1"}, {"one", "two"}),
        ({"host": "localhost"}, set()),
        ({"callerIp": "127.0.0.1"}, {"one", "two"}),
        ({"callerIP": "10.0.0.1"}, set()),
        ({"queueName": "q"}, set()),
        ({"fromDate": 0, "toDate": 1000}, set()),
    ],
    ids=lambda value: repr(sorted(value) if isinstance(value, set) else value),
)
async def test_events_are_filtered(
    server: Running, receiver: Receiver, filters: dict[str, Any], expected: set[str]
) -> None:
    await server.publish(receiver.url("/one?x=1"), b"one", Upstash_Label="a")
    await server.publish(receiver.url("/two"), b"two", Upstash_Label="b,c")
    await receiver.wait_for(2)
    await server.drain()

    events = await server.events(**filters)

    assert {event["url"].partition("?")[0].rpartition("/")[2] for event in events} == expected
    assert len(events) == 3 * len(expected)


@pytest.mark.parametrize(
    ("path", "parameter"),
    [
        ("/v2/events", "labeel=x"),
        ("/v2/events", "state=GONE"),
        ("/v2/events", "cursor=nonsense"),
        ("/v2/events", "count=0"),
        ("/v2/events", "fromDate=yesterday"),
        ("/v2/events", "order=random"),
        ("/v2/dlq", "url=http://x&messageidd=1"),
        ("/v2/dlq", "host=x"),
        ("/v2/dlq", "cursor=x"),
        ("/v2/dlq", "responseStatus=ok"),
    ],
)
async def test_a_parameter_that_means_nothing_is_refused_by_name(server: Running, path: str, parameter: str) -> None:
    answer = await server.http.get(f"{path}?{parameter}")

    assert answer.status_code == 400
    assert parameter.rpartition("&")[2].partition("=")[0] in answer.json()["error"]


async def test_dead_letters_come_in_pages_and_go_in_bulk(server: Running, receiver: Receiver) -> None:
    receiver.script("/", status(500))
    receiver.script("/gone", status(410))
    for n in range(5):
        await server.publish(receiver.url("/gone" if n == 4 else "/"), f"{n}", Upstash_Retries="0")
    await receiver.wait_for(5)
    await server.drain()

    first = (await server.http.get("/v2/dlq", params={"count": 3})).json()
    second = (await server.http.get("/v2/dlq", params={"count": 3, "cursor": first["cursor"]})).json()
    assert "cursor" not in second
    letters = first["messages"] + second["messages"]
    assert [letter["dlqId"] for letter in letters] == sorted(
        (letter["dlqId"] for letter in letters), key=lambda text: int(text.partition("-")[2]), reverse=True
    )
    assert len(letters) == 5
    assert [letter["url"] for letter in await server.dead_letters(responseStatus=410)] == [receiver.url("/gone")]

    deleted = (await server.http.delete("/v2/dlq", params={"responseStatus": 500, "count": 2})).json()
    assert deleted["deleted"] == 2
    assert "cursor" in deleted
    for path in ("/", "/gone"):
        receiver.script(path, status(200))
    retried = await server.http.post(
        "/v2/dlq/retry", params={"dlqIds": [x["dlqId"] for x in await server.dead_letters()]}
    )
    assert retried.status_code == 201
    assert len(retried.json()["responses"]) == 3
    assert await server.dead_letters() == []


async def test_a_waiting_message_can_be_delivered_now_without_counting_an_attempt(
    server: Running, receiver: Receiver
) -> None:
    message_id = await server.publish(receiver.url(), Upstash_Delay="1d")

    answer = await server.http.post(f"/v2/messages/{message_id}/retry")

    assert answer.status_code == 200
    assert (await receiver.next_request()).header("Upstash-Retried") == "0"
    await server.settled(message_id)
    assert (await server.http.post(f"/v2/messages/{message_id}/retry")).status_code == 404
    assert (await server.http.post("/v2/messages/nonsense/retry")).status_code == 400


async def test_a_finished_message_can_be_read_for_a_while_and_not_longer(
    serve: Serve, receiver: Receiver, connection: Connection
) -> None:
    server = await serve(message_linger=timedelta(minutes=10))
    message_id = await server.publish(receiver.url())
    await server.settled(message_id)
    assert (await server.http.get(f"/v2/messages/{message_id}")).status_code == 200

    await connection.execute("update attempts set ended_at = ended_at - interval '10 minutes'")

    assert (await server.http.get(f"/v2/messages/{message_id}")).status_code == 404
    assert (await server.http.delete(f"/v2/messages/{message_id}")).status_code == 404


async def test_rotated_keys_sign_at_once_and_old_receivers_go_on_verifying(server: Running, receiver: Receiver) -> None:
    from qstash import Receiver as SignatureReceiver

    rotated = (await server.http.post("/v2/keys/rotate")).json()

    assert rotated["current"] == KEYS.next
    assert rotated["next"] not in (KEYS.current, KEYS.next)
    assert (await server.http.get("/v2/keys")).json() == rotated
    await server.publish(receiver.url(), b"{}")
    request = await receiver.next_request()
    SignatureReceiver(KEYS.current, KEYS.next).verify(
        signature=request.header("Upstash-Signature") or "", body="{}", url=receiver.url()
    )
    stranger = {"Authorization": f"Bearer {DEV_USERS[1].token}"}
    assert (await server.http.get("/v2/keys", headers=stranger)).json()["current"] == DEV_USERS[1].keys.current


async def test_redacted_values_are_hidden_from_readers_and_delivered_as_they_are(
    server: Running, receiver: Receiver
) -> None:
    receiver.script("/", status(500), status(200))
    message_id = await server.publish(
        receiver.url(), b"secret", Upstash_Redact_Fields="body,header[X-Key]", Upstash_Forward_X_Key="hidden",
        Upstash_Forward_Open="seen", Upstash_Retries="0",
    )  # fmt: skip
    assert (await receiver.next_request()).body == b"secret"
    await server.settled(message_id, "FAILED")

    for view in (
        (await server.http.get(f"/v2/messages/{message_id}")).json(),
        (await server.dead_letters())[0],
        (await server.events(messageId=message_id))[0],
    ):
        assert view["body"].startswith("REDACTED:")
        assert view["header"]["X-Key"][0].startswith("REDACTED:")
        assert view["header"]["Open"] == ["seen"]
    await server.http.post(f"/v2/dlq/retry/{(await server.dead_letters())[0]['dlqId']}")
    again = await receiver.wait_for(2)
    assert (again[1].body, again[1].header("X-Key")) == (b"secret", "hidden")


async def test_a_body_that_is_no_text_is_shown_in_base64(server: Running, receiver: Receiver) -> None:
    message_id = await server.publish(receiver.url(), b"\xff\x00")

    view = (await server.http.get(f"/v2/messages/{message_id}")).json()

    assert view["bodyBase64"] == "/wA="
    assert "body" not in view


async def test_bulk_cancel_honours_filters_and_count(server: Running, receiver: Receiver) -> None:
    async def publish(label: str) -> None:
        await server.publish(receiver.url(), Upstash_Delay="1h", Upstash_Label=label)

    await asyncio.gather(*(publish("a" if n % 2 else "b") for n in range(10)))

    async def cancel(**parameters: Any) -> int:
        answer = await server.http.delete("/v2/messages", params=parameters)
        assert answer.status_code == 202
        cancelled: int = answer.json()["cancelled"]
        return cancelled

    assert await cancel(label="a", count=2) == 2
    assert await cancel(label="a") == 3
    assert await cancel(label="a") == 0
    assert await cancel() == 5


@pytest.mark.parametrize("path", ["/v2/messages/", "/v2/messages/%2F", "/v2/messages/%2f/", "/v2/messages?count="])
async def test_what_was_left_empty_by_mistake_cancels_nothing(server: Running, receiver: Receiver, path: str) -> None:
    message_id = await server.publish(receiver.url(), Upstash_Delay="1h")

    assert (await server.http.delete(path)).status_code == 400

    assert (await server.http.get(f"/v2/messages/{message_id}")).status_code == 200


@pytest.mark.parametrize("count", [None, "", [], 0, -1, "all"])
async def test_a_count_that_bounds_nothing_cancels_nothing(server: Running, receiver: Receiver, count: Any) -> None:
    await server.publish(receiver.url(), Upstash_Delay="1h")

    refused = await server.http.request("DELETE", "/v2/messages", json={"count": count})

    assert (refused.status_code, "invalid count" in refused.json()["error"]) == (400, True)
    assert (await server.http.delete("/v2/messages")).json() == {"cancelled": 1}


@pytest.mark.parametrize("path", ["flowControl/%ff/pause", "flowControl/%ed%a0%80/pin?rate=1", "messages?label=%ff"])
async def test_what_is_no_utf_8_is_refused_and_not_taken_for_something_else(server: Running, path: str) -> None:
    answer = await server.http.request("DELETE" if "messages" in path else "POST", f"/v2/{path}")

    assert (answer.status_code, "percent-encoded UTF-8" in answer.json()["error"]) == (400, True)
    assert (await server.http.get("/v2/flowControl")).json() == []


async def test_health_needs_no_token_and_tells_why_not(server: Running, connection: Connection) -> None:
    assert (await server.http.get("/v2/liveness", headers={"Authorization": ""})).text == "OK"
    assert (await server.http.get("/v2/readiness", headers={"Authorization": ""})).json() == {"ready": True}

    await connection.execute("update alembic_version set version_num = '0000'")

    answer = await eventually(lambda: server.http.get("/v2/readiness"), lambda answer: answer.status_code == 503)
    assert "postroad migrate" in answer.json()["reasons"][0]


async def test_the_documentation_loads_nothing_from_elsewhere(server: Running) -> None:
    page = (await server.http.get("/docs")).text
    assert "http://" not in page.replace(server.url, "")
    assert "https://" not in page
    for asset in ("swagger-ui-bundle.js", "swagger-ui.css"):
        assert f"/docs/assets/{asset}" in page
        assert (await server.http.get(f"/docs/assets/{asset}")).status_code == 200
    for other in ("__init__.py", "favicon-32x32.png", "", "../main.py", "%2e%2e/main.py"):
        assert (await server.http.get(f"/docs/assets/{other}")).status_code == 404
    document = (await server.http.get("/openapi.json")).json()
    assert {"/v2/publish/{destination}", "/v2/dlq", "/v2/messages/{message_id}", "/v2/events"} <= set(document["paths"])
    assert any(
        parameter["name"] == "Upstash-Retry-Delay"
        for parameter in document["paths"]["/v2/publish/{destination}"]["post"]["parameters"]
    )


@pytest.mark.parametrize("path", ["/v2/nothing", "/", "/v2/messages/a/b/c"])
async def test_an_unknown_path_answers_in_the_shape_of_errors(server: Running, path: str) -> None:
    answer = await server.http.get(path)

    assert answer.status_code == 404
    assert isinstance(answer.json()["error"], str)


async def test_what_a_callback_repeats_of_a_redacted_message_is_not_to_be_seen_either(
    server: Running, receiver: Receiver
) -> None:
    await server.publish(
        receiver.url("/x"),
        "secret",
        Upstash_Redact_Fields="header[Authorization]",
        Upstash_Forward_Authorization="Bearer secret",
        Upstash_Callback=receiver.url("/callback"),
        Upstash_Callback_Redact_Fields="header[X-Own]",
        Upstash_Callback_Forward_X_Own="mine",
    )

    request = await receiver.next_request("/callback")
    assert json.loads(request.body)["sourceHeader"]["Authorization"] == ["Bearer secret"]
    await server.settled(str(request.header("Upstash-Message-Id")))

    for event in await server.events(url=receiver.url("/callback")):
        assert event["body"].startswith("REDACTED:")
        assert event["header"]["X-Own"][0].startswith("REDACTED:")
    for event in await server.events(url=receiver.url("/x")):
        assert event["callbackHeaders"]["X-Own"][0].startswith("REDACTED:")


async def test_what_a_callback_hides_is_hidden_by_the_message_that_it_belongs_to(
    server: Running, receiver: Receiver
) -> None:
    receiver.script("/bad", status(500))
    headers = {
        "Upstash-Failure-Callback": receiver.url("/callback"),
        "Upstash-Failure-Callback-Redact-Fields": "header[Authorization]",
        "Upstash-Failure-Callback-Forward-Authorization": "Bearer mine",
        "Upstash-Failure-Callback-Forward-Seen": "seen",
        "Upstash-Redact-Fields": "header[X]",
        "Upstash-Forward-X": "x",
    }
    message_id = await server.publish(receiver.url("/bad"), Upstash_Retries="0", **headers)
    waiting = await server.publish(receiver.url("/late"), Upstash_Delay="1d", **headers)
    await server.http.post(
        f"/v2/schedules/{receiver.url()}", headers=headers | {"Upstash-Cron": "0 0 1 1 *", "Upstash-Schedule-Id": "s"}
    )
    await server.settled(message_id, "FAILED")

    shown = await server.dead_letters()
    shown += [(await server.http.get(f"/v2/{path}")).json() for path in (f"messages/{waiting}", "schedules/s")]

    assert len(shown) == 3
    for one in shown:
        assert one["header"]["X"][0].startswith("REDACTED:")
        assert one["failureCallbackHeader"]["Seen"] == ["seen"]
        hidden = sha256(b"Bearer mine").hexdigest()
        assert one["failureCallbackHeader"]["Authorization"] == [f"REDACTED:{hidden}"]
    assert (await receiver.next_request("/callback")).header("Authorization") == "Bearer mine"


async def test_the_documentation_runs_no_script_but_its_own_and_nobody_frames_it(server: Running) -> None:
    answer = await server.http.get("/docs")
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    [inline] = re.findall(r"<script>(.*?)</script>", answer.text, re.DOTALL)
    digest = b64encode(sha256(inline.encode()).digest()).decode()

    assert policy["script-src"] == f"'self' 'sha256-{digest}'"
    assert (policy["default-src"], policy["connect-src"], policy["frame-ancestors"]) == ("'none'", "'self'", "'none'")
    assert "http" not in answer.headers["content-security-policy"]
    assert answer.headers["referrer-policy"] == "no-referrer"  # a token may be in the address
    for path in ("/docs", "/docs/assets/swagger-ui.css", "/openapi.json", "/v2/keys", "/v2/nothing"):
        assert (await server.http.get(path)).headers["x-content-type-options"] == "nosniff"
