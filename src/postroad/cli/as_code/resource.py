"""What a file, or another server, can ask for: schedules, queues, URL groups and flow-control keys as values.

Each has `facts`: what a server tells of it, field by field, in a form in which equal things are equal.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, ClassVar, Literal

from postroad.domain.duration import format_duration
from postroad.domain.headers import canonical, is_forwardable
from postroad.domain.redaction import parse_redaction, redacted_body

Kind = Literal["queue", "group", "flow key", "schedule"]
Facts = dict[str, "str | int | bool | None"]
Headers = Mapping[str, str]

REDACTED = "REDACTED:"
DEFAULT_METHOD = "POST"
DEFAULT_RETRIES = 3


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue; `lag` is how many messages are in it, if a server has said so."""

    kind: ClassVar[Kind] = "queue"

    name: str
    parallelism: int = 1
    paused: bool = False
    lag: int = field(default=0, compare=False)

    @classmethod
    def of_view(cls, view: Mapping[str, Any]) -> Queue:
        """The queue that the API describes."""
        return cls(view["name"], view.get("parallelism", 1), bool(view.get("paused")), view.get("lag", 0))

    def facts(self) -> Facts:
        """Parallelism and pause."""
        return {"parallelism": self.parallelism, "paused": self.paused}


@dataclass(frozen=True, slots=True)
class Group:
    """A URL group: the names of its endpoints by their URLs, and its default headers in canonical names."""

    kind: ClassVar[Kind] = "group"

    name: str
    endpoints: Mapping[str, str | None]
    headers: Headers = field(default_factory=dict)

    @classmethod
    def of_view(cls, view: Mapping[str, Any]) -> Group:
        """The group that the API describes."""
        endpoints = {one["url"]: one.get("name") or None for one in view.get("endpoints", ())}
        return cls(view["name"], endpoints, joined(view.get("headers")))

    def facts(self) -> Facts:
        """A line for each endpoint and header."""
        endpoints: Facts = {f"endpoint {url}": name or "without a name" for url, name in self.endpoints.items()}
        return endpoints | {f"header {name}": value for name, value in self.headers.items()}


@dataclass(frozen=True, slots=True)
class FlowKey:
    """A flow-control key: what is pinned of it, and whether it is paused. None is not pinned."""

    kind: ClassVar[Kind] = "flow key"

    name: str
    parallelism: int | None = None
    rate: int | None = None
    period: int | None = None
    paused: bool = False

    @classmethod
    def of_view(cls, view: Mapping[str, Any]) -> FlowKey:
        """The key that the API describes; limits that messages brought are not its own."""
        rated = bool(view.get("isPinnedRate"))
        return cls(
            view["flowControlKey"],
            parallelism=(view.get("parallelismMax") or None) if view.get("isPinnedParallelism") else None,
            rate=(view.get("rateMax") or None) if rated else None,
            period=view.get("ratePeriod") if rated else None,
            paused=bool(view.get("isPaused")),
        )

    @property
    def is_set(self) -> bool:
        """Whether anything is pinned or paused."""
        return self != FlowKey(self.name)

    def facts(self) -> Facts:
        """Limits and pause."""
        period = _duration(self.period)
        return {"parallelism": self.parallelism, "rate": self.rate, "period": period, "paused": self.paused}


