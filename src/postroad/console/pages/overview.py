"""Overview: how much goes on, what waits, and what is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from starlette.responses import Response

from postroad.console.visit import Visit
from postroad.store import activity, overview
from postroad.store.activity import Moment, Tally
from postroad.store.overview import MOST_COUNTED

HOSTS = 12
SCHEDULES = 5
_SPANS = {
    "15m": (timedelta(minutes=15), timedelta(seconds=10), "15 minutes"),
    "1h": (timedelta(hours=1), timedelta(minutes=1), "hour"),
    "24h": (timedelta(days=1), timedelta(minutes=20), "24 hours"),
}
_LATE = timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar of a chart: its parts from the bottom up."""

    label: str
    parts: Sequence[tuple[str, int]]

    @property
    def total(self) -> int:
        """How tall it is."""
        return sum(value for _, value in self.parts)


async def page(visit: Visit) -> Response:
    """How everything stands, live."""
    return visit.page("overview.html", **await _values(visit))


async def live(visit: Visit) -> Response:
    """What of it changes."""
    return visit.page("overview_live.html", **await _values(visit))


async def _values(visit: Visit) -> dict[str, Any]:
    tenant_id = visit.session.caller.tenant_id
    span = visit.query("span") if visit.query("span") in _SPANS else "1h"
    back, step, words = _SPANS[span]
    async with visit.reading() as connection:
        standing = await overview.standing(connection, tenant_id)
        course = await activity.course(connection, tenant_id, back=back, step=step)
        minute = await activity.course(connection, tenant_id, back=timedelta(seconds=70), step=timedelta(seconds=10))
        hosts = await activity.destinations(connection, tenant_id, back=back, limit=HOSTS)
        schedules = await overview.upcoming(connection, tenant_id, limit=SCHEDULES)
    nodes, rooms = [], []
    if visit.session.is_operator:
        async with visit.context.database.connection() as connection:
            nodes = await overview.working(connection)
            rooms = await overview.rooms(connection, log_kept=visit.context.retention.log)
    total = _sum(course)
    # Without the ten seconds that are not over, of which a part is not stored yet.
    lately = _sum(minute[:-1])
    late = None if standing.oldest_due_at is None else standing.now - standing.oldest_due_at
    return {
        "span": span,
        "spans": {name: text for name, (_, _, text) in _SPANS.items()},
        "span_words": words,
        "standing": standing,
        "most": MOST_COUNTED,
        "total": total,
        "attempts": total.delivered + total.retried + total.failed,
        "accepted_per_s": lately.accepted / max(10 * len(minute[:-1]), 1),
        "delivered_per_s": lately.delivered / max(10 * len(minute[:-1]), 1),
        "late": late if late is not None and late > _LATE else None,
        "ended": [_bar(one, "delivered", "retried", "failed") for one in course],
        "accepted": [_bar(one, "accepted") for one in course],
        "hosts": hosts,
        "schedules": schedules,
        "nodes": nodes,
        "rooms": rooms,
        "bytes": sum(room.bytes for room in rooms),
        "soon_free": sum(room.soon_free_bytes for room in rooms),
    }


def _bar(moment: Moment, *kinds: str) -> Bar:
    return Bar(f"{moment.at:%H:%M} UTC", [(kind, getattr(moment.tally, kind)) for kind in kinds])


def _sum(course: Sequence[Moment]) -> Tally:
    total = Tally()
    for moment in course:
        total.add(moment.tally)
    return total


ROUTES = (
    ("GET", "/console", page),
    ("GET", "/console/overview/live", live),
)
