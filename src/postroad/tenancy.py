"""Who a token belongs to and what a tenant's attempts go by, remembered for a few seconds."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from datetime import timedelta
from time import monotonic
from typing import Generic, TypeVar

from postroad.domain.tenant import Caller, Profile, SigningKeys, TenantId, token_hash
from postroad.domain.tenant_settings import TenantSettings
from postroad.domain.token import is_damaged
from postroad.errors import AlreadyExists, PostroadError, Unauthenticated
from postroad.store import parallelism, tenants, tokens
from postroad.store.engine import Connection, Database

FRESH_FOR_S = 5.0
"""How long a revoked token, a rotated key or another failure callback may still be used by another process."""

_REMEMBERED = 10_000
_MOST_AT_ONCE = 1_000
_WHILE_PUBLISHED_S = 1.0
"""Longer than a statement that publishes takes."""

K = TypeVar("K")
V = TypeVar("V")


class Tenancy:
    """The database's tokens and tenants, asked for at most once in `FRESH_FOR_S` each."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._callers: _Remembered[bytes, Caller] = _Remembered(self._load_caller)
        self._strangers: _Fresh[bytes, bool] = _Fresh()
        self._profiles: _Remembered[TenantId, Profile] = _Remembered(self._load_profile)
        self.messages_per_day: dict[TenantId, int] = {}
        """The limits that were set for tenants, as of the last look at any of their tokens; of most there is none."""
        self._questions: list[_Question] = []
        self._asking = asyncio.Lock()
        self._used: set[int] = set()
        self._noting: asyncio.Task[None] | None = None

    async def caller(self, token: str) -> Caller:
        """Who acts with this token. Raises `Unauthenticated`."""
        digest = token_hash(token)
        found = self._callers.known(digest)
        if found is None:
            # Apart from the known, so that guesses cannot push those out.
            if self._strangers.known(digest) or is_damaged(token):
                raise Unauthenticated
            try:
                found = await self._callers.get(digest)
            except Unauthenticated:
                self._callers.forget(digest)
                self._strangers.put(digest, value=True)
                raise
        return found

    def known_caller(self, token: str) -> Caller | None:
        """Who acts with this token if that is at hand."""
        return self._callers.known(token_hash(token))

    def has_seen(self, token: str) -> bool:
        """Whether this token was valid when it was last looked up here, however long ago."""
        return self._callers.has(token_hash(token))

    def revoked(self, digest: bytes) -> None:
        """Forget a token that was revoked: this process does not accept it any more."""
        self._callers.forget(digest)

    def known_profile(self, tenant_id: TenantId) -> Profile | None:
        """What a tenant's attempts go by if that is at hand."""
        return self._profiles.known(tenant_id)

    async def profile(self, tenant_id: TenantId) -> Profile:
        """What a tenant's attempts go by."""
        return await self._profiles.get(tenant_id)

    async def keys(self, tenant_id: TenantId) -> SigningKeys:
        """The keys of a tenant."""
        return (await self.profile(tenant_id)).keys

    async def rotate(self, tenant_id: TenantId, *, guard: timedelta) -> SigningKeys:
        """Rotate a tenant's keys; this process signs with the new current one at once. Raises `RotatedRecently`."""
        async with self._database.transaction() as connection:
            keys = await tenants.rotate_keys(connection, tenant_id, guard=guard)
            profile = await tenants.profile(connection, tenant_id)
        self._profiles.replace(tenant_id, profile)
        return keys

    async def _load_caller(self, digest: bytes) -> Caller:
        """Look a token up, together with those that others ask for meanwhile.

        So a flood of unknown tokens keeps one connection busy and no more, whatever it consists of.
        """
        question = _Question(digest)
        self._questions.append(question)
        async with self._asking:
            while not question.is_answered:
                await self._answer(self._questions[:_MOST_AT_ONCE])
        if question.error is not None:
            raise question.error
        if question.found is None:
            raise Unauthenticated
        caller = question.found.caller
        if caller.max_messages_per_day is None:
            self.messages_per_day.pop(caller.tenant_id, None)
        else:
            self.messages_per_day[caller.tenant_id] = caller.max_messages_per_day
        if question.found.is_use_old:
            self._note_use(question.found.id)
        return caller

    async def _answer(self, questions: list[_Question]) -> None:
        """Answer them all, unless this one is cancelled: then whoever is next asks again."""
        try:
            async with self._database.connection() as connection:
                found = await tokens.known(connection, {question.digest for question in questions})
        except PostroadError as error:
            # Those that came meanwhile would wait just as long in vain.
            while self._questions:
                self._questions.pop().answer(None, error)
            return
        for question in questions:
            question.answer(found.get(question.digest), None)
        del self._questions[: len(questions)]

    def _note_use(self, token_id: int) -> None:
        self._used.add(token_id)
        if self._noting is None:
            self._noting = asyncio.create_task(self._note_uses())

    async def _note_uses(self) -> None:
        """Write when tokens were used. Nobody waits for it, and if it fails, the next look at the token asks again."""
        try:
            while self._used:
                used, self._used = self._used, set()
                with suppress(PostroadError):
                    async with self._database.connection() as connection:
                        await tokens.note_use(connection, used)
        finally:
            self._noting = None

    async def _load_profile(self, tenant_id: TenantId) -> Profile:
        async with self._database.connection() as connection:
            return await tenants.profile(connection, tenant_id)


