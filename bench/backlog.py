"""What millions of waiting messages cost, and a snapshot that is held: `python -m bench.backlog`."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from http.client import HTTPConnection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID

import asyncpg
import psutil
from bench.claims import claims, quantile, steady
from bench.programs import POSTROAD, READY, BenchError, Program, Sink, compiled, load
from bench.report import Report, Samples, machine_facts, show_facts
from bench.sample import TOKEN
from bench.scenarios import Node, end_to_end, idle, prepare

from postroad.domain.ids import message_text
from postroad.store import deliveries, embedded
from postroad.store.engine import Database

T = TypeVar("T")
Timings = dict[str, list[float]]

_STEP = 250_000
_DESTINATIONS = 1_000
_SMALL = 100_000
_LETTERS = 10_000
_CALLS = 60
_CLAIM_MS, _RSS_MIB, _API_MS, _PUBLISH_RATIO, _DRAIN_RATIO = 20.0, 300.0, 200.0, 2.0, 0.95
_PAST, _FAR = timedelta(hours=-2), timedelta(days=30)
_OLD, _FRESH = "statistics of an empty table", "fresh statistics"
_EMPTY, _LIGHT = "light load, empty table", "light load beside what waits"
_EMPTY_BURST, _BURST = "as fast as it goes, empty table", "as fast as it goes beside what waits"
_RATE, _IDLE = "delivered/s", "CPU of python, %"
_PUBLISH, _RSS = "publish p99, ms", "memory (RSS) of python, MiB"

# $1 to $2 numbers, $3 URL, $4 when the first of an hour's are due, $5 destinations, $6 flow-control key or null.
_LOAD = """
with numbers as materialized (select n, uuidv7() as id from generate_series($1::bigint, $2::bigint) as n),
stored as (
  insert into messages (id, tenant_id, url, body, options)
  select id, 1, $3::text, convert_to(format('{"n":%s,"pad":"%s"}', n, repeat('x', 64)), 'UTF8'), '{"retries": 3}'
  from numbers)
insert into deliveries (id, tenant_id, state, due_at, destination, flow_key_id)
select id, 1, 1, now() + $4::interval + (n % 3600) * interval '1 s', n % $5::bigint, $6::bigint from numbers
"""
_BURY = """
with buried as materialized (select uuidv7() as id from generate_series(1, $1::int)),
stored as (insert into messages (id, tenant_id, url, body, options)
  select id, 1, $2::text, 'gone', '{"retries": 0}' from buried)
insert into dead_letters (tenant_id, message_id, status, reason) select 1, id, 500, 'failed' from buried
"""
_SOME = """
select array(select id from (
  (select id from deliveries where due_at > now() + interval '1 day' limit $1::int)
  union all (select message_id from dead_letters limit $1::int)) as found limit $1::int)
"""
_PAUSED_KEY = "insert into flow_keys (tenant_id, key, parallelism, paused) values (1, 'paused', 1, true) returning id"
_AUTOVACUUM = """
do $$ declare one text; begin
  for one in select relname from pg_class where relkind = 'r' and relname ~ '^(deliveries|messages_.*)$' loop
    execute format('alter table %I set (autovacuum_enabled = SWITCH)', one);
  end loop; end $$
"""


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured."""

    messages: int
    seconds: float
    held_s: float
    rounds: int
    claims: int = 150
    rate: int = 200
    held_rate: int = 1_000
    burst: int = 20_000


def main() -> None:
    """Measure, or say in one sentence why not."""
    options = argparse.ArgumentParser(prog="python -m bench.backlog", description=__doc__)
    options.add_argument("--messages", type=int, default=1_000_000)
    options.add_argument("--seconds", type=float, default=5.0, help="of each light load and each drain")
    options.add_argument("--rounds", type=int, default=3, help="of what is measured in turn")
    options.add_argument("--held", type=float, default=60.0, help="seconds that a snapshot is held open")
    options.add_argument("--only", choices=("backlog", "snapshot"))
    given = options.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("bench: stopped"))  # so that nothing is left behind
    scale = Scale(messages=given.messages, seconds=given.seconds, held_s=given.held, rounds=given.rounds)
    report = Report()
    try:
        for name in ("load", "sink"):
            compiled(name)
        with _server() as (server, directory):
            facts = machine_facts(directory)
            show_facts(facts)
            with Sink(directory / "sink.log") as sink:
                bench = Backlog(server, directory, sink, report, scale)
                if given.only != "snapshot":
                    bench.run()
                if given.only != "backlog":
                    bench.snapshot()
    except BenchError as error:
        sys.exit(f"bench: {error}")
    print(f"\nevery sample is in {report.write(facts, asdict(scale))}")


