"""Who a token belongs to and what a tenant's attempts go by, remembered for a few seconds."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Generic, TypeVar

from postroad.domain.tenant import Caller, Profile, SigningKeys, TenantId, token_hash
from postroad.errors import Unauthenticated
from postroad.store import tenants
from postroad.store.engine import Database

FRESH_FOR_S = 5.0
"""How long a revoked token, a rotated key or another failure callback may still be used by another process."""

_REMEMBERED = 10_000

K = TypeVar("K")
V = TypeVar("V")


class Tenancy:
    """The database's tokens and tenants, asked for at most once in `FRESH_FOR_S` each."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._callers: _Remembered[bytes, Caller] = _Remembered(self._load_caller)
        self._strangers: _Fresh[bytes, bool] = _Fresh()
        self._profiles: _Remembered[TenantId, Profile] = _Remembered(self._load_profile)

    async def caller(self, token: str) -> Caller:
        """Who acts with this token. Raises `Unauthenticated`."""
        digest = token_hash(token)
        found = self._callers.known(digest)
        if found is None:
            # Apart from the known, so that guesses cannot push those out.
            if self._strangers.known(digest):
                raise Unauthenticated
            try:
                found = await self._callers.get(digest)
            except Unauthenticated:
                self._strangers.put(digest, value=True)
                raise
        return found

    def known_caller(self, token: str) -> Caller | None:
        """Who acts with this token if that is at hand."""
        return self._callers.known(token_hash(token))

    def known_profile(self, tenant_id: TenantId) -> Profile | None:
        """What a tenant's attempts go by if that is at hand."""
        return self._profiles.known(tenant_id)

    async def profile(self, tenant_id: TenantId) -> Profile:
        """What a tenant's attempts go by."""
        return await self._profiles.get(tenant_id)

    async def keys(self, tenant_id: TenantId) -> SigningKeys:
        """The keys of a tenant."""
        return (await self.profile(tenant_id)).keys

    async def rotate(self, tenant_id: TenantId) -> SigningKeys:
        """Rotate a tenant's keys; this process signs with the new current one at once."""
        async with self._database.transaction() as connection:
            keys = await tenants.rotate_keys(connection, tenant_id)
            profile = await tenants.profile(connection, tenant_id)
        self._profiles.put(tenant_id, profile)
        return keys

    async def _load_caller(self, digest: bytes) -> Caller:
        async with self._database.connection() as connection:
            found = await tenants.caller(connection, digest)
        if found is None:
            raise Unauthenticated
        return found

    async def _load_profile(self, tenant_id: TenantId) -> Profile:
        async with self._database.connection() as connection:
            return await tenants.profile(connection, tenant_id)


class _Fresh(Generic[K, V]):
    """Values that go stale, in a bounded dictionary."""

    def __init__(self) -> None:
        self._values: dict[K, tuple[float, V]] = {}

    def known(self, key: K) -> V | None:
        entry = self._values.get(key)
        return entry[1] if entry is not None and entry[0] > monotonic() else None

    def put(self, key: K, value: V) -> None:
        if len(self._values) >= _REMEMBERED:
            self._values.clear()
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

    async def _load_and_put(self, key: K) -> V:
        value = await self._load(key)
        self.put(key, value)
        return value

    def _loaded(self, key: K, task: asyncio.Task[V]) -> None:
        del self._loading[key]
        if not task.cancelled():
            task.exception()  # Whoever asked has been told, or has gone.
