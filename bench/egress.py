"""CPU time of one `Egress.send` on kept-alive connections over loopback: `python -m bench.egress --help`."""

from __future__ import annotations

import argparse
import asyncio
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvloop

from postroad.dispatch.egress import Egress, OutgoingRequest
from postroad.domain.destination import parse_url
from postroad.domain.network import parse_policy
from postroad.domain.reply import Response
from postroad.resolver import Resolver

SINK = Path(__file__).parent / "tools" / "sink.c"

# What a delivery sends, in length and number; the signature is the long one.
HEADERS = [
    ("User-Agent", "Upstash-QStash"),
    ("Content-Type", "application/json"),
    ("Upstash-Message-Id", f"msg_{'7' * 44}"),
    ("Upstash-Retried", "0"),
    ("Upstash-Signature", f"eyJ{'a' * 420}"),
    ("Upstash-Caller-Ip", "127.0.0.1"),
]


@contextmanager
def sink() -> Iterator[int]:
    """The C receiver on a free port, compiled on the spot."""
    with tempfile.TemporaryDirectory() as directory:
        program = Path(directory) / "sink"
        subprocess.run(["gcc", "-O2", "-o", program, SINK], check=True)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = int(probe.getsockname()[1])
        process = subprocess.Popen([program, "--port", str(port)])
        try:
            _wait_for(port)
            yield port
        finally:
            process.terminate()
            process.wait()


def _wait_for(port: int) -> None:
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except ConnectionRefusedError:
            time.sleep(0.01)
        else:
            return
    raise TimeoutError(f"the sink does not listen on port {port}")


async def measure(port: int, *, requests: int, concurrency: int, body_bytes: int) -> tuple[float, float]:
    """Microseconds of CPU for each request, and requests for each second."""
    egress = Egress(Resolver(parse_policy("any")))
    request = OutgoingRequest(parse_url(f"http://127.0.0.1:{port}/hook"), "POST", HEADERS, b"x" * body_bytes, 30.0)

    async def sender(count: int) -> None:
        for _ in range(count):
            reply = await egress.send(request)
            if not isinstance(reply, Response) or reply.status != 200:
                raise RuntimeError(f"the sink answered {reply}")

    async def senders(count: int) -> None:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(concurrency):
                tasks.create_task(sender(count // concurrency))

    await senders(concurrency * 20)
    cpu, wall = time.process_time(), time.perf_counter()
    await senders(requests)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    await egress.close()
    return cpu / requests * 1e6, requests / wall


def main() -> None:
    """Print one line a round and the median."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--requests", type=int, default=100_000)
    options.add_argument("--concurrency", type=int, default=32)
    options.add_argument("--body-bytes", type=int, default=1024)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--loop", choices=("uvloop", "asyncio"), default="uvloop")
    chosen = options.parse_args()
    costs = []
    with sink() as port:
        for _ in range(chosen.rounds):
            with asyncio.Runner(loop_factory=uvloop.new_event_loop if chosen.loop == "uvloop" else None) as runner:
                cost, rate = runner.run(
                    measure(
                        port,
                        requests=chosen.requests,
                        concurrency=chosen.concurrency,
                        body_bytes=chosen.body_bytes,
                    )
                )
            costs.append(cost)
            print(f"{cost:6.2f} µs CPU a request   {rate:9,.0f} requests/s")
    print(f"{statistics.median(costs):6.2f} µs CPU a request, median of {chosen.rounds} rounds on {chosen.loop}")


if __name__ == "__main__":
    main()
