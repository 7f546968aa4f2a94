"""`postroad tenant`: tenants, and what is set for them."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from postroad.cli import output
from postroad.cli.database import unlocked, with_database
from postroad.cli.options import Json
from postroad.errors import InvalidValue, Misconfigured

if TYPE_CHECKING:
    from collections.abc import Callable

    from postroad.domain.tenant import Tenant as OneTenant
    from postroad.domain.tenant import TenantId
    from postroad.domain.tenant_settings import TenantSettings, Value
    from postroad.store.engine import Connection

commands = typer.Typer(help="Tenants, who own messages, tokens and keys.", no_args_is_help=True)

NONE = "none"
"""Takes a setting of a tenant away."""

Tenant = Annotated[str, typer.Option(help="Name of the tenant.")]


@commands.command("list")
def list_(json: Json = False) -> None:
    """Print all tenants, each with what is set for it."""
    if json:
        output.document([_view(one) for one in _tenants()])
        return
    for one in _tenants():
        typer.echo("\t".join(_lines(one)))


@commands.command()
def show(tenant: Tenant = "default", json: Json = False) -> None:
    """Print what is set for a tenant."""
    _print(_tenants(tenant), json=json)


@commands.command()
def create(tenant: Annotated[str, typer.Option(help="Name of the tenant.")]) -> None:
    """Make a tenant, with signing keys of its own and no token yet."""
    from postroad.tenancy import make_tenant

    check_name(tenant)

    async def make(url: str) -> None:
        async with unlocked(url) as connection, connection.transaction():
            await make_tenant(connection, tenant, {})

    with_database(make)


@commands.command("set")
def set_(
    tenant: Tenant = "default",
    failure_callback: Annotated[
        str | None,
        typer.Option(help="URL where failures are reported of messages without a failure callback, or none."),
    ] = None,
    parallelism: Annotated[
        str | None, typer.Option(help="How many deliveries may be under way at a time, over all nodes, or none.")
    ] = None,
    destinations: Annotated[
        str | None,
        typer.Option(help="Where messages may go, as POSTROAD_DESTINATIONS says it for all tenants, or none."),
    ] = None,
    max_calls_per_second: Annotated[
        str | None,
        typer.Option(help="Calls in a second of one process, publishes aside, 0 for no limit; none for the setting."),
    ] = None,
    max_messages_per_day: Annotated[
        str | None,
        typer.Option(help="Messages from midnight UTC on, 0 for no limit; none for the setting of the server."),
    ] = None,
    json: Json = False,
) -> None:
    """Change what is set for a tenant. Running nodes go by it within seconds."""
    from postroad.store import tenants
    from postroad.store.engine import connected
    from postroad.tenancy import change_tenant

    given = _read(
        failure_callback=failure_callback,
        parallelism=parallelism,
        destinations=destinations,
        max_calls_per_second=max_calls_per_second,
        max_messages_per_day=max_messages_per_day,
    )

    async def change(url: str) -> list[OneTenant]:
        connect: Callable[[], AbstractAsyncContextManager[Connection]] = partial(connected, url)
        async with connect() as connection:
            tenant_id = await existing(connection, tenant)
        await change_tenant(connect, tenant_id, given)
        async with connect() as connection:
            return await tenants.list_(connection, tenant)

    _print(with_database(change), json=json)


async def existing(connection: Connection, name: str) -> TenantId:
    """The tenant of this name. Raises `Misconfigured`."""
    from postroad.store import tenants

    tenant_id = await tenants.find(connection, name)
    if tenant_id is None:
        raise Misconfigured(f"there is no tenant {name}")
    return tenant_id


def check_name(name: str) -> None:
    """Refuse a name that no tenant should get. Raises `Misconfigured`."""
    from postroad.domain.tenant import parse_tenant_name

    try:
        parse_tenant_name(name)
    except InvalidValue as error:
        raise Misconfigured(f"--tenant must be {error.expected}") from None


def _tenants(name: str | None = None) -> list[OneTenant]:
    """All tenants, or the one of this name."""
    from postroad.store import tenants
    from postroad.store.engine import connected

    async def read(url: str) -> list[OneTenant]:
        async with connected(url) as connection:
            if name is not None:
                await existing(connection, name)
            return await tenants.list_(connection, name)

    return with_database(read)


def _print(found: list[OneTenant], *, json: bool) -> None:
    """The one tenant that was asked for."""
    for one in found:
        if json:
            output.document(_view(one))
        else:
            typer.echo("\n".join(_lines(one)))


def _lines(tenant: OneTenant) -> list[str]:
    return [f"{name}={NONE if value is None else value}" for name, value in _view(tenant).items()]


def _view(tenant: OneTenant) -> dict[str, Any]:
    """What is known of a tenant, by the names of the options."""
    from postroad.domain.tenant_settings import SETTINGS

    return {"name": tenant.name} | {name.replace("_", "-"): getattr(tenant, name) for name in SETTINGS}


def _read(**texts: str | None) -> TenantSettings:
    from postroad.domain.tenant_settings import SETTINGS

    options = {name: f"--{name.replace('_', '-')}" for name in SETTINGS}
    given: dict[str, Value | None] = {}
    for name, text in texts.items():
        if text is None:
            continue
        try:
            given[name] = None if text == NONE else SETTINGS[name](text)
        except InvalidValue as error:
            raise Misconfigured(f"{options[name]} must be {error.expected}, or {NONE}") from None
    if not given:
        raise Misconfigured(f"say what to set: {', '.join(options.values())}")
    return given
