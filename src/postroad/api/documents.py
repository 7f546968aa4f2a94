"""The OpenAPI description of what the door answers before any router sees it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI

from postroad.domain.publication import OPTION_NAMES

_TEXT = {"type": "string"}
_ERROR = {"application/json": {"schema": {"type": "object", "properties": {"error": _TEXT}, "required": ["error"]}}}

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": description, "content": _ERROR}
    for status, description in (
        (400, "Refused: the error names what is wrong"),
        (401, "No token, or an unknown one"),
        (403, "This token may not do this"),
        (404, "There is no such thing"),
        (412, "A quota is used up"),
        (413, "The body is too large"),
        (429, "Enough for now: the headers say until when"),
        (503, "Not now: try again after `Retry-After` seconds"),
    )
}
"""What is answered instead of a success, by status. Nothing was stored then, unless a 503 says that this is unknown."""


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The errors of a route, for its `responses`. Whoever needs a token is also counted."""
    counted = (429,) if 401 in statuses else ()
    return {status: ERRORS[status] for status in sorted({*statuses, *counted})}


def found(schema: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    """What a route answers with 200, for its `responses`."""
    return {200: {"description": "OK", "content": {"application/json": {"schema": schema}}}}


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


def describe(app: FastAPI) -> None:
    """Add the publish endpoint, and the ways to authenticate, to the generated document."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = generate()
            document["paths"]["/v2/publish/{destination}"] = {"post": _publish()}
            document.setdefault("components", {})["securitySchemes"] = {
                "bearer": {"type": "http", "scheme": "bearer"},
                "query": {"type": "apiKey", "in": "query", "name": "qstash_token"},
            }
            document["security"] = [{"bearer": []}, {"query": []}]
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # the documented way to extend the document


def _publish() -> dict[str, Any]:
    headers = [{"name": f"Upstash-{name}", "in": "header", "required": False, "schema": _TEXT} for name in OPTION_NAMES]
    return {
        "tags": ["Publish"],
        "summary": "Publish a message",
        "description": "Store a message; it is answered after its commit and delivered as soon as it is due. "
        "The destination stands in the path as it is, not percent-encoded. Headers that begin with "
        "`Upstash-Forward-` are delivered without that prefix. Every `Upstash-` header may also be a lower-case query "
        "parameter; the other query parameters belong to the destination.",
        "operationId": "publish",
        "parameters": [
            {"name": "destination", "in": "path", "required": True, "schema": _TEXT, "example": "https://example.com"},
            *headers,
        ],
        "requestBody": {"content": {"*/*": {"schema": {"type": "string", "format": "binary"}}}},
        "responses": {
            "201": {"description": "Stored", **_published(deduplicated=False)},
            "202": {"description": "A duplicate: the id is that of the first message", **_published(deduplicated=True)},
            **{str(status): error for status, error in errors(400, 401, 403, 404, 413, 503).items()},
        },
    }


def _published(*, deduplicated: bool) -> dict[str, Any]:
    properties: dict[str, Any] = {"messageId": _TEXT}
    if deduplicated:
        properties["deduplicated"] = {"type": "boolean"}
    schema = {"type": "object", "properties": properties, "required": ["messageId"]}
    return {"content": {"application/json": {"schema": schema}}}
