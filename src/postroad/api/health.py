"""Whether the process lives, and whether it should get traffic. Neither needs a token."""

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse

from postroad.api.context import Context, json


def router(context: Context) -> APIRouter:
    """/v2/liveness and /v2/readiness."""
    routes = APIRouter(prefix="/v2", tags=["Health"])

    @routes.get("/liveness", summary="Is the process alive?", response_class=PlainTextResponse)
    async def liveness() -> str:
        """`OK`, without looking at anything."""
        return "OK"

    @routes.get(
        "/readiness",
        summary="Should traffic come here?",
        responses={503: {"description": "No, for these reasons"}},
    )
    async def readiness() -> Response:
        """200 when the database answers, its schema fits and the dispatcher is alive; else 503 with the reasons."""
        reasons = await context.unready()
        if reasons:
            return json({"ready": False, "reasons": reasons}, 503)
        return json({"ready": True})

    return routes
