"""Whoever guesses tokens has to wait; whoever has one does not."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable

import httpx
import pytest

from postroad import tenancy
from postroad.api import strangers
from postroad.api.strangers import MOST_WRONG, Strangers
from postroad.domain.network import parse_networks
from postroad.domain.tenant import Access, token_hash
from postroad.domain.token import new_token
from postroad.errors import TooManyGuesses, Unauthenticated
from postroad.store import tokens
from postroad.store.engine import Connection, Database
from postroad.tenancy import Tenancy
from tests.builders import TENANT
from tests.conftest import Running, Serve, eventually

GOOD = "http://127.0.0.1:9/x"
PROXY = {"trusted_proxies": "127.0.0.1", "max_calls_per_second": 0}
ADMIN = "/admin/v1/tenants"
MINE = "198.51.100.7"


async def call(server: Running, token: str, address: str = MINE, path: str = "/v2/keys") -> httpx.Response:
    """A call with a token, as a proxy passes it on."""
    method = "POST" if "publish" in path else "GET"
    headers = {"Authorization": f"Bearer {token}", "X-Forwarded-For": address}
    return await server.http.request(method, path, headers=headers)


async def guess(
    server: Running, count: int, addresses: Iterable[str] = (MINE,), path: str = "/v2/keys"
) -> Counter[int]:
    """So many different tokens that do not exist, from each address, forty at a time."""
    turns = asyncio.Semaphore(40)

    async def one(address: str) -> int:
        async with turns:
            return (await call(server, new_token(Access.FULL), address, path)).status_code

    return Counter(await asyncio.gather(*(one(address) for address in addresses for _ in range(count))))


async def a_token(connection: Connection, access: Access = Access.FULL) -> str:
    token = new_token(access)
    await tokens.add(connection, None if access is Access.ADMIN else TENANT, token, name="test", access=access)
    return token


@pytest.fixture(autouse=True)
def _an_hour_instead_of_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that no machine is too slow."""
    monkeypatch.setattr(strangers, "PERIOD_S", 3600.0)


@pytest.mark.parametrize(("path", "count"), [("/v2/keys", 100), (f"/v2/publish/{GOOD}", 100), (ADMIN, 1_000)])
async def test_after_ten_guesses_from_an_address_nothing_is_looked_up_for_it(
    serve: Serve, connection: Connection, path: str, count: int
) -> None:
    server = await serve(**PROXY)
    right = await a_token(connection, Access.ADMIN if path == ADMIN else Access.FULL)

    assert await guess(server, count, path=path) == {401: MOST_WRONG, 429: count - MOST_WRONG}

    refused = await call(server, right, path=path)
    assert refused.status_code == 429, "or guessing would go on, only without being told what is wrong"
    assert refused.json() == {"error": "too many unknown tokens came from this address, try again later"}
    assert 0 < int(refused.headers["Retry-After"]) <= strangers.PERIOD_S
    assert not [name for name in refused.headers if "ratelimit" in name.lower()]
    assert (await call(server, right, "198.51.100.8", path=path)).status_code in (200, 201)


async def test_fifty_addresses_have_ten_guesses_each_and_an_honest_administrator_enters(
    serve: Serve, connection: Connection
) -> None:
    server = await serve(**PROXY)
    addresses = [f"198.51.100.{n}" for n in range(50)]

    guesses = await guess(server, 20, addresses, ADMIN)

    assert guesses == {401: 50 * MOST_WRONG, 429: 50 * MOST_WRONG}
    assert (await call(server, await a_token(connection, Access.ADMIN), "203.0.113.1", ADMIN)).status_code == 200


async def test_who_was_known_before_is_not_locked_out_by_guesses_from_the_same_address(
    serve: Serve, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tenancy, "FRESH_FOR_S", 0.0)
    server = await serve(**PROXY)
    known, revoked = await a_token(connection), await a_token(connection)
    assert {(await call(server, token)).status_code for token in (known, revoked)} == {200}
    await connection.execute("delete from tokens where hash = $1", token_hash(revoked))

    assert (await guess(server, 50))[429] == 50 - MOST_WRONG

    assert (await call(server, known)).status_code == 200
    assert (await call(server, known, path=f"/v2/publish/{GOOD}")).status_code == 201
    assert [(await call(server, revoked)).status_code for _ in range(2)] == [401, 429]


async def test_after_a_minute_an_address_may_try_again(
    serve: Serve, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strangers, "PERIOD_S", 1.0)
    server = await serve(**PROXY)
    right = await a_token(connection)
    await guess(server, MOST_WRONG)

    async def status() -> int:
        return (await call(server, right)).status_code

    await eventually(status, lambda code: code == 200)


async def test_the_same_mistake_again_and_again_is_no_guessing(serve: Serve, connection: Connection) -> None:
    server = await serve(**PROXY)

    answers = await asyncio.gather(*(call(server, "an old token") for _ in range(100)))

    assert {answer.status_code for answer in answers} == {401}
    assert (await call(server, await a_token(connection))).status_code == 200


