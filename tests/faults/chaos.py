"""`python -m tests.faults.chaos <scenario>`: run the product under faults and tell whether it kept its promises."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.faults import report
from tests.faults.scenarios import SCENARIOS, Options, Result

SHORT = {
    "kills": Options(count=5, rate=150),
    "semantics": Options(messages=3_000, rate=120),
    "pauses": Options(count=2, rate=150),
    "postgres": Options(count=3, rate=150),
    "rolling": Options(count=6, rate=150),
    "everything": Options(count=6, rate=120),
}
USUAL = {
    "kills": Options(count=200),
    "semantics": Options(messages=50_000),
    "pauses": Options(count=50),
    "postgres": Options(count=40),
    "rolling": Options(count=30),
    "everything": Options(count=50),
}
LONG = {
    "kills": Options(count=500),
    "semantics": Options(messages=300_000),
    "pauses": Options(count=200),
    "postgres": Options(count=100),
    "rolling": Options(count=100),
    "everything": Options(count=300),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; gives the exit code, 1 if a promise was broken."""
    chosen = _parser().parse_args(arguments)
    options = Options(
        seed=chosen.seed,
        count=chosen.count,
        rate=chosen.rate,
        nodes=chosen.nodes,
        messages=chosen.messages,
        profile=chosen.profile,
        receiver=chosen.receiver,
        memory=chosen.memory,
        keep=chosen.keep,
    )
    if chosen.scenario != "all":
        runs = {chosen.scenario: options}
    else:
        sizes = SHORT if chosen.short else LONG if chosen.long else USUAL
        runs = {
            name: replace(size, seed=options.seed, memory=options.memory, keep=options.keep and options.keep / name)
            for name, size in sizes.items()
        }
    results = asyncio.run(_run(runs))
    if len(results) > 1:
        _say(_summary(results))
    if chosen.json:
        documents = [_document(result, options.seed) for result in results]
        chosen.json.write_text(json.dumps(documents if chosen.scenario == "all" else documents[0], indent=2) + "\n")
    return 0 if len(results) == len(runs) and all(result.is_clean for result in results) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.chaos", description=__doc__)
    parser.add_argument("scenario", choices=[*SCENARIOS, "all"])
    parser.add_argument("--seed", type=int, default=1, help="of the messages, the receiver's moods and the faults")
    parser.add_argument("--count", type=int, help="faults")
    parser.add_argument("--rate", type=int, help="messages a second")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--messages", type=int, help="how many to publish in `semantics`")
    parser.add_argument("--profile", choices=["plain", "full"], help="what is published")
    parser.add_argument("--receiver", choices=["calm", "chaotic"], help="how the receiver answers")
    parser.add_argument("--memory", action="store_true", help="keep the database in /dev/shm")
    parser.add_argument("--keep", type=Path, metavar="DIRECTORY", help="leave the history and the logs there")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found there, too")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--short", action="store_true", help="of `all`: minutes instead of an hour")
    size.add_argument("--long", action="store_true", help="of `all`: a night")
    return parser


async def _run(runs: dict[str, Options]) -> list[Result]:
    """Run scenarios in order. Also when asked to stop by SIGTERM, nothing is left running."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    results = []
    for name, options in runs.items():
        _say(f"\n{name}: {SCENARIOS[name].__doc__}")
        result = await SCENARIOS[name](options)
        _say(_text(result, options.seed))
        results.append(result)
    return results


def commit() -> str:
    """The git commit that ran, with a + when the tree differs from it."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--exclude=*", "--dirty=+"],
            cwd=Path(__file__).parent, capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return described.stdout.strip()


def _text(result: Result, seed: int) -> str:
    width = max(map(len, result.figures), default=0)
    lines = [report.as_text(result.findings, seed=seed, commit=commit(), title=result.scenario)]
    lines += [f"  {name:<{width}}  {value}" for name, value in result.figures.items()]
    lines += [f"\n  TROUBLE: {trouble}" for trouble in result.troubles]
    return "\n".join(lines)


def _document(result: Result, seed: int) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(
        report.as_json(result.findings, seed=seed, commit=commit(), title=result.scenario)
    )
    return document | {"clean": result.is_clean, "run": result.figures, "troubles": result.troubles}


def _summary(results: Sequence[Result]) -> str:
    """A line for each scenario."""
    lines = [
        f"\n{'scenario':<12}{'acknowledged':>13}{'lost':>6}{'unexplained':>13}{'violations':>12}{'recovery max':>14}"
    ]
    for one in results:
        figures = one.findings.figures
        lines.append(
            f"{one.scenario:<12}{figures.acknowledged:>13}{figures.lost:>6}{figures.duplicates_unexplained:>13}"
            f"{len(one.findings.violations):>12}{figures.recovery.longest:>12.2f} s"
            f"  {'clean' if one.is_clean else 'NOT CLEAN'}"
        )
    return "\n".join(lines)


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201  what whoever runs it wants to read


if __name__ == "__main__":
    raise SystemExit(main())
