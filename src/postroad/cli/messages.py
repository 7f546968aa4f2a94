"""`postroad messages`, `message`, `edit` and `cancel`: what is unfinished is looked at, changed and cancelled."""

from __future__ import annotations

import time
from base64 import b64decode
from typing import Annotated, Any

import typer

from postroad.cli import output, publishing, status
from postroad.cli.options import BadOption, Consent, Filters, NotThere, Places, Server, given, spread, time_ms
from postroad.cli.remote import Rejected, Remote, segment

STEP = 1_000
_NOT_FOUND = 404
_LOOK_AGAIN_S = 0.2
_PAGE = 1_000
_MOST_BODY_BYTES = 1_000

Count = Annotated[int, typer.Option("--count", "-n", min=1, help="At most so many.")]
MessageId = Annotated[str, typer.Argument(metavar="ID", help="Id of a message.", show_default=False)]

_COLUMNS = (
    output.at("messageId", "message"),
    output.at("state"),
    output.instant("dueAt", "due"),
    output.at("waitsFor", "waits for"),
    output.Column("queue or key", lambda item: item.get("queueName") or item.get("flowControlKey")),
    output.at("url", "destination"),
)
_EVENT_COLUMNS = (
    output.instant("time"),
    output.at("state"),
    output.Column("response", lambda event: event.get("responseStatus")),
    output.Column("error", lambda event: event.get("error") or _text(event.get("responseBody"))),
    output.instant("nextDeliveryTime", "next attempt"),
)
_LINE_COLUMNS = (output.instant("time"), output.at("text", "its handler says"))


@spread
def messages(where: Filters, places: Places, at: Server, count: Count = 100) -> None:
    """List what is unfinished, what is due first, and say why it waits."""
    with at.opened() as remote:
        found, cursor = remote.pages("/v2/messages", "messages", query=where.query() | places.query(), most=count)
    if at.json:
        output.document({**({"cursor": cursor} if cursor else {}), "messages": found})
        return
    output.table(found, _COLUMNS, empty="Nothing is unfinished.")
    if cursor:
        typer.echo(f"There are more than these {count:,}; see them with --count.", err=True)


@spread
def message(message_id: MessageId, at: Server) -> None:
    """Print all that is known of a message: what it is, what became of it, and each of its events."""
    with at.opened() as remote:
        try:
            one = remote.call("GET", f"/v2/messages/{segment(message_id)}")
        except Rejected as error:
            if error.status != _NOT_FOUND:
                raise
            gone = error
            one = None
        query = {"messageId": message_id, "order": "earliestFirst", "trimBody": None if at.json else _MOST_BODY_BYTES}
        events, _ = remote.pages("/v2/events", "events", query=query, size=_PAGE)
        if one is None and not events:
            raise gone
        state, lines = status.found(remote, message_id)
    if at.json:
        output.document({"message": one, "status": state, "events": events, "lines": lines})
        return
    _print(message_id, one or events[-1], state, is_kept=one is not None)
    if output.is_terminal():
        typer.echo("")
    output.table(events, _EVENT_COLUMNS, empty="No events.")
    if lines:
        if output.is_terminal():
            typer.echo("")
        output.table(lines, _LINE_COLUMNS, empty="")


@spread
def edit(
    message_id: MessageId,
    content: publishing.Content,
    at: Server,
    delay: Annotated[str | None, typer.Option(help="Not before so long from now: 10s.", show_default=False)] = None,
    not_before: Annotated[
        str | None, typer.Option(help="Not before this time: 2026-01-31T12:00Z.", show_default=False)
    ] = None,
) -> None:
    """Change the body, the headers or the time of a message that no attempt was made at yet."""
    has_body = content.body is not None or content.body_file is not None
    body = content.read()
    changes = given(
        body=_utf8(body) if has_body else None,
        headers=content.headers(body) or None,
        delay=delay,
        notBefore=None if not_before is None else time_ms("--not-before", not_before) // 1000,
    )
    if not changes:
        raise BadOption("edit", "", "something to change: --body, --body-file, --header, --delay or --not-before")
    with at.opened() as remote:
        answer = remote.call("PATCH", f"/v2/messages/{segment(message_id)}", json=changes)
    if at.json:
        output.document(answer)
    else:
        typer.echo(f"{message_id} is changed.")


