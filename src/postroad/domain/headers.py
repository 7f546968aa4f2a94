"""Header names and values: what they may be, how they are shown and which may be forwarded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from postroad.domain.reply import Headers
from postroad.errors import InvalidValue

MAX_NAME_LENGTH = 256
MAX_VALUE_BYTES = 8 * 1024
"""Longer lines are refused by servers in their default settings."""

NOT_FORWARDED = frozenset(
    {
        # They frame the request or belong to one connection (RFC 9110, 7.6.1; RFC 9112).
        "connection",
        "content-length",
        "expect",
        "host",
        "http2-settings",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        # They speak for a proxy on the way to us.
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        # We read the answer, so we say what we can decode.
        "accept-encoding",
    }
)
"""Lower-case names that a publisher cannot set on the request to the destination."""

_NOT_FOLLOWING = frozenset(
    {
        # What authenticated the caller here, or tells somebody else who is logged in.
        "authorization",
        "cookie",
        # They are read by themselves, or ours.
        "content-type",
        "user-agent",
        # What proxies on the way to us say of the caller and of themselves.
        "forwarded",
        "via",
        "x-real-ip",
    }
)

_SINGLE = frozenset(
    {
        "Authorization",
        "Content-Location",
        "Content-Range",
        "Content-Type",
        "Cookie",
        "Date",
        "From",
        "If-Modified-Since",
        "If-Range",
        "If-Unmodified-Since",
        "Max-Forwards",
        "Origin",
        "Range",
        "Referer",
        "User-Agent",
    }
)
"""Canonical names of headers that are no lists: of two lines, one receiver reads the first and another the last."""


def canonical(name: str) -> str:
    """The name in the case that the API shows: `test-header` is `Test-Header`.

    As Go's `CanonicalMIMEHeaderKey`: a name that is no token stays as it is.
    """
    # Destinations choose the names in their answers, and long ones would fill the cache with what never comes again.
    return _remembered_canonical(name) if len(name) <= 64 else _canonical(name)


def _canonical(name: str) -> str:
    if not _TOKEN.fullmatch(name):
        return name
    return "-".join([word.capitalize() for word in name.split("-")])


_remembered_canonical = lru_cache(maxsize=4096)(_canonical)


def check_name(name: str) -> str:
    """The name, if it is a token of RFC 9110 (5.1, 5.6.2) and not endless. Raises InvalidValue."""
    if not _TOKEN.fullmatch(name):
        raise InvalidValue(name, "a header name of letters, digits and !#$%&'*+-.^_`|~")
    if len(name) > MAX_NAME_LENGTH:
        raise InvalidValue(name, f"a header name of at most {MAX_NAME_LENGTH} characters")
    return name


_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+\-.^_`|~]+")


def check_value(value: str) -> str:
    """The value without blanks and tabs around it, if a header can carry it (RFC 9110, 5.5). Raises InvalidValue.

    It holds no control character but tab, and no character above U+00FF: each stands for one byte on the wire.
    """
    stripped = value.strip(" \t")
    if len(stripped) > MAX_VALUE_BYTES:
        raise InvalidValue(value, f"a header value of at most {MAX_VALUE_BYTES} bytes")
    if _NOT_IN_A_VALUE.search(stripped):
        raise InvalidValue(value, "a header value in Latin-1 without line breaks or other control characters")
    return stripped


_NOT_IN_A_VALUE = re.compile(r"[^\t\x20-\x7e\x80-\xff]")


def is_forwardable(lower_name: str) -> bool:
    """Whether a publisher may set the header of this lower-case name on the request to the destination.

    Receivers behind CGI and WSGI cannot tell `_` from `-` (RFC 3875, 4.1.18), so neither does this.
    """
    name = lower_name.replace("_", "-")
    return name not in NOT_FORWARDED and not name.startswith(("upstash-", "proxy-"))


def following(fields: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Of a request's own headers, by lower-case names, those that follow with `Upstash-Header-Forward: true`.

    Never what authenticated the caller, what proxies have added, or what `Connection` names: that was for us
    (RFC 9110, 7.6.1). All of these can still be forwarded by name.
    """
    for_us = {
        option.strip(" \t").lower() for name, value in fields if name == "connection" for option in value.split(",")
    }
    return [
        (name, value)
        for name, value in fields
        if name not in _NOT_FOLLOWING
        and not name.startswith("x-forwarded-")
        and name not in for_us
        and is_forwardable(name)
    ]


def unambiguous(headers: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The headers in their order; of one that is no list by its definition the last line alone, as of an option."""
    last = {name: place for place, (name, _) in enumerate(headers) if name in _SINGLE}
    return [pair for place, pair in enumerate(headers) if last.get(pair[0], place) == place]


def header_map(headers: Headers) -> dict[str, list[str]]:
    """The headers as the API shows them: canonical names, each with its values in the order of the wire."""
    by_name: dict[str, list[str]] = {}
    for name, value in headers:
        by_name.setdefault(canonical(name), []).append(value)
    return by_name
