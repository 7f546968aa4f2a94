"""What only the clients in Go, PHP and Ruby send, in raw requests: they are not run here, their requests are.

Go keeps a trailing slash of its base URL and so doubles the one before v2, writes /v2/Schedules, decodes every answer
of 400 and above as JSON, and counts as a map of integers. PHP compares statuses exactly, and delivers with GET unless
told otherwise. Ruby gives every request but GET a JSON body, which Net::HTTP calls a form.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import httpx
import pytest

from postroad.domain.tenant import Access
from postroad.store import tenants, tokens
from postroad.store.engine import connected
from tests import endless
from tests.conftest import Running, eventually
from tests.contract import accounts
from tests.contract.accounts import Account
from tests.moods import status
from tests.receiver import Receiver

pytestmark = pytest.mark.asyncio(loop_scope="module")
node, server, receiver = accounts.node, accounts.server, accounts.receiver

JSON = {"Content-Type": "application/json"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
"""What Net::HTTP says of a body when it is told nothing."""

UNKNOWN = "msg_1111111111111111111111"


class Go:
    """Requests as the Go client makes them with QSTASH_URL=http://host/, and its way to read answers."""

    def __init__(self, server: Account) -> None:
        self._server = server

    async def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        answer = await self._server.http.request(
            method,
            httpx.URL(f"{self._server.url}/{path}"),
            content=body if isinstance(body, str) else "" if body is None else json.dumps(body),
            headers={name.replace("_", "-"): value for name, value in headers.items()},
        )
        if answer.status_code >= 400:
            error = answer.json()["error"]
            assert isinstance(error, str)
            raise GoError(error)
        return answer.json() if answer.content else None

    async def count(self, path: str, name: str, body: Any = None) -> int:
        """A bulk call, whose answer is decoded as a map of integers."""
        counts = await self("DELETE", path, body, Content_Type="application/json")
        assert {type(value) for value in counts.values()} == {int}
        count: int = counts[name]
        return count


class GoError(Exception):
    """The error that the Go client returns."""


@pytest.fixture
def go(server: Account) -> Go:
    """A Go client."""
    return Go(server)


async def test_go_publishes_enqueues_and_batches(go: Go, receiver: Receiver) -> None:
    published = await go("POST", f"/v2/publish/{receiver.url('/p?a=1//b')}", "x", Upstash_Forward_My_Header="1")
    queued = await go("POST", f"/v2/enqueue/q/{receiver.url('/q')}", {"n": 1}, Content_Type="application/json")
    headers = {"Content-Type": "application/json", "Upstash-Method": "PUT", "Upstash-Forward-My-Header": "2"}
    [batched] = await go(
        "POST",
        "/v2/batch",
        [{"destination": receiver.url("/b"), "headers": headers, "body": '{"n":2}', "queue": ""}],
        Content_Type="application/json",
    )

    request = await receiver.next_request("/p")
    assert (request.method, request.target, request.body) == ("POST", "/p?a=1//b", b"x")
    assert (request.header("My-Header"), request.header("Upstash-Message-Id")) == ("1", published["messageId"])
    request = await receiver.next_request("/q")
    assert (request.body, request.header("Upstash-Message-Id")) == (b'{"n": 1}', queued["messageId"])
    request = await receiver.next_request("/b")
    assert (request.method, request.body, request.header("My-Header")) == ("PUT", b'{"n":2}', "2")
    assert request.header("Upstash-Message-Id") == batched["messageId"]
    assert [queue["name"] for queue in await go("GET", "/v2/queues")] == ["q"]


async def test_go_reads_and_cancels_messages(go: Go, receiver: Receiver) -> None:
    ids = [(await go("POST", f"/v2/publish/{receiver.url()}", "x", Upstash_Delay="1h"))["messageId"] for _ in range(6)]

    message = await go("GET", f"/v2/messages/{ids[0]}")
    assert (message["messageId"], message["body"], message["header"]) == (ids[0], "x", {})
    assert {type(message[name]) for name in ("maxRetries", "notBefore", "createdAt")} == {int}
    await go("DELETE", f"/v2/messages/{ids[0]}")
    assert await go.count("/v2/messages", "cancelled", {"messageIds": ids[:3]}) == 2
    assert await go.count("/v2/messages", "cancelled", {"messageIds": []}) == 0
    assert await go.count("/v2/messages", "cancelled") == 3  # everything: an empty body that is called JSON
    with pytest.raises(GoError, match="not found"):
        await go("GET", f"/v2/messages/{UNKNOWN}")


