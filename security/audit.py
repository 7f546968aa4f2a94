"""Ask an advisory database for every locked package: `python -m security.audit [pypi|osv]`.

It exits with 0 only if every package was looked up and none has an advisory, with 1 if one has, and with 2 if one was
not looked up: pip-audit itself calls that clean.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from security.locks import DEVELOPMENT, ROOT, RUNTIME, locked

CLEAN, FINDINGS, NOT_AUDITED = 0, 1, 2
# Installed beside the others by the Makefile, for the tests of the contract.
CONTRACT = ROOT / "tests" / "contract" / "old" / "requirements.txt"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be said, and the exit code."""

    code: int
    lines: tuple[str, ...]


def main() -> None:
    """Audit all lock files and exit with the worst of their codes."""
    service = sys.argv[1] if len(sys.argv) > 1 else "pypi"
    worst = CLEAN
    for lock in (RUNTIME, DEVELOPMENT, CONTRACT):
        verdict = audit(lock, service)
        print(f"{lock.relative_to(ROOT)}: {verdict.lines[0]}", *verdict.lines[1:], sep="\n  ")
        worst = max(worst, verdict.code)
    sys.exit(worst)


def audit(lock: Path, service: str) -> Verdict:
    """Ask `service` for the packages of a lock file."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(lock), "--require-hashes", "--disable-pip"]
    options = ["--vulnerability-service", service, "--format", "json", "--progress-spinner", "off"]
    done = subprocess.run([*command, *options], capture_output=True, text=True)  # noqa: S603  a program of the lock file
    return judge(locked(lock), done.stdout, done.stderr)


def judge(packages: Iterable[str], answer: str, complaints: str) -> Verdict:
    """What an answer of pip-audit means for these packages. `complaints` is what it said beside it."""
    try:
        told: list[dict[str, Any]] = json.loads(answer)["dependencies"]
    except ValueError:  # it ends with a traceback where there is no network
        return Verdict(NOT_AUDITED, ("NOT AUDITED: no advisory database is reachable", *complaints.splitlines()[-1:]))
    findings = [
        f"{one['name']} {one['version']}: {found['id']}, fixed in {', '.join(found['fix_versions']) or 'no version'}"
        for one in told
        for found in one.get("vulns", [])
    ]
    asked = {canonicalize_name(name) for name in packages}
    answered = {canonicalize_name(one["name"]) for one in told if "vulns" in one}
    skipped = sorted(asked - answered)
    if not answered:
        return Verdict(NOT_AUDITED, (f"NOT AUDITED: the database knows none of {len(asked)} packages",))
    if skipped:
        missing = f"NOT AUDITED: {len(skipped)} of {len(asked)} packages were not looked up: {', '.join(skipped)}"
        return Verdict(NOT_AUDITED, (missing, *findings))
    if findings:
        return Verdict(FINDINGS, (f"{len(findings)} advisories for {len(asked)} packages", *findings))
    return Verdict(CLEAN, (f"{len(asked)} packages looked up, no advisory",))


if __name__ == "__main__":
    main()
