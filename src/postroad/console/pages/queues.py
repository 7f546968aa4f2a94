"""Queues: what goes one after the other."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from postroad.console.inside import ApiRefusedError, segment
from postroad.console.visit import GoneError, Visit
from postroad.domain.ids import message_text
from postroad.store import queues

SHOWN = 50
"""Messages of a queue that its page shows."""

_MOST_DIGITS = 12


async def list_page(visit: Visit) -> Response:
    """All queues, and the form to make one."""
    return await _list(visit)


async def rows_page(visit: Visit) -> Response:
    """Queues that a browser shows already, as they are now."""
    ids = visit.query("ids").split(",")
    found = {one["name"]: one for one in await visit.get("/v2/queues")}
    return visit.page("queue_rows.html", queues=[found[one] for one in ids if one in found])


async def create(visit: Visit) -> Response:
    """Make a queue; one that is there is left as it is."""
    name = visit.form.text("name")
    if name and await visit.find(f"/v2/queues/{segment(name)}") is not None:
        return await _list(visit, problem=f"there is a queue {name} already")
    try:
        await _set(visit, name, visit.form.text("parallelism"), paused=False, action="make a queue")
    except ApiRefusedError as error:
        if not visit.may_change:
            raise  # There is no form for the words to stand beside.
        return await _list(visit, problem=str(error))
    return visit.go(_path(name), "It is made. Messages go into it with the header Upstash-Queue-Name, or by enqueue.")


async def queue_page(visit: Visit, name: str) -> Response:
    """A queue with its first messages."""
    return visit.page("queue.html", **await _queue(visit, name))


async def live_page(visit: Visit, name: str) -> Response:
    """What changes of it."""
    return visit.page("queue_live.html", **await _queue(visit, name))


async def pause(visit: Visit, name: str) -> Response:
    """Let no message go."""
    await visit.change("POST", f"/v2/queues/{segment(name)}/pause", action="pause a queue", target=name)
    return visit.go(_back(visit, name), f"{name} is paused: it takes messages in and lets none go.")


async def resume(visit: Visit, name: str) -> Response:
    """Let them go again."""
    await visit.change("POST", f"/v2/queues/{segment(name)}/resume", action="resume a queue", target=name)
    return visit.go(_back(visit, name), f"{name} goes on.")


async def set_parallelism(visit: Visit, name: str) -> Response:
    """Let another number of messages go at a time. Its pause stays."""
    queue = await visit.get(f"/v2/queues/{segment(name)}")
    given = visit.form.text("parallelism")
    await _set(visit, name, given, paused=queue["paused"], action="change the parallelism of a queue")
    return visit.go(_path(name), f"It lets {given} go at a time.")


async def delete(visit: Visit, name: str) -> Response:
    """Delete it, with what waits in it."""
    await visit.change("DELETE", f"/v2/queues/{segment(name)}", action="delete a queue", target=name)
    return visit.go("/console/queues", f"{name} is deleted, and what waited in it is canceled.")


async def _list(visit: Visit, *, problem: str = "") -> Response:
    return visit.page(
        "queues.html",
        http_status=400 if problem else 200,
        queues=await visit.get("/v2/queues"),
        problem=problem,
        name=visit.form.text("name"),
        parallelism=visit.form.text("parallelism", "1"),
    )


async def _queue(visit: Visit, name: str) -> dict[str, Any]:
    queue = await visit.find(f"/v2/queues/{segment(name)}")
    if queue is None:
        raise GoneError(f"the queue {name}")
    async with visit.reading() as connection:
        first = await queues.first(connection, visit.session.caller.tenant_id, name, limit=SHOWN)
    places = {message_text(one): place for place, one in enumerate(first, start=1)}
    messages: list[dict[str, Any]] = []
    if places:
        answer = await visit.get("/v2/messages", messageIds=",".join(places), count=str(SHOWN))
        messages = sorted(answer["messages"], key=lambda one: places[one["messageId"]])
    counts = queue["counts"]
    # Those that wait for their time have no place yet, and come after all that have one.
    return {"queue": queue, "waiting": counts["held"] + counts["waiting"], "messages": messages, "places": places}


async def _set(visit: Visit, name: str, parallelism: str, *, paused: bool, action: str) -> None:
    is_number = parallelism.isascii() and parallelism.isdigit() and len(parallelism) < _MOST_DIGITS
    # What is no number is for the API to refuse, in its words.
    document = {"queueName": name, "parallelism": int(parallelism) if is_number else parallelism, "paused": paused}
    target = f"{name}, {parallelism} at a time"
    await visit.change("POST", "/v2/queues", document=document, action=action, target=target)


def _back(visit: Visit, name: str) -> str:
    return "/console/queues" if visit.form.text("back") == "/console/queues" else _path(name)


def _path(name: str) -> str:
    return f"/console/queues/{segment(name)}"


# No page of a single queue is called rows, so one by the name of - is found as any other.
ROUTES = (
    ("GET", "/console/queues", list_page),
    ("POST", "/console/queues", create),
    ("GET", "/console/queues/-/rows", rows_page),
    ("GET", "/console/queues/{name}", queue_page),
    ("GET", "/console/queues/{name}/live", live_page),
    ("POST", "/console/queues/{name}/pause", pause),
    ("POST", "/console/queues/{name}/resume", resume),
    ("POST", "/console/queues/{name}/parallelism", set_parallelism),
    ("POST", "/console/queues/{name}/delete", delete),
)
