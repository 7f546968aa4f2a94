"""Pieces of the OpenAPI document that routes share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_TEXT = {"type": "string"}
_ERROR = {"application/json": {"schema": {"type": "object", "properties": {"error": _TEXT}, "required": ["error"]}}}

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": description, "content": _ERROR}
    for status, description in (
        (400, "Refused: the error names what is wrong"),
        (401, "No token, or an unknown one"),
        (403, "This token may not do this"),
        (404, "There is no such thing"),
        (409, "It is there already, or was done a moment ago"),
        (412, "A quota is used up"),
        (413, "The body is too large"),
        (415, "The body is compressed"),
        (429, "Enough for now: the headers say until when"),
        (503, "Not now: try again after `Retry-After` seconds"),
    )
}
"""What is answered instead of a success, by status. Nothing was stored then, unless a 503 says that this is unknown."""


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The errors of a route, for its `responses`. Whoever needs a token is also counted."""
    counted = (429,) if 401 in statuses else ()
    return {status: ERRORS[status] for status in sorted({*statuses, *counted})}


def found(schema: dict[str, Any], status: int = 200) -> dict[int | str, dict[str, Any]]:
    """What a route answers when all is well, for its `responses`."""
    return {status: {"description": "OK", "content": {"application/json": {"schema": schema}}}}


def page(**lists: dict[str, Any]) -> dict[str, Any]:
    """The schema of a page: lists of things, and a cursor where there is more."""
    properties: dict[str, Any] = {name: {"type": "array", "items": schema} for name, schema in lists.items()}
    return {"type": "object", "properties": {"cursor": _TEXT, **properties}, "required": list(lists)}


def json_body(properties: dict[str, Any], *, required: Sequence[str] = ()) -> dict[str, Any]:
    """A JSON object in the body of a request, for a route's `openapi_extra`."""
    schema = {"type": "object", "properties": properties, "required": list(required)}
    return {"requestBody": {"content": {"application/json": {"schema": schema}}, "required": bool(required)}}


def parameters(**descriptions: str) -> dict[str, Any]:
    """Query parameters, for a route's `openapi_extra`."""
    return {
        "parameters": [
            {"name": name, "in": "query", "required": False, "description": text, "schema": _TEXT}
            for name, text in descriptions.items()
        ]
    }
