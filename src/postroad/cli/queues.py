"""`postroad queues`: queues are made, looked at, paused and deleted."""

from __future__ import annotations

from typing import Annotated

import typer

from postroad.cli import output
from postroad.cli.options import BadOption, Consent, Server, given, spread
from postroad.cli.remote import Rejected, Remote, segment

commands = typer.Typer(help="Queues: messages that go in order.", no_args_is_help=True)

_NOT_FOUND = 404

Name = Annotated[str, typer.Argument(metavar="QUEUE", help="Name of the queue.", show_default=False)]

_COLUMNS = (
    output.at("name", "queue"),
    output.number("parallelism"),
    output.at("paused"),
    output.number("lag", "unfinished"),
    output.Column("held", lambda queue: (queue.get("counts") or {}).get("held"), is_number=True),
    output.Column("waiting", lambda queue: (queue.get("counts") or {}).get("waiting"), is_number=True),
    output.Column("active", lambda queue: (queue.get("counts") or {}).get("active"), is_number=True),
    output.instant("updatedAt", "changed"),
)


@commands.command("list")
@spread
def list_(at: Server) -> None:
    """List all queues."""
    with at.opened() as remote:
        queues = remote.call("GET", "/v2/queues")
    if at.json:
        output.document(queues)
    else:
        output.table(queues, _COLUMNS, empty="There are no queues; `postroad enqueue` makes one.")


@commands.command()
@spread
def show(name: Name, at: Server) -> None:
    """Print a queue, and how many messages are in it."""
    with at.opened() as remote:
        _print(remote, name, at)


@commands.command("set")
@spread
def set_(
    name: Name,
    at: Server,
    parallelism: Annotated[
        int | None, typer.Option(help="At most so many at a time.", min=1, show_default=False)
    ] = None,
    paused: Annotated[
        bool | None, typer.Option("--paused/--running", help="Whether none goes.", show_default=False)
    ] = None,
) -> None:
    """Make a queue, or change one. What is not said stays as it is."""
    if parallelism is None and paused is None:
        raise BadOption("set", name, "what to set: --parallelism, --paused or --running")
    with at.opened() as remote:
        before = _found(remote, name)
        chosen = {"parallelism": before["parallelism"], "paused": before["paused"]} if before else {}
        changes = chosen | given(parallelism=parallelism, paused=paused)
        remote.call("POST", "/v2/queues", json={"queueName": name, **changes})
        _print(remote, name, at)


@commands.command()
@spread
def pause(name: Name, at: Server) -> None:
    """Take messages in, but let none go. What is under way goes on."""
    with at.opened() as remote:
        remote.call("POST", f"/v2/queues/{segment(name)}/pause")
        _print(remote, name, at)


@commands.command()
@spread
def resume(name: Name, at: Server) -> None:
    """Let messages go again, beginning with the oldest."""
    with at.opened() as remote:
        remote.call("POST", f"/v2/queues/{segment(name)}/resume")
        _print(remote, name, at)


@commands.command()
@spread
def delete(name: Name, consent: Consent, at: Server) -> None:
    """Delete a queue. What waits in it is cancelled."""
    with at.opened() as remote:
        lag = remote.call("GET", f"/v2/queues/{segment(name)}")["lag"]
        if consent.dry_run:
            if at.json:
                output.document({"dryRun": True, "deleted": name, "cancelled": lag})
            else:
                typer.echo(f"The queue would be deleted, and {output.numbered(lag, 'message')} cancelled.")
            return
        consent.ask(f"Delete the queue {name} and cancel {output.numbered(lag, 'message')}")
        remote.call("DELETE", f"/v2/queues/{segment(name)}")
    if at.json:
        output.document({"deleted": name})
    else:
        typer.echo(f"{name} is deleted.")


def _found(remote: Remote, name: str) -> dict[str, int] | None:
    try:
        queue: dict[str, int] = remote.call("GET", f"/v2/queues/{segment(name)}")
    except Rejected as error:
        if error.status == _NOT_FOUND:
            return None
        raise
    return queue


def _print(remote: Remote, name: str, at: Server) -> None:
    queue = remote.call("GET", f"/v2/queues/{segment(name)}")
    if at.json:
        output.document(queue)
        return
    output.record(
        {
            "queue": queue["name"],
            "parallelism": queue["parallelism"],
            "paused": queue["paused"],
            "unfinished": queue["lag"],
            **(queue.get("counts") or {}),
            "created": output.Instant(queue["createdAt"]),
            "changed": output.Instant(queue["updatedAt"]),
        }
    )
