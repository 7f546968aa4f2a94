"""`postroad clock`: what lies ahead, and the clock of `postroad dev`, which can be moved."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from postroad.cli import output
from postroad.cli.options import Server, spread
from postroad.cli.remote import Rejected, Remote

commands = typer.Typer(help="The clock of `postroad dev`, which can be moved.", no_args_is_help=True)

_BAD_REQUEST = 400


@commands.command()
@spread
def show(at: Server) -> None:
    """Print what comes next, so that it is known how far to advance, and whether the clock can be moved."""
    with at.opened() as remote:
        first = remote.call("GET", "/v2/messages", query={"count": 1})["messages"]
        ticks = [
            one for one in remote.call("GET", "/v2/schedules") if not one["isPaused"] and "nextScheduleTime" in one
        ]
        tick = min(ticks, key=lambda one: int(one["nextScheduleTime"]), default=None)
        view: dict[str, Any] = {"canBeMoved": _can_be_moved(remote)}
    if first:
        view |= {"nextMessageId": first[0]["messageId"], "nextMessageTime": first[0].get("dueAt")}
    if tick is not None:
        view |= {"nextScheduleId": tick["scheduleId"], "nextScheduleTime": tick["nextScheduleTime"]}
    if at.json:
        output.document(view)
        return
    output.record(
        {
            "can be moved": view["canBeMoved"],
            "next message": view.get("nextMessageId"),
            "is due": output.Instant(view["nextMessageTime"]) if view.get("nextMessageTime") else None,
            "next schedule": view.get("nextScheduleId"),
            "fires": output.Instant(view["nextScheduleTime"]) if view.get("nextScheduleTime") else None,
        }
    )


@commands.command()
@spread
def advance(
    by: Annotated[str, typer.Argument(help="A duration such as 90s, 1h or 1d12h.", show_default=False)], at: Server
) -> None:
    """Let time pass: delays, retries, schedules and periods come nearer. Only under `postroad dev`."""
    with at.opened() as remote:
        answer = remote.call("POST", "/dev/clock/advance", json={"by": by})
    if at.json:
        output.document(answer)
    else:
        typer.echo(f"{answer['advanced']} have passed.")


def _can_be_moved(remote: Remote) -> bool:
    """Asked by a move of no time, which is refused in one way where the clock can be moved, and in another else."""
    try:
        remote.call("POST", "/dev/clock/advance", json={"by": "0s"})
    except Rejected as error:
        return error.status == _BAD_REQUEST
    return True
