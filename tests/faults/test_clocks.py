"""A node whose wall clock is wrong: what is due is decided by the database's clock, and what it dates is corrected."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from email.utils import formatdate
from pathlib import Path

import pytest
import qstash
from qstash.errors import SignatureError

from tests.conftest import KEYS, eventually
from tests.faults.builds import Change, Scene, build, scene
from tests.faults.cluster import Node
from tests.faults.records import Intent
from tests.moods import ok, status
from tests.receiver import Received, Receiver

TWO_HOURS_S = 7200
EARLY_S = 0.005
"""As the checker has it: the instants are read by two processes."""

LIBRARIES = (
    Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"),
    Path("/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1"),
)
"""Where Debian has libfaketime, which moves the wall clock of a whole process."""

SHIM = Change(
    "clock.py",
    "import time\nfrom datetime import UTC, datetime, timedelta\n",
    """import os
import time as real
from datetime import UTC, timedelta
from datetime import datetime as real_datetime


def shift():
    with open(os.environ["FAKETIME_TIMESTAMP_FILE"]) as file:
        return float(file.read())


class time:
    @staticmethod
    def time():
        return real.time() + shift()


class datetime(real_datetime):
    @classmethod
    def now(cls, zone):
        return real_datetime.now(zone) + timedelta(seconds=shift())

""",
)
"""Without libfaketime, this moves what the one module reads that looks at the wall clock."""


class WallClock:
    """The wall clock of processes that have `environment`. The monotonic clock stays as it is."""

    def __init__(self, directory: Path, *changes: Change, library: Path | None) -> None:
        self._file = directory / "clock"
        self.move(0)
        shim = [] if library else [SHIM]
        self.environment = build(directory / "build", [*shim, *changes]) | {"FAKETIME_TIMESTAMP_FILE": str(self._file)}
        if library:
            self.environment |= {
                "LD_PRELOAD": str(library),
                "FAKETIME_NO_CACHE": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            }

    def move(self, seconds: int) -> None:
        """Be so far off from now on, also in processes that run."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+}\n")
        new.replace(self._file)


INSTALLED = next((library for library in LIBRARIES if library.exists()), None)


@pytest.mark.parametrize("library", dict.fromkeys([None, INSTALLED]), ids=lambda one: one.name if one else "shim")
async def test_the_wall_clock_of_a_process_really_moves(tmp_path: Path, library: Path | None) -> None:
    """And the other one does not."""
    clock = WallClock(tmp_path, library=library)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-uc",
        "import sys, time; from postroad.clock import Clock; clock = Clock()\n"
        "for _ in sys.stdin: print(clock.now_s(), clock.now_ms() / 1000, clock.now().timestamp(), time.monotonic())",
        env=os.environ | clock.environment, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    for seconds in (0, TWO_HOURS_S, -TWO_HOURS_S):
        clock.move(seconds)
        before = time.time(), time.monotonic()
        process.stdin.write(b"\n")
        *walls, monotonic = map(float, (await process.stdout.readline()).split())
        assert all(-0.01 <= wall - seconds - before[0] < 60 for wall in walls)
        assert 0 <= monotonic - before[1] < 60
    process.stdin.close()
    await process.wait()


@pytest.mark.parametrize("off_s", [TWO_HOURS_S, -TWO_HOURS_S], ids=["two hours ahead", "two hours behind"])
async def test_a_node_with_a_wrong_clock_does_everything_at_its_time(
    database_url: str, receiver: Receiver, tmp_path: Path, off_s: int
) -> None:
    clock = WallClock(tmp_path, library=INSTALLED)
    clock.move(off_s)
    async with scene(database_url, tmp_path, receiver, nodes=1) as play:
        node = await play.start(0, clock.environment)

        message_id = await play.publish(node, Intent(1, 0))
        is_right(receiver, await receiver.next_request("/m/1", timeout=30))
        shown = (await play.ask(node, "GET", f"/v2/messages/{message_id}")).json()
        assert abs(shown["createdAt"] / 1000 - time.time()) < 60

        await asyncio.gather(
            is_delayed(play, node), waits_for_an_instant(play, node), is_retried_at_an_instant(play, node)
        )
        await fires_its_tick(play, node)


