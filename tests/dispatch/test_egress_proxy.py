"""The client behind a proxy, and under the policies of several tenants; on uvloop and on asyncio's own loop."""

from __future__ import annotations

import asyncio
import ssl
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import pytest
import trustme

from postroad.dispatch.egress import tls_context
from postroad.domain.proxy import parse_proxy
from postroad.domain.reply import NoResponse
from postroad.errors import InvalidValue
from tests.egress import OK, client, on_both_loops, to
from tests.receiver import Receiver

PASSWORD = "hunter2 & co"


@dataclass
class Tunnels:
    """A proxy that connects to whatever it is asked for, or answers as told."""

    answer: bytes = b"HTTP/1.1 200 Connection established\r\nVia: 1.1 proxy\r\n\r\n"
    port: int = 0
    asked: list[str] = field(default_factory=list)
    authorizations: list[str | None] = field(default_factory=list)
    under_way: set[asyncio.Task[None]] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.under_way.add(task)
        with suppress(OSError, asyncio.IncompleteReadError):
            await self._serve(reader, writer)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.split("\r\n")
        method, place, _ = first.split()
        assert method == "CONNECT"
        self.asked.append(place)
        headers = dict(line.split(": ", 1) for line in lines if line)
        self.authorizations.append(headers.get("Proxy-Authorization"))
        writer.write(self.answer)
        if not self.answer.startswith(b"HTTP/1.1 200 Connection"):
            return
        host, _, port = place.rpartition(":")
        onward_reader, onward_writer = await asyncio.open_connection(host.strip("[]"), int(port))
        try:
            await asyncio.gather(_copy(reader, onward_writer), _copy(onward_reader, writer))
        finally:
            onward_writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while piece := await reader.read(65536):
            writer.write(piece)
            await writer.drain()
    writer.close()


@asynccontextmanager
async def a_proxy(answer: bytes | None = None) -> AsyncIterator[Tunnels]:
    tunnels = Tunnels() if answer is None else Tunnels(answer)
    server = await asyncio.start_server(tunnels.serve, "127.0.0.1", 0)
    tunnels.port = server.sockets[0].getsockname()[1]
    try:
        yield tunnels
    finally:
        server.close()
        # The client has closed its ends by now.
        await asyncio.gather(*tunnels.under_way)


@on_both_loops
async def test_a_message_goes_through_the_proxy_to_the_address_that_was_vetted() -> None:
    async with Receiver() as receiver, a_proxy() as tunnels:
        proxy = parse_proxy(f"http://127.0.0.1:{tunnels.port}")
        async with client(lambda _: ["127.0.0.1"], proxy=proxy) as egress:
            for _ in range(2):
                assert await egress.send(to(receiver.url("/x", host="hooks.example"), body=b"body")) == OK
        assert tunnels.asked == [f"127.0.0.1:{receiver.port}"]
        assert tunnels.authorizations == [None]
        assert [one.target for one in receiver.requests()] == ["/x", "/x"]
        assert receiver.requests()[0].header("Host") == f"hooks.example:{receiver.port}"
        assert receiver.requests()[0].header("Proxy-Authorization") is None


@on_both_loops
async def test_tls_is_with_the_destination_through_the_tunnel() -> None:
    authority, asked = trustme.CA(), list[str | None]()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("hooks.example").configure_cert(context)
    context.sni_callback = lambda _, name, __: asked.append(name)
    with authority.cert_pem.tempfile() as path:
        trusting = tls_context(path)
    async with Receiver(ssl_context=context) as receiver, a_proxy() as tunnels:
        proxy = parse_proxy(f"http://127.0.0.1:{tunnels.port}")
        async with client(lambda _: ["127.0.0.1"], proxy=proxy, ssl_context=trusting) as egress:
            assert await egress.send(to(receiver.url(host="hooks.example"), body=b"x" * 100_000)) == OK
            reply = await egress.send(to(receiver.url(host="other.example")))
    assert isinstance(reply, NoResponse)
    assert "certificate verify failed" in reply.reason
    assert asked == ["hooks.example", "other.example"]


