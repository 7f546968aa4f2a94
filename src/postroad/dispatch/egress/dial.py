"""From vetted addresses to a connection."""

from __future__ import annotations

import asyncio
import errno
import os
import ssl
from collections.abc import Callable
from functools import partial

from postroad.dispatch.egress.connection import Connection
from postroad.dispatch.egress.tls import tls_reason
from postroad.domain.destination import Url
from postroad.domain.reply import NoResponse
from postroad.resolver import Addresses

MAX_ADDRESSES_TRIED = 6


async def dial(
    url: Url,
    addresses: Addresses,
    make: Callable[[], Connection],
    *,
    tls: ssl.SSLContext | None,
    timeout: float,
) -> Connection | NoResponse:
    """A connection to the first address that accepts one, TLS included, and only to an address given here.

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
                # A numeric address is connected to as it is: neither loop looks it up. Both set TCP_NODELAY.
                await loop.create_connection(
                    partial(_same, connection),
                    ip,
                    url.port,
                    family=family,
                    ssl=tls,
                    server_hostname=url.host if tls else None,
                )
        except OSError as error:
            connection.forsake()
            if tls and isinstance(error, (ssl.SSLError, ConnectionResetError, ConnectionAbortedError)):
                return NoResponse(tls_reason(error))
            place = f"[{ip}]:{url.port}" if ":" in ip else f"{ip}:{url.port}"
            what = f"no connection after {round(share, 1):g} s" if waiting.expired() else _words(error)
            reason = NoResponse(f"{what}: {place}")
        except BaseException:
            connection.forsake()
            raise
        else:
            return connection
    return reason


def _same(connection: Connection) -> Connection:
    return connection


def _words(error: OSError) -> str:
    if error.errno == errno.ETIMEDOUT:
        return "connection timed out"
    return os.strerror(error.errno).lower() if error.errno else "connection failed"
