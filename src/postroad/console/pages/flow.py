"""Flow control: how much goes at a time, by key, and how to hold or limit what has one."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from postroad.console.inside import ApiRefusedError, segment
from postroad.console.visit import Visit
from postroad.domain.flow_control import DEFAULT_PERIOD, FlowKey
from postroad.store import flow_controls
from postroad.store.flow_controls import Only

PAGE = 100
_SHOWS = {"all": "All", "waiting": "With a backlog", "paused": "Paused", "pinned": "Pinned"}


async def page(visit: Visit) -> Response:
    """The keys, by name, and the parallelism of the account."""
    return visit.page("flow.html", **await _list(visit))


async def live(visit: Visit) -> Response:
    """What of it changes."""
    return visit.page("flow_live.html", **await _list(visit))


async def key_page(visit: Visit) -> Response:
    """A key with what can be done to it; one that does not exist yet can be paused or pinned beforehand."""
    return await _key_page(visit, visit.query("key"))


async def key_live(visit: Visit) -> Response:
    """What of it changes."""
    key, is_known = await _key(visit, visit.query("key"))
    return visit.page("flow_key_live.html", key=key, is_known=is_known)


async def pause(visit: Visit) -> Response:
    """Let nothing with this key go."""
    return await _changed(visit, "pause", "pause a flow-control key", "is paused: its messages wait.")


async def resume(visit: Visit) -> Response:
    """Let it go again."""
    return await _changed(visit, "resume", "resume a flow-control key", "goes on.")


async def reset(visit: Visit) -> Response:
    """Begin a new period."""
    return await _changed(visit, "resetRate", "reset the rate of a flow-control key", "has a new period.")


async def pin(visit: Visit) -> Response:
    """Fix limits against what messages bring; what is wrong with them is said beside what was typed."""
    given = {name: text for name in ("parallelism", "rate", "period") if (text := visit.form.text(name))}
    words = ", ".join(f"{name} {text}" for name, text in given.items())
    try:
        return await _changed(visit, "pin", "pin a flow-control key", f"is pinned: {words}.", given, words=words)
    except ApiRefusedError as error:
        if not visit.may_change:
            raise  # There is no form to be shown again.
        return await _key_page(visit, visit.form.text("key"), typed=given, problem=str(error))


async def unpin(visit: Visit) -> Response:
    """Let messages change a limit again."""
    what = visit.form.text("what")
    said = f"is no longer pinned in its {what}: the next message that brings one sets it."
    return await _changed(visit, "unpin", "unpin a flow-control key", said, {what: "true"}, words=what)


async def _changed(
    visit: Visit, verb: str, action: str, said: str, params: dict[str, str] | None = None, *, words: str = ""
) -> Response:
    name = visit.form.text("key")
    target = f"{name}: {words}" if words else name
    await visit.change("POST", f"{_path(name)}/{verb}", params=params, action=action, target=target)
    back = visit.form.text("back")
    return visit.go(back if back.startswith("/console/flow") else "/console/flow", f"{name} {said}")


async def _key_page(visit: Visit, name: str, *, typed: dict[str, str] | None = None, problem: str = "") -> Response:
    if not name:
        return visit.go("/console/flow", "Which key? Type its name.", failed=True)
    key, is_known = await _key(visit, name)
    return visit.page(
        "flow_key.html",
        http_status=400 if problem else 200,
        key=key,
        is_known=is_known,
        typed=typed or {},
        problem=problem,
    )


async def _key(visit: Visit, name: str) -> tuple[FlowKey, bool]:
    """A key, and whether there is one of this name."""
    if name.isprintable():
        async with visit.reading() as connection:
            found = await flow_controls.find(connection, visit.session.caller.tenant_id, name)
        if found is not None:
            return found, True
    nothing = FlowKey(
        key=name,
        parallelism=None,
        rate=None,
        period=DEFAULT_PERIOD,
        parallelism_pinned=False,
        rate_pinned=False,
        paused=False,
        waiting=0,
        active=0,
        rate_count=0,
        period_start=None,
    )
    return nothing, False


async def _list(visit: Visit) -> dict[str, Any]:
    # Not from the API, whose list has an end, and is counted to it each time.
    search, show, after = (visit.query(one).replace("\0", "") for one in ("search", "show", "after"))
    async with visit.reading() as connection:
        keys = await flow_controls.list_(
            connection,
            visit.session.caller.tenant_id,
            search=search or None,
            limit=PAGE + 1,
            only=Only(show) if show in tuple(Only) else None,
            after=after,
        )
    return {
        "keys": keys[:PAGE],
        "last": keys[PAGE - 1].key if len(keys) > PAGE else None,
        "after": after,
        "overall": await visit.get("/v2/globalParallelism"),
        "search": search,
        "show": show if show in _SHOWS else "all",
        "shows": _SHOWS,
    }


def _path(key: str) -> str:
    return f"/v2/flowControl/{segment(key)}"


ROUTES = (
    ("GET", "/console/flow", page),
    ("GET", "/console/flow/live", live),
    ("GET", "/console/flow/key", key_page),
    ("GET", "/console/flow/key/live", key_live),
    ("POST", "/console/flow/pause", pause),
    ("POST", "/console/flow/resume", resume),
    ("POST", "/console/flow/reset", reset),
    ("POST", "/console/flow/pin", pin),
    ("POST", "/console/flow/unpin", unpin),
)
