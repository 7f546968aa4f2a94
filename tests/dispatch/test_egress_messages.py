"""What the client writes and what it reads, on uvloop and on asyncio's own loop."""

from __future__ import annotations

import itertools
import os
import tracemalloc
from typing import Any

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroad.dispatch.egress.connection import JOINED_BYTES
from postroad.dispatch.egress.request import OURS, UnwritableError, head
from postroad.dispatch.egress.response import ResponseLimits, ResponseReader
from postroad.domain.reply import NoResponse, Response
from tests.egress import OK, client, on_both_loops, reply_to, to
from tests.receiver import (
    Mood,
    Receiver,
    answer,
    chunked,
    endless_headers,
    huge,
    in_pieces,
    ok,
    raw,
    redirect,
)

# What goes out


@on_both_loops
async def test_a_request_arrives_as_it_was_given() -> None:
    async with Receiver() as receiver, client() as egress:
        headers = [("X-One", "1"), ("x-two", "a: b, c"), ("X-One", ""), ("Content-Type", "text/plain; charset=\xe9\t;")]
        assert await egress.send(to(receiver.url("//a%2Fb/../c?x=1&y=%20#z"), "PUT", b"hello", headers)) == OK
        received = await receiver.next_request()
    assert (received.method, received.target, received.body) == ("PUT", "//a%2Fb/../c?x=1&y=%20", b"hello")
    assert received.headers == [
        ("Host", f"127.0.0.1:{receiver.port}"),
        *headers,
        ("Accept-Encoding", "identity"),
        ("Content-Length", "5"),
    ]


@pytest.mark.parametrize(
    ("method", "length"),
    [("POST", "0"), ("PUT", "0"), ("PATCH", "0"), ("GET", None), ("DELETE", None), ("OPTIONS", None)],
)
@on_both_loops
async def test_a_request_without_a_body_states_its_length_only_where_a_body_is_expected(
    method: str, length: str | None
) -> None:
    async with Receiver() as receiver, client() as egress:
        assert await egress.send(to(receiver.url(), method)) == OK
        received = await receiver.next_request()
    assert received.header("Content-Length") == length
    assert received.header("Transfer-Encoding") is None
    assert received.method == method


@on_both_loops
async def test_the_answer_to_head_has_no_body() -> None:
    assert await reply_to(raw(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"), method="HEAD") == Response(
        200, (("Content-Length", "5"),), b""
    )


@on_both_loops
async def test_the_caller_may_choose_the_accepted_encodings() -> None:
    async with Receiver() as receiver, client() as egress:
        await egress.send(to(receiver.url(), headers=[("accept-encoding", "gzip")]))
        received = await receiver.next_request()
    assert [value for name, value in received.headers if name.lower() == "accept-encoding"] == ["gzip"]


@pytest.mark.parametrize("size", [1, JOINED_BYTES, JOINED_BYTES + 1, 1_000_000, 20_000_000])
@on_both_loops
async def test_a_body_arrives_byte_by_byte(size: int) -> None:
    body = os.urandom(size)
    async with Receiver() as receiver, client() as egress:
        assert await egress.send(to(receiver.url(), body=body)) == OK
        received = await receiver.next_request()
    assert received.body == body


@pytest.mark.parametrize(
    "header",
    [
        ("X-A", "b\r\nEvil: 1"),
        ("X-A", "b\nEvil: 1"),
        ("X-A", "b\rEvil: 1"),
        ("X-A", "b\x00"),
        ("X-A", "b\x7f"),
        ("X-A", "b\x1b"),
        ("X-A", "b\r\n"),
        ("X-A", "b\r\n\r\nGET / HTTP/1.1"),
        ("X-A", "\u20ac"),
        ("X-A", "\u010d\u010a"),  # their low bytes are CR and LF
        ("X-A\r\nEvil", "1"),
        ("X-A: b\r\nEvil", "1"),
        ("X A", "b"),
        ("X-A ", "b"),
        ("X-A:", "b"),
        ("Host: x", "b"),
        ("", "b"),
        ("X-\u00e4", "b"),
        ("X-%s\n", "b"),
        *((name, "1") for name in sorted(OURS)),
        ("CONTENT-LENGTH", "3"),
        ("Transfer-Encoding", "chunked"),
    ],
)
@on_both_loops
async def test_a_header_that_could_change_the_request_is_refused_before_anything_is_sent(
    header: tuple[str, str],
) -> None:
    async with Receiver() as receiver, client() as egress:
        reply = await egress.send(to(receiver.url(), body=b"x", headers=[("X-Before", "1"), header, ("X-After", "2")]))
        assert isinstance(reply, NoResponse)
        assert reply.reason.startswith("invalid header ")
        assert reply.reason.isprintable()
        assert receiver.requests() == []
        assert receiver.open_connections == 0


@pytest.mark.parametrize("method", ["CONNECT", "TRACE", "post", "GET /x HTTP/1.1\r\nX: y\r\n\r\nGET", "", "G T"])
@on_both_loops
async def test_a_method_that_is_no_method_of_a_message_is_refused(method: str) -> None:
    async with Receiver() as receiver, client() as egress:
        reply = await egress.send(to(receiver.url(), method))
        assert isinstance(reply, NoResponse)
        assert reply.reason.startswith("invalid method ")
        assert receiver.requests() == []


a_name = st.from_regex(r"\A[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,20}\Z") | st.text(max_size=10)
a_value = st.text(st.characters(max_codepoint=0x17F), max_size=30)


@given(st.lists(st.tuples(a_name, a_value), max_size=8), st.sampled_from(["GET", "POST"]), st.binary(max_size=20))
def test_whatever_the_headers_an_independent_parser_reads_the_same_request_or_it_is_refused(
    headers: list[tuple[str, str]], method: str, body: bytes
) -> None:
    try:
        written = head(to("http://h:8/p?q", method, body, headers))
    except UnwritableError:
        return
    parser = h11.Connection(h11.SERVER)
    parser.receive_data(written + body)
    parser.receive_data(b"")
    request, *data, end = _events(parser)
    assert isinstance(request, h11.Request)
    assert isinstance(end, h11.EndOfMessage)
    assert (request.method.decode(), request.target) == (method, b"/p?q")
    read = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers.raw_items()]
    ours = ("host", "accept-encoding", "content-length")
    assert [pair for pair in read if pair[0].lower() not in ours] == [
        (name, value.strip(" \t")) for name, value in headers if name.lower() not in ours
    ]
    assert b"".join(bytes(part.data) for part in data if isinstance(part, h11.Data)) == body


