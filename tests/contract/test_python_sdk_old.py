"""The major of the official Python client before, the newest `qstash` 2, unmodified, in both of its forms.

It is installed beside the newer one, from `old/requirements.txt`, and runs in a process of its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from asyncio.subprocess import PIPE, Process
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.conftest import Running, eventually
from tests.contract import accounts
from tests.contract.accounts import Account
from tests.contract.methods import Methods, is_whole
from tests.moods import hold, status
from tests.receiver import Received, Receiver

pytestmark = pytest.mark.asyncio(loop_scope="module")
node, server, receiver = accounts.node, accounts.server, accounts.receiver

INSTALLED = Path(sys.prefix) / "old-qstash"
ROOT = Path(__file__).parents[2]
NO_DELIVERY = "asks a model on /llm/v1/chat/completions and delivers nothing; the next major has it no more"
METHODS = Methods(
    "qstash 2.0",
    left_out={
        "QStash.chat.": NO_DELIVERY,
        "AsyncQStash.chat.": NO_DELIVERY,
        "QStash.message.batch_json(messages.provider)": "declared, and never read by the client",
        "AsyncQStash.message.batch_json(messages.provider)": "declared, and never read by the client",
    },
)
SELDOM = "0 0 1 1 *"
WAYS = [
    "message.publish", "message.publish_json", "message.enqueue", "message.enqueue_json",
    "message.batch", "message.batch_json",
]  # fmt: skip


class ClientError(Exception):
    """What the client threw."""


class Driver:
    """The process in which the client lives."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def __call__(self, call: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(call).encode() + b"\n")
        line = await self._process.stdout.readline()
        assert line, "the client's process has ended"
        answer = json.loads(line)
        if "error" in answer:
            raise ClientError(f"{answer['error']['name']}: {answer['error']['text']}")
        if "given" in answer:
            METHODS.called(f"{call['form']}.{call['method']}", answer["given"])
        return answer["value"]


class Sdk:
    """One account's client, whose methods are called by name; what it answers with comes as dictionaries."""

    def __init__(self, driver: Driver, form: str, token: str) -> None:
        self.driver, self.form, self._token = driver, form, token

    async def __call__(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        call = {"form": self.form, "token": self._token, "method": name, "args": args, "kwargs": kwargs}
        return await self.driver(call)

    async def publish(self, way: str, /, **message: Any) -> Any:
        """Send one message, by whichever method does; a batch is a list of one."""
        if way.startswith("message.batch"):
            [answer] = await self(way, [message])
            return answer
        return await self(way, **message)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def driver(node: Running, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Driver]:
    """The older client in its process."""
    assert (INSTALLED / "qstash").is_dir(), f"the older client is not in {INSTALLED}: `make` installs it"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, (INSTALLED, ROOT))),
        # Nothing here speaks TLS, and to read all the world's certificates takes longer than most of the tests.
        "SSL_CERT_FILE": "",
        "SSL_CERT_DIR": str(tmp_path_factory.mktemp("certificates")),
    }
    arguments = [str(ROOT / "tests/contract/old/client.py"), node.url]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, stdin=PIPE, stdout=PIPE, env=environment, limit=1 << 24
    )
    one = Driver(process)
    methods = await one({"method": "methods"})
    METHODS.exist(methods, [f"{method}({argument})" for method in methods for argument in methods[method]])
    yield one
    assert process.stdin is not None
    process.stdin.close()
    await process.wait()


@pytest_asyncio.fixture(params=["QStash", "AsyncQStash"], loop_scope="module")
async def sdk(request: pytest.FixtureRequest, driver: Driver, server: Account) -> Sdk:
    """The client as a user makes it: with a token and the server's address."""
    return Sdk(driver, request.param, server.token)


def options(way: str, text: str) -> dict[str, Any]:
    """What this way needs: a body that arrives as this text, and a queue to enqueue to."""
    needed: dict[str, Any] = {"body": json.loads(text) if way.endswith("_json") else text}
    return needed | ({"queue": "q"} if "enqueue" in way else {})


