"""How deliveries are signed: each attempt anew, with the keys of that moment, and by Standard Webhooks if asked for."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import jwt

from postroad.domain.signature import standard_webhooks_secret
from tests.conftest import KEYS, Running, Serve
from tests.domain.test_signature import verified
from tests.receiver import Received, Receiver, hold, ok, status

LARGE = b"x" * 70_000
UNDER_WAY = 32
"""How many large messages one destination may have under way at a time."""
MANY = UNDER_WAY + 8


def claims(request: Received, key: str) -> dict[str, Any]:
    """What the token says. Raises if another key has signed it."""
    token = request.header("Upstash-Signature")
    assert token is not None
    return jwt.decode(token, key, algorithms=["HS256"])


def webhook_headers(request: Received) -> dict[str, str]:
    return {name: value for name, value in request.headers if name.startswith("Webhook-")}


async def attempts(server: Running, receiver: Receiver, **headers: str) -> tuple[Received, Received]:
    """Two attempts at one message."""
    receiver.script("/", status(500), ok())
    message = await server.publish(receiver.url(), b"hello", Upstash_Retries="1", **headers)
    first = await receiver.next_request()
    await server.settled(message, "RETRY")
    await server.time_passes(timedelta(minutes=1))
    return first, await receiver.next_request()


async def test_every_attempt_has_a_token_of_its_own(server: Running, receiver: Receiver) -> None:
    first, second = (claims(request, KEYS.current) for request in await attempts(server, receiver))

    assert first["jti"] != second["jti"]
    assert first["exp"] - first["iat"] == second["exp"] - second["iat"] == 300
    assert first["iat"] <= second["iat"]


async def test_a_retry_is_signed_with_the_key_of_its_time(server: Running, receiver: Receiver) -> None:
    receiver.script("/", status(500), ok())
    message = await server.publish(receiver.url(), b"hello", Upstash_Retries="1")
    claims(await receiver.next_request(), KEYS.current)
    await server.settled(message, "RETRY")
    assert (await server.http.post("/v2/keys/rotate")).is_success
    await server.time_passes(timedelta(minutes=1))

    claims(await receiver.next_request(), KEYS.next)


async def test_what_waited_for_its_turn_is_signed_with_the_key_of_when_it_is_sent(
    server: Running, receiver: Receiver
) -> None:
    """Large bodies wait until others are through; that may take hours."""
    may_end = asyncio.Event()
    receiver.script("/", hold(may_end))
    await asyncio.gather(*(server.publish(receiver.url(), LARGE) for _ in range(MANY)))
    await receiver.wait_for(UNDER_WAY)
    assert (await server.http.post("/v2/keys/rotate")).is_success
    assert len(receiver.requests()) == UNDER_WAY
    may_end.set()

    for request in (await receiver.wait_for(MANY))[UNDER_WAY:]:
        claims(request, KEYS.next)


async def test_standard_webhooks_stand_beside_the_signature(serve: Serve, receiver: Receiver) -> None:
    server = await serve(standard_webhooks=True)
    forged = {"Upstash_Forward_Webhook_Id": "forged", "Upstash_Forward_webhook_signature": "v1,forged"}

    first, second = await attempts(server, receiver, **forged)

    for request in (first, second):
        headers = webhook_headers(request)
        assert [name for name, _ in request.headers].count("Webhook-Id") == 1
        assert headers["Webhook-Id"] == request.header("Upstash-Message-Id")
        assert int(headers["Webhook-Timestamp"]) == claims(request, KEYS.current)["iat"]
        for key in (KEYS.current, KEYS.next):
            assert verified(standard_webhooks_secret(key), headers, b"hello")
    assert webhook_headers(first)["Webhook-Id"] == webhook_headers(second)["Webhook-Id"]


async def test_without_being_asked_for_they_are_not_there_and_belong_to_publishers(
    server: Running, receiver: Receiver
) -> None:
    await server.publish(receiver.url())
    assert webhook_headers(await receiver.next_request()) == {}
    await server.publish(receiver.url(), Upstash_Forward_Webhook_Id="mine")
    assert webhook_headers(await receiver.next_request()) == {"Webhook-Id": "mine"}