async def test_go_makes_and_handles_schedules(go: Go, server: Account, receiver: Receiver) -> None:
    made = await go(
        "POST", f"/v2/Schedules/{receiver.url('/s')}", "x", Upstash_Cron="* * * * *", Content_Type="text/plain"
    )
    schedule_id = made["scheduleId"]

    schedule = await go("GET", f"/v2/Schedules/{schedule_id}")
    assert (schedule["destination"], schedule["body"]) == (receiver.url("/s"), "x")
    assert schedule["header"] == {"Content-Type": ["text/plain"]}
    assert await go("GET", "/v2/schedules") == [schedule]
    await go("PATCH", f"/v2/schedules/{schedule_id}/pause")
    assert (await go("GET", f"/v2/Schedules/{schedule_id}"))["isPaused"] is True
    await go("PATCH", f"/v2/schedules/{schedule_id}/resume")
    await server.time_passes(timedelta(minutes=1))
    assert (await receiver.next_request("/s")).header("Upstash-Schedule-Id") == schedule_id
    fired = await eventually(lambda: go("GET", f"/v2/Schedules/{schedule_id}"), lambda it: "lastScheduleStates" in it)
    assert all(isinstance(state, str) for state in fired["lastScheduleStates"].values())
    await go("DELETE", f"/v2/schedules/{schedule_id}")
    assert await go("GET", "/v2/schedules") == []


async def test_go_reads_and_deletes_dead_letters(go: Go, server: Account, receiver: Receiver) -> None:
    receiver.script("/", status(500, b"no"))
    for _ in range(4):
        await go("POST", f"/v2/publish/{receiver.url()}", "x", Upstash_Retries="0")
    letters = await eventually(server.dead_letters, lambda letters: len(letters) == 4)

    page = await go("GET", "/v2/dlq?count=3&responseStatus=500&callerIp=127.0.0.1")
    rest = await go("GET", f"/v2/dlq?count=3&cursor={page['cursor']}")
    assert ([len(one["messages"]) for one in (page, rest)], "cursor" in rest) == ([3, 1], False)
    letter = await go("GET", f"/v2/dlq/{letters[0]['dlqId']}")
    assert (letter["responseStatus"], letter["responseBody"], letter["header"]) == (500, "no", {})
    await go("DELETE", f"/v2/dlq/{letters[0]['dlqId']}")
    ids = [letter["dlqId"] for letter in letters[:3]]
    assert await go.count("/v2/dlq", "deleted", {"dlqIds": ids}) == 2
    assert await go.count("/v2/dlq", "deleted", {"dlqIds": []}) == 0
    assert [one["dlqId"] for one in await server.dead_letters()] == [letters[3]["dlqId"]]


async def test_go_makes_groups_and_queues_and_reads_the_log(go: Go, server: Account, receiver: Receiver) -> None:
    endpoints = {"endpoints": [{"url": receiver.url("/a"), "name": "a"}, {"url": receiver.url("/b")}]}
    await go("POST", "/v2/topics/g/endpoints", endpoints, Content_Type="application/json")
    await go(
        "DELETE", "/v2/topics/g/endpoints", {"endpoints": [{"url": "", "name": "a"}]}, Content_Type="application/json"
    )
    assert [group["name"] for group in await go("GET", "/v2/topics")] == ["g"]
    assert (await go("GET", "/v2/topics/g"))["endpoints"] == [{"url": receiver.url("/b")}]
    await go(
        "POST", "/v2/queues", {"queueName": "q", "parallelism": 2, "paused": True}, Content_Type="application/json"
    )
    await go("POST", "/v2/queues/q/pause")
    [queued] = await go("POST", "/v2/enqueue/q/g", "x")
    assert (queued["url"], (await go("GET", "/v2/queues/q"))["lag"]) == (receiver.url("/b"), 1)

    await go("POST", "/v2/queues/q/resume")

    await receiver.next_request("/b")
    await server.settled(queued["messageId"])
    log = await go("GET", "/v2/events?topicName=g&queueName=q&state=DELIVERED&api=")
    assert ([event["messageId"] for event in log["events"]], "cursor" in log) == ([queued["messageId"]], False)
    for path in ("/v2/topics/g", "/v2/queues/q"):
        for _ in range(2):
            await go("DELETE", path)


