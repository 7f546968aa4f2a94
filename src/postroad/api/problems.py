"""Errors as HTTP: the one place that knows which status an error has."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import orjson

from postroad.errors import (
    AlreadyExists,
    BodyTooLarge,
    DatabaseUnavailable,
    Forbidden,
    NotFound,
    OnlyInDevelopment,
    Over,
    PostroadError,
    QuotaExceeded,
    RateExceeded,
    Refused,
    RotatedRecently,
    StillRunning,
    TooManyCalls,
    TooManyGuesses,
    TooManyMessages,
    Unauthenticated,
    Unavailable,
    UnsupportedCoding,
)
from postroad.store.engine import DataRefused, TryAgain

_log = logging.getLogger(__name__)

JSON = (b"content-type", b"application/json")


@dataclass(frozen=True, slots=True)
class Answer:
    """A response ready to be sent."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = (JSON,)


def problem(error: PostroadError) -> Answer:
    """QStash's error shape, `{"error": "<text>"}`, with the status that fits."""
    body = orjson.dumps({"error": str(error)})
    match error:
        case DataRefused():
            return Answer(400, orjson.dumps({"error": "the database refuses a value of this request"}))
        case TryAgain():
            return problem(DatabaseUnavailable())
        case StillRunning():
            return Answer(429, body, (JSON, (b"retry-after", str(error.retry_after_seconds).encode())))
        case Unavailable():
            return Answer(503, body, (JSON, (b"retry-after", str(error.retry_after_seconds).encode())))
        case Unauthenticated():
            return Answer(401, body, (JSON, (b"www-authenticate", b"Bearer")))
        case TooManyGuesses():
            return Answer(429, body, (JSON, (b"retry-after", str(error.retry_after_seconds).encode())))
        case TooManyCalls():
            # Never `RateLimit-Limit`, by which clients tell the two apart.
            return Answer(429, body, (JSON, *_rate("burst-ratelimit", error)))
        case TooManyMessages():
            return Answer(429, body, (JSON, *_rate("ratelimit", error)))
        case _:
            return Answer(_status(error), body)


def unexpected(error: Exception, request_id: bytes) -> Answer:
    """A defect of ours: logged here under the id of the request, and told without details."""
    _log.error("request %s failed inside the server", request_id.decode(), exc_info=error)
    return Answer(500, orjson.dumps({"error": "internal error"}))


def _rate(name: str, error: RateExceeded) -> list[tuple[bytes, bytes]]:
    values = (("limit", error.limit), ("remaining", error.remaining), ("reset", error.resets_at_s))
    return [(f"{name}-{field}".encode(), str(value).encode()) for field, value in values]


def _status(error: PostroadError) -> int:
    match error:
        case NotFound():
            return 404
        case Forbidden() | OnlyInDevelopment():
            return 403
        case AlreadyExists() | RotatedRecently() | Over():
            return 409
        case QuotaExceeded():
            return 412
        case BodyTooLarge():
            return 413
        case UnsupportedCoding():
            return 415
        case Refused():
            return 400
        case _:
            return 500
