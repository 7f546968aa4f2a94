"""The client against a receiver in every mood, on uvloop and on asyncio's own loop."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from unittest import mock

import pytest

from postroad.dispatch.egress import Egress
from postroad.dispatch.egress.connection import Connection
from postroad.dispatch.egress.deadlines import Deadlines
from postroad.domain.network import parse_policy
from postroad.domain.reply import NoResponse, Response
from postroad.resolver import Resolver
from tests.egress import OK, client, on_both_loops, to
from tests.receiver import (
    Mood,
    Receiver,
    answer,
    deaf,
    early,
    garbage,
    half,
    hang_up,
    hold,
    never,
    ok,
    raw,
    reset,
    trickle,
)

# Deadlines


@pytest.mark.parametrize(
    "mood", [never(), trickle(50), raw(b"HTTP/1.1 100 Continue\r\n\r\n"), raw(b"HTTP/1.1 200 OK\r\n\r\n")]
)
@on_both_loops
async def test_the_deadline_ends_an_exchange_wherever_it_stands(mood: Mood) -> None:
    async with Receiver() as receiver, client() as egress:
        receiver.script("/", mood)
        reply = await egress.send(to(receiver.url(), timeout=0.3))
        assert reply == NoResponse("timed out after 0.3 s")
        await receiver.wait_for_connections(0)


@on_both_loops
async def test_the_deadline_holds_while_the_request_is_written() -> None:
    async with Receiver() as receiver, client() as egress:
        receiver.script("/", deaf())
        reply = await egress.send(to(receiver.url(), body=b"x" * 20_000_000, timeout=0.3))
        assert reply == NoResponse("timed out after 0.3 s")


@on_both_loops
async def test_the_deadline_covers_a_kept_alive_connection_and_the_looking_up() -> None:
    async with Receiver() as receiver, client() as egress:
        receiver.script("/", ok(), never())
        assert await egress.send(to(receiver.url())) == OK
        assert await egress.send(to(receiver.url(), timeout=0.1)) == NoResponse("timed out after 0.1 s")
    may_end = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stuck(host: str) -> Sequence[str]:
        asyncio.run_coroutine_threadsafe(may_end.wait(), loop).result(10)
        return ["127.0.0.1"]

    async with client(stuck) as egress:
        assert await egress.send(to("http://stuck/", timeout=0.1)) == NoResponse("timed out after 0.1 s")
        may_end.set()


@on_both_loops
async def test_a_deadline_is_never_early_and_leaves_out_what_was_taken_back() -> None:
    loop = asyncio.get_running_loop()
    early: list[float] = []
    expired: list[float] = []
    last = asyncio.Event()

    def expire(at: float) -> None:
        expired.append(at)
        if loop.time() < at:
            early.append(at)
        if at == ends[-1]:
            last.set()

    deadlines = Deadlines(expire)
    ends = [loop.time() + n / 70 for n in range(30)]
    for end in ends:
        deadlines.slot(end).add(end)
    deadlines.slot(ends[10]).discard(ends[10])
    await last.wait()
    assert early == []
    assert sorted(expired) == [end for end in ends if end != ends[10]]


@on_both_loops
async def test_deadlines_do_not_end_what_came_in_time() -> None:
    async with Receiver() as receiver, client() as egress:
        gate = asyncio.Event()
        receiver.script("/held", hold(gate))
        late = asyncio.create_task(egress.send(to(receiver.url("/held"), timeout=60)))
        for _ in range(20):
            assert await egress.send(to(receiver.url(), timeout=0.5)) == OK
        receiver.script("/never", never())
        assert await egress.send(to(receiver.url("/never"), timeout=0.6)) == NoResponse("timed out after 0.6 s")
        gate.set()
        assert await late == OK


# Broken connections


@pytest.mark.parametrize(
    ("mood", "reason"),
    [
        (reset(), "connection reset before any response"),
        (hang_up(), "connection closed before any response"),
        (half("head"), "connection closed before the response was complete"),
        (half("body"), "connection closed before the response was complete"),
        (half("head", "reset"), "connection reset before the response was complete"),
        (half("body", "reset"), "connection reset before the response was complete"),
        (
            raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", True),
            "connection closed before the response was complete",
        ),
        (raw(b"HTTP/1.1 100 Continue\r\n\r\n", True), "connection closed before the response was complete"),
        (raw(b"HTTP/1.1 200 OK\r\n\r\nuntil the end", "reset"), "connection reset before the response was complete"),
        (garbage(), "invalid HTTP response: Expected HTTP/, RTSP/ or ICE/"),
        (
            raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n"),
            "invalid HTTP response: Duplicate Content-Length",
        ),
        (
            raw(b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\n"),
            "invalid HTTP response: Invalid character in Content-Length",
        ),
        (
            raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n"),
            "invalid HTTP response: Transfer-Encoding can't be present with Content-Length",
        ),
        (
            raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
            "invalid HTTP response: Invalid character in chunk size",
        ),
        (raw(b"HTTP/1.1 099 Odd\r\nContent-Length: 0\r\n\r\n"), "invalid HTTP response: status 99"),
        (
            raw(b"HTTP/1.1 200 OK\nContent-Length: 0\n\n"),
            "invalid HTTP response: Missing expected CR after response line",
        ),
    ],
)
@on_both_loops
async def test_a_broken_answer_is_no_answer_and_is_asked_for_once(mood: Mood, reason: str) -> None:
    async with Receiver() as receiver, client() as egress:
        receiver.script("/", mood, ok())
        assert await egress.send(to(receiver.url())) == NoResponse(reason)
        assert len(receiver.requests()) == 1
        await receiver.wait_for_connections(0)


@on_both_loops
async def test_nobody_listening_is_told_with_the_address() -> None:
    async with Receiver() as receiver:
        port = receiver.port
    async with client() as egress:
        reply = await egress.send(to(f"http://127.0.0.1:{port}/"))
        assert reply == NoResponse(f"connection refused: 127.0.0.1:{port}")


@on_both_loops
async def test_the_addresses_of_a_name_are_tried_in_order() -> None:
    async with Receiver() as receiver, client(lambda host: ["127.0.0.3", "::1", "127.0.0.1"]) as egress:
        assert await egress.send(to(f"http://several:{receiver.port}/")) == OK
        assert receiver.requests()[0].header("Host") == f"several:{receiver.port}"


@on_both_loops
async def test_an_answer_that_comes_before_the_request_is_out_counts_and_ends_the_connection() -> None:
    async with Receiver() as receiver, client() as egress:
        receiver.script("/", early(raw(answer(413)), reading=False))
        reply = await egress.send(to(receiver.url(), body=b"x" * 20_000_000))
        assert isinstance(reply, Response)
        assert reply.status == 413
        await egress.send(to(receiver.url("/next")))
        assert [request.connection_id for request in receiver.requests()] == [1, 2]


# The end


@on_both_loops
async def test_a_cancelled_request_closes_its_connection_and_no_other() -> None:
    async with Receiver() as receiver, client() as egress:
        gate = asyncio.Event()
        receiver.script("/a", never())
        receiver.script("/b", hold(gate))
        cancelled = asyncio.create_task(egress.send(to(receiver.url("/a"))))
        held = asyncio.create_task(egress.send(to(receiver.url("/b"))))
        await receiver.wait_for(2)
        cancelled.cancel()
        await receiver.wait_for_connections(1)
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        gate.set()
        assert await held == OK


@on_both_loops
async def test_a_request_cancelled_with_its_answer_at_hand_leaves_the_connection_to_the_next() -> None:
    async with Receiver() as receiver, client() as egress:
        sending = [asyncio.create_task(egress.send(to(receiver.url("/first"))))]
        free = egress._pool.free

        def free_and_cancel(connection: Connection, now: float) -> None:
            free(connection, now)
            if len(sending) == 1:
                # The next request gets its turn before the first has heard of its answer.
                sending.append(asyncio.create_task(egress.send(to(receiver.url("/second")))))
                asyncio.get_running_loop().call_soon(sending[0].cancel)

        with mock.patch.object(egress._pool, "free", free_and_cancel):
            await asyncio.wait(sending)
            assert sending[0].cancelled()
            assert await sending[1] == OK
        assert [request.connection_id for request in receiver.requests()] == [1, 1]


@on_both_loops
async def test_a_cancelled_dial_leaves_nothing_behind() -> None:
    async with Receiver() as receiver, client(max_idle=0) as egress:
        for turns in range(12):
            sending = asyncio.create_task(egress.send(to(receiver.url())))
            for _ in range(turns):
                await asyncio.sleep(0)
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
        assert await egress.send(to(receiver.url())) == OK
        await receiver.wait_for_connections(0)


@on_both_loops
async def test_closing_ends_every_request_and_every_connection() -> None:
    async with Receiver() as receiver, client() as egress:
        receiver.script("/never", never())
        assert await egress.send(to(receiver.url())) == OK
        sending = asyncio.create_task(egress.send(to(receiver.url("/never"))))
        await receiver.wait_for(2)
        await egress.close()
        assert await sending == NoResponse("the server is shutting down")
        assert await egress.send(to(receiver.url())) == NoResponse("the server is shutting down")
        await receiver.wait_for_connections(0)


# Where requests may go


@on_both_loops
async def test_a_refused_address_is_not_dialled() -> None:
    async with Receiver() as receiver:
        names: dict[str, list[str]] = {"inside": ["127.0.0.1"], "mixed": ["127.0.0.1", "10.0.0.1"], "nothing": []}
        async with client(lambda host: names[host], policy="public") as egress:
            for host in ("127.0.0.1", "inside", "mixed", "[::ffff:127.0.0.1]", "127.0.0.1."):
                reply = await egress.send(to(f"http://{host}:{receiver.port}/"))
                assert isinstance(reply, NoResponse)
                assert reply.reason.startswith("endpoint resolves to a loopback address: ")
            assert await egress.send(to("http://nothing/")) == NoResponse(
                "unable to resolve host: lookup nothing: no such host"
            )
        assert receiver.requests() == []
        assert receiver.open_connections == 0


@on_both_loops
async def test_what_was_vetted_is_what_is_dialled() -> None:
    answers = iter([["127.0.0.1"], ["127.0.0.2"]])
    async with Receiver() as receiver:
        resolver = Resolver(parse_policy("127.0.0.1"), look_up=lambda host: next(answers), ttl=0)
        egress = Egress(resolver, max_idle=0)
        assert await egress.send(to(f"http://rebinding:{receiver.port}/")) == OK
        reply = await egress.send(to(f"http://rebinding:{receiver.port}/"))
        assert isinstance(reply, NoResponse)
        assert "127.0.0.2" in reply.reason
        await egress.close()
        assert len(receiver.requests()) == 1
