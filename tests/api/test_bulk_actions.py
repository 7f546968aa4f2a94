"""Cancelling by filter: a bulk action that goes on by itself, whoever began it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import asyncpg
import httpx
import pytest

from postroad.api import bulk_actions as bulk_actions_api
from postroad.dev import DEV_USERS
from postroad.dispatch import janitor
from postroad.domain.ids import message_text
from postroad.domain.message import After
from postroad.store import bulk_actions, deliveries, dispatchers, lookups
from postroad.store.engine import Connection, Database
from postroad.store.filters import Filters
from postroad.store.messages import insert
from tests.builders import TENANT, a_new_message
from tests.conftest import Running, Serve, eventually
from tests.moods import hold, status
from tests.receiver import Receiver

STRANGER = {"Authorization": f"Bearer {DEV_USERS[1].token}"}
LABELLED = Filters(values={"label": ("bulk",)})


async def cancel(server: Running, **parameters: Any) -> dict[str, Any]:
    """The answer to a bulk cancel; `is_async` stands for async."""
    if "is_async" in parameters:
        parameters["async"] = parameters.pop("is_async")
    answer = await server.http.delete("/v2/messages", params=parameters)
    assert answer.status_code == 202, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def action(server: Running, action_id: str) -> dict[str, Any]:
    answer = await server.http.get(f"/v2/bulkActions/{action_id}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def actions(server: Running, **parameters: Any) -> list[dict[str, Any]]:
    answer = await server.http.get("/v2/bulkActions", params=parameters)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["bulkActions"]
    return found


async def finished(server: Running, action_id: str) -> dict[str, Any]:
    found: dict[str, Any] = await eventually(
        lambda: action(server, action_id), lambda found: found["state"] == "FINISHED"
    )
    return found


async def waiting(connection: Connection, count: int, label: str = "bulk") -> None:
    """Messages of the default tenant's that wait for an hour."""
    for start in range(0, count, 1000):
        group = [
            a_new_message(labels=(label,), when=After(timedelta(hours=1))) for _ in range(min(1000, count - start))
        ]
        await insert(connection, group, dispatcher_id=None, window=timedelta(minutes=10))


async def unfinished(connection: Connection) -> int:
    count: int = await connection.fetchval("select count(*) from deliveries")
    return count


@asynccontextmanager
async def held_up(database_url: str) -> AsyncIterator[None]:
    """While the last message is locked by somebody, a cancellation of all cannot end."""
    connection = await asyncpg.connect(database_url)
    async with connection.transaction():
        await connection.execute("select from deliveries order by id desc limit 1 for update")
        yield
    await connection.close()


async def left_behind(connection: Connection) -> None:
    """As if whoever worked on it had died a while ago."""
    await connection.execute("update bulk_actions set held_until = now() - interval '1 s'")


# What it answers, and what can be seen of it.


async def test_cancelling_by_filter_leaves_an_action_to_look_at(server: Running, receiver: Receiver) -> None:
    ids = [await server.publish(receiver.url(), Upstash_Delay="1h", Upstash_Label=label) for label in "aab"]

    answer = await cancel(server, label="a", fromDate=1000, host=["127.0.0.1", "other"])

    assert answer == {"cancelled": 2}
    [found] = await actions(server)
    assert found["actionId"].startswith("blk_")
    assert found["completedAt"] >= found["createdAt"] > 1_700_000_000_000
    assert {name: found[name] for name in ("kind", "state", "total", "processed", "filter")} == {
        "kind": "cancel", "state": "FINISHED", "total": 2, "processed": 2,
        "filter": {"label": ["a"], "host": ["127.0.0.1", "other"], "fromDate": ["1000"]},
    }  # fmt: skip
    assert await action(server, found["actionId"]) == found
    assert await server.states(ids[0]) == ["CREATED", "CANCEL_REQUESTED", "CANCELED"]
    assert await server.states(ids[2]) == ["CREATED"]
    assert await server.dead_letters() == []


