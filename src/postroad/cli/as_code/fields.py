"""The fields of one object of a file, each read as what it must be; what is wrong becomes a fault of the document."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from datetime import timedelta
from difflib import get_close_matches
from typing import TypeVar

from postroad.cli.as_code.document import Document, Entry
from postroad.cli.as_code.resource import sorted_headers
from postroad.domain.destination import parse_url
from postroad.domain.duration import parse_duration
from postroad.domain.headers import check_name, check_value, is_forwardable
from postroad.errors import InvalidDestination, InvalidValue, shown

T = TypeVar("T")

_DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9]*)")


class Fields:
    """The object at an entry, of which the known fields are taken one by one."""

    def __init__(self, document: Document, entry: Entry, known: Iterable[str]) -> None:
        self.document, self.entry = document, entry
        self._given: dict[str, Entry] = {}
        names = list(known)
        if not isinstance(entry.value, dict):
            document.fault(entry, f"expected an object with {', '.join(names)}, got {described(entry)}")
            return
        self._given = {name: one for name, one in entry.value.items() if one.value is not None or name == "body"}
        for name, one in entry.value.items():
            if name not in names:
                similar = get_close_matches(name, names, n=1)
                hint = f"did you mean {similar[0]}?" if similar else f"expected one of {', '.join(names)}"
                document.fault(one, f"unknown field; {hint}")

    def get(self, name: str) -> Entry | None:
        """The entry of a field that is there."""
        return self._given.get(name)

    def fault(self, name: str, reason: str) -> None:
        """Remember what is wrong with a field, or that it is missing."""
        given = self._given.get(name)
        self.document.fault(given or self.entry, reason if given is not None else f"{name}: {reason}")

    def text(self, name: str, *, required: bool = False) -> str | None:
        """A text that is not empty; a whole number is one as well."""
        entry = self._given.get(name)
        if entry is None:
            if required and isinstance(self.entry.value, dict):
                self.document.fault(self.entry, f"{name} is missing")
            return None
        return text_of(self.document, entry)

    def required(self, name: str) -> str:
        """A text that must be there; an empty one stands for a fault."""
        return self.text(name, required=True) or ""

    def name(self, field: str, parse: Callable[[str], str]) -> str:
        """A name that is a segment of a path, where dots alone would mean another path; empty for a fault."""
        name = self.parsed(field, parse, required=True) or ""
        if name in (".", ".."):
            self.fault(field, f"got {shown(name)}, expected more than dots")
        return name

    def parsed(self, name: str, parse: Callable[[str], T], *, required: bool = False) -> T | None:
        """A text that a parser of the domain reads."""
        text = self.text(name, required=required)
        if text is None:
            return None
        try:
            return parse(text)
        except InvalidValue as error:
            self.fault(name, f"got {shown(error.value)}, expected {error.expected}")
        except InvalidDestination as error:
            self.fault(name, f"got {shown(text)}: {error.reason}")
        return None

    def integer(self, name: str, *, least: int) -> int | None:
        """A whole number."""
        entry = self._given.get(name)
        if entry is None:
            return None
        if isinstance(entry.value, bool) or not isinstance(entry.value, int) or not least <= entry.value < 2**31:
            self.document.fault(entry, f"expected a whole number of {least} or more, got {described(entry)}")
            return None
        if (doubt := doubtful(entry)) is not None:
            self.document.fault(entry, doubt)
        return entry.value

    def flag(self, name: str) -> bool:
        """True or false; false when it is not there."""
        entry = self._given.get(name)
        if entry is None:
            return False
        if not isinstance(entry.value, bool):
            self.document.fault(entry, f"expected true or false, got {described(entry)}")
            return False
        return entry.value

    def seconds(self, name: str) -> int | None:
        """A duration such as 10s, or a number of seconds."""
        parse: Callable[[str], timedelta] = lambda text: parse_duration(text, bare_seconds=True)  # noqa: E731  shorter
        found = self.parsed(name, parse)
        return None if found is None else int(found.total_seconds())

    def url(self, name: str, *, required: bool = False) -> str | None:
        """An http or https URL that a message can go to."""
        found = self.parsed(name, parse_url, required=required)
        return None if found is None else found.text

    def headers(self, name: str, *, forwarded: bool = True) -> dict[str, str]:
        """Headers by their names."""
        entry = self._given.get(name)
        if entry is None:
            return {}
        if not isinstance(entry.value, dict):
            self.document.fault(entry, f"expected an object of header names and values, got {described(entry)}")
            return {}
        pairs: dict[str, tuple[str, str]] = {}
        for header, value in entry.value.items():
            text = text_of(self.document, value, empty=True)
            try:
                check_name(header)
                pair = (header, check_value(text or ""))
            except InvalidValue as error:
                self.document.fault(value, f"expected {error.expected}")
                continue
            if forwarded and not is_forwardable(header.lower()):
                self.document.fault(value, "this header is not forwarded: it belongs to the connection, or to Postroad")
            elif header.lower() in pairs:
                self.document.fault(value, "is here twice, in another case")
            pairs[header.lower()] = pair
        return sorted_headers(pairs.values())

    def texts(self, name: str) -> list[str]:
        """A list of texts, or a single one."""
        entry = self._given.get(name)
        if entry is None:
            return []
        items = entry.value if isinstance(entry.value, list) else [entry]
        return [text for one in items if (text := text_of(self.document, one)) is not None]

    def entries(self, name: str) -> list[Entry]:
        """The items of a list."""
        entry = self._given.get(name)
        if entry is None:
            return []
        if not isinstance(entry.value, list):
            self.document.fault(entry, f"expected a list, got {described(entry)}")
            return []
        return entry.value


def text_of(document: Document, entry: Entry, *, empty: bool = False) -> str | None:
    """The text of a scalar. Whole numbers are taken as they are written; of true, 1.0 or null that is not clear."""
    if isinstance(entry.value, bool) or not isinstance(entry.value, str | int):
        document.fault(entry, f"expected a text, got {described(entry)}{_quotes(entry)}")
        return None
    if not entry.text and not empty:
        document.fault(entry, "expected a text that is not empty")
        return None
    return entry.text


def doubtful(entry: Entry) -> str | None:
    """What is to be said of a scalar that YAML reads as another one than many who write it: NO, 010, 12:30, 1_000."""
    value, text = entry.value, entry.text
    match value:
        case bool() if text.lower() not in ("true", "false"):
            meant = str(value).lower()
        case int() if not isinstance(value, bool) and not _DECIMAL.fullmatch(text):
            meant = str(value)
        case float() if not math.isfinite(value):
            return f"expected a number that JSON can write, got {text}{_quotes(entry)}"
        case float() if "_" in text or ":" in text:
            meant = str(value)
        case _:
            return None
    return f"YAML reads {text} as {meant}: write {meant}, or put {text} in quotes"


def described(entry: Entry) -> str:
    """What an entry is, for people."""
    match entry.value:
        case dict():
            return "an object"
        case list():
            return "a list"
        case None:
            return "nothing"
        case str():
            return shown(entry.value)
    return entry.text


def _quotes(entry: Entry) -> str:
    return "; put it in quotes" if isinstance(entry.value, bool | float) else ""
