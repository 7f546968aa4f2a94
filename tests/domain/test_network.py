"""Which addresses a message may be sent to."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from postroad.domain.network import (
    NEVER,
    NOT_FOR_HTTP,
    OF_TENANT,
    REFUSED,
    HostRule,
    NetworkRule,
    Policy,
    parse_policy,
)
from postroad.errors import InvalidValue

PUBLIC, LAN, ANY = map(parse_policy, ("public", "lan", "any"))

NAT64 = IPv6Network("64:ff9b::/96")

METADATA = [
    *("169.254.169.254", "fd00:ec2::254", "100.100.100.200", "169.254.170.2", "fd20:ce::254", "168.63.129.16"),
    *("169.254.0.23", "169.254.42.42", "fd00:42::42", "fd00:c1::a9fe:a9fe", "fe80::a9fe:a9fe"),
]


def refusal(policy: Policy, address: str, host: str = "example.com", port: int = 443) -> str | None:
    return policy.refusal(host, port, ip_address(address))


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("127.0.0.1", "a loopback"),
        ("127.255.255.255", "a loopback"),
        ("::1", "a loopback"),
        ("::ffff:127.0.0.1", "a loopback"),
        ("10.0.0.1", "a private"),
        ("172.31.255.255", "a private"),
        ("192.168.1.1", "a private"),
        ("100.64.0.1", "a private"),
        ("fd12::1", "a private"),
        ("169.254.1.1", "a link-local"),
        ("fe80::1", "a link-local"),
        ("0.1.2.3", "a reserved"),
        ("192.0.2.1", "a reserved"),
        ("240.0.0.1", "a reserved"),
        ("2001:db8::1", "a reserved"),
        ("3fff::1", "a reserved"),
        ("5f00::1", "a reserved"),
        ("100::1", "a reserved"),
        ("64:ff9b:1::808:808", "a reserved"),
        ("::808:808", "a reserved"),
    ],
)
def test_the_refusal_of_what_is_not_public_names_its_kind_and_the_setting_that_would_allow_it(
    address: str, kind: str
) -> None:
    shown = ip_address(address)
    assert (
        refusal(PUBLIC, address) == f"endpoint resolves to {kind} address: {shown} (POSTROAD_DESTINATIONS can allow it)"
    )
    assert refusal(ANY, address) is None


@pytest.mark.parametrize("address", METADATA)
@pytest.mark.parametrize(
    "policy", ["public", "lan", "any", "example.com", "0.0.0.0/0,::/0", "any,169.254.169.254,fd00::/8"]
)
def test_a_metadata_service_is_refused_under_every_policy_and_no_setting_is_named(policy: str, address: str) -> None:
    said = refusal(parse_policy(policy), address)
    assert said == f"endpoint resolves to a metadata address: {address}"


@pytest.mark.parametrize(
    "address", ["0.0.0.0", "::", "224.0.0.1", "255.255.255.255", "ff02::1", "::ffff:0.0.0.0", "64:ff9b::e000:1"]
)
def test_what_is_no_single_machine_is_refused_under_every_policy(address: str) -> None:
    assert refusal(ANY, address) is not None
    assert "POSTROAD_DESTINATIONS" not in (refusal(PUBLIC, address) or "")


@pytest.mark.parametrize(
    "address",
    [
        "1.1.1.1",
        "8.8.8.8",
        "100.63.255.255",
        "100.128.0.0",
        "172.32.0.1",
        "2606:4700::1111",
        "64:ff9b::808:808",
        "2002:808:808::1",
    ],
)
@pytest.mark.parametrize("policy", [PUBLIC, LAN, ANY])
def test_what_is_public_is_allowed_under_every_preset(policy: Policy, address: str) -> None:
    assert refusal(policy, address) is None


@pytest.mark.parametrize(
    "address", ["10.1.2.3", "172.16.0.1", "192.168.0.1", "100.64.0.1", "fd12::1", "::ffff:10.1.2.3"]
)
def test_lan_allows_private_addresses(address: str) -> None:
    assert refusal(LAN, address) is None


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "::1", "169.254.1.1", "fe80::1", "192.0.2.1", "240.0.0.1", "::ffff:127.0.0.1", "2002:7f00:1::"],
)
def test_lan_does_not_allow_this_machine_or_this_cable(address: str) -> None:
    assert refusal(LAN, address) is not None


Embedding = Callable[[IPv4Address], IPv6Address]


def under(prefix: str, shift: int = 0) -> Embedding:
    return lambda inner: IPv6Address(int(IPv6Address(prefix)) | int(inner) << shift)


def behind_u(prefix: str, bits_before_u: int) -> Embedding:
    """RFC 6052: the address goes around bits 64 to 71, which stay zero."""

    def embedded(inner: IPv4Address) -> IPv6Address:
        high, low = int(inner) >> 32 - bits_before_u, int(inner) & (1 << 32 - bits_before_u) - 1
        return IPv6Address(int(IPv6Address(prefix)) | high << 64 | low << 56 - (32 - bits_before_u))

    return embedded


EMBEDDINGS: dict[str, Embedding] = {
    "IPv4-mapped": under("::ffff:0:0"),
    "IPv4-translated": under("::ffff:0:0:0"),
    "IPv4-compatible": under("::"),
    "NAT64": under("64:ff9b::"),
    "local NAT64, /96": under("64:ff9b:1::"),
    "local NAT64, /96 of its own": under("64:ff9b:1:abcd:12:3456::"),
    "local NAT64, /64": behind_u("64:ff9b:1:abcd::", 0),
    "local NAT64, /56": behind_u("64:ff9b:1:ab00::", 8),
    "local NAT64, /48": behind_u("64:ff9b:1::", 16),
    "6to4": under("2002::", 80),
    "6to4 with a host": under("2002::1:2:3", 80),
    "ISATAP": under("2606:2800:220:1:0:5efe::"),
    "ISATAP, universal": under("2606:2800:220:1:200:5efe::"),
    "Teredo server": under("2001::f7f7:f7f7", 64),
    "Teredo client": lambda inner: IPv6Address(
        int(IPv6Address("2001:0:4136:e378:8000:63bf::")) | ~int(inner) & 0xFFFF_FFFF
    ),
}

a_refused_ipv4 = st.sampled_from([network for network, _ in (*NEVER, *REFUSED) if network.version == 4]).flatmap(
    lambda network: st.integers(int(network.network_address), int(network.broadcast_address)).map(IPv4Address)
)


@given(st.ip_addresses(v=4) | a_refused_ipv4, st.sampled_from(sorted(EMBEDDINGS)), st.sampled_from([PUBLIC, LAN, ANY]))
@example(IPv4Address("0.0.0.0"), "IPv4-compatible", ANY)
@example(IPv4Address("0.0.0.1"), "IPv4-compatible", ANY)
@example(IPv4Address("169.254.169.254"), "local NAT64, /48", ANY)
@example(IPv4Address("169.254.169.254"), "local NAT64, /56", ANY)
@example(IPv4Address("169.254.169.254"), "local NAT64, /64", ANY)
@example(IPv4Address("169.254.169.254"), "Teredo client", ANY)
def test_an_ipv4_address_that_is_refused_is_refused_inside_every_ipv6_address_that_carries_it(
    inner: IPv4Address, embedding: str, policy: Policy
) -> None:
    assume(int(inner) or not embedding.startswith("local NAT64"))  # no translator sends anything to 0.0.0.0
    outer = EMBEDDINGS[embedding](inner)
    if policy.refusal("example.com", 443, inner) is not None:
        assert policy.refusal("example.com", 443, outer) is not None


@given(st.ip_addresses() | a_refused_ipv4)
def test_a_wider_preset_allows_no_less(address: IPv4Address | IPv6Address) -> None:
    allowed = [policy.refusal("example.com", 443, address) is None for policy in (PUBLIC, LAN, ANY)]
    assert allowed == sorted(allowed)


@given(st.ip_addresses() | a_refused_ipv4)
def test_what_the_standard_library_knows_to_be_special_is_refused_too(address: IPv4Address | IPv6Address) -> None:
    inner = getattr(address, "ipv4_mapped", None) or address
    special = not inner.is_global or inner.is_multicast or inner.is_reserved or inner.is_link_local or inner.is_loopback
    # The well-known NAT64 prefix is judged by what the address carries; networks with public names need it.
    if special and inner not in NAT64:
        assert PUBLIC.refusal("example.com", 443, address) is not None


def test_a_list_without_a_preset_allows_nothing_else() -> None:
    policy = parse_policy("hooks.example.com, 10.1.0.0/16")
    assert policy.refusal("hooks.example.com", 443, ip_address("127.0.0.1")) is None
    assert policy.refusal("anything", 443, ip_address("10.1.2.3")) is None
    assert policy.refusal("anything", 443, ip_address("::ffff:10.1.2.3")) is None
    said = policy.refusal("other.example.com", 443, ip_address("1.1.1.1"))
    assert (
        said == "endpoint resolves to an address that is not on the list: 1.1.1.1 (POSTROAD_DESTINATIONS can allow it)"
    )


def test_a_list_with_a_preset_adds_to_it() -> None:
    policy = parse_policy("public,10.0.0.0/8,db.internal:8080,[::1]:9000")
    assert policy.refusal("example.com", 443, ip_address("1.1.1.1")) is None
    assert policy.refusal("example.com", 443, ip_address("10.9.9.9")) is None
    assert policy.refusal("db.internal", 8080, ip_address("192.168.0.9")) is None
    assert policy.refusal("db.internal", 8081, ip_address("192.168.0.9")) is not None
    assert policy.refusal("localhost", 9000, ip_address("::1")) is None
    assert policy.refusal("localhost", 9001, ip_address("::1")) is not None


@pytest.mark.parametrize(
    ("policy", "refused", "allowed"),
    [
        ("any,!10.0.0.5", ["10.0.0.5:80", "10.0.0.5:443"], ["10.0.0.6:80"]),
        ("!10.0.0.0/8,lan", ["10.9.9.9:80"], ["192.168.0.1:80"]),
        ("any,!10.0.0.0/8:8080", ["10.0.0.5:8080"], ["10.0.0.5:8081"]),
        ("any,!fd00::/8", ["[fd12::1]:80"], ["[2606:4700::1111]:80", "[::1]:80"]),
        ("any,![::1]:8080", ["[::1]:8080"], ["[::1]:80"]),
        ("any, ! 10.0.0.5", ["10.0.0.5:80"], ["10.0.0.6:80"]),
        ("any,!:8080", ["1.1.1.1:8080", "[::1]:8080"], ["1.1.1.1:80"]),
        ("public,!1.1.1.1", ["1.1.1.1:443"], ["8.8.8.8:443"]),
        ("10.0.0.0/8,!10.1.0.0/16", ["10.1.2.3:80", "1.1.1.1:80"], ["10.2.3.4:80"]),
        ("any,!::ffff:10.0.0.5", ["10.0.0.5:80"], ["10.0.0.6:80"]),
        ("public,!64:ff9b::/96", ["[64:ff9b::808:808]:80"], ["8.8.8.8:80"]),
    ],
)
def test_what_stands_behind_an_exclamation_mark_is_refused_whatever_else_allows_it(
    policy: str, refused: list[str], allowed: list[str]
) -> None:
    parsed = parse_policy(policy)
    for place in [*refused, *allowed]:
        host, _, port = place.rpartition(":")
        said = refusal(parsed, host.strip("[]"), port=int(port))
        assert (said is None) == (place in allowed), place


def test_a_refused_address_is_refused_inside_every_address_that_carries_it() -> None:
    policy = parse_policy("any,!10.0.0.5")
    for name, embedded in EMBEDDINGS.items():
        assert refusal(policy, str(embedded(IPv4Address("10.0.0.5")))) is not None, name


def test_a_host_can_be_refused_by_name_wherever_it_is() -> None:
    policy = parse_policy("any,!*.internal.example:8080,!secret.example")
    assert refusal(policy, "1.1.1.1", "a.internal.example", 8080) is not None
    assert refusal(policy, "1.1.1.1", "a.internal.example", 80) is None
    assert refusal(policy, "1.1.1.1", "secret.example") is not None
    assert refusal(policy, "1.1.1.1", "not.secret.example") is None


def test_a_refusal_counts_more_than_an_allowance_in_whatever_order() -> None:
    for text in ("10.0.0.5,!10.0.0.5", "!10.0.0.5,10.0.0.5", "db.internal,!10.0.0.5", "!db.internal,10.0.0.5"):
        said = refusal(parse_policy(text), "10.0.0.5", "db.internal")
        assert said == "endpoint is on the list of what is refused: 10.0.0.5 (POSTROAD_DESTINATIONS refuses it)"


def test_a_refusal_names_what_sets_the_policy_that_counts() -> None:
    policy = parse_policy("public,!1.1.1.1", OF_TENANT)
    assert refusal(policy, "10.0.0.1") == (
        "endpoint resolves to a private address: 10.0.0.1 (postroad tenant set --destinations can allow it)"
    )
    assert refusal(policy, "1.1.1.1") == (
        "endpoint is on the list of what is refused: 1.1.1.1 (postroad tenant set --destinations refuses it)"
    )


@given(st.ip_addresses() | a_refused_ipv4, st.sampled_from(["!10.0.0.0/8", "!:443", "!example.com", "!2000::/3"]))
def test_a_refusal_allows_nothing(address: IPv4Address | IPv6Address, entry: str) -> None:
    for preset in ("public", "lan", "any"):
        if parse_policy(preset).refusal("example.com", 443, address) is not None:
            assert parse_policy(f"{preset},{entry}").refusal("example.com", 443, address) is not None


def test_a_pattern_means_every_name_below_and_not_the_name_itself() -> None:
    policy = parse_policy("*.example.com")
    assert policy.refusal("a.example.com", 443, ip_address("10.0.0.1")) is None
    assert policy.refusal("a.b.example.com", 443, ip_address("10.0.0.1")) is None
    assert policy.refusal("example.com", 443, ip_address("10.0.0.1")) is not None
    assert policy.refusal("evilexample.com", 443, ip_address("10.0.0.1")) is not None
    assert policy.refusal("a.example.com.evil.org", 443, ip_address("10.0.0.1")) is not None


@pytest.mark.parametrize("port", sorted(NOT_FOR_HTTP))
def test_a_port_of_another_service_is_refused_unless_it_is_on_the_list(port: int) -> None:
    assert refusal(PUBLIC, "1.1.1.1", port=port) == (
        f"endpoint has port {port}, which is not for HTTP: 1.1.1.1 (POSTROAD_DESTINATIONS can allow it)"
    )
    assert refusal(ANY, "1.1.1.1", port=port) is None
    assert refusal(parse_policy(f"public,example.com:{port}"), "1.1.1.1", port=port) is None
    assert refusal(parse_policy(f"public,1.1.1.1:{port}"), "1.1.1.1", port=port) is None


def test_a_policy_is_read_as_it_is_written() -> None:
    assert parse_policy(
        " Public , 10.0.0.0/8:8080, [fd00::/8]:443, fd00::1, DB.internal., *.Example.com:81 "
    ) == Policy(
        "public",
        hosts=(HostRule("db.internal", None), HostRule("*.example.com", 81)),
        networks=(
            NetworkRule(ip_network("10.0.0.0/8"), 8080),
            NetworkRule(ip_network("fd00::/8"), 443),
            NetworkRule(ip_network("fd00::1/128"), None),
        ),
    )


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            ",",
            "public,",
            "public,lan",
            "public,public",
            "everything!",
            "10.0.0.1/8",
            "10.0.0.0/33",
            "10.0.0",
            "127.1",
        ),
        *(
            "300.1.1.1",
            "0x7f.1",
            "host:0",
            "host:65536",
            "host:http",
            "host:",
            ":80",
            "a..b",
            "*",
            "*.",
            "a.*.b",
            "*a.b",
        ),
        *(
            "http://example.com",
            "example.com/path",
            "[::1",
            "::1]",
            "[example.com]:80",
            "[::1]:x",
            "1::2::3",
            "user@host",
        ),
        *("!", "public,!", "public,!!10.0.0.1", "public,!lan", "!10.0.0.5", "!10.0.0.5,!a.b", "public,!10.0.0.1/8"),
        *("public,!:0", "public,!:65536", "public,!:x", "public,!*", "any,!http://a.b"),
        *("bücher.example", "a b", f"{'a' * 64}.example", "fd00::/8:443:1:2:3:4:5:6:7"),
    ],
)
def test_a_policy_that_is_not_understood_is_refused(text: str) -> None:
    with pytest.raises(InvalidValue):
        parse_policy(text)