async def test_cancelling_by_ids_is_done_at_once_and_leaves_no_action(server: Running, receiver: Receiver) -> None:
    one, two = [await server.publish(receiver.url(), Upstash_Delay="1h") for _ in range(2)]

    assert await cancel(server, messageIds=one, is_async="true") == {"cancelled": 1}
    assert await cancel(server, messageId=[one, two], label="other") == {"cancelled": 1}

    assert await actions(server) == []


async def test_more_ids_than_a_step_takes_are_all_cancelled(server: Running, connection: Connection) -> None:
    await waiting(connection, 7000)
    ids = await lookups.look_through(connection, TENANT, Filters(), after=None, limit=7000, reach=7000)
    names = [message_text(one) for one in ids.ids]

    answer = await server.http.request("DELETE", "/v2/messages", json={"messageIds": names, "count": 6000})
    rest = await server.http.request("DELETE", "/v2/messages", json={"messageIds": names})

    assert (answer.json(), rest.json()) == ({"cancelled": 6000}, {"cancelled": 1000})


async def test_an_asynchronous_cancellation_answers_first_and_goes_on(server: Running, connection: Connection) -> None:
    await waiting(connection, 20_000)
    await waiting(connection, 10, "other")

    async with held_up(server.database_url):
        answer = await cancel(server, label="bulk,other", is_async="true")
        running = await action(server, answer["actionId"])

    assert answer["cancelled"] == 20_010
    assert (running["state"], running["total"]) == ("IN_PROGRESS", 20_010)
    assert "completedAt" not in running
    done = await finished(server, answer["actionId"])
    assert (done["total"], done["processed"]) == (20_010, 20_010)
    assert await unfinished(connection) == 0
    assert await connection.fetchval("select count(*) from cancellations where canceled_at is not null") == 20_010


async def test_twenty_thousand_are_cancelled_in_one_call(server: Running, connection: Connection) -> None:
    await waiting(connection, 20_000)
    await waiting(connection, 10, "other")

    assert await cancel(server, label="bulk") == {"cancelled": 20_000}
    assert await cancel(server, label="bulk") == {"cancelled": 0}
    assert await cancel(server) == {"cancelled": 10}


async def test_a_cancellation_that_finds_nothing_is_finished_at_once(server: Running) -> None:
    answer = await cancel(server, label="none", is_async="true")

    assert answer["cancelled"] == 0
    found = await action(server, answer["actionId"])
    assert (found["state"], found["total"], found["processed"]) == ("FINISHED", 0, 0)


async def test_a_call_that_would_wait_too_long_is_told_which_action_goes_on(
    server: Running, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk_actions_api, "WAIT_S", 0.2)
    await server.publish(receiver.url(), Upstash_Delay="1h")

    async with held_up(server.database_url):
        answer = await server.http.delete("/v2/messages")
        [running] = await actions(server, state="IN_PROGRESS")

    assert answer.status_code == 429
    assert running["actionId"] in answer.json()["error"]
    assert "RateLimit-Limit" not in answer.headers, "clients would take it for their daily quota"
    assert (await finished(server, running["actionId"]))["processed"] == 1


# The same again.


async def test_the_same_again_while_it_runs_is_the_same_action(server: Running, receiver: Receiver) -> None:
    for _ in range(3):
        await server.publish(receiver.url(), Upstash_Delay="1h", Upstash_Label="a,b")

    async with held_up(server.database_url):
        first = await cancel(server, label="a,b", is_async="true")
        again = await cancel(server, label=["b", "a", "b"], is_async="true")
        less = await cancel(server, label="a,b", count=2, is_async="true")
        other = await cancel(server, label="a", is_async="true")
        waits = asyncio.create_task(cancel(server, label="b,a"))
        await asyncio.sleep(0)
        assert [one["actionId"] for one in await actions(server)] == [one["actionId"] for one in (other, less, first)]

    assert first == again == {"cancelled": 3, "actionId": first["actionId"]}
    assert less["cancelled"] == 2
    ended = [await finished(server, one["actionId"]) for one in (first, less, other)]
    assert sum(one["processed"] for one in ended) == 3
    assert (await waits)["cancelled"] == ended[0]["processed"]
    assert (await cancel(server, label="a,b", is_async="true"))["actionId"] != first["actionId"]


