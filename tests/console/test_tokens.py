"""The pages of tokens and of tenants, for the operator and for administrators."""

from __future__ import annotations

import re

import httpx
import pytest

from postroad import dev
from postroad.console.passwords import hashed
from postroad.domain.tenant import Access
from postroad.store import audits, sessions, tenants
from postroad.store.engine import Connection
from tests.conftest import Running, eventually
from tests.console.conftest import XSS, SignIn, said
from tests.security.test_tokens import a_token, bearer


@pytest.fixture
async def operator(sign_in: SignIn, connection: Connection) -> httpx.AsyncClient:
    """Whoever has the password."""
    async with connection.transaction():
        await sessions.set_password(connection, hashed("the password"))
    return await sign_in("the password")


@pytest.fixture
async def administrator(sign_in: SignIn, connection: Connection) -> httpx.AsyncClient:
    """Whoever has an admin token."""
    return await sign_in(await a_token(connection, Access.ADMIN))


async def lists(server: Running, token: str) -> int:
    return (await server.http.get("/v2/queues", headers=bearer(token))).status_code


def made(page: httpx.Response) -> str:
    assert page.status_code == 200, page.text
    found = re.search(r"<code>(prt_\w+)</code>", page.text)
    assert found is not None, page.text
    return found[1]


@pytest.mark.parametrize("who", ["operator", "administrator"])
async def test_a_token_is_made_shown_once_and_revoked(
    operator: httpx.AsyncClient, administrator: httpx.AsyncClient, server: Running, who: str
) -> None:
    client = operator if who == "operator" else administrator
    form = {"tenant": "default", "name": "counts", "access": "metadata", "lifetime": "30d"}
    answer = await client.post("/console/tokens", data=form)
    token = made(answer)
    assert "shown this once" in answer.text
    assert (await lists(server, token), (await server.http.get("/v2/keys", headers=bearer(token))).status_code) == (
        200,
        403,
    )

    page = (await client.get("/console/tokens?tenant=default")).text
    assert ("counts" in page, f"…{token[-4:]}" in page, token in page) == (True, True, False)
    token_id = re.search(r'name="id" value="(\d+)">(?=<input type="hidden" name="name" value="counts")', page)
    assert token_id is not None
    gone = await client.post(
        "/console/tokens/revoke",
        data={"tenant": "default", "id": token_id[1], "name": "counts", "ends_with": token[-4:]},
    )
    assert "counts is revoked" in await said(client, gone)
    assert await eventually(lambda: lists(server, token), lambda status: status == 401)


async def test_what_was_done_with_tokens_stands_in_the_log_of_their_tenant(
    operator: httpx.AsyncClient, administrator: httpx.AsyncClient, connection: Connection
) -> None:
    await administrator.post("/console/tokens", data={"tenant": "default", "name": "a", "access": "full"})
    await operator.post("/console/tokens", data={"tenant": "testUser1", "name": "b", "access": "read-only"})
    noted = {}
    for tenant in ("default", "testUser1"):
        tenant_id = await tenants.find(connection, tenant)
        assert tenant_id is not None
        entries = await audits.page(connection, tenant_id, before=None, limit=9)
        noted[tenant] = [(one.actor.partition(" (")[0], one.action, one.target, one.outcome) for one in entries]
    assert noted == {
        "default": [("test", "make a token", "a (full)", "done")],
        "testUser1": [("the operator", "make a token", "b (read-only)", "done")],
    }


async def test_a_token_that_is_refused_stays_typed(operator: httpx.AsyncClient) -> None:
    answer = await operator.post("/console/tokens", data={"name": "x" * 101, "access": "metadata", "lifetime": "90d"})
    assert (answer.status_code, "1 to 100 printable characters" in answer.text) == (400, True)
    assert re.search(r'value="metadata"\s+checked', answer.text)


