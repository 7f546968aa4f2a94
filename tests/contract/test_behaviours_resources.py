"""What third-party clients demand of queues, URL groups, schedules, flow control and batches, in raw requests.

Each of these has been seen to break a client when it was otherwise.
"""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.conftest import eventually
from tests.contract import accounts
from tests.contract.accounts import Account
from tests.moods import hold
from tests.receiver import Receiver

pytestmark = pytest.mark.asyncio(loop_scope="module")
node, server, receiver = accounts.node, accounts.server, accounts.receiver

SELDOM = {"Upstash-Cron": "0 0 1 1 *"}


async def flow_key(server: Account, key: str = "k") -> dict[str, Any]:
    """A flow-control key as it stands."""
    answer = await server.http.get(f"/v2/flowControl/{key}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def schedule(server: Account, schedule_id: str) -> dict[str, Any]:
    """A schedule as it stands."""
    answer = await server.http.get(f"/v2/schedules/{schedule_id}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def made(server: Account, destination: str, body: bytes = b"", **headers: str) -> str:
    """A new schedule's id; header names are written with underscores."""
    given = SELDOM | {name.replace("_", "-"): value for name, value in headers.items()}
    answer = await server.http.post(f"/v2/schedules/{destination}", content=body, headers=given)
    assert answer.is_success, answer.text
    schedule_id: str = answer.json()["scheduleId"]
    return schedule_id


async def test_deleting_a_topic_a_queue_or_a_schedule_that_is_missing_succeeds(server: Account) -> None:
    await server.http.post("/v2/queues", json={"queueName": "kept"})

    for path in ("/v2/topics/missing", "/v2/queues/missing", "/v2/schedules/missing"):
        answer = await server.http.delete(path)
        assert answer.is_success, answer.text

    assert [queue["name"] for queue in (await server.http.get("/v2/queues")).json()] == ["kept"]


async def test_schedules_are_found_under_a_capital_letter(server: Account) -> None:
    """As the client for Go writes it."""
    answer = await server.http.post("/v2/Schedules/http://127.0.0.1:9/x", headers=SELDOM)
    schedule_id = answer.json()["scheduleId"]

    assert (await server.http.get(f"/v2/Schedules/{schedule_id}")).json()["scheduleId"] == schedule_id
    assert [one["scheduleId"] for one in (await server.http.get("/v2/Schedules")).json()] == [schedule_id]
    for action, paused in (("pause", True), ("resume", False)):
        assert (await server.http.patch(f"/v2/Schedules/{schedule_id}/{action}")).is_success
        assert (await schedule(server, schedule_id))["isPaused"] is paused
    assert (await server.http.delete(f"/v2/Schedules/{schedule_id}")).is_success
    assert (await server.http.get("/v2/schedules")).json() == []


async def test_other_paths_are_found_in_any_case_and_with_a_slash_at_the_end(
    server: Account, receiver: Receiver
) -> None:
    assert (await server.http.post("/v2/Queues/", json={"queueName": "Q"})).is_success
    assert [queue["name"] for queue in (await server.http.get("/v2/QUEUES/")).json()] == ["Q"]
    endpoints = {"endpoints": [{"url": receiver.url()}]}
    assert (await server.http.post("/v2/Topics/G/Endpoints/", json=endpoints)).is_success
    assert (await server.http.get("/v2/topics/G")).json()["name"] == "G"
    assert (await server.http.get("/v2/topics/g")).status_code == 404
    assert (await server.http.get("/v2/globalparallelism/")).is_success
    assert (await server.http.post(f"/v2/Enqueue/Q/{receiver.url('/Case')}")).is_success
    assert (await receiver.next_request()).path == "/Case"


async def test_the_actions_of_flow_control_are_read_in_any_case(server: Account) -> None:
    for path in ("flowcontrol/K/Pin", "flowControl/K/resetrate", "FlowControl/K/Pause", "flowcontrol/K/UNPIN"):
        answer = await server.http.post(f"/v2/{path}", params={"rate": "1"} if path.endswith("Pin") else {})
        assert answer.is_success, f"{path}: {answer.status_code}"

    key = await flow_key(server, "K")
    assert (key["rateMax"], key["isPaused"]) == (1, True)


async def test_the_results_of_a_url_group_stay_nested_in_a_batch(server: Account, receiver: Receiver) -> None:
    endpoints = [{"url": receiver.url("/one"), "name": "one"}, {"url": receiver.url("/two")}]
    await server.http.post("/v2/topics/g/endpoints", json={"endpoints": endpoints})
    items = [{"destination": receiver.url("/url")}, {"destination": "g"}, {"destination": "g", "queue": "q"}]

    answer = await server.http.post("/v2/batch", json=items)

    single, group, queued = answer.json()
    assert answer.is_success
    assert (await receiver.next_request("/url")).header("Upstash-Message-Id") == single["messageId"]
    for nested in (group, queued):
        assert [one["url"] for one in nested] == [receiver.url("/one"), receiver.url("/two")]
        for one in nested:
            request = await receiver.next_request(urlsplit(one["url"]).path)
            assert request.header("Upstash-Message-Id") == one["messageId"]


async def test_publishing_to_a_url_group_is_answered_with_a_bare_array(server: Account, receiver: Receiver) -> None:
    await server.http.post("/v2/topics/g/endpoints", json={"endpoints": [{"url": receiver.url()}]})

    published = await server.http.post("/v2/publish/g")
    enqueued = await server.http.post("/v2/enqueue/q/g")

    for answer in (published, enqueued):
        [only] = answer.json()
        assert only.keys() == {"messageId", "url"}
    assert len(await receiver.wait_for(2)) == 2


@pytest.mark.parametrize("name", ["-a", "_a", "a.b", "0", "A-B_c.9"])
async def test_names_of_url_groups_may_begin_with_a_dash_or_an_underscore(
    server: Account, receiver: Receiver, name: str
) -> None:
    endpoints = {"endpoints": [{"url": receiver.url(), "name": "two words"}]}
    assert (await server.http.post(f"/v2/topics/{name}/endpoints", json=endpoints)).is_success

    assert (await server.http.post(f"/v2/publish/{name}")).status_code == 201

    assert (await receiver.next_request()).header("Upstash-Topic-Name") == name
    assert (await server.http.get(f"/v2/topics/{name}")).json()["endpoints"] == endpoints["endpoints"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("parallelism=3", {"parallelism": 3, "period": 1}),
        ("rate=7", {"rate": 7, "period": 1}),
        ("rate=7, period=90", {"rate": 7, "period": 90}),
        ("rate=7,period=1h30m3s", {"rate": 7, "period": 5403}),
        ("period=1d, parallelism=3,rate=7", {"parallelism": 3, "rate": 7, "period": 86400}),
    ],
)
async def test_the_limits_of_a_message_are_shown_if_they_were_given_and_its_period_always(
    server: Account, receiver: Receiver, value: str, shown: dict[str, int]
) -> None:
    headers = {"Upstash_Flow_Control_Key": "k", "Upstash_Flow_Control_Value": value}

    message_id = await server.publish(receiver.url(), Upstash_Delay="1h", **headers)

    [created] = await server.events(messageId=message_id)
    for view in (await server.message(message_id), created):
        assert view["flowControlKey"] == "k"
        assert {name: view[name] for name in ("parallelism", "rate", "period") if name in view} == shown


async def test_a_key_stays_when_nothing_waits_for_it_and_counts_in_integers(
    server: Account, receiver: Receiver
) -> None:
    headers = {"Upstash_Flow_Control_Key": "k", "Upstash_Flow_Control_Value": "parallelism=3"}
    delayed = await server.publish(receiver.url(), Upstash_Delay="1h", **headers)
    before = await flow_key(server)
    await server.http.delete(f"/v2/messages/{delayed}")

    after = await flow_key(server)

    for key in (before, after):
        assert key["flowControlKey"] == "k"
        for name, value in (("waitListSize", 0), ("parallelismMax", 3), ("parallelismCount", 0)):
            assert type(key[name]) is int
            assert key[name] == value
    assert [key["flowControlKey"] for key in (await server.http.get("/v2/flowControl")).json()] == ["k"]


async def test_unpinning_frees_only_what_it_names(server: Account) -> None:
    async def pinned_after(**named: str) -> tuple[bool, bool]:
        await server.http.post("/v2/flowControl/k/pin", params={"parallelism": 2, "rate": 3, "period": 60})
        assert (await server.http.post("/v2/flowControl/k/unpin", params=named)).is_success
        key = await flow_key(server)
        assert (key["parallelismMax"], key["rateMax"], key["ratePeriod"]) == (2, 3, 60)
        return key["isPinnedParallelism"], key["isPinnedRate"]

    assert await pinned_after() == (True, True)
    assert await pinned_after(parallelism="true") == (False, True)
    assert await pinned_after(rate="true") == (True, False)
    assert await pinned_after(parallelism="false", rate="true") == (True, False)
    assert await pinned_after(parallelism="true", rate="true") == (False, False)


async def test_resetting_the_rate_leaves_none_counted_though_one_is_in_flight(
    server: Account, receiver: Receiver
) -> None:
    release = asyncio.Event()
    receiver.script("/", hold(release))
    headers = {"Upstash_Flow_Control_Key": "k", "Upstash_Flow_Control_Value": "rate=1, period=1h"}
    await server.publish(receiver.url(), **headers)
    await receiver.next_request()
    before = await eventually(lambda: flow_key(server), lambda key: key["rateCount"] == 1)

    assert (await server.http.post("/v2/flowControl/k/resetRate")).is_success

    after = await flow_key(server)
    assert (before["parallelismCount"], after["rateCount"], after["parallelismCount"]) == (1, 0, 1)
    release.set()


async def test_a_cron_is_trimmed(server: Account) -> None:
    """Over a socket: the clients of these tests would not send a header with blanks around its value."""
    address = urlsplit(server.url)
    head = (
        "POST /v2/schedules/http://127.0.0.1:9/x HTTP/1.1\r\nHost: postroad\r\nContent-Length: 0\r\n"
        f"Authorization: Bearer {server.token}\r\nUpstash-Schedule-Id: s\r\nUpstash-Cron:  */10 * * * * \t \r\n\r\n"
    )
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(head.encode())
    assert (await reader.readline()).split()[1] == b"201"
    writer.close()
    await writer.wait_closed()

    by_query = await server.http.post(
        "/v2/schedules/http://127.0.0.1:9/x?upstash-cron=%20*/10%20*%20*%20*%20*%20&upstash-schedule-id=t"
    )

    assert by_query.status_code == 201
    assert [(await schedule(server, one))["cron"] for one in "st"] == ["*/10 * * * *"] * 2


async def test_what_is_not_paused_says_so(server: Account) -> None:
    schedule_id = await made(server, "http://127.0.0.1:9/x")
    await server.http.post("/v2/queues", json={"queueName": "q"})

    assert (await schedule(server, schedule_id))["isPaused"] is False
    assert (await server.http.get("/v2/schedules")).json()[0]["isPaused"] is False
    assert (await server.http.get("/v2/queues/q")).json()["paused"] is False
    assert (await server.http.get("/v2/queues")).json()[0]["paused"] is False


async def test_a_schedule_with_the_same_id_keeps_nothing_of_the_one_before(server: Account, receiver: Receiver) -> None:
    first = await made(
        server, receiver.url("/old"), b"old body", Upstash_Schedule_Id="s", Content_Type="text/x", Upstash_Delay="1m",
        Upstash_Forward_A="1", Upstash_Label="l", Upstash_Callback=receiver.url("/c"), Upstash_Retries="9",
        Upstash_Queue_Name="q", Upstash_Method="PUT", Upstash_Timeout="9s",
    )  # fmt: skip
    await server.http.patch("/v2/schedules/s/pause")
    before = await schedule(server, "s")

    second = await made(server, receiver.url("/new"), Upstash_Schedule_Id="s")

    after = await schedule(server, "s")
    assert first == second == "s"
    assert (before["body"], before["delay"], before["queueName"], before["isPaused"]) == ("old body", 60, "q", True)
    assert (after["destination"], after["header"], after["isPaused"]) == (receiver.url("/new"), {}, False)
    assert (after["method"], after["retries"]) == ("POST", 3)
    assert not after.keys() & {"body", "bodyBase64", "delay", "label", "labels", "callback", "queueName", "timeout"}


async def test_the_header_map_of_a_schedule_is_that_of_its_messages(server: Account, receiver: Receiver) -> None:
    schedule_id = await made(
        server, receiver.url(), content_type="text/x; charset=y", upstash_forward_test_header="one", X_Not_Forwarded="2"
    )
    plain = await made(server, receiver.url("/plain"))

    shown = (await schedule(server, schedule_id))["header"]

    assert shown == {"Content-Type": ["text/x; charset=y"], "Test-Header": ["one"]}
    assert (await schedule(server, plain))["header"] == {}


@pytest.mark.parametrize("method", ["POST", "PATCH"])
async def test_schedules_are_paused_and_resumed_by_either_method_and_repeatedly(server: Account, method: str) -> None:
    schedule_id = await made(server, "http://127.0.0.1:9/x")

    for action, paused in (("pause", True), ("pause", True), ("resume", False), ("resume", False)):
        assert (await server.http.request(method, f"/v2/schedules/{schedule_id}/{action}")).status_code == 200
        assert (await schedule(server, schedule_id))["isPaused"] is paused


async def test_a_schedule_keeps_its_queue_and_its_delay_though_enqueueing_refuses_one(
    server: Account, receiver: Receiver
) -> None:
    await server.http.post("/v2/queues", json={"queueName": "q", "parallelism": 7, "paused": True})

    schedule_id = await made(server, receiver.url(), Upstash_Queue_Name="q", Upstash_Delay="1m30s")
    refused = await server.http.post(f"/v2/enqueue/q/{receiver.url()}", headers={"Upstash-Delay": "90s"})

    shown = await schedule(server, schedule_id)
    queue = (await server.http.get("/v2/queues/q")).json()
    assert (shown["queueName"], shown["delay"]) == ("q", 90)
    assert (queue["parallelism"], queue["paused"], queue["lag"]) == (7, True, 0)
    assert (refused.status_code, refused.json()) == (
        400, {"error": "Upstash-Not-Before/Upstash-Delay can not be used with enqueue"},
    )  # fmt: skip


async def test_instants_of_everything_are_in_milliseconds(server: Account, receiver: Receiver) -> None:
    await server.http.post("/v2/queues", json={"queueName": "q"})
    await server.http.post("/v2/topics/g/endpoints", json={"endpoints": [{"url": receiver.url()}]})
    schedule_id = await made(server, receiver.url())
    queue = (await server.http.get("/v2/queues/q")).json()
    topic = (await server.http.get("/v2/topics/g")).json()
    plan = await schedule(server, schedule_id)

    now = time.time() * 1000
    for instant in (
        queue["createdAt"], queue["updatedAt"], topic["createdAt"], topic["updatedAt"], plan["createdAt"],
    ):  # fmt: skip
        assert type(instant) is int
        assert abs(instant - now) < 60_000
    assert 0 < plan["nextScheduleTime"] - now < timedelta(days=367) / timedelta(milliseconds=1)
