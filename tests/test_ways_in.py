"""One door: whatever way a message comes in, its headers mean the same."""

from __future__ import annotations

import asyncio
import json
import random
from base64 import b64decode
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from postroad.store.engine import Connection
from tests.conftest import Running, eventually
from tests.receiver import Received, Receiver, ok, status

COMBINATIONS = 20
OF_THE_WAY = {
    "upstash-message-id", "upstash-signature", "upstash-schedule-id", "upstash-topic-name", "host", "accept",
    "content-length",
}  # fmt: skip
"""Headers that differ from message to message, or that only the way adds; `accept` is the HTTP client's own, and
bodies are compared whole."""


@dataclass
class Given:
    """One combination: header fields, and a body."""

    number: int
    headers: dict[str, str]
    body: str

    def url(self, receiver: Receiver, way: str) -> str:
        return receiver.url(f"/{self.number}/{way}?a=%2F&b")

    def headers_for(self, receiver: Receiver, way: str) -> dict[str, str]:
        place = receiver.url(f"/{self.number}/{way}")
        return {name: value.replace("HERE", place).replace("WAY", way) for name, value in self.headers.items()}


def combination(number: int) -> Given:
    chance = random.Random(number)
    menu: list[dict[str, str]] = [
        {"Upstash-Method": chance.choice(["POST", "PUT", "PATCH", "DELETE"])},
        {"Upstash-Retries": chance.choice(["1", "2", "5"])},
        {"Upstash-Timeout": chance.choice(["30", "5m", "1h30m"])},
        {"Upstash-Label": chance.choice(["one", "one,two", "one , two"])},
        {"Upstash-Redact-Fields": chance.choice(["body", "header", "body,header[Authorization]"])},
        {"Upstash-Forward-Authorization": "Bearer secret", "upstash-forward-x-trace": "a, b"},
        {"Content-Type": chance.choice(["application/json", "text/plain; charset=utf-8"])},
        {"Upstash-Header-Forward": "true", "X-Own": "own"},
        {"Upstash-Deduplication-Id": f"{number}-WAY"},
        {"Upstash-Content-Based-Deduplication": "True"},
        {
            "Upstash-Flow-Control-Key": f"key-{number}",
            "Upstash-Flow-Control-Value": "parallelism=7,rate=900, period=1m",
        },
        {
            "Upstash-Callback": "HERE/callback",
            "Upstash-Callback-Method": chance.choice(["POST", "PUT"]),
            "Upstash-Callback-Forward-X-Back": "yes",
            "Upstash-Callback-Retries": "1",
        },
        {"Upstash-Failure-Callback": "HERE/failure", "Upstash-Failure-Callback-Forward-Why": "because"},
        {"Upstash-Telemetry-Sdk": "test", "Upstash-Unknown": "ignored"},
    ]
    chosen = chance.sample(menu, chance.randint(2, 8))
    headers = {name: value for entry in chosen for name, value in entry.items()}
    body = chance.choice(["", "text ä", '{"n": 1}', "x" * 5_000])
    return Given(number, {"Upstash-Retry-Delay": "1", **headers}, body)


Way = Callable[[Running, Receiver, Given], Awaitable[None]]


async def by_publish(server: Running, receiver: Receiver, given: Given) -> None:
    await post(server, f"/v2/publish/{given.url(receiver, 'publish')}", receiver, given, "publish")


async def by_enqueue(server: Running, receiver: Receiver, given: Given) -> None:
    await post(server, f"/v2/enqueue/q{given.number}/{given.url(receiver, 'enqueue')}", receiver, given, "enqueue")


async def by_batch(server: Running, receiver: Receiver, given: Given) -> None:
    item = {
        "destination": given.url(receiver, "batch"),
        "headers": given.headers_for(receiver, "batch"),
        "body": given.body,
    }
    answer = await server.http.post("/v2/batch", json=[item])
    assert answer.status_code == 200, answer.text


async def by_schedule(server: Running, receiver: Receiver, given: Given) -> None:
    await post(
        server, f"/v2/schedules/{given.url(receiver, 'schedule')}", receiver, given, "schedule",
        {"Upstash-Cron": "0 0 1 1 *"},
    )  # fmt: skip


async def by_url_group(server: Running, receiver: Receiver, given: Given) -> None:
    name = f"group-{given.number}"
    endpoints = [{"url": given.url(receiver, "group")}]
    await server.http.post(f"/v2/topics/{name}/endpoints", json={"endpoints": endpoints})
    await post(server, f"/v2/publish/{name}", receiver, given, "group")


