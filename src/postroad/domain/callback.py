"""Callbacks: what is reported about an attempt, as an ordinary publication."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import replace
from datetime import datetime
from json import dumps
from typing import Any

from postroad.domain.headers import header_map
from postroad.domain.ids import message_text
from postroad.domain.message import Attempt, Callback, Origin
from postroad.domain.outcome import Failed, Outcome, error_text
from postroad.domain.publication import Publication
from postroad.domain.reply import Reply, Response


def callbacks(
    attempt: Attempt, reply: Reply, outcome: Outcome, *, body: bytes, dlq_id: str | None
) -> list[Publication]:
    """The publications that follow from a settled attempt.

    A callback reports every attempt, a failure callback only the one that buried the message. `body` is what was
    sent. Neither has the original's callbacks again.
    """
    options = attempt.message.options
    reports: list[Publication] = []
    if options.callback is not None:
        reports.append(_report(options.callback, attempt, reply, body, dlq_id=None))
    if options.failure_callback is not None and isinstance(outcome, Failed):
        reports.append(_report(options.failure_callback, attempt, reply, body, dlq_id=dlq_id))
    return reports


def _report(callback: Callback, attempt: Attempt, reply: Reply, body: bytes, *, dlq_id: str | None) -> Publication:
    headers = callback.options.headers
    if not any(name == "Content-Type" for name, _ in headers):
        headers = (("Content-Type", "application/json"), *headers)
    return Publication(
        url=callback.url,
        body=dumps(payload(attempt, reply, body, dlq_id=dlq_id), separators=(",", ":")).encode(),
        options=replace(callback.options, headers=headers),
        caller_ip=attempt.message.caller_ip,
    )


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
