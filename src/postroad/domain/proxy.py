"""The proxy that an operator may put between this server and all destinations."""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import dataclass, field
from urllib.parse import unquote

from postroad.domain.destination import Url, parse_url
from postroad.errors import InvalidDestination, InvalidValue


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy that lets CONNECT through; `authorization` is the value of `Proxy-Authorization`, a secret."""

    url: Url
    authorization: str | None = field(repr=False)


def parse_proxy(text: str) -> Proxy:
    """The proxy that `http://host:port` or `http://user:password@host:port` means. Raises InvalidValue without it.

    Special characters of user and password are percent-encoded.
    """
    parts = _PROXY.fullmatch(text)
    if parts is None:
        raise InvalidValue(_HIDDEN, _EXPECTED)
    try:
        url = parse_url(f"http://{parts['place']}")
    except InvalidDestination:
        raise InvalidValue(_HIDDEN, _EXPECTED) from None
    if parts["user"] is None:
        return Proxy(url, None)
    credentials = f"{unquote(parts['user'])}:{unquote(parts['password'] or '')}"
    return Proxy(url, f"Basic {b64encode(credentials.encode()).decode()}")


_HIDDEN = "a text that may hold a password"
_PROXY = re.compile(
    r"http://(?:(?P<user>[^\s:@/]+)(?::(?P<password>[^\s:@/]*))?@)?(?P<place>[^\s@/?#]+:[0-9]+)/?", re.IGNORECASE
)
_EXPECTED = "http://host:port or http://user:password@host:port"