async def test_go_rotates_the_keys(go: Go) -> None:
    keys = await go("GET", "/v2/keys")

    rotated = await go("POST", "/v2/rotate")

    assert rotated["current"] == keys["next"]
    assert await go("GET", "/v2/keys") == rotated


async def test_php_finds_the_statuses_that_it_compares_with(server: Account, receiver: Receiver) -> None:
    queue = {"queueName": "q", "parallelism": 1}
    url = receiver.url()

    async def code(method: str, path: str, body: Any = None, **headers: str) -> int:
        content = None if body is None else json.dumps(body)
        given = {name.replace("_", "-"): value for name, value in headers.items()} | JSON
        return (await server.http.request(method, path, content=content, headers=given)).status_code

    waiting = await server.publish(url, Upstash_Delay="60s")
    assert await code("POST", f"/v2/publish/{url}", []) == 201
    assert await code("POST", f"/v2/publish/{url}", [], Upstash_Deduplication_Id="1") == 201
    assert await code("POST", f"/v2/publish/{url}", [], Upstash_Deduplication_Id="1") == 202
    assert await code("POST", f"/v2/enqueue/q/{url}", []) == 200
    assert await code("DELETE", f"/v2/messages/{waiting}") == 202
    assert await code("DELETE", "/v2/messages", {"messageIds": [waiting]}) == 202
    assert await code("POST", "/v2/queues", queue) == 200
    assert await code("GET", "/v2/queues") == await code("GET", "/v2/queues/q") == 200
    assert await code("DELETE", "/v2/queues/q") == await code("DELETE", "/v2/queues/q") == 200


async def test_php_delivers_a_body_with_get(server: Account, receiver: Receiver) -> None:
    await server.publish(receiver.url("/get"), '{"a":1}', Upstash_Method="GET", **JSON)

    request = await receiver.next_request("/get")

    assert (request.method, request.body) == ("GET", b'{"a":1}')


@pytest.mark.parametrize("content_type", ["application/json", "text/html"])
async def test_php_says_the_content_type_twice_and_means_the_one_to_be_forwarded(
    server: Account, receiver: Receiver, content_type: str
) -> None:
    """The other one is that of every request of this client."""
    published = await server.publish(receiver.url("/type"), "[]", Upstash_Forward_Content_Type=content_type, **JSON)

    request = await receiver.next_request("/type")
    message = (await server.http.get(f"/v2/messages/{published}")).json()

    assert [value for name, value in request.headers if name.lower() == "content-type"] == [content_type]
    assert message["header"] == {"Content-Type": [content_type]}


async def test_ruby_calls_its_json_a_form(server: Account, receiver: Receiver) -> None:
    receiver.script("/fails", status(500))

    async def ruby(method: str, path: str, body: Any, **headers: str) -> Any:
        given = FORM | {name.replace("_", "-"): value for name, value in headers.items()}
        answer = await server.http.request(method, path, content=json.dumps(body), headers=given)
        assert answer.is_success, answer.text
        return json.loads(answer.content or "null")

    await ruby("POST", f"/v2/publish/{receiver.url('/p')}", {"a": 1}, **{"Upstash-Forward-myHeader": "1"})
    request = await receiver.next_request("/p")
    assert (json.loads(request.body), request.header("My-Header"), request.header("myheader")) == ({"a": 1}, None, "1")
    assert request.header("Content-Type") == FORM["Content-Type"]
    await ruby("POST", "/v2/batch", [{"destination": receiver.url("/b"), "body": "x"}])
    assert (await receiver.next_request("/b")).header("Content-Type") is None
    await ruby("POST", "/v2/topics/g/endpoints", {"endpoints": [{"url": receiver.url("/g")}]})
    await ruby("DELETE", "/v2/topics/g/endpoints", {"endpoints": [{"url": receiver.url("/g")}]})
    await ruby("DELETE", "/v2/topics/g", {})

    ids = [await server.publish(receiver.url(), Upstash_Delay="1h") for _ in range(4)]
    assert await ruby("DELETE", f"/v2/messages/{ids[0]}", {}) == {"cancelled": 1}
    assert await ruby("DELETE", "/v2/messages", {"messageIds": ids[:3]}) == {"cancelled": 2}
    assert await server.states(ids[3]) == ["CREATED"]
    for _ in range(3):
        await server.publish(receiver.url("/fails"), Upstash_Retries="0")
    letters = [letter["dlqId"] for letter in await eventually(server.dead_letters, lambda them: len(them) == 3)]
    await ruby("DELETE", f"/v2/dlq/{letters[0]}", {})
    assert await ruby("DELETE", "/v2/dlq", {"dlqIds": letters[:2]}) == {"deleted": 1}
    assert [letter["dlqId"] for letter in await server.dead_letters()] == letters[2:]
    keys = (await server.http.get("/v2/keys")).json()
    assert (await ruby("POST", "/v2/keys/rotate", {}))["current"] == keys["next"]


