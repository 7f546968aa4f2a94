"""`python -m tests.security.bombs`: requests that cost much to read, and how long an honest client waits then."""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from time import monotonic

from tests.conftest import TOKEN
from tests.security.inbound import raw
from tests.security.own_node import own_node

SLOW_CLIENTS = 1_000
NOWHERE = "http://127.0.0.1:9/x"

JSON_ROUTES = (
    ("POST", "/v2/batch"),
    ("POST", "/v2/topics/g/endpoints"),
    ("DELETE", "/v2/topics/g/endpoints"),
    ("PATCH", "/v2/topics/g"),
    ("POST", "/v2/queues"),
    ("DELETE", "/v2/messages"),
    ("DELETE", "/v2/dlq"),
    ("POST", "/v2/dlq/retry"),
)
"""Where a body is read as JSON."""


@dataclass(frozen=True)
class Bomb:
    """A request, and the statuses that it may be answered with."""

    name: str
    request: bytes
    statuses: tuple[int, ...]


def request(method: str, path: str, body: bytes = b"", *headers: str) -> bytes:
    """An HTTP request of the development tenant."""
    head = [f"{method} {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {TOKEN}", f"Content-Length: {len(body)}"]
    return "\r\n".join([*head, *headers, "", ""]).encode("latin-1") + body


def bombs() -> Iterator[Bomb]:
    """All of them, one after the other: together they are large."""
    deep, many = 10**5, 10**6
    digits = b"9" * many
    for method, path in JSON_ROUTES:
        here = partial(request, method, path)
        for name, body in (
            ("deep arrays", b"[" * deep + b"]" * deep),
            ("deep objects", b'{"a":' * deep + b"1" + b"}" * deep),
            ("arrays that are not closed", b"[" * deep),
            ("33 levels in a field", b'[{"headers":%s}]' % (b"[" * 33 + b"]" * 33)),
            ("300 levels in each field", b'{"endpoints":%s,"headers":1}' % (b"[" * 300 + b"]" * 300)),
            ("a number of a million digits", b'[{"a":%s}]' % digits),
            ("an exponent", b'{"parallelism":1e400}'),
            ("a number that is none", b'{"parallelism":NaN}'),
            ("half a pair", b'{"queueName":"\\ud800"}'),
            ("a byte that is no text", b'{"queueName":"\xff"}'),
            ("a NUL", b'{"queueName":"a\\u0000b","messageIds":"\\u0000","endpoints":[{"url":"\\u0000"}]}'),
        ):
            statuses = (400,) if len(body) < 64 * 1024 else (400, 413)
            yield Bomb(f"{method} {path}: {name}", here(body), statuses)
        keys = b"{" + b",".join(b'"%x":1' % number for number in range(many)) + b"}"
        yield Bomb(f"{method} {path}: a million keys", here(keys), (400, 413))
        yield Bomb(f"{method} {path}: a million values", here(b"[%s1]" % (b"1," * many)), (400, 413))
        yield Bomb(f"{method} {path}: gzip", here(b"x", "Content-Encoding: gzip"), (415,))
        lists = b'{"a":[%s1]}' % (b"[]," * 500_000)
        yield Bomb(f"{method} {path}: 500,000 lists", here(lists), (400, 413))
    yield from _batches()
    yield from _heads()


