"""What a publisher asks for: the `Upstash-*` headers, read once into a `Publication`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from hashlib import sha256
from typing import Any, TypeVar

from postroad.domain.destination import parse_url
from postroad.domain.duration import parse_duration
from postroad.domain.headers import canonical, check_name, check_value, is_forwardable
from postroad.domain.limits import Limits
from postroad.domain.message import IMMEDIATELY, METHODS, After, Callback, NotBefore, Options
from postroad.domain.redaction import parse_redaction
from postroad.domain.retry_expression import parse_retry_expression
from postroad.errors import InvalidDestination, InvalidField, InvalidValue, LimitExceeded, Unsupported

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Unique:
    """Never a duplicate of anything."""


@dataclass(frozen=True, slots=True)
class ById:
    """A duplicate of what was published with the same id within the window."""

    id: str


@dataclass(frozen=True, slots=True)
class ByContent:
    """A duplicate of what was published with equal destination, body, Content-Type and forwarded headers."""


Deduplication = Unique | ById | ByContent

UNIQUE = Unique()
BY_CONTENT = ByContent()


@dataclass(frozen=True, slots=True)
class Publication:
    """One publish, before it is known which messages it becomes: `destination` is a URL or the name of a URL group."""

    destination: str
    body: bytes
    options: Options
    deduplication: Deduplication = UNIQUE
    caller_ip: str | None = None


@dataclass(slots=True)
class _Draft:
    """What the headers of one level said so far."""

    values: dict[str, Any] = field(default_factory=dict)
    headers: list[tuple[str, str]] = field(default_factory=list)
    callback: list[tuple[str, str]] = field(default_factory=list)
    failure_callback: list[tuple[str, str]] = field(default_factory=list)
    forwards_all: bool = False


def parse_options(
    fields: Iterable[tuple[str, str]],
    *,
    limits: Limits,
    now_s: float,
    path: str = "Upstash-",
    retries: int | None = None,
) -> tuple[Options, Deduplication]:
    """The options and the deduplication that header fields ask for.

    `fields` are pairs of a lower-case name and a value; of a repeated option the last one counts, repeated
    `Upstash-Forward-*` are all kept. `path` is the prefix that error texts show, `retries` the default. Raises
    `InvalidField`, `InvalidDestination` or `LimitExceeded`.
    """
    default = limits.default_retries if retries is None else retries
    values, deduplication = _explicit(fields, limits, now_s, path, default)
    return Options(**{"retries": default, **values}), deduplication


def parse_overrides(fields: Iterable[tuple[str, str]], options: Options, *, limits: Limits, now_s: float) -> Options:
    """Options with those replaced that header fields name; a wait that is over is not waited for again.

    A `Content-Type` counts only for what is published with a body, so here it is passed over. Forwarded headers
    replace those of the same name.
    """
    named = [
        (name, value) for name, value in fields if name.startswith("upstash-") and name != "upstash-header-forward"
    ]
    values, _ = _explicit(named, limits, now_s, "Upstash-", options.retries)
    if "headers" in values:
        replaced = {name for name, _ in values["headers"]}
        kept = tuple(pair for pair in options.headers if pair[0] not in replaced)
        values["headers"] = kept + values["headers"]
    return replace(options, **{"when": IMMEDIATELY, **values})


def _explicit(
    fields: Iterable[tuple[str, str]], limits: Limits, now_s: float, path: str, default_retries: int
) -> tuple[dict[str, Any], Deduplication]:
    """The fields of `Options` that are asked for, and the deduplication."""
    draft = _Draft()
    others: list[tuple[str, str]] = []
    for name, value in fields:
        if name.startswith("upstash-"):
            _read(draft, name[8:], value, limits, path)
        elif name == "content-type":
            draft.headers.append(("Content-Type", _checked_value(name, value)))
        else:
            others.append((name, value))
    if draft.forwards_all:
        draft.headers.extend((canonical(n), _checked_value(n, v)) for n, v in others if _may_follow(n))
    _check_headers(draft.headers, limits, path)
    values = draft.values
    by_content = values.pop("by_content", False)
    deduplication = values.pop("deduplication", None) or (BY_CONTENT if by_content else UNIQUE)
    delay, not_before = values.pop("delay", None), values.pop("not_before", None)
    if not_before is not None:
        _check_not_before(not_before, limits, now_s, path)
        values["when"] = NotBefore(not_before)
    elif delay:
        values["when"] = After(delay)
    retries = values.get("retries", default_retries)
    if (expression := values.get("retry_delay")) is not None:
        values["retry_delay"] = _named(f"{path}Retry-Delay", lambda: parse_retry_expression(expression, retries).text)
    for name, lines in (("callback", draft.callback), ("failure_callback", draft.failure_callback)):
        if lines:
            values[name] = _callback(name, lines, limits, now_s, path, retries)
    if draft.headers:
        values["headers"] = tuple(draft.headers)
    return values, deduplication


def deduplication_key(publication: Publication, url: str) -> bytes | None:
    """The key of a publication to one endpoint, None when it is never a duplicate.

    Every field is length-prefixed, so that no two different lists of fields have one key.
    """
    match publication.deduplication:
        case Unique():
            return None
        case ById(text):
            parts = [b"id", url.encode() if publication.destination != url else b"", text.encode()]
        case ByContent():
            headers = sorted((n.lower(), v) for n, v in publication.options.headers)
            parts = [b"content", url.encode(), publication.body]
            parts.extend(text.encode() for pair in headers for text in pair)
    digest = sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()


def _read(draft: _Draft, suffix: str, value: str, limits: Limits, path: str) -> None:
    option = _OPTIONS.get(suffix)
    if option is not None:
        key, parse = option
        try:
            draft.values[key] = parse(value.strip(), limits)
        except InvalidValue as error:
            raise InvalidField(path + canonical(suffix), error.value, error.expected) from None
        except LimitExceeded as error:
            raise LimitExceeded(error.quota, error.limit, field=path + canonical(suffix)) from None
    elif suffix.startswith("forward-"):
        name = suffix[8:]
        try:
            pair = canonical(check_name(name)), check_value(value)
        except InvalidValue as error:
            raise InvalidField(f"{path}Forward-{canonical(name)}", error.value, error.expected) from None
        if not is_forwardable(name):
            raise InvalidField(f"{path}Forward-{canonical(name)}", value, "a header that may be forwarded")
        draft.headers.append(pair)
    elif suffix == "callback" or suffix.startswith("callback-"):
        draft.callback.append((suffix[9:], value))
    elif suffix == "failure-callback" or suffix.startswith("failure-callback-"):
        draft.failure_callback.append((suffix[17:], value))
    elif suffix == "header-forward":
        draft.forwards_all = _named(f"{path}Header-Forward", lambda: _boolean(value.strip(), limits))
    elif suffix in _UNSUPPORTED:
        raise Unsupported(path + canonical(suffix))


def _callback(
    name: str, lines: list[tuple[str, str]], limits: Limits, now_s: float, path: str, retries: int
) -> Callback:
    prefix = f"{path}{'Callback' if name == 'callback' else 'Failure-Callback'}"
    url = next((value.strip() for suffix, value in reversed(lines) if not suffix), None)
    if url is None:
        raise InvalidField(prefix, "", f"a URL, because {prefix}-{canonical(lines[0][0])} is given")
    try:
        parse_url(url)
    except InvalidDestination as error:
        raise InvalidDestination(error.reason, field=prefix) from None
    nested = [(f"upstash-{suffix}", value) for suffix, value in lines if suffix]
    options, _ = parse_options(nested, limits=limits, now_s=now_s, path=f"{prefix}-", retries=retries)
    return Callback(url, options)


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


def _boolean(text: str, limits: Limits) -> bool:
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


class InvalidDeduplicationId(InvalidField):
    """QStash's own wording, which clients show to their users."""

    def __init__(self) -> None:
        super().__init__("Upstash-Deduplication-Id", "", "no colon")
        self.args = ("DeduplicationId cannot contain ':'",)