async def test_requests_without_a_token_are_no_guesses(serve: Serve, connection: Connection) -> None:
    server = await serve(**PROXY)
    for value in ("", "Bearer", "Basic eDp5"):
        for _ in range(10):
            headers = {"Authorization": value, "X-Forwarded-For": MINE}
            assert (await server.http.get("/v2/keys", headers=headers)).status_code == 401

    assert (await call(server, await a_token(connection))).status_code == 200


async def test_many_who_are_new_enter_from_one_address_at_once(serve: Serve, connection: Connection) -> None:
    """As when a node starts behind a proxy that it does not know: all seem to come from there."""
    server = await serve(max_calls_per_second=0)
    honest = [await a_token(connection) for _ in range(100)]

    answers = await asyncio.gather(*(call(server, token) for token in honest for _ in range(3)))

    assert {answer.status_code for answer in answers} == {200}


async def test_more_than_one_statement_asks_for_are_all_found(
    connection: Connection, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tenancy, "_MOST_AT_ONCE", 3)
    honest = [await a_token(connection) for _ in range(20)]
    known = Tenancy(database)

    callers = await asyncio.gather(*(known.caller(token) for token in honest))

    assert {caller.tenant_id for caller in callers} == {TENANT}


async def test_some_mistakes_do_not_keep_others_of_an_address_out(serve: Serve, connection: Connection) -> None:
    server = await serve(**PROXY)
    honest = [await a_token(connection) for _ in range(50)]
    wrong = [new_token(Access.FULL) for _ in range(MOST_WRONG - 1)]

    answers = await asyncio.gather(*(call(server, token) for token in (*wrong, *honest)))

    assert Counter(answer.status_code for answer in answers) == {401: len(wrong), 200: len(honest)}


@pytest.mark.parametrize(
    ("guesses", "other", "is_locked"),
    [
        (["2001:db8:0:1::1", "2001:db8:0:1:ffff::2"], "2001:db8:0:1::3", True),
        (["2001:db8:0:1::1", "2001:db8:0:1:ffff::2"], "2001:db8:0:2::3", False),
        (["::ffff:198.51.100.7", "198.51.100.7"], "198.51.100.7", True),
        (["::ffff:198.51.100.7", "198.51.100.7"], "::ffff:198.51.100.8", False),
    ],
    ids=str,
)
async def test_of_ipv6_a_network_counts_and_of_ipv4_an_address(
    serve: Serve, connection: Connection, guesses: list[str], other: str, is_locked: bool
) -> None:
    server = await serve(**PROXY)

    assert (await guess(server, MOST_WRONG, guesses))[429] == MOST_WRONG

    assert (await call(server, await a_token(connection), other)).status_code == (429 if is_locked else 200)


async def test_an_address_that_nobody_vouches_for_is_not_believed(serve: Serve, connection: Connection) -> None:
    """Or each guess could come from an address of its own."""
    server = await serve(max_calls_per_second=0)

    guesses = await guess(server, 1, [f"198.51.100.{n}" for n in range(30)])

    assert guesses == {401: MOST_WRONG, 429: 20}


async def test_a_locked_address_costs_the_database_nothing(serve: Serve, connection: Connection) -> None:
    server = await serve(**PROXY)
    await guess(server, MOST_WRONG)
    async with connection.transaction():
        await connection.execute("lock table tokens in access exclusive mode")

        assert await guess(server, 50) == {429: 50}


async def test_a_flood_of_guesses_from_everywhere_takes_one_connection(
    serve: Serve, connection: Connection, database: Database
) -> None:
    server = await serve(**PROXY)
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute("lock table tokens in access exclusive mode")
    flood = asyncio.create_task(guess(server, 3, [f"198.51.100.{n}" for n in range(100)]))

    async def waiting() -> int:
        async with database.connection() as other:
            count: int = await other.fetchval(
                "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
            )
        return count

    await eventually(waiting, lambda count: count > 0)
    counts = [await waiting() for _ in range(20)]
    await transaction.rollback()

    assert set(counts) == {1}
    assert await flood == {401: 300}


async def test_what_is_remembered_of_addresses_is_bounded(database: Database) -> None:
    guarded = Strangers(Tenancy(database), parse_networks(""))

    async def guess_from(address: str) -> type[Exception]:
        try:
            await guarded.caller(new_token(Access.FULL) + "x", (address, 1), ())
        except (Unauthenticated, TooManyGuesses) as error:
            return type(error)
        raise AssertionError

    seen = [await guess_from(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}") for n in range(12_000)]

    assert set(seen) == {Unauthenticated}
    assert len(guarded._sources) == 10_000
    last = [await guess_from(f"10.0.{11_999 >> 8}.{11_999 & 255}") for _ in range(MOST_WRONG)]
    assert last[-1] is TooManyGuesses, "the oldest is forgotten, not the latest"
