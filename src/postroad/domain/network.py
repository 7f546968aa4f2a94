"""Which addresses a message may be sent to: the table of refused networks and the operator's policy over it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Literal

from postroad.errors import InvalidValue

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Preset = Literal["public", "lan", "any"]

SETTING = "POSTROAD_DESTINATIONS"
OF_TENANT = "postroad tenant set --destinations"
"""What sets the policy of one tenant, which then counts in the place of the node's."""

PRESETS: dict[str, Preset] = {"public": "public", "lan": "lan", "any": "any"}


@dataclass(frozen=True, slots=True)
class HostRule:
    """A host name, or `*.example.com` for every name below it, on one port or on all."""

    name: str
    port: int | None

    def covers(self, host: str, port: int) -> bool:
        """Whether this host and port are meant."""
        if self.port is not None and self.port != port:
            return False
        if self.name.startswith("*."):
            return host.endswith(self.name[1:])
        return host == self.name


@dataclass(frozen=True, slots=True)
class NetworkRule:
    """Addresses, on one port or on all."""

    network: Network
    port: int | None

    def covers(self, address: Address, port: int) -> bool:
        """Whether this address and port are meant."""
        return (self.port is None or self.port == port) and address in self.network


Rule = HostRule | NetworkRule


@dataclass(frozen=True, slots=True)
class Policy:
    """What the operator allows: a preset, and hosts and networks beside it; without a preset, only those.

    What is `refused` stays so, whatever else allows it. `setting` is what an operator changes to have it otherwise.
    """

    preset: Preset | None
    hosts: tuple[HostRule, ...] = ()
    networks: tuple[NetworkRule, ...] = ()
    refused: tuple[Rule, ...] = ()
    setting: str = SETTING

    def refusal(self, host: str, port: int, address: Address) -> str | None:
        """Why nothing may be sent to this address under this host name, as one sentence; None if something may.

        An IPv6 address that carries IPv4 addresses is judged by what it carries: refused if any of that is refused.
        Metadata services, multicast and unspecified addresses are refused under every policy.
        """
        found = faces(address)
        for face in found:
            if kind := _kind(face, NEVER):
                return f"endpoint resolves to {kind} address: {address}"
        if self.refused and self._is_refused(host, port, (address, *found)):
            return f"endpoint is on the list of what is refused: {address} ({self.setting} refuses it)"
        if any(rule.covers(host, port) for rule in self.hosts):
            return None
        for face in found:
            if objection := self._objection(face, port):
                return f"endpoint {objection}: {address} ({self.setting} can allow it)"
        return None

    def _is_refused(self, host: str, port: int, faces: tuple[Address, ...]) -> bool:
        return any(
            rule.covers(host, port) if isinstance(rule, HostRule) else any(rule.covers(face, port) for face in faces)
            for rule in self.refused
        )

    def _objection(self, face: Address, port: int) -> str | None:
        if self.preset == "any" or any(rule.covers(face, port) for rule in self.networks):
            return None
        if self.preset is None:
            return "resolves to an address that is not on the list"
        in_lan = self.preset == "lan" and any(face in network for network in LAN)
        if not in_lan and (kind := _kind(face, REFUSED)):
            return f"resolves to {kind} address"
        if port in NOT_FOR_HTTP:
            return f"has port {port}, which is not for HTTP"
        return None


@lru_cache(maxsize=1024)
def parse_policy(text: str, setting: str = SETTING) -> Policy:
    """The policy that a comma list of presets, hosts and networks means. Raises InvalidValue.

    > `public`, `lan`, `any`, `public,10.0.0.0/8,db.internal:8080`, `*.example.com`, `[fd00::]:8443`

    A leading `!` refuses what it stands before; refusals count more than the rest, in whatever order.
    > `lan,!10.0.0.5`, `any,!*.internal.example:8080,!192.168.0.0/16`, `public,!:8080`
    """
    preset: Preset | None = None
    hosts: list[HostRule] = []
    networks: list[NetworkRule] = []
    refused: list[Rule] = []
    for entry in (part.strip().lower() for part in text.split(",")):
        if entry.startswith("!"):
            refused += _refusals(entry[1:].lstrip())
            continue
        if entry in PRESETS:
            if preset is not None:
                raise InvalidValue(text, "one of public, lan and any, not two")
            preset = PRESETS[entry]
            continue
        match _rule(entry):
            case HostRule() as rule:
                hosts.append(rule)
            case NetworkRule() as rule:
                networks.append(rule)
    if refused and preset is None and not hosts and not networks:
        raise InvalidValue(text, "what is allowed beside what is refused, such as public")
    return Policy(preset, tuple(hosts), tuple(networks), tuple(refused), setting)