async def comes_due(server: Account, schedule_id: str) -> None:
    """Let the time pass up to the next tick of a schedule."""
    schedule = (await server.http.get(f"/v2/schedules/{schedule_id}")).json()
    await server.time_passes(timedelta(milliseconds=schedule["nextScheduleTime"] - time.time() * 1000 + 5))


async def verify(sdk: Sdk, request: Received, url: str, current: str, following: str) -> None:
    """As an application verifies what it has got."""
    given = {
        "signature": request.header("Upstash-Signature"), "body": request.body.decode(), "url": url,
        "clock_tolerance": 0,
    }  # fmt: skip
    keys = {"current_signing_key": current, "next_signing_key": following}
    await sdk.driver({"form": "Receiver", "method": "verify", "keys": keys, "args": [], "kwargs": given})


@pytest.mark.parametrize("way", WAYS)
async def test_every_option_can_be_read_back(sdk: Sdk, receiver: Receiver, way: str) -> None:
    enqueued = "enqueue" in way
    not_before = int(time.time()) + 3600
    wanted: dict[str, Any] = {
        "url": receiver.url("/hook?a=1"),
        "method": "PUT",
        "headers": {"test-header": "test-value", "Upstash-Forward-Given": "1", "Upstash-Label": "x"},
        "retries": 4,
        "callback": receiver.url("/callback"),
        "failure_callback": receiver.url("/failure"),
        "deduplication_id": "only-once",
        "content_based_deduplication": True,
        "timeout": 90,
        **options(way, '{"a": 1}'),
    }
    if not way.endswith("_json"):
        wanted |= {"content_type": "application/json"}
    if enqueued:
        await sdk("queue.upsert", "q", paused=True)
    else:
        flow = {"key": "k", "parallelism": 3, "rate_per_second": 10}
        wanted |= {"delay": 60, "not_before": not_before, "flow_control": flow}

    published = await sdk.publish(way, **wanted)
    again = await sdk.publish(way, **wanted)

    assert (published["deduplicated"], again) == (False, {"message_id": published["message_id"], "deduplicated": True})
    message = await sdk("message.get", published["message_id"])
    [created] = (await sdk("event.list", filter={"message_id": published["message_id"]}))["events"]
    for view in (message, created):
        assert view["url"] == receiver.url("/hook?a=1")
        assert view["queue"] == ("q" if enqueued else None)
        assert view["headers"] == {
            "Content-Type": ["application/json"], "Test-Header": ["test-value"], "Given": ["1"],
        }  # fmt: skip
    assert (message["method"], message["body"], message["max_retries"]) == ("PUT", '{"a": 1}', 4)
    assert (message["callback"], message["failure_callback"]) == (receiver.url("/callback"), receiver.url("/failure"))
    assert message["not_before"] == (message["created_at"] if enqueued else not_before * 1000)
    assert message["caller_ip"] == "127.0.0.1"
    flow_control = tuple(message[name] for name in ("flow_control_key", "parallelism", "rate_per_second"))
    assert flow_control == ((None, None, None) if enqueued else ("k", 3, 10))
    assert (created["state"], b64decode(created["body_base64"])) == ("CREATED", b'{"a": 1}')


