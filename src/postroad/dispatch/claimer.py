"""The loop that claims due deliveries within the free slots."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta

from postroad import faults
from postroad.dispatch.slots import Slots
from postroad.dispatch.waker import Waker
from postroad.domain.ids import MessageId
from postroad.domain.message import Attempt
from postroad.errors import KeyMissing, PostroadError
from postroad.faults import Point
from postroad.store import deliveries, messages
from postroad.store.deliveries import FIRST_DESTINATION, Claimed, Ended, Settlement
from postroad.store.engine import Connection, Database

_PAUSE_S = 1.0
_SUSPECTS_EVERY = 16
"""Claims; without that they would wait for the end of a backlog."""

_SUSPECTS_TOGETHER = 16
"""A node that dies twice makes suspects of all that it held: one after the other, they would take minutes."""

_WORTH_A_CLAIM = 16
"""Free slots, on nodes that have many."""

_log = logging.getLogger(__name__)


class Claimer:
    """Claims by due time while there is room for anybody, and fairly over destinations when there is not.

    `backlogged` says that the last claim came back full: then nothing is handed over, or the backlog would starve.
    """

    def __init__(
        self,
        *,
        database: Database,
        slots: Slots,
        waker: Waker,
        start: Callable[[Attempt], None],
        may_claim: Callable[[], bool],
        leasing: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self.backlogged = False
        self._short = False
        self._database = database
        self._slots = slots
        self._waker = waker
        self._start = start
        self._may_claim = may_claim
        self._leasing = leasing
        self._rotation = FIRST_DESTINATION
        self._suspects: set[MessageId] = set()
        self._turns = 0

    def slot_freed(self) -> None:
        """Look for more work when enough of the slots are free for a claim to be worth it."""
        if (self.backlogged or self._short) and self._slots.free >= min(self._slots.total // 8, _WORTH_A_CLAIM):
            self._waker.wake()

    def gone(self, message_id: MessageId) -> None:
        """A delivery is settled, or not ours any more; until then a suspect may still take the process with it.

        What would be settled together with the next one would be lost with it.
        """
        if message_id in self._suspects:
            self._suspects.remove(message_id)
            if not self._suspects:
                self._waker.wake()  # for the next ones, if there are any

    def abandon(self) -> None:
        """All leases are lost."""
        self._suspects.clear()

    async def run(self, dispatcher_id: int) -> None:
        """Claim, turn after turn, until cancelled."""
        more = False
        while True:
            try:
                more = self._may_claim() and await self._turn(dispatcher_id)
            except PostroadError as error:
                more = False
                _log.debug("claiming waits for the database: %s", error)
                await asyncio.sleep(_PAUSE_S)
            if not more:
                await self._waker.wait(busy=self._slots.in_use > 0)

    async def _turn(self, dispatcher_id: int) -> bool:
        """One look at everything that may be due. True when there may be more to claim right now."""
        async with self._database.connection() as connection:
            ahead = await deliveries.look_ahead(connection)
        for wait in ahead.later:
            self._waker.expect(wait)
        more = self.backlogged = self._short = False
        # Trouble with one queue or key must not keep the rest from being claimed.
        try:
            if ahead.is_entering:
                async with self._database.transaction() as connection:
                    more = await deliveries.enter(connection) > 0
            if ahead.is_flowing:
                more = await self._claim_flow(dispatcher_id) or more
            if ahead.is_suspected:
                await self._claim_suspect_flow(dispatcher_id)
        finally:
            if ahead.is_due:
                more = await self._claim(dispatcher_id) or more
        return more

    async def _claim(self, dispatcher_id: int) -> bool:
        """Claim by due time while there is room for anybody, else fairly over the destinations."""
        limit = min(self._slots.open_to_any, messages.FETCH_LIMIT)
        async with self._database.connection() as connection:
            if limit:
                with self._leasing():
                    with self._slots.promised(limit):
                        claimed = await deliveries.claim_due(connection, dispatcher_id, limit)
                        claimed += await self._claim_suspects(connection, dispatcher_id, beside=claimed)
                    faults.reached(Point.AFTER_CLAIM_COMMIT)
                    is_full = len(claimed) >= limit
                    self.backlogged = self.backlogged or is_full
                    await self._begin(connection, dispatcher_id, claimed)
                # What falls due next stood behind what was due, and is not known yet.
                return bool(claimed)
            limit = min(self._slots.fair_limit, messages.FETCH_LIMIT)
            if not limit:
                return False
            share, saturated = self._slots.fair_share, self._slots.saturated()
            self._short = bool(saturated)
            with self._leasing():
                with self._slots.promised(limit):
                    claimed, self._rotation, ended = await deliveries.claim_fair(
                        connection, dispatcher_id, limit, share=share, saturated=saturated, after=self._rotation
                    )
                    claimed += await self._claim_suspects(connection, dispatcher_id, beside=claimed)
                faults.reached(Point.AFTER_CLAIM_COMMIT)
                self.backlogged = self.backlogged or bool(claimed)
                await self._begin(connection, dispatcher_id, claimed)
            return bool(claimed) or not ended

    async def _claim_flow(self, dispatcher_id: int) -> bool:
        """Claim within the limits of flow-control keys that have woken up. True when there were some to look at.

        Like any other delivery: by due time while there is room for anybody, else in shares.
        """
        limit, share, saturated = min(self._slots.open_to_any, messages.FETCH_LIMIT), None, list[int]()
        if not limit:
            limit, share = min(self._slots.fair_limit, messages.FETCH_LIMIT), self._slots.fair_share
            saturated = self._slots.saturated()
        if not limit:
            self.backlogged = True
            return False
        with self._leasing():
            with self._slots.promised(limit):
                async with self._database.transaction() as connection:
                    claimed, looked = await deliveries.claim_flow(
                        connection, dispatcher_id, limit, share=share, saturated=saturated
                    )
            faults.reached(Point.AFTER_CLAIM_COMMIT)
            async with self._database.connection() as connection:
                await self._begin(connection, dispatcher_id, claimed)
        self.backlogged = len(claimed) >= limit
        return looked

    async def _claim_suspects(
        self, connection: Connection, dispatcher_id: int, *, beside: Sequence[Claimed]
    ) -> list[Claimed]:
        """Messages that have lost two dispatchers travel in small groups, until all of a group are settled.

        One that has lost more travels alone, so that it takes no other suspect with it. They are looked for when there
        is nothing else, and now and then when there is.
        """
        self._turns += 1
        if self._suspects or (beside and self._turns % _SUSPECTS_EVERY):
            return []
        limit = max(1, min(_SUSPECTS_TOGETHER, self._slots.free))
        claimed = await deliveries.claim_suspects(connection, dispatcher_id, limit)
        self._suspects.update(one.id for one in claimed)
        return claimed

    async def _claim_suspect_flow(self, dispatcher_id: int) -> None:
        """The same for those under flow-control keys, of which each travels alone."""
        if self._suspects or not self._slots.free:
            return
        with self._leasing():
            async with self._database.transaction() as connection:
                claimed = await deliveries.claim_suspect_flow(connection, dispatcher_id)
            faults.reached(Point.AFTER_CLAIM_COMMIT)
            if claimed:
                async with self._database.connection() as connection:
                    self._suspects.update(one.id for one in claimed)
                    await self._begin(connection, dispatcher_id, claimed)

    async def _begin(self, connection: Connection, dispatcher_id: int, claimed: Sequence[Claimed]) -> None:
        """Start the attempts of a claim. What cannot be fetched now stays leased, and a beat gives it back."""
        if not claimed:
            return
        by_id = {one.id: one for one in claimed}
        unopened: dict[MessageId, PostroadError] = {}
        for one in claimed:
            self._slots.take(one.destination)
        try:
            for stored in await messages.fetch(connection, list(by_id)):
                if stored.message.unopened is not None:
                    unopened[stored.message.id] = stored.message.unopened
                    continue
                one = by_id.pop(stored.message.id)
                self._start(Attempt(stored, one.lease, one.retried, one.destination, one.is_gated))
        finally:
            for one in by_id.values():
                self._slots.release(one.destination)
                self._suspects.discard(one.id)
        if by_id:
            await self._give_up(connection, dispatcher_id, by_id.values(), unopened)

    async def _give_up(
        self,
        connection: Connection,
        dispatcher_id: int,
        left: Iterable[Claimed],
        unopened: Mapping[MessageId, PostroadError],
    ) -> None:
        """Bury deliveries whose messages are gone or damaged; where only a key is missing, another node may have it."""
        reasons = [(one, unopened.get(one.id) or "the message is missing") for one in left]
        for reason, count in Counter(str(reason) for _, reason in reasons).items():
            _log.error("%d deliveries cannot be made: %s", count, reason)
        gone = [
            Settlement(one.id, one.lease, Ended.FAILED, timedelta(0), reason=str(reason))
            for one, reason in reasons
            if not isinstance(reason, KeyMissing)
        ]
        if gone:
            async with connection.transaction():
                await deliveries.release(connection, await deliveries.settle(connection, dispatcher_id, gone))
