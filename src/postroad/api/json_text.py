"""JSON from callers: how much of it is read, how deep, and without holding up anybody else.

What is refused is what JSON has no number or text for: NaN, infinities, numbers beyond a double, halves of surrogate
pairs. Of a name that comes twice in an object the last value counts.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

import orjson

from postroad.errors import InvalidField

MOST_LEVELS = 32
MOST_CONTAINERS = 50_000
MOST_VALUES = 100_000
MOST_VALUES_OF_ELEMENT = 1_000

_SMALL_BYTES = 1024 * 1024
_TURN_BYTES = 256 * 1024
_BYTES_FOR_A_TOKEN = 100
"""A token takes as long as so many bytes of a text."""

_PLAIN = re.compile(rb'[^"\[\]{},]{0,65536}')
_TEXT = re.compile(rb'[^"\\]{0,65536}(?:\\.[^"\\]{0,64}){0,1024}', re.DOTALL)
_BLANK = b" \t\r\n"


def parsed(body: bytes, expected: str) -> Any:
    """The value that a JSON text stands for. Raises `InvalidField` for `body`, with what was expected instead."""
    if _containers(body) > MOST_CONTAINERS or max(body.count(b":"), body.count(b",")) > MOST_VALUES:
        raise _refused(body, f"{expected} of at most {MOST_CONTAINERS} lists and objects and {MOST_VALUES} values")
    return _parsed(body, body, expected)


async def elements(body: bytes, expected: str, *, most: int) -> AsyncIterator[Any]:
    """The elements of a JSON array, at most one more than `most`; a long text is read a little at a time.

    Raises `InvalidField` for `body`, perhaps only after some elements.
    """
    if len(body) <= _SMALL_BYTES and _containers(body) <= MOST_CONTAINERS and body.count(b":") <= MOST_VALUES:
        value = _parsed(body, body, expected)
        if not isinstance(value, list):
            raise _refused(body, expected)
        for element in value[: most + 1]:
            yield element
        return
    count = 0
    for text in _Splitter(body, expected).texts():
        if text is None:
            await asyncio.sleep(0)
            continue
        yield _parsed(text, body, expected)
        count += 1
        if count > most:
            return


def _parsed(text: bytes, body: bytes, expected: str) -> Any:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        raise _refused(body, expected) from None
    # No text without that many brackets is so deep.
    if _containers(text) > MOST_LEVELS and _is_deeper(value, MOST_LEVELS):
        raise _refused(body, f"{expected} of at most {MOST_LEVELS} levels")
    return value


def _is_deeper(value: Any, most: int) -> bool:
    level: list[Any] = [value]
    for _ in range(most):
        level = [child for one in level for child in _children(one) if isinstance(child, dict | list)]
        if not level:
            return False
    return True


def _children(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


class _Splitter:
    """Finds the outermost commas of an array. What stands between them is not checked, but for its size."""

    def __init__(self, body: bytes, expected: str) -> None:
        self._body = body
        self._expected = expected
        self._position = len(body) - len(body.lstrip(_BLANK))
        self._turn_ends = self._position + _TURN_BYTES

    def texts(self) -> Iterator[bytes | None]:
        """The text of each element, and None whenever others should have a turn."""
        if self._token() != b"[":
            raise self._refused()
        start, depth, values, is_first = self._position, 1, 0, True
        while depth:
            token = self._next_token()
            if token == b'"':
                yield from self._through_text()
            elif token in (b"[", b"{"):
                depth += 1
            elif token in (b"]", b"}"):
                depth -= 1
            values += 1
            if depth == 0 or (depth == 1 and token == b","):
                text = self._body[start : self._position - 1]
                # Nothing at all between the brackets is no element; between commas it is a mistake.
                if token == b"," or not is_first or text.strip(_BLANK):
                    yield text
                start, values, is_first = self._position, 0, False
            if values > MOST_VALUES_OF_ELEMENT or depth > MOST_LEVELS:
                raise self._refused(f" with elements of at most {MOST_VALUES_OF_ELEMENT} values")
            if self._has_had_its_turn():
                yield None
        if token != b"]" or self._body[self._position :].strip(_BLANK):
            raise self._refused()

    def _next_token(self) -> bytes:
        """The bracket, comma or quote after what is none, or a byte in the midst of that when it is long."""
        self._skip(_PLAIN)
        self._turn_ends -= _BYTES_FOR_A_TOKEN
        return self._token()

    def _through_text(self) -> Iterator[None]:
        """Go behind the end of the text whose quote was the last token."""
        while True:
            skipped = self._skip(_TEXT)
            token = self._body[self._position : self._position + 1]
            if token == b'"':
                self._position += 1
                return
            if not skipped:  # The body ends here, perhaps behind a backslash.
                raise self._refused()
            if self._has_had_its_turn():
                yield None

    def _token(self) -> bytes:
        token = self._body[self._position : self._position + 1]
        if not token:
            raise self._refused()
        self._position += 1
        return token

    def _skip(self, pattern: re.Pattern[bytes]) -> bool:
        match = pattern.match(self._body, self._position)
        assert match is not None, "these patterns match nothing, too"
        self._position = match.end()
        return match.end() > match.start()

    def _has_had_its_turn(self) -> bool:
        if self._position < self._turn_ends:
            return False
        self._turn_ends = self._position + _TURN_BYTES
        return True

    def _refused(self, more: str = "") -> InvalidField:
        return _refused(self._body, f"{self._expected}{more}")


def _containers(text: bytes) -> int:
    return text.count(b"[") + text.count(b"{")


def _refused(body: bytes, expected: str) -> InvalidField:
    return InvalidField("body", body[:50].decode("utf-8", "replace"), expected)
