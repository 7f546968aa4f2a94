"""What a token for metadata does not see: the contents of messages, answers and reports, taken out of every answer."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

from postroad.domain.tenant import Access, Caller

_PAYLOADS = frozenset(
    {
        "body", "bodyBase64", "header", "headers", "callbackHeader", "callbackHeaders", "failureCallbackHeader",
        "failureCallbackHeaders", "responseBody", "responseBodyBase64", "responseHeader", "responseHeaders", "result",
        "note", "lines",
    }
)  # fmt: skip
"""By name, wherever they are: an answer that has one of these anew is veiled without anybody thinking of it."""

_drawn: ContextVar[bool] = ContextVar("veil", default=False)
"""Whether whoever is answered in this task may see no payloads."""


def draw(caller: Caller) -> None:
    """Hide payloads from this caller in what is answered from now on; show them to any other."""
    _drawn.set(caller.access is Access.METADATA)


def veiled(content: Any) -> Any:
    """The content as the caller may see it. Texts are left out; lists and objects that clients count on are empty."""
    return _without(content) if _drawn.get() else content


def _without(content: Any) -> Any:
    if isinstance(content, list):
        return [_without(item) for item in content]
    if not isinstance(content, dict):
        return content
    kept: dict[str, Any] = {}
    for name, value in content.items():
        if name not in _PAYLOADS:
            kept[name] = _without(value)
        elif isinstance(value, dict | list):
            kept[name] = type(value)()
    return kept
