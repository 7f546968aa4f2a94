"""The OpenAPI description of what the door answers before any router sees it."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from postroad.domain.publication import OPTION_NAMES

_TEXT = {"type": "string"}
_ERROR = {
    "description": "Refused; nothing was stored",
    "content": {
        "application/json": {"schema": {"type": "object", "properties": {"error": _TEXT}, "required": ["error"]}}
    },
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
            **dict.fromkeys(("400", "401", "403", "404", "413", "503"), _ERROR),
        },
    }


def _published(*, deduplicated: bool) -> dict[str, Any]:
    properties: dict[str, Any] = {"messageId": _TEXT}
    if deduplicated:
        properties["deduplicated"] = {"type": "boolean"}
    schema = {"type": "object", "properties": properties, "required": ["messageId"]}
    return {"content": {"application/json": {"schema": schema}}}
