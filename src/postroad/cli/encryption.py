"""`postroad encryption`: the keys that secrets in the database are sealed with."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

import typer

from postroad import settings
from postroad.cli import output
from postroad.cli.database import with_database
from postroad.cli.options import Json
from postroad.errors import Misconfigured

if TYPE_CHECKING:
    from postroad.store.data_keys import DataKey
    from postroad.store.engine import Connection
    from postroad.vault import MasterKey

T = TypeVar("T")

commands = typer.Typer(help="Keys that secrets in the database are sealed with.", no_args_is_help=True)


@commands.command()
def show(json: Json = False) -> None:
    """Print the data keys, each with the fingerprint of its master key, and those of the master keys that are set."""
    from postroad.store import data_keys
    from postroad.store.engine import connected

    async def read(url: str) -> list[DataKey]:
        async with connected(url) as connection:
            return await data_keys.list_(connection)

    found, given = with_database(read), settings.load().master_keys()
    if json:
        keys = [{"dataKey": one.number, "masterKey": one.master, "sealsNewRows": one.is_used} for one in found]
        output.document({"dataKeys": keys, "given": [master.fingerprint for master in given]})
        return
    for one in found:
        typer.echo(f"data-key={one.number}\tmaster-key={one.master}\tseals={'new rows' if one.is_used else 'old rows'}")
    for number, master in enumerate(given):
        typer.echo(f"given={master.fingerprint}\twraps={'no data keys' if number else 'new data keys'}")


@commands.command()
def renew(json: Json = False) -> None:
    """Make a data key for rows that are new half a minute from now on. Old rows keep theirs."""
    from postroad.store import data_keys

    number = _with_masters(data_keys.renew)
    if json:
        output.document({"dataKey": number})
    else:
        typer.echo(f"New rows will be sealed with data key {number}.")


@commands.command()
def rewrap(json: Json = False) -> None:
    """Wrap all data keys with the first of the master keys, so that the others can be taken out of the setting."""
    from postroad.store import data_keys

    count = _with_masters(data_keys.rewrap)
    if json:
        output.document({"wrapped": count})
    else:
        typer.echo(f"{count} data keys were wrapped anew.")


@commands.command()
def seal(json: Json = False) -> None:
    """Seal what was stored before there was a key; nodes may be at work, and it can be run again.

    Signing keys, URL groups, schedules, dead letters, and messages that are not finished. The rest goes with retention.
    """
    from postroad.store import data_keys, resealing
    from postroad.store.engine import Database

    masters = _masters()

    async def work(url: str) -> dict[str, int]:
        database = await Database.connect(url, connections=2)
        try:
            async with database.connection() as connection:
                await data_keys.unlock(connection, masters)
            return await resealing.seal(database)
        finally:
            await database.close()

    counts = with_database(work)
    if json:
        output.document(counts)
        return
    for table, count in counts.items():
        typer.echo(f"{table}={count}")


def _with_masters(work: Callable[[Connection, Sequence[MasterKey]], Awaitable[T]]) -> T:
    from postroad.store.engine import connected

    masters = _masters()

    async def run(url: str) -> T:
        async with connected(url) as connection:
            return await work(connection, masters)

    return with_database(run)


def _masters() -> Sequence[MasterKey]:
    masters = settings.load().master_keys()
    if not masters:
        raise Misconfigured("set POSTROAD_ENCRYPTION_KEY, e.g. to what `openssl rand -base64 32` prints")
    return masters
