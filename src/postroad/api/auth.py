"""Who asks: the token of a request, and what it may do."""

from __future__ import annotations

from typing import NoReturn
from urllib.parse import unquote_plus

from fastapi import Request

from postroad.api.strangers import Strangers
from postroad.api.veil import draw
from postroad.clock import Clock
from postroad.domain.tenant import Access, Caller, TenantId
from postroad.errors import Forbidden, TooManyCalls, Unauthenticated
from postroad.tenancy import Tenancy

SIGNED_IN = "postroad.caller"
"""In the scope of a request that the console makes, inside of this process: whoever is signed in there."""

TOKEN_PARAMETER = "qstash_token"  # noqa: S105  the name of a parameter, not a token


def bearer(authorization: str) -> str | None:
    """The token in an Authorization header."""
    scheme, _, token = authorization.partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token.strip() else None


def token_in_query(query_string: str) -> str | None:
    """The token among the query parameters, meant for webhooks and browsers."""
    for part in query_string.split("&"):
        name, _, value = part.partition("=")
        if name == TOKEN_PARAMETER and value:
            # A plus sign is a character of base64, so it stays one.
            return unquote_plus(value.replace("+", "%2B"))
    return None


def may_publish(caller: Caller) -> Caller:
    """The caller, if its token may publish."""
    return caller if caller.access in (Access.FULL, Access.PUBLISH_ONLY) else _forbid(caller)


def may_read(caller: Caller) -> Caller:
    """The caller, if its token may read; what it may not see is left out of the answer."""
    return caller if caller.access in (Access.FULL, Access.READ_ONLY, Access.METADATA) else _forbid(caller)


def may_change(caller: Caller) -> Caller:
    """The caller, if its token may do everything."""
    return caller if caller.access is Access.FULL else _forbid(caller)


def may_administer(caller: Caller) -> Caller:
    """The caller, if its token may manage tenants: then it may do nothing else."""
    return caller if caller.access is Access.ADMIN else _forbid(caller)


class CallLimit:
    """How many calls a tenant may make in a second of this process; 0 is any number. Publishes are not counted.

    What was set for a tenant counts, else `most`.
    """

    def __init__(self, most: int, clock: Clock) -> None:
        self._most = most
        self._clock = clock
        self._second = 0
        self._calls: dict[TenantId, int] = {}

    def count(self, caller: Caller) -> None:
        """Count a call. Raises `TooManyCalls`."""
        tenant_id, most = caller.tenant_id, caller.max_calls_per_second
        if most is None:
            most = self._most
        if not most:
            return
        second = int(self._clock.now_s())
        if second != self._second:
            self._second, self._calls = second, {}
        calls = self._calls.get(tenant_id, 0)
        if calls >= most:
            raise TooManyCalls(most, second + 1)
        self._calls[tenant_id] = calls + 1


class Authentication:
    """FastAPI dependencies that give the caller of a request, and count what callers ask for."""

    def __init__(self, tenancy: Tenancy, strangers: Strangers, call_limit: CallLimit) -> None:
        self._tenancy = tenancy
        self._strangers = strangers
        self._call_limit = call_limit

    async def caller(self, request: Request) -> Caller:
        """Whoever holds the token, or is signed in. Raises `Unauthenticated`, `TooManyGuesses` or `TooManyCalls`."""
        caller = request.scope.get(SIGNED_IN) or await self._holder(request)
        draw(caller)
        return caller

    async def _holder(self, request: Request) -> Caller:
        # Of several headers the last one counts, as at the door.
        token = bearer("".join(request.headers.getlist("authorization")[-1:])) or token_in_query(request.url.query)
        if token is None:
            raise Unauthenticated
        caller = self._tenancy.known_caller(token)
        if caller is None:
            caller = await self._strangers.caller(token, request.scope["client"], request.scope["headers"])
        self._call_limit.count(caller)
        return caller

    async def reader(self, request: Request) -> Caller:
        """A caller that may read."""
        return may_read(await self.caller(request))

    async def changer(self, request: Request) -> Caller:
        """A caller that may change things."""
        return may_change(await self.caller(request))

    async def administrator(self, request: Request) -> Caller:
        """A caller that may manage tenants."""
        return may_administer(await self.caller(request))


def _forbid(caller: Caller) -> NoReturn:
    raise Forbidden(caller.access.value)
