"""What a schedule would publish, and when: from what the API tells of it."""

from __future__ import annotations

from base64 import b64decode
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from postroad.errors import PostroadError

if TYPE_CHECKING:
    from postroad.cli.output import Instant

_HIDDEN = "REDACTED:"
_OPTIONS = {
    "delay": "Upstash-Delay",
    "timeout": "Upstash-Timeout",
    "retries": "Upstash-Retries",
    "method": "Upstash-Method",
    "queueName": "Upstash-Queue-Name",
    "flowControlKey": "Upstash-Flow-Control-Key",
    "callback": "Upstash-Callback",
    "failureCallback": "Upstash-Failure-Callback",
    "retryDelayExpression": "Upstash-Retry-Delay",
}
_FORWARDED = {
    "header": "Upstash-Forward-",
    "callbackHeader": "Upstash-Callback-Forward-",
    "failureCallbackHeader": "Upstash-Failure-Callback-Forward-",
}


class Hidden(PostroadError):
    """What is redacted cannot be published again from here."""

    def __init__(self, what: str) -> None:
        super().__init__(f"the {what} of this schedule is redacted: expected a schedule whose {what} can be read")


@dataclass(frozen=True, slots=True)
class Run:
    """One of the instants at which a schedule fires, and what clocks in its zone show then."""

    local: datetime
    instant: Instant


def next_runs(cron: str, count: int) -> tuple[str, list[Run]]:
    """The zone of an expression, and when it fires from now on. Raises `BadOption` for one that is not valid."""
    from zoneinfo import ZoneInfo

    from postroad.cli.options import BadOption
    from postroad.cli.output import Instant
    from postroad.clock import Clock
    from postroad.domain.cron import parse_cron
    from postroad.errors import InvalidValue

    try:
        parsed = parse_cron(cron)
    except InvalidValue as error:
        raise BadOption("--cron", error.value, error.expected) from None
    now = Clock().now()
    # Far enough that what comes once in a leap year comes.
    ticks = parsed.ticks(now, now + timedelta(days=366 * 40), most=count)
    zone = ZoneInfo(parsed.zone)
    return parsed.zone, [Run(tick.astimezone(zone), Instant(int(tick.timestamp() * 1000))) for tick in ticks]


def headers_of(schedule: dict[str, Any]) -> tuple[dict[str, str], bytes]:
    """Headers and body of a publish of what the schedule publishes. Raises `Hidden`."""
    headers = {header: str(schedule[name]) for name, header in _OPTIONS.items() if schedule.get(name) is not None}
    for name in ("Upstash-Delay", "Upstash-Timeout"):
        if name in headers:
            headers[name] += "s"
    limits = {name: schedule[name] for name in ("rate", "period", "parallelism") if schedule.get(name) is not None}
    if "flowControlKey" in schedule and limits:
        headers["Upstash-Flow-Control-Value"] = ", ".join(f"{name}={value}" for name, value in limits.items())
    if schedule.get("labels"):
        headers["Upstash-Label"] = ",".join(schedule["labels"])
    for field, prefix in _FORWARDED.items():
        for name, values in (schedule.get(field) or {}).items():
            if any(value.startswith(_HIDDEN) for value in values):
                raise Hidden(f"header {name}")
            headers["Content-Type" if name == "Content-Type" and field == "header" else prefix + name] = values[-1]
    body = schedule.get("body", "")
    if body.startswith(_HIDDEN):
        raise Hidden("body")
    return headers, b64decode(schedule["bodyBase64"]) if "bodyBase64" in schedule else body.encode()
