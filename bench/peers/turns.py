"""One turn: all that is measured of Postroad, or of one peer, before the next has its turn."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.peers.orders import Driver
from bench.peers.stores import Store, Stores
from bench.programs import Arrived, Publish, Sink, load
from bench.report import Samples
from bench.sample import TOKEN
from bench.scenarios import CALLERS, Node, burst, drain, light_load, postgres, prepare, publish_only, serving
from bench.usage import Usage

LIGHT_RATE = 50
END_TO_END, ENQUEUE, DRAIN, LIGHT = "end to end", "enqueue only", "drain", f"{LIGHT_RATE}/s"
ALL_THREE = "these three"
"""Producer, worker and store: what a busy machine does not disturb."""
LOST, TWICE = "lost", "delivered more than once"
CALLBACK_EVERY = 100
"""One message in so many asks for a callback, where there is such a thing."""
_NO_PROGRESS_S = 20.0
_QUIET_WINDOW_S, _QUIET_CPU_S, _LONGEST_NOISE_S = 0.3, 0.04, 10.0


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured."""

    messages: int = 20_000
    repeat: int = 3

    @property
    def warm_up(self) -> int:
        """Messages before the first that counts: Node.js compiles what is called often."""
        return max(self.messages // 10, 500)

    @property
    def light(self) -> int:
        """Messages at LIGHT_RATE a second."""
        return max(self.messages // 40, 100)


@dataclass(frozen=True, slots=True)
class Peer:
    """A queue that Postroad is compared with: its driver and where it keeps its messages."""

    driver: Sequence[str | Path]
    store: Stores


def postroad_turn(workers: int, sink: Sink, directory: Path, scale: Scale) -> Samples:
    """The scenarios of bench.run, which raise when a message is lost or comes unsigned. Some ask for callbacks."""
    count, seconds = scale.messages, scale.light / LIGHT_RATE
    publish = Publish(f"/v2/publish/{sink.url}", some=(f"Upstash-Callback: {sink.url}", CALLBACK_EVERY))
    with postgres() as server:
        prepare(server.url, directory / "migrate.log")
        with serving(server.url, "api,dispatcher", directory / "postroad.log", workers=workers) as program:
            node = Node(program.ready(), program.pid, server.pid)
            sink.reset()
            load(node.publish_url(sink), TOKEN, count=scale.warm_up, callers=CALLERS)
            sink.await_all(scale.warm_up)
            both = burst(node, sink, count, publish, others=count // CALLBACK_EVERY)
            light = light_load(node, sink, LIGHT_RATE, seconds)
        with serving(server.url, "api", directory / "postroad-api.log", workers=workers) as program:
            node = Node(program.ready(), program.pid, server.pid)
            load(node.publish_url(sink), TOKEN, count=scale.warm_up, callers=CALLERS)
            drain(server.url, server.pid, sink, directory / "postroad-dispatcher.log", scale.warm_up)
            stored = publish_only(node, sink, count)
            drained = drain(server.url, server.pid, sink, directory / "postroad-dispatcher.log", count)
    return {
        **_renamed(END_TO_END, both),
        **_renamed(ENQUEUE, stored),
        **_renamed(DRAIN, drained),
        **_renamed(LIGHT, light),
        LOST: 0,
        TWICE: both["delivered more than once"] + drained["delivered more than once"],
    }


_NAMES = {
    "published/s": "enqueued/s",
    "delivered/s": "delivered/s",
    "accept p50, ms": "call p50, ms",
    "accept p99, ms": "call p99, ms",
    "delivery p50, ms": "latency p50, ms",
    "delivery p99, ms": "latency p99, ms",
    "CPU of load, µs/message": "CPU of producer, µs/message",
    "CPU of python, µs/message": "CPU of worker, µs/message",
    "CPU of postgres, µs/message": "CPU of store, µs/message",
    "CPU of sink, µs/message": "CPU of sink, µs/message",
    "CPU of whole machine, µs/message": "CPU of whole machine, µs/message",
}
"""What bench.run calls it, and what it is called here."""


def _renamed(section: str, samples: Mapping[str, float]) -> Samples:
    renamed = {f"{section}, {ours}": samples[theirs] for theirs, ours in _NAMES.items() if theirs in samples}
    parts = [renamed.get(f"{section}, CPU of {part}, µs/message", 0.0) for part in ("producer", "worker", "store")]
    return renamed | ({f"{section}, CPU of {ALL_THREE}, µs/message": sum(parts)} if any(parts) else {})


def peer_turn(name: str, peer: Peer, sink: Sink, directory: Path, scale: Scale) -> Samples:
    """The same of a peer. What is lost is counted."""
    with (
        peer.store(directory) as store,
        _running(name, "producer", peer, store, directory) as producer,
        _running(name, "worker", peer, store, directory) as worker,
    ):
        return _Turn(producer, worker, store, sink).measure(scale)


@contextmanager
def _running(name: str, part: str, peer: Peer, store: Store, directory: Path) -> Iterator[Driver]:
    """A driver that is ready, whose complaints belong into what people see."""
    with Driver(peer.driver, directory / f"{name}-{part}.log", **store.variables) as driver:
        driver.ready("ready")  # the first makes the schema, so the second starts after this
        yield driver
        if complaints := driver.complaints():
            print(f"\nthe {part} of {name} wrote {len(complaints)} lines, the first: {complaints[0]}", flush=True)


@dataclass(frozen=True, slots=True)
class _Spent:
    """Seconds of CPU until now, or between two instants."""

    producer: float
    worker: float
    store: float
    sink: float
    machine: float

    def since(self, before: _Spent) -> _Spent:
        return _Spent(
            self.producer - before.producer,
            self.worker - before.worker,
            self.store - before.store,
            self.sink - before.sink,
            self.machine - before.machine,
        )

    def each(self, section: str, count: int, *, idle: Sequence[str] = ()) -> dict[str, float]:
        """Microseconds a message, without those that have no part in it."""
        named = {
            "producer": self.producer,
            "worker": self.worker,
            "store": self.store,
            "sink": self.sink,
            ALL_THREE: self.producer + self.worker + self.store,
            "whole machine": self.machine,
        }
        return {
            f"{section}, CPU of {name}, µs/message": spent / count * 1e6
            for name, spent in named.items()
            if name not in idle
        }


class _Turn:
    """The two programs of a peer, its store and the sink."""

    def __init__(self, producer: Driver, worker: Driver, store: Store, sink: Sink) -> None:
        self._producer, self._worker, self._store, self._sink = producer, worker, store, sink
        self._lost = self._twice = 0

    def measure(self, scale: Scale) -> Samples:
        """All sections, in the order in which Postroad has them."""
        self._worker.order("start")
        self._sink.reset()
        self._producer.order("burst", self._sink.url, scale.warm_up, CALLERS)
        self._arrivals(scale.warm_up)
        samples = self._end_to_end(scale.messages) | self._light(scale.light)
        self._worker.order("stop")
        samples |= self._enqueue(scale.messages) | self._drain(scale.messages)
        self._worker.order("stop")
        return {**samples, LOST: self._lost, TWICE: self._twice}

    def _end_to_end(self, count: int) -> dict[str, float]:
        before = self._begin()
        self._producer.tell("burst", self._sink.url, count, CALLERS)
        arrived, used = self._end(count, before)
        return {
            f"{END_TO_END}, enqueued/s": self._producer.answer()["per_second"],
            f"{END_TO_END}, delivered/s": arrived.per_second,
            **used.each(END_TO_END, count),
        }

    def _light(self, count: int) -> dict[str, float]:
        before = self._begin()
        self._producer.tell("steady", self._sink.url, count, LIGHT_RATE)
        arrived, _ = self._end(count, before)
        return {f"{LIGHT}, latency p50, ms": arrived.p50, f"{LIGHT}, latency p99, ms": arrived.p99}

    def _enqueue(self, count: int) -> dict[str, float]:
        """Nobody takes messages; those of this section are left for the next."""
        before = self._begin()
        told = self._producer.order("burst", self._sink.url, count, CALLERS)
        used = self._quiet().since(before)
        return {
            f"{ENQUEUE}, enqueued/s": told["per_second"],
            f"{ENQUEUE}, call p50, ms": told["p50"],
            f"{ENQUEUE}, call p99, ms": told["p99"],
            **used.each(ENQUEUE, count, idle=("worker", "sink")),
        }

    def _drain(self, count: int) -> dict[str, float]:
        before = self._begin()
        self._worker.order("start")
        arrived, used = self._end(count, before)
        return {f"{DRAIN}, delivered/s": arrived.per_second, **used.each(DRAIN, count, idle=("producer",))}

    def _begin(self) -> _Spent:
        self._sink.reset()
        return self._quiet()

    def _end(self, count: int, before: _Spent) -> tuple[Arrived, _Spent]:
        """What has arrived when the work is done, also what came twice, and what it took."""
        self._arrivals(count)
        used = self._quiet().since(before)
        arrived = self._sink.arrived()
        self._lost += count - arrived.unique
        self._twice += arrived.count - arrived.unique
        return arrived, used

    def _arrivals(self, count: int) -> None:
        """Return when `count` messages have arrived, or when nothing more comes.

        It asks when half of what is missing should have arrived: the sink sorts its latencies for each answer, which
        would count against those who take long.
        """
        began = since = time.monotonic()
        last = 0
        while (unique := self._sink.arrived().unique) < count:
            now = time.monotonic()
            if unique > last:
                last, since = unique, now
            elif now - since > _NO_PROGRESS_S:
                return
            expected = (count - unique) / unique * (now - began) / 2 if unique else 0.0
            time.sleep(min(max(expected, 0.05), 2.0))

    def _quiet(self) -> _Spent:
        """The CPU until now, as soon as nothing is left to do."""
        deadline, before = time.monotonic() + _LONGEST_NOISE_S, self._spent()
        while time.monotonic() < deadline:
            time.sleep(_QUIET_WINDOW_S)
            now = self._spent()
            spent = now.since(before)
            if spent.producer + spent.worker + spent.store < _QUIET_CPU_S:
                return now
            before = now
        return before

    def _spent(self) -> _Spent:
        producer = Usage.now(python=self._producer.pid)
        both = Usage.now(python=self._worker.pid, sink=self._sink.pid)
        return _Spent(producer.python, both.python, self._store.cpu_s(), both.sink, both.machine)
