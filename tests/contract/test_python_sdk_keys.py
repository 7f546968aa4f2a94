"""The official Python client, `qstash` 3.4, unmodified: signing keys, verification, and the transport below it all."""

from __future__ import annotations

import json

import pytest
from qstash.errors import SignatureError

from tests.conftest import eventually
from tests.contract import accounts, python_sdk
from tests.contract.accounts import Account
from tests.contract.python_sdk import Sdk, verify
from tests.moods import status
from tests.receiver import Receiver

pytestmark = pytest.mark.asyncio(loop_scope="module")
node, server, receiver, sdk = accounts.node, accounts.server, accounts.receiver, python_sdk.sdk


async def test_the_signing_keys_are_the_pair_that_deliveries_are_signed_with(
    sdk: Sdk, server: Account, receiver: Receiver
) -> None:
    keys = await sdk("signing_key.get")

    assert (keys.current, keys.next) == (server.keys.current, server.keys.next)
    await sdk("message.publish", url=receiver.url(), body="x")
    verify(await receiver.next_request(), receiver.url(), keys.current, "sig_unused")


async def test_after_one_rotation_the_old_pair_still_verifies_and_after_two_no_more(
    sdk: Sdk, receiver: Receiver
) -> None:
    old = await sdk("signing_key.get")

    new = await sdk("signing_key.rotate")

    assert new.current == old.next
    assert new.next not in (old.current, old.next)
    assert await sdk("signing_key.get") == new
    await sdk("message.publish", url=receiver.url(), body="after one")
    request = await receiver.next_request()
    verify(request, receiver.url(), old.current, old.next)
    verify(request, receiver.url(), new.current, new.next)

    await sdk("signing_key.rotate")
    await sdk("message.publish", url=receiver.url(), body="after two")
    request = await receiver.next_request()
    verify(request, receiver.url(), new.current, new.next)
    with pytest.raises(SignatureError):
        verify(request, receiver.url(), old.current, old.next)


async def test_the_receiver_accepts_what_arrived_and_nothing_else(
    sdk: Sdk, server: Account, receiver: Receiver
) -> None:
    current = server.keys.current
    url = receiver.url("/a%20b?q=1&q=2")
    for body in ("", "grüße 🌍"):
        await sdk("message.publish", url=url, body=body)
        request = await receiver.next_request()

        verify(request, url, current, server.keys.next)
        verify(request, None, "sig_wrong", current)

        with pytest.raises(SignatureError):
            verify(request, url, "sig_wrong", "sig_wrong_too")
        with pytest.raises(SignatureError, match="Invalid subject"):
            verify(request, receiver.url("/a b?q=1&q=2"), current, current)
        with pytest.raises(SignatureError, match="Invalid body hash"):
            verify(request, url, current, current, body=body + " ")


async def test_what_the_client_has_no_method_for_goes_through_its_transport(
    sdk: Sdk, server: Account, receiver: Receiver
) -> None:
    """Retrying a dead letter, say: the client has no method for it."""
    receiver.script("/", status(500), status(200))
    await sdk("message.publish", url=receiver.url(), body="again", retries=0)
    await receiver.next_request()
    [letter] = (await eventually(lambda: sdk("dlq.list"), lambda page: page.messages)).messages

    answer = await sdk(
        "http.request", path=f"/v2/dlq/retry/{letter.dlq_id}", method="POST", headers={"Upstash-Forward-X": "1"},
        body=b"", params={"upstash-label": "again"}, parse_response=True, base_url=server.url,
        token=f"Bearer {server.token}",
    )  # fmt: skip

    request = await receiver.next_request()
    assert (request.body, request.header("X")) == (b"again", "1")
    assert request.header("Upstash-Message-Id") == answer["messageId"]


async def test_an_answer_can_be_read_as_a_stream(sdk: Sdk, server: Account, receiver: Receiver) -> None:
    """What the client read a model's answer with, as long as it had a method for that."""
    answer = await sdk(
        "http.stream", path=f"/v2/publish/{receiver.url('/streamed')}", method="POST", body="x",
        headers={"Upstash-Method": "PUT"}, params={"upstash-label": "a"},
        base_url=server.url, token=f"Bearer {server.token}",
    )  # fmt: skip
    text = b"".join([part async for part in answer.aiter_bytes()]) if sdk.form == "AsyncQStash" else answer.read()

    request = await receiver.next_request("/streamed")
    assert json.loads(text) == {"messageId": request.header("Upstash-Message-Id")}
    assert (request.method, request.body) == ("PUT", b"x")
