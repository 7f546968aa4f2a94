"""The OpenAPI document: what FastAPI generates from the routes, and what the door answers before any of them."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from postroad.api.admin import PREFIX as ADMIN
from postroad.api.documents import ERRORS, errors
from postroad.api.schemas import PUBLISHED
from postroad.domain.publication import OPTION_NAMES

_TEXT = {"type": "string"}
_EVERYWHERE = (401, 403, 429, 503)
"""What every call that needs a token may be answered with."""

_SCHEDULED = {"type": "object", "properties": {"scheduleId": _TEXT}, "required": ["scheduleId"]}
_ITEM = {
    "type": "object",
    "properties": {
        "destination": _TEXT,
        "headers": {"type": "object", "additionalProperties": _TEXT},
        "body": {"type": ["string", "null"]},
        "queue": {"type": ["string", "null"]},
    },
    "required": ["destination"],
}
_DESTINATION = {
    "name": "destination",
    "in": "path",
    "required": True,
    "schema": _TEXT,
    "description": "A URL as it is, not percent-encoded; or the name of a URL group; or api/llm",
    "example": "https://example.com",
}
_QUEUE_NAME = {
    "name": "queueName",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,256}$"},
}
_HOW = (
    "Headers that begin with `Upstash-Forward-` are delivered without that prefix. Every `Upstash-` header may also be "
    "a lower-case query parameter; the other query parameters belong to the destination."
)


def describe(app: FastAPI) -> None:
    """Complete the generated document: the endpoints of the door, ways to authenticate, what every call may answer."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = generate()
            document["paths"] |= _door()
            components = document.setdefault("components", {})
            components.pop("schemas", None)  # Only the validation error, which no route answers with.
            components["securitySchemes"] = {
                "bearer": {"type": "http", "scheme": "bearer"},
                "query": {"type": "apiKey", "in": "query", "name": "qstash_token"},
                "admin": {"type": "http", "scheme": "bearer", "description": "`postroad token create --access admin`"},
            }
            document["security"] = [{"bearer": []}, {"query": []}]
            for path, operations in document["paths"].items():
                for operation in operations.values():
                    _complete(path, operation)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # the documented way to extend the document


def _complete(path: str, operation: dict[str, Any]) -> None:
    responses = operation["responses"]
    responses.pop("422", None)
    if path.endswith(("/liveness", "/readiness")):
        operation["security"] = []
        return
    if path.startswith(ADMIN):
        operation["security"] = [{"admin": []}]
    if "413" in responses:
        responses["415"] = ERRORS[415]
    for status in _EVERYWHERE:
        responses.setdefault(str(status), ERRORS[status])


def _door() -> dict[str, Any]:
    headers = [_header(name) for name in OPTION_NAMES]
    of_schedules = [_header("Cron", required=True), _header("Schedule-Id")]
    body = {"requestBody": {"content": {"*/*": {"schema": {"type": "string", "format": "binary"}}}}}
    return {
        "/v2/publish/{destination}": {
            "post": {
                "tags": ["Publish"],
                "operationId": "publish",
                "summary": "Publish a message",
                "description": "Store a message; it is answered after its commit and delivered as soon as it is due. A "
                f"URL group is answered with an array, one element for each endpoint. {_HOW} With `Upstash-Cron` a "
                "schedule is made instead.",
                "parameters": [_DESTINATION, *headers, _header("Cron"), _header("Schedule-Id")],
                **body,
                "responses": _answers(
                    {201: ("Stored", _one_or_many()), 202: ("A duplicate", _one_or_many())}, 400, 404, 412, 413
                ),
            }
        },
        "/v2/enqueue/{queueName}/{destination}": {
            "post": {
                "tags": ["Publish"],
                "operationId": "enqueue",
                "summary": "Enqueue a message",
                "description": "Publish through a queue, which is made by its first message. It is delivered when "
                f"those before it have ended, with their retries and callbacks; a delay is refused. {_HOW}",
                "parameters": [_QUEUE_NAME, _DESTINATION, *headers],
                **body,
                "responses": _answers(
                    {200: ("Stored", _one_or_many()), 201: ("A schedule was made", _SCHEDULED),
                     202: ("A duplicate", _one_or_many())},
                    400, 404, 412, 413,
                ),
            }
        },
        "/v2/batch": {
            "post": {
                "tags": ["Publish"],
                "operationId": "batch",
                "summary": "Publish several messages",
                "description": "All of them, or none if one is refused: the error says which. Answers come in the "
                "order of the items, those of a URL group as an array of their own.",
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": {"type": "array", "items": _ITEM}}},
                },
                "responses": _answers({200: ("Stored", {"type": "array"})}, 400, 404, 412, 413),
            }
        },
        "/v2/schedules/{destination}": {
            "post": {
                "tags": ["Schedules"],
                "operationId": "create_schedule",
                "summary": "Make or replace a schedule",
                "description": "At every tick of `Upstash-Cron`, what is given here is published, as by a publish of "
                "that moment. `Upstash-Schedule-Id` names the schedule; one of that name is replaced altogether.",
                "parameters": [_DESTINATION, *of_schedules, *headers],
                **body,
                "responses": _answers({201: ("Made", _SCHEDULED)}, 400, 404, 412, 413),
            }
        },
    }  # fmt: skip


def _header(name: str, *, required: bool = False) -> dict[str, Any]:
    return {"name": f"Upstash-{name}", "in": "header", "required": required, "schema": _TEXT}


def _one_or_many() -> dict[str, Any]:
    return {"anyOf": [PUBLISHED, {"type": "array", "items": PUBLISHED}, _SCHEDULED]}


def _answers(good: dict[int, tuple[str, dict[str, Any]]], *bad: int) -> dict[str, Any]:
    answers: dict[str, Any] = {
        str(status): {"description": text, "content": {"application/json": {"schema": schema}}}
        for status, (text, schema) in good.items()
    }
    return answers | {str(status): error for status, error in errors(*bad).items()}
