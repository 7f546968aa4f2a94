"""The sections of a file: `schedules`, `queues`, `groups` and `flow`, read into resources."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from postroad.cli.as_code import wire
from postroad.cli.as_code.document import Document, Entry
from postroad.cli.as_code.fields import Fields, described, doubtful
from postroad.cli.as_code.resource import (
    DEFAULT_METHOD,
    DEFAULT_RETRIES,
    Callback,
    FlowKey,
    Group,
    Kind,
    Limits,
    Queue,
    Resource,
    Schedule,
)
from postroad.domain import limits as domain_limits
from postroad.domain.cron import parse_cron
from postroad.domain.destination import parse_url
from postroad.domain.flow_control import DEFAULT_PERIOD, parse_flow_key, parse_period
from postroad.domain.publication import parse_options
from postroad.domain.queue import parse_queue_name
from postroad.domain.redaction import parse_redaction
from postroad.domain.schedule import parse_schedule_id
from postroad.domain.url_group import is_group_name, parse_default_headers, parse_endpoint, parse_group_name
from postroad.errors import InvalidDestination, InvalidField, InvalidValue, LimitExceeded, Refused, shown

SECTIONS: dict[str, Kind] = {"queues": "queue", "groups": "group", "flow": "flow key", "schedules": "schedule"}
"""In the order in which they are applied: a schedule may go to a group, or through a queue."""

_LENIENT = domain_limits.Limits(
    max_delay=timedelta.max,
    max_retries=2**31,
    max_timeout=timedelta.max,
    max_forwarded_headers=2**31,
    max_forwarded_bytes=2**31,
    max_labels=2**31,
    max_label_length=2**31,
)
"""What the server allows, the server says."""

_SCHEDULE = (
    "id", "cron", "zone", "destination", "method", "headers", "body", "retries", "retryDelay", "delay", "timeout",
    "callback", "failureCallback", "queue", "flowControl", "labels", "redact", "paused",
)  # fmt: skip
_METHODS = ("DELETE", "GET", "PATCH", "POST", "PUT")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a file asks for; of a kind that is no key nothing was said at all."""

    resources: Mapping[Kind, list[Resource]]


def read(document: Document, root: Entry) -> Wanted:
    """The resources of a file. Faults are left in the document."""
    known = [*SECTIONS, *(name for name in _names(root) if name.startswith("x-"))]
    fields = Fields(document, root, known)
    readers: dict[str, Callable[[Document, Entry], Resource]] = {
        "queues": _queue,
        "groups": _group,
        "flow": _flow_key,
        "schedules": _schedule,
    }
    resources: dict[Kind, list[Resource]] = {}
    # A section without anything in it is a section: with --prune, nothing of the kind is to be left.
    for section in (name for name in SECTIONS if name in _names(root)):
        found: dict[str, Resource] = {}
        for entry in fields.entries(section):
            resource = readers[section](document, entry)
            if resource.name and resource.name in found:
                document.fault(entry, f"a second {resource.kind} with the name {shown(resource.name)}")
            found[resource.name] = resource
        resources[SECTIONS[section]] = list(found.values())
    return Wanted(resources)


def check_schedule(schedule: Schedule) -> tuple[str, str] | None:
    """What a publish would refuse of it whatever the limits are, as a field and a reason."""
    try:
        parse_options(
            [(name.lower(), value) for name, value in wire.publish_fields(schedule)], limits=_LENIENT, now_s=0
        )
    except InvalidField as error:
        return error.field, f"got {shown(error.value)}, expected {error.expected}"
    except (InvalidDestination, LimitExceeded) as error:
        return error.field, str(error)
    return None


def _names(root: Entry) -> Iterable[str]:
    return root.value if isinstance(root.value, dict) else ()


def _queue(document: Document, entry: Entry) -> Queue:
    fields = Fields(document, entry, ("name", "parallelism", "paused"))
    return Queue(
        fields.name("name", parse_queue_name),
        parallelism=fields.integer("parallelism", least=1) or 1,
        paused=fields.flag("paused"),
    )


