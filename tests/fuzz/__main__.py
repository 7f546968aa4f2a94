"""`python -m tests.fuzz --parser cron --seconds 600`: look for texts that a parser cannot bear; 1 if any."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time

from tests.fuzz.search import Score, search
from tests.fuzz.targets import TARGETS
from tests.fuzz.whole import flood

_MOST_SHOWN = 5


def main() -> int:
    """Fuzz one parser or all of them, one after the other, and say what was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument(
        "--parser",
        default="all",
        choices=["all", "http", *TARGETS],
        help="which, all by default; http for a whole node",
    )
    parser.add_argument("--seconds", type=float, default=60, help="how long for each")
    parser.add_argument("--seed", type=int, default=None, help="to repeat a run; another one each time by default")
    asked = parser.parse_args()
    seed = time.time_ns() % 10**9 if asked.seed is None else asked.seed
    if asked.parser == "http":
        return _whole(asked.seconds, seed)
    found = 0
    for name in TARGETS if asked.parser == "all" else [asked.parser]:
        score = Score()
        findings = 0
        for finding in search(TARGETS[name], seconds=asked.seconds, first_seed=seed, score=score):
            findings += 1
            if findings <= _MOST_SHOWN:
                sys.stdout.write(f"{name}: {finding.text[:500]!r} ({len(finding.text)} characters)\n{finding.what}\n")
        sys.stdout.write(
            f"{name:18} {findings:3} findings, {score.texts:9} texts, {score.accepted:8} of them accepted, "
            f"slowest {score.slowest_s * 1000:5.1f} ms, seed {seed}\n"
        )
        sys.stdout.flush()
        found += findings
    return 1 if found else 0


def _whole(seconds: float, seed: int) -> int:
    answered = asyncio.run(flood(seconds, seed))
    for sent, answer in answered.wrong[:_MOST_SHOWN]:
        sys.stdout.write(f"{sent}\n  {answer}\n")
    statuses = ", ".join(f"{status}: {count}" for status, count in sorted(answered.statuses.items()))
    sys.stdout.write(
        f"http               {len(answered.wrong):3} findings, answers by status {statuses}, seed {seed}\n"
    )
    return 1 if answered.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
