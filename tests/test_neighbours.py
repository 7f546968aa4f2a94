"""Whoever hangs, floods or sends large bodies does not keep the others from being served."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import httpx
import pytest
from asyncpg.transaction import Transaction

from postroad import dev
from postroad.store.engine import Connection, Database
from tests.conftest import TOKEN, Running, Serve, eventually
from tests.receiver import Receiver, hold

OTHER_TENANT = dev.DEV_USERS[1].token
SLOTS = 100
WAITING = 200
LARGE = b"x" * 70_000
MOST_LARGE = 64


@dataclass(frozen=True)
class Noise:
    """What somebody sends to a destination that never answers."""

    headers: dict[str, str] = field(default_factory=dict)
    queues: int = 0
    token: str = TOKEN


NOISES = {
    "plain": Noise(),
    "of another tenant": Noise(token=OTHER_TENANT),
    "in FIFO queues": Noise(queues=150),
    "under a flow-control key": Noise(
        {"Upstash-Flow-Control-Key": "noisy", "Upstash-Flow-Control-Value": "parallelism=1000"}
    ),
}
IMPATIENT = Noise({"Upstash-Timeout": "1s", "Upstash-Retries": "1000", "Upstash-Retry-Delay": "1000"})


async def make_noise(
    server: Running, noise: Noise, *receivers: Receiver, count: int = WAITING, until: asyncio.Event | None = None
) -> None:
    """Publish so many messages in one batch, shared out over receivers that do not answer before the event."""
    for receiver in receivers:
        receiver.script("/", hold(until or asyncio.Event()))
    items = [
        {"destination": receivers[n % len(receivers)].url(), "headers": noise.headers, "body": f"{n}"}
        | ({"queue": f"noisy-{n % noise.queues}"} if noise.queues else {})
        for n in range(count)
    ]
    answer = await server.http.post("/v2/batch", json=items, headers={"Authorization": f"Bearer {noise.token}"})
    assert answer.status_code == 200, answer.text


async def all_are_served(
    server: Running, receiver: Receiver, *, rounds: int = 2, of: int = 30, within: float = 10
) -> None:
    """Publish to somebody who answers, and wait until each one has arrived, round after round."""
    for n in range(1, rounds + 1):
        await asyncio.gather(*(server.publish(receiver.url("/quiet"), f"{n}-{one}") for one in range(of)))
        await receiver.wait_for(n * of, "/quiet", within)


@asynccontextmanager
async def crowd(count: int) -> AsyncIterator[list[Receiver]]:
    """Several receivers, each on a port and so a destination of its own."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(Receiver()) for _ in range(count)]


