"""The command line: a server is run and looked after, and messages are sent, looked at and changed over its API."""

from __future__ import annotations

import asyncio
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated

import typer

from postroad import __version__, settings, telemetry
from postroad.cli import (
    apply,
    console,
    dev_clock,
    dlq,
    doctor,
    encryption,
    flow,
    groups,
    keys,
    logs,
    messages,
    output,
    publishing,
    queues,
    schedules,
    status,
    tenants,
    tokens,
    top,
    verify,
)
from postroad.cli.exits import MEANINGS, ExitCode
from postroad.cli.options import BadOption, Json
from postroad.cli.remote import Unreachable
from postroad.errors import Misconfigured, PostroadError

_RUN, _SEND, _LOOK, _MANAGE = "Run a server", "Send", "Look", "Manage what is there"

cli = typer.Typer(
    help="Postroad: HTTP message delivery on Postgres, compatible with QStash.",
    epilog=MEANINGS,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
cli.command(rich_help_panel=_SEND)(publishing.publish)
cli.command(rich_help_panel=_SEND)(publishing.enqueue)
cli.command(rich_help_panel=_SEND)(publishing.batch)
cli.command(rich_help_panel=_LOOK)(status.status)
cli.command(rich_help_panel=_LOOK)(messages.messages)
cli.command(rich_help_panel=_LOOK)(messages.message)
cli.command(rich_help_panel=_LOOK)(logs.logs)
cli.command(rich_help_panel=_LOOK)(top.top)
cli.command(rich_help_panel=_LOOK)(verify.verify)
cli.command(rich_help_panel=_MANAGE)(messages.edit)
cli.command(rich_help_panel=_MANAGE)(messages.cancel)
cli.command(rich_help_panel=_MANAGE)(apply.apply)
cli.command("import", rich_help_panel=_MANAGE)(apply.import_)
cli.add_typer(dlq.commands, name="dlq", rich_help_panel=_MANAGE)
cli.add_typer(queues.commands, name="queues", rich_help_panel=_MANAGE)
cli.add_typer(groups.commands, name="groups", rich_help_panel=_MANAGE)
cli.add_typer(flow.commands, name="flow", rich_help_panel=_MANAGE)
cli.add_typer(schedules.commands, name="schedules", rich_help_panel=_MANAGE)
cli.add_typer(dev_clock.commands, name="clock", rich_help_panel=_MANAGE)
cli.command(rich_help_panel=_RUN)(doctor.doctor)
cli.add_typer(tenants.commands, name="tenant", rich_help_panel=_RUN)
cli.add_typer(tokens.commands, name="token", rich_help_panel=_RUN)
cli.add_typer(keys.commands, name="keys", rich_help_panel=_RUN)
cli.add_typer(console.commands, name="console", rich_help_panel=_RUN)
cli.add_typer(encryption.commands, name="encryption", rich_help_panel=_RUN)


def main() -> None:
    """The entry point: what its user can cause is told in one sentence, with an exit code of `exits`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # A locale that cannot write a letter shows its number.
    try:
        cli(prog_name="postroad")
    except PostroadError as error:
        # What a server says may hold what a terminal would obey.
        print(f"postroad: {output.harmless(str(error))}", file=sys.stderr)  # noqa: T201  the command line's own output
        sys.exit(_code(error))


def _code(error: PostroadError) -> ExitCode:
    match error:
        case BadOption():
            return ExitCode.USAGE
        case Unreachable():
            return ExitCode.UNREACHABLE
        case _:
            return ExitCode.REFUSED


@cli.command(rich_help_panel=_RUN)
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


@cli.command(rich_help_panel=_RUN)
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
    production.run(
        chosen,
        announce=lambda address: typer.echo(f"Postroad is running at {address}"),
        say_password=lambda password: typer.echo(
            f"\nNobody can sign in yet, so there is a password now for the operator's console:\n\n    {password}\n\n"
            "It is printed this once; `postroad console password` makes another one.\n"
        ),
    )


@cli.command(rich_help_panel=_RUN)
def migrate(json: Json = False) -> None:
    """Bring the database of POSTROAD_DATABASE_URL to this version's schema."""
    from postroad.store import migrations

    chosen = settings.load()
    if chosen.database_url is None:
        raise Misconfigured("migrate needs POSTROAD_DATABASE_URL; `postroad dev` migrates its own database by itself")
    url = chosen.database_url.get_secret_value()
    before = asyncio.run(migrations.migrate(url, walled=chosen.row_level_security))
    after = migrations.newest()
    if json:
        output.document({"before": before, "after": after})
        return
    typer.echo(
        f"The schema is at {after}." if before == after else f"The schema went from {before or 'nothing'} to {after}."
    )


@cli.command(rich_help_panel=_RUN)
def config(json: Json = False) -> None:
    """Print the effective settings, secrets masked."""
    if json:
        output.document({name: value for name, value, _ in settings.shown(settings.load())})
        return
    for name, value, meaning in settings.shown(settings.load()):
        typer.echo(f"{name}={value}".ljust(48) + f"  # {meaning}")


@cli.command(rich_help_panel=_RUN)
def version(json: Json = False) -> None:
    """Print the version."""
    if json:
        output.document({"version": __version__})
    else:
        typer.echo(__version__)
