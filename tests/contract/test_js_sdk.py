"""The official JavaScript client, `@upstash/qstash` 2.12, unmodified, against a running server.

Here are messages, dead letters and the log; see also `test_js_sdk_resources` and `test_js_sdk_receiving`.
"""

from __future__ import annotations

import asyncio
import json
import time
from base64 import b64decode
from datetime import timedelta
from typing import Any

import pytest

from tests.conftest import Running, eventually
from tests.contract import accounts
from tests.contract.conftest import Connect
from tests.contract.javascript import Client, ClientError
from tests.moods import never, status
from tests.receiver import Receiver

pytestmark = pytest.mark.asyncio(loop_scope="module")
node, server, receiver = accounts.node, accounts.server, accounts.receiver


async def test_publish_json_sends_the_document_and_the_given_headers(connect: Connect, receiver: Receiver) -> None:
    client = connect(headers={"X-Every": "client"})

    answer = await client(
        "publishJSON",
        {
            "url": receiver.url("/hook?a=1"),
            "body": {"hello": "wörld"},
            "headers": {"x-one": "request"},
            "method": "PUT",
        },
    )

    request = await receiver.next_request()
    assert (request.method, request.target, json.loads(request.body)) == ("PUT", "/hook?a=1", {"hello": "wörld"})
    assert request.header("Content-Type") == "application/json"
    assert (request.header("X-One"), request.header("X-Every")) == ("request", "client")
    assert not any(name.lower().startswith("upstash-telemetry") for name, _ in request.headers)
    assert answer == {"messageId": request.header("Upstash-Message-Id")}


async def test_every_option_of_a_publish_can_be_read_back(client: Client, receiver: Receiver) -> None:
    published = await client(
        "publishJSON",
        {
            "url": receiver.url("/hook"),
            "body": {"a": 1},
            "headers": {"test-header": "test-value", "Upstash-Callback-Forward-X-Report": "1"},
            "delay": 3600,
            "retries": 7,
            "retryDelay": "1000 * (1 + retried)",
            "timeout": 30,
            "callback": receiver.url("/callback"),
            "failureCallback": receiver.url("/failure"),
            "label": ["one", "two"],
            "redact": {"header": ["Test-Header"]},
        },
    )

    message = await client("messages.get", published["messageId"])
    assert (message["url"], message["method"], message["body"]) == (receiver.url("/hook"), "POST", '{"a":1}')
    assert message["header"]["Content-Type"] == ["application/json"]
    assert message["header"]["Test-Header"][0].startswith("REDACTED:")
    assert set(message["header"]) == {"Content-Type", "Test-Header"}
    assert message["notBefore"] - message["createdAt"] == 3_600_000
    assert (message["maxRetries"], message["retryDelayExpression"]) == (7, "1000 * (1 + retried)")
    assert (message["callback"], message["failureCallback"]) == (receiver.url("/callback"), receiver.url("/failure"))
    assert message["callbackHeader"] == {"X-Report": ["1"]}
    assert (message["label"], message["labels"]) == ("one", ["one", "two"])
    assert "flowControlKey" not in message
    [created] = (await client("logs", {"messageIds": [published["messageId"]]}))["logs"]
    assert (created["state"], created["timeout"], created["labels"]) == ("CREATED", 30_000, ["one", "two"])


async def test_delay_and_not_before_hold_a_message_back(client: Client, server: Running, receiver: Receiver) -> None:
    not_before = int(time.time()) + 3600

    by_delay = await client("publish", {"url": receiver.url("/delay"), "body": "raw", "delay": "1h"})
    by_instant = await client("publish", {"url": receiver.url("/instant"), "body": "raw", "notBefore": not_before})

    assert (await client("messages.get", by_instant["messageId"]))["notBefore"] == not_before * 1000
    await server.drain()
    assert receiver.requests() == []
    await server.time_passes(timedelta(hours=1, seconds=1))
    requests = await receiver.wait_for(2)
    assert {request.header("Upstash-Message-Id") for request in requests} == {
        by_delay["messageId"], by_instant["messageId"],
    }  # fmt: skip
    assert [request.body for request in requests] == [b"raw", b"raw"]


