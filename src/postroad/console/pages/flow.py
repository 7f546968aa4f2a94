"""Flow control: how much goes at a time, by key, and how to hold or limit what has one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from starlette.responses import Response

from postroad.console.inside import ApiRefusedError, segment
from postroad.console.visit import Visit
from postroad.domain.duration import format_duration

PAGE = 100
_MOST_LIVE = 1000
"""Of more keys the list is not asked for every two seconds: each of them is counted."""
_SHOWS = {"all": "All", "waiting": "With a backlog", "paused": "Paused", "pinned": "Pinned"}
_NEW: dict[str, Any] = {
    "waitListSize": 0,
    "parallelismMax": 0,
    "parallelismCount": 0,
    "rateMax": 0,
    "rateCount": 0,
    "ratePeriod": 1,
    "ratePeriodStart": 0,
    "isPaused": False,
    "isPinnedParallelism": False,
    "isPinnedRate": False,
}


@dataclass(frozen=True, slots=True)
class Key:
    """A key with its limits, where 0 is none, and what of them is in use.

    `rate_used` is of the period that runs, which ends at `period_ends_ms`.
    """

    name: str
    waiting: int
    parallelism: int
    active: int
    rate: int
    rate_used: int
    period: str
    period_ends_ms: int | None
    is_paused: bool
    is_parallelism_pinned: bool
    is_rate_pinned: bool
    is_known: bool = True

    @property
    def is_pinned(self) -> bool:
        """Whether messages cannot change all of its limits."""
        return self.is_parallelism_pinned or self.is_rate_pinned

    def is_in(self, show: str) -> bool:
        """Whether it is among those that are asked for."""
        return {"waiting": self.waiting > 0, "paused": self.is_paused, "pinned": self.is_pinned}.get(show, True)


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
    return visit.page("flow_key_live.html", key=await _key(visit, visit.query("key")))


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
    key = await _key(visit, name)
    return visit.page("flow_key.html", http_status=400 if problem else 200, key=key, typed=typed or {}, problem=problem)


async def _key(visit: Visit, name: str) -> Key:
    view = await visit.find(_path(name))
    return _read(visit, view or {**_NEW, "flowControlKey": name}, is_known=view is not None)


async def _list(visit: Visit) -> dict[str, Any]:
    search, show = visit.query("search"), visit.query("show")
    show = show if show in _SHOWS else "all"
    start = visit.offset()
    params = {"search": search} if search else {}
    views: Sequence[dict[str, Any]] = await visit.get("/v2/flowControl", **params)
    keys = [key for key in (_read(visit, view) for view in views) if key.is_in(show)]
    return {
        "keys": keys[start : start + PAGE],
        "total": len(keys),
        "next": start + PAGE if len(keys) > start + PAGE else None,
        "start": start,
        "is_live": len(views) <= _MOST_LIVE,
        "overall": await visit.get("/v2/globalParallelism"),
        "search": search,
        "show": show,
        "shows": _SHOWS,
    }


def _read(visit: Visit, view: dict[str, Any], *, is_known: bool = True) -> Key:
    ends_s = view["ratePeriodStart"] + view["ratePeriod"]
    is_running = view["ratePeriodStart"] > 0 and visit.context.clock.now_s() < ends_s
    return Key(
        name=view["flowControlKey"],
        waiting=view["waitListSize"],
        parallelism=view["parallelismMax"],
        active=view["parallelismCount"],
        rate=view["rateMax"],
        rate_used=view["rateCount"] if is_running else 0,
        period=format_duration(timedelta(seconds=view["ratePeriod"])),
        period_ends_ms=ends_s * 1000 if is_running else None,
        is_paused=view["isPaused"],
        is_parallelism_pinned=view["isPinnedParallelism"],
        is_rate_pinned=view["isPinnedRate"],
        is_known=is_known,
    )


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
