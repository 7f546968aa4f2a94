"""Tenants, their tokens (hashed) and their signing keys."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from postroad.domain.ids import random_text
from postroad.domain.tenant import Access, Caller, Profile, SigningKeys, Tenant, TenantId, token_hash
from postroad.store.engine import Connection


async def ensure(connection: Connection, name: str, *, keys: SigningKeys | None = None) -> TenantId:
    """The tenant of this name, made with a pair of keys when there is none."""
    found: int | None = await connection.fetchval("select id from tenants where name = $1", name)
    if found is not None:
        return TenantId(found)
    pair = keys or SigningKeys(random_text("sig_"), random_text("sig_"))
    tenant_id: int = await connection.fetchval(
        "insert into tenants (name) values ($1) on conflict (name) do update set name = excluded.name returning id",
        name,
    )
    await connection.execute(
        "insert into signing_keys (tenant_id, current_key, next_key) values ($1, $2, $3) on conflict do nothing",
        tenant_id,
        pair.current,
        pair.next,
    )
    return TenantId(tenant_id)


async def find(connection: Connection, name: str) -> TenantId | None:
    """The tenant of this name."""
    found: int | None = await connection.fetchval("select id from tenants where name = $1", name)
    return None if found is None else TenantId(found)


async def list_(connection: Connection, name: str | None = None) -> list[Tenant]:
    """All tenants, or the one of this name if there is one, by name."""
    rows = await connection.fetch(
        "select id, name, failure_callback, parallelism from tenants where $1::text is null or name = $1 order by name",
        name,
    )
    return [Tenant(TenantId(row["id"]), row["name"], row["failure_callback"], row["parallelism"]) for row in rows]


async def set_failure_callback(connection: Connection, tenant_id: TenantId, url: str | None) -> None:
    """Where failures are reported from now on of messages that do not say where; None is nowhere."""
    await connection.execute("update tenants set failure_callback = $2 where id = $1", tenant_id, url)


async def add_token(
    connection: Connection, tenant_id: TenantId, token: str, *, name: str, access: Access = Access.FULL
) -> None:
    """Let a token act for a tenant; only its hash is kept. The same token again changes nothing."""
    await connection.execute(
        """
        insert into tokens (tenant_id, name, hash, last_four, access) values ($1, $2, $3, $4, $5)
        on conflict (hash) do nothing
        """,
        tenant_id,
        name,
        token_hash(token),
        token[-4:],
        access.value,
    )


async def caller(connection: Connection, digest: bytes) -> Caller | None:
    """Who acts with the token of this hash."""
    row = await connection.fetchrow("select tenant_id, access from tokens where hash = $1", digest)
    return None if row is None else Caller(TenantId(row["tenant_id"]), Access(row["access"]))


async def has_token(connection: Connection, token: str) -> bool:
    """Whether this token would be accepted."""
    return await connection.fetchval("select true from tokens where hash = $1", token_hash(token)) is True


async def has_tokens(connection: Connection, *, but: Sequence[str] = ()) -> bool:
    """Whether anybody could authenticate, with another token than these."""
    known = [token_hash(token) for token in but]
    return await connection.fetchval("select true from tokens where hash <> all($1::bytea[]) limit 1", known) is True


async def signing_keys(connection: Connection, tenant_id: TenantId) -> SigningKeys:
    """The pair of keys of a tenant."""
    row = await connection.fetchrow("select current_key, next_key from signing_keys where tenant_id = $1", tenant_id)
    assert row is not None
    return SigningKeys(row["current_key"], row["next_key"])


async def profile(connection: Connection, tenant_id: TenantId) -> Profile:
    """What every attempt of a tenant goes by."""
    row = await connection.fetchrow(
        """
        select k.current_key, k.next_key, t.failure_callback
        from signing_keys k join tenants t on t.id = k.tenant_id where k.tenant_id = $1
        """,
        tenant_id,
    )
    assert row is not None
    return Profile(SigningKeys(row["current_key"], row["next_key"]), row["failure_callback"])


async def failure_callbacks(connection: Connection, tenant_ids: Iterable[TenantId]) -> dict[TenantId, str]:
    """Where failures are reported of messages that do not say where, for the tenants that have such a URL."""
    rows = await connection.fetch(
        "select id, failure_callback from tenants where id = any($1::int[]) and failure_callback is not null",
        list(tenant_ids),
    )
    return {TenantId(row["id"]): row["failure_callback"] for row in rows}


async def set_keys(connection: Connection, tenant_id: TenantId, keys: SigningKeys) -> None:
    """Sign with this pair from now on."""
    await connection.execute(
        "update signing_keys set current_key = $2, next_key = $3, rotated_at = now() where tenant_id = $1",
        tenant_id,
        keys.current,
        keys.next,
    )


async def rotate_keys(connection: Connection, tenant_id: TenantId) -> SigningKeys:
    """Make `next` the current key and a new random one the next. Receivers that hold the old pair go on verifying."""
    row = await connection.fetchrow(
        """
        update signing_keys set current_key = next_key, next_key = $2, rotated_at = now()
        where tenant_id = $1 returning current_key, next_key
        """,
        tenant_id,
        random_text("sig_"),
    )
    assert row is not None
    return SigningKeys(row["current_key"], row["next_key"])
