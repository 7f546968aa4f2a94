"""Accepting: what is taken in, and what is refused with which words."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from postroad.domain.ids import IdMint, message_text
from postroad.domain.tenant import Access
from postroad.store import tokens
from postroad.store.engine import Connection
from postroad.store.tenants import find
from tests.conftest import TOKEN, Running, Serve
from tests.receiver import Receiver

GOOD = "http://127.0.0.1:9/x"

REFUSED: list[tuple[str, str, dict[str, str], int, str]] = [
    ("a scheme that is not HTTP", "ftp://example.com/x", {}, 400,
     "invalid destination url: endpoint has invalid scheme, add http:// or https://"),
    ("an encoded destination", "https%3A%2F%2Fexample.com", {}, 400,
     "invalid destination url: endpoint has invalid scheme, add http:// or https://"),
    ("an unknown URL group", "no-such-group", {}, 404, "topic no-such-group not found"),
    ("no destination", "", {}, 400, "a non-empty destination must be provided"),
    ("a host that is no host", "http://exa mple.com/", {}, 400, "destination"),
    ("a bad duration", GOOD, {"Upstash-Delay": "5 minutes"}, 400, "Upstash-Delay"),
    ("a negative duration", GOOD, {"Upstash-Delay": "-5s"}, 400, "Upstash-Delay"),
    ("a delay over the limit", GOOD, {"Upstash-Delay": "1000d"}, 400, "quota maxDelay exceeded, current limit: 316"),
    ("a not-before that is no number", GOOD, {"Upstash-Not-Before": "tomorrow"}, 400, "Upstash-Not-Before"),
    ("a not-before over the limit", GOOD, {"Upstash-Not-Before": "99999999999"}, 400, "quota maxDelay exceeded"),
    ("negative retries", GOOD, {"Upstash-Retries": "-1"}, 400, "Upstash-Retries"),
    ("too many retries", GOOD, {"Upstash-Retries": "100000"}, 400, "quota maxRetries exceeded, current limit: 1000"),
    ("a bad retry expression", GOOD, {"Upstash-Retry-Delay": "pow(2,"}, 400, "Upstash-Retry-Delay"),
    ("an expression that divides by zero", GOOD, {"Upstash-Retry-Delay": "1000/retried"}, 400, "Upstash-Retry-Delay"),
    ("an invalid method", GOOD, {"Upstash-Method": "BREW"}, 400, "Upstash-Method"),
    ("CONNECT", GOOD, {"Upstash-Method": "CONNECT"}, 400, "one of POST, GET, PUT, PATCH, DELETE"),
    ("a timeout of nothing", GOOD, {"Upstash-Timeout": "0s"}, 400, "Upstash-Timeout"),
    ("a colon in a deduplication id", GOOD, {"Upstash-Deduplication-Id": "a:b"}, 400,
     "DeduplicationId cannot contain ':'"),
    ("a boolean that is none", GOOD, {"Upstash-Content-Based-Deduplication": "perhaps"}, 400,
     "Upstash-Content-Based-Deduplication"),
    ("a callback without a scheme", GOOD, {"Upstash-Callback": "example.com"}, 400, "Upstash-Callback"),
    ("a callback option without a callback", GOOD, {"Upstash-Callback-Retries": "1"}, 400, "Upstash-Callback"),
    ("a bad option of a callback", GOOD, {"Upstash-Callback": GOOD, "Upstash-Callback-Retries": "x"}, 400,
     "Upstash-Callback-Retries"),
    ("an unknown redaction", GOOD, {"Upstash-Redact-Fields": "everything"}, 400, "Upstash-Redact-Fields"),
    ("a queue name with a blank", GOOD, {"Upstash-Queue-Name": "a b"}, 400, "Upstash-Queue-Name"),
    ("a flow-control key without limits", GOOD, {"Upstash-Flow-Control-Key": "k"}, 400, "Upstash-Flow-Control-Value"),
    ("limits without a flow-control key", GOOD, {"Upstash-Flow-Control-Value": "rate=1"}, 400,
     "Upstash-Flow-Control-Key"),
    ("a parallelism of none", GOOD, {"Upstash-Flow-Control-Key": "k", "Upstash-Flow-Control-Value": "parallelism=0"},
     400, "Upstash-Flow-Control-Value"),
    ("a period without a limit", GOOD, {"Upstash-Flow-Control-Key": "k", "Upstash-Flow-Control-Value": "period=5"},
     400, "Upstash-Flow-Control-Value"),
    ("a callback with a queue", GOOD, {"Upstash-Callback": GOOD, "Upstash-Callback-Queue-Name": "q"}, 400,
     "Upstash-Callback-Queue-Name"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("destination", "headers", "code", "words"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED]
)
async def test_bad_input_is_refused_and_nothing_is_stored(
    server: Running, connection: Connection, destination: str, headers: dict[str, str], code: int, words: str
) -> None:
    answer = await server.http.post(f"/v2/publish/{destination}", headers=headers)

    assert answer.status_code == code, answer.text
    assert words in answer.json()["error"]
    assert await connection.fetchval("select count(*) from messages") == 0


@pytest.mark.parametrize("authorization", ["", "Bearer", "Bearer wrong", "Basic abc", f"Bearer {TOKEN[:-1]}"], ids=repr)
async def test_without_a_known_token_nothing_is_accepted(server: Running, authorization: str) -> None:
    answer = await server.http.post(f"/v2/publish/{GOOD}", headers={"Authorization": authorization})

    assert answer.status_code == 401
    assert answer.json() == {"error": "unable to authenticate: invalid token"}


async def test_a_header_line_cannot_be_smuggled_through_a_value(server: Running, receiver: Receiver) -> None:
    """httpx refuses to send such a value, so this speaks to the socket; the parameter form reaches our own check."""
    reader, writer = await asyncio.open_connection(*server.url.removeprefix("http://").split(":"))
    writer.write(
        f"POST /v2/publish/{receiver.url()} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
        "Upstash-Forward-X: a\x00b\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
    )
    raw = await reader.read()
    writer.close()
    parameter = await server.http.post(f"/v2/publish/{receiver.url()}?upstash-forward-x=a%0D%0AInjected:%201")

    assert raw.startswith(b"HTTP/1.1 400")
    assert parameter.status_code == 400
    assert "Upstash-Forward-X" in parameter.json()["error"]
    assert receiver.requests() == []


@pytest.mark.parametrize("chunked", [False, True], ids=["announced", "while streaming"])
async def test_an_oversize_body_is_refused(serve: Serve, connection: Connection, *, chunked: bool) -> None:
    server = await serve(max_body_bytes=1000)

    async def pieces() -> Any:
        for _ in range(11):
            yield b"x" * 100

    body = pieces() if chunked else b"x" * 1001
    answer = await server.http.post(f"/v2/publish/{GOOD}", content=body)

    assert answer.status_code == 413
    assert "quota maxMessageSize exceeded, current limit: 1000 bytes" in answer.json()["error"]
    assert await connection.fetchval("select count(*) from messages") == 0


async def test_a_body_at_the_limit_is_accepted(serve: Serve, receiver: Receiver) -> None:
    server = await serve(max_body_bytes=1000)

    await server.publish(receiver.url(), b"x" * 1000)

    assert len((await receiver.next_request()).body) == 1000


async def test_a_new_message_is_201_and_a_duplicate_202_with_the_first_id(server: Running, receiver: Receiver) -> None:
    headers = {"Upstash-Deduplication-Id": "order-1"}

    first = await server.http.post(f"/v2/publish/{receiver.url()}", headers=headers)
    second = await server.http.post(f"/v2/publish/{receiver.url()}", headers=headers)

    assert (first.status_code, second.status_code) == (201, 202)
    assert second.json() == {"messageId": first.json()["messageId"], "deduplicated": True}
    assert "deduplicated" not in first.json()
    await server.settled(first.json()["messageId"])
    assert len(receiver.requests()) == 1


async def test_a_storm_of_equal_ids_has_one_winner_that_all_agree_on(server: Running, receiver: Receiver) -> None:
    headers = {"Upstash-Deduplication-Id": "storm"}

    answers = await asyncio.gather(
        *(server.http.post(f"/v2/publish/{receiver.url()}", headers=headers) for _ in range(64))
    )

    assert sorted(answer.status_code for answer in answers) == [201] + [202] * 63
    assert len({answer.json()["messageId"] for answer in answers}) == 1
    await receiver.next_request()
    await server.drain()
    assert len(receiver.requests()) == 1


async def test_a_deduplication_id_is_free_again_after_the_window(server: Running, receiver: Receiver) -> None:
    from datetime import timedelta

    first = await server.publish(receiver.url(), Upstash_Deduplication_Id="again")
    await server.time_passes(timedelta(minutes=9, seconds=59))
    assert await server.publish(receiver.url(), Upstash_Deduplication_Id="again") == first
    await server.time_passes(timedelta(seconds=2))

    assert await server.publish(receiver.url(), Upstash_Deduplication_Id="again") != first


@pytest.mark.parametrize("spelling", ["true", "True"])
async def test_equal_content_is_a_duplicate_and_any_difference_is_not(
    server: Running, receiver: Receiver, spelling: str
) -> None:
    async def publish(path: str = "/", body: bytes = b"a", **headers: str) -> str:
        return await server.publish(receiver.url(path), body, Upstash_Content_Based_Deduplication=spelling, **headers)

    first = await publish()

    assert await publish() == first
    others = [
        await publish(path="/other"),
        await publish(body=b"b"),
        await publish(Content_Type="text/plain"),
        await publish(Upstash_Forward_X="1"),
    ]
    assert len({first, *others}) == 5


async def test_two_tenants_do_not_share_deduplication_ids(server: Running, receiver: Receiver) -> None:
    from postroad.dev import DEV_USERS

    first = await server.publish(receiver.url(), Upstash_Deduplication_Id="x")

    assert (
        await server.publish(receiver.url(), Upstash_Deduplication_Id="x", Authorization=f"Bearer {DEV_USERS[1].token}")
        != first
    )


async def test_options_can_be_query_parameters_which_do_not_reach_the_destination(
    server: Running, receiver: Receiver
) -> None:
    url = receiver.url("/hook?z=1&a=%20&upstash-method=PUT&upstash-forward-x-y=v%201&qstash_token=" + TOKEN)

    answer = await server.http.post(f"/v2/publish/{url}", headers={"Authorization": ""})

    assert answer.status_code == 201, answer.text
    request = await receiver.next_request()
    assert (request.method, request.target, request.header("X-Y")) == ("PUT", "/hook?z=1&a=%20", "v 1")


async def test_a_header_counts_more_than_a_query_parameter(server: Running, receiver: Receiver) -> None:
    await server.publish(receiver.url("/?upstash-method=PUT"), Upstash_Method="PATCH")

    assert (await receiver.next_request()).method == "PATCH"


async def test_header_forward_sends_the_publishers_headers_but_not_its_credentials(
    server: Running, receiver: Receiver
) -> None:
    await server.publish(
        receiver.url(), Upstash_Header_Forward="true", X_Custom="1", Cookie="secret=1", Upstash_Telemetry_Sdk="x"
    )

    request = await receiver.next_request()
    assert request.header("X-Custom") == "1"
    assert request.header("Authorization") is None
    assert request.header("Cookie") is None
    assert request.header("Upstash-Telemetry-Sdk") is None


async def test_headers_without_the_prefix_stay_behind(server: Running, receiver: Receiver) -> None:
    await server.publish(receiver.url(), X_Custom="1", Upstash_Signature="forged", Upstash_Telemetry_Sdk="x")

    request = await receiver.next_request()
    assert request.header("X-Custom") is None
    assert request.header("Upstash-Telemetry-Sdk") is None
    assert [value for name, value in request.headers if name == "Upstash-Signature"] != ["forged"]


@pytest.mark.parametrize(
    "path",
    ["/v2/publish/{}", "//v2/publish/{}", "/V2/Publish/{}"],
    ids=["plain", "with a doubled slash", "in capitals"],
)
async def test_paths_are_read_as_clients_write_them(server: Running, receiver: Receiver, path: str) -> None:
    reader, writer = await asyncio.open_connection(*server.url.removeprefix("http://").split(":"))
    target = path.format(receiver.url("/a//b?x=1"))
    writer.write(
        f"POST {target} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 0\r\n"
        "Connection: close\r\n\r\n".encode()
    )

    assert (await reader.read()).startswith(b"HTTP/1.1 201")
    writer.close()
    assert (await receiver.next_request()).target == "/a//b?x=1"


async def test_a_scheme_that_a_proxy_collapsed_is_repaired(server: Running, receiver: Receiver) -> None:
    await server.publish(receiver.url("/a").replace("://", ":/"))

    assert (await receiver.next_request()).target == "/a"


async def test_publishing_with_another_method_is_405(server: Running) -> None:
    answer = await server.http.get(f"/v2/publish/{GOOD}")

    assert answer.status_code == 405
    assert "error" in answer.json()


@pytest.mark.parametrize(
    ("access", "codes"),
    [(Access.READ_ONLY, (403, 200, 403)), (Access.PUBLISH_ONLY, (201, 403, 403)), (Access.FULL, (201, 200, 200))],
)
async def test_a_token_reaches_as_far_as_its_access(
    server: Running, connection: Connection, receiver: Receiver, access: Access, codes: tuple[int, int, int]
) -> None:
    tenant_id = await find(connection, "default")
    assert tenant_id is not None
    await tokens.add(connection, tenant_id, "some-token", name="test", access=access)
    headers = {"Authorization": "Bearer some-token"}

    answers = [
        await server.http.post(f"/v2/publish/{receiver.url()}", headers=headers),
        await server.http.get("/v2/events", headers=headers),
        await server.http.get("/v2/keys", headers=headers),
    ]

    assert tuple(answer.status_code for answer in answers) == codes


async def test_where_messages_may_go_is_a_setting(serve: Serve, receiver: Receiver) -> None:
    server = await serve(destinations="public")

    answer = await server.http.post(f"/v2/publish/{receiver.url()}")
    callback = await server.http.post(
        "/v2/publish/http://93.184.216.34/", headers={"Upstash-Callback": receiver.url(), "Upstash-Delay": "1h"}
    )

    assert answer.status_code == 400
    assert answer.json()["error"].startswith(
        "invalid destination url: endpoint resolves to a loopback address: 127.0.0.1"
    )
    assert "POSTROAD_DESTINATIONS" in answer.json()["error"]
    assert callback.status_code == 400
    assert "loopback" in callback.json()["error"]


async def test_a_full_intake_says_so_instead_of_waiting(serve: Serve, receiver: Receiver) -> None:
    server = await serve(max_waiting=1)

    answers = await asyncio.gather(
        *(server.http.post(f"/v2/publish/{receiver.url()}", content=b"x") for _ in range(100))
    )

    codes = {answer.status_code for answer in answers}
    assert codes <= {201, 503}
    assert 503 in codes
    assert all(answer.headers["Retry-After"] == "1" for answer in answers if answer.status_code == 503)
    await receiver.wait_for(sum(answer.status_code == 201 for answer in answers))


async def test_the_head_of_a_request_is_bounded(server: Running) -> None:
    reader, writer = await asyncio.open_connection(*server.url.removeprefix("http://").split(":"))
    writer.write(b"GET /v2/keys HTTP/1.1\r\nHost: x\r\nX-Long: ")
    writer.write(b"x" * 70 * 1024)

    assert (await reader.read()).startswith(b"HTTP/1.1 431")
    writer.close()
    many = await server.http.get("/v2/keys", headers={f"X-{n}": "1" for n in range(300)})
    assert many.status_code == 431
    assert "headers" in many.json()["error"]


@pytest.mark.parametrize("target", ["/v2/publish/http://x/\u00e9".encode(), b"/v2/publish/http://x/ y"])
async def test_what_is_not_http_is_refused_in_the_shape_of_errors(server: Running, target: bytes) -> None:
    reader, writer = await asyncio.open_connection(*server.url.removeprefix("http://").split(":"))
    writer.write(b"POST " + target + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")

    answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 400")
    assert b'{"error":"' in answer


@pytest.mark.parametrize(
    "path",
    ["/v2/", "//v2//", "/v2/events?state=", "/v2/events?label=%00", "/v2/dlq?callerIp=%00", "/v2/events?url=%FF"],
)
async def test_odd_requests_are_answered_and_never_with_500(server: Running, path: str) -> None:
    assert (await server.http.get(path)).status_code in (200, 400, 404)


async def test_tens_of_thousands_of_ids_fit_into_one_call(server: Running) -> None:
    mint = IdMint()
    ids = [message_text(mint.message_id(1)) for _ in range(40_000)]

    answer = await server.http.request("DELETE", "/v2/messages", json={"messageIds": ids})

    assert answer.json() == {"cancelled": 0}
