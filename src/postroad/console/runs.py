"""Bulk work on dead letters: retried or deleted step by step through the API, at a pace, while people may look away."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from postroad.api.context import Context
from postroad.console.inside import ApiRefusedError, Inside
from postroad.domain.tenant import TenantId
from postroad.errors import PostroadError, Unavailable
from postroad.store import audits, dead_letter_groups, dead_letter_runs, sessions
from postroad.store.dead_letter_groups import Wanted
from postroad.store.engine import Connection, TryAgain
from postroad.store.sessions import Session

RATES = (1, 10, 100)
"""Letters a second that can be chosen; or as fast as it goes."""

_STEP = {"retry": 100, "delete": 500}
"""Letters that one call is about, where no pace says otherwise."""

_LOOK = 2_000
"""Letters that are looked at for the next ones."""

_SHORTEST_S = 0.2
"""Steps are no closer than that, but for those that have no pace."""

_BUSY_S = 1.0
_MOST_BUSY = 60
_BUSY = (429, 503)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be done: `kind` is retry or delete, `words` say with which letters."""

    kind: str
    wanted: Wanted
    q: str
    words: str
    per_second: int | None
    total: int

    @property
    def action(self) -> str:
        """What the audit log calls it."""
        return f"{self.kind} dead letters"


class Runs:
    """Works on the bulk work that this process has begun.

    What a stop or a death of the process breaks off simply stays in the dead letters; people see that and begin anew.
    """

    def __init__(self, context: Context, inside: Inside) -> None:
        self._database = context.database
        self._inside = inside
        self._tasks: dict[int, tuple[TenantId, asyncio.Task[None]]] = {}

    async def begin(self, session: Session, order: Order, *, wait_s: float) -> int:
        """Begin, and wait a moment: what is small is done then. Gives the id of the run."""
        tenant_id = session.caller.tenant_id
        async with self._database.changing(tenant_id) as connection:
            run_id = await dead_letter_runs.begin(
                connection,
                tenant_id,
                actor=session.actor,
                kind=order.kind,
                q=order.q,
                per_second=order.per_second,
                total=order.total,
            )
        await self._note(session, order, f"begun: {order.total:,}, {pace_in_words(order.per_second)}")
        task = asyncio.create_task(self._run(run_id, session, order))
        self._tasks[run_id] = tenant_id, task
        task.add_done_callback(partial(self._ended, run_id))
        await asyncio.wait({task}, timeout=wait_s)
        return run_id

    async def stop(self) -> None:
        """Break off what is under way, and say so where people look."""
        broken_off = dict(self._tasks)
        for _, task in broken_off.values():
            task.cancel()
        await asyncio.gather(*(task for _, task in broken_off.values()), return_exceptions=True)
        for run_id, (tenant_id, _) in broken_off.items():
            with suppress(PostroadError):
                async with self._database.changing(tenant_id) as connection:
                    await dead_letter_runs.end(connection, tenant_id, run_id, outcome="broken off: the server stopped")

    async def _run(self, run_id: int, session: Session, order: Order) -> None:
        work = _Work(self._inside, session, order)
        tenant_id = session.caller.tenant_id
        outcome, busy = None, 0
        while outcome is None:
            pause_s = 0.0
            try:
                async with self._database.reading(tenant_id) as connection:
                    await work.stock_up(tenant_id, connection)
                async with self._database.connection() as connection:
                    may_go_on = await sessions.is_valid(connection, session)
                if work.is_over:
                    outcome = "done"
                elif not may_go_on:
                    outcome = "stopped: the token that began it is not valid any more"
                else:
                    pause_s = await work.step()
                    busy = 0
            except (ApiRefusedError, Unavailable, TryAgain) as error:
                if isinstance(error, ApiRefusedError) and error.status not in _BUSY:
                    outcome = f"refused: {error}"
                elif (busy := busy + 1) > _MOST_BUSY:
                    outcome = f"given up: {error}"
                pause_s = _BUSY_S
            if not await self._goes_on(tenant_id, run_id, work):
                outcome = "stopped" if outcome is None else outcome
            elif outcome is None:
                await asyncio.sleep(pause_s)
        async with self._database.changing(tenant_id) as connection:
            await dead_letter_runs.end(connection, tenant_id, run_id, outcome=outcome)
        past = "retried" if order.kind == "retry" else "deleted"
        await self._note(session, order, f"{outcome}: {work.done:,} {past}, {work.kept:,} left as they were")

    async def _goes_on(self, tenant_id: TenantId, run_id: int, work: _Work) -> bool:
        try:
            async with self._database.changing(tenant_id) as connection:
                return await dead_letter_runs.advance(
                    connection, tenant_id, run_id, done=work.done, kept=work.kept, why=work.why
                )
        except (Unavailable, TryAgain):
            # The next turn writes it down.
            return True

    async def _note(self, session: Session, order: Order, outcome: str) -> None:
        async with self._database.connection() as connection:
            await audits.add(
                connection,
                session.caller.tenant_id,
                actor=session.actor,
                action=order.action,
                target=order.words,
                outcome=outcome,
            )

    def _ended(self, run_id: int, task: asyncio.Task[None]) -> None:
        self._tasks.pop(run_id, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("bulk work %d on dead letters broke off", run_id, exc_info=error)


class _Work:
    """Where a run is: from the oldest letter on, past those that are refused."""

    def __init__(self, inside: Inside, session: Session, order: Order) -> None:
        self._inside = inside
        self._session = session
        self._order = order
        self._stock: list[tuple[int, str]] = []
        self._after: int | None = 0
        self._next_at = asyncio.get_running_loop().time()
        self.done = 0
        self.kept = 0
        self.why: str | None = None
        self.is_over = False

    async def stock_up(self, tenant_id: TenantId, connection: Connection) -> None:
        """Find out which letters are next."""
        if self._stock:
            return
        if self._after is not None:
            self._stock, self._after = await dead_letter_groups.ids(
                connection, tenant_id, self._order.wanted, after=self._after, look=_LOOK
            )
        self.is_over = self._after is None and not self._stock

    async def step(self) -> float:
        """Work on some; gives how long to wait before the next ones."""
        pace = self._order.per_second
        size = _STEP[self._order.kind] if pace is None else max(round(pace * _SHORTEST_S), 1)
        now = self._stock[:size]
        if not now:
            return 0.0
        moved = await self._move([one for _, one in now])
        del self._stock[:size]
        self.done += moved
        self.kept += len(now) - moved
        if pace is None:
            return 0.0
        at = asyncio.get_running_loop().time()
        self._next_at = max(self._next_at + len(now) / pace, at)
        return self._next_at - at

    async def _move(self, ids: list[str]) -> int:
        try:
            if self._order.kind == "delete":
                deleted: int = (await self._ask("DELETE", "/v2/dlq", dlqIds=",".join(ids)))["deleted"]
                return deleted
            retried = len((await self._ask("POST", "/v2/dlq/retry", dlqIds=",".join(ids)))["responses"])
        except ApiRefusedError as error:
            if error.status == 404:
                # Somebody else was faster with all of them.
                return 0
            raise
        if not retried and self.why is None:
            return await self._ask_why(ids[0])
        return retried

    async def _ask_why(self, one: str) -> int:
        """Retry a letter by itself, because only so it is said why that is refused."""
        try:
            await self._ask("POST", f"/v2/dlq/retry/{one}")
        except ApiRefusedError as error:
            if error.status not in _BUSY:
                self.why = str(error)
            return 0
        return 1

    async def _ask(self, method: str, path: str, **params: str) -> Any:
        return (await self._inside.ask(self._session.caller, method, path, params=params)).document


def pace_in_words(per_second: int | None) -> str:
    """How fast, in words."""
    return "as fast as it goes" if per_second is None else f"{per_second:,} a second"
