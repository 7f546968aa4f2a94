"""What the queues for Python share here: orders from standard input, bodies, bursts, and the delivery by HTTP."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import Any, Protocol

import aiohttp  # type: ignore[import-not-found, unused-ignore]  # of the peers' own environment
import uvloop

CONNECTIONS = 100
PAD = "x" * 1024

Deliver = Callable[[str, str], Awaitable[None]]
"""POST a body to a URL; raises unless the answer is a 2xx."""


class Queue(Protocol):
    """A peer: its producer's side, and a worker that can be started and stopped."""

    async def enqueue(self, url: str, body: str) -> Any:
        """One call of the library, for one message."""

    async def start(self, deliver: Deliver) -> None:
        """Let a worker take messages."""

    async def stop(self) -> None:
        """Let it finish what it has."""


async def main(name: str) -> None:
    """Open the queue of a module beside this one, and obey."""
    async with import_module(f"bench.peers.{name}_queue").opened() as queue:
        await _obey(queue)


async def _obey(queue: Queue) -> None:
    """Obey orders, a line each, until standard input ends; `done <number> <JSON>` is the answer to each."""
    connector = aiohttp.TCPConnector(limit=CONNECTIONS)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def deliver(url: str, body: str) -> None:
            async with session.post(url, data=body, headers={"content-type": "application/json"}) as answer:
                await answer.read()
                answer.raise_for_status()

        print("ready", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            number, order, *rest = line.split()
            told: dict[str, float] = {}
            match order, rest:
                case "burst", [url, count, callers]:
                    told = await _burst(queue, url, int(count), int(callers))
                case "steady", [url, count, rate]:
                    told = await _steady(queue, url, int(count), float(rate))
                case "start", []:
                    await queue.start(deliver)
                case "stop", []:
                    await queue.stop()
                case _:
                    raise ValueError(f"not an order: {line}")
            print("done", number, json.dumps(told), flush=True)


async def _burst(queue: Queue, url: str, count: int, callers: int) -> dict[str, float]:
    """Enqueue `count` messages, `callers` calls at a time."""
    taken: list[float] = []
    numbers = iter(range(count))

    async def caller() -> None:
        for number in numbers:
            sent = time.time()
            await queue.enqueue(url, _text(number, sent))
            taken.append(time.time() - sent)

    began = time.time()
    await asyncio.gather(*(caller() for _ in range(callers)))
    return _summary(taken, time.time() - began)


async def _steady(queue: Queue, url: str, count: int, rate: float) -> dict[str, float]:
    """Enqueue `rate` messages a second, whatever becomes of those before."""
    taken: list[float] = []

    async def one(number: int) -> None:
        sent = time.time()
        await queue.enqueue(url, _text(number, sent))
        taken.append(time.time() - sent)

    began = time.time()
    async with asyncio.TaskGroup() as calls:
        for number in range(count):
            await asyncio.sleep(max(0.0, began + number / rate - time.time()))
            calls.create_task(one(number))
    return _summary(taken, time.time() - began)


def _text(number: int, sent: float) -> str:
    """1 KB of JSON with what the sink reads."""
    head = f'{{"n":{number},"ts":{int(sent * 1e6)},"pad":"'
    return head + PAD[len(head) + 2 :] + '"}'


def _summary(taken: list[float], seconds: float) -> dict[str, float]:
    taken.sort()
    last = len(taken) - 1
    return {
        "per_second": len(taken) / seconds,
        "p50": taken[int(last * 0.5)] * 1e3,
        "p99": taken[int(last * 0.99)] * 1e3,
    }


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
