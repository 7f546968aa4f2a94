"""What is somebody else's answers exactly as what does not exist, on every route and by every kind of id.

There are two walls: the conditions on the tenant in each statement, and row-level security. Each alone must do, and
without both of them this test has to see what it is there to see.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from postroad import dev
from postroad.domain.bulk_action import new_bulk_action_id
from postroad.domain.ids import MessageId, message_text, parse_message_id
from postroad.domain.tenant import TenantId
from postroad.store.engine import Connection, Database
from postroad.store.tables_of_console import metadata
from tests.conftest import Running, eventually, running
from tests.moods import status
from tests.receiver import Receiver
from tests.security.matrix import MATRIX, Call, Things, probes

MINE, THEIRS = dev.DEV_USERS[0], dev.DEV_USERS[1]
LATER = {"Upstash-Delay": "300d"}
AIMS_AT_ITS_OWN = {
    "GET /v2/keys",
    "GET /v2/globalParallelism",
    "POST /v2/queues",
    "POST /v2/flowControl/{key}/pause",
    "POST /v2/flowControl/{key}/pin",
}
"""Routes where nobody could be mistaken: they take no id, or a name that is unique together with its tenant only."""

HOSTS = {"mine": "127.0.0.2", "theirs": "127.0.0.3", "absent": "127.0.0.4"}


@dataclass(frozen=True)
class Walls:
    """Which of them stand, and whether that is enough."""

    conditions: bool
    row_level_security: bool

    @property
    def are_enough(self) -> bool:
        """One is."""
        return self.conditions or self.row_level_security


BOTH = Walls(conditions=True, row_level_security=True)
EACH = {
    "with both walls": BOTH,
    "with the conditions alone": replace(BOTH, row_level_security=False),
    "with row-level security alone": replace(BOTH, conditions=False),
    "with none of them": Walls(conditions=False, row_level_security=False),
}


@pytest.mark.parametrize("walls", EACH.values(), ids=EACH)
async def test_what_is_anothers_answers_as_what_does_not_exist(
    walls: Walls, database_url: str, receiver: Receiver, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = await both_move_in(database_url, receiver, connection)
    absent = nothing_like(theirs)
    saved = await Saved.of(connection, THEIRS)
    if not walls.conditions:
        forget_tenants(monkeypatch)
    noticed: dict[str, list[str]] = {}
    api_only: dict[str, Any] = {"roles": ("api",), "trusted_proxies": "127.0.0.1"}
    async with running(database_url, row_level_security=walls.row_level_security, **api_only) as node:
        described = await routes(node)
        for route in sorted(described, key=[*MATRIX, *described].index):
            for number, probe in enumerate(probes(route) or ()):
                missing = await ask(node, route, probe(absent), absent)
                found = await ask(node, route, probe(theirs), theirs)
                wrong = [f"call {number} answered {found}, not {missing}"] if missing != found else []
                wrong += [f"call {number} shows {value}" for value in theirs.values().values() if value in str(found)]
                wrong += [f"call {number} changes {table}" for table in await saved.restore()]
                if wrong:
                    noticed.setdefault(route, []).extend(wrong)

    if walls.are_enough:
        assert noticed == {}
    else:
        unnoticed = {route for route in described if probes(route) and route not in noticed}
        assert {route for route in unnoticed if not route.partition(" ")[2].startswith("/admin/")} == AIMS_AT_ITS_OWN


async def test_every_route_is_in_the_matrix(database_url: str) -> None:
    async with running(database_url) as node:
        described = await routes(node)

    assert [route for route in described if probes(route) is None] == []
    assert [route for route in MATRIX if route not in described] == []


async def routes(node: Running) -> list[str]:
    """Methods and paths of the API's own description."""
    document = (await node.http.get("/openapi.json")).json()
    return [f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods]


async def ask(node: Running, route: str, call: Call, things: Things) -> tuple[int, dict[str, str], str]:
    """The answer to a call of ours, without what is never the same twice, and without the ids that it was about."""
    given: dict[str, Any] = {"params": call.params, "headers": call.headers, "json": call.json, "content": call.content}
    sent = {name: value for name, value in given.items() if value is not None}
    answer = await node.http.request(route.partition(" ")[0], call.path, **sent)
    headers = {name: things.masked(value) for name, value in answer.headers.items() if name not in NEVER_THE_SAME}
    return answer.status_code, headers, things.masked(answer.text)


