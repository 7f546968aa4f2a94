"""`postroad top`: what a server does, on one screen."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

from postroad.cli import output
from postroad.cli.options import Server, spread
from postroad.cli.remote import Rejected, Remote, Unreachable

if TYPE_CHECKING:
    from rich.console import RenderableType

_WINDOW_MS = 60_000
_PAGE = 1_000
_MOST_SAMPLED = 10_000
_LEAST_SPAN_MS = 1_000
_MOST_COUNTED = 1_000
_SHOWN = 10
_ENDS = ("DELIVERED", "ERROR", "FAILED")


@dataclass(frozen=True, slots=True)
class Sample:
    """Events of the last minute, the newest first: all of them, or where they are very many those of its end."""

    events: list[dict[str, Any]]
    span_s: float
    is_whole: bool

    def __str__(self) -> str:
        newest = "" if self.is_whole else f"the newest {len(self.events):,} events, "
        return f"{newest}the last {self.span_s:,.3g} s"


@dataclass(frozen=True, slots=True)
class Picture:
    """What a server does now. Rates are those of the sample; a count that ends early says so."""

    sample: Sample
    per_second: dict[str, float]
    in_flight: int
    unfinished: int
    dead_letters: int
    queues: list[dict[str, Any]]
    keys: list[dict[str, Any]]
    destinations: list[dict[str, Any]]

    def view(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "sample": {
                "events": len(self.sample.events),
                "seconds": round(self.sample.span_s, 3),
                "isWhole": self.sample.is_whole,
            },
            "perSecond": self.per_second,
            "inFlight": self.in_flight,
            "unfinished": self.unfinished,
            "deadLetters": self.dead_letters,
            "countsEndAt": _MOST_COUNTED,
            "queues": self.queues,
            "flowControlKeys": self.keys,
            "destinations": self.destinations,
        }


@spread
def top(
    at: Server,
    once: Annotated[bool, typer.Option("--once", help="Print it once, and end.")] = False,
    every: Annotated[float, typer.Option(help="Seconds between two looks.", min=0.5)] = 2.0,
) -> None:
    """Show throughput, what is in flight and what waits, dead letters and the busiest destinations, until Ctrl-C.

    Without a terminal, or with --json, it is printed once.
    """
    with at.opened() as remote:
        picture = look(remote)
        if at.json:
            output.document(picture.view())
        elif not output.is_terminal():
            _print(picture)
        elif once:
            from rich.console import Console

            Console().print(_screen(picture, remote.url))
        else:
            _live(remote, picture, every)


def look(remote: Remote) -> Picture:
    """What the API says now."""
    sample = _sample(remote)
    events, span_s = sample.events, sample.span_s
    states = Counter(event["state"] for event in events)
    queues = [one for one in remote.call("GET", "/v2/queues") if one["lag"]]
    keys = [one for one in remote.call("GET", "/v2/flowControl") if one["waitListSize"] or one["parallelismCount"]]
    return Picture(
        sample=sample,
        per_second={
            name: round(states[state] / span_s, 2)
            for name, state in (("published", "CREATED"), ("delivered", "DELIVERED"), ("errors", "ERROR"))
        },
        in_flight=remote.call("GET", "/v2/globalParallelism")["parallelismCount"],
        unfinished=len(remote.pages("/v2/messages", "messages", most=_MOST_COUNTED, size=_MOST_COUNTED)[0]),
        dead_letters=len(remote.pages("/v2/dlq", "messages", most=_MOST_COUNTED)[0]),
        queues=sorted(queues, key=lambda one: -int(one["lag"]))[:_SHOWN],
        keys=sorted(keys, key=lambda one: -int(one["waitListSize"]))[:_SHOWN],
        destinations=_busiest(events, span_s),
    )


def _sample(remote: Remote) -> Sample:
    """All events of the last minute, else of a second and more: a few of a burst would be no measure of anything."""
    from postroad.clock import Clock

    now_ms = Clock().now_ms()
    query = {"fromDate": now_ms - _WINDOW_MS, "trimBody": "true", "count": _PAGE}
    events: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        page = remote.call("GET", "/v2/events", query={**query, "cursor": cursor})
        events += page["events"]
        cursor = page.get("cursor") or None
        if cursor is None or not events:
            return Sample(events, _WINDOW_MS / 1000, is_whole=True)
        # What comes last of a page may have come at the same time as what follows it.
        span_ms = now_ms - events[-1]["time"]
        if len(events) >= _MOST_SAMPLED or (len(events) >= _PAGE and span_ms >= _LEAST_SPAN_MS):
            return Sample(events, max(1, span_ms) / 1000, is_whole=False)


def _busiest(events: list[dict[str, Any]], span_s: float) -> list[dict[str, Any]]:
    ends: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    for event in events:
        if event["state"] in _ENDS:
            host = urlsplit(event["url"]).netloc
            ends[host] += event["state"] != "FAILED"  # The error of the last attempt was counted.
            errors[host] += event["state"] == "ERROR"
    return [
        {"host": host, "perSecond": round(count / span_s, 2), "errors": round(errors[host] / max(1, count), 3)}
        for host, count in ends.most_common(_SHOWN)
    ]


def _live(remote: Remote, picture: Picture, every: float) -> None:
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    with Live(_screen(picture, remote.url), screen=True, auto_refresh=False) as live:
        try:
            while True:
                time.sleep(every)
                try:
                    picture, trouble = look(remote), ""
                except (Unreachable, Rejected) as error:
                    if not error.is_passing:
                        raise
                    trouble = output.plain(error)
                shown = _screen(picture, remote.url)
                live.update(Group(Text(trouble, style="red"), shown) if trouble else shown, refresh=True)
        except KeyboardInterrupt:
            return


def _counts(picture: Picture) -> dict[str, str]:
    def count(number: int) -> str:
        return f"{number:,} or more" if number >= _MOST_COUNTED else f"{number:,}"

    return {
        **{f"{name}/s": f"{rate:,}" for name, rate in picture.per_second.items()},
        "in flight": f"{picture.in_flight:,}",
        "unfinished": count(picture.unfinished),
        "dead letters": count(picture.dead_letters),
    }


def _print(picture: Picture) -> None:
    output.record({**_counts(picture), "rates are of": picture.sample})
    for one in picture.destinations:
        typer.echo(f"destination\t{output.plain(one['host'])}\t{one['perSecond']}\t{one['errors']}")
    for one in picture.queues:
        typer.echo(f"queue\t{output.plain(one['name'])}\t{one['lag']}\t{output.plain(one['paused'])}")
    for one in picture.keys:
        typer.echo(f"key\t{output.plain(one['flowControlKey'])}\t{one['waitListSize']}\t{one['parallelismCount']}")


def _screen(picture: Picture, url: str) -> RenderableType:
    from rich.columns import Columns
    from rich.console import Group
    from rich.panel import Panel
    from rich.text import Text

    panels = [
        Panel(Text(value, justify="center", style="bold"), title=name, width=18)
        for name, value in _counts(picture).items()
    ]
    head = Text(f"Postroad at {url}\nRates are of {picture.sample}", style="dim")
    parts: list[RenderableType] = [head, Columns(panels)]
    parts += [
        _part(
            "Busiest destinations", picture.destinations, ("host", "per second", "errors"),
            lambda one: (one["host"], f"{one['perSecond']:,}", f"{one['errors']:.0%}"),
        ),
        _part(
            "Longest queues", picture.queues, ("queue", "unfinished", "paused"),
            lambda one: (one["name"], f"{one['lag']:,}", output.plain(one["paused"])),
        ),
        _part(
            "Flow-control keys", picture.keys, ("key", "waiting", "active"),
            lambda one: (one["flowControlKey"], f"{one['waitListSize']:,}", f"{one['parallelismCount']:,}"),
        ),
    ]  # fmt: skip
    return Group(*parts)


def _part(title: str, items: list[dict[str, Any]], head: tuple[str, ...], row: Any) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    if not items:
        return Text(f"\n{title}: none", style="dim")
    shown = Table(box=None, title=title, title_justify="left", title_style="bold", header_style="dim", pad_edge=False)
    for number, name in enumerate(head):
        shown.add_column(name, justify="right" if number else "left", min_width=10)
    for one in items:
        shown.add_row(*(Text(output.plain(cell)) for cell in row(one)))
    return shown
