"""The request builder: a message is put together, checked and sent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson
from starlette.responses import Response

from postroad.api.publishing import rehearse, rehearse_batch
from postroad.api.schedules import rehearse_schedule
from postroad.console import payloads
from postroad.console.drafts import FIELDS, METHODS, Draft, DraftError, of_message
from postroad.console.inside import ApiRefusedError, segment
from postroad.console.snippets import SNIPPETS
from postroad.console.visit import GoneError, Visit
from postroad.domain.publication import Request
from postroad.errors import PostroadError, Unavailable

_KINDS = (
    ("publish", "Publish", "now, or after a while"),
    ("enqueue", "Enqueue", "in order, through a queue"),
    ("schedule", "Schedule", "again and again, by cron"),
    ("batch", "Batch", "many messages at once"),
)
_CONTENT_TYPES = ("application/json", "text/plain", "application/x-www-form-urlencoded", "application/xml")
_AN_ITEM = (
    '[\n  {"destination": "https://app.example.com/api/job", "headers": {"Upstash-Retries": "3"}, "body": "…"}\n]'
)


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a draft: in which field of the form, and in the server's words."""

    field: str
    words: str


async def page(visit: Visit) -> Response:
    """The form, empty or with what is to be sent again."""
    return await _form(visit, await _prefilled(visit))


async def check(visit: Visit) -> Response:
    """What the server would say to it, and the same as code; nothing is stored."""
    draft = Draft.of_form(visit.form)
    return visit.page("send_check.html", **await _checked(visit, draft))


async def send(visit: Visit) -> Response:
    """Send it, and show what was made; or the form once more, with what is wrong."""
    draft = Draft.of_form(visit.form)
    if visit.form.has("check"):
        return await _form(visit, draft)
    try:
        answer = await _send(visit, draft)
    except (DraftError, ApiRefusedError) as error:
        problem = await _problem(visit, draft) or Problem(getattr(error, "field", ""), str(error))
        return await _form(visit, draft, problem=problem, http_status=400)
    if draft["dlq"] and draft["drop"]:
        await visit.change(
            "DELETE",
            f"/v2/dlq/{segment(draft['dlq'])}",
            action="delete a dead letter that was sent anew",
            target=draft["dlq"],
        )
    if draft.kind == "schedule":
        return visit.go(f"/console/schedules/{segment(answer['scheduleId'])}", "The schedule is made.")
    if isinstance(answer, dict):
        said = (
            "There is such a message already; this one was not made." if answer.get("deduplicated") else "It is sent."
        )
        return visit.go(f"/console/messages/{segment(answer['messageId'])}", said)
    return visit.page("send_results.html", results=_results(answer))


async def _send(visit: Visit, draft: Draft) -> Any:
    if draft.kind == "batch":
        fields, content = [("content-type", "application/json")], draft["batch"].encode()
        return await visit.change(
            "POST", "/v2/batch", headers=fields, content=content, action="send a batch", target=f"{len(content)} bytes"
        )
    if draft.kind == "enqueue" and not draft["queue"]:
        raise DraftError("queue", "name the queue that it goes through")
    is_schedule = draft.kind == "schedule"
    return await visit.change(
        "POST",
        draft.path,
        headers=draft.headers(),
        content=draft.body,
        action="make a schedule" if is_schedule else "send a message",
        target=f"{draft['schedule_id']} {draft['cron']} {draft['destination']}".strip(),
    )


async def _form(visit: Visit, draft: Draft, *, problem: Problem | None = None, http_status: int = 200) -> Response:
    values = await _checked(visit, draft, problem)
    return visit.page(
        "send.html",
        http_status=http_status,
        kinds=_KINDS,
        methods=METHODS,
        content_types=_CONTENT_TYPES,
        an_item=_AN_ITEM,
        queues=[queue["name"] for queue in await visit.get("/v2/queues")][:200],
        groups=[group["name"] for group in await visit.get("/v2/topics")][:200],
        **values,
    )


