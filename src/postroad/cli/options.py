"""Options that many commands have, each group of them as one value."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from datetime import UTC, datetime
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from postroad.errors import InvalidValue, PostroadError

if TYPE_CHECKING:
    from postroad.cli.remote import Remote

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_SERVER = "Server and output"
_FILTERS = "Filters (several values mean any of them)"
_CONSENT = "Consent"


class BadOption(PostroadError):
    """An option or an argument that is not allowed so, or is missing: wrong usage."""

    def __init__(self, option: str, value: str, expected: str) -> None:
        self.option, self.value, self.expected = option, value, expected
        got = f"invalid {option}: got {value!r}," if value else f"{option}:"
        super().__init__(f"{got} expected {expected}")


class NotConfirmed(PostroadError):
    """What destroys something was not agreed to."""


class NotThere(PostroadError):
    """What was named is not there, or some of it: then the rest was done."""


def spread(function: Callable[..., None]) -> Callable[..., None]:
    """The function as typer can take it: a parameter that is a dataclass becomes the options that its fields are."""
    hints = get_type_hints(function, include_extras=True)
    groups: dict[str, Any] = {}
    flat: list[inspect.Parameter] = []
    for parameter in inspect.signature(function).parameters.values():
        kind = hints[parameter.name]
        if not is_dataclass(kind):
            flat.append(parameter.replace(annotation=kind, kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        groups[parameter.name] = kind
        of_fields = get_type_hints(kind, include_extras=True)
        flat += [
            inspect.Parameter(
                one.name, inspect.Parameter.KEYWORD_ONLY, default=one.default, annotation=of_fields[one.name]
            )
            for one in fields(kind)
        ]

    @wraps(function)
    def command(**given: Any) -> None:
        for name, kind in groups.items():
            given[name] = kind(**{one.name: given.pop(one.name) for one in fields(kind)})
        function(**given)

    del command.__wrapped__
    command.__signature__ = inspect.Signature(flat)  # type: ignore[attr-defined]  # what inspect looks for
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in flat}
    return command


Json = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]
"""Of commands that ask no server."""


@dataclass(frozen=True, slots=True)
class Server:
    """Which server is spoken to, and for whom it is printed."""

    url: Annotated[
        str | None,
        typer.Option(
            envvar="QSTASH_URL",
            show_default=False,
            help="URL of the server: http://127.0.0.1:8080.",
            rich_help_panel=_SERVER,
        ),
    ] = None
    token: Annotated[
        str | None,
        typer.Option(envvar="QSTASH_TOKEN", show_default=False, help="Token.", rich_help_panel=_SERVER),
    ] = None
    json: Annotated[bool, typer.Option("--json", help="Print what the API says, as JSON.", rich_help_panel=_SERVER)] = (
        False
    )

    @contextmanager
    def opened(self) -> Iterator[Remote]:
        """The API of the server, for as long as this lasts."""
        from postroad.cli.remote import Remote

        remote = Remote(self.url, self.token)
        try:
            yield remote
        finally:
            remote.close()


@dataclass(frozen=True, slots=True)
class Consent:
    """Whether what destroys something may go ahead."""

    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would happen, and do nothing.", rich_help_panel=_CONSENT)
    ] = False
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.", rich_help_panel=_CONSENT)] = False

    def ask(self, what: str) -> None:
        """Ask on a terminal; without one nobody could answer. Raises `NotConfirmed`."""
        if self.yes:
            return
        if not sys.stdin.isatty():
            raise NotConfirmed(
                f"there is no terminal to ask: {what[0].lower()}{what[1:]}? Say --yes, or --dry-run to see it first"
            )
        if not typer.confirm(f"{what}?", err=True):
            raise NotConfirmed("nothing was done")


_Texts = list[str] | None


@dataclass(frozen=True, slots=True)
class Filters:
    """Which messages a command is about, as the API filters them."""

    destination: Annotated[
        _Texts, typer.Option(help="Whole URL that messages go to.", show_default=False, rich_help_panel=_FILTERS)
    ] = None
    queue: Annotated[_Texts, typer.Option(help="Queue.", show_default=False, rich_help_panel=_FILTERS)] = None
    group: Annotated[_Texts, typer.Option(help="URL group.", show_default=False, rich_help_panel=_FILTERS)] = None
    schedule: Annotated[
        _Texts, typer.Option(help="Id of a schedule.", show_default=False, rich_help_panel=_FILTERS)
    ] = None
    flow_key: Annotated[
        _Texts, typer.Option(help="Flow-control key.", show_default=False, rich_help_panel=_FILTERS)
    ] = None
    label: Annotated[_Texts, typer.Option(help="Label.", show_default=False, rich_help_panel=_FILTERS)] = None
    caller_ip: Annotated[
        _Texts, typer.Option(help="Address of the publisher.", show_default=False, rich_help_panel=_FILTERS)
    ] = None
    since: Annotated[
        str | None,
        typer.Option(
            help="From this time on: 2026-01-31T12:00Z, or so long ago: 1h.",
            show_default=False,
            rich_help_panel=_FILTERS,
        ),
    ] = None
    until: Annotated[
        str | None,
        typer.Option(help="Up to this time, or until so long ago.", show_default=False, rich_help_panel=_FILTERS),
    ] = None

    def query(self) -> dict[str, Any]:
        """The parameters of the API, without those that were not given."""
        return given(
            url=self.destination,
            queueName=self.queue,
            topicName=self.group,
            scheduleId=self.schedule,
            flowControlKey=self.flow_key,
            label=self.label,
            callerIp=self.caller_ip,
            fromDate=None if self.since is None else instant_ms("--since", self.since),
            toDate=None if self.until is None else instant_ms("--until", self.until),
        )


@dataclass(frozen=True, slots=True)
class Places:
    """... and where exactly, which the dead letter queue cannot tell."""

    host: Annotated[_Texts, typer.Option(help="Host of the URL.", show_default=False, rich_help_panel=_FILTERS)] = None
    path: Annotated[_Texts, typer.Option(help="Path of the URL.", show_default=False, rich_help_panel=_FILTERS)] = None

    def query(self) -> dict[str, Any]:
        """The parameters of the API."""
        return given(host=self.host, path=self.path)


def given(**values: Any) -> dict[str, Any]:
    """Those of the values that are there."""
    return {name: value for name, value in values.items() if value is not None and value != []}


def instant_ms(option: str, text: str) -> int:
    """Unix milliseconds of a time, or of a duration before now. Raises `BadOption`."""
    from postroad.clock import Clock
    from postroad.domain.duration import parse_duration

    try:
        return Clock().now_ms() - int(parse_duration(text).total_seconds() * 1000)
    except InvalidValue:
        return time_ms(option, text)


def time_ms(option: str, text: str) -> int:
    """Unix milliseconds of a time: ISO 8601, in UTC where it does not say, or Unix seconds. Raises `BadOption`."""
    if text.isascii() and text.isdigit() and len(text) <= 11:
        return int(text) * 1000
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        expected = "a time such as 2026-01-31T12:00Z, Unix seconds, or a duration such as 30s, 15m or 1d10h"
        raise BadOption(option, text, expected) from None
    return int((instant if instant.tzinfo else instant.replace(tzinfo=UTC)).timestamp() * 1000)


def seconds(option: str, text: str) -> float:
    """The seconds of a duration; a number alone is seconds. Raises `BadOption`."""
    from postroad.domain.duration import parse_duration

    try:
        return parse_duration(text, bare_seconds=True).total_seconds()
    except InvalidValue as error:
        raise BadOption(option, text, error.expected) from None


def fields_of(option: str, texts: list[str] | None) -> list[tuple[str, str]]:
    """Header fields from texts such as `Name: value`. Raises `BadOption`."""
    pairs = []
    for text in texts or ():
        name, colon, value = text.partition(":")
        if not colon or not _TOKEN.fullmatch(name.strip()):
            raise BadOption(option, text, "'Name: value'")
        pairs.append((name.strip(), value.strip()))
    return pairs
