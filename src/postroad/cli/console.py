"""`postroad console`: who may open it in a browser besides the holders of tokens."""

from __future__ import annotations

import typer

from postroad.cli import output
from postroad.cli.database import with_database
from postroad.cli.options import Json

commands = typer.Typer(help="The console in the browser.", no_args_is_help=True)


@commands.callback()
def _group() -> None:
    """Keep the name of the only command."""


@commands.command()
def password(json: Json = False) -> None:
    """Make a new password for the operator and print it, this once. The one before is over, and so are its sessions."""
    from postroad.console.passwords import hashed, new_password
    from postroad.store import sessions
    from postroad.store.engine import connected

    chosen = new_password()

    async def store(url: str) -> None:
        async with connected(url) as connection, connection.transaction():
            await sessions.set_password(connection, hashed(chosen))

    with_database(store)
    if json:
        output.document({"password": chosen})
    else:
        typer.echo(chosen)