def _events(parser: h11.Connection) -> list[Any]:
    events: list[Any] = []
    while not events or not isinstance(events[-1], h11.EndOfMessage):
        events.append(parser.next_event())
    return events


# What comes back


@pytest.mark.parametrize("code", [200, 201, 204, 299, 302, 304, 400, 429, 489, 500, 503, 599, 999])
@on_both_loops
async def test_every_final_status_is_an_answer(code: int) -> None:
    reply = await reply_to(raw(b"HTTP/1.1 %d Whatever\r\nContent-Length: 0\r\n\r\n" % code))
    assert reply == Response(code, (("Content-Length", "0"),), b"")


@on_both_loops
async def test_a_redirect_is_an_answer_and_is_not_followed() -> None:
    async with Receiver() as receiver, client() as egress:
        receiver.script("/", redirect(receiver.url("/elsewhere")))
        reply = await egress.send(to(receiver.url()))
        assert isinstance(reply, Response)
        assert reply.status == 302
        assert receiver.requests("/elsewhere") == []


@on_both_loops
async def test_headers_come_back_as_they_are_in_order_and_byte_by_byte() -> None:
    headers = [("X-a", "1"), ("Set-Cookie", "a=b"), ("set-cookie", "c=d"), ("X-Empty", ""), ("X-Latin", "\xff\x80\xe9")]
    reply = await reply_to(ok(headers=headers))
    assert reply == Response(200, (("Content-Length", "2"), *headers), b"ok")


@on_both_loops
async def test_blanks_around_a_value_are_not_part_of_it() -> None:
    reply = await reply_to(raw(b"HTTP/1.1 200 OK\r\nX-A: \t a b \t\r\nContent-Length:2 \r\n\r\nok"))
    assert reply == Response(200, (("X-A", "a b"), ("Content-Length", "2")), b"ok")


@on_both_loops
async def test_a_chunked_answer_is_put_together_and_its_trailers_are_dropped() -> None:
    reply = await reply_to(chunked([b"a", b"bc" * 5000, b"\r\n0\r\n"], trailers=[("X-Trailer", "1")]))
    assert reply == Response(200, (("Transfer-Encoding", "chunked"),), b"a" + b"bc" * 5000 + b"\r\n0\r\n")


@pytest.mark.parametrize(
    "start",
    [
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nX: y\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
    ],
)
@on_both_loops
async def test_an_answer_without_a_length_ends_with_the_connection(start: bytes) -> None:
    reply = await reply_to(raw(start + b"until the end", then_close=True))
    assert isinstance(reply, Response)
    assert reply.body == b"until the end"


@on_both_loops
async def test_interim_answers_are_passed_over() -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    assert await reply_to(raw(interim * 4 + answer(200, b"ok"))) == OK
    assert await reply_to(in_pieces(interim, interim, answer(200, b"ok"))) == OK
    assert await reply_to(raw(interim * 5 + answer(200, b"ok"))) == NoResponse(
        "invalid HTTP response: more than 8 interim answers"
    )


