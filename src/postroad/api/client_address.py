"""Whose request it is when proxies stand in front: the address that the nearest of them vouch for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from ipaddress import IPv6Address, ip_address

from postroad.domain.network import Address, Network

_HEADER = b"x-forwarded-for"
_WITH_PORT = re.compile(r"\[([^\]]*)\](?::[0-9]+)?|([0-9.]+):[0-9]+")


def caller_ip(peer: str | None, headers: Iterable[tuple[bytes, bytes]], trusted: Sequence[Network]) -> str | None:
    """The rightmost address of X-Forwarded-For that is no trusted proxy, if the peer is one; else the peer.

    Every proxy appends whom it was called by, so what stands to the left of the first stranger is hearsay. Where a
    proxy wrote no address, the chain ends at that proxy; where all are trusted, the caller is the leftmost of them.
    A peer without an address, as on a Unix socket, is nobody's proxy.
    """
    if peer is None or not _is_trusted(_address(peer), trusted):
        return peer
    known = peer
    for text in reversed(_chain(headers)):
        address = _address(text)
        if address is None:
            return known
        known = str(address)
        if not _is_trusted(address, trusted):
            return known
    return known


def _chain(headers: Iterable[tuple[bytes, bytes]]) -> list[str]:
    """The elements of all lines in their order, without the empty ones, which mean nothing (RFC 9110 5.6.1)."""
    lines = b",".join(value for name, value in headers if name == _HEADER).decode("latin-1")
    return [text for part in lines.split(",") if (text := part.strip())]


def _address(text: str) -> Address | None:
    """The address in `1.2.3.4`, `1.2.3.4:567`, `::1`, `[::1]` or `[::1]:80`; of one that carries IPv4, that."""
    if (match := _WITH_PORT.fullmatch(text)) is not None:
        text = match[1] or match[2] or ""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        # Without its zone, which means nothing on another machine.
        return address.ipv4_mapped or IPv6Address(int(address))
    return address


def _is_trusted(address: Address | None, trusted: Sequence[Network]) -> bool:
    return address is not None and any(address in network for network in trusted)
