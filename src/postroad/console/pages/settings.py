"""Settings: what this server goes by, the limits and how long things are kept; the operator sees nodes and storage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.responses import Response

from postroad import __version__
from postroad.console.rendering import count, size
from postroad.console.visit import Visit
from postroad.domain.duration import format_duration
from postroad.domain.limits import Limits
from postroad.domain.tenant import Caller
from postroad.store import migrations, overview, usage

Rows = Sequence[tuple[str, str]]


async def page(visit: Visit) -> Response:
    """What concerns whoever looks."""
    context, caller = visit.context, visit.session.caller
    # Not behind the wall, where nobody sees these counts.
    async with context.database.connection() as connection:
        today, _ = await usage.today(connection, caller.tenant_id)
    parallelism = (await visit.get("/v2/globalParallelism"))["parallelismMax"]
    values: dict[str, Any] = {}
    if visit.session.is_operator:
        async with context.database.connection() as connection:
            values = {
                "nodes": await overview.working(connection),
                "rooms": await overview.rooms(connection, log_kept=context.retention.log),
                "revision": await migrations.revision(connection),
                "settings": context.settings,
            }
        values["bytes"] = sum(room.bytes for room in values["rooms"])
    return visit.page(
        "settings.html",
        version=__version__,
        newest=migrations.newest(),
        public_url=context.public_url,
        retention=(
            ("The log of messages that have ended", format_duration(context.retention.log)),
            ("Dead letters", format_duration(context.retention.dead_letters)),
        ),
        limits=_limits(context.limits, caller, parallelism, today),
        **values,
    )


def _limits(limits: Limits, caller: Caller, parallelism: int, today: int) -> Rows:
    """What a tenant's publishes and calls may be; what was set for the tenant counts before the server's."""
    calls, messages = caller.max_calls_per_second, caller.max_messages_per_day
    a_day = _limit(limits.max_messages_per_day if messages is None else messages)
    return (
        ("Body of a message", size(limits.max_body_bytes)),
        ("Messages in a batch", count(limits.max_batch_items)),
        ("Bodies of a batch together", size(limits.max_batch_bytes)),
        ("Delay", format_duration(limits.max_delay)),
        ("Retries", f"{limits.default_retries} where a message does not say, {count(limits.max_retries)} at most"),
        ("Timeout of an attempt", format_duration(limits.max_timeout)),
        ("Deliveries at a time", _limit(parallelism)),
        ("Messages a day", a_day if a_day == "no limit" else f"{a_day}; {count(today)} today, in UTC"),
        ("Calls of the API a second", _limit(limits.max_calls_per_second if calls is None else calls)),
        ("Schedules", count(limits.max_schedules)),
        ("Queues", count(limits.max_queues)),
        ("URL groups", f"{count(limits.max_url_groups)}, each with {count(limits.max_endpoints)} endpoints"),
        ("Labels of a message", f"{count(limits.max_labels)} of {count(limits.max_label_length)} characters"),
    )


def _limit(most: int) -> str:
    return count(most) if most else "no limit"


ROUTES = (("GET", "/console/settings", page),)
