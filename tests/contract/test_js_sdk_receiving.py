"""What the official JavaScript clients make of what is delivered: signatures, route helpers, the development mode."""

from __future__ import annotations

import json

import httpx
import pytest

from tests.conftest import Running
from tests.contract import accounts
from tests.contract.accounts import Account
from tests.contract.conftest import Connect
from tests.contract.javascript import NEWEST, OLD, Client, ClientError, Driver, application
from tests.moods import status
from tests.receiver import Received, Receiver

pytestmark = pytest.mark.asyncio(loop_scope="module")
node, server, receiver = accounts.node, accounts.server, accounts.receiver

HELPERS = (
    "nextjs.verifySignatureAppRouter",
    "nextjs.verifySignatureEdge",
    "nextjs.verifySignature",
    "svelte.verifySignatureSvelte",
    "solidjs.verifySignatureSolidjs",
    "h3.verifySignatureH3",
    "nuxt.verifySignatureNuxt",
)

both = pytest.mark.parametrize("package", [NEWEST, OLD], ids=["2.12", "2.7"])


@both
async def test_the_receiver_accepts_what_was_delivered_and_nothing_else(
    connect: Connect, server: Account, receiver: Receiver, package: str
) -> None:
    client, keys = connect(package), server.keys
    url = receiver.url("/signed?q=%20&r=1")
    await client("publishJSON", {"url": url, "body": {"text": "grüße"}})
    request = await receiver.next_request()

    async def refusal(url: str, *keys: str, body: str | None = None) -> str:
        with pytest.raises(ClientError) as thrown:
            await verify(client, request, url, *keys, body=body)
        assert thrown.value.name == "SignatureError"
        return thrown.value.message

    assert await verify(client, request, url, keys.current, keys.next) is True
    assert await verify(client, request, url, "sig_wrong", keys.current) is True
    assert "signature verification failed" in await refusal(url, keys.next, "sig_wrong")
    assert "invalid subject" in await refusal(receiver.url("/signed"), keys.current, keys.next)
    assert "body hash" in await refusal(url, keys.current, keys.next, body='{"text":"other"}')


@both
async def test_receivers_with_the_old_keys_go_on_verifying_after_one_rotation(
    connect: Connect, server: Account, receiver: Receiver, package: str
) -> None:
    client = connect(package)
    old = await client("http.request", {"method": "GET", "path": ["v2", "keys"]})
    assert old == {"current": server.keys.current, "next": server.keys.next}

    new = await client("http.request", {"method": "POST", "path": ["v2", "keys", "rotate"]})

    assert new["current"] == old["next"]
    await client("publish", {"url": receiver.url(), "body": "x"})
    request = await receiver.next_request()
    for pair in (old, new):
        assert await verify(client, request, receiver.url(), pair["current"], pair["next"]) is True


@both
async def test_routes_that_a_helper_protects_take_what_was_signed_and_nothing_else(
    driver: Driver, server: Account, package: str
) -> None:
    for helper in HELPERS:
        # The two that are made for h3 verify the JSON text of the body's text, which is the body when it is empty.
        body = "" if "h3" in helper or "nuxt" in helper else '{"text": "grüße"}'
        route = driver.receiving(package, helper, server.keys.current, server.keys.next)
        closed = driver.receiving(package, helper, "sig_wrong", "sig_wrong_too")

        accepted = await server.publish(route, body, Content_Type="application/json")
        refused = await server.publish(closed, body, Upstash_Retries="0")
        async with httpx.AsyncClient(verify=False) as http:
            unsigned = await http.post(route, content=body)

        assert (await server.settled(accepted))[-1] == "DELIVERED", helper
        assert (await server.settled(refused, "FAILED"))[-1] == "FAILED", helper
        [letter] = await server.dead_letters(messageId=refused)
        assert "signature verification failed" in letter["responseBody"], helper
        assert unsigned.status_code in (400, 403), helper


@both
async def test_bodies_in_a_callback_are_what_the_client_decodes(
    connect: Connect, receiver: Receiver, package: str
) -> None:
    client = connect(package)
    receiver.script("/work", status(200, "schön".encode()))

    await client("publish", {"url": receiver.url("/work"), "body": "grüße", "callback": receiver.url("/callback")})

    report = json.loads((await receiver.next_request("/callback")).body)
    assert await client("decodeBase64", report["sourceBody"]) == "grüße"
    assert await client("decodeBase64", report["body"]) == "schön"


async def test_the_client_takes_the_server_for_a_development_server_that_already_runs(
    driver: Driver, node: Running, receiver: Receiver
) -> None:
    """In its development mode the client asks for the keys with the public token; other keys make it start its own."""
    message = json.dumps({"url": receiver.url(), "body": 1})
    # Without a home it cannot download a server, should it not recognise this one.
    variables = {"QSTASH_DEV": "true", "QSTASH_DEV_PORT": node.url.rpartition(":")[2], "HOME": "/dev/null"}
    async with application("development.mjs", message, environment=variables) as process:
        out, err = await process.communicate()

    assert process.returncode == 0, err.decode()
    *said, published = out.decode().splitlines()
    assert any("already running" in line for line in said)
    assert (await receiver.next_request()).header("Upstash-Message-Id") == json.loads(published)["messageId"]
    driver.called_elsewhere(NEWEST, "startDevServer", "nextjs.registerQStashDev")


async def verify(
    client: Client, request: Received, url: str, current: str, next_: str, *, body: str | None = None
) -> bool:
    """What a `Receiver` with these keys says of a request, or of its signature with another body."""
    verified: bool = await client(
        "Receiver.verify",
        {"currentSigningKey": current, "nextSigningKey": next_},
        {
            "signature": request.header("Upstash-Signature"),
            "body": request.body.decode() if body is None else body,
            "url": url,
        },
    )
    return verified
