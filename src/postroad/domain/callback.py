"""Callbacks: what is reported about an attempt, as an ordinary publication."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import replace
from datetime import datetime
from json import dumps
from typing import Any

from postroad.domain.headers import header_map
from postroad.domain.hops import inherited
from postroad.domain.ids import message_text
from postroad.domain.message import Attempt, Callback, Message, Options, Origin
from postroad.domain.outcome import error_text
from postroad.domain.publication import Publication
from postroad.domain.redaction import parse_redaction
from postroad.domain.reply import Reply, Response


def failure_callback(message: Message, default: str | None) -> Callback | None:
    """Where it is reported that a message has failed: as it says itself, else at the default URL of its tenant.

    That callbacks have failed is reported at no default URL, or a report that cannot be delivered would be reported
    again and again.
    """
    own = message.options.failure_callback
    if own is not None or default is None or message.source_id is not None:
        return own
    return Callback(default, Options(retries=message.options.retries))


def callbacks(
    attempt: Attempt, reply: Reply, *, failure_callback: Callback | None, body: bytes, dlq_id: str | None
) -> list[Publication]:
    """The publications that follow from a settled attempt.

    A callback reports every attempt, the failure callback, which is None for all others, the one that buried the
    message. `body` is what was sent. Neither has the original's callbacks again.
    """
    callback = attempt.message.options.callback
    reports: list[Publication] = []
    if callback is not None:
        reports.append(_report(callback, attempt, reply, body, dlq_id=None))
    if failure_callback is not None:
        reports.append(_report(failure_callback, attempt, reply, body, dlq_id=dlq_id))
    return reports


def _report(callback: Callback, attempt: Attempt, reply: Reply, body: bytes, *, dlq_id: str | None) -> Publication:
    headers = callback.options.headers + inherited(attempt.message.options.headers)
    if not any(name == "Content-Type" for name, _ in headers):
        headers = (("Content-Type", "application/json"), *headers)
    return Publication(
        url=callback.url,
        body=dumps(payload(attempt, reply, body, dlq_id=dlq_id), separators=(",", ":")).encode(),
        options=replace(callback.options, headers=headers, redact=_redaction(callback, attempt)),
        caller_ip=attempt.message.caller_ip,
    )


def _redaction(callback: Callback, attempt: Attempt) -> str | None:
    """A callback says what its message said: where that is not to be seen, neither is the callback's body."""
    if attempt.message.options.redact is None:
        return callback.options.redact
    return parse_redaction(f"body,{callback.options.redact}" if callback.options.redact else "body").text()


def payload(attempt: Attempt, reply: Reply, body: bytes, *, dlq_id: str | None) -> dict[str, Any]:
    """The document of QStash's callbacks; `status` is 0 and `body` the reason when no response came.

    As in captured payloads, `retried` is left out when it is 0 and the instants are numbers.
    """
    message = attempt.message
    if isinstance(reply, Response):
        status, header, answer = reply.status, header_map(reply.headers), reply.body
    else:
        status, header, answer = 0, {}, error_text(reply).encode()
    document: dict[str, Any] = {"status": status, "header": header, "body": b64encode(answer).decode()}
    if attempt.retried:
        document["retried"] = attempt.retried
    document["maxRetries"] = message.options.retries
    if dlq_id is not None:
        document["dlqId"] = dlq_id
    document |= {
        "sourceMessageId": message_text(message.id),
        **origin_names(message.origin),
        "url": message.url,
        "method": message.options.method,
        "sourceHeader": header_map(message.options.headers),
        "sourceBody": b64encode(body).decode(),
        "notBefore": milliseconds(attempt.stored.not_before),
        "createdAt": milliseconds(attempt.stored.created_at),
    }
    if message.caller_ip is not None:
        document["callerIP"] = message.caller_ip
    return document


def origin_names(origin: Origin) -> dict[str, str]:
    """What led to a message, by QStash's names; what did not is absent."""
    names = {
        "topicName": origin.url_group,
        "endpointName": origin.endpoint,
        "scheduleId": origin.schedule_id,
        "api": origin.api,
    }
    return {name: value for name, value in names.items() if value is not None}


def milliseconds(instant: datetime) -> int:
    """Unix time in milliseconds, the API's unit for instants."""
    return int(instant.timestamp() * 1000)
