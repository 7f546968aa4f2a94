"""Kill the server in the middle of its work: everything that was acknowledged arrives."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import TOKEN, eventually
from tests.moods import hold, ok
from tests.receiver import Receiver

POSTROAD = Path(sys.executable).parent / "postroad"


class Process:
    """`postroad dev` as a process of its own, with its PostgreSQL in a data directory."""

    def __init__(self, data_dir: Path, **settings: str) -> None:
        self._data_dir = data_dir
        self._settings = settings
        self.url = ""

    async def start(self) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("POSTROAD_")}
        self.process = await asyncio.create_subprocess_exec(
            str(POSTROAD), "dev", "--port", "0", "--data-dir", str(self._data_dir),
            env=environment | self._settings, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        assert self.process.stdout is not None
        while line := (await self.process.stdout.readline()).decode():
            if found := re.search(r"running at (http://\S+)", line):
                self.url = found[1]
                return
        pytest.fail("the server did not start")

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()

    async def stop(self) -> int:
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        return await self.process.wait()

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=self.url,
            headers={"Authorization": f"Bearer {TOKEN}"},
            timeout=30,
            limits=httpx.Limits(max_connections=100, max_keepalive_connections=100),
        )


@pytest.fixture
def data_dir() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="postroad-kill-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


async def publish(client: httpx.AsyncClient, url: str, first: int, count: int) -> list[str]:
    gate = asyncio.Semaphore(64)

    async def one(n: int) -> str:
        async with gate:
            answer = await client.post(f"/v2/publish/{url}", content=f"{n}", headers={"Upstash-Retry-Delay": "0"})
        assert answer.status_code == 201
        message_id: str = answer.json()["messageId"]
        return message_id

    return list(await asyncio.gather(*(one(n) for n in range(first, first + count))))


async def test_after_kill_9_every_acknowledged_message_arrives(data_dir: Path, receiver: Receiver) -> None:
    """2,000 acknowledged and unfinished: some on the wire, some waiting. Only what was on the wire may come twice."""
    gate = asyncio.Event()
    receiver.script("/", hold(gate, ok()))
    server = Process(data_dir)
    await server.start()
    async with server.client() as client:
        ids = await publish(client, receiver.url(), 0, 2_000)
    on_the_wire = {request.header("Upstash-Message-Id") for request in receiver.requests()}

    await server.kill()
    gate.set()
    await server.start()

    async with server.client() as client:

        async def unfinished() -> int:
            answer = await client.get("/v2/events", params={"state": "DELIVERED", "count": 1})
            assert answer.status_code == 200
            return len(set(ids) - {request.header("Upstash-Message-Id") for request in receiver.requests()})

        await eventually(unfinished, lambda left: left == 0, within=60)
    assert await server.stop() == 0

    times = Counter(request.header("Upstash-Message-Id") for request in receiver.requests())
    assert set(times) == set(ids)
    twice = {message_id for message_id, n in times.items() if n > 1}
    assert twice <= on_the_wire
    assert max(times.values()) <= 2


async def test_a_kill_in_mid_publish_loses_no_acknowledgement(data_dir: Path, receiver: Receiver) -> None:
    server = Process(data_dir)
    await server.start()
    acknowledged: list[str] = []

    async def publisher(client: httpx.AsyncClient) -> None:
        while True:
            try:
                answer = await client.post(f"/v2/publish/{receiver.url()}", content=b"x")
            except httpx.TransportError:
                return
            if answer.status_code == 201:
                acknowledged.append(answer.json()["messageId"])

    async with server.client() as client:
        publishers = [asyncio.create_task(publisher(client)) for _ in range(32)]
        await receiver.wait_for(300)
        await server.kill()
        await asyncio.gather(*publishers)
    await server.start()

    async def missing() -> set[str]:
        return set(acknowledged) - {request.header("Upstash-Message-Id") or "" for request in receiver.requests()}

    await eventually(missing, lambda left: not left, within=60)
    assert await server.stop() == 0


async def test_a_term_signal_stops_cleanly_and_leaves_nothing_behind(data_dir: Path, receiver: Receiver) -> None:
    server = Process(data_dir)
    await server.start()
    async with server.client() as client:
        ids = await publish(client, receiver.url(), 0, 200)

    code = await server.stop()

    assert code == 0
    await server.start()
    async with server.client() as client:
        await eventually(
            lambda: client.get("/v2/events", params={"state": "DELIVERED"}),
            lambda answer: len(answer.json()["events"]) == 200,
        )
        assert (await client.get("/v2/events", params={"state": "ERROR"})).json() == {"events": []}
    await server.stop()
    assert Counter(request.header("Upstash-Message-Id") for request in receiver.requests()) == Counter(ids)
