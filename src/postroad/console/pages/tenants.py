"""Tenants: who there is, and what is set for each; for administrators and the operator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from postroad.console.inside import ApiRefusedError, segment
from postroad.console.visit import GoneError, Visit

PREFIX = "/admin/v1/tenants"
_NUMBERS = ("parallelism", "maxCallsPerSecond", "maxMessagesPerDay")
FIELDS = {
    "parallelism": ("Parallelism", "Deliveries under way at a time, over all nodes. Empty: any number."),
    "maxMessagesPerDay": ("Messages a day", "Counted in days of UTC. 0: no limit. Empty: what the server is set to."),
    "maxCallsPerSecond": (
        "Calls a second",
        "Of the API, publishes aside, by process. 0: no limit. Empty: what the server is set to.",
    ),
    "destinations": (
        "Destinations",
        "Where messages may go, in the grammar of POSTROAD_DESTINATIONS. Empty: what the server is set to.",
    ),
    "failureCallback": ("Failure callback", "A URL that hears of failures of messages that name none."),
}


async def page(visit: Visit) -> Response:
    """All of them, and a form to make one."""
    return await _page(visit)


async def create(visit: Visit) -> Response:
    """Make a tenant."""
    name = visit.form.text("name")
    _refuse_others(visit)
    try:
        await visit.change("POST", PREFIX, document={"name": name}, action="make a tenant", target=name, tenant=name)
    except ApiRefusedError as error:
        return await _page(visit, problem=str(error))
    return visit.go("/console/tokens", f"The tenant {name} is there. Make its first token.", tenant=name)


async def tenant_page(visit: Visit, name: str) -> Response:
    """What is set for a tenant."""
    return await _tenant_page(visit, name)


async def change(visit: Visit, name: str) -> Response:
    """Set what was changed in the form."""
    try:
        before = await _existing(visit, name)
        document = {
            field: value for field in FIELDS if (value := _typed(field, visit.form.text(field))) != before[field]
        }
        if document:
            await visit.change(
                "PATCH",
                f"{PREFIX}/{segment(name)}",
                document=document,
                action="change what is set for a tenant",
                target=f"{name}: {', '.join(f'{field} {_shown(value)}' for field, value in document.items())}",
                tenant=name,
            )
    except ApiRefusedError as error:
        return await _tenant_page(visit, name, problem=str(error))
    said = "Set: nodes go by it within five seconds." if document else "Nothing was different."
    return visit.go(f"/console/tenants/{segment(name)}", said)


async def _page(visit: Visit, *, problem: str = "") -> Response:
    _refuse_others(visit)
    tenants = await visit.get(PREFIX)
    return visit.page(
        "tenants.html", http_status=400 if problem else 200, tenants=tenants, problem=problem, fields=FIELDS
    )


async def _tenant_page(visit: Visit, name: str, *, problem: str = "") -> Response:
    tenant = await _existing(visit, name)
    typed = {field: visit.form.text(field) if problem else _shown(tenant[field], empty="") for field in FIELDS}
    return visit.page(
        "tenant.html",
        http_status=400 if problem else 200,
        tenant=tenant,
        typed=typed,
        fields=FIELDS,
        numbers=_NUMBERS,
        problem=problem,
    )


async def _existing(visit: Visit, name: str) -> Mapping[str, Any]:
    _refuse_others(visit)
    found: dict[str, Any] | None = await visit.find(f"{PREFIX}/{segment(name)}")
    if found is None:
        raise GoneError(f"the tenant {name}")
    return found


def _refuse_others(visit: Visit) -> None:
    """Raise `GoneError` for whoever may not know which tenants there are."""
    if not visit.may_administer:
        raise GoneError(f"the page {visit.request.url.path}")


def _typed(field: str, text: str) -> str | int | None:
    """What the API is given; a number that is none goes there as it is, and is refused in its words."""
    if not text:
        return None
    return int(text) if field in _NUMBERS and text.isascii() and text.isdigit() else text


def _shown(value: str | int | None, *, empty: str = "unset") -> str:
    return empty if value is None else str(value)


ROUTES = (
    ("GET", "/console/tenants", page),
    ("POST", "/console/tenants", create),
    ("GET", "/console/tenants/{name}", tenant_page),
    ("POST", "/console/tenants/{name}", change),
)
