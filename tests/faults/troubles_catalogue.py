"""What may happen to a PostgreSQL server and to the way to it. Each gives when it began and when it was over."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import asyncpg

from tests.faults.replication import DATABASE
from tests.faults.troubles_disk import Ballast
from tests.faults.troubles_stage import ROLE, Disk, Stage

Window = tuple[float, float]
"""From the first moment to the one from which PostgreSQL could be worked with again."""

_STRANGERS = 300
_AWAY_S = 1.0
_GREEDY = 12


@dataclass(frozen=True, slots=True)
class Trouble:
    """A row of the table. `seconds` is how long it lasts where that can be chosen."""

    name: str
    what: str
    happen: Callable[[Stage, float], Awaitable[Window]]
    seconds: float = 0.0
    settings: Mapping[str, str] = field(default_factory=dict)
    standby: bool = False
    disk: Disk | None = None
    slow_sync: bool = False
    only_pooled: bool = False
    publishes_fail: bool = True
    """Whether there is a time at which nothing can be stored. A pooler lets publishes wait instead."""
    acknowledges_nothing: bool = False
    """Whether what was asked and answered within the window must not be acknowledged."""


async def restart(stage: Stage, _: float) -> Window:
    began = monotonic()
    return began, await stage.server.restart("fast")


async def immediate_restart(stage: Stage, _: float) -> Window:
    began = monotonic()
    return began, await stage.server.restart("immediate")


async def killed(stage: Stage, _: float) -> Window:
    began = monotonic()
    await stage.server.kill()
    return began, await stage.server.start()


async def away(stage: Stage, seconds: float) -> Window:
    """The server is down: who connects is refused at once."""
    began = monotonic()
    await stage.server.stop("fast")
    await asyncio.sleep(seconds)
    return began, await stage.server.start()


async def terminated(stage: Stage, seconds: float) -> Window:
    """All clients are thrown out, five times a second."""
    began = monotonic()
    while monotonic() < began + seconds:
        await stage.server.terminate_backends()
        await asyncio.sleep(0.2)
    return began, monotonic()


async def read_only(stage: Stage, seconds: float) -> Window:
    began = monotonic()
    await stage.server.set("default_transaction_read_only", "on")
    await asyncio.sleep(seconds)
    async with stage.server.connection() as connection:
        await connection.execute("set default_transaction_read_only = off")
        await connection.execute("alter system reset default_transaction_read_only")
        await connection.execute("select pg_reload_conf()")
    return began, monotonic()


async def hot_standby(stage: Stage, seconds: float) -> Window:
    """The address leads to a standby, and then to the primary again."""
    assert stage.standby is not None
    began = monotonic()
    stage.line.lead_to(stage.standby.port)
    await asyncio.sleep(seconds)
    stage.line.lead_to(stage.server.port)
    return began, monotonic()


async def exhausted(stage: Stage, seconds: float) -> Window:
    """Strangers take every connection there is, also those that the node loses at the same time."""
    url = stage.server.url(DATABASE).replace("postgres@", "stranger@")
    # One connection for all of it: when everybody wants one, there is none left for a superuser either.
    async with stage.server.connection() as admin, AsyncExitStack() as strangers:
        await admin.execute("create role stranger login")
        await _take_all(url, strangers)
        # Whoever is faster gets a connection that the node has lost, so there are many who want it all the time.
        greedy = [asyncio.create_task(_take_all(url, strangers, for_ever=True)) for _ in range(_GREEDY)]
        try:
            while await admin.fetchval(  # noqa: ASYNC110  nobody tells
                "select count(pg_terminate_backend(pid)) from pg_stat_activity where usename = $1", ROLE
            ):
                await asyncio.sleep(0.05)
        finally:
            for one in greedy:
                one.cancel()
            await asyncio.gather(*greedy, return_exceptions=True)
        began = monotonic()
        while monotonic() < began + seconds:
            await _take_all(url, strangers)
            await asyncio.sleep(0.1)
    return began, monotonic()


async def _take_all(url: str, strangers: AsyncExitStack, *, for_ever: bool = False) -> None:
    """Take connections until there are none, or also those that are given back later."""
    while True:
        try:
            one = await asyncpg.connect(url, timeout=10)
        except asyncpg.TooManyConnectionsError:
            if not for_ever:
                return
        else:
            strangers.callback(one.terminate)


async def slow_disk(stage: Stage, seconds: float, *, sync_s: float) -> Window:
    """Each fsync takes longer."""
    assert stage.slow_sync is not None
    began = monotonic()
    stage.slow_sync.set(sync_s)
    await asyncio.sleep(seconds)
    stage.slow_sync.set(0)
    return began, monotonic()


async def slow_line(stage: Stage, seconds: float, *, round_trip_s: float) -> Window:
    """Each answer takes longer."""
    began = monotonic()
    stage.line.round_trip_s = round_trip_s
    await asyncio.sleep(seconds)
    stage.line.round_trip_s = 0.0
    return began, monotonic()


async def half_open(stage: Stage, seconds: float) -> Window:
    """Nothing passes, and nothing is closed."""
    began = monotonic()
    stage.line.partition()
    await asyncio.sleep(seconds)
    stage.line.heal()
    return began, monotonic()


async def vanished(stage: Stage, seconds: float) -> Window:
    """Nothing passes, and in the end the connections are found dead."""
    began = monotonic()
    stage.line.partition()
    await asyncio.sleep(seconds)
    stage.line.cut()
    stage.line.heal()
    return began, monotonic()


async def full_data(stage: Stage, seconds: float) -> Window:
    """There is no room for another page; the log is on another disk."""
    assert stage.disk is not None
    ballast = Ballast(stage.disk)
    began = monotonic()
    while monotonic() < began + seconds:
        await asyncio.to_thread(ballast.load)
        await asyncio.sleep(0.2)
    ballast.drop()
    return began, monotonic()


async def full_wal(stage: Stage, seconds: float) -> Window:
    """There is no room for the log, so PostgreSQL gives up; it recovers when there is."""
    assert stage.disk is not None
    ballast = Ballast(stage.disk)
    began = monotonic()
    while monotonic() < began + seconds:
        await asyncio.to_thread(ballast.load)
        try:
            async with stage.server.connection() as connection:
                await connection.execute("select pg_switch_wal()")
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            await asyncio.sleep(0.2)
    if "PANIC" not in stage.server.last_words(200):
        raise RuntimeError("PostgreSQL did not run out of room for its log")
    ballast.drop()
    while stage.server.is_running:
        if await stage.server._accepts():
            return began, monotonic()
        await asyncio.sleep(0.02)
    await stage.server.stop()
    return began, await stage.server.start()


async def disturbed_commits(stage: Stage, seconds: float) -> Window:
    """Commits wait for a standby that is not there, and are told to wait no longer: a success with a warning."""
    await stage.server.set("synchronous_standby_names", "nobody")
    began = None
    async with stage.server.connection() as connection:
        while began is None or monotonic() < began + seconds:
            disturbed = await connection.fetchval(
                "select count(pg_cancel_backend(pid)) from pg_stat_activity where wait_event = 'SyncRep'"
            )
            if disturbed and began is None:
                began = monotonic()
            await asyncio.sleep(0.05)
    # From here on a commit may be one that waits for nobody, before `set` has returned.
    ended = monotonic()
    await stage.server.set("synchronous_standby_names", "")
    return began, ended


async def pooler_restart(stage: Stage, _: float) -> Window:
    assert stage.pgbouncer is not None
    began = monotonic()
    await stage.pgbouncer.stop()
    await asyncio.sleep(_AWAY_S)
    return began, await stage.pgbouncer.start()


def _with(happen: Callable[..., Awaitable[Window]], **options: Any) -> Callable[[Stage, float], Awaitable[Window]]:
    async def happening(stage: Stage, seconds: float) -> Window:
        return await happen(stage, seconds, **options)

    return happening


TROUBLES = {
    one.name: one
    for one in (
        Trouble("restart", "PostgreSQL is restarted (fast)", restart),
        Trouble("immediate", "PostgreSQL is restarted (immediate)", immediate_restart),
        Trouble("killed", "kill -9 of the postmaster, and a start", killed),
        Trouble("refused", "connections are refused", away, 60),
        Trouble("terminated", "all backends are terminated 5 times a second", terminated, 20, publishes_fail=False),
        Trouble("read-only", "the server is set to read-only", read_only, 20),
        Trouble("standby", "the address leads to a hot standby", hot_standby, 20, standby=True),
        Trouble(
            "exhausted", "others take all connections, the node loses its own", exhausted, 20,
            settings={"max_connections": str(_STRANGERS + 3)},
        ),
        Trouble(
            "slow-disk", "each fsync takes 200 ms longer", _with(slow_disk, sync_s=0.2), 15, slow_sync=True,
            publishes_fail=False,
        ),
        Trouble(
            "slower-disk", "each fsync takes 2 s longer", _with(slow_disk, sync_s=2.0), 30, slow_sync=True,
            publishes_fail=False,
        ),
        Trouble(
            "slow-line", "each answer takes 200 ms longer", _with(slow_line, round_trip_s=0.2), 15,
            publishes_fail=False,
        ),
        Trouble(
            "slower-line", "each answer takes 2 s longer", _with(slow_line, round_trip_s=2.0), 30,
            publishes_fail=False,
        ),
        Trouble("half-open-5", "nothing passes, nothing is closed", half_open, 5, publishes_fail=False),
        Trouble("half-open-30", "nothing passes, nothing is closed", half_open, 30),
        Trouble("vanished", "nothing passes, then all connections are lost", vanished, 30),
        Trouble("full-data", "the disk of the data is full", full_data, 20, disk="data"),
        Trouble(
            "full-wal", "the disk of the log is full: PANIC", full_wal, 15, disk="wal",
            settings={"min_wal_size": "32MB", "max_wal_size": "64MB", "wal_recycle": "off"},
        ),
        Trouble(
            "disturbed", "commits that wait for a standby are cancelled", disturbed_commits, 10,
            acknowledges_nothing=True,
        ),
        Trouble("pooler-restart", "pgbouncer is stopped and started", pooler_restart, only_pooled=True),
    )
}  # fmt: skip
