"""The clock of `postroad dev`, which can be moved, so that nobody has to wait for a delay or a schedule."""

from datetime import timedelta
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Request, Response

from postroad.api.auth import Authentication
from postroad.api.context import Context, json
from postroad.api.documents import errors, found, json_body
from postroad.api.query import document_of
from postroad.domain.duration import format_duration, parse_duration
from postroad.domain.tenant import Caller
from postroad.errors import InvalidField, InvalidValue, OnlyInDevelopment, UnknownParameter
from postroad.store import time_travel

FURTHEST = timedelta(days=366)

_BY = {"type": "string", "description": "a duration such as 30s or 1d10h, or a number of seconds", "example": "1d"}
_ADVANCED = {"type": "object", "required": ["advanced"], "properties": {"advanced": {"type": "string"}}}


def router(context: Context, auth: Authentication) -> APIRouter:
    """/dev/clock."""
    routes = APIRouter(prefix="/dev/clock", tags=["Development"], include_in_schema=context.dev)

    @routes.post(
        "/advance",
        summary="Let time pass",
        responses={**found(_ADVANCED), **errors(400, 401, 403, 413, 503)},
        openapi_extra=json_body({"by": _BY}, required=["by"]),
    )
    async def advance(request: Request, _: Annotated[Caller, Depends(auth.changer)]) -> Response:
        """Bring nearer what lies ahead, of all tenants: delays, retries, ticks, ends of periods and of deduplication.

        What has happened keeps its times, and the clock itself goes on as before. Only under `postroad dev`.
        """
        if not context.dev:
            raise OnlyInDevelopment
        delta = _duration(await document_of(request) or {})
        async with context.database.transaction() as connection:
            await time_travel.advance(connection, delta)
        context.wake()
        return json({"advanced": format_duration(delta)})

    return routes


def _duration(document: dict[str, Any]) -> timedelta:
    """The duration in the body of a request. Raises `InvalidField` or `UnknownParameter`."""
    by = document.pop("by", None)
    for name in document:
        raise UnknownParameter(name)
    text = by if isinstance(by, str) else orjson.dumps(by).decode() if by is not None else ""
    try:
        delta = parse_duration(text, bare_seconds=True)
    except InvalidValue as error:
        raise InvalidField("by", error.value, error.expected) from None
    if not timedelta(0) < delta <= FURTHEST:
        raise InvalidField("by", text, f"a duration above zero of at most {FURTHEST.days}d")
    return delta
