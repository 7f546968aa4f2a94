"""The client over TLS, on uvloop and on asyncio's own loop."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import trustme

from postroad.dispatch.egress import tls_context
from postroad.domain.reply import NoResponse, Response
from postroad.errors import Misconfigured
from tests.egress import OK, client, on_both_loops, to
from tests.receiver import (
    Mood,
    Receiver,
    deaf,
    half,
    hang_up,
    raw,
    reset,
)

# TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def serving(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    with authority.cert_pem.tempfile() as path:
        return tls_context(path)


def here(host: str) -> Sequence[str]:
    return ["127.0.0.1"]


@on_both_loops
async def test_a_message_goes_over_tls_with_the_name_of_the_url(authority: trustme.CA) -> None:
    asked: list[str | None] = []
    context = serving(authority, "hooks.example")
    context.sni_callback = lambda _, name, __: asked.append(name)
    context.set_alpn_protocols(["h2", "http/1.1"])
    body = os.urandom(1_000_000)
    async with Receiver(ssl_context=context) as receiver, client(here, ssl_context=trusting(authority)) as egress:
        for _ in range(3):
            reply = await egress.send(to(receiver.url(host="Hooks.Example."), body=body))
            assert reply == OK
        assert [request.connection_id for request in receiver.requests()] == [1, 1, 1]
        assert all(request.body == body for request in receiver.requests())
        (connection,) = egress._pool._open
        assert connection._transport.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
        assert receiver.requests()[0].header("Host") == f"Hooks.Example.:{receiver.port}"
    assert asked == ["hooks.example"]


@on_both_loops
async def test_an_address_can_have_a_certificate(authority: trustme.CA) -> None:
    async with (
        Receiver(ssl_context=serving(authority, "127.0.0.1")) as receiver,
        client(ssl_context=trusting(authority)) as egress,
    ):
        assert await egress.send(to(receiver.url())) == OK


@on_both_loops
async def test_an_unknown_authority_is_not_believed(authority: trustme.CA) -> None:
    async with Receiver(ssl_context=serving(authority, "hooks.example")) as receiver, client(here) as egress:
        reply = await egress.send(to(receiver.url(host="hooks.example")))
        assert reply == NoResponse("TLS error: certificate verify failed: unable to get local issuer certificate")
        assert receiver.requests() == []


@on_both_loops
async def test_a_certificate_for_another_name_is_not_believed(authority: trustme.CA) -> None:
    async with (
        Receiver(ssl_context=serving(authority, "other.example")) as receiver,
        client(here, ssl_context=trusting(authority)) as egress,
    ):
        reply = await egress.send(to(receiver.url(host="hooks.example")))
        assert reply == NoResponse(
            "TLS error: certificate verify failed: Hostname mismatch, certificate is not valid for 'hooks.example'."
        )
        assert receiver.requests() == []


@on_both_loops
async def test_an_old_protocol_is_not_spoken(authority: trustme.CA) -> None:
    context = serving(authority, "hooks.example")
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    async with (
        Receiver(ssl_context=context) as receiver,
        client(here, ssl_context=trusting(authority)) as egress,
    ):
        reply = await egress.send(to(receiver.url(host="hooks.example")))
        assert isinstance(reply, NoResponse)
        assert reply.reason.startswith("TLS error: ")


@on_both_loops
async def test_a_receiver_that_speaks_no_tls_is_told_apart() -> None:
    async with Receiver() as receiver, client() as egress:
        reply = await egress.send(to(receiver.url().replace("http:", "https:")))
        assert reply == NoResponse("TLS error: wrong version number")
        await receiver.wait_for_connections(0)


@pytest.mark.parametrize(
    ("timeout", "reason"), [(10, "no connection after 0.3 s: {place}"), (0.15, "timed out after 0.15 s")]
)
@on_both_loops
async def test_a_handshake_that_does_not_end_is_ended(timeout: float, reason: str) -> None:
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.setblocking(False)
        place = f"127.0.0.1:{silent.getsockname()[1]}"
        async with client(connect_timeout=0.3) as egress:
            reply = await egress.send(to(f"https://{place}/", timeout=timeout))
            assert reply == NoResponse(reason.format(place=place))
        connection, _ = await loop.sock_accept(silent)
        with connection:
            while await loop.sock_recv(connection, 65536):
                pass  # until the client has closed its side


@on_both_loops
async def test_a_silent_address_does_not_take_the_time_of_the_next(authority: trustme.CA) -> None:
    async with Receiver(ssl_context=serving(authority, "hooks.example")) as receiver:
        with socket.create_server(("127.0.0.2", receiver.port)):
            options: dict[str, Any] = {"ssl_context": trusting(authority), "connect_timeout": 2}
            async with client(lambda host: ["127.0.0.2", "127.0.0.1"], **options) as egress:
                assert await egress.send(to(receiver.url(host="hooks.example"))) == OK


@on_both_loops
async def test_a_connection_that_ends_in_the_handshake_is_no_answer() -> None:
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as rude:
        rude.setblocking(False)
        async with client() as egress:
            sending = asyncio.create_task(egress.send(to(f"https://127.0.0.1:{rude.getsockname()[1]}/")))
            connection, _ = await loop.sock_accept(rude)
            connection.close()
            assert await sending == NoResponse("TLS error: connection closed during the handshake")


@pytest.mark.parametrize(
    ("mood", "how"), [(reset(), "reset"), (half("body"), "closed"), (half("head"), "closed"), (hang_up(), "closed")]
)
@on_both_loops
async def test_a_broken_answer_over_tls_is_no_answer(mood: Mood, how: str, authority: trustme.CA) -> None:
    async with (
        Receiver(ssl_context=serving(authority, "hooks.example")) as receiver,
        client(here, ssl_context=trusting(authority)) as egress,
    ):
        receiver.script("/", mood)
        reply = await egress.send(to(receiver.url(host="hooks.example")))
        assert isinstance(reply, NoResponse)
        assert reply.reason.startswith(f"connection {how} before ")


@on_both_loops
async def test_the_deadline_holds_over_tls(authority: trustme.CA) -> None:
    async with (
        Receiver(ssl_context=serving(authority, "hooks.example")) as receiver,
        client(here, ssl_context=trusting(authority)) as egress,
    ):
        receiver.script("/", deaf())
        reply = await egress.send(to(receiver.url(host="hooks.example"), body=b"x" * 20_000_000, timeout=0.5))
        assert reply == NoResponse("timed out after 0.5 s")


@on_both_loops
async def test_an_answer_in_many_small_chunks_comes_whole_over_tls(authority: trustme.CA) -> None:
    chunks = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 20_000
    async with (
        Receiver(ssl_context=serving(authority, "hooks.example")) as receiver,
        client(here, ssl_context=trusting(authority)) as egress,
    ):
        receiver.script("/", raw(chunks + b"0\r\n\r\n"), raw(chunks, then_close=True))
        reply = await egress.send(to(receiver.url(host="hooks.example")))
        assert isinstance(reply, Response)
        assert (reply.body, reply.cut) == (b"x" * 20_000, False)
        reply = await egress.send(to(receiver.url(host="hooks.example")))
        assert reply == NoResponse("connection closed before the response was complete")


def test_there_is_one_policy_and_the_environment_cannot_weaken_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    context = tls_context()
    assert not context.keylog_filename
    assert context.options & ssl.OP_NO_COMPRESSION
    assert context.options & ssl.OP_NO_RENEGOTIATION
    ciphers = [cipher["name"] for cipher in context.get_ciphers()]
    assert all(name.startswith(("TLS_", "ECDHE-", "DHE-")) for name in ciphers), "all have forward secrecy"
    assert not [name for name in ciphers if any(weak in name for weak in ("NULL", "RC4", "DES", "MD5", "EXP", "anon"))]


def test_a_file_that_holds_no_authorities_is_told_at_the_start() -> None:
    with pytest.raises(Misconfigured, match="No such file"):
        tls_context("/nowhere.pem")
    with pytest.raises(Misconfigured, match="cannot be used"):
        tls_context(__file__)


def test_authorities_of_the_environment_are_trusted(authority: trustme.CA, monkeypatch: pytest.MonkeyPatch) -> None:
    with authority.cert_pem.tempfile() as path:
        monkeypatch.setenv("SSL_CERT_FILE", path)
        context = tls_context()
    assert len(context.get_ca_certs()) == 1
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.check_hostname
    assert context.verify_mode == ssl.CERT_REQUIRED
