"""Connections to PostgreSQL: to the one server of a URL that takes writes, directly or through a pooler."""

from __future__ import annotations

import asyncio
import os
import re
import socket
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from postroad.errors import Misconfigured
from postroad.vault import PLAIN, Vault

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"
Row: TypeAlias = asyncpg.Record

CALL_DEADLINE_S = 10.0
"""Every call has this deadline on the client: a statement_timeout would not bound a commit that waits for a standby."""

_HOST_DEADLINE_S = 3.0
"""How long one host of several may take, or one that swallows packets would keep us from the next."""

UNREACHABLE = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""What `connect` raises when there is no connection to be had; the last one of a server that is only a standby."""

POOLER = "pgbouncer"
"""`?pgbouncer=true` in the URL: what it leads to gives each transaction another server connection."""

_SESSION = {
    "default_transaction_isolation": "read committed",
    "idle_in_transaction_session_timeout": "60s",
    "lock_timeout": "8s",
    "jit": "off",
}
"""A pooler would refuse them, so there the role must have them; see docs/operations.md."""


def is_pooled(url: str) -> bool:
    """Whether the URL says that it leads to a pooler in transaction mode."""
    return dict(parse_qsl(urlsplit(url).query)).get(POOLER, "").lower() in {"true", "yes", "on", "1"}


def places(url: str) -> list[tuple[str, int]]:
    """Hosts and ports that the URL names; none of a Unix socket, and none that only the environment knows."""
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    named = query.get("host") or parts.netloc.rpartition("@")[2]
    ports = query.get("port", "").split(",")
    found = []
    for number, text in enumerate(named.split(",")):
        if not text or text.startswith("/"):
            continue
        host, _, port = text.rpartition(":") if _HAS_PORT.search(text) else (text, "", "")
        port = port or ports[min(number, len(ports) - 1)] or "5432"
        if port.isdigit():
            found.append((unquote(host).strip("[]"), int(port)))
    return found


async def connect(url: str, **options: Any) -> asyncpg.Connection[asyncpg.Record]:
    """A connection to the first host of the URL that takes writes. Raises what asyncpg raises.

    With several hosts, the one that answered last is asked first. A standby is passed over, unless the URL has
    `target_session_attrs`.
    """
    hosts = _by_host(url)
    errors: list[Exception] = []
    for host in sorted(hosts, key=lambda host: host != _last_good.get(url)):
        try:
            async with asyncio.timeout(None if len(hosts) == 1 else _HOST_DEADLINE_S):
                connection: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(host, **_options(url) | options)
        except UNREACHABLE as error:
            if _last_good.get(url) == host:
                del _last_good[url]
            errors.append(error)
        else:
            _last_good[url] = host
            return connection
    raise errors[0]


async def open_pool(url: str, *, most: int, vault: Vault = PLAIN) -> asyncpg.Pool[asyncpg.Record]:
    """A pool of up to so many of such connections, which are opened when they are needed, and share a vault."""

    async def open_one(_: str, **options: Any) -> asyncpg.Connection[asyncpg.Record]:
        return with_vault(await connect(url, **options), vault)

    create_pool: Any = asyncpg.create_pool  # its stubs do not know `connect`
    pool: asyncpg.Pool[asyncpg.Record] = await create_pool(
        url,
        connect=open_one,
        connection_class=_Pooled if is_pooled(url) else _Direct,
        min_size=0,
        max_size=most,
        reset=_leave_as_it_is,
        timeout=CALL_DEADLINE_S,
        command_timeout=CALL_DEADLINE_S,
        server_settings=_options(url)["server_settings"] | ({} if is_pooled(url) else _SESSION),
    )
    return pool


def sqlalchemy_engine(url: str) -> AsyncEngine:
    """For migrations, which are SQLAlchemy's: an engine whose connections are such, each new."""
    # Needed for nothing else, and slow to import.
    from sqlalchemy.ext.asyncio import create_async_engine
    from sqlalchemy.pool import NullPool

    return create_async_engine(
        "postgresql+asyncpg://", async_creator=partial(connect, url, command_timeout=None), poolclass=NullPool
    )


def unreachable(error: BaseException) -> Misconfigured:
    """Why there is no connection to be had, for an operator; never with what the URL holds."""
    words = str(error).partition("\n")[0] or "no answer in time"
    if isinstance(error, ValueError) and not isinstance(error, asyncpg.InterfaceError):
        # Of a URL with a password as it is, Python's parsers take a part for the port, and quote it.
        words = "its URL cannot be read, write % / ? # @ : [ ] in a password as %25 %2F %3F %23 %40 %3A %5B %5D"
    return Misconfigured(f"cannot connect to the database: {words}")


def with_vault(connection: asyncpg.Connection[asyncpg.Record], vault: Vault) -> asyncpg.Connection[asyncpg.Record]:
    """The connection, on which secrets are sealed and opened by this vault."""
    assert isinstance(connection, _Direct)
    connection.vault = vault
    return connection


def vault_of(connection: Connection) -> Vault:
    """What seals and opens the secrets that go over this connection. One that is not of here stores them plain."""
    vault: Vault = getattr(connection, "vault", PLAIN)
    return vault


_HAS_PORT = re.compile(r":[0-9]+\Z")

_last_good: dict[str, str] = {}


class _Direct(asyncpg.Connection[asyncpg.Record] if TYPE_CHECKING else asyncpg.Connection):  # type: ignore[misc]
    """A connection that knows how secrets are stored where it leads."""

    vault: Vault = PLAIN


class _Pooled(_Direct):
    """A connection through a pooler: what is prepared in one transaction is not there in the next one.

    The driver sends a statement in two steps, so it needs a transaction around both. All that takes arguments or gives
    rows comes through this method; BEGIN and COMMIT do not.
    """

    async def _execute(self, *arguments: Any, **options: Any) -> Any:
        if self.is_in_transaction():
            return await super()._execute(*arguments, **options)
        async with self.transaction():
            return await super()._execute(*arguments, **options)


def _by_host(url: str) -> Sequence[str]:
    """One URL for each host of a URL, without what only we understand."""
    parts = urlsplit(url)
    query = urlencode([(name, value) for name, value in parse_qsl(parts.query) if name != POOLER])
    user, at, hosts = parts.netloc.rpartition("@")
    return [urlunsplit(parts._replace(netloc=f"{user}{at}{host}", query=query)) for host in hosts.split(",")]


def _options(url: str) -> dict[str, Any]:
    options: dict[str, Any] = {
        "connection_class": _Direct,
        "timeout": CALL_DEADLINE_S,
        "command_timeout": CALL_DEADLINE_S,
        "server_settings": {"application_name": f"postroad@{socket.gethostname()[:40]}:{os.getpid()}"},
    }
    if "target_session_attrs" not in dict(parse_qsl(urlsplit(url).query)):
        options["target_session_attrs"] = "read-write"
    if is_pooled(url):
        options |= {"statement_cache_size": 0, "connection_class": _Pooled}
    return options


async def _leave_as_it_is(_: Connection) -> None:
    """No statement sets anything beyond its transaction, so a connection needs no reset and no round trip for it."""
