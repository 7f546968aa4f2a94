"""Tenants, their tokens (hashed) and their signing keys."""

from __future__ import annotations

from collections.abc import Sequence

from postroad.domain.ids import random_text
from postroad.domain.tenant import Access, Caller, SigningKeys, TenantId, token_hash
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
