"""From vetted addresses to a connection."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from postroad.dispatch.egress.connection import Connection
from postroad.dispatch.egress.tls import tls_reason
from postroad.dispatch.egress.tunnel import TunnelError, in_words, tunnel
from postroad.domain.destination import Url
from postroad.domain.proxy import Proxy
from postroad.domain.reply import NoResponse
from postroad.resolver import Addresses

MAX_ADDRESSES_TRIED = 6


@dataclass(frozen=True, slots=True)
class Detour:
    """A proxy and its own addresses."""

    proxy: Proxy
    addresses: Addresses


async def dial(
    url: Url,
    addresses: Addresses,
    make: Callable[[], Connection],
    *,
    tls: ssl.SSLContext | None,
    timeout: float,
    detour: Detour | None = None,
) -> Connection | NoResponse:
    """A connection to the first address that accepts one, TLS included, and only to an address given here.

    With a detour, a proxy connects to that address for us; TLS is with the destination all the same.
    `timeout` is in seconds for all addresses together. One that stays silent gets its share of it and no more, so that
    the next has a chance.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + timeout
    tried = addresses.items[:MAX_ADDRESSES_TRIED]
    reason = NoResponse("no address to connect to")
    for index, (family, ip) in enumerate(tried):
        connection = make()
        share = (until - loop.time()) / (len(tried) - index)
        try:
            async with asyncio.timeout(share) as waiting:
                server_hostname = url.host if tls else None
                if detour is None:
                    # A numeric address is connected to as it is: neither loop looks it up. Both set TCP_NODELAY.
                    await loop.create_connection(
                        partial(_same, connection),
                        ip,
                        url.port,
                        family=family,
                        ssl=tls,
                        server_hostname=server_hostname,
                    )
                else:
                    connected = await tunnel(detour.proxy, detour.addresses, ip, url.port)
                    await loop.create_connection(
                        partial(_same, connection), sock=connected, ssl=tls, server_hostname=server_hostname
                    )
        except TunnelError as error:
            connection.forsake()
            reason = NoResponse(str(error))
        except OSError as error:
            connection.forsake()
            if tls and isinstance(error, (ssl.SSLError, ConnectionResetError, ConnectionAbortedError)):
                return NoResponse(tls_reason(error))
            place = f"[{ip}]:{url.port}" if ":" in ip else f"{ip}:{url.port}"
            what = f"no connection after {round(share, 1):g} s" if waiting.expired() else in_words(error)
            reason = NoResponse(f"{what}: {place}")
        except BaseException:
            connection.forsake()
            raise
        else:
            return connection
    return reason


def _same(connection: Connection) -> Connection:
    return connection
