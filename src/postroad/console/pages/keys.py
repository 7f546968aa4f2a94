"""Signing keys: what receivers verify with, shown when asked for, and rolled."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from postroad.console.inside import ApiRefusedError
from postroad.console.visit import Visit

_TARGET = "the current and the next key"


async def page(visit: Visit) -> Response:
    """The keys, but for their last four characters hidden."""
    return await _page(visit)


async def reveal(visit: Visit) -> Response:
    """Show them, this once; the audit log has who asked."""
    # As the API does, which gives them to nobody else.
    keys = await visit.get("/v2/keys")
    await visit.note("reveal the signing keys", _TARGET, "done")
    return await _page(visit, shown=keys)


async def roll(visit: Visit) -> Response:
    """The next key becomes the current one; soon after the last time only if that is forced."""
    forced = visit.form.has("force")
    try:
        await visit.change(
            "POST",
            "/v2/keys/rotate",
            params={"force": "true"} if forced else None,
            action="roll the signing keys by force" if forced else "roll the signing keys",
            target=_TARGET,
        )
    except ApiRefusedError as error:
        if not visit.may_change:
            raise  # There is no form to be shown again.
        return await _page(visit, problem=str(error))
    return visit.go("/console/keys", "Rolled: the next key signs now. Give receivers the new pair.")


async def _page(visit: Visit, *, shown: dict[str, str] | None = None, problem: str = "") -> Response:
    values: dict[str, Any] = {"shown": shown, "problem": problem, "guard": visit.context.key_rotation_guard}
    if visit.may_change:
        keys = shown or await visit.get("/v2/keys")
        values["endings"] = {name: key[-4:] for name, key in keys.items()}
    if shown is not None:
        values["lines"] = (
            f'QSTASH_CURRENT_SIGNING_KEY="{shown["current"]}"\nQSTASH_NEXT_SIGNING_KEY="{shown["next"]}"\n'
        )
    return visit.page("keys.html", http_status=409 if problem else 200, **values)


ROUTES = (
    ("GET", "/console/keys", page),
    ("POST", "/console/keys/reveal", reveal),
    ("POST", "/console/keys/roll", roll),
)
