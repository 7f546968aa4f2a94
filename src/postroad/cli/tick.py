"""When a schedule fires, worked out from its expression."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from postroad.cli.output import Instant


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
