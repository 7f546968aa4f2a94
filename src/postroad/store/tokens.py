"""Tokens: whose they are, what they may do, until when, and when they were used. Only their hashes are stored."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta

from postroad.domain.tenant import NO_TENANT, Access, Caller, TenantId, Token, token_hash
from postroad.store.engine import Connection

USES_NOTED_EVERY = timedelta(minutes=1)
"""How often a token's last use is written, over all nodes."""


@dataclass(frozen=True, slots=True)
class Known:
    """A token that is valid, and whether its last use should be written anew."""

    id: int
    caller: Caller
    is_use_old: bool


async def add(
    connection: Connection,
    tenant_id: TenantId | None,
    token: str,
    *,
    name: str,
    access: Access = Access.FULL,
    valid_for: timedelta | None = None,
) -> int | None:
    """Let a token act for a tenant, or an admin one for nobody; only its hash is kept.

    Gives its id. The same token again changes nothing, and one that was revoked stays so: None then.
    """
    digest = token_hash(token)
    if await is_revoked(connection, digest):
        return None
    found: int | None = await connection.fetchval(
        """
        insert into tokens (tenant_id, name, hash, last_four, access) values ($1, $2, $3, $4, $5)
        on conflict (hash) do nothing returning id
        """,
        tenant_id,
        name,
        digest,
        token[-4:],
        access.value,
    )
    if found is not None and valid_for is not None:
        await connection.execute("update tokens set expires_at = now() + $2::interval where id = $1", found, valid_for)
    return found


async def known(connection: Connection, digests: Collection[bytes]) -> dict[bytes, Known]:
    """What is known of the valid tokens among those with these hashes."""
    rows = await connection.fetch(
        """
        select k.hash, k.id, k.tenant_id, k.access, (k.used_at < now() - $2::interval) is not false as is_use_old,
          t.max_calls_per_second, t.max_messages_per_day, t.destinations
        from tokens k left join tenants t on t.id = k.tenant_id
        where k.hash = any($1::bytea[]) and (k.expires_at > now()) is not false
        """,
        list(digests),
        USES_NOTED_EVERY,
    )
    return {
        row["hash"]: Known(
            row["id"],
            Caller(
                NO_TENANT if row["tenant_id"] is None else TenantId(row["tenant_id"]),
                Access(row["access"]),
                row["max_calls_per_second"],
                row["max_messages_per_day"],
                row["destinations"],
            ),
            row["is_use_old"],
        )
        for row in rows
    }


async def note_use(connection: Connection, ids: Collection[int]) -> None:
    """Write that tokens were used just now, unless another node has done so a moment ago."""
    await connection.execute(
        """
        update tokens set used_at = now()
        where id = any($1::bigint[]) and (used_at < now() - $2::interval) is not false
        """,
        list(ids),
        USES_NOTED_EVERY,
    )


async def list_(
    connection: Connection, *, tenant_id: TenantId | None = None, token_id: int | None = None
) -> list[Token]:
    """All tokens, those of a tenant, or one of them, the oldest first."""
    rows = await connection.fetch(
        """
        select k.id, t.name as tenant, k.name, k.access, k.last_four, k.created_at, k.expires_at, k.used_at
        from tokens k left join tenants t on t.id = k.tenant_id
        where ($1::int is null or k.tenant_id = $1) and ($2::bigint is null or k.id = $2)
        order by k.id
        """,
        tenant_id,
        token_id,
    )
    return [
        Token(
            row["id"],
            row["tenant"],
            row["name"],
            Access(row["access"]),
            row["last_four"],
            row["created_at"],
            row["expires_at"],
            row["used_at"],
        )
        for row in rows
    ]


async def revoke(connection: Connection, token_id: int, *, tenant_id: TenantId | None = None) -> bytes | None:
    """Accept a token no more, and never again; gives its hash, None if there is none (of this tenant)."""
    found: bytes | None = await connection.fetchval(
        """
        with gone as (
          delete from tokens where id = $1 and ($2::int is null or tenant_id = $2) returning hash),
        remembered as (
          insert into revoked_tokens (hash) select hash from gone on conflict do nothing)
        select hash from gone
        """,
        token_id,
        tenant_id,
    )
    return found


async def is_revoked(connection: Connection, digest: bytes) -> bool:
    """Whether the token of this hash was revoked."""
    return await connection.fetchval("select true from revoked_tokens where hash = $1", digest) is True


async def exists(connection: Connection, token: str) -> bool:
    """Whether this token is there, expired or not."""
    return await connection.fetchval("select true from tokens where hash = $1", token_hash(token)) is True


async def any_exists(connection: Connection, *, but: Sequence[str] = ()) -> bool:
    """Whether anybody could authenticate, with another token than these."""
    hashes = [token_hash(token) for token in but]
    return await connection.fetchval("select true from tokens where hash <> all($1::bytea[]) limit 1", hashes) is True
