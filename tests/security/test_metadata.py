"""A token for metadata sees that messages are there, and nothing of what they and their answers say."""

from __future__ import annotations

import httpx

from postroad.domain.tenant import Access
from postroad.store.engine import Connection
from tests.conftest import Running, Serve, eventually
from tests.moods import status
from tests.receiver import Receiver
from tests.security.test_tokens import a_token, bearer

CANARY = "f3a1c9-canary"
KEPT = {"Upstash-Forward-X-Secret": CANARY}


async def test_no_route_shows_payloads_to_it(serve: Serve, receiver: Receiver, connection: Connection) -> None:
    server = await serve(max_calls_per_second=0, public_url="http://localhost:1")
    receiver.script("/bad", status(500, CANARY.encode()))
    receiver.script("/good", status(200, CANARY.encode()))
    delivered = await server.publish(receiver.url("/good"), CANARY, **KEPT)
    dead = await server.publish(receiver.url("/bad"), CANARY, Upstash_Retries="0", **KEPT)
    waiting = await server.publish(receiver.url("/good"), CANARY, Upstash_Delay="1d", **KEPT)
    await server.settled(delivered)
    await server.settled(dead, "FAILED")
    made = await server.http.post(
        f"/v2/schedules/{receiver.url('/good')}",
        content=CANARY,
        headers={"Upstash-Cron": "@yearly", "Upstash-Schedule-Id": "year", **KEPT},
    )
    assert made.status_code == 201
    endpoint = {"name": "one", "url": receiver.url("/good"), "headers": {"X-Secret": CANARY}}
    grouped = await server.http.post("/v2/topics/group/endpoints", json={"endpoints": [endpoint]})
    assert grouped.is_success or grouped.status_code == 400
    reported = await server.http.post(f"/v2/status/{waiting}", json={"note": CANARY, "log": CANARY, "progress": 5})
    assert reported.status_code == 200, reported.text
    [letter] = await server.dead_letters()

    paths = [
        *(f"/v2/{kind}/{one}" for kind in ("messages", "status") for one in (delivered, dead, waiting)),
        f"/v2/status/{waiting}/log",
        f"/v2/status/{delivered}/stream",
        f"/v2/dlq/{letter['dlqId']}",
        *("/v2/messages", "/v2/events", "/v2/logs", "/v2/events?groupBy=messageId", "/v2/dlq"),
        *("/v2/schedules", "/v2/schedules/year", "/v2/topics", "/v2/topics/group"),
    ]
    with_canary = [path for path in paths if CANARY in await text(server, path, {})]
    assert len(with_canary) >= 12, with_canary
    headers = bearer(await a_token(connection, Access.METADATA))
    assert [path for path in paths if CANARY in await text(server, path, headers)] == []


async def text(server: Running, path: str, headers: dict[str, str]) -> str:
    answer = await server.http.get(path, headers=headers)
    assert answer.status_code in (200, 404), f"{path}: {answer.text}"
    return answer.text


async def test_what_goes_on_is_counted(server: Running, receiver: Receiver, connection: Connection) -> None:
    receiver.script("/bad", status(500))
    for path in ("/good", "/good", "/bad"):
        await server.publish(receiver.url(path), Upstash_Retries="0")

    async def counted() -> list[tuple[int, ...]]:
        return [
            tuple(row)
            for row in await connection.fetch(
                """
                select sum(accepted)::int, sum(delivered)::int, sum(failed)::int from activity
                group by host = '' order by host = ''
                """
            )
        ]

    await eventually(counted, lambda sums: sums == [(0, 2, 1), (3, 2, 1)])
    hosts = await connection.fetch("select distinct host from activity where host <> ''")
    assert [row["host"] for row in hosts] == [httpx.URL(receiver.url("/")).netloc.decode()]
