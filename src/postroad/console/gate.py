"""Who comes in: the cookie of a session, and which requests may change anything."""

from __future__ import annotations

import asyncio
import os
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from datetime import timedelta
from hashlib import sha256
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response

from postroad.api.context import Context
from postroad.console.passwords import is_password
from postroad.domain.tenant import Access, Caller, token_hash
from postroad.errors import PostroadError, Unauthenticated
from postroad.store import sessions, tenants
from postroad.store.sessions import Session

COOKIE = "postroad_session"
LASTS = timedelta(days=14)
READING = (Access.FULL, Access.READ_ONLY, Access.METADATA, Access.ADMIN)


_GUESSES_AT_ONCE = 2
"""Each takes 32 MiB for a moment."""

_MOST_REMEMBERED = 1_000
_FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip", "via")


class NoConsoleError(PostroadError):
    """The token is right, and may not read."""


class Gate:
    """Finds and makes sessions."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._guesses = asyncio.Semaphore(_GUESSES_AT_ONCE)
        self._wrong: dict[bytes, None] = {}

    async def session(self, request: Request) -> Session | None:
        """Who is signed in; under `postroad dev` whoever sits at this machine is."""
        database = self._context.database
        cookie = request.cookies.get(COOKIE)
        if cookie:
            async with database.connection() as connection:
                if (found := await sessions.find(connection, _digest(cookie))) is not None:
                    return found
        if self._context.dev and _is_here(request):
            async with database.connection() as connection:
                return await sessions.of_operator(connection, request.cookies.get("postroad_tenant") or "default")
        return None

    async def sign_in(self, request: Request, secret: str) -> str:
        """Begin a session with a token or the operator's password, and give its cookie.

        Raises `Unauthenticated`, `NoConsoleError`, and `TooManyGuesses` as the API does.
        """
        context, secret = self._context, secret.strip()
        strangers = context.strangers
        digest, tenant_id = None, None
        async with context.database.connection() as connection:
            stored = await sessions.password(connection)
        is_operator = False
        if stored is not None and not secret.startswith(("prt_", "pra_")):
            # As a guess among others: who has made too many is not even told whether this one is right.
            async with self._guesses:
                strangers.refuse_if_locked(request.scope["client"], request.scope["headers"])
                is_operator = await self._is_password(secret, stored)
        if is_operator:
            async with context.database.connection() as connection:
                tenant_id = await tenants.find(connection, "default")
        else:
            caller = await strangers.caller(secret, request.scope["client"], request.scope["headers"])
            _may_come_in(caller)
            digest = token_hash(secret)
        cookie = urlsafe_b64encode(os.urandom(32)).decode().rstrip("=")
        async with context.database.connection() as connection:
            if not await sessions.begin(
                connection, _digest(cookie), token_hash=digest, tenant_id=tenant_id, lasts=LASTS
            ):
                raise Unauthenticated
        return cookie

    async def _is_password(self, secret: str, stored: str) -> bool:
        """Whether this is the password; what was wrong once is not computed again.

        The throttle takes the same guess for one mistake however often it comes, and each would cost as the first did.
        """
        guess = sha256(f"{stored}\n{secret}".encode()).digest()
        if guess in self._wrong:
            return False
        if await is_password(secret, stored):
            return True
        if len(self._wrong) >= _MOST_REMEMBERED:
            del self._wrong[next(iter(self._wrong))]
        self._wrong[guess] = None
        return False

    async def sign_out(self, request: Request) -> None:
        """End the session, here and for whoever else has its cookie."""
        if cookie := request.cookies.get(COOKIE):
            async with self._context.database.connection() as connection:
                await sessions.end(connection, _digest(cookie))

    async def turn_to(self, request: Request, tenant: str) -> bool:
        """Let the operator look at another tenant."""
        async with self._context.database.connection() as connection:
            if cookie := request.cookies.get(COOKIE):
                return await sessions.turn_to(connection, _digest(cookie), tenant)
            return await tenants.find(connection, tenant) is not None


def set_cookie(request: Request, answer: Response, name: str, value: str, *, lasts: timedelta | None = LASTS) -> None:
    """A cookie that scripts cannot read and that no other site's requests bring."""
    answer.set_cookie(
        name,
        value,
        max_age=None if lasts is None else int(lasts.total_seconds()),
        path="/console",
        httponly=True,
        samesite="lax",
        secure=request.url.scheme == "https" or _is_https_outside(request),
    )


def is_own(request: Request) -> bool:
    """Whether a request that changes something was made by a page of this server.

    Browsers say so in `Sec-Fetch-Site`; where they do not (plain HTTP, old ones), the origin must be that of the host.
    """
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site in ("same-origin", "none")
    origin = request.headers.get("origin")
    return origin is not None and urlsplit(origin).netloc == request.headers.get("host")


def _may_come_in(caller: Caller) -> None:
    if caller.access not in READING:
        raise NoConsoleError(
            f"this token is {caller.access} and may not look at anything: use one that is full or read-only"
        )


def _digest(cookie: str) -> bytes:
    return sha256(cookie.encode()).digest()


def _is_https_outside(request: Request) -> bool:
    """Whether a proxy says that the browser speaks HTTPS. Who lies about that harms only itself."""
    return request.headers.get("x-forwarded-proto", "").split(",")[0].strip() == "https"


def _is_here(request: Request) -> bool:
    """Whether this comes from this machine, and by a name that no other site can take for its own.

    What a proxy or a tunnel on this machine passes on may come from anywhere, whatever it calls the host.
    """
    if any(name in request.headers for name in _FORWARDED):
        return False
    client = request.scope["client"]
    return client is not None and _is_loopback(client[0]) and _is_loopback(_hostname(request.headers))


def _hostname(headers: Mapping[str, str]) -> str:
    try:
        return urlsplit(f"//{headers.get('host', '')}").hostname or ""
    except ValueError:
        return ""


def _is_loopback(name: str) -> bool:
    if name == "localhost":
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False
