"""Tokens as they are given out: what is random in them, and how a damaged one is recognised."""

from __future__ import annotations

import os
import re
from zlib import crc32

from postroad.domain.tenant import Access

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SECRET_LENGTH = 43
_CHECKSUM_LENGTH = 6
_TENANT, _ADMIN = "prt_", "pra_"
_WHOLE = re.compile(rf"(pr[ta]_[0-9A-Za-z]{{{_SECRET_LENGTH}}})([0-9A-Za-z]{{{_CHECKSUM_LENGTH}}})")


def new_token(access: Access) -> str:
    """A token nobody has: `prt_` or, for administrators, `pra_`, then 256 random bits and a checksum in base 62."""
    text = _ADMIN if access is Access.ADMIN else _TENANT
    text += _in_base_62(int.from_bytes(os.urandom(32), "big"), _SECRET_LENGTH)
    return text + _checksum(text)


def is_damaged(token: str) -> bool:
    """Whether this was one of our tokens before somebody mistyped it or cut it off.

    Tokens of other makes have no checksum and are never called damaged. Whoever guesses can compute it as well: it
    saves a look at the database, and tells an operator why a token is refused.
    """
    if not token.startswith((_TENANT, _ADMIN)):
        return False
    match = _WHOLE.fullmatch(token)
    return match is None or _checksum(match[1]) != match[2]


def _checksum(text: str) -> str:
    return _in_base_62(crc32(text.encode()), _CHECKSUM_LENGTH)


def _in_base_62(number: int, length: int) -> str:
    digits = []
    for _ in range(length):
        number, digit = divmod(number, 62)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))