async def test_bodies_come_without_a_length_as_well(server: Account, receiver: Receiver) -> None:
    async def pieces(*texts: str) -> AsyncIterator[bytes]:
        for text in texts:
            yield text.encode()

    ids = [await server.publish(receiver.url(), Upstash_Delay="1h") for _ in range(2)]
    item = json.dumps([{"destination": receiver.url("/b"), "body": "x"}])

    published = await server.http.post(f"/v2/publish/{receiver.url('/p')}", content=pieces("a", "b"))
    batched = await server.http.post("/v2/batch", content=pieces(item[:5], item[5:]))
    chosen = pieces('{"messageIds":', f'["{ids[0]}"]}}')
    cancelled = await server.http.request("DELETE", "/v2/messages", content=chosen)

    assert (published.status_code, batched.status_code) == (201, 200)
    assert ((await receiver.next_request("/p")).body, (await receiver.next_request("/b")).body) == (b"ab", b"x")
    assert cancelled.json() == {"cancelled": 1}
    assert await server.states(ids[1]) == ["CREATED"]


async def test_every_endpoint_refuses_in_json(node: Running, server: Account) -> None:
    """The Go client decodes whatever has a status of 400 and above, so nothing else may ever come."""
    async with connected(server.database_url) as connection:
        tenant_id = await tenants.ensure(connection, server.token)
        await tokens.add(connection, tenant_id, "reader", name="reader", access=Access.READ_ONLY)
    paths = (await node.http.get("/openapi.json")).json()["paths"]
    bearers = [{"Authorization": f"Bearer {token}"} for token in ("wrong", "reader")]
    requests: list[tuple[str, str, dict[str, Any]]] = []
    for path, documented in paths.items():
        url = re.sub(r"{\w+}", "none", path)
        methods = {method.upper() for method in documented}
        requests += [(method, url, {}) for method in {"GET", "PUT", "POST", "PATCH", "DELETE"} - methods]
        requests += [(method, url, {"headers": token}) for method in methods for token in bearers]
        requests += [(method, url, {"content": "{"}) for method in methods]
        requests += [(method, url, {"params": {"surprise": "1"}}) for method in methods]

    answers = [await endless.ask(server.http, method, url, **rest) for method, url, rest in requests]

    refused = [answer for answer in answers if answer.status_code >= 400]
    for answer in refused:
        what = f"{answer.request.method} {answer.request.url} {answer.status_code}: {answer.text}"
        assert answer.status_code < 500, what
        assert answer.headers["Content-Type"] == "application/json", what
        assert isinstance(answer.json()["error"], str), what
    assert {answer.status_code for answer in refused} == {400, 401, 403, 404, 405}


COLLECTIONS = (
    ("GET", "/v2/bulkActions"),
    ("GET", "/v2/dlq"),
    ("GET", "/v2/events"),
    ("GET", "/v2/flowControl"),
    ("GET", "/v2/globalParallelism"),
    ("GET", "/v2/keys"),
    ("GET", "/v2/logs"),
    ("GET", "/v2/queues"),
    ("GET", "/v2/schedules"),
    ("GET", "/v2/topics"),
    ("POST", "/v2/dlq/retry"),
    ("POST", "/v2/keys/rotate"),
    ("POST", "/v2/rotate"),
)


