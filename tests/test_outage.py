"""The database goes away for longer than a lease lasts, and comes back: nobody is taken for dead who is not."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from datetime import timedelta

import pytest

from postroad.dispatch import janitor, pulse
from postroad.dispatch.pulse import Pulse
from postroad.store import dispatchers
from postroad.store.engine import Connection
from tests.conftest import eventually, running
from tests.proxy import DatabaseProxy
from tests.receiver import Receiver, hold, ok


async def test_what_is_on_the_wire_survives_an_outage(
    database_url: str, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two nodes with attempts in progress. Neither can beat; neither takes from the other what that still holds."""
    monkeypatch.setattr(dispatchers, "ALIVE_FOR", timedelta(seconds=2))
    monkeypatch.setattr(dispatchers, "BEAT_EVERY", timedelta(seconds=0.4))
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


def test_a_pulse_reaches_as_far_as_its_last_beat(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(pulse, "monotonic", lambda: now[0])
    beating = Pulse(reach=timedelta(seconds=10))

    now[0] = 109.9
    assert beating.may_send
    now[0] = 110.0
    assert not beating.may_send
    beating.beaten(104.0)
    assert beating.may_send


class TestWitnesses:
    """Who is silent is dead where somebody else beat meanwhile. Seconds count back from now; a beat reaches 8."""

    @pytest.fixture
    async def silent(self, connection: Connection) -> int:
        """Its last beat was eleven seconds ago."""
        return await beats(connection, since=100, last=11)

    async def test_one_that_beats_and_has_done_so_for_two_beats(self, connection: Connection, silent: int) -> None:
        await beats(connection, since=100, last=1)
        assert await dispatchers.lock_dead(connection, but=0) == [silent]

    async def test_a_new_one_that_was_there_early_enough(self, connection: Connection, silent: int) -> None:
        await beats(connection, since=6.5, last=1)
        assert await dispatchers.lock_dead(connection, but=0) == [silent]

    async def test_one_that_died_since(self, connection: Connection, silent: int) -> None:
        await beats(connection, since=9, last=6.5)
        assert await dispatchers.lock_dead(connection, but=0) == [silent]

    async def test_nobody(self, connection: Connection, silent: int) -> None:
        assert await dispatchers.lock_dead(connection, but=0) == []

    async def test_not_one_that_has_only_begun(self, connection: Connection, silent: int) -> None:
        """The database may have come back a moment before."""
        await beats(connection, since=3.5, last=0)
        assert await dispatchers.lock_dead(connection, but=0) == []

    async def test_not_one_that_fell_silent_about_the_same_time(self, connection: Connection, silent: int) -> None:
        await beats(connection, since=100, last=8.5)
        assert await dispatchers.lock_dead(connection, but=0) == []

    async def test_one_that_missed_as_much_itself_begins_anew(self, connection: Connection, silent: int) -> None:
        other = await beats(connection, since=100, last=10.5)
        assert await dispatchers.beat(connection, other)
        assert await dispatchers.lock_dead(connection, but=0) == []

    async def test_one_that_beats_in_time_goes_on(self, connection: Connection, silent: int) -> None:
        other = await beats(connection, since=100, last=7.5)
        assert await dispatchers.beat(connection, other)
        assert await dispatchers.lock_dead(connection, but=other) == [silent]

    async def test_nobody_is_needed_for_one_that_was_declared_dead(self, connection: Connection, silent: int) -> None:
        await dispatchers.declare_all_dead(connection)
        assert await dispatchers.lock_dead(connection, but=0) == [silent]


async def beats(connection: Connection, *, since: float, last: float) -> int:
    """A dispatcher that has beaten without a gap since so many seconds ago, at last so many seconds ago."""
    name = await dispatchers.register(connection, "test")
    await connection.execute(
        """
        update dispatchers set steady_since = now() - make_interval(secs => $2),
          alive_until = now() - make_interval(secs => $3) + $4::interval where id = $1
        """,
        name,
        since,
        last,
        dispatchers.ALIVE_FOR,
    )
    return name
