"""What third-party clients demand of messages and of the API as a whole, one behaviour at a time, in raw requests.

Each of these has been seen to break a client when it was otherwise.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import httpx
import jwt
import pytest

from tests.conftest import eventually
from tests.contract import accounts
from tests.contract.accounts import Account
from tests.moods import hold, status
from tests.receiver import Receiver

pytestmark = pytest.mark.asyncio(loop_scope="module")
node, server, receiver = accounts.node, accounts.server, accounts.receiver

JSON = {"Content-Type": "application/json"}


async def test_a_message_can_be_read_and_cancelled_right_after_its_end(server: Account, receiver: Receiver) -> None:
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


async def test_header_maps_have_canonical_names_and_only_what_is_forwarded(server: Account, receiver: Receiver) -> None:
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


async def test_the_content_type_is_shown_if_and_only_if_it_was_sent(server: Account, receiver: Receiver) -> None:
    without = await server.publish(receiver.url(), Upstash_Delay="1h")
    with_one = await server.publish(receiver.url(), Upstash_Delay="1h", content_type="text/x-y; charset=z")

    assert (await server.message(without))["header"] == {}
    assert (await server.message(with_one))["header"] == {"Content-Type": ["text/x-y; charset=z"]}


@pytest.mark.parametrize("query", ["a=1&b=2", "b=%2F%20+&a=&c", "url=http://x/?y", "q=a&q=b", "Upstash=1&cron=x"])
async def test_the_query_string_of_a_destination_arrives_as_it_was_written(
    server: Account, receiver: Receiver, query: str
) -> None:
    target = f"/hook?{query}"
    answers = [
        await server.http.post(f"{server.url}/v2/{way}/{receiver.url(target)}") for way in ("publish", "enqueue/q")
    ] + [await server.http.post("/v2/batch", json=[{"destination": receiver.url(target)}])]

    assert all(answer.is_success for answer in answers), [answer.text for answer in answers]
    assert [request.target for request in await receiver.wait_for(3)] == [target] * 3


async def test_parameters_of_ours_do_not_reach_the_destination(server: Account, receiver: Receiver) -> None:
    destination = receiver.url("/hook?a=1&upstash-method=PUT&b=2&upstash-forward-x-y=z")

    await server.http.post(f"/v2/publish/{destination}")

    request = await receiver.next_request()
    assert (request.method, request.target, request.header("X-Y")) == ("PUT", "/hook?a=1&b=2", "z")


async def test_a_scheme_that_a_proxy_has_collapsed_is_repaired(server: Account, receiver: Receiver) -> None:
    collapsed = receiver.url("/a//b?c=//d").replace("http://", "http:/")

    for way in ("publish", "enqueue/q"):
        answer = await server.http.post(f"/v2/{way}/{collapsed}")
        assert answer.is_success, answer.text
        assert (await receiver.next_request()).target == "/a//b?c=//d"
    made = await server.http.post(f"/v2/schedules/{collapsed}", headers={"Upstash-Cron": "0 0 1 1 *"})
    schedule = (await server.http.get(f"/v2/schedules/{made.json()['scheduleId']}")).json()
    assert schedule["destination"] == receiver.url("/a//b?c=//d")


async def test_the_texts_that_clients_compare(server: Account) -> None:
    cron = {"Upstash-Cron": "* * * * *"}
    batch = [{"destination": ""}]
    empty = [
        await server.http.post(f"/v2/{path}", headers=headers)
        for path, headers in (("publish/", {}), ("publish", {}), ("enqueue/q/", {}), ("schedules/", cron))
    ]
    unknown = [
        await server.http.post(f"/v2/{path}/nobody", headers=headers)
        for path, headers in (("publish", {}), ("enqueue/q", {}), ("schedules", cron))
    ]
    unknown += [await server.http.get("/v2/topics/nobody")]

    for answer in empty:
        assert (answer.status_code, answer.json()) == (400, {"error": "a non-empty destination must be provided"})
    for answer in unknown:
        assert answer.status_code in (400, 404)
        assert answer.json() == {"error": "topic nobody not found"}
    for items, text in ((batch, "a non-empty destination must be provided"),
                        ([{"destination": "nobody"}], "topic nobody not found")):  # fmt: skip
        answer = await server.http.post("/v2/batch", json=items)
        assert answer.json()["error"].startswith(text)


async def test_messages_that_do_not_exist_are_cancelled_zero_times(server: Account, receiver: Receiver) -> None:
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


async def test_cancelling_without_ids_or_filters_cancels_everything(server: Account, receiver: Receiver) -> None:
    requests: list[dict[str, Any]] = [{}, {"headers": JSON}, {"headers": JSON, "content": b""}, {"json": {}}]
    for request in requests:
        for _ in range(2):
            await server.publish(receiver.url(), Upstash_Delay="1h")

        answer = await server.http.request("DELETE", "/v2/messages", **request)

        assert answer.status_code in (200, 202)
        assert answer.json() == {"cancelled": 2}


async def test_cancelling_everything_counts_exactly_what_lives(server: Account, receiver: Receiver) -> None:
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
    server: Account, receiver: Receiver
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


async def test_a_single_cancel_answers_json(server: Account, receiver: Receiver) -> None:
    message_id = await server.publish(receiver.url(), Upstash_Delay="1h")

    answer = await server.http.delete(f"/v2/messages/{message_id}", headers=JSON)

    assert (answer.status_code, answer.json()) == (202, {"cancelled": 1})
    assert answer.headers["Content-Type"].startswith("application/json")


async def test_a_cancelled_message_is_found_under_both_spellings(server: Account, receiver: Receiver) -> None:
    message_id = await server.publish(receiver.url(), Upstash_Delay="1h")
    await server.http.delete(f"/v2/messages/{message_id}")

    for spelling in ("CANCELED", "CANCELLED"):
        assert [event["state"] for event in await server.events(state=spelling)] == ["CANCELED"]


async def test_not_before_is_in_seconds(server: Account, receiver: Receiver) -> None:
    at = int(time.time()) + 3600

    message_id = await server.publish(receiver.url(), Upstash_Not_Before=str(at))

    assert (await server.message(message_id))["notBefore"] == at * 1000
    [created] = await server.events(messageId=message_id)
    assert created["nextDeliveryTime"] == at * 1000


async def test_durations_can_be_compound(server: Account, receiver: Receiver) -> None:
    for text, seconds in (("50s", 50), ("1h30m3s", 5403), ("1d10h30m", 124_200), ("2m", 120), ("30", 30)):
        message_id = await server.publish(receiver.url(), Upstash_Delay=text)
        message = await server.message(message_id)
        assert message["notBefore"] - message["createdAt"] == seconds * 1000
    for text, seconds in (("1m30s", 90), ("1h", 3600), ("45", 45)):
        message_id = await server.publish(receiver.url(), Upstash_Delay="1h", Upstash_Timeout=text)
        [created] = await server.events(messageId=message_id)
        assert created["timeout"] == seconds * 1000


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
    ("GET", "/v2/queues/none", 404),
    ("GET", "/v2/topics/none", 404),
    ("GET", "/v2/schedules/none", 404),
    ("GET", "/v2/flowControl/none", 404),
    ("GET", "/v2/bulkActions/none", 404),
    ("DELETE", "/v2/queues", 405),
    ("POST", "/v2/queues", 400),
    ("POST", "/v2/batch", 400),
    ("POST", "/v2/enqueue/a b/http://127.0.0.1:9", 400),
    ("POST", "/v2/schedules/http://127.0.0.1:9", 400),
    ("POST", "/v2/topics/g/endpoints", 400),
    ("POST", "/v2/flowControl/k/pin", 400),
    ("POST", "/v2/queues/none/pause", 404),
    ("PATCH", "/v2/schedules/none/pause", 404),
]


async def test_every_error_is_a_json_object_with_a_text(server: Account) -> None:
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


async def test_a_token_can_be_a_query_parameter_everywhere(server: Account, receiver: Receiver) -> None:
    anonymous = {"Authorization": ""}
    token = {"qstash_token": server.token}

    published = await server.http.post(
        f"/v2/publish/{receiver.url('/x?a=1')}&qstash_token={server.token}", headers=anonymous
    )
    keys = await server.http.get("/v2/keys", params=token, headers=anonymous)
    cancelled = await server.http.delete("/v2/messages", params=token, headers=anonymous)
    wrong = await server.http.get("/v2/keys", params={"qstash_token": "wrong"}, headers=anonymous)

    assert [one.status_code for one in (published, keys, cancelled, wrong)] == [201, 200, 202, 401]
    assert (await receiver.next_request()).target == "/x?a=1"


async def test_paths_are_read_in_any_case_and_with_needless_slashes(server: Account) -> None:
    for path in ("/v2/Keys", "/V2/keys", "//v2/keys", "/v2/keys/", "/v2/KEYS"):
        answer = await server.http.get(httpx.URL(f"{server.url}{path}"))
        assert answer.json() == {"current": server.keys.current, "next": server.keys.next}, path
    for path in ("/v2/DLQ", "/v2/Events/", "//v2/Logs"):
        assert (await server.http.get(httpx.URL(f"{server.url}{path}"))).status_code == 200, path
    assert (await server.http.delete("/v2/Messages")).json() == {"cancelled": 0}


async def test_a_delete_whose_id_is_empty_does_not_mean_everything(server: Account, receiver: Receiver) -> None:
    await server.publish(receiver.url("/x"), Upstash_Delay="1h")

    answers = [
        await server.http.delete("/v2/messages/"),
        await server.http.request("DELETE", "/v2/messages/", content=b"{}"),
        await server.http.delete("/v2/dlq/"),
    ]

    assert [answer.status_code for answer in answers] == [400, 400, 400]
    assert "leave out the slash" in answers[0].json()["error"]
    assert (await server.http.delete("/v2/messages")).json() == {"cancelled": 1}


async def test_every_fixed_segment_of_a_path_is_read_in_any_case(server: Account) -> None:
    assert (await server.http.post("/v2/Dlq/Retry")).status_code == 201
    assert (await server.http.post("/v2/Keys/Rotate")).json()["current"] == server.keys.next


@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_keys_are_rotated_on_every_path_that_clients_use(server: Account, method: str) -> None:
    following = server.keys.next
    for path in ("/v2/keys/rotate", "/v2/rotate"):
        answer = await server.http.request(method, path)

        assert answer.status_code == 200, answer.text
        assert answer.json()["current"] == following
        following = answer.json()["next"]
        assert re.fullmatch(r"sig_[1-9A-HJ-NP-Za-km-z]{28}", following)
        assert (await server.http.get("/v2/keys")).json() == answer.json()


async def test_a_signature_has_exactly_the_claims_that_receivers_check(server: Account, receiver: Receiver) -> None:
    """PyJWT as it comes refuses a jti that is no string, an audience nobody asked for and an iat in the future."""
    url, body = receiver.url("/a?b=%20c&d"), "grüße".encode()
    await server.publish(url, body)
    request = await receiver.next_request()
    token = request.header("Upstash-Signature") or ""

    claims = jwt.decode(
        token, server.keys.current, algorithms=["HS256"], issuer="Upstash",
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


async def test_what_was_not_set_is_absent_and_never_null(server: Account, receiver: Receiver) -> None:
    receiver.script("/", status(500))
    message_id = await server.publish(receiver.url(), Upstash_Retries="0")
    await server.settled(message_id, "FAILED")

    [letter], events = await server.dead_letters(), await server.events()

    views = [await server.message(message_id), letter, *events]
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


async def test_ids_have_the_shapes_that_clients_expect(server: Account, receiver: Receiver) -> None:
    receiver.script("/", status(500))
    message_id = await server.publish(receiver.url(), Upstash_Retries="0")
    await server.settled(message_id, "FAILED")

    [letter] = await server.dead_letters()

    assert re.fullmatch(r"msg_[A-Za-z0-9]+", message_id)
    assert re.fullmatch(r"\d{13}-\d+", letter["dlqId"])


async def test_a_retry_now_comes_at_once_and_is_counted_as_the_retry_that_it_is(
    server: Account, receiver: Receiver
) -> None:
    receiver.script("/", status(500), status(200))
    message_id = await server.publish(receiver.url(), Upstash_Retry_Delay="3600000")
    await server.settled(message_id, "RETRY")

    answer = await server.http.post(f"/v2/messages/{message_id}/retry")

    assert answer.status_code == 200
    await server.settled(message_id)
    assert [request.header("Upstash-Retried") for request in receiver.requests()] == ["0", "1"]


async def test_a_finished_message_does_not_block_its_deduplication_id_from_being_found(
    server: Account, receiver: Receiver
) -> None:
    """The window counts from the publish, whatever has become of the message."""
    first = await server.publish(receiver.url(), Upstash_Deduplication_Id="once")
    await server.settled(first)
    cancelled = await server.publish(receiver.url(), Upstash_Deduplication_Id="other", Upstash_Delay="1h")
    await server.http.delete(f"/v2/messages/{cancelled}")

    assert await server.publish(receiver.url(), Upstash_Deduplication_Id="once") == first
    assert await server.publish(receiver.url(), Upstash_Deduplication_Id="other") == cancelled
    assert len(receiver.requests()) == 1


async def test_a_callback_is_a_message_like_any_other(server: Account, receiver: Receiver) -> None:
    receiver.script("/work", status(500, b"no"))
    receiver.script("/failure", status(501, b"neither"))

    source = await server.publish(
        receiver.url("/work"), b"x", Upstash_Retries="0", Upstash_Failure_Callback=receiver.url("/failure")
    )

    request = await receiver.next_request("/failure")
    own = request.header("Upstash-Message-Id") or ""
    assert own != source
    claims = jwt.decode(request.header("Upstash-Signature") or "", server.keys.current, algorithms=["HS256"])
    assert claims["sub"] == receiver.url("/failure")
    assert request.header("Content-Type") == "application/json"
    assert await server.settled(own, "FAILED") == ["CREATED", "ACTIVE", "ERROR", "FAILED"]
    assert {letter["messageId"] for letter in await server.dead_letters()} == {source, own}


async def test_cancelled_messages_neither_fail_nor_report(server: Account, receiver: Receiver) -> None:
    receiver.script("/work", status(500))
    message_id = await server.publish(receiver.url("/work"), Upstash_Failure_Callback=receiver.url("/failure"))
    await server.settled(message_id, "RETRY")

    await server.http.delete(f"/v2/messages/{message_id}")
    await server.time_passes(timedelta(days=1))
    await server.drain()

    assert (await server.states(message_id))[-2:] == ["CANCEL_REQUESTED", "CANCELED"]
    assert receiver.requests("/failure") == []
    assert await server.dead_letters() == []


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
