"""From vetted addresses to a connection."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import Callable

from postroad.dispatch.egress.connection import Connection
from postroad.dispatch.egress.tls import tls_reason
from postroad.domain.destination import Url
from postroad.domain.reply import NoResponse
from postroad.resolver import Addresses

MAX_ADDRESSES_TRIED = 6


async def dial(
    url: Url,
    addresses: Addresses,
    connection: Callable[[], Connection],
    *,
    tls: ssl.SSLContext | None,
    timeout: float,
) -> Connection | NoResponse:
    """A connection to the first address that accepts one, and only to an address given here.

    `timeout` is in seconds for all addresses together, and again for the TLS handshake.
    """
    connected = await _connected(addresses, url.port, timeout)
    if isinstance(connected, NoResponse):
        return connected
    loop = asyncio.get_running_loop()
    if tls is None:
        return (await loop.create_connection(connection, sock=connected))[1]
    try:
        async with asyncio.timeout(timeout) as handshake:
            return (await loop.create_connection(connection, sock=connected, ssl=tls, server_hostname=url.host))[1]
    except OSError as error:
        # TimeoutError is one, too, and so are ssl.SSLError and ConnectionError.
        if handshake.expired():
            return NoResponse(f"TLS error: no handshake after {timeout:g} s")
        return NoResponse(tls_reason(error))


async def _connected(addresses: Addresses, port: int, timeout: float) -> socket.socket | NoResponse:
    loop = asyncio.get_running_loop()
    until = loop.time() + timeout
    tried = addresses.items[:MAX_ADDRESSES_TRIED]
    reason = "no address to connect to"
    for index, (family, ip) in enumerate(tried):
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # A silent address gets its share of the time, so that the next one has a chance.
            async with asyncio.timeout_at(loop.time() + (until - loop.time()) / (len(tried) - index)) as share:
                await loop.sock_connect(sock, (ip, port))
                return sock
        except OSError as error:
            sock.close()
            place = f"[{ip}]:{port}" if family == socket.AF_INET6 else f"{ip}:{port}"
            reason = f"connection timed out: {place}" if share.expired() else f"{_words(error)}: {place}"
        except BaseException:
            sock.close()
            raise
    return NoResponse(reason)


def _words(error: OSError) -> str:
    if error.errno == errno.ETIMEDOUT:
        return "connection timed out"
    return os.strerror(error.errno).lower() if error.errno else "connection failed"
