"""What came from the environment, and is not printed."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from urllib.parse import quote

from postroad.errors import shown

LEAST_LENGTH = 6
"""Shorter ones are in too many words."""

_CUT = "…"


@dataclass(slots=True)
class Secrets:
    """Values, each with the name of its variable, in all the forms in which they may come out."""

    _names: dict[str, str] = field(default_factory=dict)

    def add(self, value: str, name: str) -> None:
        """Hide a value from now on."""
        stripped = value.strip()  # as headers do it
        for one in (value, stripped):
            inner = json.dumps(one, ensure_ascii=False)[1:-1], json.dumps(one)[1:-1]
            for form in (one, *inner, _printable(one), quote(one), quote(one, safe="")):
                if len(form) >= LEAST_LENGTH:
                    self._names.setdefault(form, name)

    def hidden(self, text: str) -> str:
        """The text with the names of the variables in the place of their values, also where one was cut off."""
        for form, name in sorted(self._names.items(), key=lambda one: -len(one[0])):
            text = text.replace(form, f"${{{name}}}")
        before, *rest = text.split(_CUT)
        told = [self._ended(before) if rest else before]
        told += [self._ended(one) if place < len(rest) - 1 else one for place, one in enumerate(rest)]
        return _CUT.join(told)

    def _ended(self, text: str) -> str:
        """A text behind which something was cut off: without a beginning of a value at its end."""
        for form, name in self._names.items():
            for length in range(min(len(form), len(text)), LEAST_LENGTH - 1, -1):
                if text.endswith(form[:length]):
                    return f"{text[:-length]}${{{name}}}"
        return text


def _printable(text: str) -> str:
    return shown(text, quote="")
