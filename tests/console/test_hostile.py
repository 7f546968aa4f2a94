"""What somebody tries who means ill, with a token of their own, or with none."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable

import httpx
import pytest

from postroad.console import gate, passwords
from postroad.console.gate import COOKIE
from postroad.store import audits, sessions, tenants
from postroad.store.engine import Connection
from tests.conftest import TOKEN, Running, Serve
from tests.console.conftest import SignIn, said
from tests.console.test_gate import browser


async def test_nobody_writes_into_the_audit_log_of_another_tenant(
    visitor: httpx.AsyncClient, counter: httpx.AsyncClient, connection: Connection
) -> None:
    for client in (visitor, counter):
        for path, form in (("", {"name": "forged", "access": "full"}), ("/revoke", {"id": "1", "name": "forged"})):
            await client.post(f"/console/tokens{path}", data={"tenant": "testUser1", **form})
    entries = {}
    for tenant in ("default", "testUser1"):
        tenant_id = await tenants.find(connection, tenant)
        assert tenant_id is not None
        entries[tenant] = await audits.page(connection, tenant_id, before=None, limit=9)
    assert entries["testUser1"] == []
    # Whether or not there is such a tenant, they find it in their own.
    assert len(entries["default"]) == 4


@pytest.mark.parametrize("path", ["login", "theme", "tenant"])
async def test_a_stranger_cannot_send_a_large_form(server: Running, path: str) -> None:
    async with browser(server) as client:
        answer = await client.post(f"/console/{path}", content=b"secret=" + b"x" * 70_000)
        assert (answer.status_code, "expected at most 64.0 KiB" in answer.text) == (400, True), answer.text


async def test_a_form_of_nothing_but_fields_is_not_taken_apart(visitor: httpx.AsyncClient) -> None:
    answer = await visitor.post("/console/dlq/retry", content=b"a=&" * 1_000_000)
    assert (answer.status_code, "expected at most 10,000 fields" in answer.text) == (400, True), answer.text


async def test_who_leaves_within_a_form_is_no_defect(server: Running, caplog: pytest.LogCaptureFixture) -> None:
    host, _, port = server.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as connection:
        head = "POST /console/login HTTP/1.1\r\nHost: x\r\nSec-Fetch-Site: same-origin\r\nContent-Length: 9\r\n\r\n"
        connection.sendall(head.encode() + b"sec")
    async with browser(server) as client:
        assert (await client.get("/console/login")).status_code == 200
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("character", ["x", "ä", "😀"])
async def test_what_is_said_fits_into_a_cookie(visitor: httpx.AsyncClient, character: str) -> None:
    answer = await visitor.post("/console/messages/msg_1/edit", data={"headers": character * 3_000, "back": "/console"})
    assert len(answer.headers["set-cookie"]) < 3_000
    assert character * 100 in await said(visitor, answer)


async def test_another_site_cannot_sign_anybody_out(sign_in: SignIn, server: Running) -> None:
    client = await sign_in(TOKEN)
    async with httpx.AsyncClient(base_url=server.url, cookies=client.cookies) as other:
        answer = await other.post("/console/logout", headers={"Sec-Fetch-Site": "cross-site"})
    assert (answer.status_code, COOKIE in answer.headers.get("set-cookie", "")) == (403, False)
    assert (await client.get("/console")).status_code == 200


async def test_the_same_wrong_password_costs_nothing_the_second_time(
    server: Running, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connection.transaction():
        await sessions.set_password(connection, passwords.hashed("the right password"))
    computed = counted(monkeypatch)
    async with browser(server) as client:
        for _ in range(5):
            assert (await client.post("/console/login", data={"secret": "wrong"})).status_code == 401
        assert computed == ["wrong"]
        async with connection.transaction():
            await sessions.set_password(connection, passwords.hashed("wrong"))
        assert (await client.post("/console/login", data={"secret": "wrong"})).status_code == 303


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The passwords that are computed from now on."""
    computed: list[str] = []
    is_password: Callable[[str, str], Awaitable[bool]] = passwords.is_password

    async def counting(password: str, stored: str) -> bool:
        computed.append(password)
        return await is_password(password, stored)

    monkeypatch.setattr(gate, "is_password", counting)
    return computed


@pytest.mark.parametrize(
    "header", ["X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP", "Forwarded"]
)
async def test_dev_does_not_open_to_those_behind_a_tunnel(serve: Serve, header: str) -> None:
    server = await serve(dev=True)
    async with browser(server, **{header: "127.0.0.1"}) as client:
        assert (await client.get("/console")).status_code == 303
