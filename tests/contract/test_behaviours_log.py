"""What third-party clients demand of the log and of the dead letters, one behaviour at a time, in raw requests.

Each of these has been seen to break a client when it was otherwise.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from base64 import b64decode, b64encode
from datetime import timedelta
from typing import Any

import pytest

from tests.conftest import eventually
from tests.contract import accounts
from tests.contract.accounts import Account
from tests.moods import status
from tests.receiver import Receiver

pytestmark = pytest.mark.asyncio(loop_scope="module")
node, server, receiver = accounts.node, accounts.server, accounts.receiver


async def test_a_gzipped_answer_is_stored_decoded(server: Account, receiver: Receiver) -> None:
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


async def test_an_answer_is_text_in_dead_letters_and_base64_in_the_log(server: Account, receiver: Receiver) -> None:
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


async def test_a_misspelt_filter_is_refused_and_changes_nothing(server: Account, receiver: Receiver) -> None:
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


async def test_labels_are_a_comma_list(server: Account, receiver: Receiver) -> None:
    receiver.script("/", status(500))

    message_id = await server.publish(receiver.url(), Upstash_Label="one, two ,three", Upstash_Retries="0")

    await server.settled(message_id, "FAILED")
    views = [await server.message(message_id), *await server.dead_letters(label="two"), *await server.events()]
    assert len(views) == 6
    for view in views:
        assert (view["label"], view["labels"]) == ("one", ["one", "two", "three"])
    assert len(await server.events(label="three")) == 4
    assert await server.events(label="one, two") == await server.events()
    assert await server.events(label="thre") == []


async def test_values_of_one_field_mean_or_and_different_fields_and_when_reading(
    server: Account, receiver: Receiver
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
    server: Account, receiver: Receiver
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


async def test_ids_are_honoured_in_the_query_and_in_the_body(server: Account, receiver: Receiver) -> None:
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


async def test_an_empty_list_of_ids_names_nothing(server: Account, receiver: Receiver) -> None:
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


async def test_other_filters_are_passed_over_when_ids_are_given(server: Account, receiver: Receiver) -> None:
    receiver.script("/", status(500))
    waiting = await server.publish(receiver.url(), Upstash_Delay="1h", Upstash_Label="a")
    await server.settled(await server.publish(receiver.url(), Upstash_Retries="0", Upstash_Label="a"), "FAILED")
    [letter] = await server.dead_letters()

    cancelled = await server.http.delete("/v2/messages", params={"messageIds": waiting, "label": "other"})
    deleted = await server.http.delete("/v2/dlq", params={"dlqIds": letter["dlqId"], "label": "other"})

    assert (cancelled.json()["cancelled"], deleted.json()["deleted"]) == (1, 1)


async def test_count_limits_every_bulk_call(server: Account, receiver: Receiver) -> None:
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


async def test_a_dead_letter_is_gone_after_its_deletion_or_its_retry(server: Account, receiver: Receiver) -> None:
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


async def test_retrying_dead_letters_that_were_never_there_is_not_found(server: Account) -> None:
    for unknown in ("1-1", "nonsense"):
        assert (await server.http.post(f"/v2/dlq/retry/{unknown}")).status_code == 404
        assert (await server.http.post("/v2/dlq/retry", params={"dlqIds": unknown})).status_code == 404, unknown


async def test_the_cursor_is_absent_on_the_last_page(server: Account, receiver: Receiver) -> None:
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


async def test_failing_without_retries_makes_exactly_four_events(server: Account, receiver: Receiver) -> None:
    receiver.script("/", status(500))

    message_id = await server.publish(receiver.url(), Upstash_Retries="0")

    await server.settled(message_id, "FAILED")
    events = await server.events(messageId=message_id)
    assert [event["state"] for event in events] == ["FAILED", "ERROR", "ACTIVE", "CREATED"]
    assert [event["time"] for event in events] == sorted((event["time"] for event in events), reverse=True)


async def test_exhausted_retries_make_one_retry_event_less_than_errors(server: Account, receiver: Receiver) -> None:
    receiver.script("/", status(500))

    message_id = await server.publish(receiver.url(), Upstash_Retries="1", Upstash_Retry_Delay="0")

    assert await server.settled(message_id, "FAILED") == [
        "CREATED", "ACTIVE", "ERROR", "RETRY", "ACTIVE", "ERROR", "FAILED",
    ]  # fmt: skip


async def test_the_first_retry_comes_after_twelve_seconds(server: Account, receiver: Receiver) -> None:
    receiver.script("/", status(500), status(200))
    message_id = await server.publish(receiver.url())
    await server.settled(message_id, "RETRY")

    [retry] = await server.events(messageId=message_id, state="RETRY")

    assert 12_000 <= retry["nextDeliveryTime"] - retry["time"] < 13_000
    await server.time_passes(timedelta(seconds=13))
    await server.settled(message_id)
    assert [request.header("Upstash-Retried") for request in receiver.requests()] == ["0", "1"]


async def test_events_and_dead_letters_are_there_within_seconds(server: Account, receiver: Receiver) -> None:
    receiver.script("/fails", status(500))
    delivered = await server.publish(receiver.url())
    failed = await server.publish(receiver.url("/fails"), Upstash_Retries="0")

    events = lambda: server.events(messageId=delivered, state="DELIVERED")  # noqa: E731  asked again and again
    [event] = await eventually(events, bool, within=5)
    [letter] = await eventually(server.dead_letters, bool, within=10)

    assert (event["messageId"], letter["messageId"]) == (delivered, failed)


async def test_one_page_holds_four_hundred_events(server: Account, receiver: Receiver) -> None:
    receiver.script("/", status(500))
    await asyncio.gather(*(server.publish(receiver.url(), Upstash_Retries="0") for _ in range(100)))
    await eventually(lambda: server.events(state="FAILED"), lambda events: len(events) == 100)

    page = (await server.http.get("/v2/events")).json()

    assert len(page["events"]) == 400
    assert "cursor" not in page
    assert len(await server.dead_letters()) == 100


async def test_a_delivery_is_exactly_one_event(server: Account, receiver: Receiver) -> None:
    receiver.script("/", status(500), status(200))
    other = await server.publish(receiver.url("/other"))
    message_id = await server.publish(receiver.url(), Upstash_Retry_Delay="0")
    await server.settled(other)
    await server.settled(message_id)

    [event] = await server.events(messageId=message_id, state="DELIVERED")

    assert event["messageId"] == message_id


async def test_a_bulk_retry_may_say_that_there_is_no_next_page(server: Account, receiver: Receiver) -> None:
    receiver.script("/", status(500))
    for _ in range(3):
        await server.settled(await server.publish(receiver.url(), Upstash_Retries="0"), "FAILED")
    receiver.script("/", status(200))

    first = (await server.http.post("/v2/dlq/retry", params={"count": 2})).json()
    last = (await server.http.post("/v2/dlq/retry", params={"count": 2, "cursor": first["cursor"]})).json()
    nothing = (await server.http.post("/v2/dlq/retry")).json()

    assert first["cursor"]
    assert not last.get("cursor")
    assert [len(page["responses"]) for page in (first, last, nothing)] == [2, 1, 0]
    arrived = {request.header("Upstash-Message-Id") for request in (await receiver.wait_for(6))[3:]}
    assert arrived == {one["messageId"] for page in (first, last) for one in page["responses"]}


async def test_a_filter_by_api_never_means_everything(server: Account, receiver: Receiver) -> None:
    """Older clients filter by `api`, which is `llm` or nothing. What was sent to a URL was sent to no api."""
    receiver.script("/", status(500))
    for _ in range(2):
        await server.settled(await server.publish(receiver.url(), Upstash_Retries="0"), "FAILED")

    events = (await server.http.get("/v2/events", params={"api": "llm"})).json().get("events", [])
    listed = (await server.http.get("/v2/dlq", params={"api": "llm"})).json().get("messages", [])
    await server.http.post("/v2/dlq/retry", params={"api": "llm"})
    await server.http.delete("/v2/dlq", params={"api": "llm"})

    assert len(await server.dead_letters()) == 2
    assert len(receiver.requests()) == 2
    assert (events, listed) == ([], [])


async def test_dead_letters_of_workflows_are_none(server: Account, receiver: Receiver) -> None:
    """The client of workflows lists its dead letters by `source=workflow`, and must not be handed others."""
    receiver.script("/", status(500))
    await server.settled(await server.publish(receiver.url(), Upstash_Retries="0"), "FAILED")

    listed = (await server.http.get("/v2/dlq", params={"source": "workflow"})).json().get("messages", [])
    await server.http.delete("/v2/dlq", params={"source": "workflow"})

    assert len(await server.dead_letters()) == 1
    assert listed == []


async def test_both_paths_of_the_log_say_the_same(server: Account, receiver: Receiver) -> None:
    await server.settled(await server.publish(receiver.url()))

    events, logs = (await server.http.get("/v2/events")).json(), (await server.http.get("/v2/logs")).json()

    assert logs["logs"] == logs["events"] == events["events"]
    assert len(logs["logs"]) == 3


async def test_instants_are_in_milliseconds(server: Account, receiver: Receiver) -> None:
    receiver.script("/", status(500))
    message_id = await server.publish(
        receiver.url(), Upstash_Retry_Delay="5000", Upstash_Callback=receiver.url("/callback")
    )
    await server.settled(message_id, "RETRY")
    message = await server.message(message_id)
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


async def test_the_retry_expression_is_echoed_under_the_names_that_clients_read(
    server: Account, receiver: Receiver
) -> None:
    receiver.script("/", status(500))
    expression = "pow(2, retried) * 1000"
    message_id = await server.publish(receiver.url(), Upstash_Retries="0", Upstash_Retry_Delay=expression)
    await server.settled(message_id, "FAILED")

    [letter], events = await server.dead_letters(), await server.events()

    for view in (await server.message(message_id), letter, *events):
        assert view["retryDelayExpression"] == expression
    assert {event["retryDelayExpr"] for event in events} == {expression}


async def test_the_caller_is_shown_and_found_under_both_spellings(server: Account, receiver: Receiver) -> None:
    receiver.script("/", status(500))
    message_id = await server.publish(receiver.url(), Upstash_Retries="0")
    await server.settled(message_id, "FAILED")

    for name in ("callerIp", "callerIP"):
        assert len(await server.events(**{name: "127.0.0.1"})) == 4
        assert await server.events(**{name: "10.0.0.1"}) == []
        assert [letter["callerIP"] for letter in await server.dead_letters(**{name: "127.0.0.1"})] == ["127.0.0.1"]
        body = {name: "10.0.0.1"}
        assert (await server.http.request("DELETE", "/v2/messages", json=body)).json() == {"cancelled": 0}


async def test_dates_are_inclusive_to_the_millisecond_that_is_shown(server: Account, receiver: Receiver) -> None:
    """Whoever asks for the very instants that the server gave gets what it gave."""
    receiver.script("/", status(500))
    failed = await server.publish(receiver.url(), Upstash_Retries="0")
    await server.settled(failed, "FAILED")
    waiting = await server.publish(receiver.url(), Upstash_Delay="1h")
    created_at = (await server.message(waiting))["createdAt"]
    [letter] = await server.dead_letters()
    buried_at = int(letter["dlqId"].partition("-")[0])
    whole = await server.events()

    shown = [await server.events(fromDate=event["time"], toDate=event["time"]) for event in whole]
    letters = await server.dead_letters(fromDate=buried_at, toDate=buried_at)
    cancelled = await server.http.delete("/v2/messages", params={"fromDate": created_at, "toDate": created_at})

    at_that_time = [[other for other in whole if other["time"] == event["time"]] for event in whole]
    assert (shown, letters, cancelled.json()) == (at_that_time, [letter], {"cancelled": 1})


async def test_bodies_can_be_left_out_of_the_log(server: Account, receiver: Receiver) -> None:
    receiver.script("/", status(500, b"answer"))
    await server.settled(await server.publish(receiver.url(), b"body", Upstash_Retries="0"), "FAILED")

    for nothing in ("true", "0"):
        events = await server.events(trimBody=nothing)
        assert len(events) == 4
        assert all("body" not in event and "responseBody" not in event for event in events)
    assert all(event["body"] == b64encode(b"body").decode() for event in await server.events(trimBody="false"))


async def test_a_retry_of_a_dead_letter_keeps_what_it_does_not_override(server: Account, receiver: Receiver) -> None:
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
    message = await server.message(new)
    assert (message["maxRetries"], message["label"]) == (5, "l")