def _batches() -> Iterator[Bomb]:
    item = {"destination": NOWHERE}
    batch = partial(request, "POST", "/v2/batch")

    def one(**fields: object) -> bytes:
        return json.dumps([item | fields]).encode()

    yield Bomb("100,000 items", batch(json.dumps([item] * 10**5).encode()), (400,))
    yield Bomb("100,000 items that are none", batch(b"[" + b"{}," * 10**5 + b"{}]"), (400,))
    yield Bomb("100,000 headers of an item", batch(one(headers={f"x{n}": "" for n in range(10**5)})), (400,))
    yield Bomb("a header of 20 MB", batch(one(headers={"Upstash-Label": "a," * 10**7})), (400,))
    yield Bomb("a body of 11 MB", batch(one(body="x" * 11_000_000)), (413,))
    yield Bomb("items of 30 MB that are no JSON", batch(b'[{"body":"' + b'\\"' * 15_000_000 + b"}]"), (400,))
    yield Bomb("30 MB of brackets", batch(b"[" + b"{}," * 10**7 + b"1]"), (400,))
    yield Bomb("30 MB of lists in an item", batch(b"[[" + b"[]," * 10**7 + b"1]]"), (400,))
    for name, value in (
        ("Upstash-Retry-Delay", "(" * 10_000 + "1" + ")" * 10_000),
        ("Upstash-Retry-Delay", "pow(9," * 20 + "9" + ")" * 20),
        ("Upstash-Retries", "9" * 50_000),
        ("Upstash-Retries", "٣"),
        ("Upstash-Retries", "1_0"),
        ("Upstash-Retries", "+1"),
        ("Upstash-Delay", "1s" * 30_000),
        ("Upstash-Delay", "9" * 18),
        ("Upstash-Not-Before", "253402300800"),
        ("Upstash-Not-Before", "9" * 19),
        ("Upstash-Timeout", "9999999d"),
        ("Upstash-Flow-Control-Value", "rate=1," * 9_000),
        ("Upstash-Label", "a\0b"),
        ("Upstash-Deduplication-Id", "\0"),
        ("Upstash-Forward-A", "a\r\nB: c"),
        ("Upstash-Forward-A", "\u0100"),
        ("Upstash-Redact-Fields", "header[" * 9_000),
        ("Content-Type", "\0"),
    ):
        yield Bomb(f"{name}: {value[:20]!r}", batch(one(headers={name: value})), (400,))


def _heads() -> Iterator[Bomb]:
    publish = partial(request, "POST", f"/v2/publish/{NOWHERE}", b"x")
    schedule = partial(request, "POST", f"/v2/schedules/{NOWHERE}", b"x")
    yield Bomb("10,000 headers", publish(*(f"X-{n}: 1" for n in range(10_000))), (431,))
    yield Bomb("a header of a million digits", publish(f"Upstash-Retries: {'9' * 10**6}"), (431,))
    yield Bomb("a header of 50,000 digits", publish(f"Upstash-Retries: {'9' * 50_000}"), (400,))
    yield Bomb("a long path", request("GET", "/v2/queues/" + "x" * 10**6), (431, 400))
    yield Bomb("a long id", request("GET", "/v2/queues/" + "x" * 50_000), (404,))
    yield Bomb("10,000 parameters", request("GET", "/v2/events?" + "a=1&" * 10_000), (400,))
    yield Bomb("a count of 50,000 digits", request("GET", f"/v2/dlq?count={'9' * 50_000}"), (200,))
    yield Bomb("a time of 50,000 digits", request("GET", f"/v2/dlq?fromDate={'9' * 50_000}"), (400,))
    yield Bomb("a cursor beyond the end of time", request("GET", f"/v2/events?cursor={'9' * 17}"), (400,))
    for micros in ("10000000000999999", "9" * 17):
        yield Bomb("a bulk cursor", request("GET", f"/v2/bulkActions?cursor={micros}-blk_{'a' * 28}"), (200,))
    yield Bomb("more than its limit is announced", publish()[:-1].replace(b"h: 1\r", b"h: 99999999999\r"), (413,))
    yield Bomb("a length that is none", publish().replace(b"h: 1\r", b"h: 1_0\r"), (400,))
    yield Bomb("a length of 5,000 digits", publish().replace(b"h: 1\r", b"h: %s\r" % (b"9" * 5000)), (400,))
    chunks = publish()[:-1].replace(b"Content-Length: 1", b"Transfer-Encoding: chunked")
    yield Bomb("a body without end", chunks + b"100000\r\n%s\r\n" % (b"x" * 2**20) * 11, (413,))
    for cron in (
        "CRON_TZ=UTC", "CRON_TZ=../etc 0 0 * * *", "@every 1ns", "0 0 31 2 *", "0 0 30 2 *", "*/0 * * * *",
        "* " * 5_000, "1," * 20_000 + "1 * * * *", "60 * * * *", "0 0 1-99999999999999999999 * *", "\u00b2 * * * *",
    ):  # fmt: skip
        yield Bomb(f"cron {cron[:24]}", schedule(f"Upstash-Cron: {cron}"), (400,))


