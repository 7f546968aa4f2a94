"""Which connections are used again, on uvloop and on asyncio's own loop."""

from __future__ import annotations

import asyncio
from typing import Any
from unittest import mock

import pytest

from postroad.domain.reply import NoResponse, Response
from tests.egress import OK, client, on_both_loops, to
from tests.moods import Stage
from tests.receiver import (
    Mood,
    Receiver,
    answer,
    chunked,
    half,
    hang_up,
    hold,
    ok,
    raw,
    reset,
    status,
)


@on_both_loops
async def test_a_connection_is_used_again() -> None:
    async with Receiver() as receiver, client() as egress:
        for mood in (ok(), status(503, b"no"), chunked([b"x"]), status(204), ok(b"")):
            receiver.script("/", mood)
            assert isinstance(await egress.send(to(receiver.url(), body=b"x")), Response)
        assert {request.connection_id for request in receiver.requests()} == {1}


@on_both_loops
async def test_the_connection_used_last_is_used_next() -> None:
    async with Receiver() as receiver, client() as egress:
        gates = [asyncio.Event(), asyncio.Event()]
        receiver.script("/a", hold(gates[0]))
        receiver.script("/b", hold(gates[1]))
        sending = [asyncio.create_task(egress.send(to(receiver.url(path)))) for path in ("/a", "/b")]
        first, second = [(await receiver.next_request(path)).connection_id for path in ("/a", "/b")]
        gates[1].set()
        await sending[1]
        gates[0].set()
        await sending[0]
        assert first != second
        for _ in range(3):
            await egress.send(to(receiver.url("/c")))
        assert {request.connection_id for request in receiver.requests("/c")} == {first}