NEVER_THE_SAME = {"date", "x-request-id", "content-length"}
"""The length of an answer follows from the lengths of the ids in it."""


@dataclass(frozen=True)
class Saved:
    """What the database holds, table by table, to be put back when something of one tenant has changed."""

    connection: Connection
    tenant_id: int
    rows: dict[str, str]

    @classmethod
    async def of(cls, connection: Connection, user: dev.DevUser) -> Saved:
        """All of it."""
        tenant_id = await connection.fetchval("select id from tenants where name = $1", user.tenant)
        for table in TABLES:
            await connection.execute(f"create temp table saved_{table} as select * from {table}")
        return cls(connection, tenant_id, await _rows(connection, tenant_id))

    async def restore(self) -> list[str]:
        """The tables in which something of the tenant was changed. If there are any, all is as it was again."""
        now = await _rows(self.connection, self.tenant_id)
        changed = [table for table in now if now[table] != self.rows[table]]
        for table in TABLES if changed else ():
            await self.connection.execute(f"delete from {table}")
            await self.connection.execute(f"insert into {table} overriding system value select * from saved_{table}")
        return changed


TABLES = [table.name for table in metadata.sorted_tables if "tenant_id" in table.c]


async def _rows(connection: Connection, tenant_id: int) -> dict[str, str]:
    every = " union all ".join(
        f"select '{table}' as name, string_agg(to_jsonb(t)::text, ' ' order by to_jsonb(t)::text) as rows "
        f"from {table} t where tenant_id = $1"
        for table in TABLES
    )
    return {row["name"]: row["rows"] or "" for row in await connection.fetch(every, tenant_id)}


async def both_move_in(database_url: str, receiver: Receiver, connection: Connection) -> Things:
    """Two tenants with some of everything, and nothing under way any more; gives what the other one has."""
    receiver.script("/mine/fails", status(500))
    receiver.script("/theirs/fails", status(500))
    async with running(database_url, trusted_proxies="127.0.0.1") as node:
        await move_in(node, receiver, connection, MINE, "mine", "198.51.100.1")
        return await move_in(node, receiver, connection, THEIRS, "theirs", "198.51.100.2")


async def move_in(
    node: Running, receiver: Receiver, connection: Connection, user: dev.DevUser, name: str, ip: str
) -> Things:
    """Let a tenant have one of everything, in every state that a message may come to."""
    url = receiver.url(f"/{name}/waits")
    host = HOSTS[name]
    marks = {
        "Authorization": f"Bearer {user.token}",
        "X-Forwarded-For": ip,
        "Upstash-Label": f"{name}-label",
        "Upstash-Flow-Control-Key": f"{name}/key",
        "Upstash-Flow-Control-Value": "parallelism=5, rate=100",
    }

    async def call(method: str, path: str, **given: Any) -> Any:
        given["headers"] = marks | given.get("headers", {})
        answer = await node.http.request(method, path, **given)
        assert answer.is_success, answer.text
        return answer.json() if answer.text else None

    endpoint = {"url": receiver.url(f"/{name}/group"), "name": f"{name}-endpoint"}
    await call("POST", f"/v2/topics/{name}-group/endpoints", json={"endpoints": [endpoint]})
    await call("POST", "/v2/queues", json={"queueName": f"{name}-queue", "parallelism": 3, "paused": True})
    cron = {"Upstash-Cron": "0 0 1 1 *", "Upstash-Schedule-Id": f"{name}-schedule"}
    await call("POST", f"/v2/schedules/{url}", headers=cron)
    await call("POST", f"/v2/publish/{name}-group", headers=LATER)
    waits = await call(
        "POST", f"/v2/publish/{url}", headers={"Upstash-Deduplication-Id": f"{name}-deduplication", **LATER}
    )
    await call("POST", f"/v2/enqueue/{name}-queue/{url}", content=f"{name} is in a queue")
    await call("POST", f"/v2/publish/{receiver.url(f'/{name}/cancelled')}", headers=LATER)
    cancelled = {"path": f"/{name}/cancelled", "async": "true"}
    action = (await call("DELETE", "/v2/messages", params=cancelled))["actionId"]
    finished = await call("POST", f"/v2/publish/{receiver.url(f'/{name}/arrives')}", content=f"{name} arrives")
    dead = await call(
        "POST",
        f"/v2/publish/{receiver.url(f'/{name}/fails')}",
        headers={"Upstash-Retries": "0"},
        content=f"{name} fails",
    )

    async def log(message_id: str) -> Any:
        return (await call("GET", "/v2/events", params={"messageId": message_id}))["events"]

    await eventually(lambda: log(dead["messageId"]), lambda events: bool(events) and events[0]["state"] == "FAILED")
    await eventually(lambda: log(finished["messageId"]), lambda found: bool(found) and found[0]["state"] == "DELIVERED")
    done = await eventually(
        lambda: call("GET", f"/v2/bulkActions/{action}"), lambda found: bool(found["state"] == "FINISHED")
    )
    [letter] = (await call("GET", "/v2/dlq"))["messages"]
    created_at = await connection.fetchval(
        """
        update messages set queue = $2, schedule_id = $3, url_group = $4, url = $5
        where id = $1 returning (extract(epoch from created_at) * 1000000)::bigint
        """,
        uuid_of(waits["messageId"]), f"{name}-queue", f"{name}-schedule", f"{name}-group", f"http://{host}/{name}/waits",
    )  # fmt: skip
    return Things(
        message=waits["messageId"],
        dead_message=dead["messageId"],
        finished=finished["messageId"],
        dlq=letter["dlqId"],
        action=action,
        queue=f"{name}-queue",
        group=f"{name}-group",
        schedule=f"{name}-schedule",
        key=f"{name}/key",
        label=f"{name}-label",
        deduplication=f"{name}-deduplication",
        caller_ip=ip,
        url=f"http://{host}/{name}/waits",
        host=host,
        path=f"/{name}/waits",
        endpoint=f"{name}-endpoint",
        log_cursor=f"{created_at}-{waits['messageId'][4:]}-0",
        action_cursor=f"{done['createdAt']}000-{action}",
        tenant=user.tenant,
        token_id=str(await connection.fetchval("select id from tokens where last_four = $1", user.token[-4:])),
    )


