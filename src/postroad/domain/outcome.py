"""What a reply means for the delivery: delivered, retry or failed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from postroad.domain.backoff import backoff, requested_delay
from postroad.domain.duration import parse_duration
from postroad.domain.message import Attempt
from postroad.domain.reply import NoResponse, Reply, Response
from postroad.domain.retry_expression import stored_expression
from postroad.errors import InvalidValue

NON_RETRYABLE_STATUS = 489
ACCEPTED_STATUS = 202

DEFAULT_SPAN = timedelta(minutes=15)
LONGEST_SPAN = timedelta(days=7)
"""How long a handler that has taken work on may be silent."""


@dataclass(frozen=True, slots=True)
class Delivered:
    """The destination took it."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Another attempt follows after `delay`."""

    delay: timedelta


@dataclass(frozen=True, slots=True)
class Failed:
    """No attempt is left, or the destination said that none would help."""


@dataclass(frozen=True, slots=True)
class Waits:
    """The handler has taken the work on, and will say how it ended; `span` is how long it may be silent."""

    span: timedelta


Outcome = Delivered | Retry | Failed | Waits

DELIVERED = Delivered()
FAILED = Failed()


def outcome(attempt: Attempt, reply: Reply, now: datetime) -> Outcome:
    """What follows from a reply. Redirects are not followed, so 3xx is a failed attempt as any other non-2xx."""
    if isinstance(reply, Response):
        if 200 <= reply.status < 300:
            return _left_to_handler(reply) if reply.status == ACCEPTED_STATUS else DELIVERED
        if reply.status == NON_RETRYABLE_STATUS and _says_non_retryable(reply):
            return FAILED
    if attempt.is_last:
        return FAILED
    return Retry(_delay(attempt, reply, now))


def _left_to_handler(response: Response) -> Outcome:
    """`Upstash-Ack: wait`, or `wait=30m` with how long to wait; what else it may say has no meaning."""
    for name, value in response.headers:
        if name.lower() == "upstash-ack":
            word, _, span = value.strip().lower().partition("=")
            if word.strip() == "wait":
                return Waits(_span(span.strip()))
    return DELIVERED


def _span(text: str) -> timedelta:
    try:
        span = parse_duration(text, bare_seconds=True)
    except InvalidValue:
        return DEFAULT_SPAN
    return min(max(span, timedelta(seconds=1)), LONGEST_SPAN)


def _delay(attempt: Attempt, reply: Reply, now: datetime) -> timedelta:
    """The destination's wish counts first, then the publisher's expression, then the default backoff."""
    if isinstance(reply, Response) and (wished := requested_delay(reply.headers, now)) is not None:
        return wished
    if (text := attempt.message.options.retry_delay) is not None:
        return stored_expression(text).delay(attempt.retried)
    return backoff(attempt.retried)


def _says_non_retryable(response: Response) -> bool:
    return any(
        name.lower() == "upstash-nonretryable-error" and value.strip().lower() == "true"
        for name, value in response.headers
    )


def error_text(reply: Reply) -> str:
    """One sentence about a failed attempt, for logs and the dead letter."""
    match reply:
        case NoResponse(reason):
            return reason
        case Response(status=status):
            return f"the destination answered {status}"
