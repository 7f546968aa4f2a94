"""The shapes of what the API answers with, for the OpenAPI document."""

from __future__ import annotations

from typing import Any

from postroad.domain.log import State

_TEXTS = {"type": "object", "additionalProperties": {"type": "array", "items": {"type": "string"}}}
_TEXT, _INTEGER = {"type": "string"}, {"type": "integer"}

PUBLISHED: dict[str, Any] = {
    "type": "object",
    "properties": {
        "messageId": _TEXT,
        "url": {**_TEXT, "description": "of an endpoint of a URL group"},
        "deduplicated": {"type": "boolean", "description": "true where the id is that of an earlier message"},
    },
    "required": ["messageId"],
}
MESSAGE: dict[str, Any] = {
    "type": "object",
    "properties": {
        "messageId": _TEXT,
        "url": _TEXT,
        "method": _TEXT,
        "header": _TEXTS,
        "body": {**_TEXT, "description": "if it is text"},
        "bodyBase64": {**_TEXT, "description": "if it is not"},
        "maxRetries": _INTEGER,
        "notBefore": {**_INTEGER, "description": "Unix milliseconds"},
        "createdAt": {**_INTEGER, "description": "Unix milliseconds"},
        "callback": _TEXT,
        "callbackHeader": _TEXTS,
        "failureCallback": _TEXT,
        "failureCallbackHeader": _TEXTS,
        **dict.fromkeys(("topicName", "endpointName", "queueName", "scheduleId", "api", "callerIP", "label"), _TEXT),
        "labels": {"type": "array", "items": _TEXT},
        "flowControlKey": _TEXT,
        "parallelism": _INTEGER,
        "rate": _INTEGER,
        "period": {**_INTEGER, "description": "seconds"},
        "retryDelayExpression": _TEXT,
    },
    "required": ["messageId", "url", "method", "header", "maxRetries", "notBefore", "createdAt"],
}
"""The schema of a message."""

DEAD_LETTER: dict[str, Any] = {
    "type": "object",
    "properties": {
        **MESSAGE["properties"],
        "dlqId": _TEXT,
        "responseStatus": {**_INTEGER, "description": "0 when there was no response"},
        "responseHeader": _TEXTS,
        "responseBody": _TEXT,
        "responseBodyBase64": _TEXT,
    },
    "required": [*MESSAGE["required"], "dlqId", "responseStatus"],
}
"""The schema of a dead letter."""

EVENT: dict[str, Any] = {
    "type": "object",
    "properties": {
        **{
            name: schema for name, schema in MESSAGE["properties"].items() if not name.startswith(("body", "notBefore"))
        },
        "time": {**_INTEGER, "description": "Unix milliseconds"},
        "state": {
            "type": "string",
            "enum": [state.value for state in State],
        },
        "body": {**_TEXT, "description": "base64 of at most 64 KiB"},
        "error": _TEXT,
        "nextDeliveryTime": {**_INTEGER, "description": "Unix milliseconds"},
        "responseStatus": _INTEGER,
        "responseHeader": _TEXTS,
        "responseHeaders": _TEXTS,
        "responseBody": {**_TEXT, "description": "base64"},
        "timeout": {**_INTEGER, "description": "milliseconds"},
        "callbackHeaders": _TEXTS,
        "failureCallbackHeaders": _TEXTS,
        "retryDelayExpr": _TEXT,
    },
    "required": ["time", "messageId", "state", "url", "method", "maxRetries", "header"],
}
"""The schema of an event."""
