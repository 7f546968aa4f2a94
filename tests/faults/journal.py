"""Records of a run on their way to a file and back: a line for each, the name of its type and its fields."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import orjson

from tests.faults.records import Cancellation, Fault, FaultKind, Intent, Outcome, Receipt, Schedule, Verdict

Record = Intent | Outcome | Cancellation | Schedule | Receipt | Fault
_R = TypeVar("_R", Intent, Outcome, Cancellation, Schedule, Receipt, Fault)

_TYPES: dict[str, type[Any]] = {one.__name__: one for one in (Intent, Outcome, Cancellation, Schedule, Receipt, Fault)}
_ENUMS: dict[str, Any] = {"verdict": Verdict, "kind": FaultKind}


class Journal:
    """A file that records are appended to. What is flushed survives the process."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._lines: list[bytes] = []

    def add(self, record: Record) -> None:
        """Remember a record until the next flush."""
        self._lines.append(orjson.dumps((type(record).__name__, record)))

    def flush(self) -> None:
        """Hand all that was added to the operating system, in one write."""
        if self._lines:
            data = memoryview(b"\n".join([*self._lines, b""]))
            self._lines.clear()
            while data:
                data = data[os.write(self._file, data) :]

    def close(self) -> None:
        """Flush and close."""
        self.flush()
        os.close(self._file)


class Records:
    """What journals hold, by type."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._found: dict[type[Any], list[Any]] = defaultdict(list)
        for path in paths:
            for line in path.read_bytes().splitlines(keepends=True):
                if line.endswith(b"\n"):  # the last line of a process that was killed may be half a record
                    record = _record(line)
                    self._found[type(record)].append(record)

    def of(self, kind: type[_R]) -> list[_R]:
        """All records of a type, in the order in which each journal has them."""
        return list(self._found[kind])


def _record(line: bytes) -> Record:
    name, fields = orjson.loads(line)
    for field, enum in _ENUMS.items():
        if field in fields:
            fields[field] = enum(fields[field])
    record: Record = _TYPES[name](**fields)
    return record
