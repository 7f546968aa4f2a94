"""What a publisher asks for: the `Upstash-*` headers, read once into a `Publication`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from hashlib import sha256
from typing import Any, TypeVar

from postroad.domain.destination import parse_url
from postroad.domain.flow_control import FlowControl
from postroad.domain.headers import canonical, check_name, check_value, following, is_forwardable, unambiguous
from postroad.domain.hops import HEADER as HOPS
from postroad.domain.hops import parse_hops
from postroad.domain.limits import Limits
from postroad.domain.message import DIRECT, IMMEDIATELY, After, Callback, NotBefore, Options, Origin
from postroad.domain.publish_header import OPTIONS, ById, boolean
from postroad.domain.retry_expression import parse_retry_expression
from postroad.errors import InvalidDestination, InvalidField, InvalidValue, LimitExceeded

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Unique:
    """Never a duplicate of anything."""


@dataclass(frozen=True, slots=True)
class ByContent:
    """A duplicate of what was published with equal destination, body, Content-Type and forwarded headers."""


Deduplication = Unique | ById | ByContent

UNIQUE = Unique()
BY_CONTENT = ByContent()


@dataclass(frozen=True, slots=True)
class Request:
    """A publish as it was asked for, before its headers are read.

    `destination` is a URL, the name of a URL group or `api/llm`; `fields` are pairs of a lower-case name and a value;
    `schedule_id` is set where a schedule asks.
    """

    destination: str
    fields: Sequence[tuple[str, str]]
    body: bytes
    caller_ip: str | None = None
    schedule_id: str | None = None


@dataclass(frozen=True, slots=True)
class Publication:
    """One message to be: `url` is where it goes, `origin` what led there."""

    url: str
    body: bytes
    options: Options
    deduplication: Deduplication = UNIQUE
    caller_ip: str | None = None
    origin: Origin = DIRECT


@dataclass(slots=True)
class _Draft:
    """What the headers of one level said so far."""

    values: dict[str, Any] = field(default_factory=dict)
    headers: list[tuple[str, str]] = field(default_factory=list)
    content_type: str | None = None
    callback: list[tuple[str, str]] = field(default_factory=list)
    failure_callback: list[tuple[str, str]] = field(default_factory=list)
    forwards_all: bool = False
    hops: int = 0


def parse_options(
    fields: Iterable[tuple[str, str]],
    *,
    limits: Limits,
    now_s: float,
    path: str = "Upstash-",
    retries: int | None = None,
    generation: int = 0,
) -> tuple[Options, Deduplication]:
    """The options and the deduplication that header fields ask for.

    `fields` are pairs of a lower-case name and a value; of a repeated option the last one counts, repeated
    `Upstash-Forward-*` are all kept. `path` is the prefix that error texts show, `retries` the default, `generation`
    how many callbacks lie between the message and these options. Raises `InvalidField`, `InvalidDestination` or
    `LimitExceeded`.
    """
    default = limits.default_retries if retries is None else retries
    values, deduplication = _explicit(fields, limits, now_s, path, default, generation)
    return Options(**{"retries": default, **values}), deduplication


def parse_overrides(fields: Iterable[tuple[str, str]], options: Options, *, limits: Limits, now_s: float) -> Options:
    """Options with those replaced that header fields name; a wait that is over is not waited for again.

    A `Content-Type` counts only for what is published with a body, so here it is passed over. Forwarded headers
    replace those of the same name.
    """
    named = [(name, value) for name, value in fields if name.startswith("upstash-") and name not in _OF_THE_REQUEST]
    values, _ = _explicit(named, limits, now_s, "Upstash-", options.retries)
    if "headers" in values:
        replaced = {name for name, _ in values["headers"]}
        kept = tuple(pair for pair in options.headers if pair[0] not in replaced)
        values["headers"] = kept + values["headers"]
        check_headers(values["headers"], limits, "Upstash-")
    return replace(options, **{"when": IMMEDIATELY, **values})


def _explicit(
    fields: Iterable[tuple[str, str]],
    limits: Limits,
    now_s: float,
    path: str,
    default_retries: int,
    generation: int = 0,
) -> tuple[dict[str, Any], Deduplication]:
    """The fields of `Options` that are asked for, and the deduplication."""
    draft = _drafted(fields, limits, path)
    values = draft.values
    by_content = values.pop("by_content", False)
    deduplication = values.pop("deduplication", None) or (BY_CONTENT if by_content else UNIQUE)
    delay, not_before = values.pop("delay", None), values.pop("not_before", None)
    if not_before is not None:
        _check_not_before(not_before, limits, now_s, path)
        values["when"] = NotBefore(not_before)
    elif delay:
        values["when"] = After(delay)
    key, limits_of_key = values.pop("flow_key", None), values.pop("flow_value", None)
    if key is not None or limits_of_key is not None:
        values["flow_control"] = _flow_control(key, limits_of_key, path)
    retries = values.get("retries", default_retries)
    if (expression := values.get("retry_delay")) is not None:
        values["retry_delay"] = _named(f"{path}Retry-Delay", lambda: parse_retry_expression(expression, retries).text)
    for name, lines in (("callback", draft.callback), ("failure_callback", draft.failure_callback)):
        if lines:
            values[name] = _callback(name, lines, limits, now_s, path, retries, generation + 1)
    if draft.headers:
        values["headers"] = tuple(draft.headers)
    return values, deduplication


def _drafted(fields: Iterable[tuple[str, str]], limits: Limits, path: str) -> _Draft:
    """What each field says by itself. A forwarded `Content-Type` counts more than the request's own."""
    draft = _Draft()
    others: list[tuple[str, str]] = []
    for name, value in fields:
        if name.startswith("upstash-"):
            _read(draft, name[8:], value, limits, path)
        elif name == "content-type":
            draft.content_type = _checked_value(name, value)
        else:
            others.append((name, value))
    if draft.forwards_all:
        # Before what is forwarded by name, which counts more where a header has one value.
        draft.headers[:0] = [_followed(name, value) for name, value in following(others)]
    draft.headers = unambiguous(draft.headers)
    if draft.content_type is not None and not any(name == "Content-Type" for name, _ in draft.headers):
        draft.headers.insert(0, ("Content-Type", draft.content_type))
    check_headers(draft.headers, limits, path)
    if draft.hops:
        draft.headers.append((HOPS, str(draft.hops)))
    return draft


