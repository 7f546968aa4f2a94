"""What came back from a destination."""

from __future__ import annotations

from dataclasses import dataclass

Headers = tuple[tuple[str, str], ...]
"""Names and values in the order of the wire; values are decoded as latin-1, so that every byte survives."""


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Response:
    """A complete HTTP answer, whatever its status.

    `body` is cut at the response cap; `cut` says that there was more. A short one is decoded from gzip or deflate, and
    then no header speaks of that.
    """

    status: int
    headers: Headers
    body: bytes
    cut: bool = False


@dataclass(frozen=True, slots=True)
class NoResponse:
    """No HTTP answer came: the name did not resolve, nobody listened, TLS failed, time ran out, or it was not HTTP."""

    reason: str


Reply = Response | NoResponse
