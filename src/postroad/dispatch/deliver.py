"""One attempt: sign, build, send, decide."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from time import monotonic

from postroad.clock import Clock
from postroad.dispatch.egress.client import Egress
from postroad.dispatch.egress.request import OutgoingRequest
from postroad.domain.destination import parse_url
from postroad.domain.message import Attempt
from postroad.domain.outcome import Outcome, outcome
from postroad.domain.reply import NoResponse, Reply
from postroad.domain.request import request_headers
from postroad.errors import InvalidDestination


@dataclass(slots=True)
class Finished:
    """An attempt that ended, and how; `body` is what was sent, kept only where a callback reports it."""

    attempt: Attempt
    reply: Reply
    outcome: Outcome
    duration: timedelta
    body: bytes


@dataclass(frozen=True, slots=True)
class Means:
    """What every attempt is made with. `max_timeout` is the default of one attempt, and its bound.

    `region` is named to receivers that hold keys for several.
    """

    egress: Egress
    clock: Clock
    max_timeout: timedelta
    region: str | None = None


async def deliver(attempt: Attempt, body: bytes, signing_key: str, means: Means) -> Finished:
    """Make one attempt. Whatever goes wrong is a reply; only cancellation gets out. Holds no database connection."""
    started = monotonic()
    try:
        reply = await means.egress.send(_request(attempt, body, signing_key, means))
    except InvalidDestination as error:
        reply = NoResponse(str(error))
    return _finished(attempt, reply, body, started, means)


def defective(attempt: Attempt, error: Exception, means: Means) -> Finished:
    """An attempt that came to nothing because of a defect of ours."""
    reply = NoResponse(f"internal error: {type(error).__name__}")
    return _finished(attempt, reply, attempt.message.body or b"", monotonic(), means)


def _finished(attempt: Attempt, reply: Reply, body: bytes, started: float, means: Means) -> Finished:
    options = attempt.message.options
    is_reported = options.callback is not None or options.failure_callback is not None
    return Finished(
        attempt,
        reply,
        outcome(attempt, reply, means.clock.now()),
        timedelta(seconds=monotonic() - started),
        body if is_reported else b"",
    )


def _request(attempt: Attempt, body: bytes, signing_key: str, means: Means) -> OutgoingRequest:
    message = attempt.message
    timeout = message.options.timeout or means.max_timeout
    return OutgoingRequest(
        url=parse_url(message.url),
        method=message.options.method,
        headers=request_headers(
            attempt, body, signing_key=signing_key, now_s=int(means.clock.now_s()), region=means.region
        ),
        body=body,
        timeout=min(timeout, means.max_timeout).total_seconds(),
    )