async def test_retries_and_retry_delay_rule_the_attempts(client: Client, server: Running, receiver: Receiver) -> None:
    receiver.script("/", status(500))

    published = await client("publishJSON", {"url": receiver.url(), "body": 1, "retries": 1, "retryDelay": "20"})

    await server.settled(published["messageId"], "FAILED")
    assert [request.header("Upstash-Retried") for request in receiver.requests()] == ["0", "1"]
    [retry] = (await client("logs", {"filter": {"state": "RETRY"}}))["logs"]
    assert retry["nextDeliveryTime"] - retry["time"] == 20


async def test_a_timeout_ends_an_attempt(client: Client, receiver: Receiver) -> None:
    receiver.script("/", never())

    await client("publish", {"url": receiver.url(), "timeout": "1s", "retries": 0})

    page = await eventually(lambda: client("dlq.listMessages"), lambda page: page["messages"])
    assert "timed out" in page["messages"][0]["responseBody"]


async def test_callbacks_report_to_their_urls(client: Client, receiver: Receiver) -> None:
    receiver.script("/work", status(500, b"no"))

    published = await client(
        "publishJSON",
        {
            "url": receiver.url("/work"),
            "body": "source",
            "retries": 0,
            "callback": receiver.url("/callback"),
            "failureCallback": receiver.url("/failure"),
            "headers": {"Upstash-Failure-Callback-Forward-X-Failure": "2"},
        },
    )

    report, failure = await receiver.next_request("/callback"), await receiver.next_request("/failure")
    assert failure.header("X-Failure") == "2"
    for document in (json.loads(report.body), json.loads(failure.body)):
        assert (document["status"], document["sourceMessageId"]) == (500, published["messageId"])
        assert (b64decode(document["body"]), b64decode(document["sourceBody"])) == (b"no", b'"source"')
        assert document["sourceHeader"]["Content-Type"] == ["application/json"]


async def test_duplicates_are_told_and_not_delivered(client: Client, server: Running, receiver: Receiver) -> None:
    async def publish(body: str, **options: Any) -> tuple[str, bool]:
        answer = await client("publish", {"url": receiver.url(), "body": body, **options})
        return answer["messageId"], answer.get("deduplicated", False)

    by_id = [await publish(body, deduplicationId="order-1") for body in ("1", "2")]
    by_content = [await publish(body, contentBasedDeduplication=True) for body in ("3", "3", "4")]

    assert by_id[1] == (by_id[0][0], True)
    assert by_content[1] == (by_content[0][0], True)
    assert [deduplicated for _, deduplicated in by_content] == [False, True, False]
    await receiver.wait_for(3)
    await server.drain()
    assert sorted(request.body for request in receiver.requests()) == [b"1", b"3", b"4"]


async def test_messages_are_cancelled_by_id_by_list_and_all(
    client: Client, server: Running, receiver: Receiver
) -> None:
    ids = [(await client("publish", {"url": receiver.url(), "delay": 60}))["messageId"] for _ in range(7)]

    assert await client("messages.cancel", ids[0]) == {"cancelled": 1}
    assert await client("messages.delete", ids[1]) is None
    assert await client("messages.deleteMany", [ids[2]]) == 1
    assert await client("messages.cancel", ids[2:4]) == {"cancelled": 1}
    assert await client("messages.cancel", {"messageIds": [ids[4], "msg_1111111111111111111111"]}) == {"cancelled": 1}
    assert await client("messages.cancel", []) == {"cancelled": 0}
    assert await server.states(ids[5]) == ["CREATED"]
    assert await client("messages.cancel", {"all": True}) == {"cancelled": 2}
    assert await client("messages.deleteAll") == 0

    await server.time_passes(timedelta(minutes=2))
    await server.drain()
    assert receiver.requests() == []


