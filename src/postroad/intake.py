"""Group commit: publishes that arrive together are stored together, and each is answered after its commit."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from typing import Protocol

from postroad import faults
from postroad.activity import Activity
from postroad.domain.destination import Url
from postroad.domain.message import IMMEDIATELY, After, Attempt, NotBefore, StoredMessage
from postroad.domain.publication import Publication
from postroad.domain.tenant import Caller, TenantId
from postroad.errors import DatabaseUnavailable, IntakeFull, OutcomeUnknown, PostroadError, Refused, Unavailable
from postroad.faults import Point
from postroad.publish import Published, Publisher
from postroad.quota import Quota
from postroad.store.engine import Connection, Database, DataRefused, TryAgain
from postroad.store.messages import TRAVELLING_BODY_BYTES, NewMessage, Stored
from postroad.store.queues import admit
from postroad.turns import Turns

GROUP_MESSAGES = 500
GROUP_BYTES = 8 * 1024 * 1024
_TRIES = 5
_REMEMBERED_QUEUES = 100_000


class MessageRefused(Refused):
    """The database refuses this very message; its neighbours in the group were stored."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"the message cannot be stored: {reason}")


class LocalDispatcher(Protocol):
    """What the intake needs of the dispatcher in the same process."""

    @property
    def id(self) -> int | None:
        """The dispatcher's row, None while it may not lease."""

    def reserve(self, destination: int) -> bool:
        """Take a free slot for a delivery that is about to be stored."""

    def release(self, destination: int) -> None:
        """Give a reserved slot back."""

    def hand_over(self, dispatcher_id: int, attempts: Sequence[Attempt]) -> None:
        """Start attempts that were stored as leased to this dispatcher, in their reserved slots."""

    def leasing(self) -> AbstractContextManager[None]:
        """Wraps the statement that may lease to this dispatcher, and the hand-over that follows."""


@dataclass(slots=True)
class _Submission:
    """What one caller waits for."""

    news: list[NewMessage]
    answer: asyncio.Future[list[Published | PostroadError]]
    size: int


