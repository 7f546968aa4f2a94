"""Who comes into the console, and who does not."""

from __future__ import annotations

import re

import httpx
import pytest

from postroad.console import passwords
from postroad.console.gate import COOKIE
from postroad.domain.tenant import Access
from postroad.store import sessions, tokens
from postroad.store.engine import Connection
from tests.conftest import TOKEN, Running, Serve
from tests.console.conftest import SignIn, said
from tests.security.test_tokens import a_token, id_of

OWN = {"Sec-Fetch-Site": "same-origin"}


def browser(server: Running, **headers: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=server.url, headers={**OWN, **headers}, timeout=30)


async def test_whoever_is_not_signed_in_is_asked_to_and_comes_back(server: Running) -> None:
    async with browser(server) as client:
        home = await client.get("/", headers={"Accept": "text/html,*/*"})
        assert (home.status_code, home.headers["location"]) == (303, "/console")
        asked = await client.get("/console/messages", params={"q": "host=x y"})
        assert asked.status_code == 303
        form = await client.get(asked.headers["location"])
        assert '<input id="secret"' in form.text
        back = re.search(r'name="back" value="([^"]*)"', form.text)
        assert back is not None
        answer = await client.post("/console/login", data={"secret": TOKEN, "back": back[1].replace("&amp;", "&")})
        assert (answer.status_code, answer.headers["location"]) == (303, "/console/messages?q=host%3Dx+y")
        assert (await client.get(answer.headers["location"])).status_code == 200


@pytest.mark.parametrize(
    "back",
    ["https://evil.example/", "//evil.example", "/console@evil.example", "/console\\evil", "/v2/keys", "\t/console"],
)
async def test_nobody_is_sent_elsewhere(server: Running, back: str) -> None:
    async with browser(server) as client:
        answer = await client.post("/console/login", data={"secret": TOKEN, "back": back})
        assert answer.headers["location"] == "/console"


async def test_what_is_wrong_is_said_and_no_cookie_is_given(server: Running, connection: Connection) -> None:
    async with browser(server) as client:
        for secret, status, words in (
            ("nonsense", 401, "Nobody has this token or password."),
            (await a_token(connection, Access.PUBLISH_ONLY), 403, "this token is publish-only"),
            ("", 401, "Nobody has this token"),
        ):
            answer = await client.post("/console/login", data={"secret": secret})
            assert (answer.status_code, words in answer.text) == (status, True), answer.text
        assert not client.cookies


async def test_guesses_are_throttled_as_those_of_the_api(server: Running, connection: Connection) -> None:
    async with connection.transaction():
        await sessions.set_password(connection, passwords.hashed("the right password"))
    async with browser(server) as client:
        answers = [await client.post("/console/login", data={"secret": f"wrong {n}"}) for n in range(12)]
        assert [answer.status_code for answer in answers] == [401] * 10 + [429] * 2
        late = await client.post("/console/login", data={"secret": "the right password"})
        assert late.status_code == 429


async def test_the_cookie_is_for_this_site_and_no_script(server: Running) -> None:
    async with browser(server, **{"X-Forwarded-Proto": "https"}) as client:
        answer = await client.post("/console/login", data={"secret": TOKEN})
        cookie = answer.headers["set-cookie"].lower()
        assert all(part in cookie for part in ("httponly", "samesite=lax", "path=/console", "secure", COOKIE))
        assert TOKEN.lower() not in cookie


async def test_signing_out_ends_the_session_for_everybody(sign_in: SignIn, server: Running) -> None:
    client = await sign_in(TOKEN)
    cookie = client.cookies[COOKIE]
    assert (await client.get("/console")).status_code == 200
    await client.post("/console/logout")
    async with browser(server) as other:
        other.cookies.set(COOKIE, cookie, path="/console")
        assert (await other.get("/console")).status_code == 303


async def test_a_revoked_token_ends_its_sessions_at_once(sign_in: SignIn, connection: Connection) -> None:
    token = await a_token(connection)
    client = await sign_in(token)
    assert (await client.get("/console")).status_code == 200
    await tokens.revoke(connection, await id_of(connection, token))
    assert (await client.get("/console")).status_code == 303