async def test_cancelling_in_a_loop_ends_with_everything_cancelled(
    client: Client, server: Running, receiver: Receiver
) -> None:
    """The client always sends count=100."""
    await asyncio.gather(*(server.publish(receiver.url(), Upstash_Delay="1h") for _ in range(120)))

    counts = [(await client("messages.cancel", {"all": True}))["cancelled"]]
    while counts[-1]:
        counts.append((await client("messages.cancel", {"all": True}))["cancelled"])

    assert sum(counts) == 120
    assert len(await server.events(state="CANCELED")) == 120


async def test_messages_are_cancelled_by_filter(client: Client, receiver: Receiver) -> None:
    async def publish(path: str, label: str) -> None:
        await client("publish", {"url": receiver.url(path), "label": label, "delay": 60})

    async def cancelled(**filters: Any) -> int:
        count: int = (await client("messages.cancel", {"filter": filters}))["cancelled"]
        return count

    for path, label in (("/a", "x"), ("/a", "y"), ("/b", "x"), ("/b", "y"), ("/c", "x,z"), ("/d", "w"), ("/e", "v")):
        await publish(path, label)

    minute = 60_000
    now = int(time.time() * 1000)
    assert await cancelled(path="/a", label="y") == 1
    assert await cancelled(url=[receiver.url("/a"), receiver.url("/b")], label="x") == 2
    assert await cancelled(label=["z", "none"]) == 1
    assert await cancelled(host="127.0.0.1", path=["/b", "/c"]) == 1
    assert await cancelled(host="example.com") == 0
    assert await cancelled(urlGroup="g") == await cancelled(queueName="q") == await cancelled(scheduleId="s") == 0
    assert await cancelled(flowControlKey="k") == await cancelled(callerIp="10.0.0.1") == 0
    assert await cancelled(fromDate={"$date": now + minute}) == await cancelled(toDate={"$date": now - minute}) == 0
    assert await cancelled(fromDate={"$date": now - minute}, toDate=now + minute, path="/d") == 1
    assert await cancelled(callerIp="127.0.0.1") == 1
    with pytest.raises(ClientError) as refused:
        await cancelled(labeel="x")
    assert refused.value.status == 400


async def test_an_unknown_message_is_an_error_with_our_text(client: Client) -> None:
    for method in ("messages.get", "messages.cancel"):
        with pytest.raises(ClientError) as thrown:
            await client(method, "msg_1111111111111111111111")
        assert (thrown.value.name, thrown.value.status) == ("QstashError", 404)
        assert json.loads(thrown.value.message)["error"].endswith("not found")


async def test_dead_letters_are_listed_by_filter_and_page(client: Client, server: Running, receiver: Receiver) -> None:
    ids = await _failed(server, receiver, ("/500", "x"), ("/404", "x,y"), ("/410", "z"))
    letters = (await client("dlq.listMessages"))["messages"]
    now = int(time.time() * 1000)

    async def found(**options: Any) -> set[str]:
        page = await client("dlq.listMessages", options)
        return {letter["url"].removeprefix(receiver.url("")) for letter in page["messages"]}

    assert {letter["messageId"] for letter in letters} == set(ids)
    [letter] = [letter for letter in letters if letter["url"].endswith("/404")]
    assert (letter["responseStatus"], letter["responseBody"], letter["labels"]) == (404, "status 404", ["x", "y"])
    assert await found(filter={"url": receiver.url("/500")}) == {"/500"}
    assert await found(filter={"label": ["y", "z"]}) == {"/404", "/410"}
    assert await found(filter={"responseStatus": 404, "label": "x"}) == {"/404"}
    assert await found(filter={"messageId": ids[0]}) == {"/500"}
    assert await found(filter={"fromDate": {"$date": now - 60_000}, "toDate": now + 60_000}) == {"/500", "/404", "/410"}
    assert await found(filter={"toDate": {"$date": now - 60_000}}) == set()
    assert await found(filter={"urlGroup": "g"}) == await found(filter={"queueName": "q"}) == set()
    assert await found(dlqIds=letter["dlqId"]) == {"/404"}
    assert await found(dlqIds=[one["dlqId"] for one in letters[:2]]) == {"/404", "/410"}
    first = await client("dlq.listMessages", {"count": 2})
    second = await client("dlq.listMessages", {"count": 2, "cursor": first["cursor"]})
    assert first["messages"] + second["messages"] == letters
    assert "cursor" not in second


