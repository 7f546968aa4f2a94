"""`postroad dlq`: dead letters are looked at, retried and deleted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from postroad.cli import output
from postroad.cli.messages import Count
from postroad.cli.options import BadOption, Consent, Filters, NotThere, Server, fields_of, given, spread
from postroad.cli.remote import Remote, segment

commands = typer.Typer(help="Dead letters: messages that were given up.", no_args_is_help=True)

PAGE = 100

Ids = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Ids of dead letters.", show_default=False)]
All = Annotated[bool, typer.Option("--all", help="All that match the filters; all there are without any.")]

_COLUMNS = (
    output.at("dlqId", "dead letter"),
    output.instant("createdAt", "created"),
    output.Column("response", lambda letter: letter.get("responseStatus") or "none"),
    output.at("url", "destination"),
    output.Column("answer", lambda letter: (letter.get("responseBody") or "")[:200]),
    output.at("messageId", "message"),
)


@dataclass(frozen=True, slots=True)
class Answers:
    """... and what the destination answered."""

    response_status: Annotated[
        list[int] | None,
        typer.Option(help="Status of the last response, 0 for none.", show_default=False, rich_help_panel="Filters"),
    ] = None

    def query(self) -> dict[str, Any]:
        """The parameters of the API."""
        return given(responseStatus=self.response_status)


@commands.command("list")
@spread
def list_(where: Filters, answers: Answers, at: Server, count: Count = 100) -> None:
    """List dead letters, the newest first."""
    with at.opened() as remote:
        letters, cursor = remote.pages("/v2/dlq", "messages", query=where.query() | answers.query(), most=count)
    if at.json:
        output.document({**({"cursor": cursor} if cursor else {}), "messages": letters})
        return
    output.table(letters, _COLUMNS, empty="There are no dead letters.")
    if cursor:
        typer.echo(f"There are more than these {count:,}; see them with --count.", err=True)


@commands.command()
@spread
def show(
    dlq_id: Annotated[str, typer.Argument(metavar="ID", help="Id of the dead letter.", show_default=False)], at: Server
) -> None:
    """Print a dead letter: the message, and the last answer of its destination."""
    with at.opened() as remote:
        letter = remote.call("GET", f"/v2/dlq/{segment(dlq_id)}")
    if at.json:
        output.document(letter)
        return
    output.record(
        {
            "dead letter": letter["dlqId"],
            "message": letter["messageId"],
            "destination": f"{letter['method']} {letter['url']}",
            "created": output.Instant(letter["createdAt"]),
            "retries": letter.get("maxRetries"),
            "queue": letter.get("queueName"),
            "flow-control key": letter.get("flowControlKey"),
            "group": letter.get("topicName"),
            "schedule": letter.get("scheduleId"),
            "labels": output.joined(letter.get("labels")),
            "headers": _fields(letter.get("header")),
            "body": letter.get("body", letter.get("bodyBase64")),
            "response": letter.get("responseStatus") or "none",
            "response headers": _fields(letter.get("responseHeader")),
            "answer": letter.get("responseBody", letter.get("responseBodyBase64")),
        }
    )


@commands.command()
@spread
def retry(
    where: Filters,
    answers: Answers,
    consent: Consent,
    at: Server,
    ids: Ids = None,
    all_: All = False,
    header: Annotated[
        list[str] | None,
        typer.Option(
            "--header", "-H", help="'Upstash-Retries: 5' and the like, instead of what it had.", show_default=False
        ),
    ] = None,
) -> None:
    """Publish dead letters anew, by id or all that match filters; each is a new message then.

    One whose destination would be refused today stays where it is.
    """
    headers = dict(fields_of("--header", header))

    def step(remote: Remote, query: dict[str, Any]) -> tuple[list[Any], str | None]:
        answer = remote.call("POST", "/v2/dlq/retry", query=query, headers=headers)
        return answer["responses"], answer.get("cursor")

    work = _Work("Retry", "Retrying", "retried", "responses", step)
    _change(work, ids, where.query() | answers.query(), consent, at, all_=all_)


@commands.command()
@spread
def delete(where: Filters, answers: Answers, consent: Consent, at: Server, ids: Ids = None, all_: All = False) -> None:
    """Delete dead letters for ever, by id or all that match filters."""

    def step(remote: Remote, query: dict[str, Any]) -> tuple[list[Any], str | None]:
        answer = remote.call("DELETE", "/v2/dlq", query=query)
        return [None] * answer["deleted"], answer.get("cursor")

    work = _Work("Delete", "Deleting", "deleted", "deleted", step)
    _change(work, ids, where.query() | answers.query(), consent, at, all_=all_)


@dataclass(frozen=True, slots=True)
class _Work:
    """What is done with many letters: in words, and one page of it, with the cursor of the next."""

    verb: str
    gerund: str
    participle: str
    field: str
    step: Callable[[Remote, dict[str, Any]], tuple[list[Any], str | None]]


def _change(
    work: _Work, ids: list[str] | None, query: dict[str, Any], consent: Consent, at: Server, *, all_: bool
) -> None:
    """Do it with all letters that are meant, page after page."""
    if bool(ids) == all_ or (ids and query):
        raise BadOption("ID", (ids or [""])[0], "either ids, or --all with or without filters")
    with at.opened() as remote:
        parts = [{"dlqIds": (ids or [])[start : start + PAGE]} for start in range(0, len(ids or ()), PAGE)] or [query]
        count = sum(len(remote.pages("/v2/dlq", "messages", query=part)[0]) for part in parts)
        if consent.dry_run:
            if at.json:
                output.document({"dryRun": True, work.participle: count})
            else:
                typer.echo(f"{output.numbered(count, 'dead letter')} would be {work.participle}.")
            return
        if not ids or len(ids) > 1 or work.verb == "Delete":
            consent.ask(f"{work.verb} {output.numbered(count, 'dead letter')}")
        done: list[Any] = []
        is_whole = False
        try:
            with output.progress(work.gerund, count) as show:
                for some in _pages(work, remote, parts):
                    done += some
                    show(len(done))
            is_whole = True
        finally:
            # Whatever ends it, be it Ctrl-C: what is done stays done, and the ids of new messages cannot be had again.
            if done or is_whole:
                _tell(work, done, count, at)
    missing = len(set(ids or ())) - len(done)
    if ids and missing:
        raise NotThere(f"{missing} of the ids {'was' if missing == 1 else 'were'} not {work.participle}")


def _pages(work: _Work, remote: Remote, parts: list[dict[str, Any]]) -> Iterator[list[Any]]:
    """Do it page after page, and give what each came to."""
    for part in parts:
        cursor: str | None = None
        while True:
            some, cursor = work.step(remote, {**part, "count": PAGE, "cursor": cursor})
            yield some
            if not cursor:
                break


def _tell(work: _Work, done: list[Any], count: int, at: Server) -> None:
    if at.json:
        output.document({work.field: len(done) if work.verb == "Delete" else done})
    elif work.verb == "Retry" and not output.is_terminal():
        for one in done:
            typer.echo(output.plain(one["messageId"]))
    else:
        typer.echo(f"{output.numbered(len(done), 'dead letter')} {work.participle}.")
    if len(done) < count:
        typer.echo(f"{output.numbered(count - len(done), 'dead letter')} stayed.", err=True)


def _fields(headers: dict[str, list[str]] | None) -> str | None:
    return "\n".join(f"{name}: {value}" for name, values in (headers or {}).items() for value in values) or None
