"""Header names and values: what they may be, how they are shown and which may be forwarded."""

from __future__ import annotations

import re
from functools import lru_cache

from postroad.domain.reply import Headers
from postroad.errors import InvalidValue

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
    """The name, if it is a token of RFC 9110 (5.1, 5.6.2). Raises InvalidValue."""
    if not _TOKEN.fullmatch(name):
        raise InvalidValue(name, "a header name of letters, digits and !#$%&'*+-.^_`|~")
    return name


_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+\-.^_`|~]+")


def check_value(value: str) -> str:
    """The value without blanks and tabs around it, if a header can carry it (RFC 9110, 5.5). Raises InvalidValue.

    It holds no control character but tab, and no character above U+00FF: each stands for one byte on the wire.
    """
    stripped = value.strip(" \t")
    if _NOT_IN_A_VALUE.search(stripped):
        raise InvalidValue(value, "a header value in Latin-1 without line breaks or other control characters")
    return stripped


_NOT_IN_A_VALUE = re.compile(r"[^\t\x20-\x7e\x80-\xff]")


def is_forwardable(lower_name: str) -> bool:
    """Whether a publisher may set the header of this lower-case name on the request to the destination."""
    return lower_name not in NOT_FORWARDED and not lower_name.startswith(("upstash-", "proxy-"))


def header_map(headers: Headers) -> dict[str, list[str]]:
    """The headers as the API shows them: canonical names, each with its values in the order of the wire."""
    by_name: dict[str, list[str]] = {}
    for name, value in headers:
        by_name.setdefault(canonical(name), []).append(value)
    return by_name
