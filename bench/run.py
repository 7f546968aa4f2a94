"""Measure Postroad end to end and step by step: `python -m bench.run --help`, and README.md for what it means."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import NoReturn

from bench import features, steps
from bench.programs import BenchError, Program, Sink, TlsSink, compiled, load
from bench.report import Report, Samples, machine_facts, show_facts, source_state
from bench.sample import TOKEN
from bench.scenarios import (
    CALLERS,
    Node,
    bare_publish,
    dev_server,
    drain,
    end_to_end,
    idle,
    light_load,
    postgres,
    prepare,
    publish_only,
    restart,
    scratch,
    serving,
)
from bench.usage import memory_mib

from postroad.store.embedded import EmbeddedPostgres

FLOOR = "floor: bare ASGI on uvicorn"
END_TO_END = "end to end"
PUBLISH_ONLY = "publish only (--roles api)"
WORKERS = "end to end (serve --workers {})"
NUMBERS_OF_WORKERS = (1, 2, 4)
TLS = "end to end, to a receiver behind TLS"
DRAIN = "drain of what is stored (--roles dispatcher)"
PYTHON_CPU = "CPU of python, µs/message"


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured."""

    messages: int = 20_000
    repeat: int = 3
    light: tuple[tuple[int, float], ...] = ((50, 10.0), (500, 5.0))
    idle_seconds: float = 20.0
    step_messages: int = 10_000
    parts: tuple[str, ...] = ("one", "processes", "features", "tls", "steps")


QUICK = Scale(messages=5_000, repeat=1, light=((50, 4.0), (500, 2.0)), idle_seconds=5.0, step_messages=2_000)


def main() -> None:
    """Run everything, or say in one sentence why not."""
    scale = _scale()
    _leave_orderly_on_signals()
    began = time.monotonic()
    report = Report()
    try:
        with scratch() as directory:
            for name in ("load", "sink"):
                compiled(name)
            facts, source = machine_facts(directory), source_state()
            show_facts(facts)
            print(f"{scale.messages:,} messages of 1 KB, {CALLERS} callers, {scale.repeat} repetitions", flush=True)
            with Sink(directory / "sink.log") as sink:
                for name, part in PARTS.items():
                    if name in scale.parts:
                        part(report, sink, directory, scale)
        _ratios(report)
    except BenchError as error:
        sys.exit(f"bench: {error}")
    facts["edited_meanwhile"] = sorted({name for name, _ in source.items() ^ source_state().items()})
    if facts["edited_meanwhile"]:
        print(
            f"\nThese were edited during the run, which so measured a mixture: {', '.join(facts['edited_meanwhile'])}"
        )
    path = report.write(facts, asdict(scale))
    print(f"\n{time.monotonic() - began:.0f} s; every sample is in {path}")


