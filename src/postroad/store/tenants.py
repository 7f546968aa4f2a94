"""Tenants, what is set for them, and their signing keys."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from sqlalchemy import update

from postroad.domain.ids import random_text
from postroad.domain.tenant import Profile, SigningKeys, Tenant, TenantId
from postroad.domain.tenant_settings import TenantSettings
from postroad.errors import RotatedRecently
from postroad.store import tables
from postroad.store.engine import Connection, run, vault_of
from postroad.store.sealing import open_keys, seal_keys


async def ensure(connection: Connection, name: str, *, keys: SigningKeys | None = None) -> TenantId:
    """The tenant of this name, made with a pair of keys when there is none."""
    found = await find(connection, name) or await add(connection, name, keys=keys) or await find(connection, name)
    assert found is not None
    return found


async def add(connection: Connection, name: str, *, keys: SigningKeys | None = None) -> TenantId | None:
    """A new tenant with a pair of keys; None if there is one of this name, also if somebody else makes it just now."""
    found: int | None = await connection.fetchval(
        "insert into tenants (name) values ($1) on conflict (name) do nothing returning id", name
    )
    if found is None:
        return None
    pair = keys or SigningKeys(random_text("sig_"), random_text("sig_"))
    await connection.execute(
        "insert into signing_keys (tenant_id, current_key, next_key, sealed) values ($1, $2, $3, $4)",
        found,
        *seal_keys(vault_of(connection), pair, TenantId(found)),
    )
    return TenantId(found)


async def find(connection: Connection, name: str) -> TenantId | None:
    """The tenant of this name."""
    found: int | None = await connection.fetchval("select id from tenants where name = $1", name)
    return None if found is None else TenantId(found)


async def list_(connection: Connection, name: str | None = None) -> list[Tenant]:
    """All tenants, or the one of this name if there is one, by name."""
    rows = await connection.fetch(
        """
        select id, name, created_at, failure_callback, parallelism, destinations, max_calls_per_second,
          max_messages_per_day
        from tenants where $1::text is null or name = $1 order by name
        """,
        name,
    )
    return [Tenant(**row) for row in rows]


async def change(connection: Connection, tenant_id: TenantId, settings: TenantSettings) -> None:
    """Set what is given for a tenant, the parallelism aside, which takes more than a column; see `parallelism`."""
    await run(connection, update(tables.tenants).where(tables.tenants.c.id == tenant_id).values(settings))


async def signing_keys(connection: Connection, tenant_id: TenantId) -> SigningKeys:
    """The pair of keys of a tenant."""
    row = await connection.fetchrow(
        "select current_key, next_key, sealed from signing_keys where tenant_id = $1", tenant_id
    )
    assert row is not None
    return open_keys(vault_of(connection), row, tenant_id)


async def profile(connection: Connection, tenant_id: TenantId) -> Profile:
    """What every attempt of a tenant goes by. Raises `LookupError` when there is no such tenant."""
    row = await connection.fetchrow(
        """
        select k.current_key, k.next_key, k.sealed, t.failure_callback, t.destinations
        from signing_keys k join tenants t on t.id = k.tenant_id where k.tenant_id = $1
        """,
        tenant_id,
    )
    if row is None:
        raise LookupError(f"there is no tenant {tenant_id}")
    return Profile(open_keys(vault_of(connection), row, tenant_id), row["failure_callback"], row["destinations"])


async def failure_callbacks(connection: Connection, tenant_ids: Iterable[TenantId]) -> dict[TenantId, str]:
    """Where failures are reported of messages that do not say where, for the tenants that have such a URL."""
    rows = await connection.fetch(
        "select id, failure_callback from tenants where id = any($1::int[]) and failure_callback is not null",
        list(tenant_ids),
    )
    return {TenantId(row["id"]): row["failure_callback"] for row in rows}


async def set_keys(connection: Connection, tenant_id: TenantId, keys: SigningKeys) -> None:
    """Sign with this pair from now on. Receivers hold it already, so it may be rotated at any time."""
    await connection.execute(
        "update signing_keys set current_key = $2, next_key = $3, sealed = $4, rotated_at = null where tenant_id = $1",
        tenant_id,
        *seal_keys(vault_of(connection), keys, tenant_id),
    )


async def rotate_keys(connection: Connection, tenant_id: TenantId, *, guard: timedelta = timedelta(0)) -> SigningKeys:
    """Make `next` the current key and a new random one the next. Receivers that hold the old pair go on verifying.

    Those that hold the one before that do not: raises `RotatedRecently` when less than `guard` has passed since.
    """
    row = await connection.fetchrow(
        """
        select current_key, next_key, sealed, rotated_at, rotated_at > now() - $2::interval as is_recent
        from signing_keys where tenant_id = $1 for update
        """,
        tenant_id,
        guard,
    )
    assert row is not None
    if guard and row["is_recent"]:
        raise RotatedRecently(row["rotated_at"], row["rotated_at"] + guard)
    # Not in SQL: a key is sealed for its column, and sealed anew when it moves.
    keys = SigningKeys(open_keys(vault_of(connection), row, tenant_id).next, random_text("sig_"))
    await connection.execute(
        "update signing_keys set current_key = $2, next_key = $3, sealed = $4, rotated_at = now() where tenant_id = $1",
        tenant_id,
        *seal_keys(vault_of(connection), keys, tenant_id),
    )
    return keys
