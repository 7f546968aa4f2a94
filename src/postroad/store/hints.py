"""Hints between nodes that something falls due. They only make it sooner: polling alone finds everything."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import timedelta

from postroad.errors import PostroadError
from postroad.store.connecting import UNREACHABLE, connect, is_pooled
from postroad.store.engine import Database

CHANNEL = "postroad_due"
COALESCED_S = 0.02
"""At most one notification in this time: a NOTIFY takes a lock of the whole database at its commit."""

_ALIVE_EVERY_S = 10.0
_RECONNECT_AFTER_S = 1.0
_log = logging.getLogger(__name__)


class Notifier:
    """Tells other nodes what a node without a dispatcher has stored. Never inside the storing transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._soonest: timedelta | None = None
        self._asked = asyncio.Event()

    def expect(self, wait: timedelta) -> None:
        """Something falls due after this wait."""
        if self._soonest is None or wait < self._soonest:
            self._soonest = wait
        self._asked.set()

    async def run(self) -> None:
        """Send what was asked for, until cancelled. What cannot be sent is left to the polls."""
        while True:
            await self._asked.wait()
            wait, self._soonest = self._soonest or timedelta(0), None
            self._asked.clear()
            try:
                async with self._database.connection() as connection:
                    await connection.execute("select pg_notify($1, $2)", CHANNEL, str(wait.total_seconds()))
            except PostroadError as error:
                _log.debug("a hint was not sent: %s", error)
            await asyncio.sleep(COALESCED_S)


async def listen(url: str, expect: Callable[[timedelta], None]) -> None:
    """Call `expect` for every hint, on a connection of its own, which is renewed when it is lost; until cancelled.

    A pooler gives no connection that could be listened on: there polling has to do.
    """
    if is_pooled(url):
        return

    def heard(_: object, __: int, ___: str, payload: object) -> None:
        try:
            expect(timedelta(seconds=float(str(payload))))
        except (ValueError, OverflowError):
            expect(timedelta(0))

    while True:
        try:
            connection = await connect(url)
            try:
                await connection.add_listener(CHANNEL, heard)
                while True:
                    await asyncio.sleep(_ALIVE_EVERY_S)
                    await connection.execute("select 1")
            finally:
                connection.terminate()
        except UNREACHABLE as error:
            _log.debug("hints are not heard for a moment: %s", error)
        await asyncio.sleep(_RECONNECT_AFTER_S)
