"""Every form of a URL that leads astray, through every way in; see `test_guard_corpus`."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from itertools import count
from time import monotonic
from urllib.parse import quote

import uvloop

from tests.security.corpus import ADDRESSES as ADDRESSES
from tests.security.corpus import HONEST, HONEST_6, forms
from tests.security.stage import RawClient, Stage, stage

OK = f"http://{HONEST}/ok"
FAIL = f"http://{HONEST}/fail"

Way = Callable[[RawClient, str], Awaitable[int]]
"""Brings a URL in; gives the status of the answer."""


async def publish(client: RawClient, url: str) -> int:
    return await client.post(b"/v2/publish/" + _target(url))


async def enqueue(client: RawClient, url: str) -> int:
    return await client.post(b"/v2/enqueue/astray/" + _target(url))


async def batch(client: RawClient, url: str) -> int:
    return await client.post(b"/v2/batch", body=json.dumps([{"destination": url}]).encode())


async def url_group(client: RawClient, url: str) -> int:
    name = b"group%d" % next(_numbers)
    body = json.dumps({"endpoints": [{"name": "one", "url": url}]}).encode()
    status = await client.post(b"/v2/topics/" + name + b"/endpoints", body=body)
    return status if status >= 400 else await client.post(b"/v2/publish/" + name)


async def callback(client: RawClient, url: str) -> int:
    return await _with_header(client, OK, "upstash-callback", url)


async def failure_callback(client: RawClient, url: str) -> int:
    return await _with_header(client, FAIL, "upstash-failure-callback", url)


async def callback_of_a_callback(client: RawClient, url: str) -> int:
    callbacks = f"upstash-callback={quote(FAIL, safe='')}&upstash-callback-failure-callback={quote(url, safe='')}"
    return await client.post(f"/v2/publish/{OK}?{callbacks}".encode())


async def schedule(client: RawClient, url: str) -> int:
    headers = [(b"Upstash-Cron", b"* * * * *"), (b"Upstash-Schedule-Id", b"s%d" % next(_numbers))]
    return await client.post(b"/v2/schedules/" + _target(url), headers)


async def schedule_callback(client: RawClient, url: str) -> int:
    headers = [(b"Upstash-Cron", b"* * * * *"), (b"Upstash-Schedule-Id", b"s%d" % next(_numbers))]
    return await client.post(f"/v2/schedules/{OK}?upstash-callback={quote(url, safe='')}".encode(), headers)


WAYS: Sequence[Way] = (
    publish,
    enqueue,
    batch,
    url_group,
    callback,
    failure_callback,
    callback_of_a_callback,
    schedule,
    schedule_callback,
)

_numbers = count()


def _target(url: str) -> bytes:
    """The URL as it is, but for what would end the request line; the JSON ways bring that."""
    return "".join(quote(one) if one in " \r\n" else one for one in url).encode()


async def _with_header(client: RawClient, destination: str, name: str, url: str) -> int:
    if any(one in url for one in "\r\n\0"):
        return await client.post(f"/v2/publish/{destination}?{name}={quote(url, safe='')}".encode())
    return await client.post(
        b"/v2/publish/" + destination.encode(), [(name.encode(), url.encode()), (b"Upstash-Retries", b"0")]
    )


async def through(here: Stage, way: Way, urls: Sequence[str]) -> Counter[str]:
    """Bring all in by one way: how many were refused, and how many were taken."""
    client = RawClient(here.node.url)
    answers: Counter[str] = Counter()
    for url in urls:
        status = await way(client, url)
        assert status < 500, f"{status} to {way.__name__} of {url!r}"
        answers["refused" if status >= 400 else "accepted"] += 1
    return answers


async def stored(here: Stage, urls: Sequence[str]) -> Counter[str]:
    """Messages that are in the database with these URLs are attempted, and each attempt is refused or answered."""
    ids = await _publish(here, OK, len(urls), **{"Upstash-Delay": "1h", "Upstash-Retries": "0"})
    await here.store_urls(dict(zip(ids, urls, strict=True)))
    await here.node.time_passes(timedelta(hours=2))
    await here.settled()
    return await _fates(here, ids)


async def retried(here: Stage, urls: Sequence[str]) -> Counter[str]:
    """Dead letters with these URLs are retried: refused with 400, or attempted."""
    ids = await _publish(here, FAIL, len(urls), **{"Upstash-Retries": "0"})
    await here.settled()
    await here.store_urls(dict(zip(ids, urls, strict=True)))
    letters = await _letters(here)
    answers: Counter[str] = Counter()
    client = RawClient(here.node.url)
    for one in ids:
        status = await client.post(f"/v2/dlq/retry/{letters[one]}".encode())
        assert status < 500, status
        answers["refused" if status >= 400 else "accepted"] += 1
    # What was refused is still there, and a bulk retry passes over it.
    await here.post("/v2/dlq/retry?count=100")
    await here.settled()
    return answers


async def retried_with_callback(here: Stage, urls: Sequence[str]) -> Counter[str]:
    """A dead letter of an honest destination is retried with a callback that is none."""
    await _publish(here, FAIL, 1, **{"Upstash-Retries": "0"})
    await here.settled()
    answers: Counter[str] = Counter()
    client = RawClient(here.node.url)
    letter = next(iter((await _letters(here, most=1)).values()))
    for url in urls:
        if any(one in url for one in "\r\n\0"):
            continue
        headers = [(b"Upstash-Failure-Callback", url.encode()), (b"Upstash-Retries", b"0")]
        status = await client.post(f"/v2/dlq/retry/{letter}".encode(), headers)
        assert status < 500, status
        answers["refused" if status >= 400 else "accepted"] += 1
        if status < 400:
            await here.settled()
            letter = next(iter((await _letters(here, most=1)).values()))
    return answers


async def _publish(here: Stage, url: str, number: int, **headers: str) -> list[str]:
    items = [{"destination": url, "headers": headers} for _ in range(number)]
    status, answers = await here.post("/v2/batch", items)
    assert status == 200, answers
    return [one["messageId"] for one in answers]


async def _letters(here: Stage, most: int = 1_000_000) -> dict[str, str]:
    """The ids of dead letters by those of their messages."""
    found: dict[str, str] = {}
    cursor = ""
    while len(found) < most:
        answer = (await here.node.http.get(f"/v2/dlq?count=100{cursor}")).json()
        found |= {one["messageId"]: one["dlqId"] for one in answer["messages"]}
        if "cursor" not in answer:
            break
        cursor = f"&cursor={answer['cursor']}"
    return found


async def _fates(here: Stage, ids: Sequence[str]) -> Counter[str]:
    letters = await _letters(here)
    return Counter("refused" if one in letters else "delivered" for one in ids)


async def run(database_url: str, policy: str, every: str) -> None:
    """All of it, or every n-th form; prints a report as one line of JSON."""
    began = monotonic()
    async with stage(database_url, policy=policy, slots=64, default_retries=0) as here:
        urls = forms(here.names)[:: int(every)]
        storable = [url for url in urls if "\0" not in url]
        ways = dict(
            zip(
                [way.__name__ for way in WAYS],
                await asyncio.gather(*(through(here, way, urls) for way in WAYS)),
                strict=True,
            )
        )
        await here.settled()
        # What was accepted as a schedule fires.
        await here.node.time_passes(timedelta(minutes=1))
        await here.settled()
        ways["stored"] = await stored(here, storable)
        ways["DLQ retry"] = await retried(here, storable)
        ways["DLQ retry with a callback"] = await retried_with_callback(here, urls)
        await here.settled()
        hits = dict(here.canaries.hits)
        honest = await _honest(here)
        report = {"forms": len(urls), "ways": ways, "hits": hits, "honest": honest, "seconds": monotonic() - began}
        sys.stdout.write(json.dumps(report) + "\n")


async def _honest(here: Stage) -> dict[str, int]:
    """What arrives at honest destinations by each way, or nothing would be shown."""
    client = RawClient(here.node.url)
    for way in WAYS:
        for host in (HONEST, f"[{HONEST_6}]"):
            assert await way(client, f"http://{host}/honest/{way.__name__}") < 400
    await here.settled()
    await here.node.time_passes(timedelta(minutes=1))
    await here.settled()
    for late, to in ((stored, "stored"), (retried, "retry")):
        await late(here, [f"http://{host}/honest/{to}" for host in (HONEST, f"[{HONEST_6}]")])
    await here.settled()
    return {path: number for path, number in here.honest.arrived.items() if path.startswith("/honest/")}


def main() -> None:
    """In the namespace."""
    uvloop.run(run(*sys.argv[1:]))
