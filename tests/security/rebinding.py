"""A resolver and a client against names that mean something else at every look-up.

`python -m tests.security.rebinding --attempts 10000`. Each attempt looks its name up at our own server and dials what
the guard lets through. Canaries count what gets past it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
from collections import Counter
from contextlib import AsyncExitStack
from time import monotonic

import uvloop

from postroad.dispatch.egress import Egress
from postroad.domain.network import parse_policy
from postroad.domain.reply import NoResponse, Reply, Response
from postroad.resolver import Resolver
from tests.egress import to
from tests.security.corpus import ADDRESSES as ADDRESSES
from tests.security.nameserver import NameServer
from tests.security.namespace import apart
from tests.security.stage import Canaries, Honest
from tests.security.turning import at_random

AT_A_TIME = 32
NAMES = 500


async def run(attempts: int) -> None:
    """So many attempts at names that are rebound; prints a report as one line of JSON."""
    began = monotonic()
    names, canaries, honest = NameServer(), Canaries(), Honest()
    chance = random.Random(7)
    hosts = [names.turn(f"r{n}.rebind.test", at_random(chance.random())) for n in range(NAMES)]
    async with AsyncExitStack() as stack:
        await canaries.open(stack)
        await honest.open(stack)
        await canaries.prove()
        egress = Egress(Resolver(parse_policy("public"), ttl=0, negative_ttl=0), max_idle=0)
        stack.push_async_callback(egress.close)
        ends: Counter[str] = Counter()

        async def attempt_some(number: int) -> None:
            for n in range(number, attempts, AT_A_TIME):
                ends[_end(await egress.send(to(f"http://{hosts[n % NAMES]}/rebound")))] += 1

        async with asyncio.TaskGroup() as group:
            for number in range(AT_A_TIME):
                group.create_task(attempt_some(number))
        report = {
            "attempts": attempts,
            "looked up": names.asked.total(),
            "ends": ends,
            "arrived": honest.arrived["/rebound"],
            "hits": canaries.hits,
            "seconds": round(monotonic() - began, 1),
        }
        sys.stdout.write(json.dumps(report) + "\n")


def _end(reply: Reply) -> str:
    match reply:
        case Response(status=status):
            return str(status)
        case NoResponse(reason=reason):
            return reason.rpartition(": ")[0] or reason


def main() -> None:
    """In the namespace."""
    uvloop.run(run(int(sys.argv[1])))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--attempts", type=int, default=10_000)
    report = apart("rebinding", str(parser.parse_args().attempts), seconds=600)
    sys.stdout.write(json.dumps(report, indent=2) + "\n")
    sys.exit(1 if report["hits"] else 0)
