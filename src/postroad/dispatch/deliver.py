"""One attempt: sign, build, send, decide."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from time import monotonic

from postroad import faults
from postroad.clock import Clock
from postroad.dispatch.egress.client import Egress
from postroad.dispatch.egress.request import OutgoingRequest
from postroad.domain.callback import failure_callback
from postroad.domain.destination import parse_url
from postroad.domain.ids import message_text
from postroad.domain.message import Attempt, Callback
from postroad.domain.outcome import Failed, Outcome, outcome
from postroad.domain.reply import NoResponse, Reply
from postroad.domain.request import request_headers
from postroad.domain.status_access import LIFETIME_S, PARAMETER, Purpose, grant
from postroad.domain.tenant import Profile, SigningKeys
from postroad.errors import InvalidDestination
from postroad.faults import Point


@dataclass(slots=True)
class Finished:
    """An attempt that ended, and how.

    `body` is what was sent, kept only where a callback reports it; `failure_callback` reports that the message has
    failed, if this attempt was its last. `late` is how long after its time a message had its first attempt, None where
    it had to wait for others.
    """

    attempt: Attempt
    reply: Reply
    outcome: Outcome
    duration: timedelta
    body: bytes
    failure_callback: Callback | None = None
    late: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Means:
    """What every attempt is made with. `max_timeout` is the default of one attempt, and its bound.

    `region` is named to receivers that hold keys for several; with `standard_webhooks` there are signatures of that
    kind beside QStash's. Handlers report to `public_url`, where this server is reached; without it they cannot.
    """

    egress: Egress
    clock: Clock
    max_timeout: timedelta
    region: str | None = None
    standard_webhooks: bool = False
    public_url: str | None = None


async def deliver(attempt: Attempt, body: bytes, profile: Profile, means: Means) -> Finished:
    """Make one attempt. Whatever goes wrong is a reply; only cancellation gets out. Holds no database connection."""
    started = monotonic()
    try:
        request = _request(attempt, body, profile.keys, means)
        faults.reached(Point.BEFORE_FIRST_BYTE)
        reply = await means.egress.send(request, profile.destinations, tenant_id=attempt.message.tenant_id)
        faults.reached(Point.AFTER_RESPONSE)
    except InvalidDestination as error:
        reply = NoResponse(str(error))
    return _finished(attempt, reply, body, started, profile.failure_callback, means)


def defective(attempt: Attempt, error: Exception, profile: Profile | None, means: Means) -> Finished:
    """An attempt that came to nothing because of a defect of ours; the profile is None if that was not even read."""
    reply = NoResponse(f"internal error: {type(error).__name__}")
    default = None if profile is None else profile.failure_callback
    return _finished(attempt, reply, attempt.message.body or b"", monotonic(), default, means)


def _finished(
    attempt: Attempt, reply: Reply, body: bytes, started: float, default: str | None, means: Means
) -> Finished:
    duration = timedelta(seconds=monotonic() - started)
    now = means.clock.now()
    result = outcome(attempt, reply, now)
    late = None if attempt.retried or attempt.is_gated else now - duration - attempt.stored.not_before
    report_failure_to = failure_callback(attempt.message, default) if isinstance(result, Failed) else None
    is_reported = attempt.message.options.callback is not None or report_failure_to is not None
    return Finished(attempt, reply, result, duration, body if is_reported else b"", report_failure_to, late)


def _request(attempt: Attempt, body: bytes, keys: SigningKeys, means: Means) -> OutgoingRequest:
    message = attempt.message
    timeout = message.options.timeout or means.max_timeout
    now_s = int(means.clock.now_s())
    status_url = None
    if means.public_url is not None:
        until_s, lease = now_s + LIFETIME_S, attempt.lease
        # With the next key, which the next rotation makes the current one: work that is under way outlives that.
        access = grant(keys.next, message.id, message.tenant_id, purpose=Purpose.REPORT, until_s=until_s, lease=lease)
        status_url = f"{means.public_url}/v2/status/{message_text(message.id)}?{PARAMETER}={access}"
    return OutgoingRequest(
        url=parse_url(message.url),
        method=message.options.method,
        headers=request_headers(
            attempt,
            body,
            signing_key=keys.current,
            now_s=now_s,
            region=means.region,
            webhook_keys=keys if means.standard_webhooks else None,
            status_url=status_url,
        ),
        body=body,
        timeout=min(timeout, means.max_timeout).total_seconds(),
    )
