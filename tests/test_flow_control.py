"""Flow control: rates, parallelism, pauses and pins, as a receiver and an operator see them."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from postroad.domain.flow_control import FlowControl
from postroad.store import deliveries, dispatchers
from postroad.store.deliveries import Ended, Settlement
from postroad.store.engine import Connection, Database
from postroad.store.messages import insert
from tests.builders import a_new_message
from tests.conftest import Running, Serve, eventually
from tests.receiver import Mood, Received, Receiver, handled, hold, ok, status


def flow(value: str, key: str = "k") -> dict[str, str]:
    return {"Upstash_Flow_Control_Key": key, "Upstash_Flow_Control_Value": value}


async def state(server: Running, key: str = "k") -> dict[str, Any]:
    answer = await server.http.get(f"/v2/flowControl/{key}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def change(server: Running, action: str, key: str = "k", **parameters: Any) -> None:
    answer = await server.http.post(f"/v2/flowControl/{key}/{action}", params=parameters)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("nodes", [1, 2])
async def test_no_more_deliveries_are_under_way_than_the_parallelism_of_their_key(
    serve: Serve, receiver: Receiver, nodes: int
) -> None:
    servers = [await serve() for _ in range(nodes)]
    busy = most = 0

    async def at_work(_: Received) -> Mood:
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        await asyncio.sleep(0.02)
        busy -= 1
        return ok()

    receiver.script("/f", handled(at_work))
    await asyncio.gather(
        *(servers[n % nodes].publish(receiver.url("/f"), str(n), **flow("parallelism=3")) for n in range(60))
    )

    await receiver.wait_for(60, "/f", timeout=30)

    assert most == 3


async def test_no_more_deliveries_begin_in_a_period_than_the_rate_of_their_key(
    server: Running, receiver: Receiver, connection: Connection
) -> None:
    await asyncio.gather(*(server.publish(receiver.url("/f"), str(n), **flow("rate=10, period=1s")) for n in range(35)))

    await receiver.wait_for(35, "/f", timeout=30)
    await server.drain()

    # Periods begin with their first dispatch.
    begun = [row["active_at"] for row in await connection.fetch("select active_at from attempts order by active_at")]
    periods: list[list[Any]] = []
    for instant in begun:
        if not periods or instant >= periods[-1][0] + timedelta(seconds=1):
            periods.append([])
        periods[-1].append(instant)
    assert [len(period) for period in periods] == [10, 10, 10, 5]


async def test_retries_take_slots_of_their_key_like_first_attempts(
    server: Running, receiver: Receiver, connection: Connection
) -> None:
    receiver.script("/f", status(500), status(500), ok())

    message_id = await server.publish(receiver.url("/f"), Upstash_Retry_Delay="0", **flow("rate=2, period=1h"))
    await receiver.wait_for(2, "/f")
    await server.settled(message_id, "RETRY")

    assert (await state(server))["rateCount"] == 2
    assert len(receiver.requests("/f")) == 2
    await change(server, "resetRate")
    await server.settled(message_id)


async def test_a_callback_may_have_a_key_of_its_own(server: Running, receiver: Receiver) -> None:
    await server.publish(
        receiver.url("/f"), Upstash_Callback=receiver.url("/callback"),
        Upstash_Callback_Flow_Control_Key="callbacks", Upstash_Callback_Flow_Control_Value="parallelism=1",
    )  # fmt: skip

    await receiver.next_request("/callback")

    assert (await state(server, "callbacks"))["parallelismMax"] == 1


async def test_a_key_is_there_as_soon_as_something_was_published_with_it(server: Running, receiver: Receiver) -> None:
    message_id = await server.publish(receiver.url("/f"), **flow("parallelism=3, rate=10, period=1m", "user/7 a"))
    await server.settled(message_id)

    found = await state(server, "user/7 a")

    assert found == {
        "flowControlKey": "user/7 a",
        "waitListSize": 0,
        "parallelismMax": 3,
        "parallelismCount": 0,
        "rateMax": 10,
        "rateCount": 1,
        "ratePeriod": 60,
        "ratePeriodStart": found["ratePeriodStart"],
        "isPaused": False,
        "isPinnedParallelism": False,
        "isPinnedRate": False,
    }
    assert found["ratePeriodStart"] > 1_700_000_000
    assert [key["flowControlKey"] for key in (await server.http.get("/v2/flowControl")).json()] == ["user/7 a"]
    assert (await server.http.get("/v2/flowControl", params={"search": "user/8"})).json() == []
    assert (await server.http.get("/v2/flowControl", params={"serach": "x"})).status_code == 400
    assert (await server.http.get("/v2/flowControl/other")).status_code == 404


async def test_a_message_says_its_flow_control(server: Running, receiver: Receiver) -> None:
    receiver.script("/f", status(500))
    message_id = await server.publish(
        receiver.url("/f"), Upstash_Retry_Delay="600000", **flow("parallelism=3, period=1h30m3s")
    )

    message = (await server.http.get(f"/v2/messages/{message_id}")).json()

    assert (message["flowControlKey"], message["parallelism"], message["period"]) == ("k", 3, 5403)
    assert "rate" not in message
    assert (await server.events(flowControlKey="k"))[0]["flowControlKey"] == "k"
    assert await server.events(flowControlKey="other") == []


async def test_the_limits_of_the_last_message_count(server: Running, receiver: Receiver) -> None:
    gate = asyncio.Event()
    receiver.script("/f", hold(gate))
    for n in range(4):
        await server.publish(receiver.url("/f"), str(n), **flow("parallelism=1"))
    await receiver.wait_for(1, "/f")
    assert (await state(server))["waitListSize"] == 3

    await server.publish(receiver.url("/f"), "last", **flow("parallelism=4"))

    await receiver.wait_for(4, "/f")
    found = await eventually(lambda: state(server), lambda found: found["parallelismCount"] == 4)
    assert found["waitListSize"] == 1
    assert (await server.http.get("/v2/globalParallelism")).json() == {"parallelismMax": 0, "parallelismCount": 4}
    gate.set()
    await receiver.wait_for(5, "/f")


async def test_a_paused_key_lets_nothing_go_until_it_is_resumed(server: Running, receiver: Receiver) -> None:
    await change(server, "pause")
    await server.publish(receiver.url("/f"), **flow("parallelism=1"))
    await eventually(lambda: state(server), lambda found: found["waitListSize"] == 1 and found["isPaused"])
    await asyncio.sleep(0.3)
    assert receiver.requests() == []

    await change(server, "resume")

    await receiver.next_request("/f")
    assert (await server.http.post("/v2/flowControl/none/resume")).status_code == 404


async def test_pinned_limits_stay_whatever_messages_bring(server: Running, receiver: Receiver) -> None:
    await change(server, "pin", parallelism=2, rate=5, period=60)
    await server.publish(receiver.url("/f"), **flow("parallelism=9, rate=9, period=9"))
    found = await state(server)
    assert (found["parallelismMax"], found["rateMax"], found["ratePeriod"]) == (2, 5, 60)
    assert found["isPinnedParallelism"]
    assert found["isPinnedRate"]

    await change(server, "unpin", parallelism="true")
    found = await state(server)
    assert (found["isPinnedParallelism"], found["isPinnedRate"], found["parallelismMax"]) == (False, True, 2)
    await server.publish(receiver.url("/f"), **flow("parallelism=9, rate=9, period=9"))

    found = await state(server)
    assert (found["parallelismMax"], found["rateMax"]) == (9, 5)


@pytest.mark.parametrize(
    "parameters",
    [{"parallelism": "0"}, {"parallelism": "x"}, {"rate": "-1"}, {"rate": "1", "period": "8d"}, {"rat": "1"}, {}],
)
async def test_a_pin_that_is_not_valid_is_refused(server: Running, parameters: dict[str, str]) -> None:
    answer = await server.http.post("/v2/flowControl/k/pin", params=parameters)

    assert answer.status_code == 400
    assert (await server.http.get("/v2/flowControl")).json() == []


async def test_resetting_the_rate_makes_its_count_zero_even_with_a_delivery_under_way(
    server: Running, receiver: Receiver
) -> None:
    gate = asyncio.Event()
    receiver.script("/f", hold(gate))
    await server.publish(receiver.url("/f"), **flow("rate=1, period=1h"))
    await receiver.next_request("/f")
    assert (await state(server))["rateCount"] == 1

    await change(server, "resetRate")

    found = await state(server)
    assert (found["rateCount"], found["parallelismCount"]) == (0, 1)
    gate.set()


async def test_a_message_with_a_queue_and_a_key_passes_both(server: Running, receiver: Receiver) -> None:
    await change(server, "pause")
    for n in range(3):
        await server.publish(receiver.url("/f"), str(n), Upstash_Queue_Name="q", **flow("parallelism=5"))
    await eventually(lambda: state(server), lambda found: found["waitListSize"] == 1)

    await change(server, "resume")

    await receiver.wait_for(3, "/f")
    assert [request.body for request in receiver.requests("/f")] == [b"0", b"1", b"2"]


async def test_a_delayed_message_waits_for_its_time_and_then_for_its_key(server: Running, receiver: Receiver) -> None:
    await server.publish(receiver.url("/f"), Upstash_Delay="1h", **flow("parallelism=1"))
    assert (await state(server))["waitListSize"] == 0

    await server.time_passes(timedelta(hours=1))

    await receiver.next_request("/f")


async def test_claims_that_race_never_exceed_the_parallelism_of_a_key(
    database: Database, connection: Connection
) -> None:
    control = FlowControl("k", 3, None)
    news = [a_new_message(flow_control=control) for _ in range(100)]
    await insert(connection, news, dispatcher_id=None, window=timedelta(1))
    active = most = done = 0

    async def work(dispatcher_id: int) -> None:
        nonlocal active, most, done
        while done < 100:
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

    assert done == 100
    assert most <= 3


async def test_a_key_does_not_sleep_over_what_somebody_had_locked(database: Database, connection: Connection) -> None:
    """Whoever had it may leave it as it was, and then nobody wakes the key."""
    me = await dispatchers.register(connection, "me")
    await insert(
        connection, [a_new_message(flow_control=FlowControl("k", 3, None))], dispatcher_id=None, window=timedelta(1)
    )
    async with database.transaction() as other:
        await other.execute("select * from deliveries for update")
        async with database.transaction() as own:
            claimed, looked = await deliveries.claim_flow(own, me, 10)

    assert (claimed, looked) == ([], True)
    assert await connection.fetchval("select wake_at < now() + interval '1 s' from flow_keys")


async def test_a_key_that_slept_over_something_is_found_and_woken(
    server: Running, receiver: Receiver, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    await change(server, "pause")
    await server.publish(receiver.url("/f"), **flow("parallelism=1"))
    await connection.execute("update flow_keys set paused = false, wake_at = 'infinity'")
    await connection.execute("update deliveries set due_at = now() - interval '10 s'")
    assert server.node.dispatcher is not None

    await server.node.dispatcher._janitor.keep_queues()

    await receiver.next_request("/f")
    assert "slept" in caplog.text


async def test_a_key_that_a_hanging_transaction_holds_keeps_nothing_else_waiting(
    server: Running, receiver: Receiver, database: Database
) -> None:
    await server.publish(receiver.url("/f"), **flow("parallelism=1"))
    await receiver.next_request("/f")

    async with database.connection() as connection:
        await connection.execute("update flow_keys set wake_at = now() + interval '1 s'")
    async with database.transaction() as hanging:
        await hanging.execute("select * from flow_keys for update")
        await asyncio.sleep(1.5)  # The key wakes up while it is locked.
        await server.publish(receiver.url("/plain"), Upstash_Delay="1s")
        await server.publish(receiver.url("/queued"), Upstash_Queue_Name="q")
        await receiver.next_request("/queued", timeout=5)
        await receiver.next_request("/plain", timeout=5)


async def test_a_backlog_under_a_key_leaves_slots_to_others(serve: Serve, receiver: Receiver) -> None:
    server = await serve(slots=100)
    gate = asyncio.Event()
    receiver.script("/slow", hold(gate))
    await asyncio.gather(
        *(server.publish(receiver.url("/slow"), str(n), **flow("parallelism=1000")) for n in range(150))
    )
    await receiver.wait_for(50, "/slow")
    await asyncio.sleep(0.5)

    # By its name this is another destination.
    async with asyncio.timeout(10):
        await server.publish(f"http://localhost:{receiver.port}/other", Upstash_Delay="1s")
        await receiver.next_request("/other")

    assert len(receiver.requests("/slow")) <= 100
    gate.set()
    await receiver.wait_for(150, "/slow", timeout=30)


async def test_callbacks_that_share_a_key_with_queued_messages_make_no_deadlocks(
    server: Running, receiver: Receiver, connection: Connection
) -> None:
    headers = {
        **flow("parallelism=50", "shared"),
        "Upstash_Callback": receiver.url("/callback"),
        "Upstash_Callback_Flow_Control_Key": "shared",
        "Upstash_Callback_Flow_Control_Value": "parallelism=50",
    }

    async def publish(publisher: int) -> None:
        for number in range(20):
            await server.publish(receiver.url("/q"), str(number), Upstash_Queue_Name=f"q{publisher % 4}", **headers)

    await asyncio.gather(*(publish(publisher) for publisher in range(12)))
    await eventually(lambda: connection.fetchval("select count(*) from deliveries"), lambda left: left == 0, within=60)
    assert len(receiver.requests("/callback")) == 240

    async def deadlocks() -> int:
        await connection.execute("select pg_stat_clear_snapshot()")
        found: int = await connection.fetchval(
            "select deadlocks from pg_stat_database where datname = current_database()"
        )
        return found

    await asyncio.sleep(1.2)  # Statistics are reported once in a second.
    assert await deadlocks() == 0
