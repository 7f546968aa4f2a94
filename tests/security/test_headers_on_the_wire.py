"""Header sets of every kind by every way in: what a strict reader receives is what was asked for, and nothing else."""

from __future__ import annotations

from datetime import timedelta
from urllib.parse import urlsplit

import pytest

from tests.conftest import Running, Serve
from tests.receiver import Receiver
from tests.security.headers_on_the_wire import WAYS, header_sets, judge
from tests.security.strict_http import Ambiguous, parse_head, sink

SETS = 25 * len(WAYS)

HEAD = b"POST /x HTTP/1.1\r\nHost: h\r\nX-A: b\r\nContent-Length: 2\r\n\r\n"


async def test_what_arrives_is_what_was_asked_for_and_nothing_else(serve: Serve) -> None:
    server = await serve(dev=True, max_calls_per_second=0)
    port = urlsplit(server.url).port
    assert port is not None
    async with sink() as place:

        async def ticks() -> None:
            await server.time_passes(timedelta(days=366))

        verdict = await judge(port, place, header_sets(SETS, seed=7), ticks)

    assert place.ambiguous == []
    assert verdict.wrong == []
    assert verdict.refused > SETS / 10
    assert verdict.arrived > SETS / 2


def test_the_strict_reader_reads_what_is_clear() -> None:
    head = parse_head(HEAD)
    assert (head.method, head.target, head.length) == (b"POST", b"/x", 2)
    assert head.headers[1] == (b"X-A", b"b")


@pytest.mark.parametrize(
    ("part", "instead"),
    [
        (b"X-A: b\r\n", b"X-A: b\r\n folded\r\n"),
        (b"X-A: b\r\n", b"X-A: b\nEvil: 1\r\n"),
        (b"X-A: b\r\n", b"X-A: b\rEvil: 1\r\n"),
        (b"X-A: b\r\n", b"X-A: b\0\r\n"),
        (b"X-A: b", b"X-A : b"),
        (b"X-A: b", b"X A: b"),
        (b"X-A: b", b"X-A"),
        (b"X-A: b", b"X-A: b "),
        (b"X-A: b", b"Transfer-Encoding: chunked"),
        (b"X-A: b", b"transfer-encoding: identity"),
        (b"X-A: b", b"Connection: close"),
        (b"X-A: b", b"Host: other"),
        (b"X-A: b", b"Content-Length: 2"),
        (b"X-A: b\r\n", b"Content-Type: a\r\nContent-Type: b\r\n"),
        (b"Host: h\r\n", b""),
        (b"Content-Length: 2\r\n", b""),
        (b"Content-Length: 2", b"Content-Length: +2"),
        (b"Content-Length: 2", b"Content-Length: 02"),
        (b"Content-Length: 2", b"Content-Length: 2, 2"),
        (b"POST /x HTTP/1.1", b"POST  /x HTTP/1.1"),
        (b"POST /x HTTP/1.1", b"POST /x HTTP/1.0"),
        (b"POST /x HTTP/1.1", b"POST http://h/x HTTP/1.1"),
        (b"POST /x HTTP/1.1", b"CONNECT /x HTTP/1.1"),
        (b"\r\n\r\n", b"\n\n"),
    ],
)
def test_the_strict_reader_refuses_what_two_readers_could_read_differently(part: bytes, instead: bytes) -> None:
    assert part in HEAD
    with pytest.raises(Ambiguous):
        parse_head(HEAD.replace(part, instead))


REFUSED: list[tuple[dict[str, str], str]] = [
    ({"X-A": "x" * 8193}, "X-A"),
    ({"a" * 257: "x"}, f"A{'a' * 256}"),
    ({f"X-{n}": "x" for n in range(65)}, "*"),
    ({f"X-{n}": "x" * 8000 for n in range(5)}, "*"),
]


async def test_a_header_that_is_refused_is_named_by_every_way_in(server: Running, receiver: Receiver) -> None:
    for prefix in ("", "Callback-", "Failure-Callback-", "Callback-Failure-Callback-"):
        callbacks = {
            f"Upstash-{place}": receiver.url()
            for place in ("Callback", "Failure-Callback", "Callback-Failure-Callback")
            if prefix.startswith(f"{place}-")
        }
        for headers, named in REFUSED:
            given = callbacks | {f"Upstash-{prefix}Forward-{name}": value for name, value in headers.items()}
            items = [{"destination": receiver.url(), "headers": given}]
            answers = [
                await server.http.post(f"/v2/publish/{receiver.url()}", headers=given),
                await server.http.post(f"/v2/schedules/{receiver.url()}", headers=given | {"Upstash-Cron": "@daily"}),
                await server.http.patch("/v2/topics/group", json={"headers": given}),
                await server.http.post("/v2/batch", json=items),
            ]
            for answer in answers:
                assert answer.status_code == 400
                assert answer.json()["error"].startswith(f"invalid Upstash-{prefix}Forward-{named}: ")


