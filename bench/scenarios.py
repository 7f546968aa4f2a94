"""What is done to the product, one repetition at a time."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from bench import floor
from bench.programs import POSTROAD, Program, Publish, Sink, load
from bench.report import Samples
from bench.sample import TOKEN
from bench.usage import Usage, memory_mib, quiet

from postroad import dev
from postroad.store import embedded

CALLERS = 64


@dataclass(frozen=True, slots=True)
class Node:
    """A running Postroad and the PostgreSQL that it uses."""

    address: str
    python: int
    postmaster: int

    def publish_url(self, sink: Sink) -> str:
        """Where to POST what the sink is to get."""
        return f"{self.address}/v2/publish/{sink.url}"

    def usage(self, sink: Sink) -> Usage:
        """CPU until now."""
        return Usage.now(python=self.python, postmaster=self.postmaster, sink=sink.pid)

    def quiet(self) -> None:
        """Wait until nothing is left to do."""
        quiet(python=self.python, postmaster=self.postmaster)


@contextmanager
def scratch() -> Iterator[Path]:
    """A directory that goes away. Whoever root lets PostgreSQL run as may enter it, or the data would go elsewhere."""
    with TemporaryDirectory(prefix="postroad-bench-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o711)
        yield Path(name).resolve()


@contextmanager
def postgres() -> Iterator[embedded.EmbeddedPostgres]:
    """An embedded PostgreSQL of our own, fresh, with the product's own settings."""
    with scratch() as directory:
        server = embedded.start(directory / "data")
        try:
            yield server
        finally:
            embedded.stop(server)


def dev_server(directory: Path, **variables: str) -> Program:
    """`postroad dev` with real defaults, on a free port."""
    command: list[str | Path] = [POSTROAD, "dev", "--port", "0", "--data-dir", directory / "data"]
    return Program(command, directory / "dev.log", **variables)


def serving(url: str, roles: str, log: Path, *, workers: int = 1) -> Program:
    """`postroad serve` on a database that is there already."""
    return Program(
        [POSTROAD, "serve", "--port", "0", "--roles", roles, "--workers", str(workers)],
        log,
        POSTROAD_DATABASE_URL=url,
        POSTROAD_ALLOW_DEV_CREDENTIALS="true",
        POSTROAD_DESTINATIONS="any",
        POSTROAD_LOG_FORMAT="text",
    )


def prepare(url: str, log: Path) -> None:
    """`postroad migrate`, and the users of `dev`."""
    with Program([POSTROAD, "migrate"], log, POSTROAD_DATABASE_URL=url) as migration:
        migration.ready("The schema ")
    asyncio.run(dev.prepare(url))


def bare_publish(log: Path, count: int) -> Samples:
    """The floor under everything: the same requests to an application that does nothing."""
    with Program([sys.executable, "-m", "bench.floor"], log) as program:
        url = f"{program.ready(floor.READY)}/v2/publish/nowhere"
        load(url, TOKEN, count=count // 10, callers=CALLERS)
        before = Usage.now(python=program.pid)
        accepted = load(url, TOKEN, count=count, callers=CALLERS)
        used = Usage.now(python=program.pid).since(before)
    return {
        "requests/s": accepted.per_second,
        "accept p50, ms": accepted.p50,
        "accept p99, ms": accepted.p99,
        **used.each(count, accepted.cpu_s),
    }


def end_to_end(node: Node, sink: Sink, count: int) -> Samples:
    """From the publisher's request to the destination, as fast as it goes."""
    return burst(node, sink, count, Publish(f"/v2/publish/{sink.url}"))


def burst(
    node: Node, sink: Sink, count: int, publish: Publish, *, each: int = 1, others: int = 0, failing_percent: float = 0
) -> Samples:
    """Publish as fast as it goes until all has arrived: `count` messages, `each` so many times, and `others`."""
    sink.reset(failing_percent=failing_percent)
    node.quiet()
    before = node.usage(sink)
    accepted = load(node.address, TOKEN, count=count, callers=CALLERS, publish=publish)
    arrived = sink.await_all(count, each=each, others=others)
    node.quiet()
    used = node.usage(sink).since(before)
    sink.reset()
    return {
        "published/s": accepted.per_second,
        "delivered/s": arrived.per_second,
        "accept p50, ms": accepted.p50,
        "accept p99, ms": accepted.p99,
        "delivery p50, ms": arrived.p50,
        "delivery p99, ms": arrived.p99,
        **used.each(count * each + others, accepted.cpu_s),
        "delivered more than once": arrived.count - arrived.unique * each - others,
    }


def light_load(node: Node, sink: Sink, rate: int, seconds: float) -> Samples:
    """Latency where nothing waits in line."""
    sink.reset()
    node.quiet()
    count = int(rate * seconds)
    accepted = load(node.publish_url(sink), TOKEN, count=count, callers=CALLERS, rate=rate)
    arrived = sink.await_all(count)
    return {
        "accept p50, ms": accepted.p50,
        "accept p99, ms": accepted.p99,
        "delivery p50, ms": arrived.p50,
        "delivery p99, ms": arrived.p99,
        "delivery max, ms": arrived.worst,
    }


def publish_only(node: Node, sink: Sink, count: int) -> Samples:
    """Accepted and stored while nobody delivers."""
    node.quiet()
    before = node.usage(sink)
    accepted = load(node.publish_url(sink), TOKEN, count=count, callers=CALLERS)
    node.quiet()
    used = node.usage(sink).since(before)
    return {
        "published/s": accepted.per_second,
        "accept p50, ms": accepted.p50,
        "accept p99, ms": accepted.p99,
        **used.each(count, accepted.cpu_s),
    }


def drain(url: str, postmaster: int, sink: Sink, log: Path, count: int) -> Samples:
    """A dispatcher starts and finds `count` messages stored."""
    sink.reset()
    with serving(url, "dispatcher", log) as program:
        program.ready()
        node = Node("", program.pid, postmaster)
        # Its start, imports and all, is not part of a message's cost; what it has delivered by now is left out too.
        before, delivered = node.usage(sink), sink.arrived().count
        arrived = sink.await_all(count)
        node.quiet()
        used = node.usage(sink).since(before)
    return {
        "delivered/s": arrived.per_second,
        **used.each(count - delivered),
        "delivered more than once": arrived.count - arrived.unique,
    }


def idle(node: Node, sink: Sink, seconds: float) -> Samples:
    """Nothing is published and nothing is due."""
    node.quiet()
    before = node.usage(sink)
    time.sleep(seconds)
    used = node.usage(sink).since(before)
    return {
        "CPU of python, %": used.python / used.at * 100,
        "CPU of postgres, %": (used.postgres - used.ended) / used.at * 100,
        "CPU of postgres' workers that ended (autovacuum), %": used.ended / used.at * 100,
    }


def restart(directory: Path, sink: Sink) -> Samples:
    """Start on a data directory that holds a full database, take one message, stop."""
    with dev_server(directory) as program:
        node = Node(program.ready(), program.pid, program.postmaster())
        took = time.perf_counter() - program.started_at
        sink.reset()
        load(node.publish_url(sink), TOKEN, count=1, callers=1)
        sink.await_all(1)
        memory = memory_mib(program.pid)
    return {"from spawn to ready, s": took, "memory (PSS) of python, MiB": memory}
