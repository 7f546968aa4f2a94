"""The console's own application: sign in, static files, and the pages, each behind the gate."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from jinja2 import Environment
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, RedirectResponse, Response
from starlette.routing import Route

from postroad.api.context import Context
from postroad.api.door import App, Receive, Scope, Send
from postroad.console.gate import COOKIE, Gate, NoConsoleError, is_own, set_cookie
from postroad.console.inside import ApiRefusedError, Inside
from postroad.console.pages import PAGES
from postroad.console.rendering import STATIC, environment
from postroad.console.runs import Runs
from postroad.console.visit import MOST_BYTES_OF_STRANGERS, THEMES, Form, GoneError, Visit, form_of, theme_of
from postroad.domain.tenant import Access
from postroad.errors import PostroadError, TooManyGuesses, Unauthenticated, Unavailable
from postroad.store.engine import TryAgain

Handler = Callable[..., Awaitable[Response]]

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"referrer-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-opener-policy", b"same-origin"),
)
_FOR_EVER = "public, max-age=31536000, immutable"
_KINDS = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
_FILES = {path.name for path in STATIC.iterdir()}

_log = logging.getLogger(__name__)


def console(context: Context, door: App, runs: Runs) -> App:
    """What answers under `/console`; `door` is the API that it works with, `runs` the bulk work that it begins."""
    reception = _Reception(context, Inside(door), runs)
    return Starlette(
        routes=reception.routes(),
        middleware=[Middleware(_Safe)],
        exception_handlers={
            PostroadError: reception.refusal,
            ClientDisconnect: reception.farewell,
            Exception: reception.defect,
        },
    )


class _Safe:
    """Says on every answer what a browser may do with it."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_safely(event: Any) -> None:
            if event["type"] == "http.response.start":
                names = {name for name, _ in event["headers"]}
                event["headers"] = [*event["headers"], *_HEADERS]
                if b"cache-control" not in names:
                    event["headers"].append((b"cache-control", b"no-store"))
            await send(event)

        await self._app(scope, receive, send_safely)


