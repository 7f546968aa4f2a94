"""What a client may do to the server: how much it may send, how long it may take, and what it gets for more."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from postroad.api.door import Door
from postroad.api.query import known_ids
from postroad.domain.ids import IdMint, message_text
from postroad.domain.publication import Publication, Request
from postroad.domain.url_group import UrlGroup
from postroad.patience import Patience
from postroad.server import MOST_HEAD_BYTES, MOST_HEADERS, MOST_PIPELINED
from postroad.store.engine import Connection
from tests.conftest import Running, Serve
from tests.receiver import Receiver
from tests.security.bombs import bombs, request, thrown
from tests.security.inbound import Served, raw, served

GET = b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /x HTTP/1.1\r\nHost: x\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
PATIENCE = Patience()


async def until(condition: Callable[[], object]) -> None:
    """Until it holds, which nothing announces."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def open_connections(server: Served) -> int:
    return len(server.server.server_state.connections)


def has_read(server: Served, count: int) -> bool:
    """Whether so many bytes of a head have arrived on one of the connections."""
    return any(vars(one)["_unused_bytes"] == count for one in server.server.server_state.connections)


async def test_a_head_that_does_not_end_is_refused_when_its_time_is_over() -> None:
    async with served() as server, raw(server.url) as client, raw(server.url) as silent:
        await until(lambda: open_connections(server) == 2)
        await client.send(GET[:10])
        await until(lambda: has_read(server, 10))

        server.seconds_pass(PATIENCE.head - 1)
        await client.send(GET[10:12])
        await until(lambda: has_read(server, 12))
        server.seconds_pass(2)

        status, body = await client.answer()
        assert (status, list(json.loads(body))) == (408, ["error"])
        assert await client.is_closed()
        assert await silent.is_closed()  # an answer would be taken for that of a request that was on its way
        assert server.scopes == []


async def test_a_request_that_was_on_its_way_when_the_stop_began_is_answered() -> None:
    async with served() as server, raw(server.url) as client:
        await client.send(GET)
        await client.answer()

        client.writer.write(GET)
        await server.server.shutdown()

        status, headers = await client.head()
        assert (status, headers["connection"]) == (200, "close")
        assert len(server.scopes) == 2


async def test_a_body_that_stands_still_is_refused_and_its_application_told() -> None:
    async with served() as server, raw(server.url) as client:
        await client.send(POST + b"Content-Length: 100\r\n\r\n12345")
        await until(lambda: server.scopes)

        server.seconds_pass(PATIENCE.stalled - 1)
        await client.send(b"6")
        assert server.gone == 0
        server.seconds_pass(1)

        assert (await client.answer())[0] == 408
        await until(lambda: server.gone)
        assert server.bodies == []
        assert await client.is_closed()


async def test_a_body_that_gets_ahead_may_take_its_time() -> None:
    piece = b"x" * PATIENCE.least_bytes
    async with served() as server, raw(server.url) as client:
        await client.send(POST + b"Content-Length: %d\r\n\r\n" % (9 * len(piece)))
        await until(lambda: server.scopes)
        [connection] = server.server.server_state.connections
        for _ in range(8):
            await client.send(piece)
            await until(lambda: vars(connection)["_body_bytes"] == len(piece))
            server.seconds_pass(PATIENCE.stalled)
        await client.send(piece)

        assert (await client.answer())[0] == 200
        assert server.bodies == [piece * 9]


async def test_a_body_that_nobody_reads_yet_is_waited_for() -> None:
    """The server itself has stopped reading, so its client cannot go on."""
    async with served() as server, raw(server.url) as client:
        server.may_read.clear()
        await client.send(POST + b"Content-Length: 100000\r\n\r\n" + b"x" * 99_999)
        await until(lambda: vars(next(iter(server.server.server_state.connections)))["_body_bytes"] > 65_536)
        server.seconds_pass(PATIENCE.stalled * 3)
        server.may_read.set()
        await client.send(b"x")

        assert (await client.answer())[0] == 200


async def test_an_answer_that_nobody_takes_is_not_kept() -> None:
    async with served() as server, raw(server.url) as client:
        server.size = 64 * 1024 * 1024
        await client.send(GET)
        await client.head()
        await until(lambda: server.bodies)
        assert open_connections(server) == 1

        server.seconds_pass(PATIENCE.stalled + 1)

        await until(lambda: open_connections(server) == 0)