async def test_the_operator_signs_in_with_the_password_and_turns_to_tenants(
    sign_in: SignIn, connection: Connection
) -> None:
    password = passwords.new_password()
    async with connection.transaction():
        await sessions.set_password(connection, passwords.hashed(password))
    client = await sign_in(password)
    page = (await client.get("/console")).text
    assert "Nodes that deliver" in page
    assert 'value="default"' in page
    assert (await client.post("/console/tenant", data={"tenant": "testUser1"})).status_code == 303
    assert 'value="testUser1"' in (await client.get("/console")).text
    assert (await client.post("/console/tenant", data={"tenant": "nobody"})).status_code == 404
    async with connection.transaction():
        await sessions.set_password(connection, passwords.hashed("another"))
    assert (await client.get("/console")).status_code == 303


async def test_a_tenant_cannot_turn_to_another(visitor: httpx.AsyncClient) -> None:
    assert (await visitor.post("/console/tenant", data={"tenant": "testUser1"})).status_code == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "", "Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:1"},
        {},
    ],
    ids=str,
)
async def test_another_site_cannot_act(server: Running, sign_in: SignIn, headers: dict[str, str]) -> None:
    message = await server.publish("http://127.0.0.1:9/x", Upstash_Delay="1h")
    client = await sign_in(TOKEN)
    async with httpx.AsyncClient(base_url=server.url, cookies=client.cookies, timeout=30) as other:
        for path in (f"/console/messages/{message}/cancel", "/console/login", "/console/tenant"):
            answer = await other.post(path, headers=headers, data={"secret": TOKEN, "tenant": "default"})
            assert answer.status_code == 403, path
            assert "set-cookie" not in answer.headers
    assert await server.states(message) == ["CREATED"]
    own = {"Origin": server.url}
    async with httpx.AsyncClient(base_url=server.url, cookies=client.cookies, headers=own, timeout=30) as old_browser:
        assert (await old_browser.post(f"/console/messages/{message}/cancel")).status_code == 303
    assert await server.settled(message, "CANCELED")


async def test_dev_opens_by_itself_on_this_machine_only(serve: Serve) -> None:
    server = await serve(dev=True)
    async with browser(server) as client:
        assert (await client.get("/console")).status_code == 200
        for host in ("evil.example", "127.0.0.1.evil.example", "10.0.0.1", ""):
            assert (await client.get("/console", headers={"Host": host})).status_code in (303, 400), host


async def test_under_dev_whoever_signed_in_can_sign_out(serve: Serve) -> None:
    server = await serve(dev=True)
    async with httpx.AsyncClient(base_url=server.url, headers={"Origin": server.url}, verify=False) as browser:
        assert "Sign out" not in (await browser.get("/console")).text
        await browser.post("/console/login", data={"secret": TOKEN})
        assert "Sign out" in (await browser.get("/console")).text


async def test_every_answer_says_what_a_browser_may_do_with_it(visitor: httpx.AsyncClient, server: Running) -> None:
    async with browser(server) as stranger:
        answers = [
            await stranger.get("/console/login"),
            await stranger.get("/console"),
            await visitor.get("/console"),
            await visitor.get("/console/nowhere"),
            await visitor.get("/console/static/console.css"),
            await visitor.get("/console/static/../app.py"),
        ]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert [answer.headers["cache-control"] for answer in answers[:4]] == ["no-store"] * 4
    assert "immutable" in answers[4].headers["cache-control"]
    assert answers[5].status_code == 404


async def test_a_page_that_is_not_there_is_not_found(visitor: httpx.AsyncClient) -> None:
    for path in ("/console/nowhere", "/console/messages/msg_1111111111111111111111", "/console/static/nothing.js"):
        assert (await visitor.get(path)).status_code == 404, path


async def test_what_was_done_is_said_once(visitor: httpx.AsyncClient, server: Running) -> None:
    message = await server.publish("http://127.0.0.1:9/x", Upstash_Delay="1h")
    answer = await visitor.post(f"/console/messages/{message}/cancel")
    assert "It is canceled" in await said(visitor, answer)
    assert "It is canceled" not in (await visitor.get(f"/console/messages/{message}")).text