async def make_tenant(connection: Connection, name: str, settings: TenantSettings) -> TenantId:
    """Make a tenant with what is set for it, all or nothing in the caller's transaction. Raises `AlreadyExists`."""
    tenant_id = await tenants.add(connection, name)
    if tenant_id is None:
        raise AlreadyExists("tenant", name)
    if columns := _columns(settings):
        await tenants.change(connection, tenant_id, columns)
    if (most := settings.get("parallelism")) is not None:
        # Nobody publishes for it yet, so there is nothing to be gathered, and nothing to wait for.
        await parallelism.limit(connection, tenant_id, int(most))
    return tenant_id


async def change_tenant(
    connect: Callable[[], AbstractAsyncContextManager[Connection]], tenant_id: TenantId, settings: TenantSettings
) -> None:
    """Set values for a tenant; None takes one away. Nodes go by it within `FRESH_FOR_S`, by a parallelism at once."""
    if columns := _columns(settings):
        async with connect() as connection:
            await tenants.change(connection, tenant_id, columns)
    if "parallelism" not in settings:
        return
    most = settings["parallelism"]
    if most is None:
        async with connect() as connection:
            await parallelism.unlimit(connection, tenant_id)
        return
    async with connect() as connection:
        await parallelism.limit(connection, tenant_id, int(most))
    await asyncio.sleep(_WHILE_PUBLISHED_S)
    async with connect() as connection:
        await parallelism.gather(connection, tenant_id)


def _columns(settings: TenantSettings) -> TenantSettings:
    """What is a column of the tenant's row and no more: a parallelism is not."""
    return {name: value for name, value in settings.items() if name != "parallelism"}


@dataclass(slots=True, eq=False)
class _Question:
    """Whose token has this hash?"""

    digest: bytes
    is_answered: bool = False
    found: tokens.Known | None = None
    error: PostroadError | None = None

    def answer(self, found: tokens.Known | None, error: PostroadError | None) -> None:
        self.is_answered, self.found, self.error = True, found, error


class _Fresh(Generic[K, V]):
    """Values that go stale, in a bounded dictionary."""

    def __init__(self) -> None:
        self._values: dict[K, tuple[float, V]] = {}

    def known(self, key: K) -> V | None:
        entry = self._values.get(key)
        return entry[1] if entry is not None and entry[0] > monotonic() else None

    def has(self, key: K) -> bool:
        """Whether there is a value, stale or not."""
        return key in self._values

    def put(self, key: K, value: V) -> None:
        # Anew at the end: what goes when there are too many is what nobody has asked for, and not all at once.
        self._values.pop(key, None)
        if len(self._values) >= _REMEMBERED:
            del self._values[next(iter(self._values))]
        self._values[key] = (monotonic() + FRESH_FOR_S, value)


class _Remembered(_Fresh[K, V]):
    """... and that are loaded when they are asked for."""

    def __init__(self, load: Callable[[K], Awaitable[V]]) -> None:
        super().__init__()
        self._load = load
        self._loading: dict[K, asyncio.Task[V]] = {}

    async def get(self, key: K) -> V:
        """The value; whoever asks while it is being loaded waits for that, and not for a connection of its own."""
        value = self.known(key)
        if value is None:
            loading = self._loading.get(key)
            if loading is None:
                loading = self._loading[key] = asyncio.create_task(self._load_and_put(key))
                loading.add_done_callback(lambda task: self._loaded(key, task))
            value = await asyncio.shield(loading)
        return value

    def forget(self, key: K) -> None:
        """Load it anew when it is asked for next; what is being loaded at this moment is not kept."""
        self._values.pop(key, None)
        self._loading.pop(key, None)

    def replace(self, key: K, value: V) -> None:
        """This is the value now, whatever is being loaded at this moment."""
        self.forget(key)
        self.put(key, value)

    async def _load_and_put(self, key: K) -> V:
        value = await self._load(key)
        if self._loading.get(key) is asyncio.current_task():
            self.put(key, value)
        return value

    def _loaded(self, key: K, task: asyncio.Task[V]) -> None:
        if self._loading.get(key) is task:
            del self._loading[key]
        if not task.cancelled():
            task.exception()  # Whoever asked has been told, or has gone.
