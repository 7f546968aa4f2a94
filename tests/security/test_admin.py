"""The admin API: what an administrator may do with tenants, and nobody else."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from datetime import timedelta
from typing import Any

import httpx
import pytest

from postroad import tenancy
from postroad.dev import DEV_USERS
from postroad.domain.tenant import Access, token_hash
from postroad.domain.token import new_token
from postroad.store import tokens
from postroad.store.engine import Connection
from tests.builders import TENANT
from tests.conftest import Running, Serve, eventually
from tests.receiver import Receiver, status

GOOD = "http://127.0.0.1:9/x"
TENANTS = "/admin/v1/tenants"
NOTHING_SET = dict.fromkeys(
    ("failureCallback", "parallelism", "destinations", "maxCallsPerSecond", "maxMessagesPerDay")
)


@pytest.fixture(autouse=True)
def _nothing_is_remembered_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tenancy, "FRESH_FOR_S", 0.1)


class Administrator:
    """Somebody with an admin token."""

    def __init__(self, server: Running, token: str) -> None:
        self.server = server
        self.headers = {"Authorization": f"Bearer {token}"}

    async def __call__(self, method: str, path: str = "", **rest: Any) -> httpx.Response:
        return await self.server.http.request(method, f"{TENANTS}{path}", headers=self.headers, **rest)

    async def token(self, tenant: str, **body: Any) -> str:
        """A new token for a tenant."""
        answer = await self("POST", f"/{tenant}/tokens", json={"name": "test", **body})
        assert answer.status_code == 201, answer.text
        token: str = answer.json()["token"]
        return token


@pytest.fixture
async def admin(server: Running, connection: Connection) -> Administrator:
    """An administrator of the server."""
    return await an_administrator(server, connection)


async def an_administrator(server: Running, connection: Connection) -> Administrator:
    token = new_token(Access.ADMIN)
    await tokens.add(connection, None, token, name="test", access=Access.ADMIN)
    return Administrator(server, token)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def test_nobody_enters_before_there_is_an_admin_token(server: Running, connection: Connection) -> None:
    assert await connection.fetchval("select count(*) from tokens where access = 'admin'") == 0
    for method, path in (("GET", ""), ("POST", ""), ("GET", "/default"), ("GET", "/default/tokens")):
        refused = await server.http.request(method, TENANTS + path)
        assert (refused.status_code, refused.json()) == (403, {"error": "this token is full and may not do this"})
        assert (await server.http.request(method, TENANTS + path, headers=bearer("x"))).status_code == 401


async def test_the_document_names_the_way_in(server: Running) -> None:
    document = (await server.http.get("/openapi.json")).json()

    admins = {path for path in document["paths"] if path.startswith("/admin/")}
    assert len(admins) == 6
    assert document["components"]["securitySchemes"]["admin"]["scheme"] == "bearer"
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert (operation.get("security") == [{"admin": []}]) == (path in admins), path


async def test_a_tenant_is_made_read_changed_and_listed(admin: Administrator) -> None:
    made = await admin("POST", json={"name": "acme.example", "maxCallsPerSecond": 7})
    assert made.status_code == 201
    assert made.json().items() >= {**NOTHING_SET, "name": "acme.example", "maxCallsPerSecond": 7}.items()
    assert isinstance(made.json()["createdAt"], int)
    assert (await admin("GET", "/acme.example")).json() == made.json()

    everything = {
        "failureCallback": "http://127.0.0.1:9/failed?a=1",
        "parallelism": 5,
        "destinations": "public,10.0.0.0/8",
        "maxCallsPerSecond": 0,
        "maxMessagesPerDay": 1_000,
    }
    changed = await admin("PATCH", "/acme.example", json={**everything, "destinations": "any"})
    assert (changed.status_code, changed.json()) == (200, {**made.json(), **everything, "destinations": "any"})
    again = await admin("PATCH", "/acme.example", json={"parallelism": None, "destinations": "any,!10.0.0.1"})
    assert again.json() == {**changed.json(), "parallelism": None, "destinations": "any,!10.0.0.1"}
    assert (await admin("PATCH", "/acme.example", json={})).json() == again.json()

    listed = (await admin("GET")).json()
    assert [one["name"] for one in listed] == ["acme.example", "default", "testUser1", "testUser2", "testUser3"]
    assert listed[0] == again.json()
    assert listed[1].items() >= NOTHING_SET.items()
    cleared = await admin("PATCH", "/acme.example", json=NOTHING_SET)
    assert cleared.json().items() >= NOTHING_SET.items()


@pytest.mark.parametrize(
    ("method", "path", "body", "expected", "error"),
    [
        ("POST", "", {}, 400, "invalid name"),
        ("POST", "", {"name": "a/b"}, 400, "invalid name"),
        ("POST", "", {"name": ""}, 400, "invalid name"),
        ("POST", "", {"name": 5}, 400, "invalid name"),
        ("POST", "", {"name": "x" * 101}, 400, "invalid name"),
        ("POST", "", {"name": "default"}, 409, "tenant default exists already"),
        ("POST", "", {"name": "new", "parallel": 3}, 400, "unknown parameter 'parallel'"),
        ("POST", "", {"name": "new", "parallelism": 0}, 400, "invalid parallelism"),
        ("PATCH", "/default", {"name": "other"}, 400, "unknown parameter 'name'"),
        ("PATCH", "/default", {"parallelism": True}, 400, "invalid parallelism"),
        ("PATCH", "/default", {"parallelism": "3"}, 400, "invalid parallelism"),
        ("PATCH", "/default", {"maxCallsPerSecond": -1}, 400, "invalid maxCallsPerSecond"),
        ("PATCH", "/default", {"maxMessagesPerDay": 1.5}, 400, "invalid maxMessagesPerDay"),
        ("PATCH", "/default", {"maxMessagesPerDay": 2**31}, 400, "invalid maxMessagesPerDay"),
        ("PATCH", "/default", {"destinations": "public,lan"}, 400, "invalid destinations"),
        ("PATCH", "/default", {"destinations": 1}, 400, "invalid destinations"),
        ("PATCH", "/default", {"failureCallback": "example.com"}, 400, "invalid failureCallback"),
        (
            "PATCH", "/default", {"failureCallback": "http://10.0.0.1/x", "destinations": "public"}, 400,
            "invalid failureCallback: endpoint resolves to",
        ),
        ("PATCH", "/nobody", {"parallelism": 1}, 404, "tenant nobody not found"),
        ("GET", "/nobody", None, 404, "tenant nobody not found"),
        ("GET", "/nobody/tokens", None, 404, "tenant nobody not found"),
        ("GET", "/nobody/usage", None, 404, "tenant nobody not found"),
        ("POST", "/nobody/keys/rotate", None, 404, "tenant nobody not found"),
        ("POST", "/nobody/tokens", {"name": "x"}, 404, "tenant nobody not found"),
        ("DELETE", "/nobody/tokens/1", None, 404, "tenant nobody not found"),
        ("GET", "/%00", None, 404, "not found"),
        ("DELETE", "/default/tokens/0", None, 404, "token 0 not found"),
        ("DELETE", "/default/tokens/99999999999999999999", None, 404, "not found"),
        ("DELETE", "/default/tokens/all", None, 404, "token all not found"),
        ("POST", "/default/tokens", {}, 400, "invalid name"),
        ("POST", "/default/tokens", {"name": "a\tb"}, 400, "invalid name"),
        ("POST", "/default/tokens", {"name": "x", "access": "admin"}, 400, "invalid access"),
        ("POST", "/default/tokens", {"name": "x", "access": "root"}, 400, "invalid access"),
        ("POST", "/default/tokens", {"name": "x", "expiresIn": "soon"}, 400, "invalid expiresIn"),
        ("POST", "/default/tokens", {"name": "x", "expiresIn": "0s"}, 400, "invalid expiresIn"),
        ("POST", "/default/tokens", {"name": "x", "expiresIn": "200y"}, 400, "invalid expiresIn"),
        ("POST", "/default/tokens", {"name": "x", "token": "mine"}, 400, "unknown parameter 'token'"),
    ],
    ids=str,
)  # fmt: skip
async def test_what_cannot_be_is_refused_and_changes_nothing(
    admin: Administrator, connection: Connection, method: str, path: str, body: Any, expected: int, error: str
) -> None:
    async def stored() -> list[str]:
        rows = await connection.fetch(
            "select t::text as row from tenants t union all select k.id::text from tokens k union all "
            "select r::text from revoked_tokens r order by 1"
        )
        return [row["row"] for row in rows]

    before = await stored()

    answer = await admin(method, path, json=body)

    assert (answer.status_code, answer.json()["error"][: len(error)]) == (expected, error) or (
        answer.status_code == expected and error in answer.json()["error"]
    )
    assert await stored() == before


async def test_of_several_who_make_a_tenant_at_once_one_does(admin: Administrator) -> None:
    answers = await asyncio.gather(*(admin("POST", json={"name": "acme", "maxCallsPerSecond": n}) for n in range(5)))

    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409, 409]
    [made] = [answer.json() for answer in answers if answer.status_code == 201]
    assert (await admin("GET", "/acme")).json() == made


async def test_a_tenant_is_made_with_all_that_is_set_for_it_or_not_at_all(
    admin: Administrator, connection: Connection
) -> None:
    everything = {
        "failureCallback": "http://127.0.0.1:9/failed",
        "parallelism": 5,
        "destinations": "any",
        "maxCallsPerSecond": 7,
        "maxMessagesPerDay": 1_000,
    }
    await connection.execute("alter table flow_keys add constraint none_today check (key <> '')")
    refused = await admin("POST", json={"name": "acme", **everything})
    assert not refused.is_success
    assert (await admin("GET", "/acme")).status_code == 404
    await connection.execute("alter table flow_keys drop constraint none_today")

    made = await admin("POST", json={"name": "acme", **everything})

    assert made.status_code == 201
    assert made.json().items() >= everything.items()
    limits = await admin.server.http.get("/v2/globalParallelism", headers=bearer(await admin.token("acme")))
    assert limits.json()["parallelismMax"] == 5


async def test_a_token_is_shown_once_and_its_hash_never(admin: Administrator, connection: Connection) -> None:
    await admin("POST", json={"name": "acme"})
    made = await admin("POST", "/acme/tokens", json={"name": "the shop", "access": "publish-only", "expiresIn": "90d"})
    token = made.json()["token"]

    assert made.status_code == 201
    [listed] = (await admin("GET", "/acme/tokens")).json()
    assert listed == {name: value for name, value in made.json().items() if name != "token"}
    assert (listed["name"], listed["access"], listed["endsWith"]) == ("the shop", "publish-only", token[-4:])
    assert listed["expiresAt"] - listed["createdAt"] == timedelta(days=90) // timedelta(milliseconds=1)
    assert listed["usedAt"] is None
    shown = (await admin("GET", "/acme/tokens")).text + (await admin("GET")).text
    for secret in (token, token_hash(token).hex(), b64encode(token_hash(token)).decode().rstrip("=")):
        assert secret not in shown
    assert await connection.fetchval("select count(*) from tokens k where k::text like '%' || $1 || '%'", token) == 0


async def test_what_a_new_tenant_publishes_is_signed_with_keys_of_its_own(
    admin: Administrator, receiver: Receiver
) -> None:
    await admin("POST", json={"name": "acme"})
    headers = bearer(await admin.token("acme"))
    http = admin.server.http

    published = await http.post(f"/v2/publish/{receiver.url()}", content="x", headers=headers)
    keys = (await http.get("/v2/keys", headers=headers)).json()

    request = await receiver.next_request()
    assert published.status_code == 201
    from qstash import Receiver as SignatureReceiver

    signed = SignatureReceiver(keys["current"], keys["next"])
    signed.verify(signature=request.header("Upstash-Signature") or "", body="x", url=receiver.url())
    assert keys != (await http.get("/v2/keys")).json()
    message = f"/v2/messages/{published.json()['messageId']}"
    assert (await http.get(message, headers=headers)).status_code == 200
    assert (await http.get(message)).status_code == 404


async def test_a_token_is_revoked_only_as_its_own_tenants(admin: Administrator) -> None:
    await admin("POST", json={"name": "acme"})
    token = await admin.token("acme")
    [listed] = (await admin("GET", "/acme/tokens")).json()

    async def call() -> int:
        return (await admin.server.http.get("/v2/keys", headers=bearer(token))).status_code

    assert (await admin("DELETE", f"/default/tokens/{listed['id']}")).status_code == 404
    assert await call() == 200
    assert (await admin("DELETE", f"/acme/tokens/{listed['id']}")).status_code == 204
    assert await call() == 401
    assert (await admin("DELETE", f"/acme/tokens/{listed['id']}")).status_code == 404
    assert (await admin("GET", "/acme/tokens")).json() == []


async def test_calls_of_a_tenant_are_limited_by_what_is_set_for_it_else_by_the_setting(
    serve: Serve, connection: Connection
) -> None:
    server = await serve(max_calls_per_second=10)
    admin = await an_administrator(server, connection)
    other = bearer(DEV_USERS[1].token)

    async def refusal(headers: dict[str, str], burst: int = 40) -> httpx.Response | None:
        """The first refusal of so many calls; None when there is none."""
        answers = await asyncio.gather(*(server.http.get("/v2/keys", headers=headers) for _ in range(burst)))
        return next((answer for answer in answers if answer.status_code == 429), None)

    await admin("PATCH", "/default", json={"maxCallsPerSecond": 1})
    answer = await eventually(lambda: refusal({}, 3), lambda answer: answer is not None)

    assert answer.headers["Burst-RateLimit-Limit"] == "1"
    assert answer.headers["Burst-RateLimit-Remaining"] == "0"
    assert "RateLimit-Limit" not in answer.headers
    assert await refusal(other, 3) is None
    await admin("PATCH", "/default", json={"maxCallsPerSecond": 0})
    await eventually(lambda: refusal({}, 3), lambda answer: answer is None)
    assert await refusal({}) is None
    await admin("PATCH", "/default", json={"maxCallsPerSecond": None})
    answer = await eventually(lambda: refusal({}), lambda answer: answer is not None)
    assert answer.headers["Burst-RateLimit-Limit"] == "10"


@pytest.mark.parametrize("setting", [0, 3])
async def test_messages_of_a_tenant_are_limited_by_what_is_set_for_it_else_by_the_setting(
    serve: Serve, connection: Connection, setting: int
) -> None:
    server = await serve(max_messages_per_day=setting)
    admin = await an_administrator(server, connection)
    other = bearer(DEV_USERS[1].token)

    async def publish(headers: dict[str, str] | None = None) -> httpx.Response:
        return await server.http.post(f"/v2/publish/{GOOD}", headers=headers)

    async def limit(most: int | None) -> None:
        await admin("PATCH", "/default", json={"maxMessagesPerDay": most})
        await asyncio.sleep(2 * tenancy.FRESH_FOR_S)  # nothing tells of it

    await limit(1)
    answers = [await publish() for _ in range(3)]

    assert [answer.status_code for answer in answers] == [201, 429, 429]
    assert answers[1].json() == {"error": "quota maxMessagesPerDay exceeded, current limit: 1"}
    assert [answers[1].headers[f"RateLimit-{name}"] for name in ("Limit", "Remaining")] == ["1", "0"]
    assert (await publish(other)).status_code == 201
    assert (await admin("GET", "/default/usage")).json()[0]["messages"] == 1
    await limit(2)
    assert [(await publish()).status_code for _ in range(2)] == [201, 429], "what was left is counted anew"
    await limit(0)
    assert {(await publish()).status_code for _ in range(4)} == {201}
    assert (await admin("GET", "/default/usage")).json()[0]["messages"] == 2, "without a limit nothing is counted"
    await limit(None)
    assert [(await publish()).status_code for _ in range(2)] == ([201, 201] if setting == 0 else [201, 429])


async def test_where_messages_may_go_and_where_failures_are_reported_is_known_to_the_next_attempts(
    admin: Administrator, receiver: Receiver
) -> None:
    receiver.script("/fails", status(500))
    await admin("PATCH", "/default", json={"failureCallback": receiver.url("/failed"), "destinations": "any"})
    await asyncio.sleep(2 * tenancy.FRESH_FOR_S)  # nothing tells of it

    await admin.server.publish(receiver.url("/fails"), Upstash_Retries="0")

    await receiver.next_request("/failed")
    known = admin.server.node.dispatcher
    assert known is not None
    assert (await known._tenancy.profile(TENANT)).destinations == "any"


async def test_a_parallelism_is_one_of_all_nodes_when_it_is_answered(admin: Administrator) -> None:
    assert (await admin("PATCH", "/default", json={"parallelism": 2})).status_code == 200

    assert (await admin.server.http.get("/v2/globalParallelism")).json()["parallelismMax"] == 2


async def test_of_changes_at_once_no_half_of_one_meets_half_of_another(
    admin: Administrator, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tenancy, "_WHILE_PUBLISHED_S", 0.0)

    for _ in range(10):
        await asyncio.gather(*(admin("PATCH", "/default", json={"parallelism": most}) for most in (1, None) * 4))

        is_limited = await connection.fetchval("select parallelism is not null from tenants where id = $1", TENANT)
        is_pinned = "select parallelism_pinned from flow_keys where tenant_id = $1 and key = ''"
        assert await connection.fetchval(is_pinned, TENANT) == is_limited


async def test_keys_are_not_rotated_twice_before_receivers_can_know(serve: Serve, connection: Connection) -> None:
    server = await serve(key_rotation_guard=timedelta(hours=1))
    admin = await an_administrator(server, connection)
    first = (await server.http.get("/v2/keys")).json()

    second = await server.http.post("/v2/keys/rotate")
    refused = [
        await server.http.post("/v2/keys/rotate"),
        await server.http.get("/v2/rotate"),
        await server.http.post("/v2/keys/rotate", params={"force": "false"}),
        await admin("POST", "/default/keys/rotate"),
    ]

    assert (second.status_code, second.json()["current"]) == (200, first["next"])
    assert {answer.status_code for answer in refused} == {409}
    assert "lock out receivers that have not got the new pair yet" in refused[0].json()["error"]
    assert (await server.http.get("/v2/keys")).json() == second.json()
    third = await server.http.post("/v2/keys/rotate", params={"force": "true"})
    assert third.json()["current"] == second.json()["next"]
    fourth = await admin("POST", "/default/keys/rotate", params={"force": "true"})
    assert fourth.json()["current"] == third.json()["next"]
    await connection.execute(
        "update signing_keys set rotated_at = now() - interval '1 hour' where tenant_id = $1", TENANT
    )
    assert (await admin("POST", "/default/keys/rotate")).status_code == 200


async def test_of_several_who_rotate_at_once_one_does(serve: Serve) -> None:
    server = await serve(key_rotation_guard=timedelta(hours=1))
    before = (await server.http.get("/v2/keys")).json()

    answers = await asyncio.gather(*(server.http.post("/v2/keys/rotate") for _ in range(5)))

    assert sorted(answer.status_code for answer in answers) == [200, 409, 409, 409, 409]
    assert (await server.http.get("/v2/keys")).json()["current"] == before["next"]
