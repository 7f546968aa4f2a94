"""The operator's password: made here, kept as scrypt makes it, compared in a thread of its own."""

from __future__ import annotations

import asyncio
import hmac
import os
from base64 import b64decode, b64encode
from hashlib import scrypt

_N, _R, _P = 2**15, 8, 1
"""32 MiB and about 60 ms for each try."""
_MEMORY = 64 * 1024 * 1024
_ALPHABET = "23456789abcdefghijkmnpqrstuvwxyz"
LEAST_CHARACTERS = 12


def new_password() -> str:
    """One that can be read aloud: four groups of five, 99 random bits."""
    letters = [_ALPHABET[byte % len(_ALPHABET)] for byte in os.urandom(20)]
    return "-".join("".join(letters[at : at + 5]) for at in range(0, 20, 5))


def hashed(password: str) -> str:
    """What is stored of a password."""
    salt = os.urandom(16)
    return f"scrypt${_N}${_R}${_P}${b64encode(salt).decode()}${b64encode(_digest(password, salt, _N, _R, _P)).decode()}"


async def is_password(password: str, stored: str) -> bool:
    """Whether this is the password of which that is stored."""
    _, n, r, p, salt, digest = stored.split("$")
    found = await asyncio.to_thread(_digest, password, b64decode(salt), int(n), int(r), int(p))
    return hmac.compare_digest(found, b64decode(digest))


def _digest(password: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    return scrypt(password.encode(), salt=salt, n=n, r=r, p=p, maxmem=_MEMORY, dklen=32)