async def test_two_nodes_that_are_asked_for_the_same_cancel_everything_once(
    serve: Serve, connection: Connection
) -> None:
    nodes = [await serve(), await serve()]
    await waiting(connection, 12_000)

    answers = await asyncio.gather(*(cancel(nodes[n % 2], label="bulk") for n in range(6)))

    [*found] = await actions(nodes[0])
    assert sum(one["processed"] for one in found) == 12_000
    assert {answer["cancelled"] for answer in answers} <= {one["processed"] for one in found}
    assert await connection.fetchval("select count(*) from cancellations") == 12_000


async def test_count_limits_an_action_and_a_loop_ends(server: Running, receiver: Receiver) -> None:
    for _ in range(7):
        await server.publish(receiver.url(), Upstash_Delay="1h", Upstash_Label="a")

    counts = [(await cancel(server, label="a", count=3))["cancelled"] for _ in range(4)]

    assert counts == [3, 3, 1, 0]
    assert [(one["total"], one["processed"]) for one in await actions(server)] == [(0, 0), (1, 1), (3, 3), (3, 3)]


async def test_a_count_beyond_a_step_is_kept_to(server: Running, connection: Connection) -> None:
    await waiting(connection, 8_000)

    assert await cancel(server, label="bulk", count=6_500) == {"cancelled": 6_500}
    assert await unfinished(connection) == 1_500


async def test_a_message_in_flight_is_counted_by_one_cancellation_only(server: Running, receiver: Receiver) -> None:
    release = asyncio.Event()
    receiver.script("/", hold(release, status(500)))
    message_id = await server.publish(receiver.url(), Upstash_Label="a")
    await receiver.next_request()

    counts = [(await cancel(server, **filters))["cancelled"] for filters in ({"label": "a"}, {}, {"path": "/"})]
    by_id = await cancel(server, messageIds=message_id)
    alone = await server.http.delete(f"/v2/messages/{message_id}")

    release.set()
    assert counts == [1, 0, 0]
    assert by_id == {"cancelled": 0}
    assert (alone.status_code, alone.json()) == (202, {"cancelled": 0})
    await server.settled(message_id, "CANCELED")


# Whoever began it may go.


async def test_what_a_process_left_in_the_middle_is_finished_by_another(
    serve: Serve, database: Database, connection: Connection
) -> None:
    await waiting(connection, 12_000)
    begun, is_new = await bulk_actions.create(connection, TENANT, LABELLED, most=None)
    async with database.transaction() as step:
        gone_on = await bulk_actions.go_on(step, begun.id, holds=is_new)
    assert gone_on is not None
    assert (gone_on.total, gone_on.processed) == (12_000, 5_000)
    await left_behind(connection)

    server = await serve()

    done = await finished(server, begun.id)
    assert (done["total"], done["processed"]) == (12_000, 12_000)
    assert await unfinished(connection) == 0


async def test_a_stop_breaks_an_action_off_and_another_node_goes_on(serve: Serve, connection: Connection) -> None:
    stopping, other = await serve(), await serve()
    await waiting(connection, 12_000)

    async with held_up(stopping.database_url):
        answer = await cancel(stopping, label="bulk", is_async="true")
        await eventually(lambda: action(other, answer["actionId"]), lambda found: found["processed"] == 10_000)
        await stopping.node._bulk_worker.stop()
    assert (await action(other, answer["actionId"]))["state"] == "IN_PROGRESS"
    await left_behind(connection)

    assert (await finished(other, answer["actionId"]))["processed"] == 12_000


