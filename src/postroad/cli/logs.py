"""`postroad logs`: events of messages, those that were and those that come."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from postroad.cli import output
from postroad.cli.messages import Count
from postroad.cli.options import Filters, Places, Server, spread
from postroad.cli.remote import Rejected, Remote, Unreachable

_PAGE = 1_000
_PATIENCE_S = 60.0
_STEP_S = 1.0
_SILENCE_S = 60.0
"""A server says every 15 seconds that it is still there."""

_STYLES = {"DELIVERED": "green", "FAILED": "red", "ERROR": "yellow", "CANCELED": "magenta"}

_COLUMNS = (
    output.instant("time"),
    output.at("state"),
    output.at("messageId", "message"),
    output.Column("response", lambda event: event.get("responseStatus")),
    output.at("url", "destination"),
    output.at("error"),
)


@spread
def logs(
    where: Filters,
    places: Places,
    at: Server,
    message: Annotated[list[str] | None, typer.Option(help="Id of a message.", show_default=False)] = None,
    state: Annotated[
        list[str] | None,
        typer.Option(
            help="CREATED, ACTIVE, RETRY, ERROR, DELIVERED, FAILED, CANCEL_REQUESTED, CANCELED or IN_PROGRESS.",
            show_default=False,
        ),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with events as they happen.")] = False,
    count: Count = 100,
) -> None:
    """Print the newest events, the oldest of them first; with --follow each one as it happens, until Ctrl-C.

    With --follow and --since everything from then on comes first. With --follow and --json a line for each event.
    """
    query = where.query() | places.query()
    query |= {name: value for name, value in (("messageId", message), ("state", state)) if value}
    if not at.json:
        query["trimBody"] = "true"
    with at.opened() as remote:
        if follow:
            try:
                _follow(remote, query, at)
            except KeyboardInterrupt:
                return
        events, cursor = _events(remote, query, count)
    if at.json:
        output.document({**({"cursor": cursor} if cursor else {}), "events": events})
        return
    output.table(events, _COLUMNS, empty="Nothing has happened.")
    if cursor:
        typer.echo(f"There are more than these {count:,}; see them with --count.", err=True)


def _events(remote: Remote, query: dict[str, Any], count: int) -> tuple[list[Any], str | None]:
    """The newest events, in the order in which they happened."""
    events, cursor = remote.pages("/v2/events", "events", query=query, most=count, size=_PAGE)
    return events[::-1], cursor


def _follow(remote: Remote, query: dict[str, Any], at: Server) -> None:
    """Print events as they happen, each once, also over a break of the connection."""
    from postroad.clock import Clock

    last: str | None = None
    # Whoever has seen nothing yet goes on from here; a time is a position as well.
    start = str(Clock().now_ms())
    lost_at: float | None = None
    is_reached = False
    while True:
        after = last if last or not is_reached or "fromDate" in query else start
        try:
            for event in remote.events("/v2/events/stream", query=query, after=after, silence_s=_SILENCE_S):
                is_reached, lost_at = True, None
                if event is not None and event.id:
                    last = event.id
                if event is not None and event.name == "message":
                    _print(event.data, at)
        except (Unreachable, Rejected) as error:
            # A server that is restarted is there again in a moment, and the stream goes on where it broke off.
            if not (is_reached and error.is_passing):
                raise
            if lost_at is None:
                lost_at = time.monotonic()
                typer.echo(f"postroad: {output.plain(error)}. It is tried again.", err=True)
            elif time.monotonic() - lost_at > _PATIENCE_S:
                raise
        time.sleep(_STEP_S)


def _print(event: dict[str, Any], at: Server) -> None:
    if at.json:
        output.line(event)
        return
    if not output.is_terminal():
        output.table([event], _COLUMNS, empty="")
        return
    from rich.console import Console
    from rich.text import Text

    words = [f"{output.Instant(event['time'])}"[11:19], event["messageId"], output.plain(event["url"])]
    words += [output.plain(event[name]) for name in ("responseStatus", "error") if event.get(name) is not None]
    text = Text(f"{event['state']:<10}", style=_STYLES.get(event["state"], "dim"))
    Console().print(Text.assemble(words[0], " ", text, " ", " ".join(words[1:])), soft_wrap=True)
