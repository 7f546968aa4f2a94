"""A message that kills whoever makes its attempt: it is buried after five claims, and takes nobody with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import orjson
import pytest

from postroad.store import dispatchers
from postroad.store.engine import connected
from tests.conftest import eventually, running
from tests.faults.builds import Change, Scene, build, scene
from tests.faults.checker import check
from tests.faults.cluster import Node
from tests.faults.records import Intent
from tests.receiver import Receiver

POISON = 1
NEIGHBOURS = range(2, 8)
CLAIMS = 5
REASON = "poison: no outcome after five claims"

DIES_OF_IT = Change(
    "dispatch/dispatcher.py",
    "        message = attempt.message\n        profile = self._tenancy.known_profile(message.tenant_id)\n",
    f"""        message = attempt.message
        if message.body == b"{POISON}":
            import os
            os.kill(os.getpid(), 9)
        profile = self._tenancy.known_profile(message.tenant_id)
""",
)
"""Before anything is sent: whatever was claimed with it is not sent either."""

SETTLES_LATE = Change(
    "dispatch/settler.py",
    "            batch = self._take()\n            await self._settle",
    "            batch = self._take()\n            await asyncio.sleep(0.1)\n            await self._settle",
)
"""So that what ended just before its neighbour's death would be lost with it."""

_KEY = {"Upstash_Flow_Control_Key": "k", "Upstash_Flow_Control_Value": "parallelism=10"}


@pytest.mark.parametrize(
    ("to", "headers", "intent", "claimed"),
    [
        ("publish", {}, Intent(POISON, 0), 0),
        ("publish", _KEY, Intent(POISON, 0, flow_key="k", parallelism=10), 0),
        # In a queue nobody is claimed with it, so that the first claims show nothing that the last ones do not.
        ("enqueue/q", {}, Intent(POISON, 0, queue="q"), 3),
    ],
    ids=["alone", "under a key", "in a queue"],
)
async def test_a_poisonous_message_is_buried_and_its_neighbours_arrive(
    database_url: str,
    receiver: Receiver,
    tmp_path: Path,
    to: str,
    headers: dict[str, str],
    intent: Intent,
    claimed: int,
) -> None:
    """They are published together, so that the first claim takes all that may be claimed."""
    async with scene(database_url, tmp_path, receiver, nodes=1) as play, running(database_url, roles=("api",)) as api:
        play.answer(f"/failed/{POISON}")
        callback = {"Upstash_Failure_Callback": receiver.url(f"/failed/{POISON}")}
        poison = await play.publish(api, intent, to=to, **headers, **callback)
        for op in NEIGHBOURS:
            await play.publish(api, replace(intent, op=op), to=to, **headers)
        await play.ask_database("update deliveries set unsettled_claims = $1", claimed)

        assert await deaths(play, build(tmp_path / "build", [DIES_OF_IT, SETTLES_LATE])) == CLAIMS - claimed
        found = check(await play.history(api))
        [letter] = await api.dead_letters()

    assert receiver.requests(f"/m/{POISON}") == []
    assert [len(receiver.requests(f"/m/{op}")) for op in NEIGHBOURS] == [1 for _ in NEIGHBOURS]
    assert (letter["messageId"], letter["responseBody"]) == (poison, REASON)
    [report] = receiver.requests(f"/failed/{POISON}")
    said = orjson.loads(report.body)
    assert (said["sourceMessageId"], said["dlqId"]) == (poison, letter["dlqId"])
    assert found.figures.delivered == len(NEIGHBOURS) + 1
    assert found.is_clean, found.violations


async def deaths(play: Scene, environment: Mapping[str, str]) -> int:
    """Start the one node that delivers again and again, until nothing is left to do; gives how often it died."""
    count = 0
    while True:
        node = await play.start(0, environment, may_die=True)
        await eventually(partial(is_over, play, node), bool, within=60)
        if not node.ended.is_set():
            return count
        count += 1
        # As if its lease were over: nobody else is there to whom it could still seem to be alive.
        async with connected(play.database_url) as connection:
            await dispatchers.declare_all_dead(connection)


async def is_over(play: Scene, node: Node) -> bool:
    """Whether it has died, or done all there is to do."""
    return node.ended.is_set() or await play.unfinished() == 0