@pytest.mark.parametrize(
    "mood",
    [
        ok(headers=[("Connection", "close")]),
        raw(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        raw(answer(200, b"ok") + answer(200, b"evil")),
        raw(answer(200, b"ok") + b"HTTP/1.1 2"),
        raw(answer(200, b"ok") + b"garbage"),
        raw(answer(204) + b"body"),
    ],
)
@on_both_loops
async def test_a_connection_that_is_not_clean_is_not_used_again(mood: Mood) -> None:
    async with Receiver() as receiver, client() as egress:
        receiver.script("/", mood, ok(b"second"))
        first = await egress.send(to(receiver.url()))
        assert isinstance(first, Response)
        assert first.body in (b"ok", b"")
        second = await egress.send(to(receiver.url()))
        assert isinstance(second, Response)
        assert second.body == b"second"
        assert [request.connection_id for request in receiver.requests()] == [1, 2]


@on_both_loops
async def test_http_1_0_may_keep_a_connection_alive_if_it_says_so() -> None:
    async with Receiver() as receiver, client() as egress:
        receiver.script("/", raw(b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok"))
        for _ in range(2):
            assert isinstance(await egress.send(to(receiver.url())), Response)
        assert [request.connection_id for request in receiver.requests()] == [1, 1]


@pytest.mark.parametrize("mood", [reset(), hang_up()])
@on_both_loops
async def test_a_connection_closed_in_the_gap_costs_no_attempt(mood: Mood) -> None:
    async with Receiver() as receiver, client() as egress:
        receiver.script("/", ok(), mood, ok(b"again"))
        assert await egress.send(to(receiver.url(), body=b"1")) == OK
        reply = await egress.send(to(receiver.url(), body=b"2"))
        assert isinstance(reply, Response)
        assert reply.body == b"again"
        assert [(request.connection_id, request.body) for request in receiver.requests()] == [
            (1, b"1"),
            (1, b"2"),
            (2, b"2"),
        ]


@on_both_loops
async def test_a_connection_closed_in_the_gap_is_replaced_once_only() -> None:
    async with Receiver() as receiver, client() as egress:
        receiver.script("/", ok(), reset())
        assert await egress.send(to(receiver.url())) == OK
        assert await egress.send(to(receiver.url())) == NoResponse("connection reset before any response")
        assert [request.connection_id for request in receiver.requests()] == [1, 1, 2]


@pytest.mark.parametrize("mood", [half("head"), half("body", "reset"), raw(b"H", then_close=True)])
@on_both_loops
async def test_a_request_is_not_repeated_once_a_byte_of_its_answer_came(mood: Mood) -> None:
    async with Receiver() as receiver, client() as egress:
        receiver.script("/", ok(), mood)
        assert await egress.send(to(receiver.url())) == OK
        assert isinstance(await egress.send(to(receiver.url())), NoResponse)
        assert [request.connection_id for request in receiver.requests()] == [1, 1]


@on_both_loops
async def test_a_connection_closed_while_it_is_free_is_forgotten() -> None:
    async with Receiver() as receiver, client() as egress:
        receiver.script("/", raw(answer(200, b"ok"), then_close=True))
        assert await egress.send(to(receiver.url())) == OK
        await receiver.wait_for_connections(0)
        assert await egress.send(to(receiver.url())) == OK
        assert len(receiver.requests()) in (2, 3)  # 3 if the client has not heard of the end yet


@on_both_loops
async def test_bytes_that_nobody_asked_for_end_a_free_connection() -> None:
    gate = asyncio.Event()

    async def play(stage: Stage) -> None:
        stage.write(answer(200, b"ok"))
        await gate.wait()
        stage.write(answer(200, b"evil"))

    async with Receiver() as receiver, client() as egress:
        receiver.script("/", Mood(play), ok())
        assert await egress.send(to(receiver.url())) == OK
        assert receiver.open_connections == 1
        gate.set()
        await receiver.wait_for_connections(0)
        assert await egress.send(to(receiver.url())) == OK


@on_both_loops
async def test_a_free_connection_is_closed_after_a_while() -> None:
    async with Receiver() as receiver, client(idle_timeout=0.1) as egress:
        assert await egress.send(to(receiver.url())) == OK
        await receiver.wait_for_connections(0)
        assert await egress.send(to(receiver.url())) == OK
        assert [request.connection_id for request in receiver.requests()] == [1, 2]


@on_both_loops
async def test_a_connection_does_not_get_too_old() -> None:
    with mock.patch("postroad.dispatch.egress.pool.MAX_AGE", -1.0):
        async with Receiver() as receiver, client() as egress:
            for _ in range(2):
                assert await egress.send(to(receiver.url())) == OK
            assert [request.connection_id for request in receiver.requests()] == [1, 2]


@on_both_loops
async def test_a_connection_is_used_again_only_under_the_policy_that_allowed_it() -> None:
    async with Receiver() as receiver, client(policy="public") as egress:
        url = receiver.url()
        allowed = f"public,127.0.0.1:{receiver.port}"
        for _ in range(2):
            assert await egress.send(to(url), allowed) == OK
        for other in (None, "public", "lan", f"any,!127.0.0.1:{receiver.port}"):
            refused = await egress.send(to(url), other)
            assert isinstance(refused, NoResponse), other
            assert refused.reason.startswith("endpoint "), other
        assert await egress.send(to(url), "any") == OK
        assert await egress.send(to(url), allowed) == OK
        assert [request.connection_id for request in receiver.requests()] == [1, 1, 2, 1]


@on_both_loops
async def test_a_connection_that_one_tenant_has_poisoned_brings_no_answer_to_another() -> None:
    """As of a destination that takes what stands in a body for one more request."""
    gate = asyncio.Event()

    async def play(stage: Stage) -> None:
        stage.write(answer(200, b"ok"))
        await gate.wait()
        stage.write(answer(200, b"of the request in the body"))

    async with Receiver() as receiver, client() as egress:
        receiver.script("/", Mood(play), ok(b"mine"))
        request = to(receiver.url(), body=b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await egress.send(request, tenant_id=1) == OK
        other = asyncio.create_task(egress.send(to(receiver.url()), tenant_id=2))
        await asyncio.sleep(0)
        gate.set()
        reply = await other
        assert isinstance(reply, Response)
        assert reply.body == b"mine"
        assert [one.connection_id for one in receiver.requests()] == [1, 2]


@pytest.mark.parametrize("limit", [{"max_idle_per_destination": 2}, {"max_idle": 2}])
@on_both_loops
async def test_only_so_many_free_connections_are_kept(limit: dict[str, Any]) -> None:
    async with Receiver() as receiver, client(**limit) as egress:
        gate = asyncio.Event()
        receiver.script("/", hold(gate))
        sending = [asyncio.create_task(egress.send(to(receiver.url()))) for _ in range(6)]
        await receiver.wait_for(6)
        assert receiver.open_connections == 6
        gate.set()
        assert await asyncio.gather(*sending) == [OK] * 6
        await receiver.wait_for_connections(2)


@on_both_loops
async def test_two_hundred_requests_at_a_time_each_get_their_own_answer() -> None:
    async with Receiver() as receiver, client(max_idle_per_destination=200) as egress:

        async def send(number: int) -> None:
            for turn in range(5):
                path = f"/{number}/{turn}"
                receiver.script(path, ok(path.encode()))
                reply = await egress.send(to(receiver.url(path), body=path.encode()))
                assert isinstance(reply, Response)
                assert reply.body == path.encode()

        async with asyncio.TaskGroup() as tasks:
            for number in range(200):
                tasks.create_task(send(number))
        assert len(receiver.requests()) == 1000
        assert all(request.body.decode() == request.path for request in receiver.requests())
        assert len({request.connection_id for request in receiver.requests()}) <= 200