async def test_a_slash_after_a_collection_means_nothing(server: Account, receiver: Receiver) -> None:
    for method, path in COLLECTIONS:
        answer = await server.http.request(method, f"{path}/")
        assert answer.is_success, f"{path}/: {answer.text}"
        assert isinstance(answer.json(), dict | list)

    endpoints = {"endpoints": [{"url": receiver.url("/g")}]}
    assert (await server.http.post("/v2/topics/g/endpoints/", json=endpoints)).status_code == 200
    assert (await server.http.post("/v2/queues/", json={"queueName": "q"})).status_code == 200
    assert (await server.http.post("/v2/queues/q/pause/")).status_code == 200
    assert (await server.http.get("/v2/queues/q/")).json()["paused"] is True
    [published] = (await server.http.post("/v2/publish/g/")).json()
    [batched] = (await server.http.post("/v2/batch/", json=[{"destination": receiver.url("/b")}])).json()
    assert (await receiver.next_request("/g")).header("Upstash-Message-Id") == published["messageId"]
    assert (await receiver.next_request("/b")).header("Upstash-Message-Id") == batched["messageId"]


async def test_a_slash_after_a_destination_belongs_to_it(server: Account, receiver: Receiver) -> None:
    await server.publish(receiver.url("/with/"))
    await server.publish(receiver.url("/without"))

    assert {request.target for request in await receiver.wait_for(2)} == {"/with/", "/without"}


async def test_only_names_tell_capitals_from_small_letters(server: Account, receiver: Receiver) -> None:
    url = receiver.url("/Path")
    endpoints = {"endpoints": [{"url": url}]}

    for method, path, body in (
        ("POST", f"/V2/PUBLISH/{url}", None),
        ("POST", f"/V2/Enqueue/Q/{url}", None),
        ("POST", "/V2/BATCH", [{"destination": url}]),
        ("POST", "/V2/TOPICS/G/ENDPOINTS", endpoints),
        ("POST", "/V2/Publish/G", None),
    ):
        answer = await server.http.request(method, path, json=body)
        assert answer.is_success, f"{path}: {answer.text}"

    assert {request.target for request in await receiver.wait_for(4)} == {"/Path"}
    assert (await server.http.get("/v2/queues/Q")).is_success
    assert (await server.http.get("/v2/queues/q")).status_code == 404
    assert (await server.http.post("/v2/publish/g")).status_code == 404
    assert (await server.http.post("/V2/QUEUES/Q/PAUSE")).is_success
    assert (await server.http.get("/V2/Queues/Q")).json()["paused"] is True


async def test_actions_on_a_flow_control_key_are_read_in_any_case(server: Account) -> None:
    assert (await server.http.post("/v2/flowControl/Key/pin?rate=9")).is_success

    for action in ("pause", "resume", "pin?rate=5", "unpin?rate=true", "resetRate"):
        name, _, parameters = action.partition("?")
        for written in (name, name.lower(), name.upper()):
            answer = await server.http.post(f"/V2/FLOWCONTROL/Key/{written}?{parameters}")
            assert answer.is_success, f"{written}: {answer.text}"

    assert [key["flowControlKey"] for key in (await server.http.get("/v2/flowControl")).json()] == ["Key"]


async def test_the_cursor_is_absent_from_the_last_page_of_everything(server: Account, receiver: Receiver) -> None:
    """Go goes on until the cursor is empty, Python until it is absent; the retry of dead letters alone says ""."""
    receiver.script("/", status(500))
    for _ in range(2):
        await server.publish(receiver.url(), Upstash_Retries="0")
    await eventually(server.dead_letters, lambda letters: len(letters) == 2)

    for path in ("/v2/events", "/v2/logs", "/v2/logs?groupBy=messageId", "/v2/dlq", "/v2/bulkActions"):
        page = (await server.http.get(path)).json()
        assert "cursor" not in page, path
    assert (await server.http.delete("/v2/dlq?count=1")).json().keys() == {"deleted", "cursor"}
    assert (await server.http.delete("/v2/dlq?count=1")).json() == {"deleted": 1}
    assert (await server.http.post("/v2/dlq/retry")).json() == {"cursor": "", "responses": []}
