"""What commands print: JSON for programs, tables for people, and text between tabs where there is no terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import typer

_LONG = timedelta(days=2)
_LEAST_WIDTH = 12
"""Letters for each column, without which a table is one no more, but ids in pieces: then names and values are shown."""


@dataclass(frozen=True, slots=True)
class Instant:
    """Unix milliseconds. People see how far away it is as well."""

    ms: int

    def __str__(self) -> str:
        return f"{datetime.fromtimestamp(self.ms / 1000, UTC):%Y-%m-%dT%H:%M:%SZ}"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: its title, and what it shows of an item."""

    title: str
    value: Callable[[Any], Any]
    style: str = ""
    is_number: bool = False


def at(name: str, title: str | None = None, *, style: str = "") -> Column:
    """The column of a field."""
    return Column(title or name, lambda item: item.get(name), style)


def number(name: str, title: str | None = None) -> Column:
    """The column of a field that is a number."""
    return Column(title or name, lambda item: item.get(name), is_number=True)


def instant(name: str, title: str | None = None) -> Column:
    """The column of a field that is Unix milliseconds."""
    return Column(title or name, lambda item: None if item.get(name) is None else Instant(item[name]))


def document(value: Any) -> None:
    """One JSON document: indented on a terminal, on one line elsewhere."""
    _print_json(value, indent=2 if is_terminal() else None)


def line(value: Any) -> None:
    """One line of JSON, at once."""
    _print_json(value, indent=None)
    sys.stdout.flush()


def table(items: Sequence[Any], columns: Sequence[Column], *, empty: str) -> None:
    """A table on a terminal; elsewhere a line for each item, without a head, its fields between tabs."""
    if not is_terminal():
        for item in items:
            typer.echo("\t".join(plain(column.value(item)) for column in columns))
        return
    if not items:
        typer.echo(empty)
        return
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if console.width < _LEAST_WIDTH * len(columns):
        for number, item in enumerate(items):
            if number:
                typer.echo("")
            record({column.title: column.value(item) for column in columns})
        return
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        shown.add_column(column.title, justify="right" if column.is_number else "left", style=column.style,
                         overflow="fold")  # fmt: skip
    for item in items:
        shown.add_row(*(_cell(column.value(item)) for column in columns))
    console.print(shown)


def record(values: Mapping[str, Any]) -> None:
    """Names and values, one a line; those that are None are left out."""
    shown = {name: value for name, value in values.items() if value is not None}
    if not is_terminal():
        for name, value in shown.items():
            typer.echo(f"{name}\t{plain(value)}")
        return
    from rich.console import Console
    from rich.table import Table

    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold")
    grid.add_column(overflow="fold")
    for name, value in shown.items():
        grid.add_row(name, _cell(value))
    Console().print(grid)


def is_terminal() -> bool:
    """Whether a person reads what is printed."""
    return sys.stdout.isatty()


def plain(value: Any) -> str:
    """A value as text on one line. What would move the cursor of a terminal is shown instead of sent."""
    return " ".join(harmless(_text(value)).split())


def harmless(text: str) -> str:
    """The text with control characters shown, tabs and ends of lines aside: it comes from strangers."""
    return "".join(one if one.isprintable() or one in "\n\t" else ascii(one)[1:-1] for one in text)


def nearness(instant: Instant) -> str:
    """How far away an instant is: `in 5m`, `3d ago`."""
    from postroad.clock import Clock
    from postroad.domain.duration import format_duration

    away = timedelta(milliseconds=instant.ms - Clock().now_ms())
    distance = abs(away)
    if distance >= _LONG:
        distance = timedelta(days=distance.days)
    elif distance >= timedelta(hours=1):
        distance = timedelta(minutes=distance // timedelta(minutes=1))
    text = format_duration(distance)
    return "now" if text == "0s" else f"in {text}" if away > timedelta(0) else f"{text} ago"


@contextmanager
def progress(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar on stderr while it lasts, if that is a terminal; gives what moves it to so many."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        console=console, disable=not console.is_terminal,
    )  # fmt: skip
    with bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)


def numbered(count: int, noun: str) -> str:
    """`1 message`, `2 messages`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def joined(values: Iterable[Any] | None) -> str | None:
    """Several values in one cell, None for none."""
    return ", ".join(str(value) for value in values or ()) or None


def _print_json(value: Any, *, indent: int | None) -> None:
    """UTF-8, whatever the locale is. JSON leaves some control characters as they are, which a terminal would obey."""
    compact = (",", ":") if indent is None else None
    text = json.dumps(value, ensure_ascii=False, indent=indent, separators=compact)
    if not text.isprintable():
        text = "".join(one if one.isprintable() or one in "\n " else json.dumps(one)[1:-1] for one in text)
    typer.echo(text.encode())


def _text(value: Any) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case _:
            return str(value)


def _cell(value: Any) -> Any:
    from rich.text import Text

    if isinstance(value, Instant):
        return Text.assemble(str(value).replace("T", " ").removesuffix("Z"), " ", (f"({nearness(value)})", "dim"))
    return Text(harmless(_text(value)) or "-", style="" if _text(value) else "dim")