class _Reception:
    """Lets in who may come in, and answers for what goes wrong."""

    def __init__(self, context: Context, inside: Inside, runs: Runs) -> None:
        self._context = context
        self._inside = inside
        self._runs = runs
        self._gate = Gate(context)
        self._templates: Environment = environment()

    def routes(self) -> Sequence[Route]:
        """All of them; a page is found by its method and path."""
        return [
            Route("/", self._home),
            Route("/console/", self._home),
            Route("/console/login", self._login_page),
            Route("/console/login", self._login, methods=["POST"]),
            Route("/console/logout", self._logout, methods=["POST"]),
            Route("/console/theme", self._theme, methods=["POST"]),
            Route("/console/tenant", self._tenant, methods=["POST"]),
            Route("/console/static/{name}", _static),
            *(Route(page.path, self._behind(page.handler), methods=[page.method]) for page in PAGES),
            Route("/{path:path}", self._behind(_no_page), methods=["GET", "POST"]),
        ]

    async def _home(self, _: Request) -> Response:
        return RedirectResponse("/console", 303)

    def _behind(self, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        """The handler for whoever is signed in; others are asked to do so, and come back then."""

        async def answer(request: Request) -> Response:
            try:
                if request.method == "POST" and not is_own(request):
                    return self._alone("error.html", 403, title="Not from here", words=_NOT_OWN, request=request)
                session = await self._gate.session(request)
                if session is None:
                    return _to_login(request)
                form = await form_of(request) if request.method == "POST" else Form()
                visit = Visit(
                    request,
                    session,
                    form,
                    inside=self._inside,
                    context=self._context,
                    runs=self._runs,
                    templates=self._templates,
                )
                if session.caller.access is Access.ADMIN and not _is_of_administrators(request.url.path):
                    return visit.go("/console/tokens")
                return await self._visited(visit, handler)
            except PostroadError as error:
                title, status, words = _trouble(error)
                return self._alone("error.html", status, title=title, words=words, request=request)

        return answer

    async def _visited(self, visit: Visit, handler: Handler) -> Response:
        try:
            return await handler(visit, **visit.request.path_params)
        except PostroadError as error:
            title, status, words = _trouble(error)
            if visit.request.method == "POST" and status < 500:
                back = visit.form.text("back") or visit.request.url.path
                return visit.go(_inside_path(back), words, failed=True)
            return visit.page("trouble.html", http_status=status, title=title, words=words)

    async def _login_page(self, request: Request) -> Response:
        try:
            if await self._gate.session(request) is not None:
                return RedirectResponse("/console", 303)
        except PostroadError as error:
            return self._alone("login.html", 503, request=request, words=str(error), back="")
        return self._alone("login.html", 200, request=request, words="", back=request.query_params.get("back", ""))

    async def _login(self, request: Request) -> Response:
        form = await form_of(request, most_bytes=MOST_BYTES_OF_STRANGERS)
        back = form.text("back")
        if not is_own(request):
            return self._alone("error.html", 403, title="Not from here", words=_NOT_OWN, request=request)
        try:
            cookie = await self._gate.sign_in(request, form.text("secret"))
        except Unauthenticated:
            words, status = "Nobody has this token or password.", 401
        except TooManyGuesses as error:
            words, status = (
                f"Too many wrong ones came from your address: try again in {error.retry_after_seconds} s.",
                429,
            )
        except NoConsoleError as error:
            words, status = str(error), 403
        except PostroadError as error:
            _, status, words = _trouble(error)
        else:
            answer = RedirectResponse(_inside_path(back), 303)
            set_cookie(request, answer, COOKIE, cookie)
            return answer
        return self._alone("login.html", status, request=request, words=words, back=back)

    async def _logout(self, request: Request) -> Response:
        if not is_own(request):
            return self._alone("error.html", 403, title="Not from here", words=_NOT_OWN, request=request)
        await self._gate.sign_out(request)
        answer = RedirectResponse("/console/login", 303)
        answer.delete_cookie(COOKIE, path="/console")
        return answer

    async def _theme(self, request: Request) -> Response:
        form = await form_of(request, most_bytes=MOST_BYTES_OF_STRANGERS)
        answer = RedirectResponse(_inside_path(form.text("back")), 303)
        theme = form.text("theme")
        set_cookie(request, answer, "postroad_theme", theme if theme in THEMES else "")
        return answer

    async def _tenant(self, request: Request) -> Response:
        """The operator goes on with another tenant."""
        name = (await form_of(request, most_bytes=MOST_BYTES_OF_STRANGERS)).text("tenant")
        session = await self._gate.session(request)
        answer = RedirectResponse("/console", 303)
        if not is_own(request) or session is None or not session.is_operator:
            return self._alone("error.html", 403, title="Not from here", words=_NOT_OWN, request=request)
        if not await self._gate.turn_to(request, name):
            return self._alone("error.html", 404, title="No such tenant", words=f"no tenant {name}", request=request)
        set_cookie(request, answer, "postroad_tenant", name)
        return answer

    async def refusal(self, request: Request, error: Exception) -> Response:
        """Something that is nobody's defect went wrong where no page takes it: the database is away, for one."""
        assert isinstance(error, PostroadError)
        title, status, words = _trouble(error)
        return self._alone("error.html", status, title=title, words=words, request=request)

    async def farewell(self, _: Request, __: Exception) -> Response:
        """Whoever was sending a form has left."""
        return Response(status_code=400)

    async def defect(self, request: Request, _: Exception) -> Response:
        """The door logs the traceback when it gets the error after this answer."""
        words = "Something is wrong in this server; its log has the details."
        return self._alone("error.html", 500, title="A defect", words=words, request=request)

    def _alone(self, template: str, status: int, *, request: Request, **values: Any) -> Response:
        """A page for somebody who is not signed in."""
        html = self._templates.get_template(template).render(
            theme=theme_of(request), is_dev=self._context.dev, **values
        )
        return Response(html, status, media_type="text/html")


_OF_ADMINISTRATORS = ("/console/tokens", "/console/tenants")
_NOT_OWN = "This request did not come from a page of this console, so nothing was done."


def _is_of_administrators(path: str) -> bool:
    return any(path == place or path.startswith(f"{place}/") for place in _OF_ADMINISTRATORS)


async def _no_page(visit: Visit, path: str) -> Response:
    raise GoneError(f"the page /{path}")


async def _static(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in _FILES:
        return Response("no such file", 404, media_type="text/plain")
    kind = _KINDS[name.rpartition(".")[2]]
    return FileResponse(STATIC / name, media_type=kind, headers={"Cache-Control": _FOR_EVER})


def _to_login(request: Request) -> Response:
    if request.headers.get("hx-request") or request.headers.get("x-live"):
        return Response("signed out", 401, media_type="text/plain")
    back = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    location = request.url_for("_login_page").include_query_params(back=back)
    return RedirectResponse(f"{location.path}?{location.query}", 303)


def _inside_path(path: str) -> str:
    """Where to go next, if that is a page of the console."""
    is_ours = path.startswith("/console") and path[8:9] in ("", "/", "?") and "\\" not in path and path.isprintable()
    return path if is_ours else "/console"


def _trouble(error: PostroadError) -> tuple[str, int, str]:
    """What to say of an error: title, status and words."""
    words = str(error)
    match error:
        case GoneError():
            return "Not here", 404, words
        case ApiRefusedError():
            title = {403: "Not allowed", 404: "Not here"}.get(error.status, "That was refused")
            return title, error.status, words
        case Unavailable() | TryAgain():
            _log.info("a page of the console could not be shown: %s", error)
            return "Not now", 503, "The database does not answer. Nothing is lost: messages wait until it does."
        case _:
            return "That was refused", 400, words
