"""Response bodies without their content encoding, never more of them than asked for."""

from __future__ import annotations

import zlib

# zlib's window sizes: +16 reads the gzip wrapper, negative reads no wrapper at all.
_GZIP, _ZLIB, _RAW = 31, 15, -15


MAX_STREAMS = 16


def decoded(body: bytes, coding: str, max_bytes: int, *, cut: bool) -> tuple[bytes, bool] | None:
    """The first `max_bytes` of the decoded body, and whether there was more. None if it cannot be decoded.

    `cut` says that the body itself is only a beginning. Only gzip and deflate are known; what some servers call deflate
    has no zlib wrapper (RFC 9110 section 8.4.1.2).
    """
    match coding.strip().lower():
        case "gzip" | "x-gzip":
            return _inflated(body, _GZIP, max_bytes, cut)
        case "deflate":
            return _inflated(body, _ZLIB, max_bytes, cut) or _inflated(body, _RAW, max_bytes, cut)
        case _:
            return None


def _inflated(body: bytes, window: int, max_bytes: int, cut: bool) -> tuple[bytes, bool] | None:
    out, rest = bytearray(), body
    try:
        # A gzip body may be several streams, one after the other. Each costs a copy of the rest, hence the limit.
        for _ in range(MAX_STREAMS):
            inflater = zlib.decompressobj(window)
            # One byte more than wanted tells whether there was more. Zero would mean no limit to zlib.
            out += inflater.decompress(rest, max_bytes + 1 - len(out))
            if len(out) > max_bytes:
                return bytes(out[:max_bytes]), True
            if not inflater.eof:
                return (bytes(out), True) if cut else None
            rest = inflater.unused_data
            if not rest:
                return bytes(out), cut
    except zlib.error:
        return None
    return None
