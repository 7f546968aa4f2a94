"""The command line: dev, serve, migrate, config, tenant, token and keys."""

from __future__ import annotations

import asyncio
import secrets
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from postroad import __version__, settings, telemetry
from postroad.errors import Misconfigured, PostroadError

if TYPE_CHECKING:
    from postroad.domain.tenant import Tenant as OneTenant
    from postroad.domain.tenant import TenantId
    from postroad.store.engine import Connection

cli = typer.Typer(
    help="Postroad: HTTP message delivery on Postgres, compatible with QStash.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
tenant_cli = typer.Typer(help="Tenants, who own messages, tokens and keys.", no_args_is_help=True)
token_cli = typer.Typer(help="Tokens that publishers authenticate with.", no_args_is_help=True)
keys_cli = typer.Typer(help="Keys that deliveries are signed with.", no_args_is_help=True)
cli.add_typer(tenant_cli, name="tenant")
cli.add_typer(token_cli, name="token")
cli.add_typer(keys_cli, name="keys")

T = TypeVar("T")

NONE = "none"
"""Takes a setting of a tenant away."""

_WHILE_PUBLISHED_S = 1.0
"""Longer than a statement that publishes takes."""

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


@tenant_cli.command("list")
def tenant_list() -> None:
    """Print all tenants, each with what is set for it."""
    for one in _tenants():
        typer.echo("\t".join(_lines(one)))


@tenant_cli.command("show")
def tenant_show(tenant: Tenant = "default") -> None:
    """Print what is set for a tenant."""
    for one in _tenants(tenant):
        typer.echo("\n".join(_lines(one)))


@tenant_cli.command("set")
def tenant_set(
    tenant: Tenant = "default",
    failure_callback: Annotated[
        str | None,
        typer.Option(help="URL where failures are reported of messages without a failure callback, or none."),
    ] = None,
    parallelism: Annotated[
        str | None, typer.Option(help="How many deliveries may be under way at a time, over all nodes, or none.")
    ] = None,
) -> None:
    """Change what is set for a tenant. Running nodes go by it within seconds."""
    from postroad.store import tenants
    from postroad.store.engine import connected

    if failure_callback is None and parallelism is None:
        raise Misconfigured("say what to set: --failure-callback, --parallelism or both")
    callback = _url(failure_callback) if failure_callback is not None else None
    most = _number(parallelism) if parallelism is not None else None

    async def change(url: str) -> list[OneTenant]:
        async with connected(url) as connection:
            tenant_id = await tenants.find(connection, tenant)
            if tenant_id is None:
                raise Misconfigured(f"there is no tenant {tenant}")
            if failure_callback is not None:
                await tenants.set_failure_callback(connection, tenant_id, callback)
            if parallelism is not None:
                await _set_parallelism(connection, tenant_id, most)
            return await tenants.list_(connection, tenant)

    for one in _with_database(change):
        typer.echo("\n".join(_lines(one)))


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


@keys_cli.command("set")
def keys_set(
    current: Annotated[str, typer.Option(envvar="QSTASH_CURRENT_SIGNING_KEY", help="The key that signs.")],
    following: Annotated[
        str, typer.Option("--next", envvar="QSTASH_NEXT_SIGNING_KEY", help="The key after a rotation.")
    ],
    tenant: Tenant = "default",
) -> None:
    """Sign with keys that receivers hold already, as when coming from QStash. Best left to the environment."""
    from postroad.domain.tenant import SigningKeys
    from postroad.store import tenants
    from postroad.store.engine import connected

    if current == following or any(
        not key.isascii() or not key.isprintable() or len(key) < 16 for key in (current, following)
    ):
        raise Misconfigured("signing keys are two different texts of at least 16 printable characters")

    async def change(url: str) -> None:
        async with connected(url) as connection, connection.transaction():
            tenant_id = await tenants.ensure(connection, tenant)
            await tenants.set_keys(connection, tenant_id, SigningKeys(current, following))

    _with_database(change)


def _tenants(name: str | None = None) -> list[OneTenant]:
    """All tenants, or the one of this name."""
    from postroad.store import tenants
    from postroad.store.engine import connected

    async def read(url: str) -> list[OneTenant]:
        async with connected(url) as connection:
            return await tenants.list_(connection, name)

    found = _with_database(read)
    if name is not None and not found:
        raise Misconfigured(f"there is no tenant {name}")
    return found


def _lines(tenant: OneTenant) -> list[str]:
    return [
        f"name={tenant.name}",
        f"failure-callback={tenant.failure_callback or NONE}",
        f"parallelism={tenant.parallelism or NONE}",
    ]


async def _set_parallelism(connection: Connection, tenant_id: TenantId, most: int | None) -> None:
    from postroad.store import parallelism

    if most is None:
        await parallelism.unlimit(connection, tenant_id)
        return
    await parallelism.limit(connection, tenant_id, most)
    await asyncio.sleep(_WHILE_PUBLISHED_S)
    await parallelism.gather(connection, tenant_id)


def _number(text: str) -> int | None:
    from postroad.domain.flow_control import parse_limit
    from postroad.errors import InvalidValue

    if text == NONE:
        return None
    try:
        return parse_limit(text)
    except InvalidValue as error:
        raise Misconfigured(f"--parallelism must be {error.expected}, or {NONE}") from None


def _url(text: str) -> str | None:
    from postroad.domain.destination import parse_url
    from postroad.errors import InvalidDestination

    if text == NONE:
        return None
    try:
        return parse_url(text).text
    except InvalidDestination as error:
        raise Misconfigured(f"--failure-callback must be a URL or {NONE}: {error.reason}") from None


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