def _group(document: Document, entry: Entry) -> Group:
    fields = Fields(document, entry, ("name", "endpoints", "headers"))
    name = fields.name("name", parse_group_name)
    endpoints: dict[str, str | None] = {}
    for one in fields.entries("endpoints"):
        url, label = _endpoint(document, one)
        if url in endpoints or (label is not None and label in endpoints.values()):
            document.fault(one, "another endpoint has this URL or this name")
        endpoints[url] = label
    if not endpoints and name:
        fields.fault("endpoints", "expected a list of one endpoint or more")
    headers = fields.headers("headers", forwarded=False)
    try:
        parse_default_headers(headers.items(), limits=_LENIENT, now_s=0)
    except Refused as error:
        fields.fault("headers", str(error))
    return Group(name, endpoints, headers)


def _endpoint(document: Document, entry: Entry) -> tuple[str, str | None]:
    if isinstance(entry.value, str):
        url, name = entry.value, None
    else:
        fields = Fields(document, entry, ("url", "name"))
        url, name = fields.required("url"), fields.text("name")
    if url:
        try:
            parse_endpoint(url, name or "", path="endpoint")
        except Refused as error:
            document.fault(entry, str(error))
    return url, name


def _flow_key(document: Document, entry: Entry) -> FlowKey:
    fields = Fields(document, entry, ("key", "parallelism", "rate", "period", "paused"))
    rate, period = fields.integer("rate", least=1), _period(fields)
    if period is not None and fields.get("rate") is None:
        fields.fault("period", "expected a rate beside it")
    return FlowKey(
        fields.name("key", parse_flow_key),
        parallelism=fields.integer("parallelism", least=1),
        rate=rate,
        period=None if rate is None else _seconds(DEFAULT_PERIOD) if period is None else period,
        paused=fields.flag("paused"),
    )


def _schedule(document: Document, entry: Entry) -> Schedule:
    fields = Fields(document, entry, _SCHEDULE)
    body, kind = _body(fields)
    headers = fields.headers("headers")
    if kind is not None:
        headers = dict(sorted({"Content-Type": kind, **headers}.items()))
    before = len(document.faults)
    retries = fields.integer("retries", least=0)
    schedule = Schedule(
        fields.name("id", parse_schedule_id),
        cron=_cron(fields),
        destination=_destination(fields),
        method=_method(fields),
        headers=headers,
        body=body,
        retries=DEFAULT_RETRIES if retries is None else retries,
        retry_delay=_one_line(fields.text("retryDelay")) or None,
        delay=fields.seconds("delay") or None,
        timeout=fields.seconds("timeout"),
        callback=_callback(fields, "callback"),
        failure_callback=_callback(fields, "failureCallback"),
        queue=fields.parsed("queue", parse_queue_name),
        flow=_limits(fields),
        labels=_labels(fields),
        redact=_redaction(fields),
        paused=fields.flag("paused"),
    )
    if len(document.faults) == before and (refused := check_schedule(schedule)) is not None:
        name = wire.FIELDS.get(refused[0], "")
        fields.fault(name, refused[1]) if name else document.fault(entry, f"{refused[0]}: {refused[1]}")
    return schedule


def _cron(fields: Fields) -> str:
    text, zone = _one_line(fields.required("cron")), fields.text("zone")
    if zone is not None and "TZ=" in text:
        fields.fault("zone", "expected nothing here, because the cron expression names a zone already")
    if not text:
        return ""
    try:
        return parse_cron(text if zone is None else f"CRON_TZ={zone} {text}").text
    except InvalidValue as error:
        if zone is not None and "IANA" in error.expected:
            fields.fault("zone", f"got {shown(zone)}, expected an IANA time zone such as Europe/Berlin")
        else:
            fields.fault("cron", f"got {shown(text)}, expected {error.expected}")
    return ""


