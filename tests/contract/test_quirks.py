"""What the official clients do that a server must bear with, and what they cannot do without, in raw requests."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.contract import accounts
from tests.contract.accounts import Account
from tests.moods import status
from tests.receiver import Receiver

pytestmark = pytest.mark.asyncio(loop_scope="module")
node, server, receiver = accounts.node, accounts.server, accounts.receiver

JSON = {"Content-Type": "application/json"}
CRON = {"Upstash-Cron": "0 0 1 1 *"}
NOWHERE = "http://127.0.0.1:9/x"
FLOW = {"Upstash-Flow-Control-Key": "k", "Upstash-Flow-Control-Value": "parallelism=3"}


async def a_dead_letter(server: Account, receiver: Receiver) -> dict[str, Any]:
    """One that is in the queue now."""
    receiver.script("/fails", status(404, b"404 Not Found"))
    await server.settled(await server.publish(receiver.url("/fails"), Upstash_Retries="0"), "FAILED")
    letters = await server.dead_letters()
    return letters[0]


def in_chunks(body: bytes) -> AsyncIterator[bytes]:
    """A body of a length that its sender does not know, so that it has no Content-Length."""

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 5):
            yield body[start : start + 5]

    return chunks()


async def test_the_statuses_that_the_strictest_client_insists_on(server: Account, receiver: Receiver) -> None:
    """The one for PHP takes 201 for a publish, 200 for an enqueue and 202 for a cancel, and nothing else."""
    published = await server.http.post(f"/v2/publish/{receiver.url()}", headers={"Upstash-Deduplication-Id": "x"})
    duplicate = await server.http.post(f"/v2/publish/{receiver.url()}", headers={"Upstash-Deduplication-Id": "x"})
    enqueued = await server.http.post(f"/v2/enqueue/q/{receiver.url()}")
    waiting = await server.publish(receiver.url(), Upstash_Delay="1h")
    cancelled = await server.http.delete(f"/v2/messages/{waiting}")

    assert [one.status_code for one in (published, duplicate, enqueued, cancelled)] == [201, 202, 200, 202]
    assert duplicate.json() == {**published.json(), "deduplicated": True}


async def test_a_delete_may_say_that_it_has_a_body_in_json_and_have_none(server: Account, receiver: Receiver) -> None:
    await server.http.post("/v2/topics/g/endpoints", json={"endpoints": [{"url": NOWHERE}]})
    await server.http.post("/v2/queues", json={"queueName": "q"})
    schedule = (await server.http.post(f"/v2/schedules/{NOWHERE}", headers=CRON)).json()["scheduleId"]
    one, two = [await server.publish(NOWHERE, Upstash_Delay="1h") for _ in range(2)]
    letter = await a_dead_letter(server, receiver)
    await a_dead_letter(server, receiver)

    for path in (
        f"messages/{one}", f"messages?messageIds={two}", f"dlq/{letter['dlqId']}", "dlq",
        "topics/g", "queues/q", f"schedules/{schedule}",
    ):  # fmt: skip
        answer = await server.http.delete(f"/v2/{path}", headers=JSON)
        assert answer.is_success, f"{path}: {answer.text}"

    assert [(await server.states(message_id))[-1] for message_id in (one, two)] == ["CANCELED", "CANCELED"]
    assert await server.dead_letters() == []
    for resource in ("topics", "queues", "schedules"):
        assert (await server.http.get(f"/v2/{resource}")).json() == []


async def test_bodies_may_come_without_their_length(server: Account, receiver: Receiver) -> None:
    group = await server.http.post(
        "/v2/topics/g/endpoints", content=in_chunks(b'{"endpoints": [{"url": "http://127.0.0.1:9/x"}]}'), headers=JSON
    )
    queue = await server.http.post("/v2/queues", content=in_chunks(b'{"queueName": "q", "paused": true}'), headers=JSON)
    published = await server.http.post(f"/v2/publish/{receiver.url('/p')}", content=in_chunks(b"a longer body"))
    items = f'[{{"destination": "{receiver.url("/b")}", "body": "in a batch"}}]'.encode()
    batch = await server.http.post("/v2/batch", content=in_chunks(items), headers=JSON)
    schedule = await server.http.post(f"/v2/schedules/{NOWHERE}", content=in_chunks(b"scheduled"), headers=CRON)
    waiting, kept = [await server.publish(NOWHERE, Upstash_Delay="1h") for _ in range(2)]
    ids = f'{{"messageIds": ["{waiting}"]}}'.encode()
    cancelled = await server.http.request("DELETE", "/v2/messages", content=in_chunks(ids), headers=JSON)

    for answer in (group, queue, published, batch, schedule):
        assert answer.is_success, answer.text
    assert (await receiver.next_request("/p")).body == b"a longer body"
    assert (await receiver.next_request("/b")).body == b"in a batch"
    stored = (await server.http.get(f"/v2/schedules/{schedule.json()['scheduleId']}")).json()
    assert stored["body"] == "scheduled"
    assert (await server.http.get("/v2/queues/q")).json()["paused"] is True
    assert len((await server.http.get("/v2/topics/g")).json()["endpoints"]) == 1
    assert cancelled.json() == {"cancelled": 1}
    assert await server.states(kept) == ["CREATED"]


async def test_what_clients_tell_of_themselves_goes_no_further(server: Account, receiver: Receiver) -> None:
    telling = {
        "Upstash-Telemetry-Sdk": "upstash-qstash-js@v2", "Upstash-Telemetry-Platform": "vercel",
        "Upstash-Telemetry-Runtime": "node@v20", "Upstash-Telemetry-Framework": "nextjs",
    }  # fmt: skip
    item = {"destination": receiver.url(), "headers": telling}
    answers = [
        await server.http.post(f"/v2/publish/{receiver.url()}", headers=telling),
        await server.http.post(f"/v2/enqueue/q/{receiver.url()}", headers=telling),
        await server.http.post("/v2/batch", json=[item], headers=telling),
        await server.http.post(f"/v2/schedules/{receiver.url()}", headers={**telling, **CRON}),
    ]

    assert all(answer.is_success for answer in answers)
    requests = await receiver.wait_for(3)
    assert not [name for one in requests for name, _ in one.headers if "telemetry" in name.lower()]
    views = [*await server.events(), *(await server.http.get("/v2/schedules")).json()]
    assert [view["header"] for view in views] == [{}] * len(views)


async def test_ids_of_dead_letters_to_retry_may_be_one_text_a_list_or_a_body(
    server: Account, receiver: Receiver
) -> None:
    ids = [(await a_dead_letter(server, receiver))["dlqId"] for _ in range(6)]
    receiver.script("/fails", status(200))

    answers = [
        await server.http.post("/v2/dlq/retry", params={"dlqIds": ids[0]}),
        await server.http.post("/v2/dlq/retry", params={"dlqIds": f"{ids[1]},{ids[2]}"}),
        await server.http.post("/v2/dlq/retry", params=[("dlqIds", ids[3]), ("dlqIds", ids[4])]),
    ]

    assert [len(answer.json()["responses"]) for answer in answers] == [1, 2, 2]
    assert [letter["dlqId"] for letter in await server.dead_letters()] == [ids[5]]
    assert len(await receiver.wait_for(11)) == 11


@pytest.mark.parametrize("spelling", ["header", "headers"])
async def test_headers_are_redacted_by_either_spelling(server: Account, receiver: Receiver, spelling: str) -> None:
    headers = {"Upstash_Forward_Secret": "s", "Upstash_Forward_Open": "o", "Upstash_Delay": "1h"}

    one = await server.publish(receiver.url(), Upstash_Redact_Fields=f"{spelling}[secret]", **headers)
    all_of_them = await server.publish(receiver.url(), Upstash_Redact_Fields=f"body,{spelling}", **headers)

    shown = (await server.message(one))["header"]
    assert shown["Secret"][0].startswith("REDACTED:")
    assert shown["Open"] == ["o"]
    shown = (await server.message(all_of_them))["header"]
    assert [values[0][:9] for values in shown.values()] == ["REDACTED:", "REDACTED:"]


async def test_what_clients_parse_is_json(server: Account, receiver: Receiver) -> None:
    letters = [(await a_dead_letter(server, receiver))["dlqId"] for _ in range(3)]
    receiver.script("/fails", status(200))
    await server.http.post("/v2/topics/g/endpoints", json={"endpoints": [{"url": receiver.url()}]})
    await server.http.post("/v2/queues", json={"queueName": "q"})
    schedule = (await server.http.post(f"/v2/schedules/{NOWHERE}", headers=CRON)).json()["scheduleId"]
    one, two = [await server.publish(NOWHERE, Upstash_Delay="1h") for _ in range(2)]
    await server.publish(NOWHERE, Upstash_Delay="1h", **{name.replace("-", "_"): v for name, v in FLOW.items()})

    calls: list[tuple[str, str, type]] = [
        ("POST", f"publish/{receiver.url()}", dict), ("POST", "publish/g", list),
        ("POST", f"enqueue/q/{receiver.url()}", dict), ("POST", "enqueue/q/g", list),
        ("GET", f"messages/{one}", dict), ("DELETE", f"messages/{one}", dict),
        ("DELETE", f"messages?messageIds={two}", dict),
        ("GET", "dlq", dict), ("GET", f"dlq/{letters[0]}", dict), ("POST", f"dlq/retry/{letters[0]}", dict),
        ("POST", f"dlq/retry?dlqIds={letters[1]}", dict), ("DELETE", "dlq", dict),
        ("GET", "queues", list), ("GET", "queues/q", dict), ("GET", "topics", list), ("GET", "topics/g", dict),
        ("GET", "schedules", list), ("GET", f"schedules/{schedule}", dict),
        ("GET", "keys", dict), ("POST", "keys/rotate", dict), ("GET", "events", dict), ("GET", "logs", dict),
        ("GET", "flowControl", list), ("GET", "flowControl/k", dict), ("GET", "globalParallelism", dict),
        ("GET", "bulkActions", dict), ("DELETE", "messages", dict),
    ]  # fmt: skip
    answers = [(await server.http.request(method, f"/v2/{path}"), kind) for method, path, kind in calls]
    answers += [(await server.http.post("/v2/batch", json=[{"destination": receiver.url()}]), list)]

    for answer, kind in answers:
        assert answer.is_success, f"{answer.request.url}: {answer.text}"
        assert answer.headers["Content-Type"].startswith("application/json"), answer.request.url
        assert type(answer.json()) is kind, answer.request.url


async def test_what_clients_do_not_read_is_at_least_a_success(server: Account, receiver: Receiver) -> None:
    letter = (await a_dead_letter(server, receiver))["dlqId"]
    schedule = (await server.http.post(f"/v2/schedules/{NOWHERE}", headers=CRON)).json()["scheduleId"]
    endpoints = {"endpoints": [{"url": NOWHERE}]}
    calls: list[tuple[str, str, Any]] = [
        ("POST", "queues", {"queueName": "q"}), ("POST", "queues/q/pause", None), ("POST", "queues/q/resume", None),
        ("POST", "topics/g/endpoints", endpoints), ("DELETE", "topics/g/endpoints", endpoints),
        ("PATCH", f"schedules/{schedule}/pause", None), ("PATCH", f"schedules/{schedule}/resume", None),
        ("POST", "flowControl/k/pause", None), ("POST", "flowControl/k/resume", None),
        ("POST", "flowControl/k/pin?rate=1", None), ("POST", "flowControl/k/unpin?rate=true", None),
        ("POST", "flowControl/k/resetRate", None), ("DELETE", f"dlq/{letter}", None),
        ("DELETE", "queues/q", None), ("DELETE", "topics/g", None), ("DELETE", f"schedules/{schedule}", None),
    ]  # fmt: skip

    answers = [await server.http.request(method, f"/v2/{path}", json=body) for method, path, body in calls]

    assert [(answer.status_code, str(answer.request.url)) for answer in answers if answer.status_code != 200] == []
    assert (await server.http.get("/v2/queues")).json() == []
    assert await server.dead_letters() == []


async def test_the_fields_that_clients_index_without_asking_are_always_there(
    server: Account, receiver: Receiver
) -> None:
    """The client for Python raises a KeyError otherwise."""
    letter = await a_dead_letter(server, receiver)
    await server.http.post("/v2/topics/g/endpoints", json={"endpoints": [{"url": NOWHERE}, {"url": receiver.url()}]})
    await server.http.post("/v2/queues", json={"queueName": "q"})
    schedule = (await server.http.post(f"/v2/schedules/{NOWHERE}", headers=CRON)).json()
    message_id = await server.publish(NOWHERE, Upstash_Delay="1h", **{n.replace("-", "_"): v for n, v in FLOW.items()})

    async def get(path: str) -> Any:
        return (await server.http.get(f"/v2/{path}")).json()

    def has(fields: str, *views: dict[str, Any]) -> None:
        assert views
        for view in views:
            assert set(fields.split()) <= view.keys(), f"of {fields} {view} has not all"

    message = "messageId url method maxRetries notBefore createdAt"
    has(message, await get(f"messages/{message_id}"))
    listed = await get("dlq")
    has("messages", listed)
    has(f"{message} responseStatus dlqId", *listed["messages"], await get(f"dlq/{letter['dlqId']}"))
    log = await get("events")
    has("events", log)
    has("time messageId state url", *log["events"])
    has("name parallelism createdAt updatedAt lag paused", *await get("queues"), await get("queues/q"))
    plan = "scheduleId destination cron createdAt method retries"
    has("scheduleId", schedule)
    has(plan, *await get("schedules"), await get(f"schedules/{schedule['scheduleId']}"))
    groups = [*await get("topics"), await get("topics/g")]
    has("name createdAt updatedAt endpoints", *groups)
    has("url", *(endpoint for group in groups for endpoint in group["endpoints"]))
    has("current next", await get("keys"))
    has("flowControlKey", await get("flowControl/k"), *await get("flowControl"))
    published = (await server.http.post(f"/v2/publish/{receiver.url()}")).json()
    has("messageId", published, (await server.http.post(f"/v2/enqueue/q/{receiver.url()}")).json())
    has("messageId url", *(await server.http.post("/v2/publish/g")).json())
    has("cancelled", (await server.http.delete("/v2/messages")).json())
    has("deleted", (await server.http.delete("/v2/dlq")).json())


async def test_a_field_is_never_null(server: Account, receiver: Receiver) -> None:
    """A client that asks whether a name is there does not expect nothing under it."""
    await a_dead_letter(server, receiver)
    await server.http.post("/v2/topics/g/endpoints", json={"endpoints": [{"url": NOWHERE}]})
    await server.http.post("/v2/queues", json={"queueName": "q"})
    await server.http.post(f"/v2/schedules/{NOWHERE}", headers=CRON)
    await server.publish(NOWHERE, Upstash_Delay="1h", **{name.replace("-", "_"): v for name, v in FLOW.items()})

    answers = [await server.http.get(f"/v2/{path}") for path in (
        "dlq", "events", "queues", "topics", "schedules", "flowControl", "globalParallelism", "keys",
    )]  # fmt: skip

    assert [str(one.request.url) for one in answers if re.search(r"[:,\[]\s*null\b", one.text)] == []


async def test_the_clients_own_example_of_cancelling_counts_as_it_says(server: Account, receiver: Receiver) -> None:
    ids = [await server.publish(receiver.url(), Upstash_Delay="1h") for _ in range(3)]

    two = await server.http.delete("/v2/messages", params={"messageIds": ids[:2]})
    rest = await server.http.delete("/v2/messages", params={"count": 100})

    assert (two.json()["cancelled"], rest.json()["cancelled"]) == (2, 1)


async def test_filters_of_a_bulk_call_are_or_within_a_field_and_and_between_fields(
    server: Account, receiver: Receiver
) -> None:
    for label, path in (("a", "/one"), ("a", "/two"), ("b", "/one"), ("b", "/two"), ("c", "/three")):
        await server.publish(receiver.url(path), Upstash_Delay="1h", Upstash_Label=label)

    async def cancelled(*filters: tuple[str, str]) -> int:
        answer = await server.http.delete("/v2/messages", params=filters)
        assert answer.is_success, answer.text
        number: int = answer.json()["cancelled"]
        return number

    assert await cancelled(("host", "other.example")) == 0
    assert await cancelled(("host", "127.0.0.1"), ("path", "/one"), ("label", "b")) == 1
    assert await cancelled(("path", "/one"), ("label", "b")) == 0
    assert await cancelled(("url", receiver.url("/one")), ("url", receiver.url("/two")), ("label", "a")) == 2
    assert await cancelled(("path", "/two"), ("path", "/three")) == 2
    assert await cancelled() == 0


async def test_a_queue_upsert_changes_what_enqueueing_leaves_alone(server: Account, receiver: Receiver) -> None:
    async def parallelism_after(request: httpx.Request) -> int:
        assert (await server.http.send(request)).is_success
        number: int = (await server.http.get("/v2/queues/q")).json()["parallelism"]
        return number

    build = server.http.build_request
    assert await parallelism_after(build("POST", "/v2/queues", json={"queueName": "q", "parallelism": 3})) == 3
    assert await parallelism_after(build("POST", f"/v2/enqueue/q/{receiver.url()}")) == 3
    headers = {**CRON, "Upstash-Queue-Name": "q"}
    assert await parallelism_after(build("POST", f"/v2/schedules/{receiver.url()}", headers=headers)) == 3
    assert await parallelism_after(build("POST", "/v2/queues", json={"queueName": "q", "parallelism": 5})) == 5
