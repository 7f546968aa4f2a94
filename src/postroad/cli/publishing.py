"""`postroad publish`, `enqueue` and `batch`: messages are sent."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from postroad.cli import output, status
from postroad.cli.options import BadOption, Server, fields_of, spread, time_ms
from postroad.cli.remote import Remote, segment

BATCH = 100
"""Messages of a batch that go in one call."""

_ASIDE = frozenset({"content-type"})
"""Names of headers that are no options and need no prefix to be forwarded."""

Destination = Annotated[str, typer.Argument(help="A URL, or the name of a URL group.", show_default=False)]
_BODY, _HOW = "What is sent", "How it is delivered"


@dataclass(frozen=True, slots=True)
class Content:
    """What is sent."""

    body: Annotated[
        str | None, typer.Option(help="Body; - is standard input.", show_default=False, rich_help_panel=_BODY)
    ] = None
    body_file: Annotated[
        Path | None,
        typer.Option(help="File with the body; - is standard input.", show_default=False, rich_help_panel=_BODY),
    ] = None
    header: Annotated[
        list[str] | None,
        typer.Option(
            "--header",
            "-H",
            show_default=False,
            rich_help_panel=_BODY,
            help="'Name: value', forwarded to the destination. Upstash-* are options of the message.",
        ),
    ] = None
    method: Annotated[
        str | None, typer.Option(help="Method of the delivery: POST.", show_default=False, rich_help_panel=_BODY)
    ] = None

    def read(self) -> bytes:
        """The body. Raises `BadOption`."""
        if self.body is not None and self.body_file is not None:
            raise BadOption("--body-file", str(self.body_file), "only one of --body and --body-file")
        if "-" in (self.body, str(self.body_file)):
            return sys.stdin.buffer.read()
        if self.body_file is None:
            return (self.body or "").encode()
        return content_of("--body-file", self.body_file)

    def headers(self, body: bytes) -> dict[str, str]:
        """As the API takes them."""
        headers = {}
        for name, value in fields_of("--header", self.header):
            is_known = name.lower().startswith("upstash-") or name.lower() in _ASIDE
            headers[name if is_known else f"Upstash-Forward-{name}"] = value
        if body and not any(name.lower() == "content-type" for name in headers):
            headers["Content-Type"] = _content_type(body)
        if self.method is not None:
            headers["Upstash-Method"] = self.method.upper()
        return headers


@dataclass(frozen=True, slots=True)
class Delivery:
    """How it is delivered."""

    delay: Annotated[
        str | None, typer.Option(help="Not before so long: 10s, 1d2h.", show_default=False, rich_help_panel=_HOW)
    ] = None
    not_before: Annotated[
        str | None,
        typer.Option(
            help="Not before this time: 2026-01-31T12:00Z, or Unix seconds.", show_default=False, rich_help_panel=_HOW
        ),
    ] = None
    retries: Annotated[
        int | None, typer.Option(help="How often it is tried again.", show_default=False, rich_help_panel=_HOW)
    ] = None
    timeout: Annotated[
        str | None, typer.Option(help="How long an attempt may take.", show_default=False, rich_help_panel=_HOW)
    ] = None
    callback: Annotated[
        str | None, typer.Option(help="URL that is told of each attempt.", show_default=False, rich_help_panel=_HOW)
    ] = None
    failure_callback: Annotated[
        str | None, typer.Option(help="URL that is told of a failure.", show_default=False, rich_help_panel=_HOW)
    ] = None
    dedup_id: Annotated[
        str | None,
        typer.Option(help="A second message with this id is not sent.", show_default=False, rich_help_panel=_HOW),
    ] = None
    label: Annotated[
        list[str] | None, typer.Option(help="Label, may be repeated.", show_default=False, rich_help_panel=_HOW)
    ] = None
    flow_key: Annotated[
        str | None, typer.Option(help="Flow-control key.", show_default=False, rich_help_panel=_HOW)
    ] = None
    rate: Annotated[
        int | None, typer.Option(help="At most so many in a period.", show_default=False, rich_help_panel=_HOW)
    ] = None
    period: Annotated[
        str | None, typer.Option(help="The period: 1s, 1m.", show_default=False, rich_help_panel=_HOW)
    ] = None
    parallelism: Annotated[
        int | None, typer.Option(help="At most so many at a time.", show_default=False, rich_help_panel=_HOW)
    ] = None

    def headers(self) -> dict[str, str]:
        """As the API takes them. Raises `BadOption`."""
        flow = {"rate": self.rate, "period": self.period, "parallelism": self.parallelism}
        limits = ", ".join(f"{name}={value}" for name, value in flow.items() if value is not None)
        if limits and self.flow_key is None:
            raise BadOption("--flow-key", "", "a key, because --rate, --period and --parallelism are limits of a key")
        values = {
            "Upstash-Delay": self.delay,
            "Upstash-Not-Before": None if self.not_before is None else _unix(self.not_before),
            "Upstash-Retries": self.retries,
            "Upstash-Timeout": self.timeout,
            "Upstash-Callback": self.callback,
            "Upstash-Failure-Callback": self.failure_callback,
            "Upstash-Deduplication-Id": self.dedup_id,
            "Upstash-Label": ",".join(self.label or ()) or None,
            "Upstash-Flow-Control-Key": self.flow_key,
            "Upstash-Flow-Control-Value": limits or None,
        }
        return {name: str(value) for name, value in values.items() if value is not None}


@spread
def publish(
    destination: Destination,
    content: Content,
    delivery: Delivery,
    at: Server,
    cron: Annotated[
        str | None,
        typer.Option(help="Makes a schedule instead: '0 9 * * *'.", show_default=False, rich_help_panel=_HOW),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Follow it until the end, as `status --wait`.")] = False,
    within: status.Within = None,
) -> None:
    """Publish a message, and print its id."""
    deadline = status.deadline_of(within)
    body = content.read()
    headers = content.headers(body) | delivery.headers() | ({} if cron is None else {"Upstash-Cron": cron})
    with at.opened() as remote:
        answer = remote.call("POST", f"/v2/publish/{unfragmented(destination)}", headers=headers, body=body)
        _tell(remote, answer, at, wait=wait, deadline=deadline)


@spread
def enqueue(
    queue: Annotated[str, typer.Argument(help="Name of the queue.", show_default=False)],
    destination: Destination,
    content: Content,
    delivery: Delivery,
    at: Server,
    wait: Annotated[bool, typer.Option("--wait", help="Follow it until the end, as `status --wait`.")] = False,
    within: status.Within = None,
) -> None:
    """Put a message into a queue, and print its id."""
    deadline = status.deadline_of(within)
    body = content.read()
    path = f"/v2/enqueue/{segment(queue)}/{unfragmented(destination)}"
    with at.opened() as remote:
        answer = remote.call("POST", path, headers=content.headers(body) | delivery.headers(), body=body)
        _tell(remote, answer, at, wait=wait, deadline=deadline)


@spread
def batch(
    file: Annotated[
        Path,
        typer.Argument(help="JSON array, or a line of JSON for each message; - is standard input.", show_default=False),
    ],
    at: Server,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read the file and count, but send nothing.")] = False,
) -> None:
    """Publish many messages, each as POST /v2/batch takes it: destination, headers, body, queue.

    They go in parts of 100, each part as a whole or not at all. What was sent before a part that is refused stays sent.
    """
    items = _items(file)
    if dry_run:
        if at.json:
            output.document({"dryRun": True, "messages": len(items)})
        else:
            typer.echo(f"{output.numbered(len(items), 'message')} would be sent.")
        return
    answers: list[Any] = []
    sent = 0
    with at.opened() as remote:
        try:
            with output.progress("Publishing", len(items)) as show:
                for start in range(0, len(items), BATCH):
                    part = items[start : start + BATCH]
                    answers += remote.call("POST", "/v2/batch", json=part)
                    sent += len(part)
                    show(sent)
        finally:
            # Whatever ends it, be it Ctrl-C: what was sent stays sent, and its ids cannot be had again.
            if answers or sent == len(items):
                _tell_batch(answers, at)
            if 0 < sent < len(items):
                typer.echo(f"The first {output.numbered(sent, 'message')} of the file were sent.", err=True)


def content_of(option: str, path: Path) -> bytes:
    """The bytes of a file. Raises `BadOption`."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadOption(option, str(path), f"a file that can be read ({error.strerror})") from None