async def test_a_tenant_is_told_who_gives_out_tokens(
    visitor: httpx.AsyncClient, reader: httpx.AsyncClient, counter: httpx.AsyncClient
) -> None:
    for client in (visitor, reader, counter):
        page = (await client.get("/console/tokens")).text
        assert ("postroad token create" in page, 'action="/console/tokens' in page) == (True, False)
        assert 'href="/console/tenants"' not in page
        for path, data in (("", {"name": "x", "access": "full"}), ("/revoke", {"id": "1"})):
            answer = await client.post(f"/console/tokens{path}", data={"tenant": "default", **data})
            assert "may not do this" in await said(client, answer)
        for path in ("/console/tenants", "/console/tenants/default"):
            assert (await client.get(path)).status_code == 404
            assert "not found" in await said(client, await client.post(path, data={"name": "x", "back": "/console"}))


async def test_an_administrator_sees_nothing_but_tenants_and_tokens(administrator: httpx.AsyncClient) -> None:
    for path in ("/console", "/console/messages", "/console/keys", "/console/settings", "/console/flow"):
        answer = await administrator.get(path)
        assert (answer.status_code, answer.headers["location"]) == (303, "/console/tokens")
    page = await said(administrator, await administrator.get("/console/tokens"))
    assert all(user.tenant in page for user in dev.DEV_USERS)
    assert "/console/messages" not in page
    for path in ("/console/keys/reveal", "/console/flow/pause", "/console/groups"):
        answer = await administrator.post(path, data={"key": "k", "name": "g", "endpoints": "http://127.0.0.1/"})
        assert answer.headers["location"] == "/console/tokens"


@pytest.mark.parametrize("who", ["operator", "administrator"])
async def test_a_tenant_is_made_and_limited(
    operator: httpx.AsyncClient, administrator: httpx.AsyncClient, server: Running, who: str
) -> None:
    client = operator if who == "operator" else administrator
    answer = await client.post("/console/tenants", data={"name": "shop"})
    assert answer.headers["location"] == "/console/tokens?tenant=shop"
    assert "No token yet" in await said(client, answer)
    token = made(await client.post("/console/tokens", data={"tenant": "shop", "name": "a", "access": "full"}))

    form = {
        "parallelism": "4",
        "maxMessagesPerDay": "0",
        "maxCallsPerSecond": "",
        "destinations": "",
        "failureCallback": "",
    }
    assert "Set: nodes go by it" in await said(client, await client.post("/console/tenants/shop", data=form))
    found = await server.http.get("/v2/globalParallelism", headers=bearer(token))
    assert found.json()["parallelismMax"] == 4
    page = (await client.get("/console/tenants/shop")).text
    assert 'name="parallelism" value="4"' in page
    assert "Nothing was different." in await said(client, await client.post("/console/tenants/shop", data=form))
    await client.post("/console/tenants/shop", data={**form, "parallelism": ""})
    found = await server.http.get("/v2/globalParallelism", headers=bearer(token))
    assert found.json()["parallelismMax"] == 0


@pytest.mark.parametrize(
    ("path", "data", "words"),
    [
        ("", {"name": "a b"}, "1 to 100 letters"),
        ("", {"name": "default"}, "default"),
        ("/default", {"parallelism": "many"}, "parallelism"),
        ("/default", {"destinations": "10.0.0.0/99"}, "10.0.0.0/99"),
    ],
)
async def test_what_is_wrong_is_said_and_stays_typed(
    operator: httpx.AsyncClient, path: str, data: dict[str, str], words: str
) -> None:
    answer = await operator.post(f"/console/tenants{path}", data=data)
    assert (answer.status_code, words in answer.text) == (400, True), answer.text
    assert all(f'value="{value}"' in answer.text for value in data.values())


async def test_nothing_that_is_shown_is_taken_for_markup(operator: httpx.AsyncClient) -> None:
    answer = await operator.post("/console/tokens", data={"name": XSS, "access": "full"})
    pages = [answer.text, (await operator.get("/console/tokens")).text]
    pages.append((await operator.post("/console/tokens", data={"name": XSS, "access": XSS})).text)
    pages.append((await operator.post("/console/tenants", data={"name": XSS})).text)
    pages.append((await operator.post("/console/tenants/default", data={"destinations": XSS})).text)
    pages.append((await operator.get("/console/tokens", params={"tenant": XSS})).text)
    assert "&lt;script&gt;" in pages[1]
    for page in pages:
        assert "<script>alert" not in page
        assert "<img src=x" not in page