@contextmanager
def _server() -> Iterator[tuple[embedded.EmbeddedPostgres, Path]]:
    """A PostgreSQL in memory: ten million messages on a slow disk would say more about the disk."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(prefix="postroad-bench-", dir=memory if memory.is_dir() else None) as name:
        Path(name).chmod(0o711)
        directory = Path(name).resolve()
        server = embedded.start(directory / "data", extra_settings={"max_wal_size": "1GB"})
        try:
            yield server, directory
        finally:
            embedded.stop(server)


class Backlog:
    """A database that fills up, a small one beside it, and what is measured of both in turn."""

    def __init__(
        self, server: embedded.EmbeddedPostgres, directory: Path, sink: Sink, report: Report, scale: Scale
    ) -> None:
        self._postmaster = server.pid
        self._full = server.url
        self._small = urlunsplit(urlsplit(server.url)._replace(path="/small"))
        self._directory = directory
        self._sink = sink
        self._report = report
        self._scale = scale
        self._loaded = 0

    def run(self) -> None:
        """First with the statistics of an empty table, then with fresh ones."""
        quarter = self._scale.messages // 4
        asyncio.run(_create(self._full, "small"))
        for url in (self._full, self._small):
            prepare(url, self._directory / "migrate.log")
            self._execute(url, _BURY, _LETTERS, self._sink.url)
            self._execute(url, "analyze")
        self._execute(self._full, _AUTOVACUUM.replace("SWITCH", "off"))
        self._load(self._full, "delayed", 2 * quarter, due=_FAR)
        key = self._execute(self._full, _PAUSED_KEY)
        self._load(self._full, "under a paused key", quarter, due=_PAST, flow_key=key)
        for _ in range(self._scale.rounds):
            self._report.add(_EMPTY, self._light(self._small))
            self._report.add(_LIGHT, self._light(self._full))
            self._report.add(_EMPTY_BURST, self._burst(self._small))
            self._report.add(_BURST, self._burst(self._full))
        for name in (_EMPTY, _LIGHT, _EMPTY_BURST, _BURST):
            self._report.show(name)
        self._load(self._full, "due", max(quarter, 3 * _SMALL), due=_PAST)
        self._measure_due(_OLD)
        self._show("vacuum", self._vacuum())
        self._execute(self._full, _AUTOVACUUM.replace("SWITCH", "on"))
        self._measure_due(_FRESH)
        self._goals()

    def _measure_due(self, name: str) -> None:
        """Claims of the two, then drains, in turn: the machine's moods hit both."""
        self._load(self._small, "due in the small one", _SMALL, due=_PAST)
        for where, url in (("small", self._small), ("full", self._full)):
            self._show(f"claims, {where}, {name}", self._on(url, lambda one: claims(one, self._scale.claims)))
        for _ in range(self._scale.rounds):
            self._load(self._small, "due in the small one", _SMALL // 2, due=_PAST)
            for where, url in (("small", self._small), ("full", self._full)):
                self._report.add(f"drain, {where}, {name}", self._drain(url))
        self._report.show(f"drain, small, {name}")
        self._report.show(f"drain, full, {name}")

    def _goals(self) -> None:
        """Each goal, and whether it was reached."""
        median = self._report.median
        checks = [("publish p99, beside / empty", median(_LIGHT, _PUBLISH) / median(_EMPTY, _PUBLISH), _PUBLISH_RATIO)]
        checks.append(("end to end, empty / beside", median(_EMPTY_BURST, _RATE) / median(_BURST, _RATE), 1 / 0.9))
        checks += [
            (f"{what}, beside what waits", median(_BURST, what), most)
            for what, most in ((_IDLE, 1.0), (_RSS, _RSS_MIB))
        ]
        for name in (_OLD, _FRESH):
            rate = median(f"drain, small, {name}", "delivered/s") / median(f"drain, full, {name}", "delivered/s")
            checks += [
                (f"claim p99, ms, {name}", median(f"claims, full, {name}", "claim p99, ms"), _CLAIM_MS),
                (f"fair claim p99, ms, {name}", median(f"claims, full, {name}", "fair claim p99, ms"), _CLAIM_MS),
                (f"RSS, MiB, {name}", median(f"drain, full, {name}", _RSS), _RSS_MIB),
                (f"drain, small / full, {name}", rate, 1 / _DRAIN_RATIO),
            ]
        calls = [name for name in self._report.sections[_LIGHT] if name.startswith(("GET", "DELETE"))]
        checks += [(name, median(_LIGHT, name), _API_MS) for name in calls]
        print("\ngoals")
        for what, value, most in checks:
            word = "kept" if value <= most else "MISSED"
            print(f"  {what:<56}{value:>10.2f}   at most {most:.2f}, {word}", flush=True)

    def snapshot(self) -> None:
        """Traffic through the product's own statements, before, while and after a snapshot is held open."""
        asyncio.run(_create(self._full, "held"))
        url = urlunsplit(urlsplit(self._full)._replace(path="/held"))
        prepare(url, self._directory / "migrate.log")
        self._on(
            url, lambda one: steady(one, self._scale.held_rate, self._scale.held_s, self._show, url, self._sink.url)
        )

    def _light(self, url: str) -> Samples:
        """A light load on a node that has nothing else to do, and what readers wait for."""
        scale = self._scale
        self._sink.reset()
        with self._node(url, "api,dispatcher") as node:
            address = node.ready(READY)
            publish = f"{address}/v2/publish/{self._sink.url}"
            load(publish, TOKEN, count=200, rate=scale.rate)
            seen = load(publish, TOKEN, count=int(scale.rate * scale.seconds), rate=scale.rate)
            arrived = self._sink.arrived()
            calls = self._calls(url, address)
            rss = psutil.Process(node.pid).memory_info().rss / 2**20
        samples = {"publish p50, ms": seen.p50, _PUBLISH: seen.p99}
        samples |= {"delivery p50, ms": arrived.p50, "delivery p99, ms": arrived.p99}
        return {**samples, **calls, _RSS: rss}

    def _burst(self, url: str) -> Samples:
        """From publisher to receiver as fast as it goes, and what the node costs when that is over."""
        self._sink.reset()
        with self._node(url, "api,dispatcher") as program:
            node = Node(program.ready(READY), program.pid, self._postmaster)
            load(node.publish_url(self._sink), TOKEN, count=self._scale.burst // 10)
            self._sink.await_all(self._scale.burst // 10)
            samples = end_to_end(node, self._sink, self._scale.burst)
            rss = psutil.Process(program.pid).memory_info().rss / 2**20
            return {**samples, **idle(node, self._sink, self._scale.seconds), _RSS: rss}

    def _calls(self, database_url: str, address: str) -> Samples:
        """What lists, a look at one message and a cancellation take, p99."""
        found = self._execute(database_url, _SOME, _CALLS)
        assert isinstance(found, list)
        ids = [message_text(UUID(str(one))) for one in found]
        url = self._sink.url
        places = {
            "GET /v2/messages/{id}": [("GET", f"/v2/messages/{one}") for one in ids],
            "GET /v2/events": [("GET", "/v2/events?count=100")] * _CALLS,
            "GET /v2/events, one state": [("GET", "/v2/events?count=100&state=CREATED")] * _CALLS,
            "GET /v2/events, one URL": [("GET", f"/v2/events?count=100&url={url}")] * _CALLS,
            "GET /v2/logs": [("GET", "/v2/logs?count=100")] * _CALLS,
            "GET /v2/dlq": [("GET", "/v2/dlq?count=100")] * _CALLS,
            "GET /v2/dlq, one URL": [("GET", f"/v2/dlq?count=100&url={url}")] * _CALLS,
            "GET /v2/flowControl": [("GET", "/v2/flowControl")] * _CALLS,
            "DELETE /v2/messages/{id}": [("DELETE", f"/v2/messages/{one}") for one in ids],
        }
        return {f"{name}, p99, ms": quantile(_timed_calls(address, calls), 0.99) for name, calls in places.items()}

    def _drain(self, url: str) -> Samples:
        """A dispatcher delivers what is due for some seconds."""
        self._sink.reset()
        with self._node(url, "dispatcher") as node:
            node.ready()
            process = psutil.Process(node.pid)
            began = time.monotonic()
            while not self._sink.arrived().count:
                if time.monotonic() - began > 60:
                    raise BenchError("nothing was delivered within a minute")
                time.sleep(0.01)
            waited = time.monotonic() - began
            time.sleep(1.0)
            first, count, most = time.perf_counter(), self._sink.arrived().count, 0.0
            while time.perf_counter() - first < self._scale.seconds:
                time.sleep(0.2)
                most = max(most, process.memory_info().rss / 2**20)
            rate = (self._sink.arrived().count - count) / (time.perf_counter() - first)
        if not self._on(url, _is_due):
            raise BenchError("all that was due was delivered before the time was over: store more messages")
        return {"delivered/s": rate, "until the first arrives, s": waited, _RSS: most}

    def _vacuum(self) -> Samples:
        """A vacuum by hand, as autovacuum does it sooner or later, while claims go on."""

        async def both(database: Database) -> Samples:
            vacuuming = asyncio.create_task(_timed_vacuum(self._full))
            claimed = await claims(database, 20, go_on=lambda: not vacuuming.done())
            return {"vacuum (analyze), s": await vacuuming, **claimed}

        return self._on(self._full, both)

    def _load(self, url: str, name: str, count: int, *, due: timedelta, flow_key: object = None) -> None:
        async def store(database: Database) -> None:
            connection = await asyncpg.connect(url)
            for start in range(0, count, _STEP):
                first = self._loaded
                self._loaded += min(count - start, _STEP)
                given = (first, self._loaded - 1, self._sink.url, due, _DESTINATIONS, flow_key)
                await connection.execute(_LOAD, *given, timeout=600)
            await connection.close()

        began = time.perf_counter()
        self._on(url, store)
        print(f"\n{count:,} {name}: stored in {time.perf_counter() - began:.1f} s", flush=True)

    def _execute(self, url: str, query: str, *arguments: object) -> object:
        """Run one statement of our own; gives its first value."""

        async def execute(database: Database) -> object:
            async with database.transaction() as connection:
                value: object = await connection.fetchval(query, *arguments)
                return value

        return self._on(url, execute)

    def _node(self, url: str, roles: str) -> Program:
        return Program(
            [POSTROAD, "serve", "--port", "0", "--roles", roles],
            self._directory / "node.log",
            POSTROAD_DATABASE_URL=url,
            POSTROAD_ALLOW_DEV_CREDENTIALS="true",
            POSTROAD_DESTINATIONS="any",
            POSTROAD_LOG_FORMAT="text",
            POSTROAD_MAX_CALLS_PER_SECOND="0",
        )

    def _on(self, url: str, work: Callable[[Database], Awaitable[T]]) -> T:
        """Do something on a few connections of our own."""

        async def do() -> T:
            database = await Database.connect(url, connections=4)
            try:
                return await work(database)
            finally:
                await database.close()

        return asyncio.run(do())

    def _show(self, section: str, samples: Samples) -> None:
        self._report.add(section, samples)
        self._report.show(section)


async def _create(url: str, name: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(f"create database {name}")
    await connection.close()


async def _is_due(database: Database) -> bool:
    async with database.connection() as connection:
        return (await deliveries.look_ahead(connection)).is_due


def _timed_calls(address: str, calls: Sequence[tuple[str, str]]) -> list[float]:
    at, taken = urlsplit(address), []
    connection = HTTPConnection(at.hostname or "", at.port, timeout=30)
    for method, path in calls:
        began = time.perf_counter()
        connection.request(method, path, headers={"Authorization": f"Bearer {TOKEN}"})
        answer = connection.getresponse()
        words = answer.read()
        taken.append((time.perf_counter() - began) * 1000)
        if answer.status not in (200, 202, 404):
            raise BenchError(f"{method} {path} was answered with {answer.status}: {words[:200]!r}")
    connection.close()
    return taken


async def _timed_vacuum(url: str) -> float:
    connection = await asyncpg.connect(url)
    began = time.perf_counter()
    await connection.execute("vacuum (analyze) deliveries", timeout=3600)
    await connection.execute("analyze messages", timeout=3600)
    await connection.close()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
