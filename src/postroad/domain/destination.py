"""Where a message goes: one strict reading of a URL, shared by everybody who looks at it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from ipaddress import AddressValueError, IPv4Address, IPv6Address

from postroad.errors import InvalidDestination

MAX_URL_LENGTH = 2048
MAX_HOST_LENGTH = 253
DEFAULT_PORTS = {"http": 80, "https": 443}

INVALID_SCHEME = "endpoint has invalid scheme, add http:// or https://"


@dataclass(frozen=True, slots=True)
class Url:
    """A destination that a request can be sent to.

    `text` is the URL exactly as it was published: receivers compare it as a string, so it is never normalised.
    `target` and `authority` are the parts of it that go on the wire, unchanged; a fragment stays at home.
    `host` is what is resolved and verified: lower case, no brackets, no final dot, IPv6 in its canonical form.
    """

    text: str
    scheme: str
    host: str
    port: int
    target: str
    authority: str


@lru_cache(maxsize=4096)
def parse_url(text: str) -> Url:
    """The parts of an http or https URL. Raises InvalidDestination for whatever two readers could read differently."""
    parts = _URL.match(text)
    if parts is None:
        raise InvalidDestination(INVALID_SCHEME)
    if len(text) > MAX_URL_LENGTH:
        raise InvalidDestination(f"endpoint is longer than {MAX_URL_LENGTH} characters")
    if _NOT_IN_A_URL.search(text):
        raise InvalidDestination("endpoint holds a character that must be percent-encoded")
    scheme, authority, target = parts["scheme"].lower(), parts["authority"], parts["target"]
    if "@" in authority:
        raise InvalidDestination("endpoint must not hold a user name or password")
    place = _AUTHORITY.fullmatch(authority)
    if place is None:
        raise InvalidDestination("endpoint has an invalid host or port")
    return Url(
        text=text,
        scheme=scheme,
        host=_host(place["host"]),
        port=DEFAULT_PORTS[scheme] if place["port"] is None else _port(place["port"]),
        target=target if target.startswith("/") else f"/{target}",
        authority=authority,
    )


@lru_cache(maxsize=4096)
def _key(tenant_id: int, scheme: str, host: str, port: int) -> int:
    place = f"{tenant_id} {scheme}://{host} {port}".encode("ascii")
    return int.from_bytes(blake2b(place, digest_size=8).digest(), "big", signed=True)


def destination_key(tenant_id: int, url: Url) -> int:
    """A signed 64-bit number for one tenant's traffic to one scheme, host and port; the same in every process."""
    return _key(tenant_id, url.scheme, url.host, url.port)


def _port(digits: str) -> int:
    port = int(digits)
    if not 1 <= port <= 65535:
        raise InvalidDestination("endpoint has a port that is not between 1 and 65535")
    return port


def _host(text: str) -> str:
    if text.startswith("["):
        return _ipv6(text[1:-1])
    host = text.lower().removesuffix(".")
    labels = host.split(".")
    # A resolver may take 127.1, 0x7f.1 or 2130706433 for an IPv4 address (inet_aton does, and so do browsers).
    if _NUMERIC_LABEL.fullmatch(labels[-1]):
        return _ipv4(host)
    if len(host) > MAX_HOST_LENGTH or not all(_LABEL.fullmatch(label) for label in labels):
        raise InvalidDestination("endpoint has an invalid host name; write international names in their xn-- form")
    return host


def _ipv4(text: str) -> str:
    try:
        return str(IPv4Address(text))
    except AddressValueError:
        raise InvalidDestination("endpoint has an invalid IPv4 address; write four decimal numbers") from None


def _ipv6(text: str) -> str:
    if "%" in text:
        raise InvalidDestination("endpoint must not hold an IPv6 zone")
    try:
        return str(IPv6Address(text))
    except AddressValueError:
        raise InvalidDestination("endpoint has an invalid IPv6 address") from None


_URL = re.compile(r"(?P<scheme>https?)://(?P<authority>[^/?#]*)(?P<target>[^#]*)", re.IGNORECASE | re.ASCII)
_NOT_IN_A_URL = re.compile(r"[^\x21-\x7e]|\\")
_AUTHORITY = re.compile(r"(?P<host>\[[^\[\]]*\]|[^\[\]:]+)(?::(?P<port>[1-9][0-9]{0,4}))?")
_NUMERIC_LABEL = re.compile(r"[0-9]+|0x[0-9a-f]*")
_LABEL = re.compile(r"[a-z0-9_-]{1,63}")
