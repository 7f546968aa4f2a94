"""The caller's address: the peer's, or what trusted proxies say."""

from __future__ import annotations

import pytest

from postroad.api.client_address import caller_ip
from postroad.domain.network import parse_networks
from postroad.errors import InvalidValue
from tests.conftest import Running, Serve
from tests.receiver import Receiver

TRUSTED = parse_networks("127.0.0.1, 10.0.0.0/8, fd00::/8")

CASES: list[tuple[str, str | None, list[str], str | None]] = [
    ("a stranger's header means nothing", "192.0.2.1", ["198.51.100.7"], "192.0.2.1"),
    ("a proxy without the header is the caller", "10.0.0.1", [], "10.0.0.1"),
    ("an empty header is none", "10.0.0.1", ["", " , "], "10.0.0.1"),
    ("the proxy's word counts", "10.0.0.1", ["198.51.100.7"], "198.51.100.7"),
    ("what the caller itself claimed does not", "10.0.0.1", ["6.6.6.6, 198.51.100.7"], "198.51.100.7"),
    ("proxies in a row", "10.0.0.1", ["6.6.6.6, 198.51.100.7, 10.0.0.3,10.0.0.2"], "198.51.100.7"),
    ("the lines are one list", "10.0.0.1", ["6.6.6.6", "198.51.100.7", "10.0.0.2"], "198.51.100.7"),
    ("empty elements are skipped", "10.0.0.1", ["198.51.100.7, , 10.0.0.2,"], "198.51.100.7"),
    ("all trusted: the farthest", "10.0.0.1", ["10.0.0.9, 10.0.0.2"], "10.0.0.9"),
    ("garbage ends the chain", "10.0.0.1", ["6.6.6.6, unknown"], "10.0.0.1"),
    ("garbage further off, too", "10.0.0.1", ["6.6.6.6, _hidden, 10.0.0.2"], "10.0.0.2"),
    ("a number too many", "10.0.0.1", ["6.6.6.6, 1.2.3.4.5"], "10.0.0.1"),
    ("an address out of range", "10.0.0.1", ["6.6.6.6, 1.2.3.400"], "10.0.0.1"),
    ("bytes that are no text", "10.0.0.1", ["\xff\xfe"], "10.0.0.1"),
    ("a port", "10.0.0.1", ["1.2.3.4:567"], "1.2.3.4"),
    ("a port of a trusted one", "10.0.0.1", ["1.2.3.4, 10.0.0.2:567"], "1.2.3.4"),
    ("a port that is none", "10.0.0.1", ["1.2.3.4:http"], "10.0.0.1"),
    ("IPv6", "10.0.0.1", ["2001:DB8:0:0:0:0:0:1"], "2001:db8::1"),
    ("IPv6 in brackets", "10.0.0.1", ["[2001:db8::1]"], "2001:db8::1"),
    ("IPv6 with a port", "10.0.0.1", ["[::1]:80"], "::1"),
    ("brackets around nothing", "10.0.0.1", ["[]:80"], "10.0.0.1"),
    ("a zone", "10.0.0.1", ["fe80::1%eth\xe9"], "fe80::1"),
    ("a zone of IPv4", "10.0.0.1", ["1.2.3.4%eth0"], "10.0.0.1"),
    ("a peer in IPv6", "fd00::1", ["198.51.100.7"], "198.51.100.7"),
    ("IPv4-mapped peers are IPv4", "::ffff:10.0.0.1", ["198.51.100.7"], "198.51.100.7"),
    ("IPv4-mapped callers, too", "10.0.0.1", ["::ffff:198.51.100.7"], "198.51.100.7"),
    ("IPv4-mapped proxies, too", "10.0.0.1", ["198.51.100.7, ::ffff:10.0.0.2"], "198.51.100.7"),
    ("a Unix socket has no address", None, ["198.51.100.7"], None),
    ("a peer with a name", "testclient", ["198.51.100.7"], "testclient"),
]


@pytest.mark.parametrize(("peer", "lines", "caller"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_the_caller_is_whom_the_nearest_trusted_proxies_name(
    peer: str | None, lines: list[str], caller: str | None
) -> None:
    headers = [(b"host", b"x"), *((b"x-forwarded-for", line.encode("latin-1")) for line in lines)]

    assert caller_ip(peer, headers, TRUSTED) == caller


def test_networks_in_ipv4_mapped_form_are_ipv4() -> None:
    assert parse_networks("::ffff:10.0.0.1,::ffff:10.0.0.0/104") == parse_networks("10.0.0.1,10.0.0.0/8")
    assert parse_networks(" ") == ()


@pytest.mark.parametrize("text", ["proxy", "10.0.0.1/8", "10.0.0.0/33", "10.0.0.1,,10.0.0.2", "10.0.0.1:80", "any"])
def test_what_is_no_list_of_networks_is_refused(text: str) -> None:
    with pytest.raises(InvalidValue):
        parse_networks(text)


async def published_from(server: Running, receiver: Receiver, way: str, forwarded: str) -> str | None:
    """The caller's address that the destination is told."""
    if way == "batch":
        body, path = f'[{{"destination": "{receiver.url()}"}}]', "/v2/batch"
    else:
        body, path = "", f"/v2/{way}/{receiver.url()}"
    answer = await server.http.post(path, content=body, headers={"X-Forwarded-For": forwarded})
    assert answer.is_success, answer.text
    return (await receiver.next_request()).header("Upstash-Caller-Ip")


@pytest.mark.parametrize("way", ["publish", "enqueue/q", "batch"])
async def test_behind_a_trusted_proxy_the_clients_address_is_stored_and_sent(
    serve: Serve, receiver: Receiver, way: str
) -> None:
    server = await serve(trusted_proxies="127.0.0.0/8")

    assert await published_from(server, receiver, way, "6.6.6.6, 198.51.100.7") == "198.51.100.7"


async def test_a_schedule_remembers_the_client_behind_the_proxy(serve: Serve) -> None:
    server = await serve(trusted_proxies="127.0.0.1")
    headers = {"X-Forwarded-For": "198.51.100.7", "Upstash-Cron": "@yearly"}

    made = await server.http.post("/v2/schedules/http://127.0.0.1:9/", headers=headers)

    assert (await server.http.get(f"/v2/schedules/{made.json()['scheduleId']}")).json()["callerIP"] == "198.51.100.7"


async def test_without_trusted_proxies_the_header_is_not_read(server: Running, receiver: Receiver) -> None:
    assert await published_from(server, receiver, "publish", "198.51.100.7") == "127.0.0.1"
