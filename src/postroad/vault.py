"""Secrets at rest: what is stored is sealed with data keys, and these with the master key that the operator holds."""

from __future__ import annotations

import hmac
import os
import re
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from postroad.errors import KeyMissing, Unopenable

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32
_SALT_BYTES, _NONCE_BYTES, _TAG_BYTES = 16, 12, 16
_HEAD_BYTES = _SALT_BYTES + _NONCE_BYTES

OVERHEAD = _HEAD_BYTES + _TAG_BYTES
"""How many bytes a sealed value is longer than what it holds."""

_SEALS_A_SALT = 1 << 24
"""Random nonces of 96 bits may be drawn so often from one key without a thought of two that are the same."""

_REMEMBERED = 1_000


@dataclass(frozen=True, slots=True)
class MasterKey:
    """A key that the operator holds. It seals data keys and nothing else; the fingerprint may be shown."""

    key: bytes = field(repr=False)

    @property
    def fingerprint(self) -> str:
        """What tells it from others, and says nothing about it."""
        return hmac.digest(self.key, b"postroad fingerprint", "sha256")[:8].hex()

    def wrap(self, data_key: bytes, number: int) -> bytes:
        """A data key as it is stored."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + _cipher(self.key).encrypt(nonce, data_key, _of_data_key(number))

    def unwrap(self, wrapped: bytes, number: int) -> bytes:
        """The inverse. Raises `Unopenable`."""
        from cryptography.exceptions import InvalidTag

        try:
            return _cipher(self.key).decrypt(wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:], _of_data_key(number))
        except (InvalidTag, ValueError):
            raise Unopenable(number) from None


def parse_master_keys(text: str) -> tuple[MasterKey, ...]:
    """The keys in a text, with commas or white space between them. Raises ValueError, which does not tell them."""
    keys = []
    for part in filter(None, re.split(r"[,\s]+", text)):
        try:
            key = b64decode(part.replace("-", "+").replace("_", "/"), validate=True)
        except ValueError:
            key = b""
        if len(key) != KEY_BYTES:
            raise ValueError("each key is 32 random bytes in base64, as `openssl rand -base64 32` prints them")
        keys.append(MasterKey(key))
    if not keys:
        raise ValueError("there is no key in it")
    return tuple(keys)


def place(column: str, tenant_id: int, row: bytes) -> bytes:
    """Where a value stands. What is sealed for one place cannot be opened in another."""
    return b"%b\0%d\0%b" % (column.encode(), tenant_id, row)


class Vault:
    """Seals what is stored, and opens what was. Until it is unlocked it seals nothing, and opens nothing sealed.

    A sealed value is 16 bytes of salt, 12 of nonce, the ciphertext and 16 of tag: AES-256-GCM under a key that is
    derived from data key and salt (HMAC-SHA256). Each process draws its own salts, so that all of them together may
    draw any number of nonces.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        """The data key of new rows; None when they are stored as they are."""
        self.waits_for: int | None = None
        """A data key that is in use and that no master key of this process opens."""
        self.keys: Mapping[int, bytes] = {}
        """The data keys at hand, by number."""
        self._salt = b""
        self._seals_left = 0
        self._sealer: AESGCM | None = None
        self._openers: dict[tuple[int, bytes], AESGCM] = {}
        self._refusals: tuple[type[Exception], ...] = ()

    def unlock(self, keys: Mapping[int, bytes], number: int) -> None:
        """Open with these data keys from now on, and seal with the one of this number."""
        from cryptography.exceptions import InvalidTag

        self._refusals = (InvalidTag, ValueError)
        self.keys = dict(keys)
        if number != self.number:
            self.number, self._seals_left = number, 0

    def seal(self, plain: bytes, where: bytes) -> bytes:
        """The value as it is stored at this place, by the data key `number`."""
        if not self._seals_left:
            self._renew()
        assert self._sealer is not None
        self._seals_left -= 1
        nonce = os.urandom(_NONCE_BYTES)
        return self._salt + nonce + self._sealer.encrypt(nonce, plain, where)

    def open(self, sealed: bytes, number: int, where: bytes) -> bytes:
        """What was sealed by a data key for this place. Raises `KeyMissing` or `Unopenable`."""
        opener = self._openers.get((number, sealed[:_SALT_BYTES])) or self._opener(number, sealed[:_SALT_BYTES])
        try:
            return opener.decrypt(sealed[_SALT_BYTES:_HEAD_BYTES], memoryview(sealed)[_HEAD_BYTES:], where)
        except self._refusals:
            raise Unopenable(number) from None

    def seal_text(self, plain: str, where: bytes) -> str:
        """A text, or JSON, as base64."""
        return b64encode(self.seal(plain.encode(), where)).decode()

    def open_text(self, sealed: str, number: int, where: bytes) -> str:
        """The inverse of `seal_text`. Raises as `open` does."""
        try:
            return self.open(b64decode(sealed, validate=True), number, where).decode()
        except ValueError:
            # No base64; what is not even ASCII is refused by another class than the rest.
            raise Unopenable(number) from None

    def blinded(self, digest: bytes) -> bytes:
        """A digest that can be compared with others, but not with guesses; unchanged when nothing is sealed.

        By the first data key, so that equal ones stay equal when there is a new one.
        """
        if self.number is None:
            return digest
        return hmac.digest(self.keys[min(self.keys)], b"postroad digest" + digest, "sha256")

    def _renew(self) -> None:
        assert self.number is not None
        self._salt, self._seals_left = os.urandom(_SALT_BYTES), _SEALS_A_SALT
        self._sealer = self._opener(self.number, self._salt)

    def _opener(self, number: int, salt: bytes) -> AESGCM:
        key = self.keys.get(number)
        if key is None:
            raise KeyMissing(number)
        if len(self._openers) >= _REMEMBERED:
            self._openers.clear()
        opener = self._openers[number, salt] = _cipher(hmac.digest(key, b"postroad seal" + salt, "sha256"))
        return opener


PLAIN = Vault()
"""Of whoever has nothing to do with secrets; it is never unlocked."""


def new_data_key() -> bytes:
    """A random key."""
    return os.urandom(KEY_BYTES)


def _of_data_key(number: int) -> bytes:
    return b"postroad data key %d" % number


def _cipher(key: bytes) -> AESGCM:
    # Loaded when there is a key: it takes 20 ms and 7 MiB of each process.
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(key)