async def thrown(url: str, bomb: Bomb) -> int:
    """The status that a bomb is answered with."""
    async with raw(url) as client:
        sending = asyncio.create_task(client.send(bomb.request))
        try:
            async with asyncio.timeout(60):
                status, _ = await client.answer()
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
        return status


async def _throw(url: str, seconds: float) -> None:
    ends_at, counts = monotonic() + seconds, Counter[str]()
    slowest = (0.0, "")
    kept = list(bombs())
    slow = [asyncio.create_task(_be_slow(url)) for _ in range(SLOW_CLIENTS)]
    while monotonic() < ends_at:
        for bomb in kept:
            began = monotonic()
            status = await thrown(url, bomb)
            slowest = max(slowest, (monotonic() - began, bomb.name))
            counts["as it should" if status in bomb.statuses else f"{bomb.name}: {status}"] += 1
            if monotonic() > ends_at:
                break
    for one in slow:
        one.cancel()
    await asyncio.gather(*slow, return_exceptions=True)
    sys.stdout.write(f"answered {dict(counts)}, the slowest was {slowest[1]!r} with {slowest[0] * 1000:.0f} ms\n")


async def _be_slow(url: str) -> None:
    """Send a byte in a second, again and again."""
    while True:
        async with raw(url) as client:
            with suppress(ConnectionError):
                for byte in request("POST", f"/v2/publish/{NOWHERE}", b"x" * 1000):
                    await client.send(bytes([byte]))
                    await asyncio.sleep(1)


async def _honest(url: str, seconds: float) -> str:
    """How long publishes take that are sent one after the other."""
    taken: list[float] = []
    publish = request("POST", f"/v2/publish/{NOWHERE}", b"x", "Upstash-Delay: 1h")
    ends_at = monotonic() + seconds
    async with raw(url) as client:
        while monotonic() < ends_at:
            began = monotonic()
            await client.send(publish)
            assert (await client.answer())[0] == 201
            taken.append((monotonic() - began) * 1000)
            await asyncio.sleep(0.005)
    taken.sort()
    p99 = taken[len(taken) * 99 // 100]
    return (
        f"{len(taken)} publishes, p50 {statistics.median(taken):.1f} ms, p99 {p99:.1f} ms, longest {taken[-1]:.1f} ms"
    )


async def _main(seconds: float) -> None:
    async with own_node() as node:
        url = str(node.http.base_url).rstrip("/")
        await _honest(url, 2)
        sys.stdout.write(f"without: {await _honest(url, seconds)}\n")
        before = node.resident_bytes()
        sys.stdout.flush()
        command = [sys.executable, "-m", "tests.security.bombs", "--throw-at", url, "--seconds", f"{seconds}"]
        process = await asyncio.create_subprocess_exec(*command, stdin=subprocess.DEVNULL)
        sys.stdout.write(f"with:    {await _honest(url, seconds)}\n")
        await process.wait()
        sys.stdout.write(f"memory grew by {(node.resident_bytes() - before) / 2**20:.1f} MiB\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.security.bombs", description=__doc__)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--throw-at", default=None, help="only throw, at the node of this URL")
    asked = parser.parse_args()
    asyncio.run(_throw(asked.throw_at, asked.seconds) if asked.throw_at else _main(asked.seconds))
