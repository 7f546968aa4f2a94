"""The audit log: who did what in the console."""

from __future__ import annotations

from starlette.responses import Response

from postroad.console.visit import Visit
from postroad.dispatch.janitor import AUDIT_KEPT
from postroad.store import audits

PAGE = 50


async def page(visit: Visit) -> Response:
    """Entries, the newest first, or those with some words in them."""
    q, cursor = visit.query("q").strip(), visit.query("cursor")
    before = int(cursor) if cursor.isascii() and cursor.isdigit() and len(cursor) < 19 else None
    async with visit.reading() as connection:
        entries = await audits.page(connection, visit.session.caller.tenant_id, before=before, limit=PAGE + 1, words=q)
    shown = entries[:PAGE]
    return visit.page(
        "audit.html",
        q=q,
        entries=shown,
        cursor=shown[-1].id if len(entries) > PAGE else None,
        days=AUDIT_KEPT.days,
    )


ROUTES = (("GET", "/console/audit", page),)
