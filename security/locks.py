"""What the lock files name: each package with its version, its hashes and who asked for it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
RUNTIME, DEVELOPMENT = ROOT / "requirements.lock", ROOT / "requirements-dev.lock"
OURSELVES = "postroad"


@dataclass(frozen=True, slots=True)
class Locked:
    """One package of a lock file. The hashes are SHA-256, one for each file that may be installed."""

    name: str
    version: str
    hashes: tuple[str, ...]
    wanted_by: tuple[str, ...]


def locked(lock: Path) -> dict[str, Locked]:
    """The packages of a lock file of pip-compile, by name."""
    blocks = re.split(r"^(?=[a-z0-9])", re.sub(r"^#.*\n", "", lock.read_text(), flags=re.M), flags=re.M)
    packages = [_package(block) for block in blocks if block.strip()]
    return {package.name: package for package in packages}


def _package(block: str) -> Locked:
    pinned = re.match(r"([a-z0-9][a-z0-9.-]*)==(\S+)", block)
    if not pinned:
        raise ValueError(f"not a pinned requirement: {block.splitlines()[0]!r}")
    asked = re.findall(r"^ +#(?: via)? +([A-Za-z0-9][A-Za-z0-9._-]*)(?: \(pyproject\.toml\))?$", block, flags=re.M)
    hashes = re.findall(r"--hash=sha256:([0-9a-f]{64})", block)
    return Locked(pinned[1], pinned[2], tuple(sorted(hashes)), tuple(sorted(set(asked))))
