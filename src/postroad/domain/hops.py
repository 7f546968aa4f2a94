"""How often a message has come back to this server to be published again, so that nothing goes round for ever."""

from __future__ import annotations

from collections.abc import Iterable

from postroad.domain.reply import Headers
from postroad.errors import InvalidField

HEADER = "Upstash-Hops"
MOST = 8

MARK = "upstash-message-id"
"""What a request carries that is a delivery of ours, or of another such server."""


def next_hop(fields: Iterable[tuple[str, str]]) -> str:
    """The value of `Upstash-Hops` for what is published by a delivery with these header fields. Raises InvalidField."""
    return str(1 + max((parse_hops(value) for name, value in fields if name == "upstash-hops"), default=0))


def parse_hops(text: str) -> int:
    """The number that `Upstash-Hops` says. Raises InvalidField for one that is too large."""
    text = text.strip()
    if not (text.isascii() and text.isdigit()) or len(text) > 9 or int(text) > MOST:
        raise InvalidField(HEADER, text, f"at most {MOST}: this message goes round in circles")
    return int(text)


def inherited(headers: Headers) -> Headers:
    """Of a message's own headers those that its callbacks must have too: or a circle of callbacks had no end."""
    return tuple(pair for pair in headers if pair[0] == HEADER)
