"""What reports and a live stream cost, and whether all of it is there: `python -m bench.status`.

A thousand handlers report ten times each while messages flow; then somebody follows the log, leaves and comes back.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from bench.programs import BenchError, Sink, compiled, load
from bench.report import Report, Samples, machine_facts, show_facts
from bench.sample import TOKEN
from bench.scenarios import Node, dev_server, light_load, scratch

from postroad.dev import DEV_USERS
from postroad.domain.ids import parse_message_id
from postroad.domain.status_access import PARAMETER, Purpose, grant
from postroad.domain.tenant import TenantId

RATE = 500
_REPORTERS = 20
_WITHOUT, _BESIDE = "500/s, without reports", "500/s, beside reports"

Lines = asyncio.StreamReader


def main() -> None:
    """Measure, or say in one sentence why not."""
    options = argparse.ArgumentParser(prog="python -m bench.status", description=__doc__)
    options.add_argument("--handlers", type=int, default=1_000)
    options.add_argument("--reports", type=int, default=10, help="of each handler")
    options.add_argument("--seconds", type=float, default=120.0, help="of the live stream")
    options.add_argument("--reconnects", type=int, default=5)
    given = options.parse_args()
    report = Report()
    try:
        for name in ("load", "sink"):
            compiled(name)
        with scratch() as directory, Sink(directory / "sink.log") as sink, dev_server(directory) as program:
            facts = machine_facts(directory)
            show_facts(facts)
            node = Node(program.ready(), program.pid, program.postmaster())
            report.add(_WITHOUT, light_load(node, sink, RATE, 20))
            report.add(_BESIDE, asyncio.run(_beside_reports(node, sink, given.handlers, given.reports)))
            report.add("a live stream", asyncio.run(_followed(node, sink, given.seconds, given.reconnects)))
    except BenchError as error:
        sys.exit(f"bench: {error}")
    for name in report.sections:
        report.show(name)
    print(f"\nevery sample is in {report.write(facts, vars(given))}")


async def _beside_reports(node: Node, sink: Sink, handlers: int, reports: int) -> Samples:
    ids = [await _delayed(node, sink) for _ in range(handlers)]
    seconds = 20.0
    work = asyncio.create_task(asyncio.to_thread(light_load, node, sink, RATE, seconds))
    began = time.perf_counter()
    slowest = await _report(node, ids, reports, seconds)
    took = time.perf_counter() - began
    samples = dict(await work)
    for message_id in ids:
        answer = await _ask(node, "GET", f"/v2/status/{message_id}/log")
        if [line["text"] for line in answer["lines"]] != [str(n) for n in range(reports)]:
            raise BenchError(f"of the reports on {message_id} there are {len(answer['lines'])}, not {reports}")
    return {**samples, "reports/s": handlers * reports / took, "report p99, ms": slowest}


async def _report(node: Node, ids: Sequence[str], reports: int, seconds: float) -> float:
    """Every handler in turn, spread over the seconds; gives the 99th percentile of the answers, in milliseconds."""
    urls = [_report_url(message_id) for message_id in ids]
    work = [(url, n) for n in range(reports) for url in urls]
    taken: list[float] = []
    began = time.perf_counter()

    async def reporter(number: int) -> None:
        async with _connected(node) as (reader, writer):
            for at in range(number, len(work), _REPORTERS):
                await asyncio.sleep(max(0.0, began + seconds * at / len(work) - time.perf_counter()))
                url, n = work[at]
                asked = time.perf_counter()
                said = {"progress": 100 * (n + 1) / reports, "log": str(n)}
                status, body = await _exchange(reader, writer, "POST", url, json.dumps(said).encode())
                if status != 200:
                    raise BenchError(f"a report was answered with {status}: {body!r}")
                taken.append(time.perf_counter() - asked)

    await asyncio.gather(*(reporter(number) for number in range(_REPORTERS)))
    return sorted(taken)[int(len(taken) * 0.99)] * 1000


async def _followed(node: Node, sink: Sink, seconds: float, reconnects: int) -> Samples:
    """Each event once, in three lines a message, whatever is left out by connections that end."""
    count = int(seconds * RATE)
    first = await _ask(node, "GET", "/v2/events?count=1&trimBody=true")
    last = first.get("cursor", "0") if first["events"] else "0"
    sink.reset()
    publish = node.publish_url(sink)
    work = asyncio.create_task(asyncio.to_thread(load, publish, TOKEN, count=count, rate=RATE))
    seen: set[tuple[str, str]] = set()
    twice, lateness = 0, []
    for turn in range(reconnects + 1):
        until = 3 * count * (turn + 1) // (reconnects + 1)
        async with _connected(node) as (reader, writer):
            path = f"/v2/events/stream?trimBody=true&lastEventId={last}"
            writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode())
            await reader.readuntil(b"\r\n\r\n")
            while len(seen) < until:
                line = (await asyncio.wait_for(reader.readline(), 30)).decode()
                if line.startswith("id: "):
                    number = line[4:].strip()
                elif line.startswith("data: "):
                    event = json.loads(line[6:])
                    twice += (key := (event["messageId"], event["state"])) in seen
                    seen.add(key)
                    lateness.append(time.time() * 1000 - event["time"])
                    last = number
        await asyncio.sleep(1.0)
    await work
    lateness.sort()
    return {
        "events": len(seen),
        "missed": 3 * count - len(seen),
        "told twice": twice,
        "told after, p50, ms": lateness[len(lateness) // 2],
    }


async def _delayed(node: Node, sink: Sink) -> str:
    answer = await _ask(node, "POST", f"/v2/publish/{sink.url}", "Upstash-Delay: 10h\r\n")
    message_id: str = answer["messageId"]
    return message_id


def _report_url(message_id: str) -> str:
    identity = parse_message_id(message_id)
    assert identity is not None
    until_s = int(time.time()) + 3600
    access = grant(DEV_USERS[0].keys.current, identity, TenantId(1), purpose=Purpose.REPORT, until_s=until_s, lease=1)
    return f"/v2/status/{message_id}?{PARAMETER}={access}"


async def _ask(node: Node, method: str, path: str, headers: str = "") -> dict[str, Any]:
    async with _connected(node) as (reader, writer):
        given = f"Authorization: Bearer {TOKEN}\r\n{headers}"
        status, body = await _exchange(reader, writer, method, path, b"", given)
    if status >= 300:
        raise BenchError(f"{method} {path} was answered with {status}: {body!r}")
    answer: dict[str, Any] = json.loads(body)
    return answer


async def _exchange(
    reader: Lines, writer: asyncio.StreamWriter, method: str, path: str, body: bytes, headers: str = ""
) -> tuple[int, bytes]:
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    answer = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    length = int(answer.partition("content-length: ")[2].partition("\r\n")[0])
    return int(answer.split(" ", 2)[1]), await reader.readexactly(length)


@asynccontextmanager
async def _connected(node: Node) -> AsyncIterator[tuple[Lines, asyncio.StreamWriter]]:
    at = urlsplit(node.address)
    reader, writer = await asyncio.open_connection(at.hostname, at.port, limit=1 << 22)
    try:
        yield reader, writer
    finally:
        writer.close()


if __name__ == "__main__":
    main()
