"""A request on its way out, and the strict writing of its head."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from postroad.domain.destination import Url
from postroad.errors import shown

METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})

OURS = frozenset(
    {
        "host",
        "content-length",
        "connection",
        "keep-alive",
        "proxy-connection",
        "transfer-encoding",
        "te",
        "trailer",
        "upgrade",
        "expect",
    }
)
"""Headers that frame a message or govern its connection: the client writes them, or nobody does."""


@dataclass(frozen=True, slots=True)
class OutgoingRequest:
    """One request to a destination.

    `headers` go out in this order and case; their values are latin-1 text, as in `Response.headers`. None of `OURS`
    may be among them. `timeout` is in seconds and covers everything from the look-up to the last byte of the answer.
    """

    url: Url
    method: str
    headers: Sequence[tuple[str, str]]
    body: bytes
    timeout: float


MOST_REMEMBERED = 24
"""Names of one request: publishers choose them, and lists of the longest would fill the memory."""


class UnwritableError(ValueError):
    """A request that cannot be written as HTTP/1.1 without changing its meaning."""


def head(request: OutgoingRequest) -> bytes:
    """The request line and headers as bytes. Raises UnwritableError.

    Names are checked once for each list of names (RFC 9110 section 5.6.2), because a publisher sends the same names
    again and again. Values are checked together: visible ASCII, blank, tab and the upper half of latin-1 (section 5.5).
    """
    url, body = request.url, request.body
    names, values = zip(*request.headers, strict=True) if request.headers else ((), ())
    frame_of = _remembered_frame if len(names) <= MOST_REMEMBERED else _frame
    frame, controls = frame_of(request.method, names, bool(body))
    parts = frame.copy()
    if body:
        parts[1::2] = (url.target, url.authority, *values, str(len(body)))
    else:
        parts[1::2] = (url.target, url.authority, *values)
    try:
        written = "".join(parts).encode("latin-1")
    except UnicodeEncodeError:
        raise _culprit(request.headers) from None
    # One control character more than the frame's own could begin a line that is not ours.
    if len(written) - len(written.translate(None, _CONTROLS)) != controls:
        raise _culprit(request.headers)
    return written


def _frame(method: str, names: tuple[str, ...], has_body: bool) -> tuple[list[str], int]:
    """The head around the target, the authority, the values and the length of a body, each an empty text in its place.

    Beside it, how many control characters it holds.
    """
    if method not in METHODS:
        raise UnwritableError(f"invalid method {shown(method)}")
    for name in names:
        if not _NAME.fullmatch(name):
            raise UnwritableError(f"invalid header name {shown(name)}")
        if name.lower() in OURS:
            raise UnwritableError(f"invalid header {name}: it cannot be set for a destination")
    end = "" if "accept-encoding" in map(str.lower, names) else "\r\nAccept-Encoding: identity"
    texts = [f"{method} ", " HTTP/1.1\r\nHost: ", *(f"\r\n{name}: " for name in names)]
    if has_body:
        texts += [f"{end}\r\nContent-Length: ", "\r\n\r\n"]
    elif method in {"POST", "PUT", "PATCH"}:
        texts.append(f"{end}\r\nContent-Length: 0\r\n\r\n")
    else:
        # Of these methods nobody expects a body, and a length of zero would be noise (RFC 9110 section 8.6).
        texts.append(f"{end}\r\n\r\n")
    frame = [""] * (2 * len(texts) - 1)
    frame[::2] = texts
    return frame, 2 * "".join(texts).count("\r\n")


_remembered_frame = lru_cache(maxsize=1024)(_frame)


def _culprit(headers: Sequence[tuple[str, str]]) -> UnwritableError:
    name = next(name for name, value in headers if not _VALUE.fullmatch(value))
    return UnwritableError(f"invalid header {name}: its value holds a character that HTTP does not allow")


_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_CONTROLS = bytes({*range(0x20), 0x7F} - {0x09})
