"""The OpenAPI document describes every endpoint, and whatever is sent to one, the answer is one that it describes."""

from __future__ import annotations

import asyncio
import logging
import re
from collections import Counter
from random import Random
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.core.result import Ok

from postroad.domain.publication import OPTION_NAMES
from postroad.store.engine import Connection
from tests.conftest import TOKEN, Running, Serve
from tests.receiver import Receiver

ENDPOINTS = """
POST /v2/publish/{} POST /v2/enqueue/{}/{} POST /v2/batch
GET /v2/messages/{} DELETE /v2/messages/{} DELETE /v2/messages POST /v2/messages/{}/retry
GET /v2/bulkActions GET /v2/bulkActions/{}
GET /v2/dlq DELETE /v2/dlq GET /v2/dlq/{} DELETE /v2/dlq/{} POST /v2/dlq/retry/{} POST /v2/dlq/retry
POST /v2/queues GET /v2/queues GET /v2/queues/{} DELETE /v2/queues/{} POST /v2/queues/{}/pause POST /v2/queues/{}/resume
POST /v2/schedules/{} GET /v2/schedules GET /v2/schedules/{} DELETE /v2/schedules/{}
POST /v2/schedules/{}/pause PATCH /v2/schedules/{}/pause POST /v2/schedules/{}/resume PATCH /v2/schedules/{}/resume
PATCH /v2/schedules/{} POST /v2/schedules/{}/run
GET /v2/topics GET /v2/topics/{} DELETE /v2/topics/{} PATCH /v2/topics/{}
POST /v2/topics/{}/endpoints DELETE /v2/topics/{}/endpoints
GET /v2/keys POST /v2/keys/rotate GET /v2/logs GET /v2/events
GET /v2/flowControl GET /v2/flowControl/{} POST /v2/flowControl/{}/pause POST /v2/flowControl/{}/resume
POST /v2/flowControl/{}/pin POST /v2/flowControl/{}/unpin POST /v2/flowControl/{}/resetRate
GET /v2/globalParallelism GET /v2/readiness GET /v2/liveness
"""

CASES = 3_000
OF_A_PUBLISH = 700
"""Headers are most of a publish and cost nothing to make up; what is generated from a description costs much more."""

OF_AN_OPERATION = 30

VALID: dict[str, list[str]] = {
    "Method": ["POST", "GET", "put", "PATCH", "DELETE"],
    "Retries": ["0", "3", "1000"],
    "Retry-Delay": ["1000", "pow(2, retried) * 1000", "max(1000, retried)"],
    "Delay": ["0s", "30", "1d10h30m"],
    "Not-Before": ["0", "1700000000"],
    "Timeout": ["30s", "1h"],
    "Label": ["a", "a,b", " a , "],
    "Redact-Fields": ["body", "header", "body,headers[Authorization]"],
    "Deduplication-Id": ["one", "x" * 100],
    "Content-Based-Deduplication": ["true", "False"],
    "Queue-Name": ["queue-1", "_q."],
    "Flow-Control-Key": ["key", "a/b c"],
    "Flow-Control-Value": ["parallelism=3, rate=10, period=1m", "rate=1"],
    "Callback": ["http://127.0.0.1:9/callback"],
    "Failure-Callback": ["http://127.0.0.1:9/failure"],
    "Header-Forward": ["true", "0"],
    "Cron": ["* * * * *", "CRON_TZ=Europe/Berlin 0 9 * * MON-FRI", "@daily"],
    "Schedule-Id": ["schedule-1", "a.b"],
}
"""Values that a publish takes, for each header of the document."""

NEARLY = [
    "", " ", "-1", "0x1", "1e9", "99999999999999999999", "1d1", "s", "5 s", "TRUE!", "a:b", "body,", "header[",
    "*/61 * * * *", "CRON_TZ=Mars/Base * * * * *", "0 0 30 2 *", "parallelism=0", "rate=1,rate=2", "period=1s",
    "pow(2", "1/0", "nan", "http://", "ftp://x/", "http://[::1", "https://user:pw@h/", "\u00e4", "BREW", "a b", "../x",
]  # fmt: skip
HOSTILE = [
    "x" * 5_000, "(" * 2_000, "pow(" * 50, "," * 3_000, "\t", "\u00ff\u00fe", "%00", "'; drop table messages; --",
    "${jndi:x}", "9" * 400, "-" * 300, "=,=,=", "0 " * 200, "[" * 500, "a" * 300 + "=1",
]  # fmt: skip

NAMES = sorted(VALID)
MORE = [
    "Upstash-Forward-X", "Upstash-Forward-Host", "Upstash-Callback-Retries", "Upstash-Callback-Delay",
    "Upstash-Failure-Callback-Forward-A", "Upstash-Unknown", "Content-Type", "X-Request-Id", "X-Forwarded-For",
]  # fmt: skip


