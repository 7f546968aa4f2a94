"""URL groups, "topics" on the wire: made, read, changed and deleted."""

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Request, Response

from postroad.api.auth import Authentication
from postroad.api.context import Context, json
from postroad.api.documents import errors
from postroad.api.query import Query, document_of
from postroad.domain.callback import milliseconds
from postroad.domain.headers import header_map
from postroad.domain.tenant import Caller
from postroad.domain.url_group import (
    MAX_NAME_LENGTH,
    Endpoint,
    Reference,
    UrlGroup,
    is_group_name,
    parse_default_headers,
    parse_endpoint,
    parse_group_name,
)
from postroad.errors import InvalidField, InvalidValue, NotFound, QuotaExceeded, UnknownParameter, shown
from postroad.publish import callback_urls
from postroad.store import url_groups

MOST_HEADER_BYTES = 64 * 1024
"""Default headers may be as long as the head of a publish."""


def router(context: Context, auth: Authentication) -> APIRouter:
    """The routes under /v2/topics."""
    routes = APIRouter(prefix="/v2/topics", tags=["URL groups"])
    database = context.database

    @routes.get("", summary="List URL groups", responses={**_found(_GROUPS), **errors(400, 401, 403, 503)})
    async def list_(request: Request, caller: Annotated[Caller, Depends(auth.reader)]) -> Response:
        """All URL groups, the oldest first."""
        Query.of(request).end()
        async with database.reading(caller.tenant_id) as connection:
            groups = await url_groups.list_(connection, caller.tenant_id)
        return json([_view(group) for group in groups])

    @routes.get("/{name}", summary="Get a URL group", responses={**_found(_GROUP), **errors(401, 403, 404, 503)})
    async def get(name: str, caller: Annotated[Caller, Depends(auth.reader)]) -> Response:
        """A URL group with its endpoints in their order, and its default headers if it has any."""
        async with database.reading(caller.tenant_id) as connection:
            found = await url_groups.find(connection, caller.tenant_id, [_known(name)])
        if name not in found:
            raise NotFound("topic", name)
        return json(_view(found[name]))

    @routes.post(
        "/{name}/endpoints",
        summary="Add endpoints to a URL group",
        response_class=Response,
        responses=errors(400, 401, 403, 412, 413, 503),
        openapi_extra=_body({"endpoints": _GIVEN}),
    )
    async def add(name: str, request: Request, caller: Annotated[Caller, Depends(auth.changer)]) -> Response:
        """Add or update endpoints; the URL group is made when there is none.

        A URL that the group has already takes the given name, and a name that it has already takes the given URL.
        """
        try:
            parse_group_name(name)
        except InvalidValue as error:
            raise InvalidField("topic name", error.value, error.expected) from None
        given = _given(await document_of(request), most=context.limits.max_endpoints)
        urls = [(one.url, f"endpoints[{number}].url") for number, one in enumerate(given)]
        await _vet(context, caller, urls)
        async with database.changing(caller.tenant_id) as connection:
            await url_groups.upsert(connection, caller.tenant_id, name, given, limits=context.limits)
        return Response()

    @routes.delete(
        "/{name}/endpoints",
        summary="Remove endpoints from a URL group",
        response_class=Response,
        responses=errors(400, 401, 403, 404, 413, 503),
        openapi_extra=_body({"endpoints": _REMOVED}),
    )
    async def remove(name: str, request: Request, caller: Annotated[Caller, Depends(auth.changer)]) -> Response:
        """Remove endpoints by URL or by name; with both, the endpoint that has both. What is not there is passed over.

        A URL group without endpoints is deleted.
        """
        removed = _removed(await document_of(request))
        async with database.changing(caller.tenant_id) as connection:
            await url_groups.remove(connection, caller.tenant_id, _known(name), removed)
        return Response()

    @routes.patch(
        "/{name}",
        summary="Set the default headers of a URL group",
        response_class=Response,
        responses=errors(400, 401, 403, 404, 413, 503),
        openapi_extra=_body({"headers": _HEADERS}),
    )
    async def change(name: str, request: Request, caller: Annotated[Caller, Depends(auth.changer)]) -> Response:
        """Set headers that apply to every publish to the URL group, where it does not say otherwise.

        They take the place of all that were set before. A header without a value is left out.
        """
        headers = _headers(await document_of(request, most_bytes=MOST_HEADER_BYTES))
        fields, options = parse_default_headers(headers, limits=context.limits, now_s=context.clock.now_s())
        await _vet(context, caller, list(callback_urls(options)))
        async with database.changing(caller.tenant_id) as connection:
            if not await url_groups.set_fields(connection, caller.tenant_id, _known(name), fields):
                raise NotFound("topic", name)
        return Response()

    @routes.delete("/{name}", summary="Delete a URL group", response_class=Response, responses=errors(401, 403, 503))
    async def delete(name: str, caller: Annotated[Caller, Depends(auth.changer)]) -> Response:
        """Delete a URL group, if there is one. Messages that were published to it are delivered."""
        if is_group_name(name):
            async with database.changing(caller.tenant_id) as connection:
                await url_groups.delete(connection, caller.tenant_id, name)
        return Response()

    return routes


def _known(name: str) -> str:
    """The name in a path. One that no group may have is not found, as any other that does not exist."""
    if not is_group_name(name):
        raise NotFound("topic", name)
    return name


