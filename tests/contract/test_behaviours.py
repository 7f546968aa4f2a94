"""What third-party clients demand, one behaviour at a time, in raw requests.

Each of these has been seen to break a client when it was otherwise.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import re
import time
from base64 import b64decode, b64encode, urlsafe_b64encode
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import httpx
import jwt
import pytest

from tests.conftest import KEYS, TOKEN, Running, eventually
from tests.moods import hold, status
from tests.receiver import Receiver

JSON = {"Content-Type": "application/json"}


async def test_a_message_can_be_read_and_cancelled_right_after_its_end(server: Running, receiver: Receiver) -> None:
    receiver.script("/fails", status(500))
    delivered = await server.publish(receiver.url())
    failed = await server.publish(receiver.url("/fails"), Upstash_Retries="0")
    await server.settled(delivered)
    await server.settled(failed, "FAILED")

    for message_id in (delivered, failed):
        assert (await server.http.get(f"/v2/messages/{message_id}")).json()["messageId"] == message_id
        answer = await server.http.delete(f"/v2/messages/{message_id}")
        assert answer.is_success
        assert answer.json()["cancelled"] in (0, 1)
    assert (await server.states(delivered))[-1] == "DELIVERED"


async def test_header_maps_have_canonical_names_and_only_what_is_forwarded(server: Running, receiver: Receiver) -> None:
    """httpx adds User-Agent, Accept and others of its own, which must not show."""
    receiver.script("/", status(500))
    options = {
        "upstash-forward-test-header": "one",
        "UPSTASH-FORWARD-X-TRACE-ID": "two",
        "upstash-callback-forward-c-header": "three",
        "upstash-failure-callback-forward-f-header": "four",
        "upstash-callback": receiver.url("/callback"),
        "upstash-failure-callback": receiver.url("/failure"),
        "upstash-retries": "0",
        "upstash-telemetry-sdk": "x",
        "x-not-forwarded": "y",
    }

    answer = await server.http.post(f"/v2/publish/{receiver.url()}", headers=options)

    message_id = answer.json()["messageId"]
    await server.settled(message_id, "FAILED")
    message = (await server.http.get(f"/v2/messages/{message_id}")).json()
    [letter] = await server.dead_letters(messageId=message_id)
    [created] = await server.events(messageId=message_id, state="CREATED")
    for view in (message, letter, created):
        assert view["header"] == {"Test-Header": ["one"], "X-Trace-Id": ["two"]}
    for view in (message, letter):
        assert (view["callbackHeader"], view["failureCallbackHeader"]) == (
            {"C-Header": ["three"]}, {"F-Header": ["four"]},
        )  # fmt: skip
    assert (created["callbackHeaders"], created["failureCallbackHeaders"]) == (
        {"C-Header": ["three"]}, {"F-Header": ["four"]},
    )  # fmt: skip


async def test_the_content_type_is_shown_if_and_only_if_it_was_sent(server: Running, receiver: Receiver) -> None:
    without = await server.publish(receiver.url(), Upstash_Delay="1h")
    with_one = await server.publish(receiver.url(), Upstash_Delay="1h", content_type="text/x-y; charset=z")

    assert (await _message(server, without))["header"] == {}
    assert (await _message(server, with_one))["header"] == {"Content-Type": ["text/x-y; charset=z"]}


async def test_a_gzipped_answer_is_stored_decoded(server: Running, receiver: Receiver) -> None:
    body = gzip.compress(b"404 Not Found")
    receiver.script("/", status(404, body, [("Content-Encoding", "gzip"), ("Content-Type", "text/plain")]))

    message_id = await server.publish(
        receiver.url(), Upstash_Retries="0", Upstash_Failure_Callback=receiver.url("/failure")
    )

    await server.settled(message_id, "FAILED")
    [listed] = await server.dead_letters()
    single = (await server.http.get(f"/v2/dlq/{listed['dlqId']}")).json()
    assert listed["responseBody"] == single["responseBody"] == "404 Not Found"
    [error] = await server.events(messageId=message_id, state="ERROR")
    assert b64decode(error["responseBody"]) == b"404 Not Found"
    assert b64decode(json.loads((await receiver.next_request("/failure")).body)["body"]) == b"404 Not Found"


async def test_an_answer_is_text_in_dead_letters_and_base64_in_the_log(server: Running, receiver: Receiver) -> None:
    receiver.script("/text", status(500, "gruß".encode(), [("x-why", "load")]))
    receiver.script("/bytes", status(500, b"\xff\x00"))
    text = await server.publish(receiver.url("/text"), b"body", Upstash_Retries="0")
    raw = await server.publish(receiver.url("/bytes"), Upstash_Retries="0")
    await server.settled(text, "FAILED")
    await server.settled(raw, "FAILED")

    [letter] = await server.dead_letters(messageId=text)
    assert (letter["responseBody"], letter["responseStatus"]) == ("gruß", 500)
    assert "responseBodyBase64" not in letter
    assert letter["responseHeader"]["X-Why"] == ["load"]
    [letter] = await server.dead_letters(messageId=raw)
    assert letter["responseBodyBase64"] == "/wA="
    assert "responseBody" not in letter
    [error] = await server.events(messageId=text, state="ERROR")
    assert (b64decode(error["responseBody"]).decode(), error["responseStatus"]) == ("gruß", 500)
    assert error["responseHeader"]["X-Why"] == error["responseHeaders"]["X-Why"] == ["load"]
    assert b64decode(error["body"]) == b"body"


async def test_a_misspelt_filter_is_refused_and_changes_nothing(server: Running, receiver: Receiver) -> None:
    receiver.script("/", status(500))
    failed = await server.publish(receiver.url(), Upstash_Retries="0")
    await server.settled(failed, "FAILED")
    waiting = await server.publish(receiver.url(), Upstash_Delay="1h", Upstash_Label="x")

    changes = (("DELETE", "/v2/messages"), ("DELETE", "/v2/dlq"), ("POST", "/v2/dlq/retry"))
    reads = (("GET", "/v2/dlq"), ("GET", "/v2/events"), ("GET", "/v2/logs"))
    answers = [await server.http.request(*call, params={"labeel": "x"}) for call in changes + reads]
    answers += [await server.http.request(*call, json={"labeel": "x"}) for call in changes]

    for answer in answers:
        assert answer.status_code == 400, answer.request.url
        assert "labeel" in answer.json()["error"]
    assert len(await server.dead_letters()) == 1
    assert await server.states(waiting) == ["CREATED"]
    assert len(receiver.requests()) == 1


async def test_labels_are_a_comma_list(server: Running, receiver: Receiver) -> None:
    receiver.script("/", status(500))

    message_id = await server.publish(receiver.url(), Upstash_Label="one, two ,three", Upstash_Retries="0")

    await server.settled(message_id, "FAILED")
    views = [await _message(server, message_id), *await server.dead_letters(label="two"), *await server.events()]
    assert len(views) == 6
    for view in views:
        assert (view["label"], view["labels"]) == ("one", ["one", "two", "three"])
    assert len(await server.events(label="three")) == 4
    assert await server.events(label="one, two") == await server.events()
    assert await server.events(label="thre") == []


async def test_values_of_one_field_mean_or_and_different_fields_and_when_reading(
    server: Running, receiver: Receiver
) -> None:
    by_path = {path: await server.publish(receiver.url(path), Upstash_Label=path[1:]) for path in ("/a", "/b", "/c")}
    for message_id in by_path.values():
        await server.settled(message_id)

    async def found(*filters: tuple[str, str]) -> set[str]:
        answer = await server.http.get("/v2/events", params=filters)
        assert answer.status_code == 200, answer.text
        return {event["url"].removeprefix(receiver.url("")) for event in answer.json()["events"]}

    assert await found(("label", "a"), ("label", "b")) == await found(("label", "a,b")) == {"/a", "/b"}
    assert await found(("url", receiver.url("/a")), ("url", receiver.url("/c"))) == {"/a", "/c"}
    assert await found(("url", f"{receiver.url('/a')},{receiver.url('/c')}")) == {"/a", "/c"}
    assert await found(("messageIds", by_path["/a"]), ("messageIds", by_path["/b"])) == {"/a", "/b"}
    assert await found(("messageIds", f"{by_path['/a']},{by_path['/b']}")) == {"/a", "/b"}
    assert await found(("path", "/a"), ("path", "/b"), ("label", "b,c")) == {"/b"}
    assert await found(("host", "127.0.0.1"), ("label", "c")) == {"/c"}
    assert await found(("label", "a"), ("path", "/b")) == set()
    states = (await server.http.get("/v2/events", params=[("state", "CREATED,ACTIVE"), ("state", "FAILED")])).json()
    assert sorted(event["state"] for event in states["events"]) == ["ACTIVE"] * 3 + ["CREATED"] * 3


async def test_values_of_one_field_mean_or_and_different_fields_and_when_changing(
    server: Running, receiver: Receiver
) -> None:
    receiver.script("/fails", status(500))
    for label in "abcdefgh":
        await server.publish(receiver.url("/waits"), Upstash_Delay="1h", Upstash_Label=label)
        failed = await server.publish(receiver.url("/fails"), Upstash_Retries="0", Upstash_Label=label)
        await server.settled(failed, "FAILED")

    async def changed(method: str, path: str, *filters: tuple[str, str]) -> Any:
        answer = await server.http.request(method, path, params=filters)
        assert answer.is_success, answer.text
        return answer.json()

    waits, fails = ("url", receiver.url("/waits")), ("url", receiver.url("/fails"))
    for method, path, url, key in (
        ("DELETE", "/v2/messages", waits, "cancelled"),
        ("DELETE", "/v2/dlq", fails, "deleted"),
    ):
        assert (await changed(method, path, ("label", "a"), ("label", "b")))[key] == 2
        assert (await changed(method, path, ("label", "a,b,c"), url))[key] == 1
        assert (await changed(method, path, ("label", "d"), ("url", "http://other/")))[key] == 0
    retried = await changed("POST", "/v2/dlq/retry", ("label", "d"), ("label", "e,f"), ("responseStatus", "500"))
    assert len(retried["responses"]) == 3
    retried = await changed("POST", "/v2/dlq/retry", ("label", "g,h"), ("responseStatus", "404"))
    assert retried["responses"] == []


async def test_ids_are_honoured_in_the_query_and_in_the_body(server: Running, receiver: Receiver) -> None:
    receiver.script("/", status(500))
    ids = [await server.publish(receiver.url(), Upstash_Delay="1h") for _ in range(6)]
    for _ in range(6):
        await server.settled(await server.publish(receiver.url(), Upstash_Retries="0"), "FAILED")
    letters = [letter["dlqId"] for letter in await server.dead_letters()]

    for path, name, key, known in (
        ("/v2/messages", "messageIds", "cancelled", ids),
        ("/v2/dlq", "dlqIds", "deleted", letters),
    ):
        answers = [
            await server.http.request("DELETE", path, json={name: known[:1]}),
            await server.http.request("DELETE", path, params={name: known[1]}),
            await server.http.request("DELETE", path, params=[(name, known[2]), (name, known[3])]),
            await server.http.request("DELETE", path, params={name: f"{known[4]},{known[0]}"}),
        ]
        assert [answer.json()[key] for answer in answers] == [1, 1, 2, 1]

    assert await server.states(ids[5]) == ["CREATED"]
    assert [letter["dlqId"] for letter in await server.dead_letters()] == letters[5:]


async def test_an_empty_list_of_ids_names_nothing(server: Running, receiver: Receiver) -> None:
    """A client that filtered its ids down to none must not lose everything."""
    receiver.script("/", status(500))
    await server.settled(await server.publish(receiver.url(), Upstash_Retries="0"), "FAILED")
    waiting = await server.publish(receiver.url(), Upstash_Delay="1h")

    for method, path, name in (
        ("DELETE", "/v2/messages", "messageIds"),
        ("DELETE", "/v2/dlq", "dlqIds"),
        ("POST", "/v2/dlq/retry", "dlqIds"),
    ):
        await server.http.request(method, path, params={name: ""})
        await server.http.request(method, path, json={name: []})

    assert await server.states(waiting) == ["CREATED"]
    assert len(await server.dead_letters()) == 1


async def test_other_filters_are_passed_over_when_ids_are_given(server: Running, receiver: Receiver) -> None:
    receiver.script("/", status(500))
    waiting = await server.publish(receiver.url(), Upstash_Delay="1h", Upstash_Label="a")
    await server.settled(await server.publish(receiver.url(), Upstash_Retries="0", Upstash_Label="a"), "FAILED")
    [letter] = await server.dead_letters()

    cancelled = await server.http.delete("/v2/messages", params={"messageIds": waiting, "label": "other"})
    deleted = await server.http.delete("/v2/dlq", params={"dlqIds": letter["dlqId"], "label": "other"})

    assert (cancelled.json()["cancelled"], deleted.json()["deleted"]) == (1, 1)


async def test_messages_that_do_not_exist_are_cancelled_zero_times(server: Running, receiver: Receiver) -> None:
    await server.publish(receiver.url(), Upstash_Delay="1h")

    for ids in (["msg_1111111111111111111111"], ["nonsense"], ["msg_1111111111111111111111", "x"]):
        for answer in (
            await server.http.delete("/v2/messages", params={"messageIds": ids}),
            await server.http.request("DELETE", "/v2/messages", json={"messageIds": ids}),
        ):
            assert answer.is_success
            assert answer.json()["cancelled"] == 0
    for message_id in ("msg_1111111111111111111111", "nonsense"):
        assert (await server.http.delete(f"/v2/messages/{message_id}")).status_code == 404


async def test_cancelling_without_ids_or_filters_cancels_everything(server: Running, receiver: Receiver) -> None:
    requests: list[dict[str, Any]] = [{}, {"headers": JSON}, {"headers": JSON, "content": b""}, {"json": {}}]
    for request in requests:
        for _ in range(2):
            await server.publish(receiver.url(), Upstash_Delay="1h")

        answer = await server.http.request("DELETE", "/v2/messages", **request)

        assert answer.status_code in (200, 202)
        assert answer.json() == {"cancelled": 2}


async def test_cancelling_everything_counts_exactly_what_lives(server: Running, receiver: Receiver) -> None:
    """Waiting, waiting for a retry, in flight, and a callback that lingers; not what has ended."""
    release = asyncio.Event()
    receiver.script("/fails", status(500))
    receiver.script("/holds", hold(release))
    await server.settled(await server.publish(receiver.url("/ends"), Upstash_Callback=receiver.url("/fails")))
    await server.settled(await server.publish(receiver.url("/fails"), Upstash_Retries="0"), "FAILED")
    await server.publish(receiver.url(), Upstash_Delay="1h")
    await server.settled(await server.publish(receiver.url("/fails")), "RETRY")
    await server.publish(receiver.url("/holds"))
    await receiver.next_request("/holds")
    await eventually(lambda: server.events(state="RETRY"), lambda events: len(events) == 2)

    first = (await server.http.delete("/v2/messages")).json()
    second = (await server.http.delete("/v2/messages")).json()

    release.set()
    assert (first, second) == ({"cancelled": 4}, {"cancelled": 0})


async def test_attempted_messages_and_those_in_flight_can_be_cancelled_by_id(
    server: Running, receiver: Receiver
) -> None:
    release = asyncio.Event()
    receiver.script("/fails", status(500))
    receiver.script("/holds", hold(release, status(500)))
    attempted = await server.publish(receiver.url("/fails"))
    in_flight = await server.publish(receiver.url("/holds"), Upstash_Retry_Delay="0")
    await server.settled(attempted, "RETRY")
    await receiver.next_request("/holds")

    answer = await server.http.request("DELETE", "/v2/messages", json={"messageIds": [attempted, in_flight]})

    release.set()
    assert answer.json() == {"cancelled": 2}
    await server.settled(attempted, "CANCELED")
    await server.settled(in_flight, "CANCELED")
    assert len(receiver.requests()) == 2
    assert await server.dead_letters() == []


async def test_a_single_cancel_answers_json(server: Running, receiver: Receiver) -> None:
    message_id = await server.publish(receiver.url(), Upstash_Delay="1h")

    answer = await server.http.delete(f"/v2/messages/{message_id}", headers=JSON)

    assert (answer.status_code, answer.json()) == (202, {"cancelled": 1})
    assert answer.headers["Content-Type"].startswith("application/json")


async def test_a_cancelled_message_is_found_under_both_spellings(server: Running, receiver: Receiver) -> None:
    message_id = await server.publish(receiver.url(), Upstash_Delay="1h")
    await server.http.delete(f"/v2/messages/{message_id}")

    for spelling in ("CANCELED", "CANCELLED"):
        assert [event["state"] for event in await server.events(state=spelling)] == ["CANCELED"]


async def test_count_limits_every_bulk_call(server: Running, receiver: Receiver) -> None:
    receiver.script("/", status(500))
    for _ in range(5):
        await server.settled(await server.publish(receiver.url(), Upstash_Retries="0"), "FAILED")
        await server.publish(receiver.url(), Upstash_Delay="1h")

    cancelled = [(await server.http.delete("/v2/messages?count=3")).json()["cancelled"] for _ in range(3)]
    deleted = (await server.http.delete("/v2/dlq?count=2")).json()
    retried = (await server.http.post("/v2/dlq/retry?count=2")).json()

    assert cancelled == [3, 2, 0]
    assert deleted["deleted"] == 2
    assert len(retried["responses"]) == 2


async def test_a_dead_letter_is_gone_after_its_deletion_or_its_retry(server: Running, receiver: Receiver) -> None:
    receiver.script("/", status(500))
    for _ in range(3):
        await server.settled(await server.publish(receiver.url(), Upstash_Retries="0"), "FAILED")
    one, two, three = [letter["dlqId"] for letter in await server.dead_letters()]
    receiver.script("/", status(200))

    assert (await server.http.delete(f"/v2/dlq/{one}")).status_code == 200
    assert (await server.http.post(f"/v2/dlq/retry/{two}")).status_code == 201
    assert (await server.http.post("/v2/dlq/retry", params={"dlqIds": three})).status_code == 201

    assert await server.dead_letters() == []
    for gone in (one, two, three):
        for answer in (
            await server.http.get(f"/v2/dlq/{gone}"),
            await server.http.delete(f"/v2/dlq/{gone}"),
            await server.http.post(f"/v2/dlq/retry/{gone}"),
            await server.http.post("/v2/dlq/retry", params={"dlqIds": gone}),
        ):
            assert answer.status_code == 404, answer.request.url
            assert isinstance(answer.json()["error"], str)


async def test_retrying_dead_letters_that_were_never_there_is_not_found(server: Running) -> None:
    for unknown in ("1-1", "nonsense"):
        assert (await server.http.post(f"/v2/dlq/retry/{unknown}")).status_code == 404
        assert (await server.http.post("/v2/dlq/retry", params={"dlqIds": unknown})).status_code == 404, unknown


async def test_the_cursor_is_absent_on_the_last_page(server: Running, receiver: Receiver) -> None:
    """Beside `deleted`, one client decodes a map of integers, and others go on for as long as there is a cursor."""
    receiver.script("/", status(500))
    for _ in range(2):
        await server.settled(await server.publish(receiver.url(), Upstash_Retries="0"), "FAILED")

    for path, count in (("/v2/events", 8), ("/v2/logs", 8), ("/v2/dlq", 2)):
        for last in ({}, {"count": count}, {"count": count + 1}):
            assert "cursor" not in (await server.http.get(path, params=last)).json()
        page = (await server.http.get(path, params={"count": count - 1})).json()
        assert isinstance(page["cursor"], str)
        assert "cursor" not in (await server.http.get(path, params={"cursor": page["cursor"]})).json()
    assert (await server.http.delete("/v2/dlq", params={"count": 2})).json() == {"deleted": 2}
    assert (await server.http.delete("/v2/dlq")).json() == {"deleted": 0}


async def test_failing_without_retries_makes_exactly_four_events(server: Running, receiver: Receiver) -> None:
    receiver.script("/", status(500))

    message_id = await server.publish(receiver.url(), Upstash_Retries="0")

    await server.settled(message_id, "FAILED")
    events = await server.events(messageId=message_id)
    assert [event["state"] for event in events] == ["FAILED", "ERROR", "ACTIVE", "CREATED"]
    assert [event["time"] for event in events] == sorted((event["time"] for event in events), reverse=True)


async def test_one_page_holds_four_hundred_events(server: Running, receiver: Receiver) -> None:
    receiver.script("/", status(500))
    await asyncio.gather(*(server.publish(receiver.url(), Upstash_Retries="0") for _ in range(100)))
    await eventually(lambda: server.events(state="FAILED"), lambda events: len(events) == 100)

    page = (await server.http.get("/v2/events")).json()

    assert len(page["events"]) == 400
    assert "cursor" not in page
    assert len(await server.dead_letters()) == 100


async def test_a_delivery_is_exactly_one_event(server: Running, receiver: Receiver) -> None:
    receiver.script("/", status(500), status(200))
    other = await server.publish(receiver.url("/other"))
    message_id = await server.publish(receiver.url(), Upstash_Retry_Delay="0")
    await server.settled(other)
    await server.settled(message_id)

    [event] = await server.events(messageId=message_id, state="DELIVERED")

    assert event["messageId"] == message_id


async def test_both_paths_of_the_log_say_the_same(server: Running, receiver: Receiver) -> None:
    await server.settled(await server.publish(receiver.url()))

    events, logs = (await server.http.get("/v2/events")).json(), (await server.http.get("/v2/logs")).json()

    assert logs["logs"] == logs["events"] == events["events"]
    assert len(logs["logs"]) == 3


async def test_instants_are_in_milliseconds(server: Running, receiver: Receiver) -> None:
    receiver.script("/", status(500))
    message_id = await server.publish(
        receiver.url(), Upstash_Retry_Delay="5000", Upstash_Callback=receiver.url("/callback")
    )
    await server.settled(message_id, "RETRY")
    message = await _message(server, message_id)
    [retry] = await server.events(messageId=message_id, state="RETRY")
    callback = json.loads((await receiver.next_request("/callback")).body)

    now = time.time() * 1000
    for instant in (
        message["createdAt"], message["notBefore"], callback["createdAt"], callback["notBefore"],
        retry["time"], retry["nextDeliveryTime"],
    ):  # fmt: skip
        assert isinstance(instant, int)
        assert abs(instant - now) < 60_000
    assert message["notBefore"] == message["createdAt"]
    assert retry["nextDeliveryTime"] - retry["time"] == 5000


async def test_not_before_is_in_seconds(server: Running, receiver: Receiver) -> None:
    at = int(time.time()) + 3600

    message_id = await server.publish(receiver.url(), Upstash_Not_Before=str(at))

    assert (await _message(server, message_id))["notBefore"] == at * 1000
    [created] = await server.events(messageId=message_id)
    assert created["nextDeliveryTime"] == at * 1000


async def test_durations_can_be_compound(server: Running, receiver: Receiver) -> None:
    for text, seconds in (("50s", 50), ("1h30m3s", 5403), ("1d10h30m", 124_200), ("2m", 120), ("30", 30)):
        message_id = await server.publish(receiver.url(), Upstash_Delay=text)
        message = await _message(server, message_id)
        assert message["notBefore"] - message["createdAt"] == seconds * 1000
    for text, seconds in (("1m30s", 90), ("1h", 3600), ("45", 45)):
        message_id = await server.publish(receiver.url(), Upstash_Delay="1h", Upstash_Timeout=text)
        [created] = await server.events(messageId=message_id)
        assert created["timeout"] == seconds * 1000


async def test_the_retry_expression_is_echoed_under_the_names_that_clients_read(
    server: Running, receiver: Receiver
) -> None:
    receiver.script("/", status(500))
    expression = "pow(2, retried) * 1000"
    message_id = await server.publish(receiver.url(), Upstash_Retries="0", Upstash_Retry_Delay=expression)
    await server.settled(message_id, "FAILED")

    [letter], events = await server.dead_letters(), await server.events()

    for view in (await _message(server, message_id), letter, *events):
        assert view["retryDelayExpression"] == expression
    assert {event["retryDelayExpr"] for event in events} == {expression}


ERRORS = [
    ("GET", "/v2/nothing", 404),
    ("GET", "/", 404),
    ("POST", "/v2/messages/a/b/c", 404),
    ("PUT", "/v2/messages", 405),
    ("PATCH", "/v2/dlq", 405),
    ("POST", "/v2/events", 405),
    ("GET", "/v2/publish/http://127.0.0.1:9", 405),
    ("GET", "/v2/messages/msg_1111111111111111111111", 404),
    ("GET", "/v2/dlq/1-1", 404),
    ("GET", "/v2/events?state=NONSENSE", 400),
    ("GET", "/v2/events?count=none", 400),
    ("GET", "/v2/dlq?cursor=nonsense", 400),
    ("GET", "/v2/dlq?fromDate=yesterday", 400),
    ("POST", "/v2/publish/", 400),
    ("POST", "/v2/messages/nonsense/retry", 400),
]


async def test_every_error_is_a_json_object_with_a_text(server: Running) -> None:
    answers = [(await server.http.request(method, path), code) for method, path, code in ERRORS]
    answers += [
        (await server.http.request("DELETE", path, content=body, headers=JSON), 400)
        for path in ("/v2/messages", "/v2/dlq")
        for body in (b"{", b"[]", b'"x"', b"\xff")
    ]
    anonymous = {"Authorization": ""}
    for method, path in (("GET", "/v2/keys"), ("DELETE", "/v2/messages"), ("POST", "/v2/publish/http://127.0.0.1:9")):
        answers.append((await server.http.request(method, path, headers=anonymous), 401))

    for answer, code in answers:
        assert answer.status_code == code, f"{answer.request.method} {answer.request.url}: {answer.text}"
        assert answer.headers["Content-Type"].startswith("application/json")
        assert isinstance(answer.json()["error"], str)


async def test_a_token_can_be_a_query_parameter_everywhere(server: Running, receiver: Receiver) -> None:
    anonymous = {"Authorization": ""}
    token = {"qstash_token": TOKEN}

    published = await server.http.post(f"/v2/publish/{receiver.url('/x?a=1')}&qstash_token={TOKEN}", headers=anonymous)
    keys = await server.http.get("/v2/keys", params=token, headers=anonymous)
    cancelled = await server.http.delete("/v2/messages", params=token, headers=anonymous)
    wrong = await server.http.get("/v2/keys", params={"qstash_token": "wrong"}, headers=anonymous)

    assert [one.status_code for one in (published, keys, cancelled, wrong)] == [201, 200, 202, 401]
    assert (await receiver.next_request()).target == "/x?a=1"


async def test_paths_are_read_in_any_case_and_with_needless_slashes(server: Running) -> None:
    for path in ("/v2/Keys", "/V2/keys", "//v2/keys", "/v2/keys/", "/v2/KEYS"):
        answer = await server.http.get(httpx.URL(f"{server.url}{path}"))
        assert answer.json() == {"current": KEYS.current, "next": KEYS.next}, path
    for path in ("/v2/DLQ", "/v2/Events/", "//v2/Logs"):
        assert (await server.http.get(httpx.URL(f"{server.url}{path}"))).status_code == 200, path
    assert (await server.http.delete("/v2/Messages/")).json() == {"cancelled": 0}


async def test_every_fixed_segment_of_a_path_is_read_in_any_case(server: Running) -> None:
    assert (await server.http.post("/v2/Dlq/Retry")).status_code == 201
    assert (await server.http.post("/v2/Keys/Rotate")).json()["current"] == KEYS.next


@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_keys_are_rotated_on_every_path_that_clients_use(server: Running, method: str) -> None:
    following = KEYS.next
    for path in ("/v2/keys/rotate", "/v2/rotate"):
        answer = await server.http.request(method, path)

        assert answer.status_code == 200, answer.text
        assert answer.json()["current"] == following
        following = answer.json()["next"]
        assert re.fullmatch(r"sig_[1-9A-HJ-NP-Za-km-z]{28}", following)
        assert (await server.http.get("/v2/keys")).json() == answer.json()


async def test_a_signature_has_exactly_the_claims_that_receivers_check(server: Running, receiver: Receiver) -> None:
    """PyJWT as it comes refuses a jti that is no string, an audience nobody asked for and an iat in the future."""
    url, body = receiver.url("/a?b=%20c&d"), "grüße".encode()
    await server.publish(url, body)
    request = await receiver.next_request()
    token = request.header("Upstash-Signature") or ""

    claims = jwt.decode(
        token, KEYS.current, algorithms=["HS256"], issuer="Upstash",
        options={"require": ["iss", "sub", "exp", "nbf", "iat", "jti", "body"]},
    )  # fmt: skip

    assert jwt.get_unverified_header(token) == {"alg": "HS256", "typ": "JWT"}
    assert claims["sub"] == url
    assert claims["exp"] == claims["iat"] + 300
    assert claims["nbf"] in (0, claims["iat"])
    assert claims["iat"] <= time.time()
    assert isinstance(claims["jti"], str)
    assert claims["body"] == urlsafe_b64encode(hashlib.sha256(body).digest()).decode()
    assert not claims.get("aud")


async def test_what_was_not_set_is_absent_and_never_null(server: Running, receiver: Receiver) -> None:
    receiver.script("/", status(500))
    message_id = await server.publish(receiver.url(), Upstash_Retries="0")
    await server.settled(message_id, "FAILED")

    [letter], events = await server.dead_letters(), await server.events()

    views = [await _message(server, message_id), letter, *events]
    unset = {
        "flowControlKey", "rate", "period", "parallelism", "label", "labels", "queueName", "scheduleId", "topicName",
        "endpointName", "callback", "failureCallback", "retryDelayExpression", "timeout", "error",
    }  # fmt: skip
    for view in views:
        allowed = {"error"} if view.get("state") in ("ERROR", "FAILED") else set()
        assert set(view) & unset == allowed
        assert list(_nulls(view)) == []
    assert {"messageId", "url", "method", "header", "maxRetries", "notBefore", "createdAt"} <= set(views[0])
    assert {"dlqId", "responseStatus"} <= set(letter)
    assert letter["body"] == "" or "body" not in letter


async def test_ids_have_the_shapes_that_clients_expect(server: Running, receiver: Receiver) -> None:
    receiver.script("/", status(500))
    message_id = await server.publish(receiver.url(), Upstash_Retries="0")
    await server.settled(message_id, "FAILED")

    [letter] = await server.dead_letters()

    assert re.fullmatch(r"msg_[A-Za-z0-9]+", message_id)
    assert re.fullmatch(r"\d{13}-\d+", letter["dlqId"])


async def test_the_caller_is_shown_and_found_under_both_spellings(server: Running, receiver: Receiver) -> None:
    receiver.script("/", status(500))
    message_id = await server.publish(receiver.url(), Upstash_Retries="0")
    await server.settled(message_id, "FAILED")

    for name in ("callerIp", "callerIP"):
        assert len(await server.events(**{name: "127.0.0.1"})) == 4
        assert await server.events(**{name: "10.0.0.1"}) == []
        assert [letter["callerIP"] for letter in await server.dead_letters(**{name: "127.0.0.1"})] == ["127.0.0.1"]
        body = {name: "10.0.0.1"}
        assert (await server.http.request("DELETE", "/v2/messages", json=body)).json() == {"cancelled": 0}


async def test_dates_are_inclusive_to_the_millisecond_that_is_shown(server: Running, receiver: Receiver) -> None:
    """Whoever asks for the very instants that the server gave gets what it gave."""
    receiver.script("/", status(500))
    failed = await server.publish(receiver.url(), Upstash_Retries="0")
    await server.settled(failed, "FAILED")
    waiting = await server.publish(receiver.url(), Upstash_Delay="1h")
    created_at = (await _message(server, waiting))["createdAt"]
    [letter] = await server.dead_letters()
    buried_at = int(letter["dlqId"].partition("-")[0])
    whole = await server.events()

    shown = [await server.events(fromDate=event["time"], toDate=event["time"]) for event in whole]
    letters = await server.dead_letters(fromDate=buried_at, toDate=buried_at)
    cancelled = await server.http.delete("/v2/messages", params={"fromDate": created_at, "toDate": created_at})

    at_that_time = [[other for other in whole if other["time"] == event["time"]] for event in whole]
    assert (shown, letters, cancelled.json()) == (at_that_time, [letter], {"cancelled": 1})


async def test_bodies_can_be_left_out_of_the_log(server: Running, receiver: Receiver) -> None:
    receiver.script("/", status(500, b"answer"))
    await server.settled(await server.publish(receiver.url(), b"body", Upstash_Retries="0"), "FAILED")

    assert all("body" not in event and "responseBody" not in event for event in await server.events(trimBody="true"))
    assert all(event["body"] == b64encode(b"body").decode() for event in await server.events(trimBody="0"))


async def test_a_retry_of_a_dead_letter_keeps_what_it_does_not_override(server: Running, receiver: Receiver) -> None:
    receiver.script("/", status(500))
    old = await server.publish(
        receiver.url(), b"body", Content_Type="text/x", Upstash_Forward_A="1", Upstash_Forward_B="2",
        Upstash_Retries="0", Upstash_Label="l", Upstash_Method="PUT",
    )  # fmt: skip
    await server.settled(old, "FAILED")
    [letter] = await server.dead_letters()
    receiver.script("/", status(200))

    answer = await server.http.post(
        f"/v2/dlq/retry/{letter['dlqId']}",
        headers={"Upstash-Retries": "5", "Upstash-Callback": receiver.url("/callback"), "Upstash-Forward-A": "3"},
    )

    new = answer.json()["messageId"]
    report = json.loads((await receiver.next_request("/callback")).body)
    request = receiver.requests("/")[1]
    assert (request.method, request.body, request.header("Content-Type")) == ("PUT", b"body", "text/x")
    assert (request.header("A"), request.header("B")) == ("3", "2")
    assert report["sourceMessageId"] == new != old
    message = await _message(server, new)
    assert (message["maxRetries"], message["label"]) == (5, "l")


async def test_a_retry_now_comes_at_once_and_is_counted_as_the_retry_that_it_is(
    server: Running, receiver: Receiver
) -> None:
    receiver.script("/", status(500), status(200))
    message_id = await server.publish(receiver.url(), Upstash_Retry_Delay="3600000")
    await server.settled(message_id, "RETRY")

    answer = await server.http.post(f"/v2/messages/{message_id}/retry")

    assert answer.status_code == 200
    await server.settled(message_id)
    assert [request.header("Upstash-Retried") for request in receiver.requests()] == ["0", "1"]


async def test_a_finished_message_does_not_block_its_deduplication_id_from_being_found(
    server: Running, receiver: Receiver
) -> None:
    """The window counts from the publish, whatever has become of the message."""
    first = await server.publish(receiver.url(), Upstash_Deduplication_Id="once")
    await server.settled(first)
    cancelled = await server.publish(receiver.url(), Upstash_Deduplication_Id="other", Upstash_Delay="1h")
    await server.http.delete(f"/v2/messages/{cancelled}")

    assert await server.publish(receiver.url(), Upstash_Deduplication_Id="once") == first
    assert await server.publish(receiver.url(), Upstash_Deduplication_Id="other") == cancelled
    assert len(receiver.requests()) == 1


async def test_a_callback_is_a_message_like_any_other(server: Running, receiver: Receiver) -> None:
    receiver.script("/work", status(500, b"no"))
    receiver.script("/failure", status(501, b"neither"))

    source = await server.publish(
        receiver.url("/work"), b"x", Upstash_Retries="0", Upstash_Failure_Callback=receiver.url("/failure")
    )

    request = await receiver.next_request("/failure")
    own = request.header("Upstash-Message-Id") or ""
    assert own != source
    claims = jwt.decode(request.header("Upstash-Signature") or "", KEYS.current, algorithms=["HS256"])
    assert claims["sub"] == receiver.url("/failure")
    assert request.header("Content-Type") == "application/json"
    assert await server.settled(own, "FAILED") == ["CREATED", "ACTIVE", "ERROR", "FAILED"]
    assert {letter["messageId"] for letter in await server.dead_letters()} == {source, own}


async def test_cancelled_messages_neither_fail_nor_report(server: Running, receiver: Receiver) -> None:
    receiver.script("/work", status(500))
    message_id = await server.publish(receiver.url("/work"), Upstash_Failure_Callback=receiver.url("/failure"))
    await server.settled(message_id, "RETRY")

    await server.http.delete(f"/v2/messages/{message_id}")
    await server.time_passes(timedelta(days=1))
    await server.drain()

    assert (await server.states(message_id))[-2:] == ["CANCEL_REQUESTED", "CANCELED"]
    assert receiver.requests("/failure") == []
    assert await server.dead_letters() == []


async def _message(server: Running, message_id: str) -> dict[str, Any]:
    answer = await server.http.get(f"/v2/messages/{message_id}")
    assert answer.status_code == 200, answer.text
    message: dict[str, Any] = answer.json()
    return message


def _nulls(document: Any, path: str = "") -> Iterator[str]:
    """Where the document holds null."""
    match document:
        case None:
            yield path
        case dict():
            for name, value in document.items():
                yield from _nulls(value, f"{path}.{name}")
        case list():
            for index, value in enumerate(document):
                yield from _nulls(value, f"{path}[{index}]")
