"""What tokens may do, until when, and what is known of them afterwards."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import httpx
import pytest

from postroad import production, tenancy
from postroad.dev import DEV_USERS
from postroad.domain.tenant import Access, token_hash
from postroad.domain.token import is_damaged, new_token
from postroad.errors import Misconfigured
from postroad.settings import load
from postroad.store import tokens
from postroad.store.engine import Connection
from postroad.tenancy import _Remembered
from tests import endless
from tests.builders import TENANT
from tests.conftest import Running, Serve, eventually

GOOD = "http://127.0.0.1:9/x"
PUBLISH = {"/v2/publish/{destination}", "/v2/enqueue/{queueName}/{destination}", "/v2/batch"}
OPEN = {"/v2/liveness", "/v2/readiness"}
ALLOWED = {
    Access.FULL: {"publish", "read", "change", "keys"},
    Access.READ_ONLY: {"read"},
    Access.METADATA: {"read"},
    Access.PUBLISH_ONLY: {"publish"},
    Access.ADMIN: {"administer"},
}
"""Which classes of routes each kind of token opens."""


def kind(method: str, path: str) -> str:
    """The class of a documented route. What is new, and reads nothing, changes things."""
    if path in OPEN:
        return "open"
    if path.startswith("/admin/"):
        return "administer"
    if "/keys" in path:
        return "keys"
    if path in PUBLISH:
        return "publish"
    return "read" if method == "get" else "change"


async def a_token(connection: Connection, access: Access = Access.FULL, **options: Any) -> str:
    """A new token of the default tenant's, or an admin one."""
    token = new_token(access)
    tenant_id = None if access is Access.ADMIN else TENANT
    async with connection.transaction():
        assert await tokens.add(connection, tenant_id, token, name="test", access=access, **options) is not None
    return token


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def id_of(connection: Connection, token: str) -> int:
    found: int = await connection.fetchval("select id from tokens where hash = $1", token_hash(token))
    return found


async def routes(server: Running) -> list[tuple[str, str]]:
    """Every documented route, as method and path."""
    document = (await server.http.get("/openapi.json")).json()
    return [(method, path) for path, operations in document["paths"].items() for method in operations]


def filled(path: str) -> str:
    return re.sub(r"{\w+}", "none", path.replace("{destination}", GOOD))


@pytest.mark.parametrize("access", Access)
async def test_a_token_opens_the_routes_of_its_kind_and_no_others(
    serve: Serve, connection: Connection, access: Access
) -> None:
    server = await serve(max_calls_per_second=0)
    headers = bearer(await a_token(connection, access))
    met = set()

    for method, path in await routes(server):
        answer = await endless.ask(server.http, method, filled(path), headers=headers)

        is_allowed = kind(method, path) in ALLOWED[access] | {"open"}
        assert (answer.status_code not in (401, 403)) == is_allowed, f"{method} {path}: {answer.text}"
        if not is_allowed:
            assert answer.json() == {"error": f"this token is {access} and may not do this"}
        met.add(kind(method, path))

    assert met == {"open", "publish", "read", "change", "keys", "administer"}


@asynccontextmanager
async def refused_tokens(connection: Connection) -> AsyncIterator[dict[str, str]]:
    """Tokens that are not valid, by the reason."""
    revoked, expired = await a_token(connection), await a_token(connection, valid_for=timedelta(days=1))
    await tokens.revoke(connection, await id_of(connection, revoked))
    await connection.execute("update tokens set expires_at = now() where hash = $1", token_hash(expired))
    whole = new_token(Access.FULL)
    yield {
        "unknown": new_token(Access.FULL),
        "foreign": "c29tZWJvZHkgZWxzZSdzIHRva2Vu",
        "damaged": whole[:-1],
        "revoked": revoked,
        "expired": expired,
    }