class Intake:
    """Gathers publishes while the commit before is under way. No timer: groups grow with the load by themselves."""

    def __init__(
        self,
        *,
        database: Database,
        publisher: Publisher,
        dispatcher: LocalDispatcher | None,
        expect: Callable[[timedelta], None],
        activity: Activity,
        quota: Quota | None = None,
        max_queues: int = 100_000,
        max_waiting: int = 20_000,
        max_waiting_bytes: int = 256 * 1024 * 1024,
    ) -> None:
        self._database = database
        self._publisher = publisher
        self._dispatcher = dispatcher
        self._expect = expect
        self._activity = activity
        self._quota = quota
        self._max_queues = max_queues
        self._known_queues: set[tuple[TenantId, str]] = set()
        self._max_waiting = max_waiting
        self._max_waiting_bytes = max_waiting_bytes
        self._submissions: deque[_Submission] = deque()
        self._waiting = 0
        self._waiting_bytes = 0
        self._arrived = asyncio.Event()

    async def publish(self, caller: Caller, publication: Publication) -> Published:
        """Store one publication. Returns after the commit; raises what refused it."""
        [answer] = await self.publish_all(caller, [publication])
        if isinstance(answer, PostroadError):
            raise answer
        return answer

    async def publish_all(self, caller: Caller, publications: Sequence[Publication]) -> list[Published | PostroadError]:
        """Store publications, all in one transaction. Returns after the commit; raises what refused them.

        Only what the database refuses is answered one by one: the others are stored then, in transactions of their own.
        If the database goes away in the midst of that, all of it counts as not acknowledged, though some is stored.
        """
        tenant_id = caller.tenant_id
        turns = Turns()
        unknown: dict[str, Url] = {}
        for one in publications:
            unknown |= {url.host: url for url in self._publisher.unknown_urls(one)}
            await turns.step()
        if unknown:
            await self._publisher.look_up(list(unknown.values()))
        if queues := {(tenant_id, one.options.queue) for one in publications if one.options.queue is not None}:
            await self._admit(tenant_id, queues)
        news = []
        for one in publications:
            news.append(self._publisher.message(tenant_id, one, policy=caller.destinations))
            await turns.step()
        if self._quota is not None and news and self._quota.is_limited(tenant_id):
            self._refuse_when_full(news)
            await self._quota.take(tenant_id, len(news))
        answers = await self._submit(news)
        for answer in answers:
            if isinstance(answer, Unavailable):
                raise answer
        return answers

    async def run(self) -> None:
        """Store what arrives, group after group, until cancelled; what waits then is refused."""
        try:
            while True:
                await self._arrived.wait()
                group = self._take()
                if group:
                    await self._store_group(group)
        finally:
            self._refuse_waiting(DatabaseUnavailable())

    async def _admit(self, tenant_id: TenantId, queues: set[tuple[TenantId, str]]) -> None:
        """Refuse queues beyond the tenant's quota; those that exist are remembered and not asked for again."""
        if queues <= self._known_queues:
            return
        async with self._database.connection() as connection:
            await admit(connection, tenant_id, [name for _, name in queues], most=self._max_queues)
        if len(self._known_queues) > _REMEMBERED_QUEUES:
            self._known_queues.clear()
        self._known_queues |= queues

    def _refuse_when_full(self, news: list[NewMessage]) -> int:
        """The size of messages for which there is room. Raises `IntakeFull`."""
        size = sum(new.message.body_bytes for new in news)
        if self._waiting and (
            self._waiting + len(news) > self._max_waiting or self._waiting_bytes + size > self._max_waiting_bytes
        ):
            raise IntakeFull
        return size

    async def _submit(self, news: list[NewMessage]) -> list[Published | PostroadError]:
        size = self._refuse_when_full(news)
        submission = _Submission(news, asyncio.get_running_loop().create_future(), size)
        self._submissions.append(submission)
        self._waiting += len(news)
        self._waiting_bytes += size
        self._arrived.set()
        return await submission.answer

    def _take(self) -> list[_Submission]:
        group: list[_Submission] = []
        messages = size = 0
        while self._submissions:
            head = self._submissions[0]
            if group and (messages + len(head.news) > GROUP_MESSAGES or size + head.size > GROUP_BYTES):
                break
            group.append(self._submissions.popleft())
            messages += len(head.news)
            size += head.size
        self._waiting -= messages
        self._waiting_bytes -= size
        if not self._submissions:
            self._arrived.clear()
        return group

    async def _store_group(self, group: list[_Submission]) -> None:
        news = [new for submission in group for new in submission.news]
        answers: list[Published | PostroadError] = []
        try:
            answers = await self._store(news, [len(submission.news) for submission in group])
        finally:
            answers += [OutcomeUnknown()] * (len(news) - len(answers))
            at = 0
            for submission in group:
                if not submission.answer.done():
                    submission.answer.set_result(answers[at : at + len(submission.news)])
                at += len(submission.news)

    async def _store(self, news: Sequence[NewMessage], sizes: Sequence[int]) -> list[Published | PostroadError]:
        """Store a group; one that the database refuses is halved until the culprit stands alone.

        `sizes` are those of the submissions in it, which stay together as long as they can.
        """
        try:
            stored = await self._insert(news)
        except DataRefused as error:
            if len(news) == 1:
                return [MessageRefused(str(error))]
            if len(sizes) == 1:
                sizes = [len(news) // 2, len(news) - len(news) // 2]
            half = len(sizes) // 2
            at = sum(sizes[:half])
            return await self._store(news[:at], sizes[:half]) + await self._store(news[at:], sizes[half:])
        except OutcomeUnknown as error:
            return [error] * len(news)
        except (DatabaseUnavailable, TryAgain):
            # What waits behind would wait just as long in vain: it is told now, and nothing of it was sent.
            self._refuse_waiting(DatabaseUnavailable())
            return [DatabaseUnavailable()] * len(news)
        return [
            Published(one.id, new.message.url, deduplicated=not one.is_new)
            for new, one in zip(news, stored, strict=True)
        ]

    async def _insert(self, news: Sequence[NewMessage]) -> list[Stored]:
        dispatcher = self._dispatcher
        if dispatcher is None or dispatcher.id is None:
            stored = await self._insert_rows(news, None)
            self._announce(news, stored)
            return stored
        for new in news:
            new.mine = _may_be_handed_over(new) and dispatcher.reserve(new.destination)
        stored = []
        dispatcher_id = dispatcher.id
        with dispatcher.leasing():
            try:
                stored = await self._insert_rows(news, dispatcher_id)
            finally:
                # Slots of what was not stored, or not granted, are free again.
                for index, new in enumerate(news):
                    if new.mine and not (stored and stored[index].handed_over):
                        dispatcher.release(new.destination)
            attempts = [
                Attempt(StoredMessage(new.message, one.created_at), lease=1, retried=0, destination=new.destination)
                for new, one in zip(news, stored, strict=True)
                if one.handed_over
            ]
            if attempts:
                dispatcher.hand_over(dispatcher_id, attempts)
        if len(attempts) < len(news):
            self._announce(news, stored)
        return stored

    def _announce(self, news: Sequence[NewMessage], stored: Sequence[Stored]) -> None:
        """Say when the first of what was stored and not handed over falls due."""
        waits = [_wait(new, one) for new, one in zip(news, stored, strict=True) if one.is_new and not one.handed_over]
        if waits:
            self._expect(min(waits))

    async def _insert_rows(self, news: Sequence[NewMessage], dispatcher_id: int | None) -> list[Stored]:
        for tried in count(1):
            try:
                async with self._one_statement_or_more(news) as connection:
                    faults.reached(Point.BEFORE_PUBLISH_COMMIT)
                    stored = await self._publisher.store(connection, news, dispatcher_id=dispatcher_id)
            except TryAgain:
                if tried == _TRIES:
                    raise
            else:
                faults.reached(Point.AFTER_PUBLISH_COMMIT)
                self._count(news, stored)
                return stored
        raise AssertionError

    def _count(self, news: Sequence[NewMessage], stored: Sequence[Stored]) -> None:
        counts = Counter(new.message.tenant_id for new, one in zip(news, stored, strict=True) if one.is_new)
        for tenant_id, messages in counts.items():
            self._activity.accepted(tenant_id, messages)

    def _one_statement_or_more(self, news: Sequence[NewMessage]) -> AbstractAsyncContextManager[Connection]:
        """Queues are released by statements of their own, and so need a transaction."""
        queued = any(new.message.options.queue is not None for new in news)
        return self._database.transaction() if queued else self._database.single()

    def _refuse_waiting(self, error: PostroadError) -> None:
        while self._submissions:
            submission = self._submissions.popleft()
            self._waiting -= len(submission.news)
            self._waiting_bytes -= submission.size
            if not submission.answer.done():
                submission.answer.set_result([error] * len(submission.news))
        self._arrived.clear()


def _may_be_handed_over(new: NewMessage) -> bool:
    message = new.message
    return message.options.when is IMMEDIATELY and message.body_bytes <= TRAVELLING_BODY_BYTES and not new.is_gated


def _wait(new: NewMessage, stored: Stored) -> timedelta:
    match new.message.options.when:
        case After(delay):
            return delay
        case NotBefore():
            return StoredMessage(new.message, stored.created_at).not_before - stored.created_at
    return timedelta(0)