@pytest.mark.parametrize("upgrade", [b"", b"Upgrade: websocket\r\nConnection: upgrade\r\n"])
@on_both_loops
async def test_a_change_of_protocol_is_no_answer(upgrade: bytes) -> None:
    reply = await reply_to(raw(b"HTTP/1.1 101 Switching Protocols\r\n" + upgrade + b"\r\n" + answer(200)))
    assert reply == NoResponse("invalid HTTP response: the destination changed the protocol")


ANSWERS = {
    "with a length": answer(200, b"hello", [("X-A", "b")]),
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nT: u\r\n\r\n",
    "after an interim one": b"HTTP/1.1 103 Hints\r\nX-A: no\r\n\r\n" + answer(200, b"hello"),
    "empty": answer(204),
}


@pytest.mark.parametrize("name", ANSWERS)
@given(cuts=st.lists(st.integers(1, 200), max_size=12))
def test_an_answer_means_the_same_however_it_is_cut_into_pieces(name: str, cuts: list[int]) -> None:
    whole = ANSWERS[name]
    read = _read(whole)
    assert read is not None
    edges = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
    assert _read(*(whole[start:end] for start, end in itertools.pairwise(edges))) == read
    assert _read(*(whole[index : index + 1] for index in range(len(whole)))) == read


def test_what_stands_around_chunks_does_not_count_as_head() -> None:
    reader = ResponseReader(ResponseLimits(max_body_bytes=10_000, max_header_bytes=100, max_headers=100))
    reader.expect("POST")
    pieces = [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        *[b"64\r\n", b"x" * 100, b"\r\n"] * 80,
        b"0\r\n",
    ]
    assert not any(reader.feed(piece) for piece in pieces)
    assert reader.feed(b"\r\n")
    assert reader.response().body == b"x" * 8000


@given(st.lists(st.binary(max_size=60) | st.sampled_from(sorted(ANSWERS.values())), max_size=6))
def test_no_bytes_make_the_reader_raise(pieces: list[bytes]) -> None:
    _read(*(b"HTTP/1.1 200 OK\r\n", *pieces))
    _read(*pieces)


def _read(*pieces: bytes) -> Response | str | None:
    reader = ResponseReader(ResponseLimits(1000, 1000, 100))
    reader.expect("POST")
    for piece in pieces:
        if reader.feed(piece):
            return reader.fault or reader.response()
    return reader.response() if reader.end() else None


# Limits


@pytest.mark.parametrize(
    "mood", [huge(10_000_000_000), chunked([b"x" * 70_000] * 30), raw(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1_100_000)]
)
@on_both_loops
async def test_the_status_of_a_body_over_the_cap_counts_and_the_connection_is_closed(mood: Mood) -> None:
    async with Receiver() as receiver, client() as egress:
        receiver.script("/", mood)
        reply = await egress.send(to(receiver.url()))
        assert isinstance(reply, Response)
        assert (reply.status, reply.body, reply.cut) == (200, b"x" * 1024 * 1024, True)
        await receiver.wait_for_connections(0)


@on_both_loops
async def test_a_body_of_just_the_cap_is_whole() -> None:
    reply = await reply_to(ok(b"x" * 1000), max_response_bytes=1000)
    assert reply == Response(200, (("Content-Length", "1000"),), b"x" * 1000, cut=False)
    reply = await reply_to(ok(b"x" * 1001), max_response_bytes=1000)
    assert reply == Response(200, (("Content-Length", "1001"),), b"x" * 1000, cut=True)


@pytest.mark.parametrize(
    "mood",
    [
        endless_headers(),
        endless_headers(b"x"),
        endless_headers(b"X: " + b"y" * 1000 + b"\r\n"),
        raw(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000 + b"\r\n\r\n"),
        raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: " + b"y" * 200_000),
        raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"y" * 200_000),
        raw(b"HTTP/1.1 200 " + b"O" * 200_000),
        raw(b"HTTP/1.1 103 Hints\r\n" + b"X: y\r\n" * 100_000),
    ],
)
@on_both_loops
async def test_a_head_over_the_cap_is_no_answer(mood: Mood) -> None:
    assert await reply_to(mood, max_headers=10**6) == NoResponse(
        "invalid HTTP response: more than 65536 bytes of headers"
    )


@on_both_loops
async def test_an_answer_has_at_most_a_hundred_headers() -> None:
    hundred = [("X", "y")] * 99
    assert isinstance(await reply_to(ok(headers=hundred)), Response)
    assert await reply_to(ok(headers=[*hundred, ("X", "y")])) == NoResponse(
        "invalid HTTP response: more than 100 headers"
    )


def test_long_lists_of_long_names_are_not_kept() -> None:
    def write(number: int) -> None:
        names = [f"X{number}-{n}-{'x' * 200}" for n in range(64)]
        head(to("http://a.test/", headers=[(name, "") for name in names]))

    write(0)
    tracemalloc.start()
    for number in range(1, 200):
        write(number)
    kept_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept_bytes < 1_000_000
