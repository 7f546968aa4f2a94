"""Which parts of a message the API and the logs show only as a hash."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from postroad.domain.headers import canonical, check_name
from postroad.domain.reply import Headers
from postroad.errors import InvalidValue


@dataclass(frozen=True, slots=True)
class Redaction:
    """What `Upstash-Redact-Fields` asks for. Deliveries, callbacks and DLQ retries use the real values all the same.

    `headers` holds canonical names and is empty when `all_headers` covers them.
    """

    body: bool
    all_headers: bool
    headers: frozenset[str]

    def text(self) -> str:
        """The fields as parse_redaction reads them, each once and in a fixed order."""
        body = ["body"] if self.body else []
        headers = ["header"] if self.all_headers else [f"header[{name}]" for name in sorted(self.headers)]
        return ",".join(body + headers)

    def redacted_headers(self, headers: Headers) -> Headers:
        """The headers in their order, with the values that are not to be seen replaced by their hashes."""
        return tuple(
            (name, _hash(value.encode("latin-1")) if self.all_headers or canonical(name) in self.headers else value)
            for name, value in headers
        )


def parse_redaction(text: str) -> Redaction:
    """The redaction that a list such as `body, header[Authorization]` asks for. Raises InvalidValue.

    `header` and `headers` mean all of them; `header[Name]` and `headers[Name]` one, in any case. QStash's grammar.
    """
    fields = {field.strip(" \t") for field in text.split(",")}
    names = frozenset(_header_name(field, text) for field in fields - _WHOLE)
    all_headers = not fields.isdisjoint(_ALL_HEADERS)
    return Redaction("body" in fields, all_headers, frozenset() if all_headers else names)


_ALL_HEADERS = frozenset({"header", "headers"})
_WHOLE = _ALL_HEADERS | {"body"}


def _header_name(field: str, text: str) -> str:
    kind, bracket, rest = field.partition("[")
    if kind not in _ALL_HEADERS or not bracket or not rest.endswith("]"):
        raise InvalidValue(text, "a comma list of body, header and header[Name]")
    return canonical(check_name(rest[:-1].strip(" \t")))


def redacted_body(body: bytes) -> str:
    """What the API shows in place of a redacted body: `REDACTED:` and the SHA-256 of the body in hex."""
    return _hash(body)


def _hash(value: bytes) -> str:
    return f"REDACTED:{hashlib.sha256(value).hexdigest()}"