async def test_dead_letters_are_deleted_by_id_list_filter_and_all(
    client: Client, server: Running, receiver: Receiver
) -> None:
    await _failed(server, receiver, ("/500", "x"), ("/404", "x"), ("/410", "y"), ("/503", "v"), *[("/502", "z")] * 5)
    by_path = {letter["url"][-4:]: letter["dlqId"] for letter in await server.dead_letters()}

    assert await client("dlq.delete", by_path["/500"]) == {"deleted": 1}
    with pytest.raises(ClientError) as gone:
        await client("dlq.delete", by_path["/500"])
    assert gone.value.status == 404
    with pytest.raises(ClientError) as misspelt:
        await client("dlq.delete", {"filter": {"labeel": "x"}})
    assert misspelt.value.status == 400
    assert await client("dlq.delete", [by_path["/500"], by_path["/404"]]) == {"deleted": 1}
    assert await client("dlq.deleteMany", {"dlqIds": [by_path["/503"]]}) == {"deleted": 1}
    assert await client("dlq.delete", {"filter": {"label": "none"}}) == {"deleted": 0}
    assert await client("dlq.delete", {"filter": {"label": ["x", "y"]}}) == {"deleted": 1}
    assert len(await server.dead_letters()) == 5
    pages = [await client("dlq.delete", {"all": True, "count": 2})]
    while "cursor" in pages[-1]:
        pages.append(await client("dlq.delete", {"all": True, "count": 2, "cursor": pages[-1]["cursor"]}))
    assert [page["deleted"] for page in pages] == [2, 2, 1]
    assert await server.dead_letters() == []


async def test_dead_letters_are_retried_by_id_list_filter_and_all(
    client: Client, server: Running, receiver: Receiver
) -> None:
    old = await _failed(server, receiver, ("/500", "x"), ("/404", "y"), ("/410", "z"), *[("/502", "w")] * 3)
    by_path = {letter["url"][-4:]: letter["dlqId"] for letter in await server.dead_letters()}
    for path in ("/500", "/404", "/410", "/502"):
        receiver.script(path, status(200))

    answers = [
        await client("dlq.retry", by_path["/500"]),
        await client("dlq.retry", [by_path["/404"]]),
        await client("dlq.retry", {"filter": {"label": "z"}}),
        await client("dlq.retry", {"all": True, "count": 2}),
    ]
    answers.append(await client("dlq.retry", {"all": True, "cursor": answers[-1]["cursor"]}))

    assert [len(answer["responses"]) for answer in answers] == [1, 1, 1, 2, 1]
    assert all("cursor" not in answer for answer in answers[:3])
    new = {response["messageId"] for answer in answers for response in answer["responses"]}
    delivered = {request.header("Upstash-Message-Id") for request in (await receiver.wait_for(12))[6:]}
    assert delivered == new
    assert new.isdisjoint(old)
    assert await server.dead_letters() == []
    assert (await client("dlq.retry", {"all": True}))["responses"] == []
    assert await client("dlq.retry", []) == {"responses": []}
    with pytest.raises(ClientError) as gone:
        await client("dlq.retry", by_path["/500"])
    assert gone.value.status == 404


