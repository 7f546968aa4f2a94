"""The waker on the loop that serves."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import uvloop

from postroad.dispatch.waker import Waker


def test_the_sooner_of_two_waits_counts_however_short_it_is() -> None:
    async def woken_after(*waits: float) -> float:
        waker = Waker()
        for wait in waits:
            waker.expect(timedelta(seconds=wait))
        loop = asyncio.get_running_loop()
        begun = loop.time()
        await waker.wait(busy=False)
        return loop.time() - begun

    assert uvloop.run(woken_after(0.0003, 1)) < 0.9, "it waited for the poll"
    assert uvloop.run(woken_after(1, 0.0003)) < 0.9, "it waited for the poll"
    assert uvloop.run(woken_after(0.02, 0.0003, 1)) < 0.9, "it waited for the poll"
