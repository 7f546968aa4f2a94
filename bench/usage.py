"""Who used how much CPU, and how much memory."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Self

import psutil

_QUIET_WINDOW_S = 0.25
_QUIET_CPU_S = 0.03
_LONGEST_NOISE_S = 20.0


@dataclass(frozen=True, slots=True)
class Usage:
    """Seconds of CPU since each process began, and of the whole machine since it was started.

    `postgres` has all processes of the server, also those that have ended; `ended` is the part of the latter, which
    are autovacuum workers and connections. `machine` has everything, whoever it belongs to.
    """

    at: float
    python: float
    postgres: float
    ended: float
    sink: float
    machine: float

    @classmethod
    def now(cls, *, python: int, postmaster: int | None = None, sink: int | None = None) -> Self:
        """The usage of these processes until now."""
        postgres, ended = (0.0, 0.0) if postmaster is None else _postgres(postmaster)
        whole = psutil.cpu_times()
        busy = whole.user + whole.system + getattr(whole, "nice", 0) + getattr(whole, "irq", 0)
        return cls(
            at=time.perf_counter(),
            python=_with_workers(psutil.Process(python)),
            postgres=postgres,
            ended=ended,
            sink=0.0 if sink is None else _own(psutil.Process(sink)),
            machine=busy + getattr(whole, "softirq", 0),
        )

    def since(self, before: Usage) -> Usage:
        """The difference; `at` becomes the seconds that passed."""
        return Usage(
            self.at - before.at,
            self.python - before.python,
            self.postgres - before.postgres,
            self.ended - before.ended,
            self.sink - before.sink,
            self.machine - before.machine,
        )

    def each(self, count: int, load_s: float = 0.0) -> dict[str, float]:
        """Microseconds of CPU a message, by process."""
        spent = {
            "python": self.python,
            "postgres": self.postgres,
            "load": load_s,
            "sink": self.sink,
            "whole machine": self.machine,
        }
        return {f"CPU of {name}, µs/message": seconds / count * 1e6 for name, seconds in spent.items() if seconds}


def quiet(*, python: int, postmaster: int) -> None:
    """Wait until the product has finished what it does after the last delivery."""
    deadline = time.monotonic() + _LONGEST_NOISE_S
    while time.monotonic() < deadline:
        before = Usage.now(python=python, postmaster=postmaster)
        time.sleep(_QUIET_WINDOW_S)
        spent = Usage.now(python=python, postmaster=postmaster).since(before)
        if spent.python + spent.postgres < _QUIET_CPU_S:
            return


def memory_mib(pid: int) -> float:
    """The proportional set size in MiB, or what comes nearest where the system does not tell it."""
    full = psutil.Process(pid).memory_full_info()
    return float(getattr(full, "pss", 0) or full.uss) / 2**20


def _with_workers(process: psutil.Process) -> float:
    """Of a process and of those it has spawned from the same program, which PostgreSQL is not."""
    program = process.exe()
    return _own(process) + sum(_own(child) for child in process.children() if child.exe() == program)


def _own(process: psutil.Process) -> float:
    if process.pid == os.getpid():
        return time.process_time()  # to the microsecond, where others are told to the hundredth of a second
    times = process.cpu_times()
    return float(times.user + times.system)


def _postgres(postmaster: int) -> tuple[float, float]:
    server = psutil.Process(postmaster)
    total = 0.0
    for child in server.children():
        try:
            total += _own(child)
        except psutil.NoSuchProcess:
            continue  # it has ended just now, and the postmaster's account of the ended has it
    times = server.cpu_times()
    ended = float(times.children_user + times.children_system)
    return total + _own(server) + ended, ended
