"""Who is signed in to the console: by a token, for as long as that is valid, or as its operator, by the password."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from postroad.domain.tenant import Access, Caller, TenantId
from postroad.store.engine import Connection, affected


@dataclass(frozen=True, slots=True)
class Session:
    """Who acts: a tenant's token, an administrator's, or the operator, who acts for any tenant.

    `tenant` is the name of whose things are looked at, None for an administrator. `actor` is what the audit log calls
    who is signed in. `token_id` is the token's, None for the operator.
    """

    caller: Caller
    tenant: str | None
    actor: str
    is_operator: bool
    token_id: int | None = None


async def begin(
    connection: Connection, digest: bytes, *, token_hash: bytes | None, tenant_id: TenantId | None, lasts: timedelta
) -> bool:
    """Remember a session under the hash of its cookie. False if its token has gone meanwhile."""
    status = await connection.execute(
        """
        insert into sessions (hash, token_id, tenant_id, expires_at)
        select $1, k.id, $3, least(now() + $4::interval, k.expires_at)
        from (select null::bytea as hash) as nobody left join tokens k on k.hash = $2
        where ($2::bytea is null) = (k.id is null)
        """,
        digest,
        token_hash,
        tenant_id,
        lasts,
    )
    return affected(status) == 1


async def find(connection: Connection, digest: bytes) -> Session | None:
    """The session of this cookie, unless it is over, or its token is."""
    row = await connection.fetchrow(
        """
        select s.token_id, k.name as token, k.access, k.last_four, t.id as tenant_id, t.name as tenant,
          t.max_calls_per_second, t.max_messages_per_day, t.destinations
        from sessions s left join tokens k on k.id = s.token_id
        left join tenants t on t.id = coalesce(k.tenant_id, s.tenant_id)
        where s.hash = $1 and s.expires_at > now() and (k.expires_at > now()) is not false
        """,
        digest,
    )
    if row is None:
        return None
    is_operator = row["token_id"] is None
    caller = Caller(
        TenantId(row["tenant_id"] or 0),
        Access.FULL if is_operator else Access(row["access"]),
        row["max_calls_per_second"],
        row["max_messages_per_day"],
        row["destinations"],
    )
    actor = "the operator" if is_operator else f"{row['token']} (token …{row['last_four']})"
    return Session(caller, row["tenant"], actor, is_operator, row["token_id"])


async def is_valid(connection: Connection, session: Session) -> bool:
    """Whether its token may still be used; for what goes on after the visitor has left."""
    return session.token_id is None or await connection.fetchval(
        "select exists (select from tokens where id = $1 and (expires_at > now()) is not false)", session.token_id
    )


async def of_operator(connection: Connection, tenant: str) -> Session | None:
    """The session of an operator who need not sign in, None if there is no such tenant."""
    row = await connection.fetchrow(
        "select id, max_calls_per_second, max_messages_per_day, destinations from tenants where name = $1", tenant
    )
    if row is None:
        return None
    caller = Caller(TenantId(row["id"]), Access.FULL, *list(row)[1:])
    return Session(caller, tenant, "the operator", is_operator=True)


async def turn_to(connection: Connection, digest: bytes, tenant: str) -> bool:
    """Let the operator look at another tenant. False if there is none of this name, or it is no operator."""
    status = await connection.execute(
        """
        update sessions s set tenant_id = t.id from tenants t where s.hash = $1 and s.token_id is null and t.name = $2
        """,
        digest,
        tenant,
    )
    return affected(status) == 1


async def end(connection: Connection, digest: bytes) -> None:
    """Forget a session."""
    await connection.execute("delete from sessions where hash = $1", digest)


async def prune(connection: Connection, *, limit: int) -> int:
    """Delete up to limit sessions that are over; gives how many there were."""
    status = await connection.execute(
        """
        delete from sessions where hash = any(array(
          select hash from sessions where expires_at < now() limit $1 for update skip locked))
        """,
        limit,
    )
    return affected(status)


async def password(connection: Connection) -> str | None:
    """The hash of the operator's password, None if there is none."""
    found: str | None = await connection.fetchval("select hash from console_passwords")
    return found


async def set_password(connection: Connection, hashed: str) -> None:
    """Let the operator sign in with another password, and with no other; who is signed in has to do so again."""
    await connection.execute(
        """
        insert into console_passwords (hash) values ($1)
        on conflict (singleton) do update set hash = excluded.hash, created_at = now()
        """,
        hashed,
    )
    await connection.execute("delete from sessions where token_id is null")