_OPTIONS: dict[str, tuple[str, Callable[[str, Limits], Any]]] = {
    "method": ("method", _method),
    "retries": ("retries", _retries),
    "retry-delay": ("retry_delay", _expression),
    "delay": ("delay", _delay),
    "not-before": ("not_before", _not_before),
    "timeout": ("timeout", _timeout),
    "label": ("labels", _labels),
    "redact-fields": ("redact", _redact),
    "deduplication-id": ("deduplication", _by_id),
    "content-based-deduplication": ("by_content", _boolean),
}
"""Header suffix → the field of `Options` (or of the draft) and its parser. A new publish header is one line here."""

OPTION_NAMES = (*(canonical(name) for name in _OPTIONS), "Callback", "Failure-Callback", "Header-Forward")
"""The headers of a publish without their prefix, for documentation."""

_UNSUPPORTED = frozenset({"queue-name", "flow-control-key", "flow-control-value", "cron", "schedule-id"})
"""Refused rather than ignored: a message that should have waited its turn must not overtake."""

_NOT_FOLLOWING = frozenset({"authorization", "content-type", "cookie", "accept-encoding", "user-agent"})


def _may_follow(name: str) -> bool:
    """With `Upstash-Header-Forward: true` a request's own headers follow, but never what authenticated the caller."""
    return is_forwardable(name) and name not in _NOT_FOLLOWING


def _check_headers(headers: list[tuple[str, str]], limits: Limits, path: str) -> None:
    if len(headers) > limits.max_forwarded_headers:
        raise InvalidField(f"{path}Forward-*", str(len(headers)), f"at most {limits.max_forwarded_headers} headers")
    size = sum(len(name) + len(value) for name, value in headers)
    if size > limits.max_forwarded_bytes:
        raise InvalidField(f"{path}Forward-*", f"{size} bytes", f"at most {limits.max_forwarded_bytes} bytes")


def _check_not_before(unix_seconds: int, limits: Limits, now_s: float, path: str) -> None:
    ahead = limits.max_delay.total_seconds()
    if unix_seconds - now_s > ahead:
        raise LimitExceeded("maxDelay", int(ahead), field=f"{path}Not-Before")


def _checked_value(name: str, value: str) -> str:
    return _named(canonical(name), lambda: check_value(value))


def _named(field_name: str, parse: Callable[[], T]) -> T:
    try:
        return parse()
    except InvalidValue as error:
        raise InvalidField(field_name, error.value, error.expected) from None
