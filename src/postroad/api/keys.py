"""Signing keys: read and rotated."""

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from postroad.api.auth import Authentication
from postroad.api.context import Context, json
from postroad.api.documents import errors, found, parameters
from postroad.api.query import Query
from postroad.api.wire import keys_view
from postroad.domain.tenant import Caller

_KEYS = {
    "type": "object",
    "properties": {"current": {"type": "string"}, "next": {"type": "string"}},
    "required": ["current", "next"],
}


def router(context: Context, auth: Authentication) -> APIRouter:
    """/v2/keys, and the two paths under which clients rotate.

    A read-only token may not see keys: whoever holds them can forge deliveries.
    """
    routes = APIRouter(prefix="/v2", tags=["Signing keys"])

    @routes.get("/keys", summary="Get the signing keys", responses={**found(_KEYS), **errors(401, 403, 503)})
    async def get(caller: Annotated[Caller, Depends(auth.changer)]) -> Response:
        """The current key, which signs, and the next one."""
        return json(keys_view(await context.tenancy.keys(caller.tenant_id)))

    @routes.post(
        "/keys/rotate",
        summary="Rotate the signing keys",
        responses={**found(_KEYS), **errors(400, 401, 403, 409, 503)},
        openapi_extra=parameters(force="true: also when the last rotation was a moment ago"),
    )
    @routes.get("/keys/rotate", include_in_schema=False)
    @routes.api_route("/rotate", methods=["GET", "POST"], include_in_schema=False)
    async def rotate(request: Request, caller: Annotated[Caller, Depends(auth.changer)]) -> Response:
        """The next key becomes the current one. Receivers that hold both go on verifying; rotate again only when all
        of them have the new pair. Too soon after the last rotation it is refused, unless it is forced."""
        is_forced = Query.of(request).take_flag("force")
        guard = timedelta(0) if is_forced else context.key_rotation_guard
        return json(keys_view(await context.tenancy.rotate(caller.tenant_id, guard=guard)))

    return routes
