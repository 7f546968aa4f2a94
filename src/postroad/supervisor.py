"""Several processes that do the same work: kept running, each replaced when it dies, all told when to stop."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Semaphore
from types import FrameType
from typing import Any

_log = logging.getLogger(__name__)

_RESTART_PAUSE_S = 1.0


class Supervisor:
    """Runs `work(*arguments, ready)` in `count` processes until a signal ends them; the work releases `ready` once."""

    def __init__(self, work: Callable[..., None], arguments: tuple[Any, ...], count: int) -> None:
        self._work = work
        self._arguments = arguments
        self._count = count
        self._context = multiprocessing.get_context("spawn")
        self._ready = self._context.Semaphore(0)
        self._workers: list[BaseProcess] = []
        self._stopping = False

    def run(self, announce: Callable[[], None]) -> None:
        """Call `announce` when all are ready, return when all have ended after SIGTERM or SIGINT."""
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        for _ in range(self._count):
            self._start()
        starting = self._count
        while self._workers:
            wait([worker.sentinel for worker in self._workers], timeout=0.02 if starting else 1.0)
            while starting and self._ready.acquire(block=False):
                starting -= 1
                if not starting:
                    announce()
            self._replace_ended()

    def _stop(self, _: int, __: FrameType | None) -> None:
        self._stopping = True
        for worker in self._workers:
            worker.terminate()

    def _start(self) -> None:
        if self._stopping:
            return
        worker = self._context.Process(target=_run, args=(self._work, self._arguments, self._ready), daemon=False)
        worker.start()
        self._workers.append(worker)
        if self._stopping:  # the signal came while it started, and passed it by
            worker.terminate()

    def _replace_ended(self) -> None:
        for worker in take_ended(self._workers):
            if not self._stopping:
                _log.error("worker %s ended with code %s and is replaced", worker.pid, worker.exitcode)
                time.sleep(_RESTART_PAUSE_S)
            self._start()


def take_ended(workers: list[BaseProcess]) -> list[BaseProcess]:
    """Take those that ended out of the list. Each is asked once: it may end between two questions."""
    ended = [worker for worker in workers if not worker.is_alive()]
    for worker in ended:
        workers.remove(worker)
    return ended


def _run(work: Callable[..., None], arguments: tuple[Any, ...], ready: Semaphore) -> None:
    threading.Thread(target=_stop_without_parent, daemon=True).start()
    work(*arguments, ready)


def _stop_without_parent() -> None:
    """A supervisor that was killed cannot stop its workers, so they stop by themselves and leave the port."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