@on_both_loops
async def test_the_proxy_is_told_who_we_are_and_the_destination_is_not() -> None:
    async with Receiver() as receiver, a_proxy() as tunnels:
        proxy = parse_proxy(f"http://me:hunter2%20%26%20co@127.0.0.1:{tunnels.port}")
        assert PASSWORD not in repr(proxy)
        assert b64encode(PASSWORD.encode()).decode() not in repr(proxy)
        async with client(proxy=proxy) as egress:
            assert await egress.send(to(receiver.url())) == OK
        assert tunnels.authorizations == [f"Basic {b64encode(f'me:{PASSWORD}'.encode()).decode()}"]
        assert receiver.requests()[0].header("Proxy-Authorization") is None


@on_both_loops
async def test_what_is_refused_without_a_proxy_is_refused_with_one() -> None:
    async with a_proxy() as tunnels:
        proxy = parse_proxy(f"http://127.0.0.1:{tunnels.port}")
        async with client(lambda _: ["10.0.0.1"], policy="public", proxy=proxy) as egress:
            for url in ("http://127.0.0.1/", "http://inside/", "http://[::ffff:169.254.169.254]/"):
                reply = await egress.send(to(url))
                assert isinstance(reply, NoResponse)
                assert reply.reason.startswith("endpoint resolves to ")
        assert tunnels.asked == []


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (
            b"HTTP/1.1 403 Forbidden\r\nX-Why: secret\r\n\r\nno",
            "the egress proxy refused the connection with status 403",
        ),
        (
            b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",
            "the egress proxy refused the connection with status 407",
        ),
        (b"HTTP/1.1 301 Moved\r\nLocation: /\r\n\r\n", "the egress proxy refused the connection with status 301"),
        (b"", "the egress proxy closed the connection"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "the egress proxy gave an invalid answer"),
        (b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", "the egress proxy gave an invalid answer"),
        (b"x" * 100_000, "the egress proxy gave an invalid answer"),
    ],
)
@on_both_loops
async def test_a_proxy_that_refuses_or_talks_nonsense_fails_the_attempt_with_a_sentence(
    answer: bytes, reason: str
) -> None:
    async with a_proxy(answer) as tunnels:
        proxy = parse_proxy(f"http://me:hunter2@127.0.0.1:{tunnels.port}")
        async with client(proxy=proxy) as egress:
            assert await egress.send(to("http://127.0.0.1:9/")) == NoResponse(reason)


@on_both_loops
async def test_a_proxy_that_is_not_there_fails_the_attempt_with_a_sentence() -> None:
    async with client(proxy=parse_proxy("http://me:hunter2@127.0.0.1:9")) as egress:
        assert await egress.send(to("http://127.0.0.1:9/")) == NoResponse(
            "no connection to the egress proxy: connection refused"
        )


@on_both_loops
async def test_a_proxy_that_says_nothing_costs_no_more_than_a_silent_destination() -> None:
    async def be_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        left.set()

    left = asyncio.Event()
    server = await asyncio.start_server(be_silent, "127.0.0.1", 0)
    proxy = parse_proxy(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    async with client(proxy=proxy, connect_timeout=0.2) as egress:
        reply = await egress.send(to("http://127.0.0.1:9/"))
    await left.wait()
    server.close()
    assert reply == NoResponse("no connection after 0.2 s: 127.0.0.1:9")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "proxy:3128",
        "https://proxy:3128",
        "socks5://proxy:1080",
        "http://proxy",
        "http://me:hunter2@proxy",
        "http://me:hunter2@proxy:3128/path",
        "http://me:hun ter2@proxy:3128",
        "http://me:hunter2@proxy:99999",
        "http://me:hunter2@127.1:3128",
    ],
)
def test_a_proxy_that_is_not_understood_is_refused_without_its_password(text: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        parse_proxy(text)
    assert "hunter" not in str(caught.value)


@on_both_loops
async def test_a_connection_is_used_again_only_under_the_policy_that_allowed_it() -> None:
    async with Receiver() as receiver, client(policy="public") as egress:
        for _ in range(2):
            assert await egress.send(to(receiver.url()), "any") == OK
        for policy in (None, "lan", "public"):
            reply = await egress.send(to(receiver.url()), policy)
            assert isinstance(reply, NoResponse)
            assert reply.reason.startswith("endpoint resolves to a loopback address: 127.0.0.1")
        assert await egress.send(to(receiver.url()), "any") == OK
        assert [one.connection_id for one in receiver.requests()] == [1, 1, 1]