@pytest.mark.parametrize("way", WAYS)
async def test_a_message_arrives_at_its_url_its_group_and_its_model(sdk: Sdk, receiver: Receiver, way: str) -> None:
    await sdk("url_group.upsert_endpoints", "g", [{"url": receiver.url("/one")}, {"url": receiver.url("/two")}])
    provider = {"$provider": [receiver.url("/v1/chat/completions"), "model-token"]}
    body = options(way, '{"a": 1}')

    single = await sdk.publish(way, url=receiver.url("/single"), headers={"X-Trace": "1"}, **body)
    group = await sdk.publish(way, url_group="g", **body)
    model = await sdk.publish(way, api={"name": "llm", "provider": provider}, headers={}, **body)

    [of_single], [of_one], [of_two], [of_model] = [
        await receiver.wait_for(1, path) for path in ("/single", "/one", "/two", "/v1/chat/completions")
    ]
    assert [answer["url"] for answer in group] == [receiver.url("/one"), receiver.url("/two")]
    for request, answer in ((of_single, single), (of_one, group[0]), (of_two, group[1]), (of_model, model)):
        assert request.header("Upstash-Message-Id") == answer["message_id"]
        assert (request.method, request.body) == ("POST", b'{"a": 1}')
        assert request.header("Content-Type") == ("application/json" if way.endswith("_json") else None)
    assert (of_single.header("X-Trace"), of_model.header("Authorization")) == ("1", "Bearer model-token")


async def test_a_batch_mixes_urls_groups_and_queues(sdk: Sdk, receiver: Receiver) -> None:
    await sdk("url_group.upsert_endpoints", "g", [{"url": receiver.url("/g")}])
    await sdk("queue.upsert", "q", paused=True)

    for method in ("message.batch", "message.batch_json"):
        first, [second], third = await sdk(
            method, [{"url": receiver.url("/a")}, {"url_group": "g"}, {"url": receiver.url("/b"), "queue": "q"}]
        )

        assert (await receiver.next_request("/a")).header("Upstash-Message-Id") == first["message_id"]
        assert (await receiver.next_request("/g")).header("Upstash-Message-Id") == second["message_id"]
        assert (await sdk("message.get", third["message_id"]))["queue"] == "q"
    assert (await sdk("queue.get", "q"))["lag"] == 2


async def test_a_binary_body_arrives_and_comes_back_as_base64(sdk: Sdk, server: Account, receiver: Receiver) -> None:
    body = bytes(range(256))

    published = await sdk("message.publish", url=receiver.url(), body={"$bytes": b64encode(body).decode()}, delay="1m")

    message = await sdk("message.get", published["message_id"])
    assert (message["body"], b64decode(message["body_base64"])) == (None, body)
    await server.time_passes(timedelta(minutes=2))
    assert (await receiver.next_request()).body == body


async def test_messages_are_cancelled_one_by_one_by_their_ids_and_all_together(
    sdk: Sdk, server: Account, receiver: Receiver
) -> None:
    ids = [(await sdk("message.publish", url=receiver.url(), delay=60))["message_id"] for _ in range(6)]

    assert await sdk("message.cancel", ids[0]) is None
    assert await sdk("message.cancel_many", ids[:3]) == 2
    assert await sdk("message.cancel_many", []) == 0
    assert await server.states(ids[3]) == ["CREATED"]
    assert await sdk("message.cancel_all") == 3
    assert await sdk("message.cancel_all") == 0

    await server.time_passes(timedelta(minutes=2))
    await server.drain()
    assert receiver.requests() == []
    with pytest.raises(ClientError, match=r'QStashError: .+404.+"error":".+not found"'):
        await sdk("message.get", "msg_1111111111111111111111")


