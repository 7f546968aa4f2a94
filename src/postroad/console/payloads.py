"""Bodies as people read them: JSON laid out and coloured, text as it is, anything else as hex; never more than fits."""

from __future__ import annotations

import re
from base64 import b64decode
from binascii import Error as Base64Error
from dataclasses import dataclass
from typing import Any

import orjson
from markupsafe import Markup, escape
from pygments import lex
from pygments.lexers import JsonLexer
from pygments.token import STANDARD_TYPES

MOST_SHOWN_BYTES = 64 * 1024
MOST_COLOURED_CHARACTERS = 32 * 1024
_MOST_LAID_OUT_CHARACTERS = 4 * MOST_SHOWN_BYTES
"""Each line is indented by how deep it is, so without a bound a little hostile JSON would be a page of megabytes."""

_MOST_GLIMPSED_BYTES = 512
_HEX_WIDTH = 16
_MOST_HEX_BYTES = 4096
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{},:]|[^\s\[\]{},:"]+')
_REDACTED = re.compile(r"REDACTED:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Payload:
    """A body to be shown: `kind` is JSON, text, hex, redacted or empty; `is_cut` says that there is more of it."""

    kind: str
    markup: Markup
    text: str
    size: int
    is_cut: bool = False


def shown(body: bytes | str | None, *, whole_size: int | None = None) -> Payload:
    """How to show a body, of which this may be the beginning only."""
    if body is None or not body:
        return Payload("empty", Markup(""), "", 0)
    if isinstance(body, str) and _REDACTED.fullmatch(body):
        return Payload("redacted", escape(body), body, 0)
    data = body.encode() if isinstance(body, str) else body
    length = len(data) if whole_size is None else whole_size
    is_cut = len(data) > MOST_SHOWN_BYTES or length > len(data)
    data = data[:MOST_SHOWN_BYTES]
    if not is_cut and (laid_out := _json(data)) is not None:
        return Payload("JSON", _coloured(laid_out), laid_out, length)
    text = _text(data, is_cut=is_cut)
    if text is not None:
        return Payload("text", escape(text), text, length, is_cut)
    return Payload("hex", escape(_hex(data)), "", length, is_cut or len(data) > _MOST_HEX_BYTES)


def glimpse(body: bytes | str | None) -> Payload:
    """How to show a body of which the beginning has to do."""
    if not isinstance(body, bytes):
        return shown(body)
    return shown(body[:_MOST_GLIMPSED_BYTES], whole_size=len(body))


def of_event(view: dict[str, Any], name: str) -> bytes | str | None:
    """The body of an event, which the API gives in base64, or as the mark of a redacted one."""
    value = view.get(name)
    if value is None or _REDACTED.fullmatch(value):
        return value
    try:
        return b64decode(value, validate=True)
    except Base64Error:
        return str(value)


def of_message(view: dict[str, Any], name: str = "body") -> bytes | str | None:
    """The body of a message, which the API gives as text, or in base64 if it is none."""
    if (encoded := view.get(f"{name}Base64")) is not None:
        return b64decode(encoded)
    return view.get(name)


def _json(data: bytes) -> str | None:
    """JSON laid out, None for what is none. Numbers, escapes and names that come twice stay as they were sent."""
    if data[:1] not in b'{["':
        return None
    try:
        orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    parts: list[str] = []
    size, depth, before = 0, 0, ""
    for token in _TOKEN.findall(data.decode()):
        if token in ("]", "}"):
            depth -= 1
        if before in ("[", "{"):
            gap = "" if token in ("]", "}") else _line(depth)
        else:
            gap = _line(depth) if before == "," or token in ("]", "}") else " " if before == ":" else ""
        if token in ("[", "{"):
            depth += 1
        parts += gap, token
        size += len(gap) + len(token)
        if size > _MOST_LAID_OUT_CHARACTERS:
            return None
        before = token
    return "".join(parts)


def _line(depth: int) -> str:
    return "\n" + "  " * depth


def _text(data: bytes, *, is_cut: bool) -> str | None:
    """The text in data, of which the last character may have been cut off; None if it is none."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        if not is_cut or error.start < len(data) - 3:
            return None
        text = data[: error.start].decode()
    return text if all(character.isprintable() or character in "\t\r\n" for character in text) else None


def _hex(data: bytes) -> str:
    lines = []
    for start in range(0, min(len(data), _MOST_HEX_BYTES), _HEX_WIDTH):
        row = data[start : start + _HEX_WIDTH]
        letters = "".join(chr(byte) if 32 <= byte < 127 else "·" for byte in row)
        lines.append(f"{start:06x}  {row.hex(' '):<47}  {letters}")
    return "\n".join(lines)


def _coloured(text: str) -> Markup:
    if len(text) > MOST_COLOURED_CHARACTERS:
        return escape(text)
    parts = []
    for kind, value in lex(text, JsonLexer(stripnl=False, ensurenl=False)):
        name = STANDARD_TYPES.get(kind, "")
        parts.append(
            Markup('<span class="{}">{}</span>').format(name, value) if name and name != "w" else escape(value)
        )
    return Markup("").join(parts)
