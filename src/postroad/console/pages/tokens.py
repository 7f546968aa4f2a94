"""Tokens: who may do what for a tenant, until when."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from postroad.console.inside import ApiRefusedError, segment
from postroad.console.visit import Visit
from postroad.domain.tenant import Access

ACCESSES = {
    Access.FULL: "everything: publish, read, change, see and roll the signing keys",
    Access.READ_ONLY: "reads everything but the signing keys, changes nothing",
    Access.METADATA: "reads what happened and when, but no bodies, headers, results and notes; changes nothing",
    Access.PUBLISH_ONLY: "publishes and nothing else; it cannot sign in here",
}
LIFETIMES = {"30d": "30 days", "90d": "90 days", "365d": "a year", "": "for ever"}


async def page(visit: Visit) -> Response:
    """The tokens of a tenant, and a form to make one."""
    return await _page(visit)


async def create(visit: Visit) -> Response:
    """Make a token and show it, this once."""
    tenant = _tenant(visit)
    name, access, lifetime = (visit.form.text(one) for one in ("name", "access", "lifetime"))
    try:
        made = await visit.change(
            "POST",
            f"{_path(tenant)}/tokens",
            document={"name": name, "access": access, **({"expiresIn": lifetime} if lifetime else {})},
            action="make a token",
            target=f"{name} ({access})",
            tenant=tenant,
        )
    except ApiRefusedError as error:
        if not visit.may_administer:
            raise  # There is no form to be shown again.
        return await _page(visit, problem=str(error))
    return await _page(visit, made=made)


async def revoke(visit: Visit) -> Response:
    """Accept a token no more."""
    tenant, name = _tenant(visit), visit.form.text("name")
    await visit.change(
        "DELETE",
        f"{_path(tenant)}/tokens/{segment(visit.form.text('id'))}",
        action="revoke a token",
        target=f"{name} (…{visit.form.text('ends_with')})",
        tenant=tenant,
    )
    return visit.go("/console/tokens", f"{name} is revoked: five seconds from now no node accepts it.", tenant=tenant)


async def _page(visit: Visit, *, made: dict[str, Any] | None = None, problem: str = "") -> Response:
    if not visit.may_administer:
        return visit.page("tokens_of_others.html")
    tenant = _tenant(visit)
    if not tenant:
        return visit.go("/console/tenants")
    return visit.page(
        "tokens.html",
        http_status=400 if problem else 200,
        tenant=tenant,
        tokens=await visit.get(f"{_path(tenant)}/tokens"),
        accesses=ACCESSES,
        lifetimes=LIFETIMES,
        now_ms=visit.context.clock.now_s() * 1000,
        made=made,
        problem=problem,
    )


def _tenant(visit: Visit) -> str:
    """Whose tokens these are: of the tenant that was chosen, or else of the one that the operator looks at."""
    return visit.form.text("tenant") or visit.query("tenant") or visit.session.tenant or ""


def _path(tenant: str) -> str:
    return f"/admin/v1/tenants/{segment(tenant)}"


ROUTES = (
    ("GET", "/console/tokens", page),
    ("POST", "/console/tokens", create),
    ("POST", "/console/tokens/revoke", revoke),
)
