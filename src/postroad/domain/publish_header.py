"""What each `Upstash-*` header of a publish may say: one line and one parser each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from postroad.domain.duration import parse_duration
from postroad.domain.flow_control import parse_flow_key, parse_flow_value
from postroad.domain.limits import Limits
from postroad.domain.message import METHODS
from postroad.domain.queue import parse_queue_name
from postroad.domain.redaction import parse_redaction
from postroad.errors import InvalidField, InvalidValue, LimitExceeded


@dataclass(frozen=True, slots=True)
class ById:
    """A duplicate of what was published with the same id within the window."""

    id: str


def _method(text: str, limits: Limits) -> str:
    method = text.upper()
    if method not in METHODS:
        raise InvalidValue(text, f"one of {', '.join(METHODS)}")
    return method


def _retries(text: str, limits: Limits) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 9:
        raise InvalidValue(text, "an integer of 0 or more")
    if int(text) > limits.max_retries:
        raise LimitExceeded("maxRetries", limits.max_retries, field="")
    return int(text)


def _delay(text: str, limits: Limits) -> timedelta:
    delay = parse_duration(text, bare_seconds=True)
    if delay > limits.max_delay:
        raise LimitExceeded("maxDelay", int(limits.max_delay.total_seconds()), field="")
    return delay


def _not_before(text: str, limits: Limits) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 12:
        raise InvalidValue(text, "a Unix time in seconds")
    return int(text)


def _timeout(text: str, limits: Limits) -> timedelta:
    timeout = parse_duration(text, bare_seconds=True)
    if not timeout:
        raise InvalidValue(text, "a duration above zero such as 30s")
    if timeout > limits.max_timeout:
        raise LimitExceeded("maxTimeout", int(limits.max_timeout.total_seconds()), field="")
    return timeout


def _expression(text: str, limits: Limits) -> str:
    return text


def _by_id(text: str, limits: Limits) -> ById:
    if ":" in text:
        raise InvalidDeduplicationId
    if not text or len(text) > limits.max_deduplication_id_length or not text.isprintable():
        raise InvalidValue(text, f"1 to {limits.max_deduplication_id_length} printable characters")
    return ById(text)


def boolean(text: str, limits: Limits) -> bool:
    """A flag, as clients in several languages write it."""
    match text.lower():
        case "true" | "1":
            return True
        case "false" | "0" | "":
            return False
    raise InvalidValue(text, "true or false")


def _labels(text: str, limits: Limits) -> tuple[str, ...]:
    labels = tuple(dict.fromkeys(label for part in text.split(",") if (label := part.strip())))
    if any(not label.isprintable() for label in labels):
        raise InvalidValue(text, "printable characters")
    if len(labels) > limits.max_labels or any(len(label) > limits.max_label_length for label in labels):
        raise InvalidValue(text, f"at most {limits.max_labels} labels of at most {limits.max_label_length} characters")
    return labels


def _redact(text: str, limits: Limits) -> str:
    return parse_redaction(text).text()


def _queue_name(text: str, limits: Limits) -> str:
    return parse_queue_name(text)


def _flow_key(text: str, limits: Limits) -> str:
    return parse_flow_key(text)


def _flow_value(text: str, limits: Limits) -> tuple[int | None, int | None, timedelta]:
    return parse_flow_value(text)


class InvalidDeduplicationId(InvalidField):
    """QStash's own wording, which clients show to their users."""

    def __init__(self) -> None:
        super().__init__("Upstash-Deduplication-Id", "", "no colon")
        self.args = ("DeduplicationId cannot contain ':'",)


OPTIONS: dict[str, tuple[str, Callable[[str, Limits], Any]]] = {
    "method": ("method", _method),
    "retries": ("retries", _retries),
    "retry-delay": ("retry_delay", _expression),
    "delay": ("delay", _delay),
    "not-before": ("not_before", _not_before),
    "timeout": ("timeout", _timeout),
    "label": ("labels", _labels),
    "redact-fields": ("redact", _redact),
    "deduplication-id": ("deduplication", _by_id),
    "content-based-deduplication": ("by_content", boolean),
    "queue-name": ("queue", _queue_name),
    "flow-control-key": ("flow_key", _flow_key),
    "flow-control-value": ("flow_value", _flow_value),
}
"""Header suffix → the field of `Options` (or of the draft) and its parser. A new publish header is one line here."""