async def test_nobody_takes_an_action_from_whoever_holds_it(database: Database, connection: Connection) -> None:
    await waiting(connection, 10)
    begun, _ = await bulk_actions.create(connection, TENANT, LABELLED, most=None)

    async with database.transaction() as step:
        assert await bulk_actions.go_on(step, begun.id, holds=False) is None
    assert await bulk_actions.abandoned(connection) == []
    await left_behind(connection)
    assert await bulk_actions.abandoned(connection) == [begun.id]
    async with database.transaction() as mine:
        taken = await bulk_actions.go_on(mine, begun.id, holds=False)
        async with database.transaction() as theirs:
            assert await bulk_actions.go_on(theirs, begun.id, holds=True) is None

    assert taken is not None
    assert taken.processed == 10
    assert await bulk_actions.abandoned(connection) == []


async def test_a_caller_that_goes_away_does_not_stop_it(server: Running, receiver: Receiver) -> None:
    await server.publish(receiver.url(), Upstash_Delay="1h")

    async with held_up(server.database_url):
        with pytest.raises(httpx.ReadTimeout):
            await server.http.delete("/v2/messages", timeout=0.5)
        [running] = await actions(server)

    assert (await finished(server, running["actionId"]))["processed"] == 1


async def test_what_comes_after_its_creation_is_not_its_business(
    serve: Serve, receiver: Receiver, connection: Connection
) -> None:
    await waiting(connection, 10)
    begun, _ = await bulk_actions.create(connection, TENANT, LABELLED, most=None)
    server = await serve()
    later = await server.publish(receiver.url(), Upstash_Delay="1h", Upstash_Label="bulk")
    await left_behind(connection)

    assert (await finished(server, begun.id))["processed"] == 10

    assert await server.states(later) == ["CREATED"]
    assert await cancel(server, label="bulk") == {"cancelled": 1}


# What it is about.


async def test_every_unfinished_state_is_cancelled_and_queues_go_on(server: Running, receiver: Receiver) -> None:
    """Waiting, waiting for a retry, in flight, a callback, held in a queue and delayed there; not the next in line."""
    release = asyncio.Event()
    receiver.script("/fails", status(500))
    receiver.script("/holds", hold(release, status(500)))
    label = {"Upstash-Label": "a"}

    async def enqueue(path: str, **headers: str) -> str:
        answer = await server.http.post(f"/v2/enqueue/q/{receiver.url(path)}", headers=headers)
        message_id: str = answer.json()["messageId"]
        return message_id

    await server.publish(receiver.url(), Upstash_Delay="1h", Upstash_Label="a")
    await server.settled(await server.publish(receiver.url("/fails"), Upstash_Label="a"), "RETRY")
    await server.publish(receiver.url("/holds"), Upstash_Label="a")
    await receiver.next_request("/holds")
    await server.settled(await enqueue("/fails", **label), "RETRY")
    for _ in range(3):
        await enqueue("/held", **label)
    last = await enqueue("/last")

    answer = await cancel(server, label="a")

    assert answer == {"cancelled": 7}
    await receiver.next_request("/last")
    await server.settled(last)
    release.set()
    await eventually(lambda: server.events(state="CANCELED"), lambda events: len(events) == 7)
    assert receiver.requests("/held") == []
    assert await server.dead_letters() == []
    assert await cancel(server) == {"cancelled": 0}


async def test_a_callback_is_cancelled_as_well(server: Running, receiver: Receiver) -> None:
    receiver.script("/callback", status(500))
    await server.settled(
        await server.publish(receiver.url(), Upstash_Callback=receiver.url("/callback"), Upstash_Label="a")
    )
    await receiver.next_request("/callback")
    await eventually(lambda: server.events(state="RETRY"), lambda events: len(events) == 1)

    assert await cancel(server, url=receiver.url("/callback")) == {"cancelled": 1}


