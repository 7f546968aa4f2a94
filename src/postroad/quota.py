"""How many messages a tenant may publish in a day, counted in the database for all nodes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from postroad.clock import Clock
from postroad.domain.tenant import TenantId
from postroad.errors import PostroadError, TooManyMessages
from postroad.store import usage
from postroad.store.engine import Connection, Database

_REMEMBERED = 10_000


@dataclass(slots=True, eq=False)
class _Wish:
    """So many messages that a publisher waits for; `refusal` is why they cannot be, once it is answered."""

    count: int
    is_answered: bool = False
    refusal: PostroadError | None = None

    def answer(self, refusal: PostroadError | None) -> None:
        self.is_answered, self.refusal = True, refusal


@dataclass(slots=True)
class _Counter:
    """A tenant's: `left` is how many messages of how many were left when some were refused, and until when."""

    wishes: list[_Wish] = field(default_factory=list)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    left: tuple[int, int, int] | None = None


class Quota:
    """At most so many messages of each tenant from midnight to midnight in UTC.

    What was set for a tenant counts, else `most`; 0 is any number.

    Publishers of a tenant would queue for the lock of one row, so a process sends one statement at a time for it: what
    arrives meanwhile is counted together by the next one.
    """

    def __init__(self, database: Database, clock: Clock, *, most: int, most_of: Mapping[TenantId, int]) -> None:
        self._database = database
        self._clock = clock
        self._default = most
        self._most_of = most_of
        self._counters: dict[TenantId, _Counter] = {}

    def is_limited(self, tenant_id: TenantId) -> bool:
        """Whether messages of this tenant are to be counted."""
        return self._most_of.get(tenant_id, self._default) > 0

    async def take(self, tenant_id: TenantId, count: int) -> None:
        """Count messages that are about to be stored, all or none. Raises `TooManyMessages`."""
        counter = self._counter(tenant_id)
        wish = _Wish(count)
        counter.wishes.append(wish)
        async with counter.turn:
            if not wish.is_answered:
                await self._answer(tenant_id, counter)
        if wish.refusal is not None:
            raise wish.refusal

    def _counter(self, tenant_id: TenantId) -> _Counter:
        if len(self._counters) > _REMEMBERED:
            self._counters = {one: counter for one, counter in self._counters.items() if counter.wishes}
        return self._counters.setdefault(tenant_id, _Counter())

    async def _answer(self, tenant_id: TenantId, counter: _Counter) -> None:
        """Answer everybody who waits; whoever is left over because this one is cancelled asks again."""
        wishes = counter.wishes.copy()
        try:
            async with self._database.connection() as connection:
                refusal = await self._count(connection, tenant_id, counter, sum(wish.count for wish in wishes))
                for wish in wishes:
                    # Not all of them can come true: then the first come first.
                    each = refusal is not None and len(wishes) > 1
                    wish.answer(await self._count(connection, tenant_id, counter, wish.count) if each else refusal)
        except PostroadError as error:
            for wish in wishes:
                if not wish.is_answered:
                    wish.answer(error)
        finally:
            counter.wishes = [wish for wish in counter.wishes if not wish.is_answered]

    async def _count(
        self, connection: Connection, tenant_id: TenantId, counter: _Counter, count: int
    ) -> TooManyMessages | None:
        """Count, or give the reason why not. What was left after a refusal can only have become less since."""
        most = self._most_of.get(tenant_id, self._default)
        if not most:
            return None
        if counter.left is not None and (counter.left[0] != most or self._clock.now_s() >= counter.left[2]):
            counter.left = None
        if counter.left is None or count <= counter.left[1]:
            if await usage.take(connection, tenant_id, count, most=most):
                return None
            used, tomorrow = await usage.today(connection, tenant_id)
            counter.left = most, max(0, most - used), tomorrow
        return TooManyMessages(*counter.left)
