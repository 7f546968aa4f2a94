"""`python -m tests.security.hostile`: what hundreds of hostile destinations cost a node, and their neighbours."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import asyncpg

from postroad.store.engine import Connection
from tests.receiver import Receiver
from tests.security.hostile_kinds import KINDS, Destination, hostile_destinations
from tests.security.own_node import OwnNode, own_node

MOST_GROWTH_BYTES = 64 << 20
MOST_OVERTIME_S = 1.0
_LOOK_EVERY_S = 0.02


@dataclass(frozen=True)
class Ended:
    """An attempt as it was stored."""

    url: str
    status: int | None
    reason: str | None
    duration_s: float


@dataclass
class Watch:
    """What is seen of the node while something goes on: its memory, and how long honest messages take."""

    resident: list[int] = field(default_factory=list)
    delays_ms: list[float] = field(default_factory=list)

    def said(self) -> str:
        """Both in one line."""
        of = sorted(self.delays_ms)
        return (
            f"{len(of)} honest messages, from publish to arrival p50 {statistics.median(of):.1f} ms, "
            f"p95 {of[len(of) * 95 // 100]:.1f} ms, longest {of[-1]:.1f} ms; "
            f"memory at most {max(self.resident) / 1048576:.1f} MiB"
        )


def items(destinations: Sequence[Destination], *, timeout_s: int, retries: int = 1) -> list[dict[str, Any]]:
    """A message to each of them, as items of a batch."""
    headers = {"Upstash-Timeout": f"{timeout_s}s", "Upstash-Retries": f"{retries}", "Upstash-Retry-Delay": "500"}
    return [{"destination": one.url, "headers": headers, "body": "hello"} for one in destinations]


async def attempts_at(connection: Connection, urls: Sequence[str]) -> list[Ended]:
    """All attempts that have ended at these URLs."""
    rows = await connection.fetch(
        """select m.url, a.status, a.reason, extract(epoch from a.duration)::float8 as duration_s
           from attempts a join messages m on m.id = a.message_id where m.url = any($1)""",
        urls,
    )
    return [Ended(row["url"], row["status"], row["reason"], row["duration_s"]) for row in rows]


async def _main(destinations: int, kinds: Sequence[str], timeout_s: int, messages: int, quiet_s: float) -> int:
    async with (
        Receiver() as honest,
        own_node() as node,
        hostile_destinations(destinations, kinds) as hostile,
    ):
        connection = await asyncpg.connect(node.database_url)
        quiet = await _watched(node, honest, asyncio.sleep(quiet_s))
        _say(f"before: {quiet.said()}")
        batch = items(hostile, timeout_s=timeout_s) * messages
        during = await _watched(node, honest, _attack(node, connection, batch))
        _say(f"during: {during.said()}")
        after = await _watched(node, honest, asyncio.sleep(quiet_s))
        _say(f"after:  {after.said()}")
        ended = await attempts_at(connection, [one.url for one in hostile])
        await connection.close()
    _tell(hostile, ended)
    growth = max(during.resident) - max(quiet.resident)
    overtime = max(one.duration_s for one in ended) - timeout_s
    _say(f"memory grew by {growth / 1048576:.1f} MiB, the longest attempt ended {overtime:+.2f} s from its timeout")
    return 0 if growth < MOST_GROWTH_BYTES and overtime <= MOST_OVERTIME_S else 1


async def _attack(node: OwnNode, connection: Connection, batch: Sequence[dict[str, Any]]) -> None:
    """Until every hostile delivery is settled for good."""
    answer = await node.http.post("/v2/batch", json=batch)
    answer.raise_for_status()
    ids = [one["messageId"] for one in answer.json()]
    assert len(ids) == len(batch)
    while await connection.fetchval(  # noqa: ASYNC110  no event announces it
        "select count(*) from deliveries d join messages m on m.id = d.id where m.url = any($1)",
        [one["destination"] for one in batch],
    ):
        await asyncio.sleep(0.2)


async def _watched(node: OwnNode, honest: Receiver, meanwhile: Any) -> Watch:
    """Look at memory and publish to somebody honest until it is over."""
    watch = Watch()
    going_on = asyncio.ensure_future(meanwhile)
    looking = asyncio.create_task(_look(node, watch))
    for number in itertools.count():
        if going_on.done():
            break
        path = f"/{id(watch)}/{number}"
        began = monotonic()
        answer = await node.http.post(f"/v2/publish/{honest.url(path)}", content=b"hello")
        answer.raise_for_status()
        arrived = await honest.next_request(path, timeout=60)
        watch.delays_ms.append((arrived.arrived_at - began) * 1000)
        await asyncio.sleep(0.03)
    looking.cancel()
    await going_on
    return watch


async def _look(node: OwnNode, watch: Watch) -> None:
    while True:
        watch.resident.append(node.resident_bytes())
        await asyncio.sleep(_LOOK_EVERY_S)


def _tell(hostile: Sequence[Destination], ended: Sequence[Ended]) -> None:
    kinds = {one.url: one.kind for one in hostile}
    by_kind: dict[str, list[Ended]] = defaultdict(list)
    for one in ended:
        by_kind[kinds[one.url]].append(one)
    for kind, of in by_kind.items():
        how = Counter(f"{one.status}" if one.reason is None else one.reason.partition(": 127.")[0] for one in of)
        longest = max(one.duration_s for one in of)
        _say(f"  {kind:40} {len(of):4} attempts, longest {longest:5.2f} s: {', '.join(how)}")
    _say(f"{len(hostile)} destinations of {len(set(kinds.values()))} kinds, {len(ended)} attempts")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Gives the exit code, 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.security.hostile", description=__doc__)
    parser.add_argument("--destinations", type=int, default=200)
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS), metavar="KIND")
    parser.add_argument("--messages", type=int, default=1, help="to each of them")
    parser.add_argument("--timeout", type=int, default=5, help="seconds of each attempt")
    parser.add_argument("--quiet", type=float, default=5, help="seconds before and after")
    chosen = parser.parse_args(arguments)
    return asyncio.run(_main(chosen.destinations, chosen.kinds, chosen.timeout, chosen.messages, chosen.quiet))


if __name__ == "__main__":
    sys.exit(main())