async def by_dlq_retry(server: Running, receiver: Receiver, given: Given) -> None:
    url = given.url(receiver, "dlq")
    await post(server, f"/v2/publish/{url}", receiver, given, "dlq")
    [letter] = await eventually(lambda: server.dead_letters(url=url), bool)
    answer = await server.http.post(f"/v2/dlq/retry/{letter['dlqId']}")
    assert answer.status_code == 201, answer.text


async def post(
    server: Running, path: str, receiver: Receiver, given: Given, way: str, more: dict[str, str] | None = None
) -> None:
    headers = given.headers_for(receiver, way) | (more or {})
    answer = await server.http.post(path, content=given.body.encode(), headers=headers)
    assert answer.is_success, answer.text


WAYS: dict[str, Way] = {
    "publish": by_publish,
    "enqueue": by_enqueue,
    "batch": by_batch,
    "schedule": by_schedule,
    "group": by_url_group,
    "dlq": by_dlq_retry,
}


async def test_headers_mean_the_same_by_every_way_in(
    server: Running, receiver: Receiver, connection: Connection
) -> None:
    everything = [combination(number) for number in range(COMBINATIONS)]
    for given in everything:
        for way in WAYS:
            refusal = [status(489, headers=[("Upstash-NonRetryable-Error", "true")])] if way == "dlq" else []
            receiver.script(f"/{given.number}/{way}", *refusal, status(500, b"not yet"), ok(b"done"))

    await asyncio.gather(*(way(server, receiver, given) for given in everything for way in WAYS.values()))
    await server.time_passes(timedelta(days=366))
    for given in everything:
        await receiver.wait_for(2, f"/{given.number}/schedule", timeout=60)
    await eventually(lambda: connection.fetchval("select count(*) from deliveries"), lambda left: left == 0, within=60)

    for given in everything:
        seen = {way: await seen_by(server, receiver, given, way) for way in WAYS}
        for way in WAYS:
            assert seen[way] == seen["publish"], (given, way)
        assert [request["body"] for request in seen["publish"]["requests"]] == 2 * [given.body.encode()]


async def seen_by(server: Running, receiver: Receiver, given: Given, way: str) -> dict[str, Any]:
    """What a receiver and a reader of the log saw of the first message, or of the retried dead letter."""
    requests = receiver.requests(f"/{given.number}/{way}")[1 if way == "dlq" else 0 :][:2]
    [message_id] = {request.header("Upstash-Message-Id") for request in requests}
    callbacks = [
        request
        for request in receiver.requests(f"/{given.number}/{way}/callback")
        if json.loads(request.body)["sourceMessageId"] == message_id
    ]
    # That of an attempt may overtake that of the one before.
    callbacks.sort(key=lambda request: json.loads(request.body).get("retried", 0))
    events = (await server.http.get("/v2/events", params={"messageId": message_id})).json()["events"]
    return {
        "requests": [seen_request(request) for request in requests],
        "callbacks": [seen_request(request) | {"body": seen_payload(request)} for request in callbacks],
        "failures": 0 if way == "dlq" else len(receiver.requests(f"/{given.number}/{way}/failure")),
        "events": [seen_event(event, way) for event in events],
    }


def seen_request(request: Received) -> dict[str, Any]:
    headers = sorted((name, value) for name, value in request.headers if name.lower() not in OF_THE_WAY)
    return {
        "method": request.method,
        "query": request.target.partition("?")[2],
        "headers": headers,
        "body": request.body,
    }


def seen_payload(request: Received) -> dict[str, Any]:
    payload = json.loads(request.body)
    assert b64decode(payload["body"]) in (b"not yet", b"done")
    varying = {"sourceMessageId", "url", "createdAt", "notBefore", "scheduleId", "topicName"}
    payload["sourceHeader"] = without_accept(payload["sourceHeader"])
    return {name: value for name, value in payload.items() if name not in varying}


def seen_event(event: dict[str, Any], way: str) -> dict[str, Any]:
    varying = {"time", "messageId", "url", "nextDeliveryTime", "scheduleId", "topicName", "queueName"}
    event["header"] = without_accept(event["header"])
    kept = {name: value for name, value in event.items() if name not in varying}
    for name in ("callback", "failureCallback"):
        if name in kept:
            kept[name] = kept[name].replace(f"/{way}/", "/")
    return kept


def without_accept(header: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in header.items() if name != "Accept"}