def deduplication_key(publication: Publication) -> bytes | None:
    """The key of a publication, None when it is never a duplicate.

    Every endpoint of a URL group has its own. Every field is length-prefixed, so that no two different lists of fields
    have one key.
    """
    url = publication.url
    match publication.deduplication:
        case Unique():
            return None
        case ById(text):
            parts = [b"id", url.encode() if publication.origin.url_group is not None else b"", text.encode()]
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
    option = OPTIONS.get(suffix)
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
        # Dropped rather than refused: SDKs forward every header of the request that they were called with.
        if is_forwardable(name):
            draft.headers.append(pair)
    elif suffix == "callback" or suffix.startswith("callback-"):
        draft.callback.append((suffix[9:], value))
    elif suffix == "failure-callback" or suffix.startswith("failure-callback-"):
        draft.failure_callback.append((suffix[17:], value))
    elif suffix == "hops":
        draft.hops = max(draft.hops, parse_hops(value))
    elif suffix == "header-forward":
        draft.forwards_all = _named(f"{path}Header-Forward", lambda: boolean(value.strip(), limits))


def _callback(
    name: str,
    lines: list[tuple[str, str]],
    limits: Limits,
    now_s: float,
    path: str,
    retries: int,
    generation: int,
) -> Callback:
    prefix = f"{path}{'Callback' if name == 'callback' else 'Failure-Callback'}"
    url = next((value.strip() for suffix, value in reversed(lines) if not suffix), None)
    if url is None:
        raise InvalidField(prefix, "", f"a URL, because {prefix}-{canonical(lines[0][0])} is given")
    if generation > limits.max_callback_generations:
        raise InvalidField(prefix, url, f"at most {limits.max_callback_generations} generations of callbacks")
    if any(suffix == "queue-name" for suffix, _ in lines):
        raise InvalidField(f"{prefix}-Queue-Name", "", "nothing: a callback goes in the place of its message")
    try:
        parse_url(url)
    except InvalidDestination as error:
        raise InvalidDestination(error.reason, field=prefix) from None
    # A callback has as many hops as its message, and never less.
    nested = [(f"upstash-{suffix}", value) for suffix, value in lines if suffix and suffix != "hops"]
    options, _ = parse_options(
        nested, limits=limits, now_s=now_s, path=f"{prefix}-", retries=retries, generation=generation
    )
    return Callback(url, options)


def _flow_control(
    key: str | None, limits_of_key: tuple[int | None, int | None, timedelta] | None, path: str
) -> FlowControl:
    if key is None:
        raise InvalidField(f"{path}Flow-Control-Key", "", f"a key, because {path}Flow-Control-Value is given")
    if limits_of_key is None:
        raise InvalidField(f"{path}Flow-Control-Value", "", "parallelism=N, rate=N, period=D for the key that is given")
    return FlowControl(key, *limits_of_key)


_OF_THE_REQUEST = ("upstash-header-forward", "upstash-hops")

OPTION_NAMES = (*(canonical(name) for name in OPTIONS), "Callback", "Failure-Callback", "Header-Forward")
"""The headers of a publish without their prefix, for documentation."""


def _followed(name: str, value: str) -> tuple[str, str]:
    # Of a batch, names are any text.
    return _named("headers", lambda: canonical(check_name(name))), _checked_value(name, value)


def check_headers(headers: Sequence[tuple[str, str]], limits: Limits, path: str) -> None:
    """Raise `InvalidField` for more forwarded headers than are accepted, or longer ones."""
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