async def test_without_a_valid_token_every_route_answers_the_same_whatever_is_wrong_with_it(
    server: Running, connection: Connection
) -> None:
    async with refused_tokens(connection) as wrong:
        for method, path in await routes(server):
            if path in OPEN:
                continue
            answers = [
                await server.http.request(method, filled(path), headers={"Authorization": value})
                for value in ("", "Bearer", "Basic eDp5", *(f"Bearer {token}" for token in wrong.values()))
            ]

            seen = {
                (answer.status_code, answer.content, tuple(sorted(answer.headers.items())))
                for answer in map(without_its_id, answers)
            }
            assert len(seen) == 1, f"{method} {path}: {seen}"
            assert answers[0].status_code == 401
            assert answers[0].json() == {"error": "unable to authenticate: invalid token"}


def without_its_id(answer: httpx.Response) -> httpx.Response:
    del answer.headers["X-Request-Id"]
    return answer


async def test_a_token_expires(server: Running, connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tenancy, "FRESH_FOR_S", 0.2)
    token = await a_token(connection, valid_for=timedelta(hours=1))
    expires_at = await connection.fetchval("select expires_at - now() from tokens where hash = $1", token_hash(token))
    assert timedelta(minutes=59) < expires_at <= timedelta(hours=1)

    async def call() -> int:
        return (await server.http.get("/v2/keys", headers=bearer(token))).status_code

    assert await call() == 200
    await connection.execute("update tokens set expires_at = now() where hash = $1", token_hash(token))

    await eventually(call, lambda status: status == 401)


async def test_a_revoked_token_is_refused_at_once_where_that_was_done_and_soon_elsewhere(
    serve: Serve, connection: Connection
) -> None:
    one, other = await serve(), await serve()
    token, admin = await a_token(connection), await a_token(connection, Access.ADMIN)

    async def statuses(server: Running) -> set[int]:
        headers = bearer(token)
        return {
            (await server.http.post(f"/v2/publish/{GOOD}", headers=headers)).status_code // 100,
            (await server.http.get("/v2/logs", headers=headers)).status_code // 100,
        }

    assert await statuses(one) == await statuses(other) == {2}
    path = f"/admin/v1/tenants/default/tokens/{await id_of(connection, token)}"

    assert (await one.http.delete(path, headers=bearer(admin))).status_code == 204

    assert await statuses(one) == {4}
    await eventually(lambda: statuses(other), lambda found: found == {4}, within=tenancy.FRESH_FOR_S + 5)


async def test_what_is_being_looked_up_while_it_is_revoked_is_not_remembered() -> None:
    loading, go_on = asyncio.Event(), asyncio.Event()

    async def load(_: str) -> str:
        loading.set()
        await go_on.wait()
        return "from before"

    remembered: _Remembered[str, str] = _Remembered(load)
    asked = asyncio.create_task(remembered.get("token"))
    await loading.wait()
    remembered.forget("token")
    go_on.set()

    assert await asked == "from before"
    assert not remembered.has("token")


async def test_what_is_remembered_is_bounded_and_what_was_asked_for_lately_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tenancy, "_REMEMBERED", 3)
    monkeypatch.setattr(tenancy, "FRESH_FOR_S", 0.0)

    async def load(key: str) -> str:
        return key

    remembered: _Remembered[str, str] = _Remembered(load)
    for key in ("a", "b", "c", "a", "d"):
        await remembered.get(key)

    assert [key for key in "abcd" if remembered.has(key)] == ["a", "c", "d"]