async def _checked(visit: Visit, draft: Draft, problem: Problem | None = None) -> dict[str, Any]:
    is_empty = not (draft["batch"] if draft.kind == "batch" else draft["destination"])
    messages = None
    if problem is None and not is_empty:
        found = await _rehearsed(visit, draft)
        problem, messages = (found, None) if isinstance(found, Problem) else (None, found)
    snippets = {}
    if not is_empty:
        try:
            snippets = {name: (title, make(draft)) for name, (title, make) in SNIPPETS.items()}
        except DraftError as error:
            problem = problem or Problem(error.field, str(error))
    return {
        "draft": draft,
        "problem": problem,
        "messages": messages,
        "snippets": snippets,
        "is_empty": is_empty,
        "hint": _hint(draft),
    }


async def _problem(visit: Visit, draft: Draft) -> Problem | None:
    found = await _rehearsed(visit, draft)
    return found if isinstance(found, Problem) else None


async def _rehearsed(visit: Visit, draft: Draft) -> Problem | int:
    """What is wrong with it by the rules that sending it goes by, or how many messages it would make."""
    context, caller = visit.context, visit.session.caller
    try:
        if draft.kind == "batch":
            return await rehearse_batch(context, caller, draft["batch"].encode())
        if draft.kind == "enqueue" and not draft["queue"]:
            raise DraftError("queue", "name the queue that it goes through")
        fields = [(name.lower(), value) for name, value in draft.headers()]
        if draft.kind == "enqueue":
            fields.append(("upstash-queue-name", draft["queue"]))
        request = Request(draft["destination"], fields, draft.body, None)
        if draft.kind == "schedule":
            await rehearse_schedule(context, caller, request)
            return 1
        return await rehearse(context, caller, request, enqueue=draft.kind == "enqueue")
    except Unavailable:
        raise
    except PostroadError as error:
        return Problem(_place(draft, error), str(error))


def _place(draft: Draft, error: PostroadError) -> str:
    if draft.kind == "batch":
        return "batch"
    if isinstance(error, DraftError):
        return error.field
    named = str(getattr(error, "field", "") or "")
    if named.startswith("Upstash-Forward-"):
        return "headers"
    if named.startswith("Upstash-Queue"):
        return "queue"
    if named in FIELDS:
        return FIELDS[named]
    return "delay" if "Delay" in str(error) else "destination"


def _hint(draft: Draft) -> str:
    """What is allowed, and perhaps not meant."""
    if draft.kind != "batch" and "json" in draft["content_type"] and draft["body"].strip():
        try:
            orjson.loads(draft["body"])
        except orjson.JSONDecodeError as error:
            return f"The body is said to be JSON and is none: {error}"
    return ""


def _results(answer: list[Any]) -> list[dict[str, Any]]:
    """Of a batch or a URL group, every message that was made, or what refused it."""
    results: list[dict[str, Any]] = []
    for one in answer:
        results += one if isinstance(one, list) else [one]
    return results


async def _prefilled(visit: Visit) -> Draft:
    message_id = visit.query("again")
    if not message_id:
        kind = visit.query("kind") or ("enqueue" if visit.query("queue") else "publish")
        values = {
            "kind": kind,
            "destination": visit.query("url") or visit.query("group"),
            "queue": visit.query("queue"),
            "content_type": "application/json",
        }
        return Draft({name: value for name, value in values.items() if value})
    view: dict[str, Any] | None = None
    if visit.query("dlq"):
        view = await visit.find(f"/v2/dlq/{segment(visit.query('dlq'))}")
    view = view or await visit.find(f"/v2/messages/{segment(message_id)}")
    if view is not None:
        draft = of_message(view, body=payloads.of_message(view))
    else:
        events = (await visit.get("/v2/events", messageId=message_id, count="1", order="earliestFirst"))["events"]
        if not events:
            raise GoneError(f"the message {message_id}")
        draft = of_message(events[0], body=payloads.of_event(events[0], "body"))
    return Draft({**draft.values, "again": message_id, "dlq": visit.query("dlq"), "drop": "on"})


ROUTES = (
    ("GET", "/console/send", page),
    ("POST", "/console/send", send),
    ("POST", "/console/send/check", check),
)
