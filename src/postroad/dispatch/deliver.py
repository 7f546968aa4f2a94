"""One attempt: sign, build, send, decide."""

from __future__ import annotations

import logging
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

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Finished:
    """An attempt that ended, and how; `body` is what was sent."""

    attempt: Attempt
    reply: Reply
    outcome: Outcome
    duration: timedelta
    body: bytes


@dataclass(frozen=True, slots=True)
class Means:
    """What every attempt is made with. `max_timeout` is the default of one attempt, and its bound."""

    egress: Egress
    clock: Clock
    max_timeout: timedelta


async def deliver(attempt: Attempt, body: bytes, signing_key: str, means: Means) -> Finished:
    """Make one attempt. Whatever goes wrong is a reply; only cancellation gets out. Holds no database connection."""
    started = monotonic()
    try:
        reply = await means.egress.send(_request(attempt, body, signing_key, means))
    except InvalidDestination as error:
        reply = NoResponse(str(error))
    except Exception as error:  # noqa: BLE001  a defect of ours must end as a settled attempt, not as a stuck delivery
        _log.exception("an attempt failed inside the server")
        reply = NoResponse(f"internal error: {type(error).__name__}")
    duration = timedelta(seconds=monotonic() - started)
    return Finished(attempt, reply, outcome(attempt, reply, means.clock.now()), duration, body)


def _request(attempt: Attempt, body: bytes, signing_key: str, means: Means) -> OutgoingRequest:
    message = attempt.message
    timeout = message.options.timeout or means.max_timeout
    return OutgoingRequest(
        url=parse_url(message.url),
        method=message.options.method,
        headers=request_headers(attempt, body, signing_key=signing_key, now_s=int(means.clock.now_s())),
        body=body,
        timeout=min(timeout, means.max_timeout).total_seconds(),
    )
