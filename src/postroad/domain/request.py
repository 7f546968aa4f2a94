"""What the destination receives: the request line's parts and the headers of one attempt."""

from __future__ import annotations

from postroad.domain.ids import message_text, random_text
from postroad.domain.message import DIRECT, Attempt, Origin
from postroad.domain.reply import Headers
from postroad.domain.signature import STANDARD_WEBHOOKS, signature, standard_webhooks
from postroad.domain.tenant import SigningKeys

USER_AGENT = "Upstash-QStash"


def request_headers(
    attempt: Attempt,
    body: bytes,
    *,
    signing_key: str,
    now_s: int,
    region: str | None = None,
    webhook_keys: SigningKeys | None = None,
    status_url: str | None = None,
) -> Headers:
    """The headers of an attempt: the publisher's, and ours, which cannot be overridden but for the user agent.

    A new signature with a new `jti` is made for every attempt. With `webhook_keys` there are those of Standard Webhooks
    beside it; `status_url` is where the handler may report.
    """
    message = attempt.message
    options = message.options
    given = options.headers
    ours = [
        ("Upstash-Message-Id", message_text(message.id)),
        ("Upstash-Retried", str(attempt.retried)),
        ("Upstash-Signature", signature(signing_key, message.url, body, now_s, random_text("jwt_"))),
    ]
    if message.caller_ip is not None:
        ours.append(("Upstash-Caller-Ip", message.caller_ip))
    if message.origin is not DIRECT:
        ours += _origin_headers(message.origin)
    if status_url is not None:
        ours.append(("Upstash-Status-Url", status_url))
    if region is not None:
        ours.append(("Upstash-Region", region))
    if options.labels:
        ours.append(("Upstash-Label", _as_bytes(",".join(options.labels))))
    if not any(name == "User-Agent" for name, _ in given):
        ours.append(("User-Agent", USER_AGENT))
    if webhook_keys is not None:
        keys = (webhook_keys.current, webhook_keys.next)
        ours += standard_webhooks(keys, message_text(message.id), body, now_s)
        given = tuple(pair for pair in given if pair[0] not in STANDARD_WEBHOOKS)
    return (*given, *ours)


def _as_bytes(text: str) -> str:
    """The text as a header carries it: a label of a batch may hold any character, which goes out in UTF-8."""
    if text.isascii():
        return text
    try:
        text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode().decode("latin-1")
    return text


def _origin_headers(origin: Origin) -> list[tuple[str, str]]:
    names = (("Upstash-Schedule-Id", origin.schedule_id), ("Upstash-Topic-Name", origin.url_group))
    return [(name, value) for name, value in names if value is not None]
