"""Whether every locked package is at least as new as floors.toml asks for: `python -m security.floors`."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Literal, get_args

from packaging.version import Version
from pydantic import BaseModel, ConfigDict, Field

from security.bundled import parts
from security.locks import DEVELOPMENT, ROOT, RUNTIME, Locked, locked

FLOORS = ROOT / "security" / "floors.toml"
Seen = Literal["record", "reports", "memory"]


class Strict(BaseModel):
    """A table of the file: a key that is not known is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Floor(Strict):
    """The lowest safe version of a package, the advisories that say so, and how sure that is."""

    version: str
    advisories: list[str] = Field(min_length=1)
    seen: Seen
    why: str = Field(min_length=10)


class PartFloor(Floor):
    """The same for something inside a package."""

    inside: str = Field(alias="in")


class LookedUp(Strict):
    """When advisories were looked for, and how old the newest that could be found are."""

    on: date
    known_until: date


class WithoutFindings(Strict):
    """Packages of which no advisory is known."""

    looked_up: list[str]
    none_known: list[str]


class Floors(Strict):
    """The whole of floors.toml."""

    looked_up: LookedUp
    floor: dict[str, Floor]
    part: dict[str, PartFloor]
    without_findings: WithoutFindings

    @property
    def reviewed(self) -> set[str]:
        """The names of all packages that somebody has looked at."""
        return {*self.floor, *self.without_findings.looked_up, *self.without_findings.none_known}


def read(path: Path = FLOORS) -> Floors:
    """The floors as the file has them."""
    return Floors.model_validate(tomllib.loads(path.read_text()))


def shortcomings(floors: Floors, packages: Iterable[Locked], inside: Mapping[str, str]) -> list[str]:
    """A sentence for each version that is too low, and for each package that nobody has looked at or nobody uses.

    `inside` is the version of each part that is found in the installed packages.
    """
    found, packages = [], list(packages)
    for package in packages:
        floor = floors.floor.get(package.name)
        if floor and Version(package.version) < Version(floor.version):
            found.append(f"{package.name} {package.version} is below {floor.version}: {', '.join(floor.advisories)}")
        if package.name not in floors.reviewed:
            found.append(f"{package.name} {package.version} is new: look its advisories up, then add it to floors.toml")
    found += [f"{gone} is not locked any more" for gone in sorted(floors.reviewed - {one.name for one in packages})]
    for name, part in floors.part.items():
        if Version(inside[name]) < Version(part.version):
            where = f"{name} {inside[name]} inside {part.inside}"
            found.append(f"{where} is below {part.version}: {', '.join(part.advisories)}")
    return found


def everything_locked() -> list[Locked]:
    """The packages of all lock files; what is in several with one version comes once."""
    return list(
        {(one.name, one.version): one for lock in (RUNTIME, DEVELOPMENT) for one in locked(lock).values()}.values()
    )


def versions_inside(floors: Floors) -> dict[str, str]:
    """The version of each part that has a floor, as the installed package says."""
    packages = {part.inside for part in floors.part.values()}
    return {part.name: part.version for package in packages for part in parts(package) if part.name in floors.part}


def main() -> None:
    """Say what falls short and exit with 1, or say what was compared with what."""
    floors, packages = read(), everything_locked()
    found = shortcomings(floors, packages, versions_inside(floors))
    if found:
        sys.exit("\n".join(found))
    sure = {
        seen: sum(one.seen == seen for one in (*floors.floor.values(), *floors.part.values()))
        for seen in get_args(Seen)
    }
    print(
        f"{len(packages)} locked packages: none is below one of {sum(sure.values())} floors "
        f"({sure['record']} by record, {sure['reports']} by reports, {sure['memory']} from memory), none is unknown. "
        f"Looked up on {floors.looked_up.on}; advisories after {floors.looked_up.known_until} are not known here."
    )


if __name__ == "__main__":
    main()