async def is_delayed(play: Scene, node: Node) -> None:
    """A delay is counted from the publish."""
    asked_at = time.monotonic()
    await play.publish(node, Intent(2, 0), Upstash_Delay="2s")
    arrived = await play.receiver.next_request("/m/2", timeout=30)
    assert arrived.arrived_at - asked_at >= 2 - EARLY_S
    is_right(play.receiver, arrived)


async def waits_for_an_instant(play: Scene, node: Node) -> None:
    """An instant that was named is one of the right clock."""
    instant = int(time.time()) + 3
    await play.publish(node, Intent(3, 0), Upstash_Not_Before=str(instant))
    arrived = await play.receiver.next_request("/m/3", timeout=30)
    assert arrived_at(arrived) >= instant - EARLY_S
    is_right(play.receiver, arrived)


async def is_retried_at_an_instant(play: Scene, node: Node) -> None:
    """The destination names an instant, too; the node itself works out how long that is."""
    instant = int(time.time()) + 4
    play.receiver.script("/later", status(503, b"", [("Retry-After", formatdate(instant, usegmt=True))]), ok())
    answer = await play.ask(node, "POST", f"/v2/publish/{play.receiver.url('/later')}", b"later")
    assert answer.is_success
    for retried in range(2):
        arrived = await play.receiver.next_request("/later", timeout=30)
        assert arrived.header("Upstash-Retried") == str(retried)
        is_right(play.receiver, arrived)
    # The node knows the right time as well as one trip to the database tells it.
    assert arrived_at(arrived) >= instant - 0.5


async def fires_its_tick(play: Scene, node: Node) -> None:
    """The next tick is the next minute of the right clock, and it fires then and not before."""
    where = play.receiver.url("/tick/1")
    made = (await play.ask(node, "POST", f"/v2/schedules/{where}", b"tick", Upstash_Cron="* * * * *")).json()
    left: timedelta = await play.ask_database("select next_at - clock_timestamp() from schedules")
    assert timedelta(seconds=-30) < left <= timedelta(minutes=1)
    assert (await play.ask_database("select date_trunc('minute', next_at) = next_at from schedules")) is True

    await play.time_passes(timedelta(minutes=1))
    is_right(play.receiver, await play.receiver.next_request("/tick/1", timeout=30))

    fired = await play.ask_database(
        "select max(fired_at - tick_at) from schedule_ticks where schedule_id = $1", made["scheduleId"]
    )
    assert timedelta(0) <= fired < timedelta(minutes=2)


@pytest.mark.parametrize("every", ["1.0", "3600.0"], ids=["measured again", "never measured again"])
async def test_a_clock_that_jumps_is_corrected(
    database_url: str, receiver: Receiver, tmp_path: Path, every: str
) -> None:
    """A node that never measures again signs for the future, which receivers refuse."""
    faster = Change("app.py", "_MEASURE_EVERY_S = 5.0", f"_MEASURE_EVERY_S = {every}")
    clock = WallClock(tmp_path, faster, library=INSTALLED)
    numbers = iter(range(1, 1_000))
    async with scene(database_url, tmp_path, receiver, nodes=1) as play:
        node = await play.start(0, clock.environment)
        assert await is_signed_right(play, node, numbers)
        clock.move(TWO_HOURS_S)
        if every == "1.0":
            await eventually(lambda: is_signed_right(play, node, numbers), bool, within=30)
        else:
            assert not await is_signed_right(play, node, numbers)
            clock.move(0)
            assert await is_signed_right(play, node, numbers)


async def is_signed_right(play: Scene, node: Node, numbers: Iterator[int]) -> bool:
    """Whether the receiver takes the next message."""
    op = next(numbers)
    await play.publish(node, Intent(op, 0))
    arrived = await play.receiver.next_request(f"/m/{op}", timeout=30)
    try:
        is_right(play.receiver, arrived)
    except SignatureError:
        return False
    return True


def is_right(receiver: Receiver, arrived: Received) -> None:
    """The official receiver takes it, and allows no clock to be off. Raises `SignatureError`."""
    qstash.Receiver(KEYS.current, KEYS.next).verify(
        signature=arrived.header("Upstash-Signature") or "",
        body=arrived.body.decode(),
        url=receiver.url(arrived.path),
        clock_tolerance=0,
    )


def arrived_at(arrived: Received) -> float:
    """In Unix seconds of the right clock."""
    return time.time() - (time.monotonic() - arrived.arrived_at)
