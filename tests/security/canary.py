"""Secrets that can be recognised wherever they turn up, in whatever clothes."""

from __future__ import annotations

import base64
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path


def a_canary(name: str) -> str:
    """A secret that tells by its beginning what it was, so that a find explains itself."""
    return f"canary{name}{secrets.token_hex(12)}"


def forms(secret: bytes) -> Iterator[bytes]:
    """The secret as it is, and in hex, in base64 at each alignment, percent-encoded as a whole, and as UTF-16."""
    yield secret
    yield secret.hex().encode()
    yield secret.hex().upper().encode()
    for offset in range(3):
        text = base64.b64encode(b"\0" * offset + secret)
        # Without the characters at either end that depend on the neighbours.
        whole = text[-(-offset * 8 // 6) : (offset + len(secret)) * 8 // 6]
        yield whole
        yield whole.translate(bytes.maketrans(b"+/", b"-_"))
    yield b"".join(b"%%%02x" % byte for byte in secret)
    yield b"".join(b"%%%02X" % byte for byte in secret)
    yield b"".join(b"%c\0" % byte for byte in secret)


class Canaries:
    """Several of them, looked for at once."""

    def __init__(self, named: Mapping[str, str | bytes]) -> None:
        self._names = {
            form: name
            for name, secret in named.items()
            for form in forms(secret.encode() if isinstance(secret, str) else secret)
        }
        self._any = re.compile(b"|".join(re.escape(form) for form in self._names))

    def found(self, data: bytes) -> set[str]:
        """Which of them are in the data."""
        return {self._names[match[0]] for match in self._any.finditer(data)}

    def in_files(self, paths: Iterable[Path]) -> set[str]:
        """Which of them are in files, each with the name of the file."""
        return {f"{name} in {path.name}" for path in paths if path.is_file() for name in self.found(path.read_bytes())}
