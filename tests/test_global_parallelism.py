"""The parallelism of a tenant: how many of its deliveries are under way at a time, whatever their keys and nodes."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import timedelta

import pytest

from postroad.dev import DEV_USERS
from postroad.domain.flow_control import FlowControl
from postroad.domain.tenant import TenantId
from postroad.store import deliveries, dispatchers, parallelism, tenants
from postroad.store.deliveries import Ended, Settlement
from postroad.store.engine import Connection, Database
from postroad.store.messages import NewMessage, insert
from tests.builders import TENANT, a_new_message
from tests.conftest import Running, Serve, eventually
from tests.receiver import Mood, Received, Receiver, handled, hold, ok, status


class Work:
    """Requests at the receiver that take a moment: how many were answered at the same time."""

    def __init__(self, seconds: float = 0.02) -> None:
        self.busy = self.most = 0
        self._seconds = seconds

    async def __call__(self, _: Received) -> Mood:
        self.busy += 1
        self.most = max(self.most, self.busy)
        await asyncio.sleep(self._seconds)
        self.busy -= 1
        return ok()


def flow(key: str, most: int = 10) -> dict[str, str]:
    return {"Upstash_Flow_Control_Key": key, "Upstash_Flow_Control_Value": f"parallelism={most}"}


def bearer(user: int) -> dict[str, str]:
    return {"Authorization": f"Bearer {DEV_USERS[user].token}"}


async def overall(server: Running) -> tuple[int, int]:
    answer = (await server.http.get("/v2/globalParallelism")).json()
    return answer["parallelismMax"], answer["parallelismCount"]


@pytest.mark.parametrize("nodes", [1, 2])
async def test_no_more_deliveries_are_under_way_than_the_parallelism_of_their_tenant(
    serve: Serve, connection: Connection, receiver: Receiver, nodes: int
) -> None:
    await parallelism.limit(connection, TENANT, 3)
    servers = [await serve() for _ in range(nodes)]
    work = Work()
    receiver.script("/w", handled(work))

    await asyncio.gather(
        *(
            servers[n % nodes].publish(receiver.url("/w"), str(n), **(flow(f"k{n % 10}") if n % 2 else {}))
            for n in range(60)
        )
    )

    requests = await receiver.wait_for(60, "/w", timeout=30)
    assert work.most == 3
    assert sorted(int(request.body) for request in requests) == list(range(60))


async def test_every_way_of_making_messages_counts(serve: Serve, connection: Connection, receiver: Receiver) -> None:
    await parallelism.limit(connection, TENANT, 1)
    server = await serve()
    work = Work()
    for path in ("/w", "/callback"):
        receiver.script(path, handled(work))
    destination = receiver.url("/w")
    endpoints = [{"url": f"{destination}?{n}"} for n in range(2)]
    await server.http.post("/v2/topics/g/endpoints", json={"endpoints": endpoints})

    await server.http.post(f"/v2/schedules/{destination}", headers={"Upstash-Cron": "@yearly"})
    await connection.execute("update schedules set next_at = now()")
    await server.http.post("/v2/publish/g")
    batch = [{"destination": destination} for _ in range(3)]
    await server.http.post("/v2/batch", content=json.dumps(batch))
    for n in range(3):
        await server.publish(destination, Upstash_Callback=receiver.url("/callback"))
        await server.publish(destination, Upstash_Deduplication_Id=str(n))
        await server.http.post(f"/v2/enqueue/q{n}/{destination}")

    await receiver.wait_for(15, "/w", timeout=30)
    await receiver.wait_for(3, "/callback", timeout=30)
    assert work.most == 1


async def test_a_key_of_its_own_still_holds_within_the_parallelism_of_the_tenant(
    serve: Serve, connection: Connection, receiver: Receiver
) -> None:
    await parallelism.limit(connection, TENANT, 4)
    server = await serve()
    work, narrow = Work(), Work()
    receiver.script("/w", handled(work))
    receiver.script("/narrow", handled(narrow))

    for n in range(10):
        await server.publish(receiver.url("/narrow"), str(n), **flow("narrow", 1))
        await server.publish(receiver.url("/w"), str(n))

    await receiver.wait_for(20, timeout=30)
    assert narrow.most == 1


async def test_the_parallelism_and_what_is_under_way_can_be_seen_but_not_how_it_is_done(
    serve: Serve, connection: Connection, receiver: Receiver
) -> None:
    await parallelism.limit(connection, TENANT, 2)
    server = await serve()
    gate = asyncio.Event()
    receiver.script("/w", hold(gate))
    ids = [await server.publish(receiver.url("/w")) for _ in range(3)]
    await receiver.wait_for(2, "/w")

    assert await overall(server) == (2, 2)
    assert (await server.http.get("/v2/flowControl")).json() == []
    assert (await server.http.get("/v2/flowControl", params={"search": ""})).json() == []
    assert (await server.http.post("/v2/flowControl//pin", params={"parallelism": 9})).status_code in (400, 404)
    message = (await server.http.get(f"/v2/messages/{ids[0]}")).json()
    assert not {"flowControlKey", "parallelism"} & message.keys()

    gate.set()
    await receiver.wait_for(3, "/w")
    assert await eventually(lambda: overall(server), lambda found: found[1] == 0) == (2, 0)


async def test_those_who_wait_longest_go_first_whatever_their_keys(
    serve: Serve, connection: Connection, receiver: Receiver
) -> None:
    """Nobody is made to wait for many who came later. The few under a key may pass while another key is locked."""
    await parallelism.limit(connection, TENANT, 2)
    server = await serve()
    receiver.script("/w", handled(Work(0.03)))

    for n in range(40):
        await server.publish(receiver.url("/w"), str(n), **(flow(f"k{n}") if n % 8 == 7 else {}))

    arrived = [int(request.body) for request in await receiver.wait_for(40, "/w", timeout=30)]
    assert all(place - n < 12 for place, n in enumerate(arrived)), arrived


async def test_a_limit_that_is_set_while_messages_wait_holds_for_them(
    server: Running, connection: Connection, receiver: Receiver
) -> None:
    """Also for those that were under way and come back for a retry, and for those whose time is still to come."""
    work = Work(0.05)
    receiver.script("/w", handled(work))
    receiver.script("/retried", status(500), status(500), status(500), status(500), handled(work))
    for n in range(4):
        await server.publish(receiver.url("/retried"), str(n), Upstash_Retry_Delay="60000")
        await server.publish(receiver.url("/w"), str(n), Upstash_Delay="1m")
        await server.publish(receiver.url("/w"), str(n), Upstash_Delay="1m", Upstash_Queue_Name=f"q{n}")
    await receiver.wait_for(4, "/retried")
    await server.drain()

    await parallelism.limit(connection, TENANT, 1)
    await server.time_passes(timedelta(minutes=2))

    await receiver.wait_for(8, "/w", timeout=30)
    await receiver.wait_for(8, "/retried", timeout=30)
    assert work.most == 1


async def test_what_was_under_way_when_the_limit_was_set_is_retried_within_it(
    server: Running, connection: Connection, receiver: Receiver
) -> None:
    gate = asyncio.Event()
    receiver.script("/w", hold(gate, status(500)), ok())
    message_id = await server.publish(receiver.url("/w"), Upstash_Retry_Delay="1")
    await receiver.next_request("/w")

    await parallelism.limit(connection, TENANT, 1)
    gate.set()

    await server.settled(message_id)
    assert len(receiver.requests("/w")) == 2


async def test_what_is_under_way_when_a_limit_is_set_is_not_broken_off(
    server: Running, connection: Connection, receiver: Receiver
) -> None:
    gate = asyncio.Event()
    receiver.script("/w", hold(gate))
    for _ in range(3):
        await server.publish(receiver.url("/w"))
    await receiver.wait_for(3, "/w")

    await parallelism.limit(connection, TENANT, 1)
    await server.publish(receiver.url("/later"))

    await asyncio.sleep(0.3)
    assert receiver.requests("/later") == []
    assert await overall(server) == (1, 3)
    gate.set()
    await receiver.next_request("/later")


async def test_a_limit_that_is_changed_or_taken_away_lets_go_what_waits(
    serve: Serve, connection: Connection, receiver: Receiver
) -> None:
    await parallelism.limit(connection, TENANT, 1)
    server = await serve()
    gate = asyncio.Event()
    receiver.script("/w", hold(gate))
    for n in range(10):
        await server.publish(receiver.url("/w"), str(n), **(flow("k") if n % 2 else {}))
    await receiver.wait_for(1, "/w")
    await asyncio.sleep(0.3)
    assert len(receiver.requests("/w")) == 1

    await parallelism.limit(connection, TENANT, 3)
    await receiver.wait_for(3, "/w")
    await asyncio.sleep(0.3)
    assert len(receiver.requests("/w")) == 3

    await parallelism.unlimit(connection, TENANT)
    await receiver.wait_for(10, "/w")
    assert await overall(server) == (0, 10)
    gate.set()
    await server.drain()
    assert await connection.fetchval("select count(*) from deliveries") == 0


async def test_another_tenant_goes_its_way(serve: Serve, connection: Connection, receiver: Receiver) -> None:
    await parallelism.limit(connection, TENANT, 1)
    server = await serve()
    gate = asyncio.Event()
    receiver.script("/w", hold(gate))
    for _ in range(3):
        await server.publish(receiver.url("/w"))

    for n in range(5):
        await server.publish(receiver.url("/other"), str(n), **bearer(1), **(flow("k") if n % 2 else {}))

    await receiver.wait_for(5, "/other")
    assert len(receiver.requests("/w")) == 1
    gate.set()


async def test_in_one_group_only_messages_of_a_limited_tenant_wait(database: Database, connection: Connection) -> None:
    await parallelism.limit(connection, TENANT, 1)
    other = await tenants.find(connection, DEV_USERS[1].tenant)
    assert other is not None
    dispatcher_id = await dispatchers.register(connection, "x")
    group = [a_new_message(mine=True), of(other, a_new_message(mine=True))]

    stored = await insert(connection, group, dispatcher_id=dispatcher_id, window=timedelta(1))

    assert [one.handed_over for one in stored] == [False, True]
    rows = await connection.fetch("select tenant_id, flow_key_id is null as is_free from deliveries order by 1")
    assert [(row["tenant_id"], row["is_free"]) for row in rows] == [(TENANT, False), (other, True)]
    assert await connection.fetchval("select count(*) from messages where flow_key is not null") == 0


async def test_claims_that_race_never_exceed_the_parallelism_of_a_tenant(
    database: Database, connection: Connection
) -> None:
    await parallelism.limit(connection, TENANT, 3)
    controls = [None, *(FlowControl(f"k{n}", 2, None) for n in range(5))]
    news = [a_new_message(flow_control=controls[n % len(controls)]) for n in range(120)]
    await insert(connection, news, dispatcher_id=None, window=timedelta(1))
    active = most = done = 0

    async def work(dispatcher_id: int) -> None:
        nonlocal active, most, done
        while done < 120:
            async with database.transaction() as own:
                claimed, _ = await deliveries.claim_flow(own, dispatcher_id, 10)
                active += len(claimed)
                most = max(most, active)
            await asyncio.sleep(0)
            if claimed:
                ends = [Settlement(one.id, one.lease, Ended.DELIVERED, timedelta(0)) for one in claimed]
                async with database.transaction() as own:
                    await deliveries.release(own, await deliveries.settle(own, dispatcher_id, ends))
                    active -= len(claimed)
                done += len(claimed)

    await asyncio.gather(*[work(await dispatchers.register(connection, str(n))) for n in range(5)])

    assert done == 120
    assert most == 3


def of(tenant_id: TenantId, new: NewMessage) -> NewMessage:
    """The same message, of another tenant."""
    return replace(new, message=replace(new.message, tenant_id=tenant_id))