async def test_events_are_filtered_and_come_in_pages(sdk: Sdk, server: Account, receiver: Receiver) -> None:
    await sdk("url_group.upsert_endpoints", "g", [{"url": receiver.url("/g"), "name": "one"}])
    plain = (await sdk("message.publish", url=receiver.url("/plain")))["message_id"]
    [of_group] = await sdk("message.publish", url_group="g")
    queued = (await sdk("message.enqueue", url=receiver.url("/queued"), queue="q"))["message_id"]
    schedule_id = await sdk("schedule.create", destination=receiver.url("/ticked"), cron=SELDOM)
    await comes_due(server, schedule_id)
    ticked = (await receiver.next_request("/ticked")).header("Upstash-Message-Id") or ""
    for one in (plain, of_group["message_id"], queued, ticked):
        await server.settled(one)

    async def found(**filters: Any) -> set[str]:
        return {event["message_id"] for event in (await sdk("event.list", filter=filters))["events"]}

    whole = (await sdk("event.list"))["events"]
    times = [event["time"] for event in whole]
    assert len(whole) == 12
    assert times == sorted(times, reverse=True)
    assert await found(message_id=plain) == await found(url=receiver.url("/plain")) == {plain}
    assert await found(url_group="g") == {of_group["message_id"]}
    assert await found(queue="q") == {queued}
    assert await found(schedule_id=schedule_id) == {ticked}
    assert await found(state={"$state": "DELIVERED"}, url=receiver.url("/plain")) == {plain}
    assert await found(state={"$state": "FAILED"}) == set()
    assert await found(from_time=times[-1], to_time=times[0]) == {event["message_id"] for event in whole}
    assert await found(from_time=times[0] + 1) == await found(to_time=times[-1] - 1) == set()
    [endpoint] = {(event["url_group"], event["endpoint"]) for event in whole if event["url_group"]}
    assert endpoint == ("g", "one")
    pages = [await sdk("event.list", count=5)]
    while pages[-1]["cursor"] is not None:
        pages.append(await sdk("event.list", count=5, cursor=pages[-1]["cursor"]))
    assert [event for page in pages for event in page["events"]] == whole


async def test_what_was_sent_to_no_model_is_not_found_among_the_calls_of_models(
    sdk: Sdk, server: Account, receiver: Receiver
) -> None:
    receiver.script("/", status(500))
    published = await sdk("message.publish", url=receiver.url(), retries=0)
    await server.settled(published["message_id"], "FAILED")

    events, letters = await sdk("event.list", filter={"api": "llm"}), await sdk("dlq.list", filter={"api": "llm"})

    assert (events["events"], letters["messages"]) == ([], [])


async def test_dead_letters_are_found_read_and_deleted(sdk: Sdk, server: Account, receiver: Receiver) -> None:
    receiver.script("/", status(404, b"404 Not Found", [("X-Why", "gone")]))
    await sdk("url_group.upsert_endpoints", "g", [{"url": receiver.url()}])
    plain = (await sdk("message.publish", url=receiver.url(), body="body", retries=0))["message_id"]
    [of_group] = await sdk("message.publish", url_group="g", retries=0)
    queued = (await sdk("message.enqueue", url=receiver.url(), queue="q", retries=0))["message_id"]
    schedule_id = await sdk("schedule.create", destination=receiver.url(), cron=SELDOM, retries=0)
    await comes_due(server, schedule_id)
    page = await eventually(lambda: sdk("dlq.list"), lambda page: len(page["messages"]) == 4)
    [ticked] = {letter["message_id"] for letter in page["messages"]} - {plain, of_group["message_id"], queued}

    async def found(**filters: Any) -> set[str]:
        return {letter["message_id"] for letter in (await sdk("dlq.list", filter=filters))["messages"]}

    everything = {plain, of_group["message_id"], queued, ticked}
    assert await found(message_id=plain) == {plain}
    assert await found(url_group="g") == {of_group["message_id"]}
    assert await found(queue="q") == {queued}
    assert await found(schedule_id=schedule_id) == {ticked}
    assert await found(url=receiver.url(), response_status=404, caller_ip="127.0.0.1") == everything
    assert await found(response_status=500) == await found(caller_ip="10.0.0.1") == set()
    now = int(time.time() * 1000)
    assert await found(from_time=now - 60_000, to_time=now + 60_000) == everything
    [letter] = (await sdk("dlq.list", filter={"message_id": plain}))["messages"]
    assert (letter["response_status"], letter["response_body"], letter["body"]) == (404, "404 Not Found", "body")
    assert (letter["response_headers"]["X-Why"], letter["max_retries"]) == (["gone"], 0)
    assert await sdk("dlq.get", letter["dlq_id"]) == letter

    first = await sdk("dlq.list", count=3)
    last = await sdk("dlq.list", count=3, cursor=first["cursor"])
    assert (len(first["messages"]), len(last["messages"]), last["cursor"]) == (3, 1, None)
    await sdk("dlq.delete", letter["dlq_id"])
    ids = [one["dlq_id"] for one in page["messages"]]
    assert await sdk("dlq.delete_many", ids[:3]) == len(set(ids[:3]) - {letter["dlq_id"]})
    assert await sdk("dlq.delete_many", []) == 0
    assert {one["dlq_id"] for one in (await sdk("dlq.list"))["messages"]} == {ids[3]} - {letter["dlq_id"]}
    with pytest.raises(ClientError, match="404"):
        await sdk("dlq.get", letter["dlq_id"])


