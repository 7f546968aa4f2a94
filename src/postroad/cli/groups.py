"""`postroad groups`: URL groups are made, looked at, changed and deleted."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from postroad.cli import output
from postroad.cli.options import Consent, NotThere, Server, spread
from postroad.cli.remote import Rejected, Remote, segment

commands = typer.Typer(help="URL groups: one message for many endpoints.", no_args_is_help=True)

_NOT_FOUND = 404

Name = Annotated[str, typer.Argument(metavar="GROUP", help="Name of the URL group.", show_default=False)]

_COLUMNS = (
    output.at("name", "group"),
    output.Column("endpoints", lambda group: len(group.get("endpoints") or ()), is_number=True),
    output.Column("URLs", lambda group: output.joined(one["url"] for one in group.get("endpoints") or ())),
    output.instant("updatedAt", "changed"),
)


@commands.command("list")
@spread
def list_(at: Server) -> None:
    """List all URL groups."""
    with at.opened() as remote:
        groups = remote.call("GET", "/v2/topics")
    if at.json:
        output.document(groups)
    else:
        output.table(groups, _COLUMNS, empty="There are no URL groups; `postroad groups add` makes one.")


@commands.command()
@spread
def show(name: Name, at: Server) -> None:
    """Print a URL group with its endpoints and default headers."""
    with at.opened() as remote:
        _print(remote, name, at)


@commands.command()
@spread
def add(
    name: Name,
    endpoints: Annotated[
        list[str], typer.Argument(metavar="ENDPOINT...", help="URL, or name=URL.", show_default=False)
    ],
    at: Server,
) -> None:
    """Add endpoints to a URL group; it is made when there is none."""
    with at.opened() as remote:
        added = [_endpoint(text) for text in endpoints]
        remote.call("POST", f"/v2/topics/{segment(name)}/endpoints", json={"endpoints": added})
        _print(remote, name, at)


@commands.command()
@spread
def remove(
    name: Name,
    endpoints: Annotated[
        list[str], typer.Argument(metavar="ENDPOINT...", help="URL or name of an endpoint.", show_default=False)
    ],
    consent: Consent,
    at: Server,
) -> None:
    """Remove endpoints from a URL group. One without endpoints is deleted."""
    with at.opened() as remote:
        there = remote.call("GET", f"/v2/topics/{segment(name)}")["endpoints"] or []
        gone = [one for one in there if one["url"] in endpoints or one.get("name") in endpoints]
        for text in endpoints:
            if not any(text in (one["url"], one.get("name")) for one in gone):
                raise NotThere(f"{text} is neither the URL nor the name of an endpoint of {name}")
        what = f"{output.numbered(len(gone), 'endpoint')} of {name}"
        what += ", which is all of them, so that it is deleted" if len(gone) == len(there) else ""
        if consent.dry_run:
            if at.json:
                output.document({"dryRun": True, "removed": gone})
            else:
                typer.echo(f"This would remove {what}.")
            return
        consent.ask(f"Remove {what}")
        removed = [{"url": one["url"]} for one in gone]
        remote.call("DELETE", f"/v2/topics/{segment(name)}/endpoints", json={"endpoints": removed})
        try:
            _print(remote, name, at)
        except Rejected as error:
            if error.status != _NOT_FOUND:
                raise
            _tell_deleted(name, at)


@commands.command()
@spread
def delete(name: Name, consent: Consent, at: Server) -> None:
    """Delete a URL group. Messages that were published to it are delivered."""
    with at.opened() as remote:
        count = len(remote.call("GET", f"/v2/topics/{segment(name)}")["endpoints"] or ())
        if consent.dry_run:
            if at.json:
                output.document({"dryRun": True, "deleted": name})
            else:
                typer.echo(f"The URL group with its {output.numbered(count, 'endpoint')} would be deleted.")
            return
        consent.ask(f"Delete the URL group {name} with its {output.numbered(count, 'endpoint')}")
        remote.call("DELETE", f"/v2/topics/{segment(name)}")
    _tell_deleted(name, at)


def _tell_deleted(name: str, at: Server) -> None:
    if at.json:
        output.document({"deleted": name})
    else:
        typer.echo(f"{name} is deleted.")


def _endpoint(text: str) -> dict[str, str]:
    name, equals, url = text.partition("=")
    if equals and "/" not in name and ":" not in name:
        return {"name": name, "url": url}
    return {"url": text}


def _print(remote: Remote, name: str, at: Server) -> None:
    group: dict[str, Any] = remote.call("GET", f"/v2/topics/{segment(name)}")
    if at.json:
        output.document(group)
        return
    endpoints = [f"{one['name']}={one['url']}" if one.get("name") else one["url"] for one in group["endpoints"] or ()]
    headers = [f"{name}: {value}" for name, values in (group.get("headers") or {}).items() for value in values]
    output.record(
        {
            "group": group["name"],
            "endpoints": "\n".join(endpoints),
            "default headers": "\n".join(headers) or None,
            "created": output.Instant(group["createdAt"]),
            "changed": output.Instant(group["updatedAt"]),
        }
    )
