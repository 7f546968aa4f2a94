"""Two runs side by side: `python -m bench.compare [BEFORE.json [AFTER.json]]`, by default the last two of a kind."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.report import RESULTS, short

Sections = Mapping[str, Mapping[str, Sequence[float]]]


def main() -> None:
    """Print medians, their ratio, and whether the samples overlap."""
    options = argparse.ArgumentParser(prog="python -m bench.compare", description=__doc__)
    options.add_argument("runs", nargs="*", type=Path)
    runs: list[Path] = options.parse_args().runs
    before, after = runs if len(runs) == 2 else _last_two(runs)
    read = {path: json.loads(path.read_text()) for path in (before, after)}
    for name, path in (("before", before), ("after", after)):
        print(f"{name}: {path.name}, {_described(read[path]['machine'])}")
    print(f"\n{'':<64}{'before':>10}{'after':>10}{'ratio':>8}")
    for line in compared(read[before]["samples"], read[after]["samples"]):
        print(line)
    print("\n~ the samples overlap: the difference may be the machine's")


def _last_two(given: Sequence[Path]) -> tuple[Path, Path]:
    """The last run and the one before it that measured some of the same; or one that was named, and the last."""
    kept = sorted(RESULTS.glob("*.json"))
    if len(given) > 2 or not kept:
        sys.exit("bench: two runs are compared")
    if given:
        return given[0], kept[-1]
    sections = set(json.loads(kept[-1].read_text())["samples"])
    for path in reversed(kept[:-1]):
        if sections & set(json.loads(path.read_text())["samples"]):
            return path, kept[-1]
    sys.exit(f"bench: no earlier run measured what {kept[-1].name} did")


def compared(before: Sections, after: Sections) -> Iterator[str]:
    """A line for each figure that both have, under a line for each section."""
    for section, figures in after.items():
        lines = [
            _line(name, earlier, values)
            for name, values in figures.items()
            if (earlier := before.get(section, {}).get(name))
        ]
        if lines:
            yield section
            yield from lines


def _line(name: str, before: Sequence[float], after: Sequence[float]) -> str:
    old, new = statistics.median(before), statistics.median(after)
    ratio = f"{new / old:8.2f}" if old else f"{'':>8}"
    overlap = " ~" if min(after) <= max(before) and min(before) <= max(after) else ""
    return f"  {name:<62}{short(old):>10}{short(new):>10}{ratio}{overlap}"


def _described(machine: Mapping[str, Any]) -> str:
    changed = f" with {machine['changed_files']} changed files" if machine["changed_files"] else ""
    return f"{machine['commit']}{changed}, {machine['cores']} cores of {machine['processor']}"


if __name__ == "__main__":
    main()
