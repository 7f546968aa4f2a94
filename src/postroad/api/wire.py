"""What the API says about things: QStash's field names, units and omissions."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from postroad.api.query import instant_of
from postroad.domain.callback import milliseconds, origin_names
from postroad.domain.dead_letter import DeadLetter
from postroad.domain.headers import header_map
from postroad.domain.ids import MessageId, message_text, parse_message_id
from postroad.domain.log import Event, Position, State
from postroad.domain.message import After, Callback, Message, Options, StoredMessage
from postroad.domain.redaction import Redaction, parse_redaction, redacted_body
from postroad.domain.reply import Headers
from postroad.domain.schedule import Schedule, TickState
from postroad.domain.tenant import SigningKeys
from postroad.errors import InvalidField

_CURSOR = re.compile(r"(\d{1,17})-([1-9A-HJ-NP-Za-km-z]{22})-(\d)", re.ASCII)
_NOTHING = Redaction(body=False, all_headers=False, headers=frozenset())
_NO_MESSAGE = MessageId(UUID(int=0))


def message_view(stored: StoredMessage) -> dict[str, Any]:
    """A message. Fields that were not set are absent, never null."""
    message, options = stored.message, stored.message.options
    view: dict[str, Any] = {
        "messageId": message_text(message.id),
        "url": message.url,
        "method": options.method,
        "header": _header(stored, options.headers),
        **_text("body", _redaction(stored), message.body),
        "maxRetries": options.retries,
        "notBefore": milliseconds(stored.not_before),
        "createdAt": milliseconds(stored.created_at),
    }
    return view | _callbacks(stored) | _details(stored)


def schedule_view(
    schedule: Schedule, options: Options, *, states: Mapping[MessageId, TickState], now: datetime
) -> dict[str, Any]:
    """A schedule with what its own headers ask for, and how the messages of its last tick fare."""
    request = schedule.request
    size = len(request.body)
    message = Message(_NO_MESSAGE, schedule.tenant_id, request.destination, options, request.body, size)
    stored = StoredMessage(message, schedule.created_at)
    view: dict[str, Any] = {
        "scheduleId": schedule.id,
        "cron": schedule.cron,
        "destination": request.destination,
        "createdAt": milliseconds(schedule.created_at),
        "method": options.method,
        "header": _header(stored, options.headers),
        **_text("body", _redaction(stored), request.body or None),
        "retries": options.retries,
        "isPaused": schedule.paused,
    }
    if isinstance(options.when, After):
        view["delay"] = int(options.when.delay.total_seconds())
    if options.timeout is not None:
        view["timeout"] = int(options.timeout.total_seconds())
    if request.caller_ip is not None:
        view["callerIP"] = view["callerIp"] = request.caller_ip
    instants = {"lastScheduleTime": schedule.last_at, "nextScheduleTime": schedule.upcoming(now)}
    view |= {name: milliseconds(instant) for name, instant in instants.items() if instant is not None}
    last = {message_text(one): states[one].value for one in schedule.last_messages if one in states}
    if last:
        view["lastScheduleStates"] = last
    if schedule.error is not None:
        view["error"] = schedule.error
    return view | _callbacks(stored) | _details(stored)


def dead_letter_view(letter: DeadLetter) -> dict[str, Any]:
    """A message with the last answer of its destination; status 0 and the reason as body when there was none."""
    view = message_view(letter.stored)
    view["dlqId"] = letter.id
    view["responseStatus"] = letter.status or 0
    if letter.headers:
        view["responseHeader"] = header_map(letter.headers)
    answer = letter.body if letter.status is not None else (letter.reason or "").encode()
    return view | _text("responseBody", _NOTHING, answer)


def event_view(event: Event) -> dict[str, Any]:
    """A line of the log, with as much of the bodies as the event has. Two fields go by two names, as clients differ."""
    stored, message, options = event.stored, event.stored.message, event.stored.message.options
    view: dict[str, Any] = {
        "time": milliseconds(event.position.at),
        "messageId": message_text(message.id),
        "state": event.state.value,
        "url": message.url,
        "method": options.method,
        "maxRetries": options.retries,
        "header": _header(stored, options.headers),
    }
    redaction = _redaction(stored)
    if event.body_hash is not None:
        view["body"] = f"REDACTED:{event.body_hash.hex()}"
    elif message.body:
        view["body"] = redacted_body(message.body) if redaction.body else b64encode(message.body).decode()
    if event.next_due_at is not None:
        view["nextDeliveryTime"] = milliseconds(event.next_due_at)
    if event.state in (State.ERROR, State.FAILED) and event.reason is not None:
        view["error"] = event.reason
    if event.state is State.ERROR and event.status is not None:
        view["responseStatus"] = event.status
        view["responseHeader"] = view["responseHeaders"] = header_map(event.headers)
        if event.body is not None:
            view["responseBody"] = b64encode(event.body).decode()
    if options.timeout is not None:
        view["timeout"] = int(options.timeout / timedelta(milliseconds=1))
    for name, callback in (("callback", options.callback), ("failureCallback", options.failure_callback)):
        if callback is not None:
            view[name] = callback.url
            if callback.options.headers:
                view[f"{name}Headers"] = _callback_header(stored, callback)
    if options.retry_delay is not None:
        view["retryDelayExpr"] = options.retry_delay
    return view | _details(stored)


def keys_view(keys: SigningKeys) -> dict[str, str]:
    """The pair of signing keys."""
    return {"current": keys.current, "next": keys.next}


def cursor_of(position: Position) -> str:
    """A position in the log as an opaque text."""
    micros = int(position.at.timestamp()) * 1_000_000 + position.at.microsecond
    return f"{micros}-{message_text(position.message_id)[4:]}-{position.ordinal}"


def position_of(cursor: str) -> Position:
    """The inverse. Raises `InvalidField`."""
    match = _CURSOR.fullmatch(cursor)
    identity = parse_message_id(f"msg_{match[2]}") if match is not None else None
    if match is None or identity is None:
        raise InvalidField("cursor", cursor, "a cursor that an earlier page gave, or a Unix time in milliseconds")
    seconds, micros = divmod(int(match[1]), 1_000_000)
    return Position(instant_of(seconds * 1000).replace(microsecond=micros), identity, int(match[3]))


def _header(stored: StoredMessage, headers: Headers) -> dict[str, list[str]]:
    return header_map(_redaction(stored).redacted_headers(headers))


def _callback_header(stored: StoredMessage, callback: Callback) -> dict[str, list[str]]:
    """Its headers without what the message hides, or the callback itself, as it will when it is a message."""
    hidden = [text for text in (stored.message.options.redact, callback.options.redact) if text is not None]
    redaction = parse_redaction(",".join(hidden)) if hidden else _NOTHING
    return header_map(redaction.redacted_headers(callback.options.headers))


def _redaction(stored: StoredMessage) -> Redaction:
    text = stored.message.options.redact
    return _NOTHING if text is None else parse_redaction(text)


def _text(name: str, redaction: Redaction, body: bytes | None) -> dict[str, str]:
    """Text as it is, anything else as base64; exactly one of the two fields."""
    if body is None:
        return {}
    if redaction.body:
        return {name: redacted_body(body)}
    try:
        return {name: body.decode()}
    except UnicodeDecodeError:
        return {f"{name}Base64": b64encode(body).decode()}


def _callbacks(stored: StoredMessage) -> dict[str, Any]:
    options = stored.message.options
    view: dict[str, Any] = {}
    for name, callback in (("callback", options.callback), ("failureCallback", options.failure_callback)):
        if callback is not None:
            view[name] = callback.url
            if callback.options.headers:
                view[f"{name}Header"] = _callback_header(stored, callback)
    return view


def _details(stored: StoredMessage) -> dict[str, Any]:
    message, options = stored.message, stored.message.options
    view: dict[str, Any] = {**origin_names(message.origin)}
    if options.queue is not None:
        view["queueName"] = options.queue
    if (flow := options.flow_control) is not None:
        view["flowControlKey"] = flow.key
        view["period"] = int(flow.period.total_seconds())
        limits = {"parallelism": flow.parallelism, "rate": flow.rate}
        view |= {name: value for name, value in limits.items() if value is not None}
    if message.caller_ip is not None:
        view["callerIP"] = message.caller_ip
    if options.labels:
        view["label"] = options.labels[0]
        view["labels"] = list(options.labels)
    if options.retry_delay is not None:
        view["retryDelayExpression"] = options.retry_delay
    return view
