"""The admin API: tenants are made and changed, their tokens given out and revoked, their keys rotated.

Only admin tokens reach it, and they reach nothing else. None is made here: whoever got hold of one could make another
that outlives it.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import orjson
from fastapi import APIRouter, Depends, Request, Response

from postroad.api.auth import Authentication
from postroad.api.context import Context, json
from postroad.api.documents import errors, found, json_body, parameters
from postroad.api.query import Query, document_of
from postroad.api.wire import keys_view
from postroad.domain.callback import milliseconds
from postroad.domain.duration import parse_duration
from postroad.domain.tenant import Access, Tenant, TenantId, Token, parse_tenant_name
from postroad.domain.tenant_settings import SETTINGS, TenantSettings, Value
from postroad.domain.token import new_token
from postroad.errors import InvalidField, InvalidValue, NotFound, UnknownParameter
from postroad.store import tenants, tokens, usage
from postroad.store.engine import Connection
from postroad.tenancy import change_tenant, make_tenant

PREFIX = "/admin/v1"

_MOST_BODY_BYTES = 64 * 1024
_ACCESSES = tuple(access for access in Access if access is not Access.ADMIN)
_MOST_NAME_LENGTH = 100

_TEXT = {"type": "string"}
_INSTANT = {"type": ["integer", "null"], "description": "Unix milliseconds"}
_NAMES = {
    "failureCallback": "failure_callback",
    "parallelism": "parallelism",
    "destinations": "destinations",
    "maxCallsPerSecond": "max_calls_per_second",
    "maxMessagesPerDay": "max_messages_per_day",
}
_SETTINGS: dict[str, Any] = {
    "failureCallback": {"type": ["string", "null"], "description": "for messages that have none of their own"},
    "parallelism": {"type": ["integer", "null"], "description": "deliveries under way at a time, over all nodes"},
    "destinations": {"type": ["string", "null"], "description": "instead of POSTROAD_DESTINATIONS, in its grammar"},
    "maxCallsPerSecond": {
        "type": ["integer", "null"],
        "description": "instead of POSTROAD_MAX_CALLS_PER_SECOND; 0 is no limit",
    },
    "maxMessagesPerDay": {
        "type": ["integer", "null"],
        "description": "instead of POSTROAD_MAX_MESSAGES_PER_DAY; 0 is no limit",
    },
}
_TENANT = {
    "type": "object",
    "properties": {"name": _TEXT, "createdAt": {**_INSTANT, "type": "integer"}, **_SETTINGS},
    "required": ["name", "createdAt", *_SETTINGS],
}
_TOKEN: dict[str, Any] = {
    "type": "object",
    "properties": {
        "id": {"type": "integer"},
        "name": {**_TEXT, "description": "what the token is for"},
        "access": {**_TEXT, "enum": [*_ACCESSES]},
        "endsWith": {**_TEXT, "description": "its last four characters"},
        "createdAt": {**_INSTANT, "type": "integer"},
        "expiresAt": {**_INSTANT, "description": "Unix milliseconds; null is never"},
        "usedAt": {**_INSTANT, "description": "Unix milliseconds, a minute behind at most; null is never"},
    },
    "required": ["id", "name", "access", "endsWith", "createdAt", "expiresAt", "usedAt"],
}
_NEW_TOKEN = {
    **_TOKEN,
    "properties": {**_TOKEN["properties"], "token": {**_TEXT, "description": "shown this once, only its hash is kept"}},
    "required": [*_TOKEN["required"], "token"],
}
_KEYS = {"type": "object", "properties": {"current": _TEXT, "next": _TEXT}, "required": ["current", "next"]}
_DAY = {
    "type": "object",
    "properties": {"day": {**_TEXT, "format": "date"}, "messages": {"type": "integer"}},
    "required": ["day", "messages"],
}


def router(context: Context, auth: Authentication) -> APIRouter:
    """The routes under /admin/v1. Nobody enters until somebody has made an admin token on the command line."""
    routes = APIRouter(prefix=PREFIX, tags=["Administration"], dependencies=[Depends(auth.administrator)])
    _add_tenants(routes, context)
    _add_tokens(routes, context)

    @routes.post(
        "/tenants/{name}/keys/rotate",
        summary="Rotate a tenant's signing keys",
        responses={**found(_KEYS), **errors(400, 401, 403, 404, 409, 503)},
        openapi_extra=parameters(force="true: also when the last rotation was a moment ago"),
    )
    async def rotate(name: str, request: Request) -> Response:
        """The next key becomes the current one, as by `POST /v2/keys/rotate` of the tenant itself."""
        query = Query.of(request)
        guard = timedelta(0) if query.take_flag("force") else context.key_rotation_guard
        query.end()
        async with context.database.connection() as connection:
            tenant_id = await _existing(connection, name)
        return json(keys_view(await context.tenancy.rotate(tenant_id, guard=guard)))

    @routes.get(
        "/tenants/{name}/usage",
        summary="Count a tenant's messages",
        responses={**found({"type": "array", "items": _DAY}), **errors(401, 403, 404, 503)},
    )
    async def count(name: str) -> Response:
        """How many messages were published on each day of UTC, the latest first. Without a limit nothing is counted."""
        async with context.database.connection() as connection:
            days = await usage.days(connection, await _existing(connection, name))
        return json([{"day": day.isoformat(), "messages": messages} for day, messages in days])

    return routes


def _add_tenants(routes: APIRouter, context: Context) -> None:
    database = context.database

    @routes.get(
        "/tenants",
        summary="List tenants",
        responses={**found({"type": "array", "items": _TENANT}), **errors(401, 403, 503)},
    )
    async def list_() -> Response:
        """All tenants with what is set for them, by name."""
        async with database.connection() as connection:
            return json([_tenant_view(tenant) for tenant in await tenants.list_(connection)])

    @routes.post(
        "/tenants",
        summary="Make a tenant",
        status_code=201,
        responses={**found(_TENANT, 201), **errors(400, 401, 403, 409, 413, 503)},
        openapi_extra=json_body({"name": _TEXT, **_SETTINGS}, required=["name"]),
    )
    async def create(request: Request) -> Response:
        """A tenant with signing keys of its own and no token yet."""
        document = await _document(request)
        name = _text(document, "name")
        try:
            parse_tenant_name(name)
        except InvalidValue as error:
            raise InvalidField("name", error.value, error.expected) from None
        given = _settings(document)
        await _vet(context, given, given.get("destinations"))
        async with database.transaction() as connection:
            await make_tenant(connection, name, given)
        return json(_tenant_view(await _found(context, name)), 201)

    @routes.get("/tenants/{name}", summary="Get a tenant", responses={**found(_TENANT), **errors(401, 403, 404, 503)})
    async def get(name: str) -> Response:
        """A tenant with what is set for it; null is nothing, and leaves limits to the settings of the server."""
        return json(_tenant_view(await _found(context, name)))

    @routes.patch(
        "/tenants/{name}",
        summary="Change what is set for a tenant",
        responses={**found(_TENANT), **errors(400, 401, 403, 404, 413, 503)},
        openapi_extra=json_body(_SETTINGS),
    )
    async def change(name: str, request: Request) -> Response:
        """What is not given stays as it is, null takes a value away. Nodes go by it within five seconds."""
        given = _settings(await _document(request))
        tenant = await _found(context, name)
        await _vet(context, given, given.get("destinations", tenant.destinations))
        await change_tenant(database.connection, tenant.id, given)
        return json(_tenant_view(await _found(context, name)))


def _add_tokens(routes: APIRouter, context: Context) -> None:
    database = context.database

    @routes.get(
        "/tenants/{name}/tokens",
        summary="List a tenant's tokens",
        responses={**found({"type": "array", "items": _TOKEN}), **errors(401, 403, 404, 503)},
    )
    async def list_(name: str) -> Response:
        """What is known of them, the oldest first, expired ones as well. The tokens themselves are not kept."""
        async with database.connection() as connection:
            listed = await tokens.list_(connection, tenant_id=await _existing(connection, name))
        return json([_token_view(token) for token in listed])

    @routes.post(
        "/tenants/{name}/tokens",
        summary="Make a token for a tenant",
        status_code=201,
        responses={**found(_NEW_TOKEN, 201), **errors(400, 401, 403, 404, 413, 503)},
        openapi_extra=json_body(
            {
                "name": {**_TEXT, "description": "what it is for"},
                "access": {**_TEXT, "enum": [*_ACCESSES], "default": "full"},
                "expiresIn": {
                    **_TEXT,
                    "description": "a duration; without it the token never expires",
                    "example": "90d",
                },
            },
            required=["name"],
        ),
    )
    async def create(name: str, request: Request) -> Response:
        """The answer is the only place where the token can be seen."""
        document = await _document(request)
        purpose = _text(document, "name")
        if not purpose.isprintable() or not 1 <= len(purpose) <= _MOST_NAME_LENGTH:
            raise InvalidField("name", purpose, f"1 to {_MOST_NAME_LENGTH} printable characters")
        access, valid_for = _access(document), _lifetime(document)
        _end(document)
        token = new_token(access)
        async with database.transaction() as connection:
            tenant_id = await _existing(connection, name)
            token_id = await tokens.add(connection, tenant_id, token, name=purpose, access=access, valid_for=valid_for)
            [made] = await tokens.list_(connection, token_id=token_id)
        return json({**_token_view(made), "token": token}, 201)

    @routes.delete(
        "/tenants/{name}/tokens/{token_id}",
        summary="Revoke a token",
        status_code=204,
        response_class=Response,
        responses=errors(401, 403, 404, 503),
    )
    async def revoke(name: str, token_id: str) -> Response:
        """It is not accepted any more, by this process at once, by others within five seconds."""
        async with database.transaction() as connection:
            tenant_id = await _existing(connection, name)
            digest = await tokens.revoke(connection, _number(token_id), tenant_id=tenant_id)
            if digest is None:
                raise NotFound("token", token_id)
        context.tenancy.revoked(digest)
        return Response(status_code=204)


async def _existing(connection: Connection, name: str) -> TenantId:
    tenant_id = await tenants.find(connection, name) if name.isprintable() else None
    if tenant_id is None:
        raise NotFound("tenant", name)
    return tenant_id


async def _found(context: Context, name: str) -> Tenant:
    async with context.database.connection() as connection:
        await _existing(connection, name)
        [tenant] = await tenants.list_(connection, name)
    return tenant


async def _vet(context: Context, given: TenantSettings, policy: Value | None) -> None:
    """Refuse a failure callback that no attempt would be made to. Raises `InvalidDestination`."""
    if isinstance(url := given.get("failure_callback"), str):
        allowed = None if policy is None else str(policy)
        await context.publisher.vet_url(url, field="failureCallback", policy=allowed)


def _tenant_view(tenant: Tenant) -> dict[str, Any]:
    values = {name: getattr(tenant, field) for name, field in _NAMES.items()}
    return {"name": tenant.name, "createdAt": milliseconds(tenant.created_at), **values}


def _token_view(token: Token) -> dict[str, Any]:
    def at(instant: datetime | None) -> int | None:
        return None if instant is None else milliseconds(instant)

    return {
        "id": token.id,
        "name": token.name,
        "access": token.access,
        "endsWith": token.last_four,
        "createdAt": at(token.created_at),
        "expiresAt": at(token.expires_at),
        "usedAt": at(token.used_at),
    }


async def _document(request: Request) -> dict[str, Any]:
    return await document_of(request, most_bytes=_MOST_BODY_BYTES) or {}


def _settings(document: dict[str, Any]) -> TenantSettings:
    """What is to be set, by the names of the store. Raises `InvalidField` or `UnknownParameter`."""
    given: dict[str, Value | None] = {}
    for name, field in _NAMES.items():
        if name not in document:
            continue
        value = document.pop(name)
        kind = str if "string" in _SETTINGS[name]["type"] else int
        if value is None:
            given[field] = None
        elif type(value) is not kind:
            raise InvalidField(name, _json(value), "a string or null" if kind is str else "an integer or null")
        else:
            try:
                given[field] = SETTINGS[field](str(value))
            except InvalidValue as error:
                raise InvalidField(name, error.value, error.expected) from None
    _end(document)
    return given


def _access(document: dict[str, Any]) -> Access:
    text = _text(document, "access", default=Access.FULL)
    if text not in _ACCESSES:
        raise InvalidField("access", text, f"one of {', '.join(_ACCESSES)}")
    return Access(text)


def _lifetime(document: dict[str, Any]) -> timedelta | None:
    if document.get("expiresIn") is None:
        document.pop("expiresIn", None)
        return None
    text = _text(document, "expiresIn")
    try:
        lifetime = parse_duration(text, bare_seconds=True)
    except InvalidValue as error:
        raise InvalidField("expiresIn", error.value, error.expected) from None
    if not lifetime:
        raise InvalidField("expiresIn", text, "a duration above zero")
    return lifetime


def _text(document: dict[str, Any], name: str, *, default: str = "") -> str:
    value = document.pop(name, default)
    if not isinstance(value, str):
        raise InvalidField(name, _json(value), "a string")
    return value


def _number(text: str) -> int:
    """The id of a token in a path. One that cannot exist is not found, as any other that does not."""
    if not (text.isascii() and text.isdigit()) or len(text) > 18:
        raise NotFound("token", text)
    return int(text)


def _end(document: Mapping[str, Any]) -> None:
    """Refuse whatever was not understood."""
    for name in document:
        raise UnknownParameter(name)


def _json(value: object) -> str:
    return orjson.dumps(value).decode()[:100]