@spread
def cancel(
    where: Filters,
    places: Places,
    consent: Consent,
    at: Server,
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="[ID]...", help="Ids of messages.", show_default=False)
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Everything that is unfinished.")] = False,
) -> None:
    """Cancel messages by id, or all that match filters. An attempt that is under way ends, but counts no more."""
    query = where.query() | places.query()
    check_choice(ids, query, all_=all_)
    with at.opened() as remote:
        if consent.dry_run:
            count = _count(remote, ids, query)
            if at.json:
                output.document({"dryRun": True, "cancelled": count})
            else:
                typer.echo(f"{output.numbered(count, 'message')} would be cancelled.")
            return
        if ids:
            if len(ids) > 1:
                consent.ask(f"Cancel {output.numbered(len(ids), 'message')}")
            answer = _cancel_ids(remote, ids)
        else:
            count = _count(remote, None, query)
            consent.ask(f"Cancel {output.numbered(count, 'unfinished message' if all_ else 'matching message')}")
            answer = _cancel_matching(remote, query)
    if at.json:
        output.document(answer)
    else:
        typer.echo(f"{output.numbered(answer['cancelled'], 'message')} cancelled.")
    missing = len(set(ids or ())) - answer["cancelled"]
    if ids and missing:
        raise NotThere(f"{missing} of the ids {'is' if missing == 1 else 'are'} of no unfinished message")


def check_choice(ids: list[str] | None, query: dict[str, Any], *, all_: bool) -> None:
    """Refuse what could mean everything without saying so, and what says two things. Raises `BadOption`."""
    if ids and (query or all_):
        raise BadOption("ID", ids[0], "either ids, or filters, or --all")
    if not ids and not query and not all_:
        raise BadOption("ID", "", "ids, filters, or --all for everything")


def _cancel_ids(remote: Remote, ids: list[str]) -> dict[str, Any]:
    if len(ids) == 1:
        only: dict[str, Any] = remote.call("DELETE", f"/v2/messages/{segment(ids[0])}")
        return only
    cancelled = 0
    with output.progress("Cancelling", len(ids)) as show:
        for start in range(0, len(ids), STEP):
            part = ids[start : start + STEP]
            cancelled += remote.call("DELETE", "/v2/messages", json={"messageIds": part})["cancelled"]
            show(start + len(part))
    return {"cancelled": cancelled}


def _cancel_matching(remote: Remote, query: dict[str, Any]) -> dict[str, Any]:
    """Begin a bulk action, and watch it to its end."""
    begun = remote.call("DELETE", "/v2/messages", query={**query, "async": "true"})
    try:
        with output.progress("Cancelling", begun["cancelled"]) as show:
            while (action := remote.call("GET", f"/v2/bulkActions/{begun['actionId']}"))["state"] != "FINISHED":
                show(action["processed"])
                time.sleep(_LOOK_AGAIN_S)
            show(action["processed"])
    except KeyboardInterrupt:
        typer.echo(f"The server goes on with it, as bulk action {begun['actionId']}.", err=True)
        raise
    return {"cancelled": action["processed"], "actionId": begun["actionId"]}


def _count(remote: Remote, ids: list[str] | None, query: dict[str, Any]) -> int:
    """How many unfinished messages there are."""
    if not ids:
        return len(remote.pages("/v2/messages", "messages", query=query, size=STEP)[0])
    found = 0
    for start in range(0, len(ids), 50):
        part = {"messageIds": ids[start : start + 50]}
        found += len(remote.pages("/v2/messages", "messages", query=part)[0])
    return found


def _print(message_id: str, one: dict[str, Any], state: dict[str, Any] | None, *, is_kept: bool) -> None:
    """The message as a record. The log, where it is not kept itself any more, has its body as base64."""
    state = state or {}
    body = one.get("body") if is_kept else _text(one.get("body"))
    headers = [f"{name}: {value}" for name, values in (one.get("header") or {}).items() for value in values]
    output.record(
        {
            "message": message_id,
            "status": state.get("status"),
            "progress": None if state.get("progress") is None else f"{state['progress']:g} %",
            "note": state.get("note"),
            "state": one.get("state") if is_kept else None,
            "waits for": one.get("waitsFor"),
            "destination": f"{one['method']} {one['url']}",
            "created": output.Instant(one["createdAt"]) if one.get("createdAt") else None,
            "not before": output.Instant(one["notBefore"]) if one.get("notBefore") else None,
            "retries": one.get("maxRetries"),
            "queue": one.get("queueName"),
            "flow-control key": one.get("flowControlKey"),
            "group": one.get("topicName"),
            "schedule": one.get("scheduleId"),
            "labels": output.joined(one.get("labels")),
            "callback": one.get("callback"),
            "failure callback": one.get("failureCallback"),
            "headers": "\n".join(headers) or None,
            "body": body if body is not None else one.get("bodyBase64"),
            "result": status.shown(state.get("result")),
            "error": state.get("error"),
        }
    )


def _text(base64: str | None) -> str | None:
    if base64 is None or base64.startswith("REDACTED:"):
        return base64
    return b64decode(base64).decode("utf-8", "replace")


def _utf8(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError:
        raise BadOption("--body-file", f"{len(body)} bytes", "text, because it is sent as JSON") from None
