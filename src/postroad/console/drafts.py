"""A request that is being put together: what was typed, and the call of the API that it stands for."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from postroad.console import payloads
from postroad.console.inside import segment
from postroad.console.visit import Form
from postroad.errors import PostroadError

KINDS = ("publish", "enqueue", "schedule", "batch")
METHODS = ("POST", "GET", "PUT", "PATCH", "DELETE")

OPTIONS: Mapping[str, str] = {
    "delay": "Upstash-Delay",
    "not_before": "Upstash-Not-Before",
    "retries": "Upstash-Retries",
    "retry_delay": "Upstash-Retry-Delay",
    "timeout": "Upstash-Timeout",
    "callback": "Upstash-Callback",
    "failure_callback": "Upstash-Failure-Callback",
    "deduplication_id": "Upstash-Deduplication-Id",
    "label": "Upstash-Label",
    "flow_key": "Upstash-Flow-Control-Key",
    "redact": "Upstash-Redact-Fields",
    "cron": "Upstash-Cron",
    "schedule_id": "Upstash-Schedule-Id",
}
"""Fields of the form that are headers of a publish as they are."""

FIELDS: Mapping[str, str] = {
    **{header: name for name, header in OPTIONS.items()},
    "Upstash-Flow-Control-Value": "flow",
    "Upstash-Method": "method",
    "Upstash-Content-Based-Deduplication": "by_content",
    "Upstash-Schedule-Queue-Name": "queue",
    "queueName": "queue",
    "destination url": "destination",
    "callback url": "callback",
    "body": "body",
}
"""Where in the form the field is that an error names."""

_FLOW = ("parallelism", "rate", "period")
_ZONE = "UTC"


class DraftError(PostroadError):
    """Something that was typed stands for no request at all; `field` is where in the form."""

    def __init__(self, field: str, words: str) -> None:
        self.field = field
        super().__init__(words)


@dataclass(frozen=True, slots=True)
class Draft:
    """What the form holds, by the names of its fields."""

    values: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_form(cls, form: Form) -> Draft:
        """What was typed; a box that is ticked is `on`."""
        multiline = ("body", "headers", "batch")
        return cls({name: form.raw(name) if name in multiline else form.text(name) for name in form.values})

    def __getitem__(self, name: str) -> str:
        """The value of a field, empty if it is not there."""
        return self.values.get(name, "")

    @property
    def kind(self) -> str:
        """Publish, enqueue, schedule or batch."""
        return self["kind"] if self["kind"] in KINDS else "publish"

    @property
    def method(self) -> str:
        """The method of the delivery."""
        return self["method"] or "POST"

    @property
    def forwarded(self) -> dict[str, str]:
        """The headers that go along to the destination. Raises `DraftError`."""
        fields: dict[str, str] = {}
        for line in self["headers"].splitlines():
            name, colon, value = line.partition(":")
            if not line.strip():
                continue
            if not colon or not name.strip():
                raise DraftError("headers", f"{line.strip()!r} is no header: expected lines such as X-Name: value")
            fields[name.strip()] = value.strip()
        return fields

    @property
    def body(self) -> bytes:
        """The body, which is kept in base64 where it is no text."""
        kept = payloads.of_message({"bodyBase64": self["body_base64"]}) if self["body_base64"] else self["body"]
        return kept.encode() if isinstance(kept, str) else kept or b""

    @property
    def flow(self) -> dict[str, str]:
        """The limits of the flow-control key."""
        return {name: self[name] for name in _FLOW if self[name]}

    @property
    def options(self) -> dict[str, str]:
        """The options that were chosen, by the fields of `OPTIONS`. Raises `DraftError`."""
        own = ("cron", "schedule_id") if self.kind != "schedule" else ("not_before",)
        chosen = {name: self[name] for name in OPTIONS if self[name] and name not in own}
        if self["at"] and self.kind != "schedule":
            chosen["not_before"] = str(self._instant())
        return chosen

    def headers(self) -> list[tuple[str, str]]:
        """All headers of the call but the token. Raises `DraftError`."""
        fields = [(OPTIONS[name], value) for name, value in self.options.items()]
        if self.method != "POST":
            fields.append(("Upstash-Method", self.method))
        if self.flow:
            fields.append(
                ("Upstash-Flow-Control-Value", ", ".join(f"{name}={value}" for name, value in self.flow.items()))
            )
        if self["by_content"]:
            fields.append(("Upstash-Content-Based-Deduplication", "true"))
        if self.kind == "schedule" and self["queue"]:
            fields.append(("Upstash-Queue-Name", self["queue"]))
        if self["content_type"]:
            fields.append(("Content-Type", self["content_type"]))
        fields += [(f"Upstash-Forward-{name}", value) for name, value in self.forwarded.items()]
        for name, value in fields:
            # More than that, clients write each in their own way.
            if not value.isprintable() or not (name + value).isascii():
                raise DraftError(FIELDS.get(name, "headers"), f"{name}: expected printable ASCII characters only")
        return fields

    @property
    def path(self) -> str:
        """The path of the call; the destination is in it as it was typed."""
        match self.kind:
            case "batch":
                return "/v2/batch"
            case "enqueue":
                way = f"enqueue/{segment(self['queue'])}"
            case "schedule":
                way = "schedules"
            case _:
                way = "publish"
        return f"/v2/{way}/{self['destination']}"

    def _instant(self) -> int:
        try:
            zone = ZoneInfo(self["zone"] or _ZONE)
        except (KeyError, ValueError, OSError):
            raise DraftError("zone", f"{self['zone']} is no time zone: expected a name such as Europe/Berlin") from None
        try:
            return int(datetime.fromisoformat(self["at"]).replace(tzinfo=zone).timestamp())
        except (ValueError, OverflowError):
            raise DraftError("at", f"{self['at']} is no time: expected one such as 2026-12-24T18:00") from None


def of_message(view: dict[str, Any], *, body: bytes | str | None) -> Draft:
    """The draft that would publish a message again, as the API shows it; what was redacted is not known any more."""
    values: dict[str, str] = {
        "kind": "enqueue" if "queueName" in view else "publish",
        "destination": view["url"],
        "method": view["method"],
        "queue": view.get("queueName", ""),
        "retries": str(view["maxRetries"]),
        "retry_delay": view.get("retryDelayExpression") or view.get("retryDelayExpr") or "",
        "callback": view.get("callback", ""),
        "failure_callback": view.get("failureCallback", ""),
        "label": ", ".join(view.get("labels", ())),
        "flow_key": view.get("flowControlKey", ""),
        **_flow_of(view),
        **_headers_of(view.get("header", {})),
    }
    return Draft({name: value for name, value in (values | _body_of(body)).items() if value})


def _flow_of(view: dict[str, Any]) -> dict[str, str]:
    if "flowControlKey" not in view:
        return {}
    return {
        **{name: str(view[name]) for name in ("parallelism", "rate") if name in view},
        "period": f"{view['period']}s" if "period" in view and "rate" in view else "",
    }


def _headers_of(header: Mapping[str, Sequence[str]]) -> dict[str, str]:
    lines = [f"{name}: {values[-1]}" for name, values in header.items() if name != "Content-Type" and values]
    content_type = header.get("Content-Type", [""])[-1]
    return {"headers": "\n".join(lines), "content_type": content_type}


def _body_of(body: bytes | str | None) -> dict[str, str]:
    if body is None:
        return {"body": ""}
    if isinstance(body, str):
        return {"body": body}
    try:
        return {"body": body.decode()}
    except UnicodeDecodeError:
        return {"body_base64": b64encode(body).decode()}