def nothing_like(things: Things) -> Things:
    """Ids and names of the same shapes that nobody has. Cursors are at the same place."""
    message, dead, finished = (message_text(MessageId(UUID(int=uuid_of(one).int ^ 0xFFFF))) for one in (
        things.message, things.dead_message, things.finished
    ))  # fmt: skip
    action = new_bulk_action_id()
    texts = {name: f"absent-{name}" for name in ("queue", "group", "schedule", "label", "deduplication", "endpoint")}
    return replace(
        things,
        message=message,
        dead_message=dead,
        finished=finished,
        dlq=f"{things.dlq}99",
        action=action,
        key="absent/key",
        caller_ip="198.51.100.3",
        url=f"http://{HOSTS['absent']}/absent/waits",
        host=HOSTS["absent"],
        path="/absent/waits",
        log_cursor=things.log_cursor.replace(things.message[4:], message[4:]),
        action_cursor=things.action_cursor.replace(things.action, action),
        tenant="absentUser",
        token_id="999999",
        **texts,
    )


def uuid_of(message_id: str) -> UUID:
    """The id of a row."""
    found = parse_message_id(message_id)
    assert found is not None
    return found


_CONDITION = re.compile(r"\b((?:\w+\.)?tenant_id) = (\$\d+)(?:::\w+)?")

_is_forgetful: ContextVar[bool] = ContextVar("is_forgetful", default=False)


def forget_tenants(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every statement of a read or of management go without its condition on the tenant."""
    driver: Any = asyncpg.Connection
    behind, execute = Database._behind_the_wall, driver._execute

    @asynccontextmanager
    async def forgetful(self: Database, tenant_id: TenantId, *, reads: bool) -> AsyncIterator[Connection]:
        before = _is_forgetful.set(True)
        try:
            async with behind(self, tenant_id, reads=reads) as connection:
                yield connection
        finally:
            _is_forgetful.reset(before)

    async def execute_without(self: Any, query: str, *arguments: Any, **options: Any) -> Any:
        if _is_forgetful.get():
            query = _CONDITION.sub(r"(\1 is not null and \2::integer is not null)", query)
        return await execute(self, query, *arguments, **options)

    monkeypatch.setattr(Database, "_behind_the_wall", forgetful)
    monkeypatch.setattr(driver, "_execute", execute_without)
