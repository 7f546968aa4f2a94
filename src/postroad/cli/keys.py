"""`postroad keys`: the signing keys are shown, rotated and set."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from postroad import settings
from postroad.cli import output
from postroad.cli.database import unlocked, with_database
from postroad.cli.options import Json
from postroad.cli.tenants import Tenant, check_name, existing
from postroad.errors import Misconfigured

if TYPE_CHECKING:
    from postroad.domain.tenant import SigningKeys

commands = typer.Typer(help="Keys that deliveries are signed with.", no_args_is_help=True)


@commands.command()
def show(
    tenant: Tenant = "default",
    standard_webhooks: Annotated[
        bool, typer.Option("--standard-webhooks", help="As the secrets that libraries for Standard Webhooks take.")
    ] = False,
    json: Json = False,
) -> None:
    """Print the pair of signing keys."""
    from postroad.domain.signature import standard_webhooks_secret
    from postroad.store import tenants

    async def read(url: str) -> SigningKeys:
        async with unlocked(url) as connection:
            return await tenants.signing_keys(connection, await existing(connection, tenant))

    pair = with_database(read)
    if standard_webhooks:
        secrets = [standard_webhooks_secret(key) for key in (pair.current, pair.next)]
        if json:
            output.document(dict(zip(("current", "next"), secrets, strict=True)))
        else:
            typer.echo("\n".join(secrets))
    else:
        _print(pair, json=json)


@commands.command()
def rotate(
    tenant: Tenant = "default",
    force: Annotated[bool, typer.Option("--force", help="Also when the last rotation was a moment ago.")] = False,
    json: Json = False,
) -> None:
    """Make the next signing key the current one, and print the new pair.

    Refused within an hour (POSTROAD_KEY_ROTATION_GUARD) after the last rotation: receivers that have not got the new
    pair by then would be locked out.
    """
    from postroad.production import KEY_ROTATION_GUARD
    from postroad.store import tenants

    chosen = settings.load().key_rotation_guard
    guard = timedelta(0) if force else KEY_ROTATION_GUARD if chosen is None else chosen

    async def change(url: str) -> SigningKeys:
        async with unlocked(url) as connection, connection.transaction():
            return await tenants.rotate_keys(connection, await existing(connection, tenant), guard=guard)

    _print(with_database(change), json=json)


@commands.command("set")
def set_(
    current: Annotated[str, typer.Option(envvar="QSTASH_CURRENT_SIGNING_KEY", help="The key that signs.")],
    following: Annotated[
        str, typer.Option("--next", envvar="QSTASH_NEXT_SIGNING_KEY", help="The key after a rotation.")
    ],
    tenant: Tenant = "default",
) -> None:
    """Sign with keys that receivers hold already, as when coming from QStash. Best left to the environment."""
    from postroad.domain.tenant import SigningKeys
    from postroad.store import tenants

    if current == following or any(
        not key.isascii() or not key.isprintable() or len(key) < 16 for key in (current, following)
    ):
        raise Misconfigured("signing keys are two different texts of at least 16 printable characters")
    check_name(tenant)

    async def change(url: str) -> None:
        async with unlocked(url) as connection, connection.transaction():
            tenant_id = await tenants.ensure(connection, tenant)
            await tenants.set_keys(connection, tenant_id, SigningKeys(current, following))

    with_database(change)


def _print(pair: SigningKeys, *, json: bool) -> None:
    if json:
        output.document({"current": pair.current, "next": pair.next})
        return
    typer.echo(f"QSTASH_CURRENT_SIGNING_KEY={pair.current}\nQSTASH_NEXT_SIGNING_KEY={pair.next}")
