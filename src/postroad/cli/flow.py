"""`postroad flow`: flow-control keys are looked at, pinned and paused."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any

import typer

from postroad.cli import output
from postroad.cli.options import BadOption, Server, given, spread
from postroad.cli.remote import Remote, segment

commands = typer.Typer(help="Flow control: how fast messages with a key go.", no_args_is_help=True)

Key = Annotated[str, typer.Argument(metavar="KEY", help="Flow-control key.", show_default=False)]


def _limit(value: int, *, pinned: bool) -> str:
    return f"{value or 'none'}{' (pinned)' if pinned else ''}"


def _rate(key: dict[str, Any]) -> str:
    from postroad.domain.duration import format_duration

    period = format_duration(timedelta(seconds=key["ratePeriod"]))
    return _limit(key["rateMax"], pinned=key["isPinnedRate"]) + (f" each {period}" if key["rateMax"] else "")


_COLUMNS = (
    output.at("flowControlKey", "key"),
    output.at("isPaused", "paused"),
    output.number("waitListSize", "waiting"),
    output.number("parallelismCount", "active"),
    output.Column("parallelism", lambda key: _limit(key["parallelismMax"], pinned=key["isPinnedParallelism"])),
    output.Column("rate", _rate),
    output.number("rateCount", "used of it"),
)


@commands.command("list")
@spread
def list_(
    at: Server,
    search: Annotated[str | None, typer.Option(help="A text that the keys hold.", show_default=False)] = None,
) -> None:
    """List the keys that were ever published with."""
    with at.opened() as remote:
        keys = remote.call("GET", "/v2/flowControl", query={"search": search})
    if at.json:
        output.document(keys)
    else:
        output.table(keys, _COLUMNS, empty="There are no flow-control keys.")


@commands.command()
@spread
def show(key: Key, at: Server) -> None:
    """Print the limits of a key, and what waits and runs under it."""
    with at.opened() as remote:
        _print(remote, key, at)


@commands.command()
@spread
def pin(
    key: Key,
    at: Server,
    parallelism: Annotated[int | None, typer.Option(help="At most so many at a time.", show_default=False)] = None,
    rate: Annotated[int | None, typer.Option(help="At most so many in a period.", show_default=False)] = None,
    period: Annotated[str | None, typer.Option(help="The period: 1s, 1m.", show_default=False)] = None,
) -> None:
    """Fix limits against what messages bring. A key that does not exist is made."""
    if parallelism is None and rate is None and period is None:
        raise BadOption("pin", key, "what to pin: --parallelism, --rate or --period")
    _change(key, "pin", at, **given(parallelism=parallelism, rate=rate, period=period))


@commands.command()
@spread
def unpin(
    key: Key,
    at: Server,
    parallelism: Annotated[bool, typer.Option("--parallelism", help="Only the parallelism.")] = False,
    rate: Annotated[bool, typer.Option("--rate", help="Only the rate and its period.")] = False,
) -> None:
    """Let messages change the limits again; the values stay until one does."""
    both = not parallelism and not rate
    texts = {"parallelism": parallelism or both, "rate": rate or both}
    _change(key, "unpin", at, **{name: str(value).lower() for name, value in texts.items()})


@commands.command()
@spread
def pause(key: Key, at: Server) -> None:
    """Let nothing with this key go. What is under way goes on."""
    _change(key, "pause", at)


@commands.command()
@spread
def resume(key: Key, at: Server) -> None:
    """Let messages with this key go again."""
    _change(key, "resume", at)


@commands.command()
@spread
def reset(key: Key, at: Server) -> None:
    """Begin a new period, as if nothing of the rate was used up."""
    _change(key, "resetRate", at)


def _change(key: str, action: str, at: Server, **query: Any) -> None:
    with at.opened() as remote:
        remote.call("POST", f"/v2/flowControl/{segment(key)}/{action}", query=query)
        _print(remote, key, at)


def _print(remote: Remote, key: str, at: Server) -> None:
    found = remote.call("GET", f"/v2/flowControl/{segment(key)}")
    if at.json:
        output.document(found)
    else:
        start = found["ratePeriodStart"]
        output.record(
            {column.title: column.value(found) for column in _COLUMNS}
            | {"period began": output.Instant(start * 1000) if start else None}
        )
