"""URL groups: one name for many endpoints, each of which gets its own message of a publish."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import count

from postroad.domain.destination import parse_url
from postroad.domain.headers import canonical, check_value
from postroad.domain.limits import Limits
from postroad.domain.message import Options
from postroad.domain.publication import OPTION_NAMES, parse_options
from postroad.domain.reply import Headers
from postroad.errors import InvalidDestination, InvalidField, InvalidValue

MAX_NAME_LENGTH = 256
MAX_FIELDS = 128

_NAME = re.compile(r"[A-Za-z0-9._-]+")
_OPTION = "|".join(re.escape(name.lower()) for name in OPTION_NAMES)
_DEFAULT = re.compile(rf"content-type|upstash-(?:(?:failure-)?callback-)*(?:forward-.+|{_OPTION})")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One of the URLs of a group. Within a group, no two endpoints share a URL or a name."""

    url: str
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Reference:
    """Which endpoint is meant: by its URL, by its name, or by both. At least one of them is given."""

    url: str | None
    name: str | None


@dataclass(frozen=True, slots=True)
class UrlGroup:
    """A group and its endpoints in the order in which they were added; a stored group has at least one.

    `fields` are the default headers of every publish to the group, as pairs of a lower-case name and a value.
    """

    name: str
    endpoints: tuple[Endpoint, ...]
    fields: Headers
    created_at: datetime
    updated_at: datetime


def parse_group_name(text: str) -> str:
    """The name of a group. Raises `InvalidValue`."""
    if not is_group_name(text):
        raise InvalidValue(text, f"1 to {MAX_NAME_LENGTH} letters, digits, '-', '_' and '.'")
    return text


def is_group_name(text: str) -> bool:
    """Whether a group may have this name."""
    return _NAME.fullmatch(text) is not None and len(text) <= MAX_NAME_LENGTH


def parse_endpoint(url: str, name: str, *, path: str) -> Endpoint:
    """The endpoint that a caller describes; an empty name is none.

    `path` is where the description stands, for error texts. Raises `InvalidDestination` or `InvalidField`.
    """
    try:
        parse_url(url)
    except InvalidDestination as error:
        raise InvalidDestination(error.reason, field=f"{path}.url") from None
    if len(name) > MAX_NAME_LENGTH or not name.isprintable():
        raise InvalidField(f"{path}.name", name, f"at most {MAX_NAME_LENGTH} printable characters")
    return Endpoint(url, name or None)


def upserted(endpoints: Sequence[Endpoint], given: Sequence[Endpoint]) -> tuple[Endpoint, ...]:
    """The endpoints of a group after others were given. Every URL that is given is among them.

    A new one goes to the end; what is known keeps its place. A known URL takes the name that is given, and keeps its
    own when none is. A known name takes the URL that is given; if that was another endpoint's, the two become one. But
    an endpoint whose own URL is given as well keeps that and loses the name.
    """
    places = dict(enumerate(endpoints))
    by_url = {one.url: place for place, one in places.items()}
    by_name: dict[str | None, int] = {one.name: place for place, one in places.items() if one.name is not None}
    ends = count(len(endpoints))
    staying = {one.url for one in given}
    for one in given:
        place, name = next(ends), one.name
        # Whoever has the name comes last, because its place counts.
        for holder in (by_url.get(one.url), by_name.get(one.name)):
            if holder is None or holder not in places:
                continue
            former = places[holder]
            by_name.pop(former.name, None)
            if former.url in staying and former.url != one.url:
                places[holder] = Endpoint(former.url)
                continue
            del places[holder], by_url[former.url]
            place, name = holder, name or former.name
        places[place] = Endpoint(one.url, name)
        by_url[one.url] = place
        if name is not None:
            by_name[name] = place
    return tuple(places[place] for place in sorted(places))


def remaining(endpoints: Iterable[Endpoint], removed: Iterable[Reference]) -> tuple[Endpoint, ...]:
    """The endpoints of a group after others were removed; what is removed need not be there.

    A reference by URL and name means the endpoint that has both: a name that has moved to another URL since removes
    nothing.
    """
    gone = {(one.url, one.name) for one in removed}
    return tuple(one for one in endpoints if gone.isdisjoint([(one.url, None), (None, one.name), (one.url, one.name)]))


def parse_default_headers(
    headers: Iterable[tuple[str, str]], *, limits: Limits, now_s: float
) -> tuple[Headers, Options]:
    """The fields of a group and the options that a publish without headers of its own would get from them.

    Refuses what a publish refuses, and what it passes over: a default that means nothing is a mistake. Raises
    `InvalidField`, `InvalidDestination` or `LimitExceeded`.
    """
    fields: list[tuple[str, str]] = []
    for name, value in headers:
        lower = name.lower()
        if not _DEFAULT.fullmatch(lower):
            raise InvalidField("headers", name, "Content-Type, or an Upstash-* header that a publish understands")
        try:
            fields.append((lower, check_value(value)))
        except InvalidValue as error:
            raise InvalidField(canonical(lower), error.value, error.expected) from None
    if len(fields) > MAX_FIELDS:
        raise InvalidField("headers", f"{len(fields)} values", f"at most {MAX_FIELDS} values")
    options, _ = parse_options(fields, limits=limits, now_s=now_s)
    return tuple(fields), options
