"""What each feature costs: batches, queues, flow control, retries, callbacks, groups, sizes, TLS, and delays."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.request import Request, urlopen

from bench.programs import BenchError, Publish, Sink, load
from bench.report import Report, Samples
from bench.sample import TOKEN
from bench.scenarios import CALLERS, Node, burst

PLAIN = "plain publishes"
ENDPOINTS = 10
_QUEUES = 256
_KEYS = 64
_BATCH = 100
_CALLBACK_EVERY = 10
_PUNCTUAL_RATE = 50
_DELAY_S = 5
_AHEAD_S = 4.0
_STORED_A_SECOND = 1_000
"""Delayed messages are given the time that storing them takes at this rate, and so much more."""


@dataclass(frozen=True, slots=True)
class Feature:
    """A burst of messages that use it. `share` is how many of the plain burst's messages are enough."""

    name: str
    publish: Callable[[Sink], Publish]
    share: float = 1.0
    each: int = 1
    others_every: int = 0
    failing_percent: float = 0.0

    def measure(self, node: Node, sink: Sink, count: int) -> Samples:
        """One repetition."""
        count = max(_BATCH, int(count * self.share) // _BATCH * _BATCH)
        others = count // self.others_every if self.others_every else 0
        publish = self.publish(sink)
        return burst(
            node, sink, count, publish, each=self.each, others=others, failing_percent=self.failing_percent
        )  # fmt: skip


def _with(*headers: str, path: str = "/v2/publish/", **given: object) -> Callable[[Sink], Publish]:
    def publish(sink: Sink) -> Publish:
        return Publish(f"{path}{sink.url}", headers, **given)  # type: ignore[arg-type]  # as they are named there

    return publish


def _calling_back(sink: Sink) -> Publish:
    return Publish(f"/v2/publish/{sink.url}", some=(f"Upstash-Callback: {sink.url}/called-back", _CALLBACK_EVERY))


def _everything(sink: Sink) -> Publish:
    """Limits, labels, forwarded headers and retries on each message, a callback on some."""
    headers = (
        "Upstash-Flow-Control-Key: all-@@@@", "Upstash-Flow-Control-Value: parallelism=20, rate=10000, period=1s",
        "Upstash-Label: invoices", "Upstash-Forward-X-Trace-Id: 4bf92f3577b34da6", "Upstash-Retries: 5",
        "Upstash-Timeout: 30s",
    )  # fmt: skip
    some = (f"Upstash-Callback: {sink.url}/called-back", _CALLBACK_EVERY)
    return Publish(f"/v2/publish/{sink.url}", headers, keys=_KEYS, some=some)


FEATURES = (
    Feature(PLAIN, _with()),
    Feature(
        f"batches of {_BATCH}",
        lambda sink: Publish("/v2/batch", batch=_BATCH, destination=sink.url),
    ),
    Feature(f"FIFO: {_QUEUES} queues", _with(path="/v2/enqueue/q@@@@/", keys=_QUEUES)),
    Feature("FIFO: one queue, one at a time", _with(path="/v2/enqueue/single/"), share=0.1),
    Feature(
        f"flow control: {_KEYS} keys, parallelism and rate",
        _with(
            "Upstash-Flow-Control-Key: k@@@@",
            "Upstash-Flow-Control-Value: parallelism=20, rate=10000, period=1s",
            keys=_KEYS,
        ),
    ),
    Feature(
        "retries: one attempt in ten fails",
        _with("Upstash-Retry-Delay: 100", "Upstash-Retries: 10"),
        failing_percent=10.0,
    ),
    Feature("callbacks: one message in ten", _calling_back, others_every=_CALLBACK_EVERY),
    Feature("all of that together", _everything, others_every=_CALLBACK_EVERY),
    Feature(f"URL group of {ENDPOINTS} endpoints", lambda _: Publish("/v2/publish/bench"), share=0.2, each=ENDPOINTS),
    Feature("bodies of 64 KB", _with(size=64 * 1024), share=0.1),
    Feature("bodies of 1 MB", _with(size=1024 * 1024), share=0.01),
)


def measure(report: Report, node: Node, sink: Sink, *, count: int, times: int) -> None:
    """All features in turns, so that what the machine does meanwhile falls on all of them alike; then the delays."""
    _make_group(node, sink)
    for feature in FEATURES:
        feature.measure(node, sink, count // 20)
    for _ in range(times):
        for feature in FEATURES:
            report.add(feature.name, feature.measure(node, sink, count))
    for feature in FEATURES:
        report.show(feature.name)
    report.measure(f"{count // 2:,} messages due at once", lambda: due_at_once(node, sink, count // 2), times)
    report.measure(f"a delay of {_DELAY_S} s at {_PUNCTUAL_RATE}/s", lambda: delayed(node, sink), times)


def ratios(report: Report) -> dict[str, float]:
    """What each feature delivers of the plain rate."""
    plain = report.median(PLAIN, "delivered/s")
    return {
        f"delivered/s, {one.name}, to plain": report.median(one.name, "delivered/s") / plain for one in FEATURES[1:]
    }


def due_at_once(node: Node, sink: Sink, count: int) -> Samples:
    """Messages that were stored before, and all fall due in the same second."""
    sink.reset()
    node.quiet()
    due = int(time.time() + count / _STORED_A_SECOND + _AHEAD_S)
    load(
        node.address, TOKEN, count=count, callers=CALLERS,
        publish=Publish(f"/v2/publish/{sink.url}", (f"Upstash-Not-Before: {due}",)),
    )  # fmt: skip
    if time.time() > due:
        raise BenchError("the delayed messages were not stored in time: nothing was measured")
    arrived = sink.await_all(count)
    return {
        "first sent after, s": arrived.first - due,
        "last sent after, s": arrived.last - due,
        "delivered/s": arrived.per_second,
    }


def delayed(node: Node, sink: Sink) -> Samples:
    """How late messages are sent whose delay has passed; the publish itself is part of that."""
    sink.reset()
    node.quiet()
    count = _PUNCTUAL_RATE * 2 * _DELAY_S
    publish = Publish(f"/v2/publish/{sink.url}", (f"Upstash-Delay: {_DELAY_S}s",))
    load(node.address, TOKEN, count=count, callers=CALLERS, rate=_PUNCTUAL_RATE, publish=publish)
    arrived = sink.await_all(count)
    return {
        "late p50, ms": arrived.p50 - _DELAY_S * 1000,
        "late p99, ms": arrived.p99 - _DELAY_S * 1000,
        "late max, ms": arrived.worst - _DELAY_S * 1000,
    }


def _make_group(node: Node, sink: Sink) -> None:
    endpoints = [{"url": f"{sink.url}/{number}"} for number in range(ENDPOINTS)]
    asking = Request(
        f"{node.address}/v2/topics/bench/endpoints",
        json.dumps({"endpoints": endpoints}).encode(),
        {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"},
    )
    with urlopen(asking, timeout=10):
        pass
