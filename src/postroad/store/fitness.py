"""Whether a server is one that may be given what is acknowledged."""

from __future__ import annotations

from postroad.errors import Misconfigured
from postroad.store.connecting import Connection

MINIMUM_VERSION = 14


async def check_fitness(connection: Connection) -> None:
    """Refuse a server that is too old, or that may forget what it acknowledged."""
    version = connection.get_server_version()
    if version.major < MINIMUM_VERSION:
        raise Misconfigured(f"PostgreSQL {MINIMUM_VERSION} or newer is needed, this server is {version.major}")
    unsafe = [
        name
        for name in ("fsync", "full_page_writes", "synchronous_commit")
        if await connection.fetchval("select current_setting($1)", name) == "off"
    ]
    if unsafe:
        raise Misconfigured(
            f"{', '.join(f'{name}=off' for name in unsafe)} in this PostgreSQL server: acknowledged messages could be "
            "lost in a crash; turn it on for the server, the database and the role"
        )
