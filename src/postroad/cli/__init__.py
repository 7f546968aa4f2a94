"""The command line: dev, serve, migrate, config, tenant, token, keys and encryption."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer

from postroad import __version__, settings, telemetry
from postroad.cli import encryption, keys, tenants, tokens
from postroad.errors import Misconfigured, PostroadError

cli = typer.Typer(
    help="Postroad: HTTP message delivery on Postgres, compatible with QStash.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
cli.add_typer(tenants.commands, name="tenant")
cli.add_typer(tokens.commands, name="token")
cli.add_typer(keys.commands, name="keys")
cli.add_typer(encryption.commands, name="encryption")


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
    url = chosen.database_url.get_secret_value()
    before = asyncio.run(migrations.migrate(url, walled=chosen.row_level_security))
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
