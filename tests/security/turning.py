"""Names that are honest when a message is accepted and lead astray when it is sent; answers that point elsewhere."""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Awaitable, Sequence
from datetime import timedelta
from time import monotonic
from typing import Any

import uvloop

from tests.conftest import eventually
from tests.security.corpus import ADDRESSES as ADDRESSES
from tests.security.corpus import HONEST, HONEST_6
from tests.security.nameserver import Records, Turns
from tests.security.stage import REDIRECTS, Stage, stage

OK, FAIL = f"http://{HONEST}/ok", f"http://{HONEST}/fail"
TARGETS = ("127.0.0.1", "::1", "169.254.169.254", "10.1.2.3", "fd00:ec2::254", "::ffff:127.0.0.1", "64:ff9b::7f00:1")

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "ftp_proxy", "socks_proxy")


async def turned(here: Stage) -> dict[str, list[str]]:
    """By each way a message whose name turns after it was accepted: what the log says of it in the end."""
    here.remember_nothing()
    names = {
        way: here.names.say(f"{way}.turning.test", HONEST)
        for way in ("publish", "queue", "batch", "group", "callback", "failure", "schedule", "dlq", "tick-callback")
    }
    urls = {way: f"http://{name}/turned/{way}" for way, name in names.items()}
    later = {"Upstash-Delay": "1h", "Upstash-Retries": "1", "Upstash-Retry-Delay": "0"}
    await _accepted(here.post(f"/v2/publish/{urls['publish']}", **later))
    await _accepted(here.post("/v2/queues", {"queueName": "slow", "parallelism": 1}))
    await _accepted(here.post("/v2/queues/slow/pause"))
    await _accepted(here.post(f"/v2/enqueue/slow/{urls['queue']}", **{"Upstash-Retries": "0"}))
    await _accepted(here.post("/v2/batch", [{"destination": urls["batch"], "headers": later}]))
    await _accepted(here.post("/v2/topics/turning/endpoints", {"endpoints": [{"url": urls["group"]}]}))
    await _accepted(here.post(f"/v2/publish/{OK}", **later, **_reported("Callback", urls["callback"])))
    await _accepted(here.post(f"/v2/publish/{FAIL}", **later, **_reported("Failure-Callback", urls["failure"])))
    every_day = {"Upstash-Cron": "0 0 * * *", "Upstash-Retries": "0"}
    await _accepted(here.post(f"/v2/schedules/{urls['schedule']}", **every_day))
    await _accepted(here.post(f"/v2/schedules/{OK}", **every_day, **_reported("Callback", urls["tick-callback"])))
    dead = urls["dlq"].replace("/turned/", "/fail/")
    await _accepted(here.post(f"/v2/publish/{dead}", **{"Upstash-Retries": "0"}))
    [letter] = await eventually(lambda: here.node.dead_letters(url=dead), lambda found: len(found) == 1)
    before = here.honest.arrived.copy()

    for name in names.values():
        here.names.say(name, "127.0.0.1")
    await _accepted(here.post("/v2/publish/turning", **{"Upstash-Retries": "0"}))
    await _accepted(here.post("/v2/queues/slow/resume"))
    status, _ = await here.post(f"/v2/dlq/retry/{letter['dlqId']}")
    assert status in (201, 400), status
    await here.settled()
    for hours in (2, 2, 24):
        await here.node.time_passes(timedelta(hours=hours))
        await here.settled()

    async def reasons() -> dict[str, list[str]]:
        failed = await here.node.events(state="FAILED", count=1000)
        return {
            way: sorted(
                {one["error"] for one in failed if one["url"].endswith(f"/{way}")} - {"the destination answered 500"}
            )
            for way in urls
        }

    found: dict[str, list[str]] = await eventually(reasons, lambda found: all(found.values()))
    assert not any("/turned/" in path for path in here.honest.arrived - before)
    return found


async def redirected(here: Stage) -> int:
    """Every redirect to every target, with callbacks that report it; gives how many were answered so."""
    items = []
    for status in (*REDIRECTS, 200, 201, 202, 401, 407, 503):
        for target in ("http://127.0.0.1/x", "http://[::1]/x", "//169.254.169.254/x", "http://10.1.2.3:8080/x"):
            url = f"http://{HONEST}/redirect/{status}/{target}"
            items.append({"destination": url, "headers": {"Upstash-Retries": "0", "Upstash-Callback": OK}})
    await _accepted(here.post("/v2/batch", items))
    await here.settled()
    return sum(number for path, number in here.honest.arrived.items() if path.startswith("/redirect/"))


async def rebound(here: Stage, number: int) -> dict[str, int]:
    """Messages whose names mean something else at every look-up: how many arrived, and how many did not."""
    here.remember_nothing()
    chance = random.Random(5)
    accepted = 0
    for n in range(number):
        host = here.names.turn(f"r{n}.rebind.test", at_random(chance.random()))
        retries = {"Upstash-Retries": "3", "Upstash-Retry-Delay": "0"}
        status, answer = await here.post(f"/v2/publish/http://{host}/rebound", **retries)
        assert status < 400 or "endpoint resolves to" in answer["error"], answer
        accepted += status < 400
    await here.settled()
    return {"published": number, "accepted": accepted, "arrived": here.honest.arrived["/rebound"]}


def at_random(seed: float) -> Turns:
    """What a rebinding name means at its n-th look-up; the first one is honest more often than not."""

    def records(turn: int) -> Records:
        chance = random.Random(seed + turn)
        targets = chance.sample(TARGETS, 2)
        kinds: Sequence[Records] = (
            [HONEST],
            [HONEST_6],
            [HONEST, HONEST_6],
            targets[:1],
            [HONEST, targets[0]],
            [targets[0], HONEST],
            [HONEST_6, targets[0], targets[1]],
            [HONEST, *(f"93.184.216.{n}" for n in range(100, 120)), targets[0]],
        )
        return chance.choice(kinds[: 3 if turn == 0 and chance.random() < 0.6 else len(kinds)])

    return records


def _reported(kind: str, url: str) -> dict[str, str]:
    return {f"Upstash-{kind}": url, f"Upstash-{kind}-Retries": "0"}


async def _accepted(call: Awaitable[tuple[int, Any]]) -> None:
    status, answer = await call
    assert status < 400, answer


async def run(database_url: str, what: str) -> None:
    """Names that turn, or redirects; prints a report as one line of JSON."""
    began = monotonic()
    # A canary is everybody's proxy. The client of these tests goes to the node without it.
    for name, value in {**dict.fromkeys(PROXIES, "http://127.0.0.1:3000"), "no_proxy": "127.0.0.1"}.items():
        os.environ[name] = os.environ[name.upper()] = value
    async with stage(database_url) as here:
        report: dict[str, object] = {}
        if what == "redirects":
            report["redirected"] = await redirected(here)
        else:
            report["turned"] = await turned(here)
            report["rebound"] = await rebound(here, 300)
        report |= {"hits": here.canaries.hits, "seconds": monotonic() - began}
        sys.stdout.write(json.dumps(report) + "\n")


def main() -> None:
    """In the namespace."""
    uvloop.run(run(*sys.argv[1:]))