async def test_the_log_is_filtered_by_every_field(client: Client, server: Running, receiver: Receiver) -> None:
    a = await server.publish(receiver.url("/a"), Upstash_Label="x,y")
    b = await server.publish(receiver.url("/b"), Upstash_Label="z")
    await server.settled(a)
    await server.settled(b)
    now = int(time.time() * 1000)

    async def found(**filters: Any) -> set[str]:
        return {entry["messageId"] for entry in (await client("logs", {"filter": filters}))["logs"]}

    assert await found() == {a, b}
    assert await found(messageId=a) == await found(label=["y", "none"]) == await found(path="/a") == {a}
    assert await found(url=[receiver.url("/b"), receiver.url("/c")]) == {b}
    assert await found(host="127.0.0.1", label="z") == {b}
    assert await found(host="example.com") == await found(callerIp="10.0.0.1") == set()
    assert await found(fromDate={"$date": now - 60_000}, toDate={"$date": now + 60_000}) == {a, b}
    assert await found(fromDate={"$date": now + 60_000}) == set()
    assert await found(urlGroup="g") == await found(topicName="g") == await found(queueName="q") == set()
    assert await found(scheduleId="s") == await found(flowControlKey="k") == set()
    answer = await client("events", {"filter": {"state": "DELIVERED", "messageId": a}})
    assert [entry["messageId"] for entry in answer["events"]] == [a]
    assert [e["state"] for e in (await client("logs", {"messageIds": [b]}))["logs"]] == [
        "DELIVERED", "ACTIVE", "CREATED",
    ]  # fmt: skip


async def test_the_log_comes_in_pages_from_a_cursor_that_is_a_time(
    client: Client, server: Running, receiver: Receiver
) -> None:
    for _ in range(2):
        await server.settled(await server.publish(receiver.url()))
    whole = (await client("logs"))["logs"]

    pages = [await client("logs", {"count": 4, "cursor": int(time.time() * 1000) + 1000})]
    while pages[-1].get("cursor"):
        pages.append(await client("logs", {"count": 4, "cursor": pages[-1]["cursor"]}))

    assert [len(page["logs"]) for page in pages] == [4, 2]
    assert [entry for page in pages for entry in page["logs"]] == whole
    assert "cursor" not in pages[-1]


async def test_errors_carry_our_status_and_text(client: Client, connect: Connect, server: Running) -> None:
    with pytest.raises(ClientError) as bad_destination:
        await client("publishJSON", {"url": "ftp://example.com", "body": {}})
    stranger = connect(token="wrong")
    with pytest.raises(ClientError) as bad_token:
        await stranger("publishJSON", {"url": "https://example.com", "body": {}})

    assert (bad_destination.value.name, bad_destination.value.status) == ("QstashError", 400)
    assert json.loads(bad_destination.value.message)["error"].startswith(
        "invalid destination url: endpoint has invalid scheme, add http:// or https://"
    )
    assert (bad_token.value.name, bad_token.value.status) == ("QstashError", 401)
    assert json.loads(bad_token.value.message) == {"error": "unable to authenticate: invalid token"}
    assert await server.events() == []


async def test_a_trailing_slash_of_the_address_does_no_harm(
    connect: Connect, server: Running, receiver: Receiver
) -> None:
    client = connect(baseUrl=f"{server.url}/")

    await client("publish", {"url": receiver.url("/hook"), "body": "x"})

    assert (await receiver.next_request("/hook")).body == b"x"


async def _failed(server: Running, receiver: Receiver, *messages: tuple[str, str]) -> list[str]:
    """Ids of dead letters, one for each path, which is the status to answer, and labels; one after the other."""
    ids = []
    for path, labels in messages:
        receiver.script(path, status(int(path[1:]), f"status {path[1:]}".encode()))
        ids.append(await server.publish(receiver.url(path), Upstash_Retries="0", Upstash_Label=labels))
        await server.settled(ids[-1], "FAILED")
    return ids