@dataclass(frozen=True, slots=True)
class Callback:
    """Where reports go, and the headers that are forwarded with them."""

    url: str
    headers: Headers = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Limits:
    """What the messages of a schedule bring to a flow-control key; the period in seconds."""

    key: str
    parallelism: int | None = None
    rate: int | None = None
    period: int = 1


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule. Headers go by their canonical names, delay and timeout are seconds, `redact` is a comma list."""

    kind: ClassVar[Kind] = "schedule"

    name: str
    cron: str
    destination: str
    method: str = DEFAULT_METHOD
    headers: Headers = field(default_factory=dict)
    body: bytes = b""
    retries: int = DEFAULT_RETRIES
    retry_delay: str | None = None
    delay: int | None = None
    timeout: int | None = None
    callback: Callback | None = None
    failure_callback: Callback | None = None
    queue: str | None = None
    flow: Limits | None = None
    labels: tuple[str, ...] = ()
    redact: str | None = None
    paused: bool = False

    @classmethod
    def of_view(cls, view: Mapping[str, Any]) -> Schedule:
        """The schedule that the API describes. What is redacted there has its hash in its place."""
        key, label = view.get("flowControlKey"), view.get("label")
        encoded = view.get("bodyBase64")
        return cls(
            name=view["scheduleId"],
            cron=view["cron"].strip(),
            destination=view["destination"],
            method=view.get("method") or DEFAULT_METHOD,
            headers=joined(view.get("header")),
            body=b64decode(encoded) if encoded else (view.get("body") or "").encode(),
            retries=view.get("retries", DEFAULT_RETRIES),
            retry_delay=view.get("retryDelayExpression") or None,
            delay=view.get("delay") or None,
            timeout=view.get("timeout") or None,
            callback=_callback(view, "callback"),
            failure_callback=_callback(view, "failureCallback"),
            queue=view.get("queueName") or None,
            flow=Limits(key, view.get("parallelism"), view.get("rate"), view.get("period") or 1) if key else None,
            labels=tuple(view.get("labels") or ([label] if label else [])),
            paused=bool(view.get("isPaused")),
        )

    def facts(self) -> Facts:
        """All that the API tells of it; what it redacts is redacted here as well."""
        facts: Facts = {
            "cron": self.cron,
            "destination": self.destination,
            "method": self.method,
            **{f"header {name}": value for name, value in self._shown(self.headers).items()},
            "body": self._shown_body(),
            "retries": self.retries,
            "retryDelay": self.retry_delay,
            "delay": _duration(self.delay),
            "timeout": _duration(self.timeout),
        }
        for name, callback in (("callback", self.callback), ("failureCallback", self.failure_callback)):
            facts[name] = callback.url if callback else None
            headers = self._shown(callback.headers) if callback else {}
            facts |= {f"{name} header {one}": value for one, value in headers.items()}
        flow = self.flow
        facts["queue"] = self.queue
        facts["flowControl"] = flow.key if flow else None
        if flow:
            facts |= {"flowControl parallelism": flow.parallelism, "flowControl rate": flow.rate}
            facts["flowControl period"] = _duration(flow.period)
        return facts | {"labels": ", ".join(self.labels) or None, "paused": self.paused}

    def unreadable(self) -> list[str]:
        """The fields of which a server has told no more than a hash."""
        return [name for name, value in self.facts().items() if isinstance(value, str) and value.startswith(REDACTED)]

    def sendable(self) -> tuple[Schedule, list[str]]:
        """The schedule without headers that Postroad does not forward, and the names of these."""
        left = {name: value for name, value in self.headers.items() if is_forwardable(name.lower())}
        return replace(self, headers=left), [name for name in self.headers if name not in left]

    def _shown(self, headers: Headers) -> Headers:
        if self.redact is None:
            return headers
        redaction = parse_redaction(self.redact)
        return dict(redaction.redacted_headers(tuple(headers.items())))

    def _shown_body(self) -> str | None:
        if not self.body:
            return None
        if self.redact is not None and parse_redaction(self.redact).body:
            return redacted_body(self.body)
        try:
            return self.body.decode()
        except UnicodeDecodeError:
            return f"{len(self.body)} bytes, {redacted_body(self.body).removeprefix(REDACTED)}"


Resource = Queue | Group | FlowKey | Schedule


def joined(headers: Mapping[str, Any] | None) -> dict[str, str]:
    """The headers of a view: one text for each name, as a proxy would join lines of the same name."""
    return {
        canonical(name): value if isinstance(value, str) else ", ".join(value)
        for name, value in sorted((headers or {}).items())
    }


def sorted_headers(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The headers by canonical names, without blanks around their values, as a server tells them."""
    return dict(sorted((canonical(name), value.strip(" \t")) for name, value in pairs))


def _duration(seconds: int | None) -> str | None:
    return None if seconds is None else format_duration(timedelta(seconds=seconds))


def _callback(view: Mapping[str, Any], name: str) -> Callback | None:
    url = view.get(name)
    return Callback(url, joined(view.get(f"{name}Header"))) if url else None
