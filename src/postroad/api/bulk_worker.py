"""Work on bulk actions that goes on when its request has been answered or given up."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import timedelta
from functools import partial

from postroad.domain.bulk_action import BulkAction, BulkActionId
from postroad.domain.tenant import TenantId
from postroad.errors import PostroadError
from postroad.store import bulk_actions
from postroad.store.engine import Database

AT_ONCE = 2
"""Steps that one process takes at a time, so that connections are left for everybody else."""

LOOK_EVERY_S = 0.25
"""How often one looks at an action that somebody else works on."""

_log = logging.getLogger(__name__)


class BulkWorker:
    """Works on the actions that requests of this process have begun, and waits with those that wait for others.

    What a stop or a trouble of the database breaks off is left to whoever finds its lease to be over.
    """

    def __init__(self, database: Database, *, expect: Callable[[timedelta], None]) -> None:
        self._database = database
        self._expect = expect
        self._turn = asyncio.Semaphore(AT_ONCE)
        self._tasks: dict[BulkActionId, asyncio.Task[BulkAction]] = {}

    def work(self, tenant_id: TenantId, action: BulkAction, *, holds: bool) -> asyncio.Task[BulkAction]:
        """A task that ends with the finished action. To cancel it is for `stop` only: others may wait for it too."""
        task = self._tasks.get(action.id)
        if task is None:
            task = asyncio.create_task(self._until_finished(tenant_id, action, holds=holds))
            self._tasks[action.id] = task
            task.add_done_callback(partial(self._ended, action.id))
        return task

    async def stop(self) -> None:
        """Break off what is under way; what has been cancelled stays so."""
        for task in (tasks := list(self._tasks.values())):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _until_finished(self, tenant_id: TenantId, action: BulkAction, *, holds: bool) -> BulkAction:
        while action.completed_at is None:
            step = partial(bulk_actions.go_on, action_id=action.id, holds=holds)
            async with self._turn:
                gone_on = await self._database.repeated(step, tenant_id=tenant_id)
            holds = gone_on is not None
            if gone_on is not None:
                # Where the head of a queue was cancelled, the next one may go now.
                self._expect(timedelta(0))
                action = gone_on
            elif (action := await self._look(tenant_id, action)).completed_at is None:
                await asyncio.sleep(LOOK_EVERY_S)
        return action

    async def _look(self, tenant_id: TenantId, action: BulkAction) -> BulkAction:
        async with self._database.reading(tenant_id) as connection:
            return await bulk_actions.find(connection, tenant_id, action.id) or action

    def _ended(self, action_id: BulkActionId, task: asyncio.Task[BulkAction]) -> None:
        del self._tasks[action_id]
        if task.cancelled():
            return
        match task.exception():
            case PostroadError() as error:
                _log.warning("bulk action %s is left to another turn: %s", action_id, error)
            case Exception() as error:
                _log.error("bulk action %s is left to another turn", action_id, exc_info=error)
