"""Schedules: when each fires, what it published lately, and what can be done with it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from zoneinfo import available_timezones

from starlette.responses import Response

from postroad.console import payloads, schedule_form
from postroad.console.inside import ApiRefusedError, segment
from postroad.console.schedule_form import Filled, FormError
from postroad.console.visit import GoneError, Visit
from postroad.domain.cron import Cron, parse_cron
from postroad.domain.cron_words import in_words
from postroad.domain.ids import MessageId
from postroad.domain.message import METHODS
from postroad.domain.schedule import Schedule, TickState
from postroad.domain.upcoming import Run, upcoming
from postroad.errors import InvalidValue
from postroad.store import schedule_lists, schedules
from postroad.store.schedule_lists import Listed

PAGE = 50
RUNS = 10
HISTORY = 20
_PREVIEWED = 5
_SHOW: Mapping[str, bool | None] = {"all": None, "running": False, "paused": True}
_STATES = {TickState.FAIL: "failed", TickState.IN_PROGRESS: "in progress", TickState.SUCCESS: "delivered"}


@dataclass(frozen=True, slots=True)
class Row:
    """A schedule in the list; `last` is the state of its last tick, the worst of its messages."""

    one: Listed
    words: str
    last: str


async def list_page(visit: Visit) -> Response:
    """Schedules by their ids."""
    q, show, after = visit.query("q").strip(), visit.query("show", "all"), visit.query("after")
    tenant_id = visit.session.caller.tenant_id
    async with visit.reading() as connection:
        active, paused = await schedule_lists.counts(connection, tenant_id)
        listed = await schedule_lists.page(
            connection, tenant_id, search=q, paused=_SHOW.get(show), after=after, limit=PAGE + 1
        )
        states = await schedules.states(connection, [one for each in listed for one in each.last_messages])
    chips = (("all", "All", active + paused), ("running", "Running", active), ("paused", "Paused", paused))
    rows = [_row(one, states) for one in listed[:PAGE]]
    more = listed[PAGE - 1].id if len(listed) > PAGE else ""
    return visit.page("schedules.html", rows=rows, chips=chips, q=q, show=show, more_after=more)


async def rows_page(visit: Visit) -> Response:
    """Schedules that a browser shows already, as they are now."""
    async with visit.reading() as connection:
        listed = await schedule_lists.named(
            connection, visit.session.caller.tenant_id, visit.query("ids").split(",")[:PAGE]
        )
        states = await schedules.states(connection, [one for each in listed for one in each.last_messages])
    return visit.page("schedule_rows.html", rows=[_row(one, states) for one in listed])


async def schedule_page(visit: Visit, schedule_id: str) -> Response:
    """A schedule with its next and last runs."""
    return visit.page("schedule.html", **await _schedule(visit, schedule_id))


async def live_page(visit: Visit, schedule_id: str) -> Response:
    """What changes of it."""
    return visit.page("schedule_live.html", **await _schedule(visit, schedule_id))


async def words_page(visit: Visit) -> Response:
    """What an expression means, while it is typed."""
    text = schedule_form.joined_cron(visit.query("zone").strip(), visit.query("cron").strip())
    return visit.page("schedule_words.html", **_meaning(visit, text))


async def new_page(visit: Visit) -> Response:
    """The form of a new schedule."""
    given = {name: visit.query(name) for name in ("destination", "queue", "cron") if visit.query(name)}
    return _form(visit, schedule_form.empty(given))


async def create(visit: Visit) -> Response:
    """Make a schedule; one that has the id already is left as it is."""
    form, again = visit.form, schedule_form.typed(visit.form)
    schedule_id, destination = form.text("id"), form.text("destination")
    if schedule_id and await visit.find(f"/v2/schedules/{segment(schedule_id)}") is not None:
        return _form(
            visit, again, problem=f"there is a schedule {schedule_id} already: choose another id, or edit that one"
        )
    try:
        headers = [("upstash-cron", schedule_form.cron_of(form)), *schedule_form.publish_fields(form)]
        if schedule_id:
            headers.append(("upstash-schedule-id", schedule_id))
        _check(headers)
        answer = await visit.change(
            "POST",
            # A number sign would end the path.
            f"/v2/schedules/{destination.replace('#', '%23')}",
            headers=headers,
            content=form.raw("body").encode(),
            action="make a schedule",
            target=f"{schedule_id or 'a new one'}: {schedule_form.cron_of(form)}",
        )
    except (ApiRefusedError, FormError) as error:
        return _form(visit, again, problem=str(error))
    return visit.go(_path(answer["scheduleId"]), "It is made.")


async def edit_page(visit: Visit, schedule_id: str) -> Response:
    """The form to change one."""
    return _form(visit, schedule_form.filled(await _stored(visit, schedule_id)), schedule_id=schedule_id)


async def edit(visit: Visit, schedule_id: str) -> Response:
    """Change what was changed in the form; its pause, its history and all that is not in the form stay."""
    schedule = await _stored(visit, schedule_id)
    shown, version = schedule_form.filled(schedule), visit.form.text("version")
    again = schedule_form.typed(visit.form, version=shown.version, body_kept=shown.body_kept)
    if version != shown.version:
        problem = "somebody has changed this schedule since you opened it: look at it again, or save to overwrite that"
        return _form(visit, again, schedule_id=schedule_id, problem=problem)
    try:
        document = schedule_form.change_of(schedule, visit.form)
        if not document:
            return visit.go(_path(schedule_id), "Nothing was changed.")
        await visit.change(
            "PATCH",
            f"/v2/schedules/{segment(schedule_id)}",
            document=document,
            action="change a schedule",
            target=f"{schedule_id}: {', '.join(document)}",
        )
    except (ApiRefusedError, FormError) as error:
        return _form(visit, again, schedule_id=schedule_id, problem=str(error))
    return visit.go(_path(schedule_id), "It is changed.")


async def run(visit: Visit, schedule_id: str) -> Response:
    """Publish now what its next tick would."""
    path = f"/v2/schedules/{segment(schedule_id)}/run"
    made = await visit.change("POST", path, action="run a schedule now", target=schedule_id)
    if isinstance(made, dict):
        return visit.go(f"/console/messages/{made['messageId']}", f"{schedule_id} was run: this is its message.")
    return visit.go(_path(schedule_id), f"It was run: {len(made)} messages are on their way, one to each endpoint.")


async def pause(visit: Visit, schedule_id: str) -> Response:
    """Let it fire no more."""
    path = f"/v2/schedules/{segment(schedule_id)}/pause"
    await visit.change("POST", path, action="pause a schedule", target=schedule_id)
    return visit.go(_back(visit, schedule_id), f"{schedule_id} is paused and does not fire until it is resumed.")


async def resume(visit: Visit, schedule_id: str) -> Response:
    """Let it go on."""
    path = f"/v2/schedules/{segment(schedule_id)}/resume"
    await visit.change("POST", path, action="resume a schedule", target=schedule_id)
    return visit.go(_back(visit, schedule_id), f"{schedule_id} goes on from now; what it missed is not caught up with.")


async def delete(visit: Visit, schedule_id: str) -> Response:
    """Delete it; its messages go their way."""
    path = f"/v2/schedules/{segment(schedule_id)}"
    await visit.change("DELETE", path, action="delete a schedule", target=schedule_id)
    return visit.go("/console/schedules", f"{schedule_id} is deleted.")


async def _schedule(visit: Visit, schedule_id: str) -> dict[str, Any]:
    view, answer = await asyncio.gather(
        visit.find(f"/v2/schedules/{segment(schedule_id)}"),
        visit.get("/v2/events", groupBy="messageId", trimBody="true", scheduleId=schedule_id, count=str(HISTORY)),
    )
    if view is None:
        raise GoneError(f"the schedule {schedule_id}")
    # The newest comes last, as time goes from left to right.
    history = [one["events"][0] | {"attempts": _attempts(one["events"])} for one in reversed(answer["messages"])]
    return {
        "id": schedule_id,
        "view": view,
        "body": payloads.shown(payloads.of_message(view)),
        "history": history,
        "failed": sum(one["state"] == "FAILED" for one in history),
        **_meaning(visit, view["cron"], count=RUNS),
    }


def _meaning(visit: Visit, text: str, *, count: int = _PREVIEWED) -> dict[str, Any]:
    """What an expression means: its words and next runs, or why it means nothing."""
    runs: list[Run] = []
    try:
        cron: Cron | None = parse_cron(text)
    except InvalidValue as error:
        return {"cron": None, "words": "", "runs": runs, "wrong": f"expected {error.expected}" if text else ""}
    assert cron is not None
    runs = upcoming(cron, visit.context.clock.now(), count)
    return {"cron": cron, "words": in_words(cron), "runs": runs, "wrong": "" if runs else "it never fires again"}


async def _stored(visit: Visit, schedule_id: str) -> Schedule:
    """A schedule with every header that it has, for those who may change it."""
    if not visit.may_change:
        raise ApiRefusedError(403, f"this session is {visit.session.caller.access} and may not do this")
    async with visit.reading() as connection:
        schedule = await schedules.find(connection, visit.session.caller.tenant_id, schedule_id)
    if schedule is None:
        raise GoneError(f"the schedule {schedule_id}")
    if schedule.unopened is not None:
        raise schedule.unopened
    return schedule


def _form(visit: Visit, form: Filled, *, schedule_id: str = "", problem: str = "") -> Response:
    if not visit.may_change:
        raise ApiRefusedError(403, f"this session is {visit.session.caller.access} and may not do this")
    text = schedule_form.joined_cron(form.values.get("zone", ""), form.values.get("cron", ""))
    return visit.page(
        "schedule_edit.html",
        http_status=400 if problem else 200,
        id=schedule_id,
        form=form,
        values=form.values,
        problem=problem,
        methods=sorted(METHODS),
        zones=_zones(),
        **_meaning(visit, text),
    )


def _row(one: Listed, states: Mapping[MessageId, TickState]) -> Row:
    try:
        words = in_words(parse_cron(one.cron))
    except InvalidValue:  # The zone is not known here any more.
        words = "an expression that is not understood"
    found = {states[message] for message in one.last_messages if message in states}
    last = next((words for state, words in _STATES.items() if state in found), "")
    return Row(one, words, "error" if one.error is not None else last)


def _attempts(events: Sequence[Mapping[str, Any]]) -> int:
    return sum(event["state"] == "ACTIVE" for event in events)


def _check(headers: Sequence[tuple[str, str]]) -> None:
    """Refuse what no header may hold. Raises `FormError`."""
    for name, value in headers:
        try:
            f"{name}{value}".encode("latin-1")
        except UnicodeEncodeError:
            raise FormError(f"{name}: {value!r} has characters that no header may hold") from None


@lru_cache(maxsize=1)
def _zones() -> Sequence[str]:
    return sorted(one for one in available_timezones() if "/" in one or one == "UTC")


def _back(visit: Visit, schedule_id: str) -> str:
    return "/console/schedules" if visit.form.text("back") == "/console/schedules" else _path(schedule_id)


def _path(schedule_id: str) -> str:
    return f"/console/schedules/{segment(schedule_id)}"


# No page of a single schedule is called new, rows or words, so one by the name of - is found as any other.
ROUTES = (
    ("GET", "/console/schedules", list_page),
    ("GET", "/console/schedules/-/rows", rows_page),
    ("GET", "/console/schedules/-/words", words_page),
    ("GET", "/console/schedules/-/new", new_page),
    ("POST", "/console/schedules/-/new", create),
    ("GET", "/console/schedules/{schedule_id}", schedule_page),
    ("GET", "/console/schedules/{schedule_id}/live", live_page),
    ("GET", "/console/schedules/{schedule_id}/edit", edit_page),
    ("POST", "/console/schedules/{schedule_id}/edit", edit),
    ("POST", "/console/schedules/{schedule_id}/run", run),
    ("POST", "/console/schedules/{schedule_id}/pause", pause),
    ("POST", "/console/schedules/{schedule_id}/resume", resume),
    ("POST", "/console/schedules/{schedule_id}/delete", delete),
)
