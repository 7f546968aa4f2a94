"""Messages: the list of all, one with its attempts, and what can be done with it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from shlex import quote
from typing import Any

import orjson
from starlette.responses import Response

from postroad.console import payloads
from postroad.console.attempts import Attempted, attempts_in
from postroad.console.inside import ApiRefusedError, segment
from postroad.console.search import NAMES, FilterError, Search, parse, understood
from postroad.console.visit import GoneError, Visit

PAGE = 50
_CHIPS = (
    ("all", "All"),
    ("unfinished", "Unfinished"),
    ("DELIVERED", "Delivered"),
    ("ERROR", "With errors"),
    ("FAILED", "Failed"),
    ("CANCELED", "Canceled"),
)
_ENDS = ("DELIVERED", "FAILED", "CANCELED")
_MOST_EVENTS = "1000"


@dataclass(frozen=True, slots=True)
class Row:
    """A message in the list; `why` says in words what an unfinished one waits for."""

    id: str
    state: str
    method: str
    url: str
    origin: str
    labels: Sequence[str]
    attempts: int
    time: int
    why: str = ""


async def list_page(visit: Visit) -> Response:
    """The newest messages that match, or what is unfinished, the first due first."""
    q, show = visit.query("q"), visit.query("show", "all")
    rows: list[Row] = []
    cursor, problem, search = None, "", Search("", {})
    if q.strip().startswith("msg_") and " " not in q.strip():
        return visit.go(f"/console/messages/{segment(q.strip())}")
    try:
        search = parse(q, now_ms=_now_ms(visit))
        rows, cursor = await _rows(visit, search, show, cursor=visit.query("cursor"))
    except (FilterError, ApiRefusedError) as error:
        problem = str(error)
    return visit.page(
        "messages.html",
        rows=rows,
        cursor=cursor,
        problem=problem,
        q=q,
        show=show,
        chips=_CHIPS,
        names=NAMES,
        same=_command(search, show),
        understood=understood(q),
    )


async def rows_page(visit: Visit) -> Response:
    """Rows that a browser shows already, as they are now; a header says how many newer ones there are."""
    search, show = parse(visit.query("q"), now_ms=_now_ms(visit)), visit.query("show", "all")
    ids = [one for one in visit.query("ids").split(",") if one][:PAGE]
    shown, newest = await asyncio.gather(_known(visit, ids), _rows(visit, search, show))
    answer = visit.page("message_rows.html", rows=shown)
    news = 0
    for row in newest[0]:
        if row.id in ids:
            break
        news += 1
    answer.headers["X-News"] = f"{news}{'+' if news == PAGE else ''}"
    return answer


async def message_page(visit: Visit, message_id: str) -> Response:
    """A message with every attempt."""
    asks = visit.query("ask") == "cancel"
    return visit.page("message.html", asks_to_cancel=asks, **await _message(visit, message_id))


async def live_page(visit: Visit, message_id: str) -> Response:
    """What changes of it."""
    return visit.page("message_live.html", **await _message(visit, message_id))


async def cancel(visit: Visit, message_id: str) -> Response:
    """Cancel it, unless it has ended."""
    await visit.change("DELETE", f"/v2/messages/{segment(message_id)}", action="cancel a message", target=message_id)
    return visit.go(_path(message_id), "It is canceled; an attempt that is under way ends by itself.")


async def hasten(visit: Visit, message_id: str) -> Response:
    """Have it delivered now instead of when it is due."""
    await visit.change(
        "PATCH",
        f"/v2/messages/{segment(message_id)}",
        document={"delay": "0s"},
        action="send a message now",
        target=message_id,
    )
    return visit.go(_path(message_id), "It is due now.")


async def edit_page(visit: Visit, message_id: str) -> Response:
    """The form to change what waits."""
    view = await visit.find(f"/v2/messages/{segment(message_id)}")
    if view is None:
        raise GoneError(f"the message {message_id} (or it has ended)")
    body = payloads.of_message(view)
    return visit.page("message_edit.html", id=message_id, view=view, body=body if isinstance(body, str) else None)


async def edit(visit: Visit, message_id: str) -> Response:
    """Change the body, headers or time of a message that no attempt was made at."""
    document: dict[str, Any] = {}
    if visit.form.has("body") and visit.form.raw("body") != visit.form.raw("body_before"):
        document["body"] = visit.form.raw("body")
    headers = _fields(visit.form.raw("headers"))
    if headers:
        document["headers"] = headers
    if visit.form.text("delay"):
        document["delay"] = visit.form.text("delay")
    await visit.change(
        "PATCH",
        f"/v2/messages/{segment(message_id)}",
        document=document,
        action="change a message",
        target=f"{message_id}: {', '.join(document) or 'nothing'}",
    )
    return visit.go(_path(message_id), "It is changed.")


async def _message(visit: Visit, message_id: str) -> dict[str, Any]:
    name = segment(message_id)
    events, status, unfinished, log = await asyncio.gather(
        visit.get("/v2/events", messageId=message_id, count=_MOST_EVENTS, order="earliestFirst"),
        visit.find(f"/v2/status/{name}"),
        visit.get("/v2/messages", messageIds=message_id),
        visit.find(f"/v2/status/{name}/log"),
    )
    if status is None or not events["events"]:
        raise GoneError(f"the message {message_id}")
    whole = await visit.find(f"/v2/messages/{name}")
    letters = await visit.get("/v2/dlq", messageId=message_id) if status["status"] == "failed" else {"messages": []}
    first, last = events["events"][0], events["events"][-1]
    waiting = unfinished["messages"][0] if unfinished["messages"] else None
    tried = attempts_in(events["events"])
    body = payloads.of_event(first, "body") if whole is None else payloads.of_message(whole)
    return {
        "id": message_id,
        "status": status,
        "first": first,
        "last": last,
        "whole": whole or first,
        "waiting": waiting,
        "attempts": tried,
        "longest_ms": max((one.took_ms or 0 for one in tried), default=0),
        "body": payloads.shown(body),
        "result": payloads.shown(_result(status)),
        "log": (log or {}).get("lines", []),
        "letter": letters["messages"][0] if letters["messages"] else None,
        "is_over": last["state"] in _ENDS,
        "untouched": waiting is not None and not tried,
        "parts": Attempted,
    }


async def _rows(
    visit: Visit, search: Search, show: str, *, cursor: str = "", count: int = PAGE
) -> tuple[list[Row], str | None]:
    params: dict[str, str] = {**search.params, "count": str(count)}
    if cursor:
        params["cursor"] = cursor
    if show == "unfinished":
        search.refused_but("state")
        answer = await visit.get("/v2/messages", **params)
        return [_unfinished(view) for view in answer["messages"]], answer.get("cursor")
    if show != "all":
        params["state"] = show
    if "state" in params:
        # Messages by the events that match, the newest of these first, as they are now.
        answer = await visit.get("/v2/events", trimBody="true", **params)
        ids = list(dict.fromkeys(event["messageId"] for event in answer["events"]))
        return await _known(visit, ids), answer.get("cursor")
    answer = await visit.get("/v2/events", groupBy="messageId", trimBody="true", **params)
    return [_row(one["messageId"], one["events"]) for one in answer["messages"]], answer.get("cursor")


async def _known(visit: Visit, ids: Sequence[str]) -> list[Row]:
    if not ids:
        return []
    answer = await visit.get(
        "/v2/events", groupBy="messageId", trimBody="true", messageIds=",".join(ids), count=str(PAGE)
    )
    found = {one["messageId"]: _row(one["messageId"], one["events"]) for one in answer["messages"]}
    return [found[one] for one in ids if one in found]


def _row(message_id: str, events: Sequence[dict[str, Any]]) -> Row:
    newest = events[0]
    attempts = sum(event["state"] == "ACTIVE" for event in events)
    return Row(
        message_id,
        newest["state"],
        newest["method"],
        newest["url"],
        origin_of(newest),
        newest.get("labels", ()),
        attempts,
        newest["time"],
    )


def _unfinished(view: dict[str, Any]) -> Row:
    return Row(
        view["messageId"],
        view["state"],
        view["method"],
        view["url"],
        origin_of(view),
        view.get("labels", ()),
        view["retried"],
        view["dueAt"],
        f"waits for {view['waitsFor']}",
    )


def origin_of(view: dict[str, Any]) -> str:
    """What a message was published through, in words."""
    for name, words in (("scheduleId", "schedule"), ("topicName", "group"), ("queueName", "queue")):
        if name in view:
            return f"{words} {view[name]}"
    return f"key {view['flowControlKey']}" if "flowControlKey" in view else ""


def _result(status: dict[str, Any]) -> bytes | str | None:
    if "result" not in status:
        return None
    result = status["result"]
    return result if isinstance(result, str) else orjson.dumps(result)


def _fields(text: str) -> dict[str, str]:
    """Headers, one on a line."""
    fields = {}
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if not line.strip():
            continue
        if not colon:
            raise ApiRefusedError(400, f"{line.strip()!r} is no header: expected lines such as X-Name: value")
        fields[name.strip()] = value.strip()
    return fields


def _command(search: Search, show: str) -> str:
    """The filter as options of `postroad logs`, where it has them."""
    options = {
        "host": "--host",
        "path": "--path",
        "url": "--destination",
        "label": "--label",
        "queueName": "--queue",
        "topicName": "--group",
        "scheduleId": "--schedule",
        "flowControlKey": "--flow-key",
        "callerIp": "--caller-ip",
        "state": "--state",
    }
    values = {**search.params, **({"state": show} if show not in ("all", "unfinished") else {})}
    if not values or not set(values) <= set(options):
        return ""
    return " ".join(f"{options[name]} {quote(value)}" for name, value in values.items())


def _path(message_id: str) -> str:
    return f"/console/messages/{segment(message_id)}"


def _now_ms(visit: Visit) -> int:
    return int(visit.context.clock.now_s() * 1000)


ROUTES = (
    ("GET", "/console/messages", list_page),
    ("GET", "/console/messages/rows", rows_page),
    ("GET", "/console/messages/{message_id}", message_page),
    ("GET", "/console/messages/{message_id}/live", live_page),
    ("GET", "/console/messages/{message_id}/edit", edit_page),
    ("POST", "/console/messages/{message_id}/edit", edit),
    ("POST", "/console/messages/{message_id}/cancel", cancel),
    ("POST", "/console/messages/{message_id}/hasten", hasten),
)
