"""A driver of a peer as a child process: it takes orders from its standard input and answers each with a line."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from bench.programs import BenchError, Program

_LONGEST_ORDER_S = 1800.0
_LONGEST_END_S = 5.0


class Driver(Program):
    """A program that is run twice, as the producer and as the worker; what it can do stands in driver.mjs."""

    stdin = subprocess.PIPE

    def __init__(self, command: Sequence[str | Path], log: Path, **variables: str) -> None:
        super().__init__(command, log, **variables)
        self._orders = 0

    def tell(self, *order: object) -> None:
        """Give an order; `answer` waits until it is done."""
        assert self._process.stdin is not None
        self._orders += 1
        self._process.stdin.write(f"{self._orders} {' '.join(map(str, order))}\n".encode())
        self._process.stdin.flush()

    def answer(self) -> dict[str, float]:
        """What came of the last order."""
        beginning, deadline = f"done {self._orders} ", time.monotonic() + _LONGEST_ORDER_S
        while time.monotonic() < deadline:
            ended = self._process.poll() is not None
            for line in self.said():
                if line.startswith(beginning):
                    told: dict[str, float] = json.loads(line.removeprefix(beginning))
                    return told
            if ended:
                break
            time.sleep(0.02)
        words = "\n".join(self.said()[-15:])
        raise BenchError(f"{' '.join(map(str, self._command))} did not do what it was told:\n{words}")

    def order(self, *order: object) -> dict[str, float]:
        """Give an order and wait."""
        self.tell(*order)
        return self.answer()

    def stop(self) -> None:
        """Without further orders it ends by itself."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_LONGEST_END_S)
        super().stop()

    def complaints(self) -> list[str]:
        """What it or its libraries wrote of their own accord."""
        return [line for line in self.said() if line.strip() and not line.startswith(("ready", "done "))]
