"""`postroad dev`: one process, a PostgreSQL of its own, and the public users of QStash's development server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

from postroad import app
from postroad.domain.tenant import SigningKeys
from postroad.errors import Misconfigured
from postroad.settings import Settings
from postroad.store import data_keys, dispatchers, embedded, migrations, tenants, tokens
from postroad.store.engine import connected
from postroad.vault import MasterKey

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DevUser:
    """A user whose token and keys are public constants, documented by QStash for everybody's local tests."""

    tenant: str
    token: str
    keys: SigningKeys


DEV_USERS = (
    DevUser(
        "default",
        "eyJVc2VySUQiOiJkZWZhdWx0VXNlciIsIlBhc3N3b3JkIjoiZGVmYXVsdFBhc3N3b3JkIn0=",
        SigningKeys("sig_7kYjw48mhY7kAjqNGcy6cr29RJ6r", "sig_5ZB6DVzB1wjE8S6rZ7eenA8Pdnhs"),
    ),
    DevUser(
        "testUser1",
        "eyJVc2VySUQiOiJ0ZXN0VXNlcjEiLCJQYXNzd29yZCI6InRlc3RQYXNzd29yZCJ9",
        SigningKeys("sig_7GVPjvuwsfqF65iC8fSrs1dfYruM", "sig_5NoELc3EFnZn4DVS5bDs2Nk4b7Ua"),
    ),
    DevUser(
        "testUser2",
        "eyJVc2VySUQiOiJ0ZXN0VXNlcjIiLCJQYXNzd29yZCI6InRlc3RQYXNzd29yZCJ9",
        SigningKeys("sig_6jWGaWRxHsw4vMSPJprXadyvrybF", "sig_7qHbvhmahe5GwfePDiS5Lg3pi6Qx"),
    ),
    DevUser(
        "testUser3",
        "eyJVc2VySUQiOiJ0ZXN0VXNlcjMiLCJQYXNzd29yZCI6InRlc3RQYXNzd29yZCJ9",
        SigningKeys("sig_5T8FcSsynBjn9mMLBsXhpacRovJf", "sig_7GFR4YaDshFcqsxWRZpRB161jguD"),
    ),
)


def run(settings: Settings, announce: Callable[[str], None]) -> None:
    """Serve until told to stop. `announce` gets what to print once requests are accepted."""
    listener = app.listen(settings.host, settings.port)
    host, port = listener.getsockname()[:2]
    address = f"http://{host if ':' not in host else f'[{host}]'}:{port}"
    chosen = settings.model_copy(
        update={"destinations": settings.destinations or "any", "public_url": settings.public_url or address}
    )
    configured = settings.database_url
    database = nullcontext(configured.get_secret_value()) if configured else embedded.running(settings.data_dir)
    with listener, database as url:
        keys = asyncio.run(
            prepare(
                url,
                alone=settings.database_url is None,
                walled=settings.row_level_security,
                masters=settings.master_keys(),
            )
        )
        app.serve(chosen, url, listener, lambda: announce(announcement(address, keys)), dev=True)


def announcement(address: str, keys: SigningKeys) -> str:
    """What to paste into a shell or a .env file, and the line that clients wait for."""
    return (
        f"\nQSTASH_URL={address}\n"
        f"QSTASH_TOKEN={DEV_USERS[0].token}\n"
        f"QSTASH_CURRENT_SIGNING_KEY={keys.current}\n"
        f"QSTASH_NEXT_SIGNING_KEY={keys.next}\n\n"
        f"Postroad is running at {address}"
    )


async def prepare(
    url: str, *, alone: bool = False, walled: bool = True, masters: Sequence[MasterKey] = ()
) -> SigningKeys:
    """Migrate, and make the public users; gives the keys of the first one.

    Who is `alone` with the database knows that whatever was being delivered is being delivered no more. A database of
    somebody else's is refused: it would be open to everybody who knows the public tokens.
    """
    await migrations.migrate(url, walled=walled)
    async with connected(url) as connection, connection.transaction():
        await data_keys.unlock(connection, masters)
        if not alone and await tokens.any_exists(connection, but=[user.token for user in DEV_USERS]):
            raise Misconfigured(
                "this database has tokens of its own, and `dev` would open it to the public development tokens: use "
                "`postroad serve`, or unset POSTROAD_DATABASE_URL"
            )
        if alone:
            await dispatchers.declare_all_dead(connection)
        for user in DEV_USERS:
            tenant_id = await tenants.ensure(connection, user.tenant, keys=user.keys)
            await tokens.add(connection, tenant_id, user.token, name="public development token")
        first = await tenants.find(connection, DEV_USERS[0].tenant)
        assert first is not None
        return await tenants.signing_keys(connection, first)