def _given(document: dict[str, Any] | None, *, most: int) -> list[Endpoint]:
    """The endpoints of a body. Raises `QuotaExceeded` before it looks at more of them than a group may have."""
    items = _items(document)
    if len(items) > most:
        raise QuotaExceeded("maxEndpoints", most)
    return [
        parse_endpoint(_text(item.get("url"), f"{path}.url"), _text(item.get("name"), f"{path}.name"), path=path)
        for path, item in items
    ]


def _removed(document: dict[str, Any] | None) -> list[Reference]:
    """The references of a body. An empty text names nothing."""
    removed = []
    for path, item in _items(document):
        url, name = _text(item.get("url"), f"{path}.url"), _text(item.get("name"), f"{path}.name")
        if not url and not name:
            raise InvalidField(path, _text_of(item), "a url or a name")
        removed.append(Reference(url or None, name or None))
    return removed


def _items(document: dict[str, Any] | None) -> list[tuple[str, dict[str, Any]]]:
    """The objects in the list of endpoints, each with the path to it."""
    listed = _only_field(document, "endpoints")
    if not isinstance(listed, list) or not listed:
        raise InvalidField("endpoints", _text_of(listed), "a list of one endpoint or more")
    items = [(f"endpoints[{number}]", item) for number, item in enumerate(listed)]
    for path, item in items:
        if not isinstance(item, dict):
            raise InvalidField(path, _text_of(item), "an object with a url")
        for field in item:
            if field not in ("url", "name"):
                raise UnknownParameter(f"{path}.{field}")
    return items


def _headers(document: dict[str, Any] | None) -> list[tuple[str, str]]:
    """The headers of a body, each once for every value."""
    headers = _only_field(document, "headers")
    if not isinstance(headers, dict):
        raise InvalidField("headers", _text_of(headers), "an object of names and values")
    pairs = []
    for name, value in headers.items():
        values = value if isinstance(value, list) else [] if value is None else [value]
        if not all(isinstance(one, str) for one in values):
            raise InvalidField(f"headers.{shown(name, quote='')}", _text_of(value), "a string or a list of strings")
        pairs += [(name, one) for one in values]
    return pairs


def _only_field(document: dict[str, Any] | None, name: str) -> Any:
    """The field that a body consists of."""
    if document is None:
        raise InvalidField("body", "", f"a JSON object with {name}")
    for field in document:
        if field != name:
            raise UnknownParameter(field)
    return document.get(name)


def _text(value: Any, path: str) -> str:
    """A text that may be missing, which is the same as empty."""
    if value is not None and not isinstance(value, str):
        raise InvalidField(path, _text_of(value), "a string")
    return value or ""


def _text_of(value: Any) -> str:
    return "" if value is None else orjson.dumps(value).decode()


async def _vet(context: Context, caller: Caller, urls: Sequence[tuple[str, str]]) -> None:
    """Refuse URLs, given with their fields, that no message may go to; all names are looked up at the same time."""
    vetted = await asyncio.gather(
        *(context.publisher.vet_url(url, field=field, policy=caller.destinations) for url, field in urls),
        return_exceptions=True,
    )
    for refusal in vetted:
        if isinstance(refusal, BaseException):
            raise refusal


def _view(group: UrlGroup) -> dict[str, Any]:
    view: dict[str, Any] = {
        "name": group.name,
        "createdAt": milliseconds(group.created_at),
        "updatedAt": milliseconds(group.updated_at),
        "endpoints": [
            {"url": one.url} if one.name is None else {"name": one.name, "url": one.url} for one in group.endpoints
        ],
    }
    if group.fields:
        view["headers"] = header_map(group.fields)
    return view


def _object(properties: dict[str, Any], *, required: Sequence[str]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def _body(properties: dict[str, Any]) -> dict[str, Any]:
    schema = _object(properties, required=list(properties))
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _found(schema: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    return {200: {"description": "Found", "content": {"application/json": {"schema": schema}}}}


_TEXT = {"type": "string"}
_URL = {"type": "string", "format": "uri", "example": "https://example.com/webhook"}
_NAME = {"type": "string", "maxLength": MAX_NAME_LENGTH}
_GIVEN = {"type": "array", "minItems": 1, "items": _object({"url": _URL, "name": _NAME}, required=["url"])}
_REMOVED = {
    "type": "array",
    "minItems": 1,
    "items": {
        **_object({"url": _TEXT, "name": _TEXT}, required=[]),
        "anyOf": [{"required": ["url"]}, {"required": ["name"]}],
    },
}
_HEADERS = {
    "type": "object",
    "additionalProperties": {"anyOf": [_TEXT, {"type": "array", "items": _TEXT}, {"type": "null"}]},
    "example": {"Upstash-Header-Forward": ["true"], "Upstash-Retries": "3"},
}
_GROUP = _object(
    {
        "name": _NAME,
        "createdAt": {"type": "integer", "description": "Unix time in milliseconds"},
        "updatedAt": {"type": "integer", "description": "Unix time in milliseconds"},
        "endpoints": {"type": "array", "items": _object({"name": _NAME, "url": _URL}, required=["url"])},
        "headers": {"type": "object", "additionalProperties": {"type": "array", "items": _TEXT}},
    },
    required=["name", "createdAt", "updatedAt", "endpoints"],
)
_GROUPS = {"type": "array", "items": _GROUP}
