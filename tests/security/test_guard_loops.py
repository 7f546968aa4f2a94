"""No message goes round for ever: not onto our own listener, and not through a name that leads back to us."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from urllib.parse import urlsplit

import pytest

from tests.conftest import TOKEN, Running, Serve, eventually
from tests.receiver import Receiver


@asynccontextmanager
async def load_balancer(server: Running) -> AsyncIterator[str]:
    """The URL of something in front of the server, which does not know that it leads there."""
    node = urlsplit(server.url)
    tasks: set[asyncio.Task[None]] = set()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(OSError):
                while piece := await reader.read(65536):
                    writer.write(piece)
                    await writer.drain()
        finally:
            writer.close()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        onward_reader, onward_writer = await asyncio.open_connection(node.hostname, node.port)
        tasks.update(map(asyncio.create_task, (copy(reader, onward_writer), copy(onward_reader, writer))))

    balancer = await asyncio.start_server(pass_on, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{balancer.sockets[0].getsockname()[1]}"
    finally:
        balancer.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
async def server(serve: Serve) -> Running:
    return await serve(dev=True, default_retries=0)


async def group(server: Running, name: str, url: str, headers: dict[str, list[str]] | None = None) -> None:
    answer = await server.http.post(f"/v2/topics/{name}/endpoints", json={"endpoints": [{"url": url}]})
    assert answer.is_success, answer.text
    if headers:
        answer = await server.http.patch(f"/v2/topics/{name}", json={"headers": headers})
        assert answer.is_success, answer.text


@pytest.mark.parametrize("dev", [True, False])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"])
async def test_a_server_sends_nothing_to_itself(serve: Serve, host: str, dev: bool) -> None:
    server = await serve(dev=dev, destinations="any")
    port = urlsplit(server.url).port
    for path in ("/v2/publish/http://example.com", "/v2/readiness", ""):
        answer = await server.http.post(f"/v2/publish/http://{host}:{port}{path}")
        assert answer.status_code == 400
        assert "endpoint is this server itself: " in answer.json()["error"]


async def test_a_url_group_that_leads_back_to_itself_ends(server: Running) -> None:
    async with load_balancer(server) as url:
        await group(server, "circle", f"{url}/v2/publish/circle?qstash_token={TOKEN}")
        answer = await server.http.post("/v2/publish/circle")
        assert answer.is_success
        failed = await eventually(lambda: server.events(state="FAILED"), lambda events: len(events) == 1)

    assert failed[0]["header"]["Upstash-Hops"] == ["8"]
    assert "answered 400" in failed[0]["error"]
    assert len(await server.events(state="DELIVERED", count=100)) == 8
    answer_to_it = (await server.dead_letters())[0]["responseBody"]
    assert "Upstash-Hops" in answer_to_it
    assert "goes round in circles" in answer_to_it


async def test_a_circle_of_callbacks_ends(server: Running, receiver: Receiver) -> None:
    async with load_balancer(server) as url:
        back = f"{url}/v2/publish/circle?qstash_token={TOKEN}&upstash-callback-hops=0&upstash-hops=0"
        await group(server, "circle", receiver.url("/work"), {"Upstash-Callback": [back]})
        assert (await server.http.post("/v2/publish/circle")).is_success
        await eventually(lambda: server.events(state="FAILED"), lambda events: len(events) == 1)
    assert [one.header("Upstash-Hops") for one in receiver.requests("/work")] == [None, *map(str, range(1, 9))]


async def test_every_way_in_inherits_the_hops_of_the_delivery_that_came_back(
    server: Running, receiver: Receiver
) -> None:
    ours = {"Upstash-Message-Id": "msg_x", "Upstash-Hops": "2"}
    await server.publish(receiver.url("/publish"), **ours)
    await server.http.post(f"/v2/enqueue/q/{receiver.url('/enqueue')}", headers=ours)
    await server.http.post("/v2/batch", content=json.dumps([{"destination": receiver.url("/batch")}]), headers=ours)
    cron = {"Upstash-Cron": "* * * * *"}
    await server.http.post(f"/v2/schedules/{receiver.url('/schedule')}", headers=ours | cron)
    await server.time_passes(timedelta(minutes=1))
    for way in ("/publish", "/enqueue", "/batch", "/schedule"):
        assert (await receiver.next_request(way)).header("Upstash-Hops") == "3", way


async def test_nobody_sets_hops_back(server: Running, receiver: Receiver) -> None:
    hops = {"Upstash-Message-Id": "msg_x", "Upstash-Hops": "5", "Upstash-Forward-Upstash-Hops": "0"}
    await server.publish(f"{receiver.url()}?upstash-hops=0", **hops)
    assert (await receiver.next_request()).header("Upstash-Hops") == "6"
    target = {"Upstash-Callback": receiver.url("/callback"), "Upstash-Callback-Hops": "3"}
    twice = [("Upstash-Hops", "5"), ("Upstash-Hops", "0"), *target.items()]
    assert (await server.http.post(f"/v2/publish/{receiver.url('/twice')}", headers=twice)).is_success
    for path in ("/twice", "/callback"):
        received = await receiver.next_request(path)
        assert [value for name, value in received.headers if name.lower() == "upstash-hops"] == ["5"], path


async def test_an_ordinary_message_has_no_hops(server: Running, receiver: Receiver) -> None:
    await server.publish(receiver.url())
    assert (await receiver.next_request()).header("Upstash-Hops") is None


@pytest.mark.parametrize("hops", ["9", "-1", "x", "1" * 100, "٣"])
async def test_hops_beyond_the_most_are_refused(server: Running, receiver: Receiver, hops: str) -> None:
    answer = await server.http.post(f"/v2/publish/{receiver.url()}", headers=[(b"Upstash-Hops", hops.encode())])
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("invalid Upstash-Hops: ")
