"""Measure Postroad beside other queues that do the same work: `python -m bench.peers --help`, and ../README.md."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path

from bench.peers import installed
from bench.peers.installed import NODE, PEERS, PYTHON
from bench.peers.stores import postgresql, redis
from bench.peers.turns import (
    ALL_THREE,
    DRAIN,
    END_TO_END,
    ENQUEUE,
    LIGHT,
    LOST,
    TWICE,
    Peer,
    Scale,
    peer_turn,
    postroad_turn,
)
from bench.programs import BenchError, Sink, compiled
from bench.report import Report, Samples, machine_facts, show_facts, source_state
from bench.scenarios import scratch

POSTROAD = {"postroad": 1, "postroad-2": 2}
"""What Postroad is called here, and how many processes it has. Every peer has two: a producer and a worker."""
PEER = {
    "bullmq-always": Peer([NODE, PEERS / "bullmq.mjs"], redis("always")),
    "bullmq-everysec": Peer([NODE, PEERS / "bullmq.mjs"], redis("everysec")),
    "pg-boss": Peer([NODE, PEERS / "pg-boss.mjs"], postgresql),
    "graphile-worker": Peer([NODE, PEERS / "graphile-worker.mjs"], postgresql),
    "procrastinate": Peer([PYTHON, "-m", "bench.peers.driver", "procrastinate"], postgresql),
    "pgqueuer": Peer([PYTHON, "-m", "bench.peers.driver", "pgqueuer"], postgresql),
}
MORE_IS_BETTER = (f"{END_TO_END}, delivered/s", f"{ENQUEUE}, enqueued/s", f"{DRAIN}, delivered/s")
LESS_IS_BETTER = (
    f"{END_TO_END}, CPU of {ALL_THREE}, µs/message",
    f"{END_TO_END}, CPU of whole machine, µs/message",
    f"{LIGHT}, latency p50, ms",
    f"{LIGHT}, latency p99, ms",
)
Turn = Callable[[Sink, Path, Scale], Samples]


def main() -> None:
    """Run everything, or say in one sentence why not."""
    scale, names = _options()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # as Ctrl-C: it ends the run by way of every `finally`
    began, report, stopped = time.monotonic(), Report(), ""
    try:
        _install(names)
        with scratch() as directory:
            facts, source = machine_facts(directory) | {"peers": installed.versions()}, source_state()
            show_facts(facts)
            print(f"beside {', '.join(' '.join(one) for one in facts['peers'].items())}")
            print(f"{scale.messages:,} messages of 1 KB, {scale.repeat} repetitions of all in turns", flush=True)
            with Sink(directory / "sink.log") as sink:
                _in_turns(report, _turns(names), sink, directory, scale)
    except BenchError as error:
        stopped = f"bench: {error}"
    except KeyboardInterrupt:
        stopped = "bench: stopped"
    if not report.sections:
        sys.exit(stopped)
    names = [name for name in names if name in report.sections]
    for name in names:
        report.show(name)
    _show_table(report, names)
    for ours in [name for name in names if name in POSTROAD]:
        _ratios(report, ours, [name for name in names if name not in POSTROAD])
    facts["edited_meanwhile"] = sorted({name for name, _ in source.items() ^ source_state().items()})
    if facts["edited_meanwhile"]:
        print(
            f"\nThese were edited during the run, which so measured a mixture: {', '.join(facts['edited_meanwhile'])}"
        )
    path = report.write(facts, asdict(scale))
    print(f"\n{time.monotonic() - began:.0f} s; every sample is in {path}")
    if stopped:
        sys.exit(stopped)  # what was measured until then is not lost


def _turns(names: list[str]) -> Mapping[str, Turn]:
    ours = {name: partial(postroad_turn, workers) for name, workers in POSTROAD.items()}
    return {name: ours.get(name) or partial(peer_turn, name, PEER[name]) for name in names}


def _install(names: list[str]) -> None:
    """What these need, before the first is measured."""
    for tool in ("load", "sink"):
        compiled(tool)
    drivers = [PEER[name].driver[0] for name in names if name not in POSTROAD]
    if NODE in drivers:
        installed.node_packages()
    if PYTHON in drivers:
        installed.python_packages()
    if any(name.startswith("bullmq") for name in names):
        installed.redis_server()


def _in_turns(report: Report, turns: Mapping[str, Turn], sink: Sink, directory: Path, scale: Scale) -> None:
    """Every repetition goes through all of them, so that a machine that drifts does so for all alike."""
    for repetition in range(scale.repeat):
        for name, turn in turns.items():
            began = time.monotonic()
            samples = turn(sink, directory, scale)
            report.add(name, samples)
            rates = ", ".join(f"{what} {samples[what]:,.0f}" for what in MORE_IS_BETTER)
            print(f"{repetition + 1}/{scale.repeat} {name:<16} {rates}; {time.monotonic() - began:.0f} s", flush=True)


def _show_table(report: Report, names: list[str]) -> None:
    """The medians side by side."""
    columns = {
        "end to end/s": MORE_IS_BETTER[0],
        "enqueue/s": MORE_IS_BETTER[1],
        "drain/s": MORE_IS_BETTER[2],
        "producer µs": f"{END_TO_END}, CPU of producer, µs/message",
        "worker µs": f"{END_TO_END}, CPU of worker, µs/message",
        "store µs": f"{END_TO_END}, CPU of store, µs/message",
        "all three": LESS_IS_BETTER[0],
        "machine µs": LESS_IS_BETTER[1],
        "p50 ms": LESS_IS_BETTER[2],
        "p99 ms": LESS_IS_BETTER[3],
        "lost": LOST,
        "twice": TWICE,
    }
    print(f"\n{'medians':<16}" + "".join(f"{title:>13}" for title in columns))
    for name in names:
        row = (report.median(name, sample) for sample in columns.values())
        print(f"{name:<16}" + "".join(f"{value:>13,.1f}" if value < 100 else f"{value:>13,.0f}" for value in row))


def _ratios(report: Report, ours: str, peers: list[str]) -> None:
    """How many times as good Postroad is, of the medians of this run: more than 1 is better than the peer."""
    for peer in peers:
        more = {name: report.median(ours, name) / report.median(peer, name) for name in MORE_IS_BETTER}
        less = {name: report.median(peer, name) / report.median(ours, name) for name in LESS_IS_BETTER}
        report.add(f"{ours} to {peer}, times as good", more | less)
        report.show(f"{ours} to {peer}, times as good")


def _options() -> tuple[Scale, list[str]]:
    everyone, usual = [*POSTROAD, *PEER], Scale()
    options = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__)
    options.add_argument("--messages", type=int, default=usual.messages, help="messages of a burst (default: 20000)")
    options.add_argument("--repeat", type=int, default=usual.repeat, help="turns of each (default: 3)")
    options.add_argument("--only", default=",".join(everyone), help=f"some of {','.join(everyone)}")
    given = options.parse_args()
    names = given.only.split(",")
    if unknown := [name for name in names if name not in everyone]:
        options.error(f"unknown: {', '.join(unknown)}")
    if given.messages < 1000 or given.repeat < 1:
        options.error("a burst has 1000 messages or more, and is repeated once or more")
    return Scale(given.messages, given.repeat), names


if __name__ == "__main__":
    main()