async def test_each_filter_finds_its_own(server: Running, receiver: Receiver, connection: Connection) -> None:
    await server.http.post("/v2/topics/group/endpoints", json={"endpoints": [{"url": receiver.url("/topic")}]})
    later = {"Upstash-Delay": "1h"}
    await server.http.post("/v2/publish/group", headers=later)
    await server.http.post("/v2/queues", json={"queueName": "q", "paused": True})
    await server.http.post(f"/v2/enqueue/q/{receiver.url('/queue')}")
    flow = {"Upstash-Flow-Control-Key": "k", "Upstash-Flow-Control-Value": "rate=1"}
    await server.publish(receiver.url("/flow"), **flow, **later)
    await server.publish(receiver.url("/label?x=1"), Upstash_Label="a,b", **later)
    await server.publish(receiver.url("/schedule"), **later)
    await server.publish(receiver.url("/caller"), **later)
    await server.publish(receiver.url("/url?x=1,2"), **later)
    await server.publish(f"http://LOCALHOST:{receiver.port}/host", **later)
    await connection.execute("update messages set schedule_id = 's' where url like '%/schedule'")
    await connection.execute("update messages set caller_ip = '10.0.0.1' where url like '%/caller'")

    async def paths(**filters: Any) -> list[str]:
        rows = await connection.fetch("select m.id, m.url from messages m join deliveries d using (id)")
        before = {row["id"]: row["url"] for row in rows}
        assert await cancel(server, **filters) == {"cancelled": 1}
        after = {row["id"] for row in await connection.fetch("select id from deliveries")}
        return [url.partition("/")[2] for url in (before[one] for one in before.keys() - after)]

    for filters, path in (
        ({"topicName": ["group", "none"]}, "/topic"),
        ({"queueName": "q"}, "/queue"),
        ({"flowControlKey": "k"}, "/flow"),
        ({"scheduleId": "s", "path": "/schedule"}, "/schedule"),
        ({"callerIP": "10.0.0.1", "callerIp": "10.0.0.2"}, "/caller"),
        ({"url": receiver.url("/url?x=1,2")}, "/url?x=1,2"),
        ({"host": "localhost", "path": "/host,/label"}, "/host"),
        ({"label": "b", "path": "/label"}, "/label?x=1"),
    ):
        [found] = await paths(**filters)
        assert found.endswith(path), filters
    assert await cancel(server) == {"cancelled": 0}


async def test_dates_include_their_whole_millisecond(server: Running, receiver: Receiver) -> None:
    message_id = await server.publish(receiver.url(), Upstash_Delay="1h")
    at = (await server.http.get(f"/v2/messages/{message_id}")).json()["createdAt"]

    assert await cancel(server, toDate=at - 1) == {"cancelled": 0}
    assert await cancel(server, fromDate=at + 1) == {"cancelled": 0}
    assert await cancel(server, fromDate=at, toDate=at) == {"cancelled": 1}
    assert (await actions(server))[0]["filter"] == {"fromDate": [str(at)], "toDate": [str(at)]}


async def test_another_tenants_messages_are_left_alone(server: Running, receiver: Receiver) -> None:
    for headers in ({}, STRANGER):
        await server.http.post(
            f"/v2/publish/{receiver.url()}", headers={"Upstash-Delay": "1h", "Upstash-Label": "a", **headers}
        )

    assert await cancel(server, label="a") == {"cancelled": 1}
    assert await cancel(server) == {"cancelled": 0}

    answer = await server.http.delete("/v2/messages", headers=STRANGER)
    assert answer.json() == {"cancelled": 1}


