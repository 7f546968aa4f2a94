"""`postroad doctor`: whether this machine and its database are fit to run a server, and what is in the way."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from postroad import settings
from postroad.cli import output
from postroad.cli.exits import ExitCode
from postroad.cli.options import Json
from postroad.errors import PostroadError

if TYPE_CHECKING:
    from postroad.settings import Settings
    from postroad.store.engine import Connection

MOST_SKEW = timedelta(seconds=2)
LEAST_FREE_BYTES = 2 * 1024**3
_ZONES = ("Europe/Berlin", "America/New_York", "Asia/Kolkata")


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check has found: `ok`, `note` for what may be meant so, or `bad`."""

    check: str
    verdict: str
    sentence: str


def doctor(
    destination: Annotated[
        list[str] | None,
        typer.Option(help="A URL to which messages would go: looked up, vetted and dialled.", show_default=False),
    ] = None,
    json: Json = False,
) -> None:
    """Check settings, database, schema, clocks, time zones, name service, egress, signing keys and disk.

    Nothing is changed and nothing is sent; a --destination is dialled and left again. Exit code 1 when anything is bad.
    """
    findings = asyncio.run(_findings(destination or []))
    if json:
        output.document([{"check": one.check, "verdict": one.verdict, "sentence": one.sentence} for one in findings])
    else:
        columns = (
            output.Column("check", lambda one: one.check),
            output.Column("verdict", lambda one: one.verdict),
            output.Column("sentence", lambda one: one.sentence),
        )
        output.table(findings, columns, empty="")
    if any(one.verdict == "bad" for one in findings):
        raise typer.Exit(ExitCode.REFUSED)


async def _findings(destinations: list[str]) -> list[Finding]:
    try:
        chosen = settings.load()
    except PostroadError as error:
        return [Finding("settings", "bad", str(error))]
    found = [Finding("settings", "ok", "all of POSTROAD_* is understood")]
    found += [one async for one in _database(chosen)]
    found.append(_zones())
    found.append(await _checked("names", _names))
    for text in destinations:
        found.append(await _checked("egress", partial(_egress, chosen, text)))
    if not destinations:
        where = chosen.destinations or "public addresses under serve, all under dev"
        found.append(Finding("egress", "note", f"messages may go to: {where}; dial one with --destination"))
    found.append(_disk(chosen.data_dir))
    return found


async def _database(chosen: Settings) -> AsyncIterator[Finding]:
    from postroad.store.engine import connected

    if chosen.database_url is None:
        yield Finding("database", "note", "POSTROAD_DATABASE_URL is not set: `dev` runs a PostgreSQL of its own")
        return
    try:
        async with connected(chosen.database_url.get_secret_value()) as connection:
            for name, check in _OF_THE_DATABASE:
                found = await _checked(name, partial(check, connection, chosen))
                yield found
                if found.verdict == "bad" and name == "schema":
                    return  # There is nothing that the rest could look at.
    except PostroadError as error:
        yield Finding("database", "bad", str(error))


async def _fitness(connection: Connection, _: Settings) -> str:
    from postroad.store.fitness import check_fitness

    await check_fitness(connection)
    version = connection.get_server_version()
    size = await connection.fetchval("select pg_size_pretty(pg_database_size(current_database()))")
    return f"PostgreSQL {version.major}.{version.minor} keeps what it acknowledges; the database has {size}"


async def _schema(connection: Connection, _: Settings) -> str:
    from postroad.errors import Misconfigured
    from postroad.store import migrations, partitions

    await migrations.check(connection)
    days = await partitions.days_left(connection)
    if days < 1:
        raise Misconfigured("partitions for the next day are missing: start a node, which makes them")
    return f"the schema is at {await migrations.revision(connection)}, there are partitions for {days} days"


