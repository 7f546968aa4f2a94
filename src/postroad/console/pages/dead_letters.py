"""Dead letters: what has failed, why, and how to try it again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from urllib.parse import urlsplit

from starlette.responses import Response

from postroad.console import payloads
from postroad.console.inside import ApiRefusedError, segment
from postroad.console.letters import NAMES, Choice, chosen, filter_of, times_of
from postroad.console.runs import RATES, Order
from postroad.console.search import FilterError
from postroad.console.visit import GoneError, Visit
from postroad.domain.dead_letter import dead_letter_number
from postroad.domain.ids import message_text
from postroad.errors import Refused
from postroad.store import dead_letter_groups, dead_letter_runs
from postroad.store.dead_letter_groups import LOOK, LOOK_BEFORE_BULK, Group, Grouped, Line, Wanted
from postroad.store.dead_letter_runs import Run

PAGE = 50
_FEW_GROUPS = 8
_MOST_ASKED = 5_000
"""Groups from which the hosts are counted before bulk work."""

_KINDS = ("retry", "delete")
_NOTHING = "Nothing matches, so there is nothing to do."
_NONE_TICKED = "Nothing is ticked: tick dead letters, or choose all that match."
_SOON_S = 1.5
"""What takes no longer is done when the next page is there."""


async def list_page(visit: Visit) -> Response:
    """What is in the dead letters, in groups, and a list of those that match."""
    q = visit.query("q").strip()
    if dead_letter_number(q) is not None:
        return visit.go(_path(q))
    tenant_id = visit.session.caller.tenant_id
    problem, lines, before, look = "", list[Line](), None, LOOK
    found = Grouped((), 0, 0, 0, is_bounded=False)
    try:
        choice = await _choice(visit, q)
        async with visit.reading() as connection:
            found = await dead_letter_groups.grouped(connection, tenant_id, choice.wanted)
            if not found.count and found.is_bounded:
                # What is rare is worth a longer look.
                look = LOOK_BEFORE_BULK
                found = await dead_letter_groups.grouped(connection, tenant_id, choice.wanted, look=look)
            if found.count or found.is_bounded:
                first = _integer(visit.query("cursor")) or (found.up_to + 1 if found.count else None)
                lines, before = await dead_letter_groups.page(
                    connection, tenant_id, choice.wanted, before=first, limit=PAGE
                )
    except (FilterError, Refused) as error:
        problem = str(error)
    async with visit.reading() as connection:
        under_way = await dead_letter_runs.under_way(connection, tenant_id)
    return visit.page(
        "dead_letters.html",
        q=q,
        problem=problem,
        names=NAMES,
        times=times_of(q),
        found=found,
        groups=[(group, filter_of(group, q)) for group in found.groups],
        rows=[(line, message_text(line.message_id)) for line in lines],
        few=_FEW_GROUPS,
        all_groups=visit.query("groups") == "all",
        cursor=before,
        look=look,
        under_way=under_way,
    )


async def letter_page(visit: Visit, dlq_id: str) -> Response:
    """One dead letter with all that is known of it."""
    tenant_id, lines = visit.session.caller.tenant_id, list[Line]()
    view = await visit.find(f"/v2/dlq/{segment(dlq_id)}")
    if view is not None:
        wanted = Wanted(numbers=(dead_letter_number(view["dlqId"]) or 0,))
        async with visit.reading() as connection:
            lines, _ = await dead_letter_groups.page(connection, tenant_id, wanted, before=None, limit=1)
    if not lines:
        raise GoneError(f"the dead letter {dlq_id} (or it was retried or deleted)")
    return visit.page(
        "dead_letter.html",
        view=view,
        line=lines[0],
        host=(urlsplit(view["url"]).hostname or "").lower(),
        body=payloads.shown(payloads.of_message(view)),
        answer=payloads.shown(payloads.of_message(view, "responseBody")),
    )


async def ask_page(visit: Visit) -> Response:
    """What bulk work would be about, before it is begun."""
    kind = visit.query("do")
    if kind not in _KINDS:
        raise GoneError("this page")
    _refuse_readers(visit)
    now_ms = visit.context.clock.now_ms()
    ids = visit.request.query_params.getlist("dlqIds")
    if not ids and "q" not in visit.request.query_params:
        # Nothing must never mean everything.
        return visit.go("/console/dlq", _NONE_TICKED, failed=True)
    choice = await _choice(visit, visit.query("q"), ids, now_ms=now_ms)
    found = await _all_of(visit, choice.wanted)
    if not found.count:
        return visit.go("/console/dlq", _NOTHING, failed=True)
    return visit.page(
        "dead_letters_ask.html",
        kind=kind,
        choice=choice,
        found=found,
        now_ms=now_ms,
        hosts=_hosts(found.groups),
        rates=RATES,
        look=LOOK_BEFORE_BULK,
    )


async def retry(visit: Visit) -> Response:
    """Retry one, or begin to retry many."""
    ids = visit.form.all("dlqIds")
    if len(ids) != 1 or visit.form.has("now"):
        return await _begin(visit, "retry", ids)
    try:
        answer = await visit.change(
            "POST", f"/v2/dlq/retry/{segment(ids[0])}", action="retry a dead letter", target=ids[0]
        )
    except ApiRefusedError as error:
        return _refused(visit, ids[0], error)
    return visit.go(f"/console/messages/{segment(answer['messageId'])}", "It is on its way again, under this new id.")


async def delete(visit: Visit) -> Response:
    """Delete one, or begin to delete many."""
    ids = visit.form.all("dlqIds")
    if len(ids) != 1 or visit.form.has("now"):
        return await _begin(visit, "delete", ids)
    try:
        await visit.change("DELETE", f"/v2/dlq/{segment(ids[0])}", action="delete a dead letter", target=ids[0])
    except ApiRefusedError as error:
        return _refused(visit, ids[0], error)
    return visit.go("/console/dlq", "It is deleted.")


async def back(visit: Visit) -> Response:
    """Where a button leads whose session was over."""
    return visit.go("/console/dlq")


async def run_page(visit: Visit, run_id: str) -> Response:
    """How far bulk work is."""
    return visit.page("dead_letters_run.html", run=await _run(visit, run_id))


async def run_live_page(visit: Visit, run_id: str) -> Response:
    """What of it changes."""
    return visit.page("dead_letters_run_live.html", run=await _run(visit, run_id))


async def stop(visit: Visit, run_id: str) -> Response:
    """Stop bulk work; what is done stays done."""
    _refuse_readers(visit)
    caller = visit.session.caller
    run = await _run(visit, run_id)
    async with visit.context.database.changing(caller.tenant_id) as connection:
        is_stopping = await dead_letter_runs.stop(connection, caller.tenant_id, run.id)
    if is_stopping:
        await visit.note(f"stop to {run.kind} dead letters", f"of {run.actor}: {run.q or 'all'}", "done")
    words = "It stops with what it is at." if is_stopping else "It had ended already."
    return visit.go(f"/console/dlq/runs/{run.id}", words)


async def _begin(visit: Visit, kind: str, ids: Sequence[str]) -> Response:
    """Begin bulk work with what was asked about, which is what there was then."""
    form, q = visit.form, visit.form.text("q")
    if not ids and not form.has("q"):
        return visit.go("/console/dlq", _NONE_TICKED, failed=True)
    try:
        _refuse_readers(visit)
        now_ms = _integer(form.text("now"))
        choice = await _choice(visit, q, ids, now_ms=now_ms, up_to=_integer(form.text("up_to")))
    except (ApiRefusedError, FilterError, Refused) as error:
        return visit.go("/console/dlq", str(error), failed=True, **({"q": q} if q else {}))
    found = await _all_of(visit, choice.wanted)
    if not found.count:
        return visit.go("/console/dlq", _NOTHING, failed=True)
    order = Order(
        kind,
        replace(choice.wanted, up_to=found.up_to),
        q=choice.q or (f"{len(ids)} ticked" if ids else ""),
        words=choice.words,
        per_second=_integer(form.text("rate")) or None,
        total=found.count,
    )
    run_id = await visit.runs.begin(visit.session, order, wait_s=_SOON_S if order.per_second is None else 0)
    run = await _run(visit, str(run_id))
    if run.outcome == "done" and not run.kept:
        return visit.go("/console/dlq", said(run))
    return visit.go(f"/console/dlq/runs/{run_id}")


def _refused(visit: Visit, dlq_id: str, error: ApiRefusedError) -> Response:
    path = "/console/dlq" if error.status == 404 else _path(dlq_id)
    return visit.go(path, str(error), failed=True)


async def _choice(
    visit: Visit, q: str, ids: Sequence[str] = (), *, now_ms: int | None = None, up_to: int | None = None
) -> Choice:
    return await chosen(q, ids, now_ms=visit.context.clock.now_ms() if now_ms is None else now_ms, up_to=up_to)


async def _all_of(visit: Visit, wanted: Wanted) -> Grouped:
    async with visit.reading() as connection:
        return await dead_letter_groups.grouped(
            connection, visit.session.caller.tenant_id, wanted, look=LOOK_BEFORE_BULK, most=_MOST_ASKED
        )


async def _run(visit: Visit, run_id: str) -> Run:
    number = _integer(run_id)
    async with visit.reading() as connection:
        run = await dead_letter_runs.find(connection, visit.session.caller.tenant_id, number or 0)
    if run is None:
        raise GoneError(f"the bulk work {run_id}")
    return run


def said(run: Run) -> str:
    """What came of bulk work, in a sentence."""
    letters = "dead letter is" if run.done == 1 else "dead letters are"
    what = "on the way again" if run.kind == "retry" else "deleted"
    return f"{run.done:,} {letters} {what}."


def _hosts(groups: Sequence[Group]) -> list[tuple[str, int]]:
    """How many there are for each host, the most first."""
    counts: Counter[str] = Counter()
    for group in groups:
        counts[group.host] += group.count
    return counts.most_common()


def _refuse_readers(visit: Visit) -> None:
    if not visit.may_change:
        raise ApiRefusedError(403, "your token may look at dead letters, and not retry or delete them")


def _integer(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


def _path(dlq_id: str) -> str:
    return f"/console/dlq/{segment(dlq_id)}"


ROUTES = (
    ("GET", "/console/dlq", list_page),
    ("GET", "/console/dlq/bulk", ask_page),
    ("GET", "/console/dlq/retry", back),
    ("GET", "/console/dlq/delete", back),
    ("POST", "/console/dlq/retry", retry),
    ("POST", "/console/dlq/delete", delete),
    ("GET", "/console/dlq/runs/{run_id}", run_page),
    ("GET", "/console/dlq/runs/{run_id}/live", run_live_page),
    ("POST", "/console/dlq/runs/{run_id}/stop", stop),
    ("GET", "/console/dlq/{dlq_id}", letter_page),
)
