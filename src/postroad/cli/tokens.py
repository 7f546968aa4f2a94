"""`postroad token`: tokens are made, listed and revoked."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from postroad.cli import output
from postroad.cli.database import unlocked, with_database
from postroad.cli.options import Consent, Json, spread
from postroad.cli.tenants import check_name, existing
from postroad.errors import InvalidValue, Misconfigured

if TYPE_CHECKING:
    from postroad.domain.tenant import Token

_ABSENT = {"tenant": "none", "created": "never", "expires": "never", "used": "never"}

commands = typer.Typer(help="Tokens that publishers and administrators authenticate with.", no_args_is_help=True)


@commands.command()
def create(
    tenant: Annotated[str | None, typer.Option(help="Name of the tenant that it is for: default.")] = None,
    name: Annotated[str, typer.Option(help="What the token is for.")] = "cli",
    access: Annotated[
        str, typer.Option(help="full, read-only, metadata, publish-only, or admin for the admin API.")
    ] = "full",
    expires_in: Annotated[str | None, typer.Option(help="How long it is valid, e.g. 90d; for ever without it.")] = None,
    json: Json = False,
) -> None:
    """Make a token and print it: it cannot be shown again. The tenant is made when there is none of that name."""
    from postroad.domain.tenant import Access
    from postroad.domain.token import new_token
    from postroad.store import tenants, tokens

    if access not in set(Access):
        raise Misconfigured(f"--access must be one of {', '.join(Access)}, not {access}")
    reach = Access(access)
    if reach is Access.ADMIN and tenant is not None:
        raise Misconfigured("an admin token belongs to no tenant: leave out --tenant")
    check_name(tenant or "default")
    valid_for = _lifetime(expires_in)
    token = new_token(reach)

    async def make(url: str) -> None:
        async with unlocked(url) as connection, connection.transaction():
            owner = None if reach is Access.ADMIN else await tenants.ensure(connection, tenant or "default")
            await tokens.add(connection, owner, token, name=name, access=reach, valid_for=valid_for)

    with_database(make)
    if json:
        output.document({"token": token})
    else:
        typer.echo(token)


@commands.command("list")
def list_(
    tenant: Annotated[str | None, typer.Option(help="Only those of this tenant.")] = None,
    json: Json = False,
) -> None:
    """Print what is known of all tokens, the oldest first; the tokens themselves are not kept."""
    from postroad.store import tokens
    from postroad.store.engine import connected

    async def read(url: str) -> list[Token]:
        async with connected(url) as connection:
            owner = None if tenant is None else await existing(connection, tenant)
            return await tokens.list_(connection, tenant_id=owner)

    found = [_view(token) for token in with_database(read)]
    if json:
        output.document(found)
        return
    for one in found:
        typer.echo("\t".join(f"{name}={_ABSENT[name] if value is None else value}" for name, value in one.items()))


@commands.command()
@spread
def revoke(
    token_id: Annotated[int, typer.Argument(metavar="ID", help="The id in the list of tokens.")], consent: Consent
) -> None:
    """Accept a token no more. Running nodes forget it within five seconds; it can never be made valid again."""
    from postroad.store import tokens
    from postroad.store.engine import connected

    async def look(url: str) -> Token:
        async with connected(url) as connection:
            found = await tokens.list_(connection, token_id=token_id)
        if not found:
            raise Misconfigured(f"there is no token {token_id}")
        return found[0]

    async def take_away(url: str) -> None:
        async with connected(url) as connection:
            if await tokens.revoke(connection, token_id) is None:
                raise Misconfigured(f"there is no token {token_id}")

    token = _view(with_database(look))
    what = f"token {token_id} ({token['name']}, {token['access']}, ends with {token['ends-with']})"
    if consent.dry_run:
        typer.echo(f"The {what} would be revoked.")
        return
    consent.ask(f"Revoke the {what} for ever")
    with_database(take_away)


def _lifetime(text: str | None) -> timedelta | None:
    from postroad.domain.duration import parse_duration

    if text is None:
        return None
    try:
        lifetime = parse_duration(text, bare_seconds=True)
    except InvalidValue as error:
        raise Misconfigured(f"--expires-in must be {error.expected}") from None
    if not lifetime:
        raise Misconfigured("--expires-in must be more than nothing")
    return lifetime


def _view(token: Token) -> dict[str, Any]:
    return {
        "id": token.id,
        "tenant": token.tenant,
        "name": token.name if token.name.isprintable() else ascii(token.name),
        "access": token.access,
        "ends-with": token.last_four,
        "created": _instant(token.created_at),
        "expires": _instant(token.expires_at),
        "used": _instant(token.used_at),
    }


def _instant(instant: datetime | None) -> str | None:
    return None if instant is None else f"{instant:%Y-%m-%dT%H:%M:%SZ}"