def parse_networks(text: str) -> tuple[Network, ...]:
    """The networks of a comma list of addresses and networks, which may be empty. Raises InvalidValue.

    > `10.0.0.0/8, 192.0.2.7, fd00::/8`
    """
    return tuple(_network(part.strip()) for part in text.split(",")) if text.strip() else ()


def _network(entry: str) -> Network:
    try:
        network = ip_network(entry)
    except ValueError:
        raise InvalidValue(entry, "an address, or a network like 10.0.0.0/8 without bits behind its prefix") from None
    return _unmapped(network)


def _unmapped(network: Network) -> Network:
    if isinstance(network, IPv6Network) and network.prefixlen >= 96 and network.subnet_of(_MAPPED):
        return IPv4Network((int(network.network_address) & 0xFFFF_FFFF, network.prefixlen - 96))
    return network


def _refusals(entry: str) -> Sequence[Rule]:
    """The rules of an entry behind its `!`: as any other entry, or `:25` for a port wherever it is."""
    if entry in PRESETS:
        raise InvalidValue(f"!{entry}", "a host, a network or a port behind the !")
    if (port := _PORT.fullmatch(entry)) is not None and int(port[1]) <= 65535:
        return [NetworkRule(everything, int(port[1])) for everything in _EVERYTHING]
    return [_rule(entry)]


def _rule(entry: str) -> Rule:
    is_bare_ipv6 = entry.count(":") > 1 and not entry.startswith("[")
    parts = None if is_bare_ipv6 else _ENTRY.fullmatch(entry)
    name = entry if parts is None else parts["bracketed"] or parts["plain"]
    port = None if parts is None or parts["port"] is None else int(parts["port"])
    if port is not None and port > 65535:
        raise InvalidValue(entry, _EXPECTED)
    try:
        return NetworkRule(_unmapped(ip_network(name)), port)
    except ValueError:
        # A name: told apart from a mistyped address by its last label.
        if parts is None or parts["bracketed"] or not _HOST_PATTERN.fullmatch(name):
            raise InvalidValue(entry, _EXPECTED) from None
        return HostRule(name.removesuffix("."), port)


def _kind(address: Address, table: tuple[tuple[Network, str], ...]) -> str | None:
    return next((kind for network, kind in table if address in network), None)


def faces(address: Address) -> tuple[Address, ...]:
    """Every address that a packet to this one may end at, once tunnels and translators have had it."""
    if isinstance(address, IPv4Address):
        return (address,)
    bits = int(address)
    low = IPv4Address(bits & 0xFFFF_FFFF)
    if any(address in network for network in _TRANSPARENT):
        return (low,)
    if address in _6TO4:
        return (IPv4Address(bits >> 80 & 0xFFFF_FFFF),)
    if address in _TEREDO:
        return (IPv4Address(bits >> 64 & 0xFFFF_FFFF), IPv4Address(~bits & 0xFFFF_FFFF), address)
    if address in _COMPATIBLE and bits > 1:  # :: and ::1 are themselves
        return (low, address)
    if address in _LOCAL_NAT64:
        return (*_local_nat64(bits, low), address)
    if bits >> 32 & 0xFDFF_FFFF == _ISATAP:
        return (low, address)
    return (address,)


def _local_nat64(bits: int, low: IPv4Address) -> tuple[IPv4Address, ...]:
    """All that a local NAT64 may read in the address: its prefix has any of the lengths of RFC 6052 section 2.2.

    Bits 64 to 71 are skipped by that RFC. A reading of nothing but zeros is left out: most addresses with a long prefix
    hold zeros where a shorter one ends, and no translator sends anything to 0.0.0.0.
    """
    without_u = bits >> 64 << 56 | bits & (1 << 56) - 1
    after_48, after_56, after_64 = (IPv4Address(without_u >> shift & 0xFFFF_FFFF) for shift in (40, 32, 24))
    return tuple(reading for reading in (after_48, after_56, after_64, low) if int(reading))


