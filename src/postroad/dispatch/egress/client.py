"""Sending requests to destinations: `send` gives a reply whatever happens."""

from __future__ import annotations

import asyncio
import ssl

from postroad.dispatch.egress.connection import Connection, Unanswered
from postroad.dispatch.egress.deadlines import Deadlines
from postroad.dispatch.egress.dial import Detour, dial
from postroad.dispatch.egress.pool import Place, Pool
from postroad.dispatch.egress.request import OutgoingRequest, UnwritableError, head
from postroad.dispatch.egress.response import ResponseLimits
from postroad.dispatch.egress.tls import tls_context
from postroad.domain.network import parse_policy
from postroad.domain.proxy import Proxy
from postroad.domain.reply import NoResponse, Reply
from postroad.resolver import Addresses, Refusal, Resolver, Unresolved


class Egress:
    """An HTTP/1.1 client with kept-alive connections. Belongs to one event loop.

    It follows no redirects, keeps no cookies, and dials only addresses that its resolver has allowed. It goes through a
    proxy if it is given one, and never because the environment names one.
    """

    def __init__(
        self,
        resolver: Resolver,
        *,
        max_response_bytes: int = 1024 * 1024,
        max_header_bytes: int = 64 * 1024,
        max_headers: int = 100,
        connect_timeout: float = 5.0,
        max_idle_per_destination: int = 256,
        max_idle: int = 1024,
        idle_timeout: float = 30.0,
        ssl_context: ssl.SSLContext | None = None,
        proxy: Proxy | None = None,
    ) -> None:
        self._resolver = resolver
        self._proxy = proxy
        # The operator's own choice may be anywhere, so it is not under the policy for destinations.
        self._proxy_resolver = Resolver(parse_policy("any"))
        self._limits = ResponseLimits(max_response_bytes, max_header_bytes, max_headers)
        self._connect_timeout = connect_timeout
        self._pool = Pool(
            max_idle_per_destination=max_idle_per_destination, max_idle=max_idle, idle_timeout=idle_timeout
        )
        self._deadlines: Deadlines[asyncio.Future[Reply | Unanswered]] = Deadlines(_expire)
        self._ssl_context = ssl_context
        self._closed = False

    async def send(self, request: OutgoingRequest, policy: str | None = None, *, tenant_id: int = 0) -> Reply:
        """What the destination answered, or why it did not. Raises nothing but CancelledError.

        `policy` says where the tenant's requests may go; None is the node's policy. A connection is used again only
        under the policy that allowed it, and for the same tenant: a destination that takes the body of a request for
        another request would have one tenant's answer come to the other.

        A request that met a connection which the destination had closed in the gap, and which brought no byte of an
        answer, is sent once more on a fresh connection. The first copy may have been read all the same; that is within
        at-least-once, and the message's id is the same.
        """
        try:
            request_head = head(request)
        except UnwritableError as error:
            return NoResponse(str(error))
        url = request.url
        deadline = asyncio.get_running_loop().time() + request.timeout
        place = (url.scheme, url.host, url.port, policy, tenant_id)
        connection = self._pool.take(place)
        while True:
            if connection is None:
                dialled = await self._connection(request, place, policy, deadline)
                if isinstance(dialled, NoResponse):
                    return dialled
                connection = dialled
            answered = connection.exchange(request.method, request_head, request.body)
            slot = self._deadlines.slot(deadline)
            slot.add(answered)
            try:
                reply = await answered
            except asyncio.CancelledError:
                connection.abandon(answered)
                raise
            finally:
                slot.discard(answered)
            if reply is Unanswered.STALE:
                connection = None
            elif reply is Unanswered.EXPIRED:
                connection.abandon(answered)
                return _timed_out(request)
            else:
                return reply

    async def close(self) -> None:
        """Close all connections; whoever still waits for an answer is told that none came."""
        self._closed = True
        await self._pool.close()
        self._deadlines.stop()

    async def _connection(
        self, request: OutgoingRequest, place: Place, policy: str | None, deadline: float
    ) -> Connection | NoResponse:
        url = request.url
        if self._closed:
            return NoResponse("the server is shutting down")
        try:
            async with asyncio.timeout_at(deadline):
                match await self._resolver.resolve(url, policy):
                    case Refusal(reason) | Unresolved(reason):
                        return NoResponse(reason)
                    case Addresses() as addresses:
                        detour = None if self._proxy is None else await self._detour(self._proxy)
                        if isinstance(detour, NoResponse):
                            return detour
                        return await dial(
                            url,
                            addresses,
                            lambda: Connection(place, self._pool, self._limits),
                            tls=self._tls() if url.scheme == "https" else None,
                            timeout=self._connect_timeout,
                            detour=detour,
                        )
        except TimeoutError:
            return _timed_out(request)

    async def _detour(self, proxy: Proxy) -> Detour | NoResponse:
        match await self._proxy_resolver.resolve(proxy.url):
            case Addresses() as addresses:
                return Detour(proxy, addresses)
            case Refusal() | Unresolved():
                return NoResponse("the egress proxy has no address")

    def _tls(self) -> ssl.SSLContext:
        if self._ssl_context is None:
            self._ssl_context = tls_context()
        return self._ssl_context


def _expire(answered: asyncio.Future[Reply | Unanswered]) -> None:
    if not answered.done():
        answered.set_result(Unanswered.EXPIRED)


def _timed_out(request: OutgoingRequest) -> NoResponse:
    return NoResponse(f"timed out after {request.timeout:g} s")