@pytest.mark.parametrize(
    "body",
    [
        {"label": []},
        {"label": None},
        {"label": ""},
        {"url": [], "path": "/"},
        {"queueName": [""]},
        {"fromDate": []},
        {"toDate": None},
        {"fromDate": "yesterday"},
        {"labeel": "a"},
        {"label": "a", "Path": "/"},
        {"count": 0},
        {"async": "perhaps"},
    ],
    ids=repr,
)
async def test_a_filter_without_a_value_never_means_everything(
    server: Running, receiver: Receiver, body: dict[str, Any]
) -> None:
    message_id = await server.publish(receiver.url(), Upstash_Delay="1h", Upstash_Label="a")

    in_body = await server.http.request("DELETE", "/v2/messages", json=body)
    parameters = {name: "" if value in ([], None) else value for name, value in body.items()}
    in_query = await server.http.delete("/v2/messages", params=parameters)

    for answer in (in_body, in_query):
        assert answer.status_code == 400 or answer.json() == {"cancelled": 0}, answer.request.url
    assert await server.states(message_id) == ["CREATED"]


async def test_few_that_lie_far_apart_among_many_are_found(
    server: Running, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By going along all that is unfinished where the index of their label leads to too many, and by that index."""
    monkeypatch.setattr(bulk_actions, "_REACH", 1_500)
    monkeypatch.setattr(bulk_actions, "_first_reach", lambda _: 1_000)
    for _ in range(4):
        await waiting(connection, 1, "rare")
        await waiting(connection, 1_100)

    for most_by_message in (2, 20_000):
        monkeypatch.setattr(lookups, "MOST_BY_MESSAGE", most_by_message)
        answer = await cancel(server, label="rare", count=2, is_async="true")
        assert answer["cancelled"] == 2
        assert (await finished(server, answer["actionId"]))["processed"] == 2

    assert await cancel(server, label="rare") == {"cancelled": 0}
    assert await cancel(server, host="nowhere") == {"cancelled": 0}
    assert await cancel(server, path="/x") == {"cancelled": 4_400}


# Looking at actions.


async def test_actions_come_in_pages_the_newest_first(server: Running) -> None:
    for number in range(5):
        await cancel(server, label=f"{number}")

    seen: list[str] = []
    cursor: str | None = None
    while True:
        answer = await server.http.get("/v2/bulkActions", params={"count": 2} | ({"cursor": cursor} if cursor else {}))
        page = answer.json()
        seen += [one["filter"]["label"][0] for one in page["bulkActions"]]
        cursor = page.get("cursor")
        if cursor is None:
            break

    assert seen == ["4", "3", "2", "1", "0"]
    assert len(await actions(server, count=5)) == len(await actions(server, count=100_000)) == 5
    assert len(await actions(server, state="FINISHED")) == 5
    assert await actions(server, state="IN_PROGRESS") == []


@pytest.mark.parametrize("parameter", ["state=DONE", "count=0", "count=many", "cursor=x", "cursor=1-blk_x", "label=a"])
async def test_a_question_that_means_nothing_is_refused(server: Running, parameter: str) -> None:
    answer = await server.http.get(f"/v2/bulkActions?{parameter}")

    assert answer.status_code == 400
    assert parameter.partition("=")[0] in answer.json()["error"]


async def test_an_unknown_action_is_not_found_and_neither_is_another_tenants(server: Running) -> None:
    action_id = (await cancel(server, label="a", is_async="true"))["actionId"]

    for unknown in ("blk_" + "1" * 28, "nonsense", "%00"):
        answer = await server.http.get(f"/v2/bulkActions/{unknown}")
        assert answer.status_code == 404
        assert answer.json()["error"].startswith("bulk action ")
    foreign = await server.http.get(f"/v2/bulkActions/{action_id}", headers=STRANGER)
    assert (foreign.status_code, foreign.json()) == (404, {"error": f"bulk action {action_id} not found"})
    assert (await server.http.get("/v2/bulkActions", headers=STRANGER)).json() == {"bulkActions": []}


async def test_an_action_is_forgotten_a_week_after_its_end(
    serve: Serve, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(janitor, "PRUNE_EVERY_S", 0.05)
    server = await serve()
    old, young = [(await cancel(server, label=label, is_async="true"))["actionId"] for label in "ab"]
    await connection.execute(
        "update bulk_actions set completed_at = now() - case when id = $1 then interval '7 days 1 s' "
        "else interval '6 days 23 hours' end",
        old,
    )

    await eventually(lambda: actions(server), lambda found: [one["actionId"] for one in found] == [young])


async def test_a_thousand_actions_may_run_and_no_more(server: Running, connection: Connection) -> None:
    await waiting(connection, 1)
    await connection.execute(
        """
        insert into bulk_actions (id, tenant_id, kind, filter, filter_hash, total, held_until)
        select 'blk_' || n, 1, 'cancel', '{}', n::text::bytea, 1, now() + interval '1 hour'
        from generate_series(1, 1000) n
        """
    )

    refused = await server.http.delete("/v2/messages?label=bulk")
    foreign = await server.http.delete("/v2/messages?label=bulk", headers=STRANGER)

    assert refused.status_code == 412
    assert refused.json() == {"error": "quota maxBulkActions exceeded, current limit: 1000"}
    assert foreign.status_code == 202
    assert len(await actions(server, count=1000, state="IN_PROGRESS")) == 1000
    await connection.execute("update bulk_actions set completed_at = now() where id = 'blk_7'")
    assert await cancel(server, label="bulk") == {"cancelled": 1}


async def test_the_documentation_names_every_parameter(server: Running) -> None:
    paths = (await server.http.get("/openapi.json")).json()["paths"]

    def names(path: str, method: str) -> set[str]:
        return {one["name"] for one in paths[path][method]["parameters"] if one["in"] == "query"}

    filters = {"url", "host", "path", "label", "topicName", "queueName", "scheduleId", "flowControlKey", "callerIp"}
    assert filters | {"messageIds", "fromDate", "toDate", "count", "async"} <= names("/v2/messages", "delete")
    assert names("/v2/bulkActions", "get") == {"cursor", "count", "state"}
    assert {"202", "400", "412", "429"} <= paths["/v2/messages"]["delete"]["responses"].keys()
    assert "404" in paths["/v2/bulkActions/{action_id}"]["get"]["responses"]


# Deadlocks.


async def test_the_victim_of_a_deadlock_tries_again(server: Running, receiver: Receiver) -> None:
    """A cancellation holds one message and wants another, which is held by somebody who now wants the first."""
    ids = sorted([await server.publish(receiver.url(), Upstash_Delay="1h") for _ in range(2)])
    other = await asyncpg.connect(server.database_url)
    await other.execute("set deadlock_timeout = '1 min'")
    lock = "select from deliveries order by id {} limit 1 for update"

    async with other.transaction():
        await other.execute(lock.format("desc"))
        cancelling = asyncio.create_task(cancel(server, messageIds=ids))
        await eventually(lambda: waits_for_a_lock(server), bool)
        await other.execute(lock.format("asc"))
    await other.close()

    assert await cancelling == {"cancelled": 2}


async def waits_for_a_lock(server: Running) -> bool:
    connection = await asyncpg.connect(server.database_url)
    waits: bool = await connection.fetchval(
        "select exists (select from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database())"
    )
    await connection.close()
    return waits


async def test_what_keeps_meeting_deadlocks_is_tried_five_times(database: Database) -> None:
    tries = 0

    async def always(connection: Connection) -> None:
        nonlocal tries
        tries += 1
        await connection.execute("do $$ begin raise exception using errcode = 'deadlock_detected'; end $$")

    with pytest.raises(Exception, match="deadlock") as caught:
        await database.repeated(always)

    assert type(caught.value).__name__ == "TryAgain"
    assert tries == 5


async def test_a_cancellation_that_was_asked_for_before_is_not_counted(
    database: Database, connection: Connection
) -> None:
    me = await dispatchers.register(connection, "test")
    active = a_new_message(mine=True)
    await insert(connection, [active], dispatcher_id=me, window=timedelta(minutes=10))

    counts = []
    for _ in range(2):
        async with database.transaction() as own:
            counts.append(await deliveries.cancel(own, TENANT, [active.message.id]))

    assert counts == [1, 0]