async def test_what_follows_is_neither_for_us_nor_for_proxies(server: Running, receiver: Receiver) -> None:
    ours = {
        "Authorization": server.http.headers["Authorization"],
        "Connection": "close, X-Hop, content-type",
        "Cookie": "session=1",
        "Forwarded": "for=10.0.0.1",
        "Keep-Alive": "5",
        "Proxy-Authorization": "Basic eDp5",
        "TE": "trailers",
        "Via": "1.1 gateway",
        "X-Forwarded-For": "10.0.0.1",
        "X-Hop": "secret",
        "X-Real-Ip": "10.0.0.1",
    }
    given = {**ours, "Upstash-Header-Forward": "true", "X-Custom": "1", "Content-Type": "text/plain"}
    await server.http.post(f"/v2/publish/{receiver.url('/publish')}", headers=given, content=b"x")
    await server.http.post(
        f"/v2/schedules/{receiver.url('/schedule')}", headers=given | {"Upstash-Cron": "* * * * *"}, content=b"x"
    )
    await server.time_passes(timedelta(seconds=61))

    for path in ("/publish", "/schedule"):
        request = await receiver.next_request(path)
        assert request.header("X-Custom") == "1"
        assert request.header("Content-Type") == "text/plain"
        assert [name for name in ours if request.header(name) is not None] == []


async def test_what_is_kept_back_can_be_forwarded_by_name(server: Running, receiver: Receiver) -> None:
    await server.publish(
        receiver.url(), Upstash_Forward_Authorization="Bearer x", Upstash_Forward_X_Forwarded_For="10.0.0.1"
    )
    request = await receiver.next_request()
    assert request.header("Authorization") == "Bearer x"
    assert request.header("X-Forwarded-For") == "10.0.0.1"


async def test_of_a_header_that_is_no_list_the_last_line_counts(server: Running, receiver: Receiver) -> None:
    twice = [(f"Upstash-Forward-{name}", value) for name in ("Content-Type", "X-List") for value in ("a/b", "c/d")]
    await server.http.post(f"/v2/publish/{receiver.url()}", headers=twice)
    request = await receiver.next_request()
    assert [value for name, value in request.headers if name == "Content-Type"] == ["c/d"]
    assert [value for name, value in request.headers if name == "X-List"] == ["a/b", "c/d"]


async def test_a_retried_dead_letter_has_no_more_headers_than_a_message(server: Running, receiver: Receiver) -> None:
    first = {f"Upstash_Forward_A{n}": "x" for n in range(60)}
    message = await server.publish("http://127.0.0.1:1/", Upstash_Retries="0", **first)
    await server.settled(message, "FAILED")
    [letter] = await server.dead_letters()

    answer = await server.http.post(
        f"/v2/dlq/retry/{letter['dlqId']}", headers={f"Upstash-Forward-B{n}": "x" for n in range(5)}
    )

    assert answer.status_code == 400
    assert "invalid Upstash-Forward-*: got '65', expected at most 64 headers" in answer.json()["error"]


async def test_any_label_can_be_sent(server: Running, receiver: Receiver) -> None:
    """One of a batch may hold any character; a header carries bytes."""
    for label in ("plain", "caf\xe9", "\u65e5\u672c", "\U0001f600"):
        items = [{"destination": receiver.url(), "headers": {"Upstash-Label": label}}]
        answer = await server.http.post("/v2/batch", json=items)
        assert answer.is_success, answer.text
        received = (await receiver.next_request()).header("Upstash-Label")
        assert received is not None
        assert received.encode("latin-1") in (label.encode(), label.encode("latin-1", "ignore"))


async def test_a_name_that_is_none_does_not_follow_from_a_batch(server: Running, receiver: Receiver) -> None:
    """HTTP itself carries no such name, but JSON does."""
    for name in ("X Y", "X: a\r\nEvil", "", "a" * 257):
        items = [{"destination": receiver.url(), "headers": {"Upstash-Header-Forward": "true", name: "x"}}]
        answer = await server.http.post("/v2/batch", json=items)
        assert answer.status_code == 400
        assert answer.json()["error"].startswith("invalid headers: ")