async def test_queues_are_made_changed_paused_resumed_and_deleted(sdk: Sdk, receiver: Receiver) -> None:
    release = asyncio.Event()
    receiver.script("/0", hold(release))
    await sdk("queue.upsert", "q", parallelism=2, paused=True)
    await sdk("queue.resume", "q")
    await sdk("queue.upsert", "q")
    for number in range(3):
        await sdk("message.enqueue", queue="q", url=receiver.url(f"/{number}"))
    await receiver.next_request("/0")

    queue = await sdk("queue.get", "q")

    assert (queue["name"], queue["parallelism"], queue["lag"], queue["paused"]) == ("q", 1, 3, False)
    assert len(receiver.requests()) == 1
    await sdk("queue.pause", "q")
    release.set()
    await eventually(lambda: sdk("queue.get", "q"), lambda queue: queue["lag"] == 2)
    assert [(one["name"], one["paused"]) for one in await sdk("queue.list")] == [("q", True)]
    await sdk("queue.resume", "q")
    await receiver.wait_for(3)
    assert [request.path for request in receiver.requests()] == ["/0", "/1", "/2"]
    await sdk("queue.delete", "q")
    await sdk("queue.delete", "q")
    assert await sdk("queue.list") == []


async def test_url_groups_are_made_changed_and_deleted(sdk: Sdk, receiver: Receiver) -> None:
    endpoints = [{"url": receiver.url(f"/{name}"), "name": name} for name in "abc"]
    await sdk("url_group.upsert_endpoints", "g", endpoints)
    assert (await sdk("url_group.get", "g"))["endpoints"] == endpoints

    await sdk("url_group.remove_endpoints", "g", [{"url": receiver.url("/a")}, {"name": "c"}])

    assert [(one["name"], one["endpoints"]) for one in await sdk("url_group.list")] == [("g", [endpoints[1]])]
    await sdk("message.publish", url_group="g")
    await receiver.next_request("/b")
    assert len(receiver.requests()) == 1
    await sdk("url_group.delete", "g")
    await sdk("url_group.delete", "g")
    assert await sdk("url_group.list") == []


@pytest.mark.parametrize("way", ["schedule.create", "schedule.create_json"])
async def test_schedules_are_made_paused_replaced_and_deleted(
    sdk: Sdk, server: Account, receiver: Receiver, way: str
) -> None:
    in_json = way.endswith("_json")
    kind = {} if in_json else {"content_type": "application/json"}

    assert await sdk(
        way, destination=receiver.url("/old"), cron=SELDOM, body=[1] if in_json else "[1]", method="PUT",
        headers={"test-header": "1"}, retries=4, callback=receiver.url("/callback"), delay="1m", timeout="1m",
        failure_callback=receiver.url("/failure"), schedule_id="s",
        flow_control={"key": "k", "parallelism": 3, "rate_per_second": 10}, **kind,
    ) == "s"  # fmt: skip

    schedule = await sdk("schedule.get", "s")
    assert [schedule] == await sdk("schedule.list")
    assert (schedule["schedule_id"], schedule["destination"], schedule["cron"]) == ("s", receiver.url("/old"), SELDOM)
    assert (schedule["method"], schedule["body"], schedule["retries"], schedule["delay"]) == ("PUT", "[1]", 4, 60)
    assert schedule["headers"] == {"Content-Type": ["application/json"], "Test-Header": ["1"]}
    assert (schedule["callback"], schedule["failure_callback"]) == (receiver.url("/callback"), receiver.url("/failure"))
    assert (schedule["flow_control_key"], schedule["parallelism"], schedule["rate_per_second"]) == ("k", 3, 10)
    assert (schedule["caller_ip"], schedule["paused"]) == ("127.0.0.1", False)
    await sdk("schedule.pause", "s")
    assert (await sdk("schedule.get", "s"))["paused"] is True
    await sdk("schedule.resume", "s")
    assert (await sdk("schedule.get", "s"))["paused"] is False

    await sdk("schedule.create", destination=receiver.url("/new"), cron=SELDOM, schedule_id="s")
    assert (await sdk("schedule.get", "s"))["body"] is None
    await comes_due(server, "s")
    assert (await receiver.next_request()).path == "/new"
    await sdk("schedule.delete", "s")
    await sdk("schedule.delete", "s")
    assert await sdk("schedule.list") == []


