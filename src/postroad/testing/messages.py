"""What became of the messages of a test, as the log tells it."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ANYTHING: Any = object()
"""Matches every body."""

_MOST_SHOWN = 60
_MOST_LINES = 50


@dataclass(frozen=True, slots=True)
class TestedMessage:
    """A message and its states, the oldest first."""

    __test__ = False

    id: str
    method: str
    url: str
    body: bytes
    states: tuple[str, ...]
    error: str | None

    @classmethod
    def of(cls, history: Mapping[str, Any]) -> TestedMessage:
        """The message that a group of the log describes."""
        events = history["events"]
        newest = events[0]
        return cls(
            id=history["messageId"],
            method=newest.get("method", "POST"),
            url=newest["url"],
            body=b64decode(newest.get("body", "")) if not _is_redacted(newest) else newest["body"].encode(),
            states=tuple(event["state"] for event in reversed(events)),
            error=next((event["error"] for event in events if "error" in event), None),
        )

    @property
    def state(self) -> str:
        """The last thing that happened to it."""
        return self.states[-1]

    @property
    def attempts(self) -> int:
        """How many requests were made for it."""
        return self.states.count("ACTIVE")

    def line(self) -> str:
        """One line for people."""
        made = "1 attempt" if self.attempts == 1 else f"{self.attempts} attempts"
        error = f", last error: {shortened(self.error)}" if self.error else ""
        return f"{self.state:<10} {self.method} {self.url}  body {shown(self.body)}  ({made}{error})"


@dataclass(frozen=True, slots=True)
class Sought:
    """Which messages an assertion is about."""

    url: str | re.Pattern[str] | None = None
    body: Any = ANYTHING

    def covers(self, message: TestedMessage) -> bool:
        """Whether this message is meant."""
        return self._is_url(message.url) and (self.body is ANYTHING or self._is_body(message.body))

    def words(self) -> str:
        """For an error text: to where, and with what."""
        url = self.url.pattern if isinstance(self.url, re.Pattern) else self.url
        to = f" to {url}" if url is not None else ""
        return f"{to} with body {shown(self._body())}" if self.body is not ANYTHING else to

    def _is_url(self, url: str) -> bool:
        match self.url:
            case None:
                return True
            case str():
                return self.url == url
        return self.url.search(url) is not None

    def _is_body(self, body: bytes) -> bool:
        if isinstance(self.body, str | bytes):
            return body == self._body()
        try:
            return bool(json.loads(body) == self.body)
        except ValueError:
            return False

    def _body(self) -> bytes:
        match self.body:
            case bytes():
                return self.body
            case str():
                return self.body.encode()
        return json.dumps(self.body).encode()


def told(messages: Sequence[TestedMessage]) -> str:
    """All messages of a test for the end of an error text."""
    if not messages:
        return "Nothing was published."
    return "\n".join(["What was published:", *listed([message.line() for message in messages])])


def listed(lines: Sequence[str]) -> list[str]:
    """Lines for an error text, indented; not more of them than are read."""
    more = [f"  and {len(lines) - _MOST_LINES} more"] if len(lines) > _MOST_LINES else []
    return [*(f"  {line}" for line in lines[:_MOST_LINES]), *more]


def shown(body: bytes) -> str:
    """A body for an error text."""
    return shortened(body.decode(errors="replace")) if body else "(empty)"


def shortened(text: str) -> str:
    """The text in quotes, cut if it is long."""
    return repr(text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…")


def _is_redacted(event: Mapping[str, Any]) -> bool:
    return str(event.get("body", "")).startswith("REDACTED:")