@pytest.mark.parametrize("noise", NOISES.values(), ids=NOISES)
async def test_others_are_served_while_a_destination_hangs(serve: Serve, receiver: Receiver, noise: Noise) -> None:
    server = await serve(slots=SLOTS)
    async with Receiver() as hanging:
        await make_noise(server, noise, hanging)
        await hanging.wait_for(SLOTS // 2)

        await all_are_served(server, receiver)

        # None of them has ended, so each request is a slot that it holds.
        assert len(hanging.requests()) <= SLOTS // 2


async def test_others_are_served_while_attempts_time_out_and_are_made_again(serve: Serve, receiver: Receiver) -> None:
    server = await serve(slots=SLOTS)
    async with Receiver() as hanging:
        await make_noise(server, IMPATIENT, hanging)
        await hanging.wait_for(SLOTS // 2)

        for n in range(1, 4):
            await all_are_served(server, receiver, rounds=n)
            await hanging.wait_for((n + 1) * SLOTS // 2)


@pytest.mark.parametrize("slots", [2, 16])
async def test_others_are_served_on_a_node_with_few_slots(serve: Serve, receiver: Receiver, slots: int) -> None:
    server = await serve(slots=slots)
    async with Receiver() as hanging:
        await make_noise(server, Noise(), hanging)
        await hanging.wait_for(slots // 2)

        await all_are_served(server, receiver, within=3)

        assert len(hanging.requests()) < slots


async def test_others_are_served_while_many_destinations_of_a_tenant_hang(serve: Serve, receiver: Receiver) -> None:
    server = await serve(slots=SLOTS)
    async with crowd(8) as hanging:
        await make_noise(server, Noise(token=OTHER_TENANT), *hanging, count=8 * SLOTS)
        await asyncio.gather(*(one.wait_for(1) for one in hanging[:2]))

        await all_are_served(server, receiver, within=3)


async def test_a_destination_that_recovers_gets_all_that_waited_for_it(serve: Serve, receiver: Receiver) -> None:
    server = await serve(slots=SLOTS)
    recovers = asyncio.Event()
    async with Receiver() as hanging:
        await make_noise(server, Noise(), hanging, until=recovers)
        await all_are_served(server, receiver)
        assert len(hanging.requests()) < WAITING

        recovers.set()

        requests = await hanging.wait_for(WAITING)
        assert {request.body for request in requests} == {f"{n}".encode() for n in range(WAITING)}


@pytest.mark.parametrize("way", ["publish", "batch"])
async def test_publishes_that_find_no_room_are_told_to_come_again_and_are_not_stored(
    serve: Serve, receiver: Receiver, connection: Connection, database: Database, way: str
) -> None:
    """A lock keeps one commit waiting; ten messages may wait behind it."""
    server = await serve(max_waiting=10)

    async def send(n: int) -> httpx.Response:
        if way == "publish":
            return await server.http.post(f"/v2/publish/{receiver.url()}", content=f"{n}")
        items = [{"destination": receiver.url(), "body": f"{n} {one}"} for one in range(5)]
        return await server.http.post("/v2/batch", json=items)

    locked = await _locked(connection)
    first = asyncio.create_task(send(0))
    await _blocked(connection)
    many = [asyncio.create_task(send(n)) for n in range(1, 41)]
    await asyncio.wait(many, return_when=asyncio.FIRST_COMPLETED)
    room = 10 if way == "publish" else 2
    await eventually(lambda: _count_done(many), lambda n: n == len(many) - room)
    await locked.rollback()

    answers = [await first, *(await asyncio.gather(*many))]
    accepted = [n for n, answer in enumerate(answers) if answer.is_success]
    refused = [answer for answer in answers if not answer.is_success]
    assert len(accepted) == 1 + room
    assert {(answer.status_code, answer.headers["Retry-After"]) for answer in refused} == {(503, "1")}
    assert all("capacity" in answer.json()["error"] for answer in refused)
    bodies = {row["body"].decode().split()[0] for row in await connection.fetch("select body from messages")}
    assert bodies == {f"{n}" for n in accepted}
    assert (await send(99)).is_success, "there is room again"


async def test_large_bodies_are_sent_a_few_at_a_time_and_small_ones_go_on(serve: Serve, receiver: Receiver) -> None:
    server = await serve(slots=1000)
    recovers = asyncio.Event()
    async with crowd(4) as hanging:
        for one in hanging:
            one.script("/", hold(recovers))
        publishes = [server.publish(one.url(), LARGE) for one in hanging for _ in range(20)]
        await asyncio.gather(*publishes)
        await eventually(lambda: _requests(hanging), lambda n: n >= MOST_LARGE // 2)

        await all_are_served(server, receiver)

        assert await _requests(hanging) <= MOST_LARGE
        recovers.set()
        await asyncio.gather(*(one.wait_for(20) for one in hanging))
        assert all(request.body == LARGE for one in hanging for request in one.requests())


async def test_bodies_that_wait_for_their_commit_are_bounded_by_their_bytes(
    serve: Serve, receiver: Receiver, connection: Connection
) -> None:
    server = await serve()
    server.node._intake._max_waiting_bytes = 10 * len(LARGE)

    async def send() -> httpx.Response:
        return await server.http.post(f"/v2/publish/{receiver.url()}", content=LARGE)

    locked = await _locked(connection)
    first = asyncio.create_task(send())
    await _blocked(connection)
    sending = [asyncio.create_task(send()) for _ in range(40)]
    await eventually(lambda: _count_done(sending), lambda n: n == 30)
    await locked.rollback()

    answers = await asyncio.gather(first, *sending)
    assert {answer.status_code for answer in answers} == {201, 503}
    assert sum(answer.is_success for answer in answers) == 11
    assert await connection.fetchval("select count(*) from messages") == 11


async def _locked(connection: Connection) -> Transaction:
    """A transaction in which no message can be stored, until it is rolled back."""
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute("lock table messages in share mode")
    return transaction


async def _blocked(connection: Connection) -> None:
    """Until a statement waits for the lock: what is published from now on waits behind it."""
    waiting = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"

    async def ask() -> int:
        await connection.execute("select pg_stat_clear_snapshot()")  # or a transaction sees the same all the time
        count: int = await connection.fetchval(waiting)
        return count

    await eventually(ask, lambda n: n == 1)


async def _count_done(tasks: list[asyncio.Task[httpx.Response]]) -> int:
    return sum(task.done() for task in tasks)


async def _requests(receivers: list[Receiver]) -> int:
    return sum(len(one.requests()) for one in receivers)
