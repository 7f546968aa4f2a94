"""What the destination receives: the request line's parts and the headers of one attempt."""

from __future__ import annotations

from postroad.domain.ids import message_text, random_text
from postroad.domain.message import DIRECT, Attempt, Origin
from postroad.domain.reply import Headers
from postroad.domain.signature import signature

USER_AGENT = "Upstash-QStash"


def request_headers(
    attempt: Attempt, body: bytes, *, signing_key: str, now_s: int, region: str | None = None
) -> Headers:
    """The headers of an attempt: the publisher's, and ours, which cannot be overridden but for the user agent.

    A new signature with a new `jti` is made for every attempt.
    """
    message = attempt.message
    options = message.options
    ours = [
        ("Upstash-Message-Id", message_text(message.id)),
        ("Upstash-Retried", str(attempt.retried)),
        ("Upstash-Signature", signature(signing_key, message.url, body, now_s, random_text("jwt_"))),
    ]
    if message.caller_ip is not None:
        ours.append(("Upstash-Caller-Ip", message.caller_ip))
    if message.origin is not DIRECT:
        ours += _origin_headers(message.origin)
    if region is not None:
        ours.append(("Upstash-Region", region))
    if options.labels:
        ours.append(("Upstash-Label", ",".join(options.labels)))
    if not any(name == "User-Agent" for name, _ in options.headers):
        ours.append(("User-Agent", USER_AGENT))
    return (*options.headers, *ours)


def _origin_headers(origin: Origin) -> list[tuple[str, str]]:
    names = (("Upstash-Schedule-Id", origin.schedule_id), ("Upstash-Topic-Name", origin.url_group))
    return [(name, value) for name, value in names if value is not None]
