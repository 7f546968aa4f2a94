"""The id of a request: in every answer, and in the log where the server is to blame."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from postroad.store import flow_controls
from tests.conftest import TOKEN, Running
from tests.receiver import Receiver

GOOD = "http://127.0.0.1:9/x"

CALLS = [
    ("POST", f"/v2/publish/{GOOD}", 201),
    ("POST", f"/v2/publish/{GOOD}?upstash-delay=soon", 400),
    ("GET", f"/v2/publish/{GOOD}", 405),
    ("POST", f"/v2/enqueue/q/{GOOD}", 200),
    ("POST", "/v2/batch", 200),
    ("POST", f"/v2/schedules/{GOOD}", 400),
    ("GET", "/v2/keys", 200),
    ("GET", "/v2/messages/msg_none", 404),
    ("GET", "/v2/nowhere", 404),
    ("PUT", "/v2/keys", 405),
    ("GET", "/v2/liveness", 200),
    ("GET", "/openapi.json", 200),
]


@pytest.mark.parametrize(("method", "path", "status"), CALLS, ids=[f"{call[0]} {call[1]}" for call in CALLS])
async def test_every_answer_has_the_id_of_its_request(server: Running, method: str, path: str, status: int) -> None:
    named = await server.http.request(method, path, content=b"[]", headers={"X-Request-Id": "order-7"})
    nameless = [await server.http.request(method, path, content=b"[]") for _ in range(2)]

    assert {answer.status_code for answer in (named, *nameless)} == {status}
    assert named.headers.get_list("X-Request-Id") == ["order-7"]
    ids = [answer.headers["X-Request-Id"] for answer in nameless]
    assert all(len(one) > 20 for one in ids)
    assert ids[0] != ids[1]


async def test_without_a_token_the_answer_has_an_id_as_well(server: Running) -> None:
    for method, path in (("POST", f"/v2/publish/{GOOD}"), ("GET", "/v2/keys")):
        answer = await server.http.request(method, path, headers={"Authorization": "Bearer wrong", "X-Request-Id": "a"})

        assert (answer.status_code, answer.headers["X-Request-Id"]) == (401, "a")


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "caf\xe9", "tab\there"], ids=repr)
async def test_an_id_that_is_not_short_visible_ascii_is_replaced(server: Running, given: str) -> None:
    answer = await server.http.get("/v2/keys", headers=[(b"X-Request-Id", given.encode("latin-1"))])

    assert answer.headers["X-Request-Id"].startswith("req_")


async def test_an_id_of_128_characters_is_kept(server: Running) -> None:
    answer = await server.http.get("/v2/keys", headers={"X-Request-Id": "~" * 128})

    assert answer.headers["X-Request-Id"] == "~" * 128


async def test_what_is_no_http_is_refused_with_an_id(server: Running) -> None:
    reader, writer = await asyncio.open_connection(*server.url.removeprefix("http://").split(":"))
    writer.write(b"BREW / HTCPCP/1.0\r\n\r\n")

    raw = await reader.read()

    writer.close()
    assert raw.startswith(b"HTTP/1.1 400")
    assert b"\r\nX-Request-Id: req_" in raw


async def test_a_defect_is_in_the_log_under_the_id_of_the_request(
    server: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(server.node._intake, "publish", broken)
    monkeypatch.setattr(flow_controls, "overall", broken)

    for method, path in (("POST", f"/v2/publish/{GOOD}"), ("GET", "/v2/globalParallelism")):
        caplog.clear()
        with caplog.at_level(logging.ERROR):
            answer = await server.http.request(method, path, headers={"X-Request-Id": "order-7"})

        assert (answer.status_code, answer.json()) == (500, {"error": "internal error"})
        assert answer.headers["X-Request-Id"] == "order-7"
        [record] = caplog.records
        assert record.getMessage() == "request order-7 failed inside the server"
        assert record.exc_info is not None
        assert record.exc_info[0] is ZeroDivisionError


async def test_the_id_of_a_publish_does_not_follow_to_the_destination(server: Running, receiver: Receiver) -> None:
    await server.publish(receiver.url(), X_Request_Id="order-7", Authorization=f"Bearer {TOKEN}")

    assert (await receiver.next_request()).header("X-Request-Id") is None
