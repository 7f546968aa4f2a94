"""What handlers report, stored by the group: those that arrive while a commit is under way go into the next one."""

from __future__ import annotations

import asyncio
from collections import deque

from postroad.errors import DatabaseUnavailable, IntakeFull, OutcomeUnknown, PostroadError
from postroad.store import statuses
from postroad.store.engine import Database, DataRefused, TryAgain
from postroad.store.statuses import NewReport

GROUP = 500
GROUP_BYTES = 8 * 1024 * 1024
WAITING = 5_000
WAITING_BYTES = 64 * 1024 * 1024


class Reporting:
    """Takes reports and answers each after its commit. Apart from publishes, so that neither waits for the other."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: deque[tuple[NewReport, asyncio.Future[None]]] = deque()
        self._bytes = 0
        self._arrived = asyncio.Event()

    async def add(self, report: NewReport) -> None:
        """Store a report. Returns after the commit; raises what refused it, `IntakeFull` among it."""
        size = _size(report)
        if len(self._waiting) >= WAITING or self._bytes + size > WAITING_BYTES:
            raise IntakeFull
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((report, answer))
        self._bytes += size
        self._arrived.set()
        await answer

    async def run(self) -> None:
        """Store what arrives, group after group, until cancelled."""
        while True:
            await self._arrived.wait()
            group = self._take()
            try:
                await self._store(group)
            finally:
                for _, answer in group:
                    if not answer.done():
                        answer.set_exception(OutcomeUnknown())

    def _take(self) -> list[tuple[NewReport, asyncio.Future[None]]]:
        group: list[tuple[NewReport, asyncio.Future[None]]] = []
        total = 0
        while self._waiting and len(group) < GROUP:
            size = _size(self._waiting[0][0])
            if group and total + size > GROUP_BYTES:
                break
            group.append(self._waiting.popleft())
            total += size
        self._bytes -= total
        if not self._waiting:
            self._arrived.clear()
        return group

    async def _store(self, group: list[tuple[NewReport, asyncio.Future[None]]]) -> None:
        try:
            async with self._database.single() as connection:
                await statuses.add(connection, [report for report, _ in group])
        except DataRefused as error:
            # One of them is to blame: the others must not suffer for it.
            if len(group) > 1:
                for one in group:
                    await self._store([one])
                return
            _fail(group, error)
        except TryAgain:
            _fail(group, DatabaseUnavailable())
        except PostroadError as error:
            _fail(group, error)
        else:
            for _, answer in group:
                if not answer.done():
                    answer.set_result(None)


def _size(one: NewReport) -> int:
    """About how many bytes it takes up."""
    report = one.report
    return len(report.note or "") + len(report.log or "") + len(report.result or b"")


def _fail(group: list[tuple[NewReport, asyncio.Future[None]]], error: PostroadError) -> None:
    for _, answer in group:
        if not answer.done():
            answer.set_exception(error)