async def _tenants(connection: Connection, chosen: Settings) -> str:
    from postroad.store import wall

    if not chosen.row_level_security:
        return "no row-level security: POSTROAD_ROW_LEVEL_SECURITY=false"
    await wall.check(connection)
    return "row-level security keeps tenants apart"


async def _clock(connection: Connection, _: Settings) -> str:
    from postroad.clock import Clock
    from postroad.errors import Misconfigured

    clock = Clock()
    await clock.measure(connection)
    skew = abs(clock.offset)
    if skew > MOST_SKEW:
        raise Misconfigured(
            f"this machine's clock and the database's are {skew.total_seconds():.1f} s apart: synchronize them, or "
            "receivers will take signatures for too old or too new"
        )
    return f"{skew.total_seconds() * 1000:.0f} ms from the database's clock"


async def _signing(connection: Connection, chosen: Settings) -> str:
    from postroad.clock import Clock
    from postroad.domain.signature import signature
    from postroad.domain.tenant import TenantId
    from postroad.errors import Misconfigured
    from postroad.store import data_keys, tenants, tokens

    await data_keys.refresh(connection, chosen.master_keys())
    rows = await connection.fetch("select id from tenants order by id")
    for row in rows:
        keys = await tenants.signing_keys(connection, TenantId(row["id"]))
        signature(keys.current, "https://example.com", b"", int(Clock().now_s()), "doctor")
    if not await tokens.any_exists(connection):
        raise Misconfigured("nobody can publish yet: make a token with `postroad token create`, or set POSTROAD_TOKEN")
    return f"the signing keys of {output.numbered(len(rows), 'tenant')} can be read, and there are tokens"


_OF_THE_DATABASE: tuple[tuple[str, Callable[[Connection, Settings], Awaitable[str]]], ...] = (
    ("database", _fitness),
    ("schema", _schema),
    ("tenants", _tenants),
    ("clock", _clock),
    ("signing", _signing),
)


def _zones() -> Finding:
    from importlib.metadata import PackageNotFoundError, version
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        for name in _ZONES:
            ZoneInfo(name)
        data = version("tzdata")
    except (ZoneInfoNotFoundError, PackageNotFoundError) as error:
        return Finding("time zones", "bad", f"there is no time zone data ({error}): install tzdata")
    return Finding("time zones", "ok", f"tzdata {data}")


async def _names() -> str:
    loop = asyncio.get_running_loop()
    found = await asyncio.wait_for(loop.getaddrinfo("localhost", None), 10)
    return f"localhost is {', '.join(sorted({str(one[4][0]) for one in found}))}"


async def _egress(chosen: Settings, text: str) -> str:
    from postroad.domain.destination import parse_url
    from postroad.domain.network import parse_policy
    from postroad.errors import InvalidDestination
    from postroad.resolver import Addresses, Resolver

    url = parse_url(text)
    usual = "any" if chosen.database_url is None else "public"  # Without a database it is `dev` that can be run.
    resolution = await Resolver(parse_policy(chosen.destinations or usual)).resolve(url)
    if not isinstance(resolution, Addresses):
        raise InvalidDestination(resolution.reason)
    _, address = resolution.items[0]
    _, writer = await asyncio.wait_for(asyncio.open_connection(address, url.port), 10)
    writer.close()
    return f"{url.authority} is {address}, which may be dialled and takes connections"


def _disk(data_dir: Path) -> Finding:
    place = next(one for one in (data_dir.absolute(), *data_dir.absolute().parents) if one.exists())
    free = shutil.disk_usage(place).free
    words = f"{free / 1024**3:.1f} GiB are free where `dev` keeps its data"
    return Finding("disk", "ok" if free >= LEAST_FREE_BYTES else "bad", words)


async def _checked(name: str, check: Callable[[], Awaitable[str]]) -> Finding:
    try:
        return Finding(name, "ok", await check())
    except (PostroadError, OSError, TimeoutError) as error:
        return Finding(name, "bad", str(error) or "no answer within 10 s")
