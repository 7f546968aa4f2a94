"""Why the hash of a body is another: what a body may have been before something read and wrote it anew."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from typing import Any


def body_hash(body: bytes) -> str:
    """As a signature has it, without padding."""
    return base64.urlsafe_b64encode(hashlib.sha256(body).digest()).decode().rstrip("=")


def explanation(body: bytes, signed: str) -> str | None:
    """How the body that was signed differs from this one, if it is any of the forms that programs make; else None."""
    try:
        return next((words for words, variant in _variants(body) if body_hash(variant) == signed), None)
    except RecursionError:
        return None  # JSON that is nested deeper than can be read here.


def _variants(body: bytes) -> Iterator[tuple[str, bytes]]:
    """What the signed body may be, seen from the one that is at hand."""
    yield "an empty body", b""
    yield "this one with a newline at the end", body + b"\n"
    yield "this one without the white space at its end", body.rstrip()
    yield "this one without the white space around it", body.strip()
    yield "this one with \\r\\n where it has \\n", body.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    yield "this one with \\n where it has \\r\\n", body.replace(b"\r\n", b"\n")
    yield "this one without the byte order mark", body.removeprefix(b"\xef\xbb\xbf")
    yield "this one decoded from base64", _decoded(body)
    yield "this one encoded as base64", base64.b64encode(body)
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError:
        return
    yield "this one in Latin-1 instead of UTF-8", text.encode("latin-1", "replace")
    yield "this one as it was before UTF-8 was taken for Latin-1", _mended(text)
    yield "this text in quotes, as a JSON string", json.dumps(text).encode()
    yield "this text in quotes, as a JSON string", json.dumps(text, ensure_ascii=False).encode()
    try:
        value = json.loads(text)
    except ValueError:
        return
    yield from _serialised("the same JSON", value)
    if isinstance(value, str):
        yield "the text in this JSON string, without quotes", value.encode("utf-8", "surrogatepass")
        try:
            yield from _serialised("the JSON in this JSON string", json.loads(value))
        except ValueError:
            return


def _serialised(what: str, value: Any) -> Iterator[tuple[str, bytes]]:
    layouts: tuple[tuple[str, dict[str, Any]], ...] = (
        ("compact, as JSON.stringify writes it", {"separators": (",", ":")}),
        ("with blanks after commas and colons, as json.dumps of Python writes it", {"separators": (", ", ": ")}),
        ("indented by 2", {"indent": 2}),
        ("indented by 4", {"indent": 4}),
        ("indented by tabs", {"indent": "\t"}),
    )
    for layout, options in layouts:
        for keys, is_sorted in (("", False), (", keys sorted", True)):
            for letters, is_ascii in (("", False), (", letters beyond ASCII as \\u escapes", True)):
                dumped = json.dumps(value, sort_keys=is_sorted, ensure_ascii=is_ascii, **options)
                yield f"{what} {layout}{keys}{letters}", dumped.encode("utf-8", "surrogatepass")
                yield (
                    f"{what} {layout}{keys}{letters}, with a newline at the end",
                    f"{dumped}\n".encode("utf-8", "surrogatepass"),
                )


def _decoded(body: bytes) -> bytes:
    try:
        return base64.b64decode(body, validate=True)
    except ValueError:
        return body


def _mended(text: str) -> bytes:
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode()