async def test_what_arrives_verifies_through_one_rotation_of_the_keys_and_not_through_two(
    sdk: Sdk, receiver: Receiver
) -> None:
    old = await sdk("signing_key.get")
    new = await sdk("signing_key.rotate")
    assert new["current"] == old["next"]
    assert await sdk("signing_key.get") == new

    await sdk("message.publish", url=receiver.url("/a?b=c"), body="grüße")
    request = await receiver.next_request()
    await verify(sdk, request, receiver.url("/a?b=c"), old["current"], old["next"])
    await verify(sdk, request, receiver.url("/a?b=c"), new["current"], new["next"])
    with pytest.raises(ClientError, match="SignatureError: Invalid subject"):
        await verify(sdk, request, receiver.url("/a?b=d"), new["current"], new["current"])

    await sdk("signing_key.rotate")
    await sdk("message.publish", url=receiver.url("/a?b=c"), body="grüße")
    with pytest.raises(ClientError, match="SignatureError"):
        await verify(sdk, await receiver.next_request(), receiver.url("/a?b=c"), old["current"], old["next"])


async def test_what_the_client_has_no_method_for_goes_through_its_transport(
    sdk: Sdk, server: Account, receiver: Receiver
) -> None:
    call = {
        "path": f"/v2/publish/{receiver.url()}", "method": "POST", "headers": {"Upstash-Method": "PUT"}, "body": "x",
        "params": {"upstash-label": "a"}, "base_url": server.url, "token": f"Bearer {server.token}",
    }  # fmt: skip

    whole = await sdk("http.request", parse_response=True, **call)
    streamed = json.loads(await sdk("http.stream", **call))

    requests = await receiver.wait_for(2)
    assert {request.header("Upstash-Message-Id") for request in requests} == {whole["messageId"], streamed["messageId"]}
    assert {(request.method, request.body) for request in requests} == {("PUT", b"x")}


async def test_refusals_are_errors_with_our_text(sdk: Sdk, server: Account) -> None:
    for destination, code, text in (
        ({"url": "example.com/x"}, 400, "invalid destination url: endpoint has invalid scheme"),
        ({"url_group": "no-such-group"}, 404, "topic no-such-group not found"),
    ):
        with pytest.raises(ClientError, match=rf'QStashError: .+{code}.+"error":"{text}'):
            await sdk("message.publish", **destination)
    with pytest.raises(ClientError, match=r"QStashError: .+401"):
        await Sdk(sdk.driver, sdk.form, "wrong")("queue.list")

    assert await server.events() == []


async def test_every_method_of_the_client_was_called_with_each_of_its_arguments(
    request: pytest.FixtureRequest,
) -> None:
    """The last of this module; says something only when all of it is run."""
    if is_whole(request.session, [Path(__file__)]):
        assert METHODS.never_called() == set()