def _destination(fields: Fields) -> str:
    text = fields.required("destination")
    if not text or text == "api/llm" or (is_group_name(text) and "://" not in text):
        return text
    try:
        parse_url(text)
    except InvalidDestination as error:
        fields.fault("destination", f"got {shown(text)}: {error.reason}; or give the name of a URL group")
        return ""
    if text != (sent := wire.as_sent(text)):
        fields.fault("destination", f"got {shown(text)}, expected it as it goes over the wire: {sent}")
    return text


def _method(fields: Fields) -> str:
    method = (fields.text("method") or DEFAULT_METHOD).upper()
    if method not in _METHODS:
        fields.fault("method", f"got {shown(method)}, expected one of {', '.join(_METHODS)}")
    return method


def _body(fields: Fields) -> tuple[bytes, str | None]:
    """The body, and the type of what is written as an object or a list, which becomes JSON."""
    entry = fields.get("body")
    if entry is None or entry.value is None:
        return b"", None
    if isinstance(entry.value, str):
        return entry.value.encode(errors="replace"), None
    if not isinstance(entry.value, dict | list):
        fields.fault("body", f"expected a text, an object or a list, got {described(entry)}")
        return b"", None
    content = json.dumps(_plain(fields.document, entry), ensure_ascii=False, separators=(",", ":"))
    return content.encode(errors="replace"), "application/json"


def _plain(document: Document, entry: Entry) -> Any:
    match entry.value:
        case dict() as fields:
            return {name: _plain(document, one) for name, one in fields.items()}
        case list() as items:
            return [_plain(document, one) for one in items]
    if (doubt := doubtful(entry)) is not None:
        document.fault(entry, doubt)
    return entry.value


def _callback(fields: Fields, name: str) -> Callback | None:
    entry = fields.get(name)
    if entry is None:
        return None
    if not isinstance(entry.value, dict):
        url = fields.url(name)
        return None if url is None else Callback(url)
    inner = Fields(fields.document, entry, ("url", "headers"))
    return Callback(inner.url("url", required=True) or "", inner.headers("headers"))


def _limits(fields: Fields) -> Limits | None:
    entry = fields.get("flowControl")
    if entry is None:
        return None
    inner = Fields(fields.document, entry, ("key", "parallelism", "rate", "period"))
    key, period = inner.parsed("key", parse_flow_key, required=True) or "", _period(inner)
    parallelism, rate = inner.integer("parallelism", least=1), inner.integer("rate", least=1)
    if isinstance(entry.value, dict) and not entry.value.keys() & {"parallelism", "rate"}:
        inner.fault("rate", "expected a rate, a parallelism, or both")
    return Limits(key, parallelism, rate, _seconds(DEFAULT_PERIOD) if period is None else period)


def _period(fields: Fields) -> int | None:
    period = fields.parsed("period", parse_period)
    return None if period is None else _seconds(period)


def _labels(fields: Fields) -> tuple[str, ...]:
    texts = [text.strip() for text in fields.texts("labels")]
    if any(not text.isprintable() or max(text, default="") > "\xff" for text in texts):
        fields.fault("labels", "expected labels in Latin-1, as a header carries them")
        return ()
    if any("," in text for text in texts):
        fields.fault("labels", "expected labels without commas, as a list")
    return tuple(dict.fromkeys(texts))


def _redaction(fields: Fields) -> str | None:
    texts = fields.texts("redact")
    if not texts:
        return None
    try:
        return parse_redaction(",".join(texts)).text()
    except InvalidValue as error:
        fields.fault("redact", f"expected {error.expected}")
    return None


def _one_line(text: str | None) -> str:
    """The text as a header can carry it: YAML writes long ones over several lines, and ends them with a break."""
    return " ".join((text or "").split())


def _seconds(delta: timedelta) -> int:
    return int(delta.total_seconds())
