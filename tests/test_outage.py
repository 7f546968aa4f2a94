"""The database goes away for longer than a lease lasts, and comes back: nobody is taken for dead who is not."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from datetime import timedelta

import pytest

from postroad.dispatch import dispatcher, janitor, pulse
from postroad.dispatch.pulse import Pulse
from postroad.store import dispatchers
from tests.conftest import eventually, running
from tests.proxy import DatabaseProxy
from tests.receiver import Receiver, hold, ok


async def test_what_is_on_the_wire_survives_an_outage(
    database_url: str, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two nodes with attempts in progress. Neither can beat; neither takes from the other what that still holds."""
    monkeypatch.setattr(dispatchers, "ALIVE_FOR", timedelta(seconds=2))
    monkeypatch.setattr(dispatcher, "BEAT_EVERY_S", 0.4)
    monkeypatch.setattr(janitor, "RESCUE_EVERY_S", 0.05)
    gate = asyncio.Event()
    receiver.script("/", hold(gate, ok()))

    async with AsyncExitStack() as stack:
        proxies = [await stack.enter_async_context(DatabaseProxy(database_url)) for _ in range(2)]
        nodes = [await stack.enter_async_context(running(proxy.url)) for proxy in proxies]
        ids = [await node.publish(receiver.url()) for node in nodes for _ in range(10)]
        await receiver.wait_for(20)
        names = [node.node.dispatcher and node.node.dispatcher.id for node in nodes]

        for proxy in proxies:
            proxy.refusing = True
            proxy.cut()
        refused = await nodes[0].http.post(f"/v2/publish/{receiver.url()}")
        assert refused.status_code == 503
        assert refused.headers["Retry-After"] == "1"
        await asyncio.sleep(3)
        for proxy in proxies:
            proxy.refusing = False
        for node in nodes:
            await eventually(lambda node=node: node.http.get("/v2/readiness"), lambda answer: answer.status_code == 200)  # type: ignore[misc]
        await asyncio.sleep(1)
        gate.set()

        for message_id in ids:
            assert (await nodes[0].settled(message_id)) == ["CREATED", "ACTIVE", "DELIVERED"]
        assert [node.node.dispatcher and node.node.dispatcher.id for node in nodes] == names
    assert len(receiver.requests()) == 20


class TestPulse:
    """By a clock of the test's own."""

    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        now = [100.0]
        monkeypatch.setattr(pulse, "monotonic", lambda: now[0])
        return now

    @pytest.fixture
    def beating(self, clock: list[float]) -> Pulse:
        return Pulse(reach=timedelta(seconds=10), every=timedelta(seconds=3))

    def test_it_may_send_as_far_as_a_beat_reaches(self, clock: list[float], beating: Pulse) -> None:
        clock[0] = 109.9
        assert beating.may_send
        clock[0] = 110.0
        assert not beating.may_send
        beating.beaten(104.0)
        assert beating.may_send

    def test_it_rescues_soon_after_its_start_and_while_it_beats(self, clock: list[float], beating: Pulse) -> None:
        """What was before its start it cannot know."""
        assert not beating.may_rescue
        for now in (106.0, 109.0, 115.0):
            clock[0] = now
            beating.beaten(now)
            assert beating.may_rescue

    def test_after_a_gap_others_get_time_to_beat(self, clock: list[float], beating: Pulse) -> None:
        clock[0] = 111.0
        assert not beating.may_rescue
        beating.beaten(111.0)
        assert beating.may_send
        assert not beating.may_rescue
        clock[0] = 116.9
        assert not beating.may_rescue
        clock[0] = 117.0
        assert beating.may_rescue