async def test_a_revoked_token_cannot_be_made_valid_again(
    connection: Connection, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings = load({}, token="a token of our own", database_url=database_url, allow_dev_credentials=True)
    await production.prepare(settings, database_url)
    await tokens.revoke(connection, await id_of(connection, "a token of our own"))

    await production.prepare(settings, database_url)

    assert not await tokens.exists(connection, "a token of our own")
    assert "the token in POSTROAD_TOKEN was revoked and is not accepted" in caplog.text


async def test_a_setting_with_a_damaged_token_is_refused(database_url: str) -> None:
    settings = load({}, token=new_token(Access.FULL)[:-3], allow_dev_credentials=True)

    with pytest.raises(Misconfigured, match="its checksum is wrong"):
        await production.prepare(settings, database_url)


@pytest.mark.parametrize("access", Access)
def test_a_token_that_lost_or_changed_a_character_is_recognised(access: Access) -> None:
    token = new_token(access)

    assert re.fullmatch(r"pr[ta]_[0-9A-Za-z]{49}", token)
    assert not is_damaged(token)
    for n in range(4, len(token)):
        assert is_damaged(token[:n])
        assert is_damaged(token[:n] + ("a" if token[n] != "a" else "b") + token[n + 1 :])
        if n + 1 < len(token) and token[n] != token[n + 1]:
            assert is_damaged(token[:n] + token[n + 1] + token[n] + token[n + 2 :])
    assert is_damaged(token + "a")


def test_tokens_are_random() -> None:
    drawn = [new_token(Access.FULL) for _ in range(2_000)]

    assert len(set(drawn)) == len(drawn)
    for place in range(5, 47):
        assert len({token[place] for token in drawn}) == 62, "the first digit aside, each can be any"


@pytest.mark.parametrize("token", [DEV_USERS[0].token, "pr_" + "x" * 43, "a token of our own", "prt-mine", "pr"])
async def test_tokens_of_other_makes_need_no_checksum(server: Running, connection: Connection, token: str) -> None:
    await tokens.add(connection, TENANT, token, name="foreign")

    assert not is_damaged(token)
    assert (await server.http.get("/v2/keys", headers=bearer(token))).status_code == 200


@pytest.mark.parametrize(("method", "path"), [("GET", "/v2/keys"), ("POST", f"/v2/publish/{GOOD}")])
async def test_of_several_tokens_the_last_one_counts(server: Running, method: str, path: str) -> None:
    async def call(*given: str) -> bool:
        headers = [("Authorization", f"Bearer {token}") for token in given]
        return (await server.http.request(method, path, headers=headers)).is_success

    assert await call("no token", DEV_USERS[0].token)
    assert not await call(DEV_USERS[0].token, "no token")


async def test_what_a_publish_goes_by_comes_with_its_token(serve: Serve, connection: Connection) -> None:
    server = await serve(roles=("api",))
    async with connection.transaction():
        await connection.execute("lock table signing_keys in access exclusive mode")

        answer = await server.http.post(f"/v2/publish/{GOOD}")

    assert answer.status_code == 201


async def test_damage_is_seen_without_asking_the_database(server: Running, connection: Connection) -> None:
    async with connection.transaction():
        await connection.execute("lock table tokens in access exclusive mode")

        answer = await server.http.get("/v2/keys", headers=bearer(new_token(Access.FULL) + "x"))

    assert answer.status_code == 401


async def used_at(connection: Connection, token: str) -> Any:
    return await connection.fetchval("select used_at from tokens where hash = $1", token_hash(token))


async def test_the_last_use_of_a_token_is_written(server: Running, connection: Connection) -> None:
    used, unused = await a_token(connection, Access.PUBLISH_ONLY), await a_token(connection)

    assert (await server.http.post(f"/v2/publish/{GOOD}", headers=bearer(used))).status_code == 201

    await eventually(lambda: used_at(connection, used), lambda at: at is not None)
    assert await used_at(connection, unused) is None


async def test_a_publish_does_not_wait_for_the_last_use_to_be_written(server: Running, connection: Connection) -> None:
    token = await a_token(connection)
    async with connection.transaction():
        await connection.execute("select from tokens where hash = $1 for update", token_hash(token))

        answer = await server.http.post(f"/v2/publish/{GOOD}", headers=bearer(token))

    assert answer.status_code == 201
    await eventually(lambda: used_at(connection, token), lambda at: at is not None)


@pytest.mark.parametrize(("ago", "is_old"), [("59 s", False), ("61 s", True), (None, True)])
async def test_the_last_use_is_written_once_a_minute(connection: Connection, ago: str | None, is_old: bool) -> None:
    token = await a_token(connection)
    identity = await id_of(connection, token)
    await connection.execute("update tokens set used_at = now() - $2::text::interval where id = $1", identity, ago)
    before = await used_at(connection, token)

    known = await tokens.known(connection, [token_hash(token)])
    await tokens.note_use(connection, [identity])

    assert known[token_hash(token)].is_use_old == is_old
    assert (await used_at(connection, token) != before) == is_old