def headers(chance: Random) -> dict[str, str]:
    """Up to five headers of a publish, valid, nearly valid and hostile mixed or all of them valid, and some others."""
    is_valid = chance.random() < 0.5

    def value(name: str) -> str:
        kinds = [VALID[name]] if is_valid else [VALID[name], NEARLY, HOSTILE, [latin(chance)]]
        return chance.choice(chance.choice(kinds))

    chosen = {f"Upstash-{name}": value(name) for name in chance.sample(NAMES, chance.randint(0, 5))}
    others = {name: chance.choice([*NEARLY, *HOSTILE, latin(chance)]) for name in chance.sample(MORE, 3)}
    return chosen | dict(list(others.items())[: chance.choice([0, 0, 1, 3])])


def latin(chance: Random) -> str:
    """What an HTTP client lets one put into a header."""
    codes = [chance.choice([*range(0x20, 0x7F), *range(0x80, 0x100)]) for _ in range(chance.randint(0, 40))]
    return "".join(map(chr, codes))


async def test_the_document_describes_every_endpoint(server: Running) -> None:
    document = (await server.http.get("/openapi.json")).json()

    described = {
        f"{method.upper()} {re.sub('{[^}]*}', '{}', path)}"
        for path, operations in document["paths"].items()
        for method in operations
    }

    words = ENDPOINTS.split()
    assert {f"{method} {path}" for method, path in zip(words[::2], words[1::2], strict=True)} - described == set()
    assert not any("422" in o["responses"] for operations in document["paths"].values() for o in operations.values())


def test_every_header_of_a_publish_has_values_to_try() -> None:
    assert set(VALID) == {*OPTION_NAMES, "Cron", "Schedule-Id"}


@pytest.mark.timeout(300)
async def test_whatever_is_sent_the_answer_is_a_documented_one(
    serve: Serve, receiver: Receiver, connection: Connection
) -> None:
    """Every operation, with data that fits its description and data that does not, and every header of a publish."""
    server = await serve(max_calls_per_second=0)
    await server.publish(receiver.url("/0"))

    counts: Counter[int] = await asyncio.to_thread(_fuzz, server.url, receiver.url("/0"))

    logging.getLogger(__name__).info("%d cases: %s", counts.total(), dict(sorted(counts.items())))
    assert counts.total() >= CASES
    assert 201 in counts
    assert not [status for status in counts if status >= 500]
    assert await connection.fetchval("select count(*) from messages") > 0
    assert (await server.http.get("/v2/readiness")).status_code == 200


def _fuzz(url: str, good: str) -> Counter[int]:
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    operations = [result.ok() for result in schema.get_all_operations() if isinstance(result, Ok)]
    counts: Counter[int] = Counter()
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=30) as client:
        for number, operation in enumerate(operations):
            chance = Random(number)
            if "{destination}" in operation.path:
                _fuzz_headers(client, operation, good, chance, counts)
            _fuzz_operation(client, operation, chance, counts)
    return counts


def _fuzz_headers(client: httpx.Client, operation: Any, good: str, chance: Random, counts: Counter[int]) -> None:
    """A destination, a text as the body, and all kinds of headers."""
    destinations = [good, good, "group", "api/llm", "http:/x", "", "a b", "%2F", "http://127.0.0.1:9/\u00e9"]
    for _ in range(OF_A_PUBLISH):
        path = operation.path.replace("{destination}", chance.choice(destinations)).replace("{queueName}", "q")
        _send(client, operation, {"method": "POST", "url": path, "data": "body"}, headers(chance), counts)


def _fuzz_operation(client: httpx.Client, operation: Any, chance: Random, counts: Counter[int]) -> None:
    """What fits the description of an operation, and what does not."""
    modes = [GenerationMode.POSITIVE, GenerationMode.NEGATIVE]

    @settings(
        max_examples=OF_AN_OPERATION,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        derandomize=True,
    )
    @given(case=st.one_of(*(operation.as_strategy(generation_mode=mode) for mode in modes)))
    def fuzz(case: Any) -> None:
        arguments = case.as_transport_kwargs(base_url=str(client.base_url))
        _send(client, operation, arguments, headers(chance), counts)

    fuzz()


def _send(
    client: httpx.Client, operation: Any, arguments: dict[str, Any], more: dict[str, str], counts: Counter[int]
) -> None:
    sent = {k: str(v) for k, v in (arguments.get("headers") or {}).items() if k.lower() != "authorization"} | more
    try:
        request = client.build_request(
            arguments["method"],
            arguments["url"],
            params=arguments.get("params"),
            headers={k: v.encode("latin-1", "replace") for k, v in sent.items()},
            content=arguments.get("data") if isinstance(arguments.get("data"), str | bytes) else None,
            json=arguments.get("json"),
        )
        answer = client.send(request, stream=True)
        if not answer.headers.get("content-type", "").startswith("text/event-stream"):  # which has no end
            answer.read()
        answer.close()
    except (httpx.InvalidURL, httpx.LocalProtocolError, httpx.UnsupportedProtocol, TypeError, ValueError):
        return  # What no HTTP client sends.
    counts[answer.status_code] += 1
    documented = {int(status) for status in operation.definition.raw["responses"]}
    assert answer.status_code in documented | {405}, (answer.request, dict(answer.request.headers), answer.text)
    if answer.status_code >= 400:
        assert answer.json()["error"]