def _table(text: str) -> tuple[tuple[Network, str], ...]:
    rows = (line.split(maxsplit=1) for line in text.strip().splitlines())
    return tuple((ip_network(network), kind) for network, kind in rows)


# Refused under every policy, because nobody's receiver is there. Metadata services hand out the credentials of the
# machine: of Amazon and most others, then of Google, Alibaba, Oracle, Azure, Tencent, Scaleway and OpenStack.
NEVER = _table("""
    169.254.169.254/32   a metadata
    169.254.170.2/32     a metadata
    169.254.170.23/32    a metadata
    fd00:ec2::/64        a metadata
    fd20:ce::254/128     a metadata
    100.100.100.200/32   a metadata
    192.0.0.192/32       a metadata
    fd00:c1::a9fe:a9fe/128  a metadata
    168.63.129.16/32     a metadata
    169.254.0.23/32      a metadata
    169.254.42.42/32     a metadata
    fd00:42::42/128      a metadata
    fe80::a9fe:a9fe/128  a metadata
    0.0.0.0/32           an unspecified
    ::/128               an unspecified
    255.255.255.255/32   a broadcast
    224.0.0.0/4          a multicast
    ff00::/8             a multicast
""")

# Not reachable from the public internet (IANA's special-purpose registries). Python's `is_global` passes some of them.
# The first row that holds the address names it; all of IPv6 but 2000::/3 is reserved.
REFUSED = _table("""
    127.0.0.0/8       a loopback
    10.0.0.0/8        a private
    100.64.0.0/10     a private
    172.16.0.0/12     a private
    192.168.0.0/16    a private
    169.254.0.0/16    a link-local
    0.0.0.0/8         a reserved
    192.0.0.0/24      a reserved
    192.0.2.0/24      a reserved
    192.88.99.0/24    a reserved
    198.18.0.0/15     a reserved
    198.51.100.0/24   a reserved
    203.0.113.0/24    a reserved
    240.0.0.0/4       a reserved
    ::1/128           a loopback
    fc00::/7          a private
    fec0::/10         a private
    fe80::/10         a link-local
    2001::/23         a reserved
    2001:db8::/32     a reserved
    3fff::/20         a reserved
    ::/3              a reserved
    4000::/2          a reserved
    8000::/1          a reserved
""")

LAN = tuple(map(ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")))

# Services that a request may do harm to: mail, remote shells, databases, caches. An entry of the list allows them.
NOT_FOR_HTTP = frozenset(
    {19, 21, 22, 23, 25, 53, 110, 111, 135, 139, 143, 389, 445, 465, 514, 587, 636, 993, 995}
    | {1433, 1521, 2049, 2375, 2379, 3306, 3389, 5432, 5672, 6379, 9042, 11211, 27017}
)

# IPv4-mapped (RFC 4291), IPv4-translated (RFC 2765) and the well-known NAT64 prefix (RFC 6052).
_TRANSPARENT = tuple(map(ip_network, ("::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96")))
_MAPPED = IPv6Network("::ffff:0:0/96")
_COMPATIBLE = ip_network("::/96")
_LOCAL_NAT64 = ip_network("64:ff9b:1::/48")
_6TO4 = ip_network("2002::/16")
_TEREDO = ip_network("2001::/32")
_ISATAP = 0x5EFE
"""Behind any prefix of 64 bits this comes before an IPv4 address, with the universal bit or without (RFC 5214, 6.1)."""

_EVERYTHING = (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))
_PORT = re.compile(r":([1-9][0-9]{0,4})")
_ENTRY = re.compile(r"(?:\[(?P<bracketed>[0-9a-f:./]+)\]|(?P<plain>[^:\[\]]+))(?::(?P<port>[1-9][0-9]{0,4}))?")
_HOST_PATTERN = re.compile(
    r"(?:\*\.)?(?:[a-z0-9_-]{1,63}\.)*(?!(?:[0-9]+|0x[0-9a-f]*)\.?$)[a-z0-9_-]{1,63}\.?", re.ASCII
)
_EXPECTED = (
    "public, lan or any, and hosts, host:port, *.example.com or networks like 10.0.0.0/8, separated by commas; "
    "with a ! before it, what is refused"
)
