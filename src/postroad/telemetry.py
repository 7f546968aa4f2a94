"""What the process says of itself: one wide event per attempt, and how log lines look."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime, timedelta
from json import dumps
from typing import Any

from postroad.domain.ids import message_text
from postroad.domain.message import Attempt
from postroad.domain.outcome import Delivered, Outcome
from postroad.domain.reply import NoResponse, Reply, Response

_attempts = logging.getLogger("postroad.attempt")


def configure(*, level: str, json: bool, deliveries: bool = False) -> None:
    """Log to standard error, as JSON objects or as lines for people.

    With `deliveries`, attempts that succeeded are said too, as those that failed are.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if json else _Text("%(asctime)s %(levelname)-7s %(name)s  %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    if deliveries and level == "info":
        _attempts.setLevel(logging.DEBUG)
    for chatty in ("alembic", "uvicorn", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def attempt_ended(attempt: Attempt, reply: Reply, outcome: Outcome, duration: timedelta, *, took_effect: bool) -> None:
    """The event of an attempt. Never holds a body or a header value; delivered ones are said only where debug is on."""
    level = logging.DEBUG if isinstance(outcome, Delivered) else logging.INFO
    if not took_effect:
        level = logging.WARNING
    if not _attempts.isEnabledFor(level):
        return
    message = attempt.message
    event: dict[str, Any] = {
        "message": message_text(message.id),
        "tenant": message.tenant_id,
        "url": message.url.partition("?")[0],
        "retried": attempt.retried,
        "lease": attempt.lease,
        "outcome": type(outcome).__name__.lower(),
        "status": reply.status if isinstance(reply, Response) else None,
        "reason": reply.reason if isinstance(reply, NoResponse) else None,
        "ms": round(duration.total_seconds() * 1000, 1),
        "took_effect": took_effect,
    }
    text = " ".join(f"{key}={value}" for key, value in event.items() if value is not None)
    _attempts.log(max(level, logging.INFO), text, extra={"event": event})


class _Text(logging.Formatter):
    def formatException(self, ei: Any) -> str:  # noqa: N802  the name is logging's
        """Without what PostgreSQL adds to an error: it quotes the row, and with it bodies and headers."""
        for error in _all_of(ei[1]):
            if getattr(error, "sqlstate", None) and getattr(error, "detail", None):
                error.detail = "(not logged)"  # type: ignore[attr-defined]  # of a class that only the store knows
        return super().formatException(ei)


def _all_of(error: BaseException | None) -> list[BaseException]:
    """An error with those behind it, and those in it."""
    found: list[BaseException] = []
    left = [error]
    while left:
        one = left.pop()
        if one is not None and one not in found:
            found.append(one)
            left += [one.__cause__, one.__context__, *getattr(one, "exceptions", ())]
    return found


class _Json(_Text):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        event = getattr(record, "event", None)
        line |= event if event is not None else {"message": record.getMessage()}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return dumps(line)
