"""The loop that fires due schedules: ticks, messages and the way to the next tick in one transaction."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from postroad import faults
from postroad.domain.cron import parse_cron
from postroad.domain.publication import UNIQUE
from postroad.domain.schedule import Due, Schedule, due
from postroad.domain.tenant import TenantId
from postroad.domain.url_group import UrlGroup, is_group_name
from postroad.errors import InvalidValue, NotFound, PostroadError, Refused, Unavailable, Unopenable
from postroad.faults import Point
from postroad.publish import Publisher
from postroad.store import schedules, url_groups
from postroad.store.engine import Connection, Database, DataRefused, TryAgain
from postroad.store.messages import NewMessage
from postroad.store.schedules import Fired, Key

SCHEDULES = 50
"""Schedules that one transaction fires at most."""

MESSAGES = 5_000
"""Above this a transaction takes on no further schedule."""

POLL_S = 1.0
_LOCKED_PAUSE_S = 0.05
_CHUNK_MESSAGES = 500
_CHUNK_BYTES = 8 * 1024 * 1024

_log = logging.getLogger(__name__)

Groups = dict[TenantId, dict[str, UrlGroup]]


@dataclass(slots=True)
class _Firing:
    """What is to be done about one schedule: its ticks, and the messages of each, or the error instead."""

    schedule: Schedule
    due: Due
    messages: dict[datetime, list[NewMessage]] = field(default_factory=dict)
    error: str | None = None

    @property
    def key(self) -> Key:
        """Which schedule."""
        return self.schedule.tenant_id, self.schedule.id

    @property
    def count(self) -> int:
        """How many messages it makes."""
        return sum(len(group) for group in self.messages.values())


class Scheduler:
    """Any number of nodes may run it: each due schedule is fired by whoever locks it first, and every tick once."""

    def __init__(
        self,
        *,
        database: Database,
        publisher: Publisher,
        catch_up: timedelta,
        expect: Callable[[timedelta], None],
    ) -> None:
        self._database = database
        self._publisher = publisher
        self._catch_up = catch_up
        self._expect = expect

    async def run(self) -> None:
        """Fire what is due, turn after turn, until cancelled."""
        while True:
            try:
                wait_s = await self._turn()
            except TryAgain:
                wait_s = _LOCKED_PAUSE_S
            except PostroadError as error:
                _log.debug("schedules wait for the database: %s", error)
                wait_s = POLL_S
            except Exception:  # noqa: BLE001  a defect here must not take the deliveries down with it
                _log.exception("schedules could not be fired, it is tried again")
                wait_s = POLL_S
            await asyncio.sleep(wait_s)

    async def _turn(self) -> float:
        """Fire what is due now; gives the seconds until the next look, which finds what others have made meanwhile."""
        async with self._database.connection() as connection:
            wait = await schedules.until_next(connection)
        if wait is None or wait > timedelta(0):
            return POLL_S if wait is None else min(POLL_S, wait.total_seconds())
        return 0.0 if await self._fire_due() else _LOCKED_PAUSE_S

    async def _fire_due(self) -> bool:
        """Fire due schedules together; where that fails, each by itself, so that one cannot harm the others."""
        keys: list[Key] = []
        try:
            async with self._database.transaction() as connection:
                keys = await schedules.lock_due(connection, limit=SCHEDULES)
                firings = await self._fire(connection, keys)
                faults.reached(Point.BEFORE_TICK_COMMIT)
            faults.reached(Point.AFTER_TICK_COMMIT)
        except (Unavailable, TryAgain):
            raise
        except Exception as error:
            if not keys:
                raise
            _log.warning("due schedules are fired one by one: %s", error)
        else:
            self._tell(firings)
            return bool(keys)
        for key in keys:
            await self._fire_alone(key)
        return True

    async def _fire_alone(self, key: Key) -> None:
        """Fire one schedule, or note why it cannot be."""
        try:
            await self._fire_if_due(key)
        except (Unavailable, TryAgain):
            raise
        except DataRefused as error:
            await self._fire_if_due(key, refusal=f"the message cannot be stored: {error}")
        except Unopenable as error:
            await self._fire_if_due(key, refusal=f"its URL group cannot be read: {error}")
        except Exception:  # noqa: BLE001  the next tick may go well; this one is said to have failed
            _log.exception("schedule %s of tenant %d failed inside the server", key[1], key[0])
            await self._fire_if_due(key, refusal="internal error")

    async def _fire_if_due(self, key: Key, *, refusal: str | None = None) -> None:
        async with self._database.transaction() as connection:
            firings = await self._fire(connection, await schedules.lock_if_due(connection, key), refusal)
        self._tell(firings)

    async def _fire(self, connection: Connection, keys: Sequence[Key], refusal: str | None = None) -> list[_Firing]:
        """Fire schedules that this transaction has locked, or, with a refusal, let their ticks pass with this error."""
        if not keys:
            return []
        now, locked = await schedules.fetch(connection, keys)
        groups = await _groups(connection, locked if refusal is None else ())
        firings: list[_Firing] = []
        for schedule in locked:
            firing = self._firing(schedule, now, groups.get(schedule.tenant_id, {}), refusal)
            if isinstance(firing, InvalidValue):
                await schedules.stop(connection, (schedule.tenant_id, schedule.id), f"it fires no more: {firing}")
                continue
            firings.append(firing)
            if sum(one.count for one in firings) > MESSAGES:
                break
            await asyncio.sleep(0)
        await self._store(connection, firings)
        return firings

    def _firing(
        self, schedule: Schedule, now: datetime, groups: dict[str, UrlGroup], refusal: str | None
    ) -> _Firing | InvalidValue:
        """What a schedule is to do now, or why it can do nothing any more."""
        try:
            ahead = due(parse_cron(schedule.cron), schedule.next_at, now, catch_up=self._catch_up)
        except InvalidValue as error:
            return error
        if schedule.unopened is not None:
            refusal = str(schedule.unopened)
        firing = _Firing(schedule, ahead, error=refusal)
        if refusal is None:
            try:
                firing.messages = {tick: self._messages(schedule, groups) for tick in ahead.ticks}
            except Refused as error:
                firing.error = str(error)
        return firing

    def _messages(self, schedule: Schedule, groups: dict[str, UrlGroup]) -> list[NewMessage]:
        """The messages of one tick: what a publish of the stored request would make at this moment."""
        destination = schedule.request.destination
        if is_group_name(destination) and destination not in groups:
            raise NotFound("topic", destination)
        return [
            self._publisher.unvetted(schedule.tenant_id, replace(publication, deduplication=UNIQUE))
            for publication in self._publisher.read(schedule.request, groups)
        ]

    async def _store(self, connection: Connection, firings: Sequence[_Firing]) -> None:
        fresh = await schedules.record(connection, [(*one.key, tick) for one in firings for tick in one.due.ticks])
        group: list[NewMessage] = []
        fired: list[Fired] = []
        passed: list[tuple[Key, datetime]] = []
        for one in firings:
            ticks = [tick for tick in one.due.ticks if (*one.key, tick) in fresh]
            if not ticks:
                passed.append((one.key, one.due.next_at))
                continue
            for tick in ticks:
                group += one.messages.get(tick, [])
            last = [new.message.id for new in one.messages.get(ticks[-1], [])]
            fired.append(Fired(one.key, one.due.next_at, last, one.error))
        for chunk in _chunks(group):
            await self._publisher.store(connection, chunk)
        await schedules.advance(connection, fired)
        await schedules.skip(connection, passed)

    def _tell(self, firings: Sequence[_Firing]) -> None:
        """Say what took place, after its commit."""
        for one in firings:
            if one.due.skipped:
                _log.warning(
                    "schedule %s of tenant %d: %d missed ticks are skipped, the next is at %s",
                    one.schedule.id, one.schedule.tenant_id, one.due.skipped, one.due.next_at.isoformat(),
                )  # fmt: skip
        if any(one.count for one in firings):
            self._expect(timedelta(0))


async def _groups(connection: Connection, locked: Sequence[Schedule]) -> Groups:
    """The URL groups that schedules name, as they are now, by tenant."""
    names: dict[TenantId, set[str]] = {}
    for schedule in locked:
        wanted = names.setdefault(schedule.tenant_id, set())
        if is_group_name(schedule.request.destination):
            wanted.add(schedule.request.destination)
    return {
        tenant_id: await url_groups.find(connection, tenant_id, sorted(wanted)) if wanted else {}
        for tenant_id, wanted in names.items()
    }


def _chunks(group: Sequence[NewMessage]) -> Iterator[Sequence[NewMessage]]:
    """Pieces that one statement stores, in order."""
    start = size = 0
    for at, new in enumerate(group):
        if at > start and (at - start >= _CHUNK_MESSAGES or size + new.message.body_bytes > _CHUNK_BYTES):
            yield group[start:at]
            start, size = at, 0
        size += new.message.body_bytes
    if start < len(group):
        yield group[start:]
