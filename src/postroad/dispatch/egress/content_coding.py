"""Short response bodies without their content encoding."""

from __future__ import annotations

import zlib

# zlib's window sizes: +16 reads the gzip wrapper, negative reads no wrapper at all.
_GZIP, _ZLIB, _RAW = 31, 15, -15


def decoded(body: bytes, coding: str, max_bytes: int) -> bytes | None:
    """The decoded body, if it is whole and no longer than this before and after; of a longer one no more is decoded.

    Only gzip and deflate are known; what some servers call deflate has no zlib wrapper (RFC 9110 section 8.4.1.2).
    """
    if len(body) > max_bytes:
        return None
    match coding.strip().lower():
        case "gzip" | "x-gzip":
            return _inflated(body, _GZIP, max_bytes)
        case "deflate":
            plain = _inflated(body, _ZLIB, max_bytes)
            return _inflated(body, _RAW, max_bytes) if plain is None else plain
        case _:
            return None


def _inflated(body: bytes, window: int, max_bytes: int) -> bytes | None:
    inflater = zlib.decompressobj(window)
    try:
        # One byte more than wanted tells whether there was more.
        plain = inflater.decompress(body, max_bytes + 1)
    except zlib.error:
        return None
    return plain if inflater.eof and not inflater.unused_data and len(plain) <= max_bytes else None