async def test_an_answer_that_is_taken_slowly_is_sent_to_its_end() -> None:
    async with served() as server, raw(server.url) as client:
        server.size = 64 * 1024 * 1024
        await client.send(GET)
        await client.head()
        for _ in range(16):
            server.seconds_pass(PATIENCE.stalled // 2)
            await client.reader.readexactly(4 * 1024 * 1024)

        server.size = 2
        assert (await (await client.send(GET)).answer())[0] == 200


async def test_a_connection_without_requests_is_closed_after_a_while() -> None:
    async with served() as server, raw(server.url) as client:
        await (await client.send(GET)).answer()
        server.seconds_pass(PATIENCE.idle - 1)
        await (await client.send(GET)).answer()
        server.seconds_pass(PATIENCE.idle - 1)
        assert open_connections(server) == 1

        server.seconds_pass(1)

        assert await client.is_closed()


async def test_an_application_may_take_as_long_as_it_likes() -> None:
    async with served() as server, raw(server.url) as client:
        server.may_answer.clear()
        await client.send(GET)
        await until(lambda: server.bodies)
        server.seconds_pass(1000)
        server.may_answer.set()

        assert (await client.answer())[0] == 200


async def test_what_follows_an_early_answer_is_thrown_away_for_a_while() -> None:
    async with served() as server, raw(server.url) as client, raw(server.url) as endless:
        server.early = True
        await (await client.send(POST + b"Content-Length: 100000\r\n\r\n")).answer()
        await (await endless.send(CHUNKED + b"1\r\nx\r\n")).answer()

        await client.send(b"x" * 100_000, GET)
        assert (await client.answer())[0] == 200
        server.seconds_pass(PATIENCE.linger)

        assert await endless.is_closed()
        assert open_connections(server) == 1


async def test_a_trailer_is_no_header() -> None:
    async with served() as server, raw(server.url) as client:
        await client.send(CHUNKED + b"1\r\nx\r\n0\r\nAuthorization: Bearer x\r\nUpstash-Forward-A: b\r\n\r\n", GET)

        assert [(await client.answer())[0] for _ in range(2)] == [200, 200]
        assert server.bodies == [b"x", b""]
        assert server.scopes[0]["headers at the end"] == [(b"host", b"x"), (b"transfer-encoding", b"chunked")]


async def test_a_trailer_is_not_counted_to_the_next_head() -> None:
    long = b"X-Long: " + b"x" * (MOST_HEAD_BYTES * 2 // 3) + b"\r\n"
    async with served() as server, raw(server.url) as client:
        await client.send(CHUNKED + b"1\r\nx\r\n0\r\n")
        await until(lambda: server.scopes)
        await client.send(long + b"\r\n")
        assert (await client.answer())[0] == 200
        [connection] = server.server.server_state.connections
        await client.send(GET[:-2] + long)
        await until(lambda: vars(connection)["_reading"].name == "HEAD")
        await client.send(b"\r\n")
        assert (await client.answer())[0] == 200


@pytest.mark.parametrize(
    "framing",
    [
        b"Transfer-Encoding: x",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked\r\nContent-Length: 5",
    ],
)
async def test_a_request_that_offers_more_and_has_no_clear_framing_is_refused(framing: bytes) -> None:
    async with served() as server, raw(server.url) as client:
        await client.send(POST + framing + b"\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n0\r\n\r\n")

        assert (await client.answer())[0] == 400
        assert server.bodies == []


@pytest.mark.parametrize("junk", [b"X-Trailer: y\r\n", b"x", b"0;ext=", b"A: "])
async def test_the_framing_of_a_body_is_bounded(junk: bytes) -> None:
    start = b"0\r\n" if junk != b"0;ext=" else b""
    async with served() as server, raw(server.url) as client:
        await client.send(CHUNKED + b"1\r\nx\r\n" + start + junk)
        await until(lambda: server.scopes)
        for _ in range(20):
            await client.send(b"y" * 8192 if b"\r" not in junk else junk * 800)
            await asyncio.sleep(0)

        assert (await client.answer())[0] in (400, 431)
        await until(lambda: server.gone)


@pytest.mark.parametrize(
    "head",
    [
        b"GET /x HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * MOST_HEAD_BYTES,
        b"GET /" + b"x" * MOST_HEAD_BYTES + b" HTTP/1.1\r\nHost: x",
        b"GET /x HTTP/1.1\r\nHost: x" + b"\r\nX: y" * MOST_HEADERS,
        b"GET /x HTTP/1.1\r\nHost: x" + b"\r\nX: y" * 10_000,
        b"GET /x HTTP/1.1\r\nHost: x\r\n" + b"x" * 1024 * 1024,
    ],
)
@pytest.mark.parametrize("before", [b"", GET])
async def test_a_large_head_is_refused_in_one_piece_or_many(head: bytes, before: bytes) -> None:
    async with served() as server:
        for size in (1 << 30, 1000):
            async with raw(server.url) as client:
                whole = before + head + b"\r\n\r\n"
                for start in range(0, len(whole), size):
                    client.writer.write(whole[start : start + size])
                    await asyncio.sleep(0)
                status = 200
                while status == 200:  # The answer to the request before, if that came first.
                    status, _ = await client.answer()
                assert status == 431
                assert await client.is_closed()


async def test_requests_that_do_not_wait_for_answers_are_bounded() -> None:
    async with served() as server, raw(server.url) as few, raw(server.url) as many:
        server.may_answer.clear()
        await few.send(GET * MOST_PIPELINED)
        await many.send(GET * 10_000)
        assert (await many.answer())[0] == 429
        assert await many.is_closed()
        server.may_answer.set()

        assert {(await few.answer())[0] for _ in range(MOST_PIPELINED)} == {200}
        assert len(server.scopes) == MOST_PIPELINED + 1


async def test_an_upgrade_is_answered_as_if_it_had_not_been_asked_for() -> None:
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n"
    async with served() as server, raw(server.url) as client, raw(server.url) as sender:
        assert (await (await client.send(GET[:-2] + upgrade + b"\r\n")).answer())[0] == 200
        assert (await (await client.send(GET)).answer())[0] == 200
        await sender.send(POST + upgrade + b"Content-Length: 3\r\n\r\nab")
        await until(lambda: len(server.scopes) == 3)
        await sender.send(b"c" + GET)
        assert [(await sender.answer())[0] for _ in range(2)] == [200, 200]
        await sender.send(POST + upgrade + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n", GET)
        assert [(await sender.answer())[0] for _ in range(2)] == [200, 200]
        assert server.bodies == [b"", b"", b"abc", b"", b"abc", b""]
        assert [name for name, _ in server.scopes[2]["headers"]].count(b"content-length") == 1


async def test_whoever_says_nothing_gives_way_when_there_are_too_many() -> None:
    async with served(Patience(connections=20)) as server, AsyncExitStack() as stack:
        worker = await stack.enter_async_context(raw(server.url))
        server.may_answer.clear()
        await worker.send(POST + b"Content-Length: 3\r\n\r\nab")
        await until(lambda: server.scopes)
        silent = [await stack.enter_async_context(raw(server.url)) for _ in range(19)]
        await until(lambda: open_connections(server) == 20)
        server.may_answer.set()

        for _ in range(40):
            async with raw(server.url) as honest:
                assert (await (await honest.send(GET)).answer())[0] == 200
            await until(lambda: open_connections(server) <= 20)
        assert (await (await worker.send(b"c")).answer())[0] == 200
        assert any(connection.reader.at_eof() for connection in silent)
        assert open_connections(server) <= 20


async def test_where_nobody_waits_a_newcomer_is_told_to_come_again() -> None:
    async with served(Patience(connections=2)) as server, AsyncExitStack() as stack:
        workers = [await stack.enter_async_context(raw(server.url)) for _ in range(2)]
        for worker in workers:
            await worker.send(POST + b"Content-Length: 3\r\n\r\nab")
        await until(lambda: len(server.scopes) == 2)
        for _ in range(5):
            newcomer = await stack.enter_async_context(raw(server.url))
            await newcomer.send(GET)
            status, headers = await newcomer.head()
            assert (status, headers["retry-after"], headers["connection"]) == (503, "1", "close")
            body = await newcomer.reader.readexactly(int(headers["content-length"]))
            assert list(json.loads(body)) == ["error"]
            assert await newcomer.is_closed()
        assert len(server.scopes) == 2

        server.seconds_pass(PATIENCE.linger)
        await until(lambda: open_connections(server) == 2)
        for worker in workers:
            assert (await (await worker.send(b"c")).answer())[0] == 200
        late = await stack.enter_async_context(raw(server.url))
        assert (await (await late.send(GET)).answer())[0] == 200


async def test_newcomers_are_served_as_long_as_anybody_waits() -> None:
    busy, silent = 300, 50
    async with served(Patience(connections=busy + silent)) as server, AsyncExitStack() as stack:
        for _ in range(busy):
            worker = await stack.enter_async_context(raw(server.url))
            await worker.send(POST + b"Content-Length: 3\r\n\r\nab")
        await until(lambda: len(server.scopes) == busy)
        for _ in range(silent):
            await stack.enter_async_context(raw(server.url))
        await until(lambda: open_connections(server) == busy + silent)

        statuses = []
        for _ in range(silent * 4):
            newcomer = await stack.enter_async_context(raw(server.url))
            statuses.append((await (await newcomer.send(GET)).answer())[0])
        server.seconds_pass(PATIENCE.linger)

        assert statuses.count(200) > len(statuses) // 2
        await until(lambda: open_connections(server) <= busy + silent)


@pytest.mark.parametrize("coding", [b"gzip, chunked", b"identity, chunked"])
async def test_a_transfer_coding_that_would_reach_the_destination_is_refused(coding: bytes) -> None:
    """A proxy in front might read it otherwise, and nobody would decode what is in the chunks."""
    async with served() as server, raw(server.url) as client:
        await client.send(POST + b"Transfer-Encoding: " + coding + b"\r\n\r\n0\r\n\r\n", GET)

        assert (await client.answer())[0] == 400
        assert await client.is_closed()
        assert server.scopes == []


async def test_hundreds_of_slow_clients_do_not_stop_an_honest_one() -> None:
    async with served() as server, AsyncExitStack() as stack:
        slow = [await stack.enter_async_context(raw(server.url)) for _ in range(300)]
        for number, client in enumerate(slow):
            await client.send(GET[: number % len(GET)] if number % 2 else CHUNKED + b"5\r\nab")
        honest = await stack.enter_async_context(raw(server.url))
        assert (await (await honest.send(GET)).answer())[0] == 200

        server.seconds_pass(PATIENCE.stalled + 1)

        assert (await (await honest.send(GET)).answer())[0] == 200
        assert {(await client.answer())[0] for client in slow} == {408}
        server.seconds_pass(PATIENCE.linger)
        await until(lambda: open_connections(server) == 1)


async def test_seconds_pass_by_themselves() -> None:
    async with served(still=False) as server:
        await until(lambda: server.server.watch.now > 0)


def test_there_is_room_for_clients_beside_everything_else_that_is_open() -> None:
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (100, 1000)); "
        "from postroad.server import Server; "
        "print(Server(print).watch.patience.connections, *resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert said.split() == ["500", "1000", "1000"]


async def test_a_batch_of_many_megabytes_is_read_item_by_item(server: Running, connection: Connection) -> None:
    body = json.dumps({"a": ['", ] } \\', "\u00e9\n"] * 5000})
    item = {"destination": "http://127.0.0.1:9/x", "headers": {"Upstash-Delay": "1h"}, "body": body}
    content = json.dumps([item | {"queue": ""} for _ in range(50)], indent=1)
    assert len(content) > 3 << 20

    answer = await server.http.post("/v2/batch", content=content)
    ends = ("],", "]]", "] x", ",]", "}", "")
    odd = [await server.http.post("/v2/batch", content=content[:-1] + end) for end in ends]

    assert (answer.status_code, len(answer.json())) == (200, 50), answer.text
    assert [one.status_code for one in odd] == [400] * len(ends)
    assert [row["body"] for row in await connection.fetch("select body from messages")] == [body.encode()] * 50


def costly_options(number: int) -> dict[str, str]:
    """Headers of an item that take long to check: three generations of callbacks, each with an expression."""
    headers = {"Upstash-Delay": "1h"}
    prefixes = ["Upstash-"]
    for _ in range(4):
        for prefix in prefixes:
            headers |= {
                f"{prefix}Retries": "1000",
                f"{prefix}Retry-Delay": f"pow(retried, 1) + {number}.{len(headers)}",
            }
        prefixes = [f"{prefix}{name}-" for prefix in prefixes for name in ("Callback", "Failure-Callback")]
        if len(prefixes) < 16:
            headers |= dict.fromkeys((prefix[:-1] for prefix in prefixes), "http://127.0.0.1:9/x")
    return headers


@asynccontextmanager
async def turns_of_others() -> AsyncIterator[Callable[[], int]]:
    """Counts how often the event loop comes round to somebody else."""
    count = 0

    async def have_turns() -> None:
        nonlocal count
        while True:
            await asyncio.sleep(0)
            count += 1

    other = asyncio.create_task(have_turns())
    await asyncio.sleep(0)
    yield lambda: count
    other.cancel()


async def test_others_have_their_turn_while_items_of_a_batch_are_read(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = [{"destination": "http://127.0.0.1:9/x", "headers": costly_options(number)} for number in range(50)]
    publisher = vars(server.node)["_application"]._context.publisher
    read, turns_at_items = publisher.read, []
    async with turns_of_others() as turns:

        def watched(request: Request, groups: dict[str, UrlGroup]) -> list[Publication]:
            turns_at_items.append(turns())
            publications: list[Publication] = read(request, groups)
            return publications

        monkeypatch.setattr(publisher, "read", watched)
        answer = await server.http.post("/v2/batch", json=items)

    assert (answer.status_code, len(turns_at_items)) == (200, 50)
    assert len(set(turns_at_items)) > 10


async def test_others_have_their_turn_while_ids_are_read() -> None:
    mint = IdMint()
    ids = [mint.message_id(1_700_000_000_000) for _ in range(90_000)]
    texts = [message_text(one) for one in ids]
    async with turns_of_others() as turns:
        assert list(await known_ids([*texts, "msg_", "x"])) == ids

        assert turns() > 5


async def test_more_endpoints_than_a_group_may_have_are_not_looked_at(server: Running) -> None:
    endpoints = [{"url": "http://127.0.0.1:9/x"}] * 1_000

    taken = await server.http.post("/v2/topics/g/endpoints", json={"endpoints": endpoints})
    refused = await server.http.post("/v2/topics/h/endpoints", json={"endpoints": [*endpoints, {"url": "no URL"}]})

    assert (taken.status_code, refused.status_code) == (200, 412)


async def test_a_compressed_body_is_refused_unless_its_destination_is_told(server: Running, receiver: Receiver) -> None:
    gzip = {"Content-Encoding": "gzip"}
    path = f"/v2/publish/{receiver.url('/x')}"

    refused = await server.http.post(path, content=b"x", headers=gzip)
    assert (refused.status_code, "Upstash-Forward-Content-Encoding" in refused.json()["error"]) == (415, True)
    assert (await server.http.post(path, content=b"x", headers={"Content-Encoding": "identity"})).status_code == 201
    told = {"Upstash-Forward-Content-Encoding": "gzip"}
    assert (await server.http.post(path, content=b"y", headers=gzip | told)).status_code == 201
    assert (
        await server.http.post(path, content=b"z", headers=gzip | {"Upstash-Header-Forward": "1"})
    ).status_code == 201

    received = {one.body: one.header("Content-Encoding") for one in await receiver.wait_for(3)}
    assert received == {b"x": None, b"y": "gzip", b"z": "gzip"}


async def test_of_a_name_that_comes_twice_the_last_value_counts(server: Running) -> None:
    await server.http.post("/v2/queues", content=b'{"queueName":"a","parallelism":1,"queueName":"b","parallelism":2}')

    assert [(one["name"], one["parallelism"]) for one in (await server.http.get("/v2/queues")).json()] == [("b", 2)]


@pytest.mark.parametrize(("levels", "status"), [(31, 400), (32, 400)])
async def test_a_document_has_no_more_than_so_many_levels(server: Running, levels: int, status: int) -> None:
    """One level is the document itself; what is not too deep is refused for what it says."""
    lists = "[" * levels + "]" * levels

    answer = await server.http.post("/v2/queues", content=f'{{"queueName":{lists}}}')

    assert answer.status_code == status
    assert ("levels" in answer.json()["error"]) == (levels == 32)


async def test_bodies_that_arrive_hold_only_so_much_memory_together(serve: Serve) -> None:
    server = await serve(max_body_bytes=1000, max_batch_bytes=1000)
    door: Door = vars(server.node)["_application"]
    door._most_arriving_bytes = 1500
    head = request("POST", "/v2/publish/http://127.0.0.1:9/x", b"", "Upstash-Delay: 1h")
    head = head.replace(b"Content-Length: 0", b"Content-Length: 1000")
    async with raw(server.url) as one, raw(server.url) as other:
        await one.send(head + b"x" * 900)
        await until(lambda: door._arriving_bytes == 900)
        await other.send(head + b"x" * 900)
        status, _ = await other.answer()
        assert status == 503
        await one.send(b"x" * 100)
        assert (await one.answer())[0] == 201
        assert door._arriving_bytes == 0


async def test_what_costs_much_to_read_is_refused_and_nothing_of_it_stored(
    server: Running, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = [(bomb.name, got) for bomb in bombs() if (got := await thrown(server.url, bomb)) not in bomb.statuses]

    assert wrong == []
    tables = ("messages", "deliveries", "queues", "url_groups", "schedules", "flow_keys", "dead_letters")
    counts = {table: await connection.fetchval(f"select count(*) from {table}") for table in tables}
    assert counts == dict.fromkeys(tables, 0)
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