def unfragmented(destination: str) -> str:
    """A destination at the end of a path; a number sign would end the path."""
    return destination.replace("#", "%23")


def _tell(remote: Remote, answer: Any, at: Server, *, wait: bool, deadline: float | None) -> None:
    """Print what was made, and wait for its end."""
    made = answer if isinstance(answer, list) else [answer]
    ids = [one["messageId"] for one in made if "messageId" in one]
    if not ids or not (wait or deadline is not None):
        if at.json:
            output.document(answer)
        else:
            for one in made:
                typer.echo(one.get("messageId") or one.get("scheduleId"))
                if one.get("deduplicated"):
                    typer.echo("It is a duplicate of this message, which was published before.", err=True)
        return
    if not at.json:
        typer.echo("\n".join(ids), err=True)
    status.finish([status.followed(remote, one, deadline=deadline) for one in ids], as_json=at.json)


def _tell_batch(answers: list[Any], at: Server) -> None:
    if at.json:
        output.document(answers)
        return
    for answer in answers:
        for one in answer if isinstance(answer, list) else [answer]:
            typer.echo(output.plain(one.get("messageId") or one.get("error")))


def _unix(text: str) -> int:
    return time_ms("--not-before", text) // 1000


def _content_type(body: bytes) -> str:
    try:
        json.loads(body)
    except ValueError:
        pass
    else:
        return "application/json"
    try:
        body.decode()
    except UnicodeDecodeError:
        return "application/octet-stream"
    return "text/plain; charset=utf-8"


def _items(file: Path) -> list[Any]:
    """The items of a file. Raises `BadOption`."""
    content = sys.stdin.buffer.read() if str(file) == "-" else content_of("FILE", file)
    try:
        if content.lstrip()[:1] == b"[":
            items = cast("list[Any]", json.loads(content))
        else:
            items = [json.loads(line) for line in content.splitlines() if line.strip()]
    except ValueError as error:
        raise BadOption("FILE", str(file), f"a JSON array, or a JSON object on each line ({error})") from None
    for number, item in enumerate(items):
        if not isinstance(item, dict) or "destination" not in item:
            expected = "objects with a destination, as POST /v2/batch takes them"
            raise BadOption("FILE", f"item {number}: {json.dumps(item)[:60]}", expected)
    return items
