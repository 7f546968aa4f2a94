"""Ways to write a URL so that a request ends where it must not: for tests in a network namespace of their own."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import quote

from tests.security.nameserver import NameServer

HONEST = "93.184.216.34"
HONEST_6 = "2606:2800:220:1::34"

PRIVATE = "10.1.2.3"
FORBIDDEN_4 = ("127.0.0.1", "169.254.169.254", PRIVATE)
FORBIDDEN_6 = ("::1", "fd00:ec2::254")
ADDRESSES = (HONEST, HONEST_6, "169.254.169.254", PRIVATE, "fd00:ec2::254", "127.9.9.9")
"""What the loopback of the namespace has besides its own."""

PORTS = (80, 443, 22, 25, 3000, 6379, 8080)
"""Where canaries listen."""

_DIGITS = {
    "full width": 0xFF10,
    "Arabic": 0x0660,
    "Devanagari": 0x0966,
    "mathematical": 0x1D7CE,
    "double-struck": 0x1D7D8,
}


def forms(names: NameServer) -> list[str]:
    """All of them, each once; what names mean is told to the name server."""
    found: dict[str, None] = {}
    for address in FORBIDDEN_4:
        for host in (*_ipv4(IPv4Address(address)), *_embedded(IPv4Address(address)), *_spelled(address)):
            found[f"http://{host}/x"] = None
        for url in _around(address):
            found[url] = None
    for address in FORBIDDEN_6:
        for host in _ipv6(IPv6Address(address)):
            found[f"http://{host}/x"] = None
        for url in _around(f"[{address}]"):
            found[url] = None
    for number, host in enumerate((*_local(), *_named(names))):
        found[f"{'http' if number % 4 else 'https'}://{host}/x"] = None
    return list(found)


def _ipv4(address: IPv4Address) -> Iterator[str]:
    """What inet_aton, browsers and careless parsers take for an address."""
    text, number = str(address), int(address)
    a, b, c, d = address.packed
    yield text
    yield f"{text}."
    yield f"{text}.."
    yield f".{text}"
    yield str(number)
    yield f"{number}."
    yield str(number + 2**32)
    yield f"0{number:o}"
    yield f"00000{number:o}"
    yield f"0o{number:o}"
    yield f"0x{number:x}"
    yield f"0X{number:X}"
    yield f"0x00000000{number:x}"
    yield f"-{2**32 - number}"
    yield f"{a}.{b << 16 | c << 8 | d}"
    yield f"{a}.{b}.{c << 8 | d}"
    yield f"0x{a:x}.{b << 16 | c << 8 | d}"
    yield f"0{a:o}.0{b:o}.0{c:o}.0{d:o}"
    yield f"000{a:o}.000{b:o}.000{c:o}.000{d:o}"
    yield f"0x{a:x}.0x{b:x}.0x{c:x}.0x{d:x}"
    yield f"0x{a:x}.0{b:o}.{c}.{d}"
    yield f"{a:03}.{b:03}.{c:03}.{d:03}"
    yield f"{a + 256}.{b}.{c}.{d}"
    yield f"{a}.{b}.{c}.{d + 256}"
    yield f"{text}.0"
    yield f"{a}.{b}.{c}.{d:.1f}"
    yield f"{a}..{b}.{c}.{d}"
    yield f"{a},{b},{c},{d}"
    yield f"{a}. {b}.{c}.{d}"
    yield f"[{text}]"
    yield f"{text}%00"
    yield f"{text}%00.example.com"
    yield f"{text}\0.example.com"
    yield f"{text}%20"
    yield f"{text}%2e"
    yield f"{text}%23"
    yield f"{text}%25lo"
    yield f"{text}%0d%0a"
    yield f"{text}\t"
    yield f"{a}.\t{b}.{c}.{d}"
    yield f"{a}.\n{b}.{c}.{d}"
    yield f"{a}.\u00ad{b}.{c}.{d}"
    yield f"{a}.\u200b{b}.{c}.{d}"
    yield f"\ufeff{text}"
    yield quote(text, safe="").replace(".", "%2e")
    yield "".join(f"%{ord(one):02x}" for one in text)
    yield "".join(f"%25{ord(one):02x}" for one in text)
    for dot in "\u3002\uff0e\uff61\u2024":
        yield text.replace(".", dot)
    for first in _DIGITS.values():
        yield "".join(chr(first + int(one)) if one.isdigit() else one for one in text)
    yield "".join(chr(0x2460 + int(one) - 1) if one in "123456789" else one for one in text)


def _embedded(inner: IPv4Address) -> Iterator[str]:
    """The address inside IPv6 ones."""
    bits = int(inner)
    numbers = {
        "mapped": int(IPv6Address("::ffff:0:0")) | bits,
        "translated": int(IPv6Address("::ffff:0:0:0")) | bits,
        "compatible": bits,
        "NAT64": int(IPv6Address("64:ff9b::")) | bits,
        "local NAT64, /96": int(IPv6Address("64:ff9b:1::")) | bits,
        "local NAT64, /48": int(IPv6Address("64:ff9b:1::")) | bits >> 16 << 64 | (bits & 0xFFFF) << 40,
        "local NAT64, /64": int(IPv6Address("64:ff9b:1:1::")) | bits << 24,
        "6to4": int(IPv6Address("2002::")) | bits << 80,
        "6to4 with a host": int(IPv6Address("2002::1")) | bits << 80,
        "Teredo client": int(IPv6Address("2001:0:4136:e378:8000:63bf::")) | ~bits & 0xFFFF_FFFF,
        "Teredo server": int(IPv6Address("2001::f7f7:f7f7")) | bits << 64,
        "ISATAP": int(IPv6Address("2606:2800:220:1:0:5efe::")) | bits,
        "ISATAP, universal": int(IPv6Address("2606:2800:220:1:200:5efe::")) | bits,
    }
    for number in numbers.values():
        yield f"[{IPv6Address(number)}]"
    mapped = IPv6Address(numbers["mapped"])
    yield f"[{mapped.exploded}]"
    yield f"[{mapped.exploded.upper()}]"
    yield f"[::ffff:{inner}]"
    yield f"[::FFFF:{inner}]"
    yield f"[0:0:0:0:0:ffff:{inner}]"
    yield f"[::{inner}]"
    yield f"[64:ff9b::{inner}]"
    yield f"[::ffff:0:{inner}]"
    yield f"[::ffff:{inner}%25lo]"
    yield f"[::ffff:{inner.packed[0]:03}.{inner.packed[1]}.{inner.packed[2]}.{inner.packed[3]}]"
    yield f"[::ffff:0x{bits:x}]"


def _ipv6(address: IPv6Address) -> Iterator[str]:
    yield f"[{address}]"
    yield f"[{address.exploded}]"
    yield f"[{str(address).upper()}]"
    yield f"[{address}%lo]"
    yield f"[{address}%25lo]"
    yield f"[{address}%1]"
    yield f"[{address}%251]"
    yield f"[{address}%00]"
    yield f"[{address}]."
    yield f"[[{address}]]"
    yield f"[{address}"
    yield f"{address}]"
    yield str(address)
    yield f"[ {address}]"
    yield f"[v1.{address}]"
    yield f"%5b{quote(str(address), safe='')}%5d"
    yield f"[{address}]]"
    yield f"[{address}][{HONEST_6}]"
    yield f"[{HONEST_6}][{address}]"


def _around(host: str) -> Iterator[str]:
    """What may stand around a host: schemes, ports, users, and delimiters that two readers read differently."""
    honest = HONEST
    for scheme in (
        "HTTP",
        "hTTps",
        "https",
        "http+unix",
        "ftp",
        "gopher",
        "file",
        "dict",
        "ws",
        "jar:http",
        "view-source:http",
    ):
        yield f"{scheme}://{host}/x"
    for slashes in ("", "/", "///", "\\\\", "\\/", "/\\", "////"):
        yield f"http:{slashes}{host}/x"
    yield f"//{host}/x"
    yield f"http://http://{host}/x"
    yield f" http://{host}/x"
    yield f"\thttp://{host}/x"
    yield f"ht\ntp://{host}/x"
    yield f"http://\t{host}/x"
    yield f"http://{host} /x"
    for port in (
        ":",
        ":80",
        ":443",
        ":0",
        ":00080",
        ":65616",
        ":80:80",
        ":+80",
        ":-1",
        ":80 ",
        ":８０",
        ":3000",
        ":22",
        ":25",
        ":6379",
    ):
        yield f"http://{host}{port}/x"
    yield f"http://user@{host}/x"
    yield f"http://user:password@{host}/x"
    yield f"http://:@{host}/x"
    yield f"http://@{host}/x"
    yield f"http://{honest}@{host}/x"
    yield f"http://{honest}:80@{host}:80/x"
    yield f"http://{honest}%40{host}/x"
    yield f"http://{honest}\\@{host}/x"
    yield f"http://{honest}\\{host}/x"
    yield f"http://{honest};{host}/x"
    yield f"http://{honest},{host}/x"
    yield f"http://{honest} {host}/x"
    yield f"http://{honest}%20{host}/x"
    yield f"http://{host}#@{honest}/x"
    yield f"http://{host}?@{honest}/x"
    yield f"http://{host}\\@{honest}/x"
    yield f"http://{host}%2f@{honest}/x"
    yield f"http://{host}/x/../../@{honest}"
    yield f"http://{host}\r\nHost: {honest}/x"
    yield f"http://{host}"
    yield f"http://{host}?x"
    yield f"http://{host}#x"


def _spelled(address: str) -> Iterator[str]:
    """Public names that mean what they say, as of nip.io and sslip.io."""
    yield f"{address}.nip.test"
    yield f"app.{address}.nip.test"
    yield f"{address.replace('.', '-')}.nip.test"
    yield f"{int(IPv4Address(address)):08x}.nip.test"


def _local() -> Iterator[str]:
    yield "localhost"
    yield "LOCALHOST"
    yield "LocalHost."
    yield "localhost.."
    yield "ip6-localhost"
    yield "local%68ost"
    yield "ｌｏｃａｌｈｏｓｔ"
    yield "ⓛocalhost"
    yield "localhoſt"
    yield "localhost%00.example.com"
    yield "localhost:80"
    yield "0.0.0.0"
    yield "0"
    yield "[::]"
    yield "127.9.9.9"
    yield "127.1"
    yield "::1.nip.test"
    yield "0--1.nip.test"


def _named(names: NameServer) -> Iterator[str]:
    """Names of our own server that lead astray in every way that the DNS knows."""
    for number, address in enumerate((*FORBIDDEN_4, *FORBIDDEN_6)):
        yield names.say(f"plain{number}.test", address)
        yield names.say(f"honest-first{number}.test", HONEST, address)
        yield names.say(f"honest-last{number}.test", address, HONEST)
        yield names.say(f"honest-other{number}.test", HONEST_6 if ":" not in address else HONEST, address)
        names.say(f"end{number}.test", address)
        yield names.say(f"alias{number}.test", f"end{number}.test")
        yield names.say(f"public-alias{number}.test", HONEST, f"end{number}.test")
    for step in range(8):
        names.say(f"step{step}.test", f"step{step + 1}.test")
    names.say("step8.test", "127.0.0.1")
    yield "step0.test"
    yield names.say("to-localhost.test", "localhost.nip.test")
    names.say("localhost.nip.test", "127.0.0.1")
    hundred = [f"93.184.{n}.1" for n in range(99)]
    yield names.say("hundred-last.test", *hundred, "127.0.0.1")
    yield names.say("hundred-first.test", "127.0.0.1", *hundred)
    yield names.say("hundred-and-one.test", *hundred, "1.1.1.1", "::1")
    for number, inner in enumerate(FORBIDDEN_4):
        for kind, host in enumerate(_embedded(IPv4Address(inner))):
            if kind < 13:
                yield names.say(f"carried{number}-{kind}.test", host.strip("[]"))
    yield names.say("xn--bcher-kva.test", "127.0.0.1")
    yield names.say("under_score.test", "127.0.0.1")
    yield names.say("metadata.google.internal", "169.254.169.254")
