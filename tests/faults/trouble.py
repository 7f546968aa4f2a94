"""`python -m tests.faults.trouble`: PostgreSQL in every trouble, and a table of how a node bears it.

    python -m tests.faults.trouble [--only NAME ...] [--way direct|pgbouncer|both] [--seed N] [--rate N] [--json FILE]

Some rows need to be root (a disk of their own), a C compiler (a slow disk) or pgbouncer; `--list` tells the names.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import uvloop

from tests.faults.chaos import commit
from tests.faults.troubles_catalogue import TROUBLES, Trouble
from tests.faults.troubles_figures import Row, suffer
from tests.faults.troubles_stage import Way, staged

_HEAD = (
    "trouble", "lasted", "answers meanwhile", "slowest", "first 201", "delivers", "all delivered", "log lines",
    "conns", "files", "RSS MB", "acknowledged", "twice", "lost",
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; gives the exit code, 1 if something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.trouble", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=[*TROUBLES], default=[*TROUBLES], metavar="NAME")
    parser.add_argument("--way", choices=["direct", "pgbouncer", "both"], default="both")
    parser.add_argument("--seed", type=int, default=1, help="of the moments at which troubles begin")
    parser.add_argument("--rate", type=float, default=100, help="publishes a second")
    parser.add_argument("--seconds", type=float, help="how long troubles last, where that can be chosen")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found there, too")
    parser.add_argument("--list", action="store_true", help="print the names and what they mean")
    chosen = parser.parse_args(arguments)
    if chosen.list:
        _say("\n".join(f"{one.name:<16}{one.what}" for one in TROUBLES.values()))
        return 0
    ways: Sequence[Way] = ["direct", "pgbouncer"] if chosen.way == "both" else [chosen.way]
    wanted = [(TROUBLES[name], way) for way in ways for name in chosen.only if way == "pgbouncer" or name in _DIRECT]
    rows = uvloop.run(_run(wanted, seed=chosen.seed, rate=chosen.rate, seconds=chosen.seconds))
    _say(as_text(rows, seed=chosen.seed))
    if chosen.json:
        document = {"commit": commit(), "seed": chosen.seed, "rows": [asdict(row) for row in rows]}
        chosen.json.write_text(json.dumps(document, indent=2) + "\n")
    return 0 if len(rows) == len(wanted) and not any(row.broken or row.missed for row in rows) else 1


_DIRECT = {name for name, one in TROUBLES.items() if not one.only_pooled}


async def perform(
    trouble: Trouble, *, way: Way = "direct", seed: int = 1, rate: float = 100, seconds: float | None = None,
    memory: bool = False,
) -> Row:  # fmt: skip
    """One trouble on a stage of its own."""
    async with staged(
        way=way,
        rate=rate,
        seed=seed,
        settings=trouble.settings,
        standby=trouble.standby,
        disk=trouble.disk,
        slow_sync=trouble.slow_sync,
        memory=memory,
    ) as stage:
        return await suffer(stage, trouble, seconds=seconds)


def as_text(rows: Sequence[Row], *, seed: int) -> str:
    """A table for people, and below it what is wrong."""
    cells = [_HEAD, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(_HEAD))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    wrong = [f"BROKEN  {_name(row)}: {sentence}" for row in rows for sentence in row.broken]
    wrong += [f"missed  {_name(row)}: {sentence}" for row in rows for sentence in row.missed]
    lost = sum(row.lost for row in rows)
    lines += ["", f"lost {lost} of {sum(row.acknowledged for row in rows)} (seed {seed}, commit {commit()})"]
    return "\n".join([*lines, *wrong])


def _cells(row: Row) -> tuple[str, ...]:
    answers = " ".join(f"{kind}x{count}" for kind, count in sorted(row.answers.items()))
    before, after = row.before, row.after
    return (
        _name(row), f"{row.lasted_s:.1f} s", answers, f"{row.slowest_answer_s:.1f} s", _seconds(row.first_201_s),
        _seconds(row.first_delivery_s), _seconds(row.all_delivered_s), f"{row.log_lines} ({row.busiest_second}/s)",
        f"{before.connections}>{after.connections}", f"{before.files}>{after.files}",
        f"{before.rss_bytes >> 20}>{after.rss_bytes >> 20}", str(row.acknowledged), str(row.twice), str(row.lost),
    )  # fmt: skip


def _name(row: Row) -> str:
    return row.trouble if row.way == "direct" else f"{row.trouble} (pgbouncer)"


def _seconds(seconds: float | None) -> str:
    return "never" if seconds is None else f"{seconds:.1f} s"


async def _run(wanted: Sequence[tuple[Trouble, Way]], *, seed: int, rate: float, seconds: float | None) -> list[Row]:
    """The rows in order; what is asked to stop by SIGTERM leaves nothing running."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    rows = []
    for trouble, way in wanted:
        row = await perform(trouble, way=way, seed=seed, rate=rate, seconds=seconds)
        rows.append(row)
        _say(f"{'BROKEN' if row.broken else 'missed' if row.missed else 'ok    '} {'  '.join(_cells(row))}")
        for sentence in (*row.broken, *row.missed, *(f"{n} x {said}" for said, n in row.log_samples.items())):
            _say(f"          {sentence}")
    return rows


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201  what whoever runs it wants to read


if __name__ == "__main__":
    raise SystemExit(main())
