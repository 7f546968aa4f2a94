"""The form of a schedule: what one publishes as fields to be typed into, and what was typed as a change of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import orjson

from postroad.console.visit import Form
from postroad.domain.headers import canonical
from postroad.domain.publication import Request
from postroad.domain.redaction import Redaction, parse_redaction
from postroad.domain.schedule import Schedule
from postroad.errors import InvalidField, InvalidValue, PostroadError

SINGLE: Mapping[str, str] = {
    "method": "upstash-method",
    "content_type": "content-type",
    "delay": "upstash-delay",
    "timeout": "upstash-timeout",
    "retries": "upstash-retries",
    "retry_delay": "upstash-retry-delay",
    "queue": "upstash-queue-name",
    "flow_key": "upstash-flow-control-key",
    "flow_value": "upstash-flow-control-value",
    "callback": "upstash-callback",
    "failure_callback": "upstash-failure-callback",
    "label": "upstash-label",
}
"""Fields of the form that are one header each."""

_FORWARD = "upstash-forward-"
_REDACT = "redact-fields"
_NAMES = frozenset(SINGLE.values())
_NOTHING = Redaction(body=False, all_headers=False, headers=frozenset())

Fields = Sequence[tuple[str, str]]


class FormError(PostroadError):
    """What was typed is no schedule: the text says why."""


@dataclass(frozen=True, slots=True)
class Filled:
    """A form as it is shown. `body_kept` says why the body is not shown; it stays unless another one is typed."""

    values: Mapping[str, str]
    body_kept: str = ""
    version: str = ""


def empty(given: Mapping[str, str]) -> Filled:
    """The form of a new schedule, with what is known of it already."""
    return Filled({"zone": "UTC", **given})


def filled(schedule: Schedule) -> Filled:
    """The form of a schedule that is there. What it redacts is shown by its hash, and stays if that does."""
    request = schedule.request
    zone, times = split_cron(schedule.cron)
    values = {"cron": times, "zone": zone, "destination": request.destination}
    last = dict(request.fields)
    values |= {name: last.get(header, "") for name, header in SINGLE.items()}
    lines = _lines(request.fields)
    values["headers"] = "\n".join(line for line, (name, _) in lines if name.startswith(_FORWARD))
    values["options"] = "\n".join(line for line, (name, _) in lines if not name.startswith(_FORWARD))
    kept, body = _body(request)
    return Filled(values | {"body": body}, kept, version_of(schedule))


def version_of(schedule: Schedule) -> str:
    """What tells a schedule from itself after a change."""
    request = schedule.request
    whole = [schedule.cron, request.destination, [list(pair) for pair in request.fields]]
    return sha256(orjson.dumps(whole) + request.body).hexdigest()


def typed(form: Form, *, version: str = "", body_kept: str = "") -> Filled:
    """The form as it was typed, to be shown again."""
    names = ("id", "cron", "zone", "destination", *SINGLE)
    values = {name: form.text(name) for name in names}
    return Filled(values | {name: form.raw(name) for name in ("headers", "options", "body")}, body_kept, version)


def cron_of(form: Form) -> str:
    """The expression with its zone; one that is in the expression counts more."""
    return joined_cron(form.text("zone"), form.text("cron"))


def joined_cron(zone: str, times: str) -> str:
    """An expression with a zone before it, unless it has one or needs none."""
    return times if "=" in times or zone in ("", "UTC") else f"CRON_TZ={zone} {times}"


def split_cron(text: str) -> tuple[str, str]:
    """The zone of an expression, and what is behind."""
    prefix, _, rest = text.partition(" ")
    name, equals, zone = prefix.partition("=")
    return (zone, rest.strip()) if equals and name in ("CRON_TZ", "TZ") else ("UTC", text)


def publish_fields(form: Form) -> list[tuple[str, str]]:
    """The headers of what was typed. Raises `FormError`."""
    fields = [(header, form.text(name)) for name, header in SINGLE.items() if form.text(name)]
    return fields + _others(form)


def change_of(schedule: Schedule, form: Form) -> dict[str, Any]:
    """What was changed in the form of a schedule, as the API takes it. Raises `FormError`."""
    request, before = schedule.request, filled(schedule).values
    document: dict[str, Any] = {}
    if (form.text("cron"), form.text("zone")) != (before["cron"], before["zone"]):
        document["cron"] = cron_of(form)
    if form.text("destination") != request.destination:
        document["destination"] = form.text("destination")
    headers = _changed(request, before, form)
    if headers:
        document["headers"] = headers
    body = form.raw("body")
    if form.has("no_body"):
        document["body"] = ""
    elif body != _ends_alike(before["body"]):
        document["body"] = body
    return document


def _changed(request: Request, before: Mapping[str, str], form: Form) -> dict[str, Any]:
    hidden = {line: pair for line, pair in _lines(request.fields) if line != _line(*pair)}
    changes: dict[str, Any] = {}
    for name, header in SINGLE.items():
        if form.text(name) != before[name].strip():
            changes[header] = form.text(name) or None
    old = _grouped((name, value) for name, value in request.fields if name not in _NAMES)
    new = _grouped(hidden.get(_line(*pair), pair) for pair in _others(form))
    for name in old.keys() | new.keys():
        if [one.strip() for one in old.get(name, [])] != new.get(name, []):
            changes[name] = new.get(name)
    return changes


def _others(form: Form) -> list[tuple[str, str]]:
    """The headers that were typed as lines."""
    pairs = [(_FORWARD + name, value) for name, value in _pairs(form.raw("headers"))]
    pairs += _pairs(form.raw("options"))
    for name, _ in pairs:
        if name in _NAMES:
            raise FormError(f"{canonical(name)} has a field of its own")
    return pairs


def _grouped(pairs: Any) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = {}
    for name, value in pairs:
        grouped.setdefault(name, []).append(value)
    return grouped


def _pairs(text: str) -> list[tuple[str, str]]:
    pairs = []
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if not line.strip():
            continue
        if not colon or not name.strip():
            raise FormError(f"{line.strip()!r} is no header: expected lines such as X-Name: value")
        pairs.append((name.strip().lower(), value.strip()))
    return pairs


def _lines(fields: Fields) -> list[tuple[str, tuple[str, str]]]:
    """The fields without one of their own as lines, what is redacted by its hash; each with what it is."""
    redaction = _redaction(fields)
    lines = []
    for name, value in fields:
        if name in _NAMES:
            continue
        _, is_forwarded, header = name.rpartition("forward-")
        shown = value
        if name != "upstash-header-forward" and (is_forwarded or not name.startswith("upstash-")):
            [(_, shown)] = redaction.redacted_headers(((canonical(header or name), value),))
        lines.append((_line(name, shown), (name, value)))
    return lines


def _line(name: str, value: str) -> str:
    shown = name.removeprefix(_FORWARD) if name.startswith(_FORWARD) else name
    return f"{canonical(shown)}: {value.strip()}"


def _redaction(fields: Fields) -> Redaction:
    """What the message or any of its callbacks hides, hidden everywhere."""
    texts = [value for name, value in fields if name.endswith(_REDACT) and value.strip()]
    try:
        return parse_redaction(",".join(texts)) if texts else _NOTHING
    except (InvalidValue, InvalidField):
        return Redaction(body=True, all_headers=True, headers=frozenset())


def _ends_alike(text: str) -> str:
    """A text as browsers give it back: they make every end of a line the same, and that is no change."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _body(request: Request) -> tuple[str, str]:
    """Why the body is not shown, and the body where it is."""
    if _redaction([(name, value) for name, value in request.fields if name == f"upstash-{_REDACT}"]).body:
        return "It is redacted.", ""
    try:
        text = request.body.decode()
    except UnicodeDecodeError:
        return "It is no text.", ""
    # A browser would not give these back as they are.
    has_controls = any(character < " " and character not in "\t\r\n" for character in text)
    return ("It is no text that can be typed.", "") if has_controls else ("", text)
