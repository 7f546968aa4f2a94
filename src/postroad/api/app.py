"""The FastAPI application, and the door in front of it."""

from __future__ import annotations

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from postroad import __version__
from postroad.api import (
    admin,
    bulk_actions,
    dev_clock,
    dlq,
    flow_control,
    health,
    keys,
    logs,
    messages,
    queues,
    schedule_actions,
    schedules,
    status,
    unfinished,
    url_groups,
)
from postroad.api.auth import Authentication
from postroad.api.context import Context, json
from postroad.api.docs_page import serve_docs
from postroad.api.door import Door
from postroad.api.openapi import describe
from postroad.api.problems import problem
from postroad.errors import PostroadError


def application(context: Context, *, docs: bool) -> Door:
    """Everything that answers HTTP."""
    app = FastAPI(
        title="Postroad",
        version=__version__,
        description="HTTP message delivery, compatible with QStash.",
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json" if docs else None,
        redirect_slashes=False,
    )
    auth = Authentication(context.tenancy, context.strangers, context.call_limit)
    for routes in (
        messages.router(context, auth),
        unfinished.router(context, auth),
        bulk_actions.router(context, auth),
        status.router(context, auth),
        dlq.router(context, auth),
        url_groups.router(context, auth),
        schedules.router(context, auth),
        schedule_actions.router(context, auth),
        logs.router(context, auth),
        queues.router(context, auth),
        flow_control.router(context, auth),
        keys.router(context, auth),
        admin.router(context, auth),
        health.router(context),
        dev_clock.router(context, auth),
    ):
        app.include_router(routes)
    app.add_exception_handler(PostroadError, _refused)
    app.add_exception_handler(HTTPException, _no_route)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(Exception, _defect)
    if docs:
        describe(app)
        serve_docs(app)
    return Door(app, context)


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, PostroadError)
    answer = problem(error)
    return Response(answer.body, answer.status, {name.decode(): value.decode() for name, value in answer.headers})


async def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.url.path
    text = {404: f"no such endpoint: {request.method} {path}", 405: f"{request.method} is not allowed here"}
    answer = json({"error": text.get(error.status_code, str(error.detail))}, error.status_code)
    answer.headers.update(error.headers or {})
    return answer


async def _gone(_: Request, __: Exception) -> Response:
    """Nobody reads this: the client left before its request was complete."""
    return Response(status_code=400)


async def _defect(_: Request, error: Exception) -> Response:
    """The door logs the traceback when it gets the error after this answer."""
    return json({"error": "internal error"}, 500)
