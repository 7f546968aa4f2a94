"""What an answer may cost the client: memory, of all answers together, and time of the loop."""

from __future__ import annotations

import asyncio
from typing import Any
from unittest import mock

import pytest

from postroad.dispatch.egress.connection import Connection
from postroad.dispatch.egress.pace import SLICE_BYTES, Pace
from postroad.dispatch.egress.response import AMPLE_BYTES, MAX_PIECES, WHOLE_BODIES, ResponseLimits, ResponseReader
from postroad.domain.reply import NoResponse, Response
from tests.egress import client, on_both_loops, reply_to, to
from tests.receiver import Mood, Receiver, answer, ok, raw

CAP = 200_000
HEAD = b"HTTP/1.1 500 Oh no\r\nContent-Length: 1000000\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def the_limits() -> ResponseLimits:
    return ResponseLimits(max_body_bytes=CAP, max_header_bytes=1000, max_headers=10)


def reading(limits: ResponseLimits) -> ResponseReader:
    reader = ResponseReader(limits)
    reader.expect("POST")
    assert not reader.feed(HEAD)
    return reader


def crowded(limits: ResponseLimits) -> list[ResponseReader]:
    """As many readers as have room, each with as much as it may hold."""
    readers = [reading(limits) for _ in range(WHOLE_BODIES)]
    for reader in readers:
        assert not reader.feed(b"x" * CAP)
    return readers


# Memory


def test_bodies_of_usual_length_need_no_room_and_longer_ones_give_it_back_when_nobody_needs_them() -> None:
    limits = the_limits()
    short, long = reading(limits), reading(limits)
    assert not short.feed(b"x" * AMPLE_BYTES)
    assert limits.room.taken == 0
    assert not long.feed(b"x" * (AMPLE_BYTES + 1))
    assert limits.room.taken == AMPLE_BYTES + 1
    assert long.feed(b"x" * CAP)
    reply = long.response()
    assert (len(reply.body), reply.cut) == (CAP, True)
    assert limits.room.taken == CAP
    long.expect("POST")
    assert limits.room.taken == CAP
    del reply
    assert limits.room.taken == 0


def test_in_a_crowd_longer_bodies_are_cut_and_the_status_counts() -> None:
    limits = the_limits()
    readers = crowded(limits)
    assert limits.room.taken == WHOLE_BODIES * CAP

    late = reading(limits)
    assert not late.feed(b"y" * AMPLE_BYTES)
    assert late.feed(b"y")
    reply = late.response()
    assert (reply.status, reply.body, reply.cut) == (500, b"y" * AMPLE_BYTES, True)

    sudden = reading(limits)
    assert sudden.feed(b"z" * CAP)
    assert sudden.response().body == b"z" * AMPLE_BYTES
    assert limits.room.taken == WHOLE_BODIES * CAP

    for reader in readers:
        reader.expect("")  # as when the connection is lost
    assert limits.room.taken == 0
    assert not reading(limits).feed(b"y" * CAP)


def test_one_alone_may_always_be_as_long_as_an_answer_may_be() -> None:
    limits = ResponseLimits(max_body_bytes=50_000_000, max_header_bytes=1000, max_headers=10)
    reader = ResponseReader(limits)
    reader.expect("POST")
    assert not reader.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 50000000\r\n\r\n")
    assert not any(reader.feed(b"x" * 1_000_000) for _ in range(49))
    assert reader.feed(b"x" * 1_000_000)
    reply = reader.response()
    assert (len(reply.body), reply.cut) == (50_000_000, False)


@on_both_loops
async def test_a_client_gives_back_all_room_whatever_became_of_its_answers() -> None:
    long = b"x" * 500_000
    moods = {
        "/ok": ok(long),
        "/over": ok(long * 4),
        "/half": raw(answer(200, long)[:-1], then_close=True),
        "/reset": raw(answer(200, long)[:-1], then_close="reset"),
        "/never": raw(answer(200, long)[:-1]),
        "/chunks": raw(CHUNKED + (b"1\r\nx\r\n" * 50_000)),
    }
    async with Receiver() as receiver, client() as egress:
        for path, mood in moods.items():
            receiver.script(path, mood)
        replies = await asyncio.gather(*(egress.send(to(receiver.url(path), timeout=0.5)) for path in moods))
        assert [isinstance(reply, Response) for reply in replies] == [True, True, False, False, False, False]
        assert egress._limits.room.taken == len(long) + (1 << 20)
        del replies
        await receiver.wait_for_connections(1)  # the one that is kept alive
        assert egress._limits.room.taken == 0