def _one_process(report: Report, sink: Sink, directory: Path, scale: Scale) -> None:
    """`postroad dev`: everything in one process, on a fresh database."""
    with dev_server(directory) as program:
        node = Node(program.ready(), program.pid, program.postmaster())
        memory: dict[str, float] = {"first start with initdb, s": time.perf_counter() - program.started_at}
        load(node.publish_url(sink), TOKEN, count=scale.messages // 10, callers=CALLERS)
        sink.await_all(scale.messages // 10)
        report.measure(FLOOR, lambda: bare_publish(directory / "floor.log", scale.messages), scale.repeat)
        report.measure(END_TO_END, lambda: end_to_end(node, sink, scale.messages), scale.repeat)
        memory["memory (PSS) of python after the load, MiB"] = memory_mib(program.pid)
        for rate, seconds in scale.light:
            report.measure(f"latency at {rate}/s", partial(light_load, node, sink, rate, seconds), scale.repeat)
        if scale.idle_seconds:
            report.measure(f"idle for {scale.idle_seconds:g} s", lambda: idle(node, sink, scale.idle_seconds), 1)
        _complain(program)
    report.add("start", memory)
    report.measure("start", lambda: restart(directory, sink), scale.repeat)


def _features(report: Report, sink: Sink, directory: Path, scale: Scale) -> None:
    """What each feature costs beside a plain publish."""
    with dev_server(directory) as program:
        node = Node(program.ready(), program.pid, program.postmaster())
        features.measure(report, node, sink, count=scale.messages, times=scale.repeat)
        _complain(program)


def _tls(report: Report, _: Sink, directory: Path, scale: Scale) -> None:
    """The same to a receiver behind TLS, which costs more than the product itself."""
    with TlsSink(directory) as sink, dev_server(directory, SSL_CERT_FILE=str(sink.authority_file)) as program:
        node = Node(program.ready(), program.pid, program.postmaster())
        end_to_end(node, sink, scale.messages // 10)
        report.measure(TLS, lambda: end_to_end(node, sink, scale.messages), scale.repeat)
        _complain(program)


def _steps(report: Report, _: Sink, __: Path, scale: Scale) -> None:
    steps.measure(report, messages=scale.step_messages, times=scale.repeat)


def _processes(report: Report, sink: Sink, directory: Path, scale: Scale) -> None:
    """`postroad serve`: a node that takes in while nobody delivers, one that delivers, and two workers on one port."""
    with postgres() as server:
        prepare(server.url, directory / "migrate.log")
        with serving(server.url, "api", directory / "api.log") as program:
            node = Node(program.ready(), program.pid, server.pid)
            load(node.publish_url(sink), TOKEN, count=scale.messages // 10, callers=CALLERS)
            drain(server.url, server.pid, sink, directory / "dispatcher.log", scale.messages // 10)
            for _ in range(scale.repeat):
                taken, drained = _fill_and_drain(node, server, sink, directory, scale.messages)
                report.add(PUBLISH_ONLY, taken)
                report.add(DRAIN, drained)
            _complain(program)
        report.show(PUBLISH_ONLY)
        report.show(DRAIN)
        for number in NUMBERS_OF_WORKERS:
            with serving(server.url, "api,dispatcher", directory / "workers.log", workers=number) as program:
                node = Node(program.ready(), program.pid, server.pid)
                sink.reset()
                load(node.publish_url(sink), TOKEN, count=scale.messages // 10, callers=CALLERS)
                sink.await_all(scale.messages // 10)
                name = WORKERS.format(number)
                report.measure(name, partial(end_to_end, node, sink, scale.messages), scale.repeat)
                _complain(program)


def _fill_and_drain(
    node: Node, server: EmbeddedPostgres, sink: Sink, directory: Path, count: int
) -> tuple[Samples, Samples]:
    taken = publish_only(node, sink, count)
    return taken, drain(server.url, server.pid, sink, directory / "dispatcher.log", count)


def _ratios(report: Report) -> None:
    """What holds on other machines too, and on this one when it is busy."""
    workers = [WORKERS.format(number) for number in NUMBERS_OF_WORKERS]
    pairs = [
        ("published/s, publish only, to floor", PUBLISH_ONLY, "published/s", FLOOR, "requests/s"),
        ("delivered/s, end to end, to floor", END_TO_END, "delivered/s", FLOOR, "requests/s"),
        ("delivered/s, end to end, to publish only", END_TO_END, "delivered/s", PUBLISH_ONLY, "published/s"),
        ("delivered/s, drain, to end to end", DRAIN, "delivered/s", END_TO_END, "delivered/s"),
        ("CPU of python, end to end, to floor", END_TO_END, PYTHON_CPU, FLOOR, PYTHON_CPU),
        ("delivered/s, TLS, to plain", TLS, "delivered/s", END_TO_END, "delivered/s"),
        *(
            (f"delivered/s, {number} workers, to one", name, "delivered/s", workers[0], "delivered/s")
            for number, name in zip(NUMBERS_OF_WORKERS[1:], workers[1:], strict=True)
        ),
    ]
    ratios = {
        name: report.median(one, what) / report.median(other, other_what)
        for name, one, what, other, other_what in pairs
        if one in report.sections and other in report.sections
    }
    if features.PLAIN in report.sections:
        ratios |= features.ratios(report)
    if ratios:
        report.measure("ratios of medians", lambda: ratios, 1)


def _complain(program: Program) -> None:
    """What the product logged at the level of warnings belongs into what people see."""
    lines = [line for line in program.said() if "WARN" in line.upper() or "ERROR" in line.upper()]
    if lines:
        print(f"\nthe product logged {len(lines)} warnings or errors, the first: {lines[0]}", flush=True)


def _leave_orderly_on_signals() -> None:
    """The first signal ends the run by way of every `finally`; further ones do not disturb that."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def leave(number: int, _: FrameType | None) -> NoReturn:
        for other in numbers:
            signal.signal(other, signal.SIG_IGN)
        print("\nstopping", file=sys.stderr, flush=True)
        raise SystemExit(128 + number)

    for number in numbers:
        signal.signal(number, leave)


def _scale() -> Scale:
    options = argparse.ArgumentParser(prog="python -m bench.run", description=__doc__)
    options.add_argument("--quick", action="store_true", help="everything smaller, in less than a minute")
    options.add_argument("--messages", type=int, help="messages of a burst (default: 20000)")
    options.add_argument("--repeat", type=int, help="repetitions of each scenario (default: 3)")
    options.add_argument("--only", nargs="+", choices=PARTS, dest="parts", help="only these parts")
    options.add_argument("--idle-seconds", type=float, help="how long to watch the idle server (default: 20; 0: not)")
    given = vars(options.parse_args())
    scale = QUICK if given.pop("quick") else Scale()
    if (given["messages"] or 1000) < 1000 or (given["repeat"] or 1) < 1:
        options.error("a burst has 1000 messages or more, and is repeated once or more")
    given["parts"] = given["parts"] and tuple(given["parts"])
    return replace(scale, **{name: value for name, value in given.items() if value is not None})


PARTS = {"one": _one_process, "processes": _processes, "features": _features, "tls": _tls, "steps": _steps}


if __name__ == "__main__":
    main()
