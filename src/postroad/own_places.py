"""Where this server itself can be reached: its listener and its database, to which no message may go."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable
from contextlib import suppress
from ipaddress import IPv6Address, ip_address

from postroad.domain.network import Address, faces

LOOK_UP_S = 2.0
FRESH_FOR_S = 30.0


class OwnPlaces:
    """Addresses with their ports. A message to one of them would go in circles, or speak HTTP to the database."""

    def __init__(self) -> None:
        self._addresses: set[tuple[Address, int]] = set()
        self._local_ports: set[int] = set()
        self._database: dict[tuple[str, int], frozenset[Address]] = {}
        self._fresh_until = 0.0
        self._ports: set[int] = set()

    def add_listener(self, listener: socket.socket) -> None:
        """What this process listens on; a wildcard is every address of this machine."""
        host, port = listener.getsockname()[:2]
        address = _plain(ip_address(host))
        self._ports.add(port)
        if address.is_unspecified:
            self._local_ports.add(port)
        else:
            self._addresses.add((address, port))

    async def add_database(self, places: Iterable[tuple[str, int]]) -> None:
        """Hosts and ports of the database, by name and by the addresses that the names have."""
        for host, port in places:
            self._ports.add(port)
            self._database[host.lower().removesuffix("."), port] = frozenset()
        await self.refresh()

    async def refresh(self) -> None:
        """Look up again what the names of the database mean, if that was a while ago: a failover may have moved them.

        Meanwhile, and where nobody can say, they mean what they meant before; the database itself will complain.
        """
        loop = asyncio.get_running_loop()
        if not self._database or loop.time() < self._fresh_until:
            return
        self._fresh_until = loop.time() + FRESH_FOR_S
        for host, port in list(self._database):
            with suppress(OSError, UnicodeError):
                async with asyncio.timeout(LOOK_UP_S):
                    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
                self._database[host, port] = frozenset(_plain(ip_address(place[0])) for *_, place in found)

    def may_be_on(self, port: int) -> bool:
        """Whether one of them has this port."""
        return port in self._ports

    def hold(self, host: str, port: int, address: Address) -> bool:
        """Whether this address and port, or this name and port, are the server's own."""
        if port not in self._ports:
            return False
        return (host, port) in self._database or any(self._hold(_plain(face), port) for face in faces(address))

    def _hold(self, address: Address, port: int) -> bool:
        database = [one for (_, its_port), found in self._database.items() if its_port == port for one in found]
        # A database on a loopback address may listen on all others of this machine as well.
        is_on_all = port in self._local_ports or any(one.is_loopback for one in database)
        return (address, port) in self._addresses or address in database or (is_on_all and _is_local(address))


def _plain(address: Address) -> Address:
    """Of an IPv4 address in IPv6 clothes, what is in them; of any other itself, without a zone."""
    if isinstance(address, IPv6Address):
        return address.ipv4_mapped or IPv6Address(int(address))
    return address


def _is_local(address: Address) -> bool:
    """Whether packets to the address stay on this machine: then they would come from that address too.

    Connecting a UDP socket sends nothing, it only asks the routing table.
    """
    if address.is_loopback:
        return True
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as asking:
        asking.connect((str(address), 9))
        return bool(ip_address(asking.getsockname()[0]) == address)
    return False
