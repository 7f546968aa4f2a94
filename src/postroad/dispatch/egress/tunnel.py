"""A way through an HTTP proxy: CONNECT (RFC 9110, 9.3.6)."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import socket

from postroad.domain.proxy import Proxy
from postroad.resolver import Addresses

MAX_HEAD_BYTES = 16 * 1024


class TunnelError(OSError):
    """The proxy cannot be reached, or refuses. The message is a sentence without secrets."""


def in_words(error: OSError) -> str:
    """Why a connection could not be made."""
    if error.errno == errno.ETIMEDOUT:
        return "connection timed out"
    return os.strerror(error.errno).lower() if error.errno else "connection failed"


async def tunnel(proxy: Proxy, through: Addresses, ip: str, port: int) -> socket.socket:
    """A socket that is connected to this address by the proxy, ready for TLS or plain HTTP. Raises TunnelError.

    The proxy is asked for an address, never for a name: what was vetted is what it dials.
    """
    loop = asyncio.get_running_loop()
    place = f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"
    lines = [f"CONNECT {place} HTTP/1.1", f"Host: {place}"]
    if proxy.authorization is not None:
        lines.append(f"Proxy-Authorization: {proxy.authorization}")
    last = TunnelError("the egress proxy has no address")
    for family, address in through.items:
        connected = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            connected.setblocking(False)
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                await loop.sock_connect(connected, (address, proxy.url.port))
            except OSError as error:
                connected.close()
                last = TunnelError(f"no connection to the egress proxy: {in_words(error)}")
                continue
            await loop.sock_sendall(connected, "\r\n".join([*lines, "", ""]).encode("ascii"))
            _check(await _head(loop, connected))
        except TunnelError:
            connected.close()
            raise
        except OSError as error:
            connected.close()
            raise TunnelError("the egress proxy closed the connection") from error
        except BaseException:
            connected.close()
            raise
        return connected
    raise last


async def _head(loop: asyncio.AbstractEventLoop, connected: socket.socket) -> bytes:
    """The proxy's answer, up to its blank line at least."""
    head = b""
    while b"\r\n\r\n" not in head:
        piece = await loop.sock_recv(connected, MAX_HEAD_BYTES)
        if not piece:
            raise TunnelError("the egress proxy closed the connection")
        head += piece
        if len(head) > MAX_HEAD_BYTES:
            raise TunnelError("the egress proxy gave an invalid answer")
    return head


def _check(head: bytes) -> None:
    """Raise TunnelError unless this opens a tunnel; through one, nothing may come before we have spoken."""
    status = _STATUS.match(head)
    if status is not None and not status[1].startswith(b"2"):
        raise TunnelError(f"the egress proxy refused the connection with status {status[1].decode()}")
    if status is None or head.index(b"\r\n\r\n") + 4 != len(head):
        raise TunnelError("the egress proxy gave an invalid answer")


_STATUS = re.compile(rb"HTTP/1\.[01] ([0-9]{3})[ \r]")
