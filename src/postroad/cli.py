"""The command line: dev, serve, migrate, config, token and keys."""

from __future__ import annotations

import asyncio
import secrets
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from postroad import __version__, settings, telemetry
from postroad.errors import Misconfigured, PostroadError

cli = typer.Typer(
    help="Postroad: HTTP message delivery on Postgres, compatible with QStash.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
token_cli = typer.Typer(help="Tokens that publishers authenticate with.", no_args_is_help=True)
keys_cli = typer.Typer(help="Keys that deliveries are signed with.", no_args_is_help=True)
cli.add_typer(token_cli, name="token")
cli.add_typer(keys_cli, name="keys")

T = TypeVar("T")

Tenant = Annotated[str, typer.Option(help="Name of the tenant.")]


def main() -> None:
    """The entry point: what an operator can cause is told in one sentence, with exit code 1."""
    try:
        cli()
    except PostroadError as error:
        print(f"postroad: {error}", file=sys.stderr)  # noqa: T201  the command line's own output
        sys.exit(1)


@cli.command()
def dev(
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where the embedded PostgreSQL keeps its data.")] = None,
) -> None:
    """Run everything on this machine, with a PostgreSQL of its own and QStash's public development tokens."""
    from postroad import dev as development

    chosen = settings.load(port=port, host=host, data_dir=data_dir)
    telemetry.configure(level=chosen.log_level, json=chosen.log_format == "json", deliveries=True)
    development.run(chosen, announce=typer.echo)


@cli.command()
def serve(
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    roles: Annotated[str | None, typer.Option(help="What this node does: api, dispatcher or both.")] = None,
    workers: Annotated[int | None, typer.Option(help="Number of processes.")] = None,
) -> None:
    """Run in production, on the PostgreSQL of POSTROAD_DATABASE_URL."""
    from postroad import production

    chosen = settings.load(port=port, host=host, roles=roles, workers=workers)
    telemetry.configure(level=chosen.log_level, json=chosen.log_format != "text")
    production.run(chosen, announce=lambda address: typer.echo(f"Postroad is running at {address}"))


@cli.command()
def migrate() -> None:
    """Bring the database of POSTROAD_DATABASE_URL to this version's schema."""
    from postroad.store import migrations

    chosen = settings.load()
    if chosen.database_url is None:
        raise Misconfigured("migrate needs POSTROAD_DATABASE_URL; `postroad dev` migrates its own database by itself")
    before = asyncio.run(migrations.migrate(chosen.database_url.get_secret_value()))
    after = migrations.newest()
    typer.echo(
        f"The schema is at {after}." if before == after else f"The schema went from {before or 'nothing'} to {after}."
    )


@cli.command()
def config() -> None:
    """Print the effective settings, secrets masked."""
    for name, value, meaning in settings.shown(settings.load()):
        typer.echo(f"{name}={value}".ljust(48) + f"  # {meaning}")


@cli.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


@token_cli.command("create")
def token_create(
    tenant: Tenant = "default",
    name: Annotated[str, typer.Option(help="What the token is for.")] = "cli",
    access: Annotated[str, typer.Option(help="full, read-only or publish-only.")] = "full",
) -> None:
    """Make a token and print it: it cannot be shown again. The tenant is made when there is none of that name."""
    from postroad.domain.tenant import Access
    from postroad.store import tenants
    from postroad.store.engine import connected

    if access not in set(Access):
        raise Misconfigured(f"--access must be one of {', '.join(Access)}, not {access}")
    token = f"pr_{secrets.token_urlsafe(32)}"

    async def create(url: str) -> None:
        async with connected(url) as connection, connection.transaction():
            tenant_id = await tenants.ensure(connection, tenant)
            await tenants.add_token(connection, tenant_id, token, name=name, access=Access(access))

    _with_database(create)
    typer.echo(token)


@keys_cli.command("rotate")
def keys_rotate(tenant: Tenant = "default") -> None:
    """Make the next signing key the current one, and print the new pair."""
    from postroad.store import tenants
    from postroad.store.engine import connected

    async def rotate(url: str) -> Any:
        async with connected(url) as connection, connection.transaction():
            tenant_id = await tenants.find(connection, tenant)
            if tenant_id is None:
                raise Misconfigured(f"there is no tenant {tenant}")
            return await tenants.rotate_keys(connection, tenant_id)

    keys = _with_database(rotate)
    typer.echo(f"QSTASH_CURRENT_SIGNING_KEY={keys.current}\nQSTASH_NEXT_SIGNING_KEY={keys.next}")


def _with_database(work: Callable[[str], Awaitable[T]]) -> T:
    """Run database work on the configured server, else on the embedded one of `dev`, whether that runs or not."""
    from postroad.dev import database_url
    from postroad.store import embedded, migrations
    from postroad.store.engine import connected

    async def run(url: str) -> T:
        async with connected(url) as connection:
            await migrations.check(connection)
        return await work(url)

    chosen = settings.load()
    if chosen.database_url is None:
        if not chosen.data_dir.exists():
            raise Misconfigured(
                "set POSTROAD_DATABASE_URL; without it this works on the database of `postroad dev`, and there is none "
                f"in {chosen.data_dir}"
            )
        typer.echo(f"On the database of `postroad dev` in {chosen.data_dir}:", err=True)
    if chosen.database_url is None and (url := embedded.url_in_use(chosen.data_dir)) is not None:
        return asyncio.run(run(url))
    with database_url(chosen) as url:
        return asyncio.run(run(url))