@pytest.mark.parametrize("line", [b"a:\r\n", b"Set-Cookie: a=b\r\n"])
def test_headers_beyond_the_limit_are_not_kept_while_the_head_goes_on(line: bytes) -> None:
    reader = ResponseReader(ResponseLimits(CAP, 1_000_000, 10))
    reader.expect("POST")
    assert not reader.feed(b"HTTP/1.1 200 OK\r\n" + line * 10)
    assert reader.feed(line * 10_000)
    assert reader.fault == "more than 10 headers"
    assert len(reader._headers) == 11


def test_trailers_are_not_kept() -> None:
    reader = ResponseReader(ResponseLimits(CAP, 1_000_000, 10))
    reader.expect("POST")
    assert not reader.feed(CHUNKED + b"1\r\nx\r\n0\r\n" + b"T: u\r\n" * 10_000)
    assert len(reader._headers) == 0
    assert reader.feed(b"\r\n")
    assert reader.response() == Response(200, (("Transfer-Encoding", "chunked"),), b"x")


# Bytes and time


def test_a_body_in_too_many_pieces_is_cut() -> None:
    reader = ResponseReader(ResponseLimits(1 << 20, 1000, 10))
    reader.expect("POST")
    assert not reader.feed(CHUNKED)
    assert not any(reader.feed(b"1\r\nx\r\n" * 1024) for _ in range(MAX_PIECES // 1024))
    assert reader.feed(b"1\r\nx\r\n")
    reply = reader.response()
    assert (reply.status, len(reply.body), reply.cut) == (200, MAX_PIECES + 1, True)


@pytest.mark.parametrize("extension", [b";x" * 500, b";" + b"x" * 100])
def test_chunk_extensions_count_as_head_however_short_they_are(extension: bytes) -> None:
    reader = ResponseReader(ResponseLimits(1 << 20, 5000, 10))
    reader.expect("POST")
    assert not reader.feed(CHUNKED)
    read = 0
    while not reader.feed(b"1" + extension + b"\r\nx\r\n"):
        read += 1
        assert read < 100
    assert reader.fault == "more than 5000 bytes of headers"


@pytest.mark.parametrize("chunk", [b"1\r\nx\r\n", b"5;a=b\r\nhello\r\n", b"64\r\n" + b"x" * 100 + b"\r\n"])
@on_both_loops
async def test_an_answer_in_many_small_chunks_comes_whole_and_leaves_the_connection_to_the_next(chunk: bytes) -> None:
    count = 5_000
    async with Receiver() as receiver, client() as egress:
        receiver.script("/", raw(CHUNKED + chunk * count + b"0\r\n\r\n"))
        for _ in range(2):
            reply = await egress.send(to(receiver.url()))
            assert isinstance(reply, Response)
            assert reply.body == chunk.split(b"\r\n")[1] * count
            assert not reply.cut
        assert [request.connection_id for request in receiver.requests()] == [1, 1]


async def test_an_answer_in_many_small_chunks_waits_for_its_turn() -> None:
    transport, connection, answered = exchanging()
    connection.data_received(CHUNKED + b"1\r\nx\r\n" * 10_000)
    assert transport.mock_calls[-1] == mock.call.pause_reading()
    assert connection._reader.pieces < SLICE_BYTES / 6
    assert not answered.done()

    connection.data_received(b"0\r\n\r\n")  # what was on its way goes behind the rest
    async with asyncio.timeout(10):
        reply = await answered

    assert isinstance(reply, Response)
    assert reply.body == b"x" * 10_000
    assert transport.resume_reading.call_count == transport.pause_reading.call_count > 1


async def test_an_answer_in_large_chunks_does_not_wait() -> None:
    transport, connection, answered = exchanging()
    connection.data_received(CHUNKED + (b"1000\r\n" + b"x" * 4096 + b"\r\n") * 100 + b"0\r\n\r\n")
    assert answered.done()
    transport.pause_reading.assert_not_called()


async def test_what_waits_for_its_turn_is_forgotten_when_its_time_is_over() -> None:
    transport, connection, answered = exchanging()
    connection.data_received(CHUNKED + b"1\r\nx\r\n" * 10_000)
    connection.abandon(answered)
    connection.connection_lost(None)
    transport.is_closing.return_value = True
    await asyncio.sleep(0.05)
    transport.resume_reading.assert_not_called()
    assert connection._reader._limits.room.taken == 0


async def test_what_waits_takes_room_beside_the_body_that_was_read() -> None:
    transport, connection, answered = exchanging(limits := ResponseLimits(1 << 20, 1000, 10))
    seen: list[tuple[int, int]] = []
    transport.pause_reading.side_effect = lambda: seen.append((limits.room.taken, len(connection._reader._body)))
    connection.data_received(CHUNKED + b"4\r\nabcd\r\n" * 20_000 + b"0\r\n\r\n")
    async with asyncio.timeout(10):
        reply = await answered
    assert isinstance(reply, Response)
    assert len(reply.body) == 80_000
    for taken, read in seen:
        waiting = 20_000 * 9 - read // 4 * 9
        assert abs(taken - waiting - (read if read > AMPLE_BYTES else 0)) < 100
    assert limits.room.taken == 80_000


async def test_in_a_crowd_what_would_have_to_wait_is_cut() -> None:
    transport, connection, answered = exchanging(limits := the_limits())
    readers = crowded(limits)
    connection.data_received(CHUNKED + b"1\r\nx\r\n" * 10_000)
    async with asyncio.timeout(10):
        reply = await answered
    assert isinstance(reply, Response)
    assert reply.cut
    assert 0 < len(reply.body) < 1000
    transport.pause_reading.assert_not_called()
    assert limits.room.taken == len(readers) * CAP


def test_laborious_answers_share_a_fifth_of_the_time() -> None:
    pace = Pace()
    assert pace.wait(100.0, 1000) == pytest.approx(0.002)
    assert pace.wait(100.0, 1000) == pytest.approx(0.004)
    assert pace.wait(101.0, 500) == pytest.approx(0.001)


JUST_A_SLICE = CHUNKED + b"fc5\r\n" + b"y" * 0xFC5 + b"\r\n0\r\n\r\n"


@pytest.mark.parametrize("whole", [answer(200, b"y" * 0xFC5), JUST_A_SLICE])
@pytest.mark.parametrize("surplus", [b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"x" * 20_000, b"x" * 3000])
@on_both_loops
async def test_what_follows_an_answer_ends_the_connection(whole: bytes, surplus: bytes) -> None:
    assert len(JUST_A_SLICE) == SLICE_BYTES
    async with Receiver() as receiver, client() as egress:
        receiver.script("/", raw(whole + surplus))
        for _ in range(2):
            reply = await egress.send(to(receiver.url()))
            assert isinstance(reply, Response)
            assert reply.body == b"y" * 0xFC5
        assert [request.connection_id for request in receiver.requests()] == [1, 2]


@pytest.mark.parametrize(
    ("mood", "reason"),
    [
        (raw(CHUNKED + b"F" * 17 + b"\r\n"), "Chunk size overflow"),
        (raw(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n"), "Content-Length overflow"),
        (raw(b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n"), "Unexpected whitespace after header value"),
        (raw(b"HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n"), "Invalid header value char"),
        (raw(b"HTTP/1.1 200 OK\r\nX : a\r\n\r\n"), "Invalid header token"),
        (raw(b"HTTP/1.1 200 OK\r\nX: a\rY: b\r\n\r\n"), "Missing expected LF after header value"),
    ],
)
@on_both_loops
async def test_an_answer_with_two_meanings_is_none(mood: Mood, reason: str) -> None:
    assert await reply_to(mood) == NoResponse(f"invalid HTTP response: {reason}")


def exchanging(limits: ResponseLimits | None = None) -> tuple[mock.Mock, Connection, asyncio.Future[Any]]:
    """A connection on a transport of straw, whose request is out."""
    transport = mock.Mock()
    transport.is_closing.return_value = False
    transport.get_write_buffer_size.return_value = 0
    owner = mock.Mock()
    limits = limits or ResponseLimits(1 << 20, 1000, 10)
    connection = Connection(("http", "h", 80, None, 0), owner, limits)
    connection.connection_made(transport)
    return transport, connection, connection.exchange("POST", b"", b"")
