"""The scenarios of a run under faults: what is done to the system meanwhile, and which figures tell how it took it."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles

from tests.faults.checker import Findings, check
from tests.faults.nemesis import OF_A_NODE, Act, Habits, Nemesis, Step
from tests.faults.records import FaultKind, History, Verdict
from tests.faults.stage import Setup, Stage

_BASELINE_S = 5.0
"""The rate from before is that of so many seconds."""
_WINDOW_S = 1.0
_FULL_RATE = 0.98
_GIVE_UP_S = 60.0

Figure = str | int | float
Acts = Sequence[tuple[Step, float, float]]


@dataclass(frozen=True, slots=True)
class Options:
    """What whoever runs a scenario may choose; None is the scenario's own number."""

    seed: int = 1
    count: int | None = None
    rate: int | None = None
    nodes: int = 3
    messages: int | None = None
    profile: str | None = None
    receiver: str | None = None
    memory: bool = False
    keep: Path | None = None


@dataclass(slots=True)
class Result:
    """What a run has shown."""

    scenario: str
    history: History
    findings: Findings
    troubles: list[str]
    figures: dict[str, Figure] = field(default_factory=dict)

    @property
    def is_clean(self) -> bool:
        """Whether nothing that must hold was broken."""
        return not self.findings.violations and not self.troubles


async def perform(
    name: str,
    setup: Setup,
    habits: Habits,
    *,
    count: int | None,
    figures: Callable[[Stage, History, Acts], dict[str, Figure]] | None = None,
) -> Result:
    """Put the system under load, do to it what the habits say, `count` times or until all is published, and judge."""
    async with Stage(setup) as stage:
        await stage.publish()
        await asyncio.sleep(setup.lead_s)
        nemesis = Nemesis(stage.cluster, stage.server, habits, setup.seed)
        if setup.messages:
            enough = asyncio.Event()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(nemesis.run(until=enough))
                await stage.published()
                enough.set()
        else:
            await nemesis.run(count)
            await asyncio.sleep(setup.lead_s)
        history = await stage.finish()
        findings = await asyncio.to_thread(check, history)
        result = Result(name, history, findings, stage.troubles, _of_all(stage, history))
        if figures is not None:
            result.figures |= figures(stage, history, nemesis.acts)
        return result


async def kills(options: Options) -> Result:
    """Random nodes are killed at random moments or at fault points, and come back after up to 3 seconds."""
    setup = _setup(options)
    habits = Habits({Act.KILL: 1}, armed=0.35, strikes=_strikes(setup))
    return await perform("kills", setup, habits, count=options.count or 20)


async def semantics(options: Options) -> Result:
    """All kinds of messages to a receiver of many moods, while nodes are killed, until so many were published."""
    setup = _setup(
        options,
        rate=150,
        profile="full",
        receiver="chaotic",
        schedules=5,
        messages=None if options.count else options.messages or 10_000,
    )
    habits = Habits({Act.KILL: 1}, mean_gap_s=5.0, armed=0.35, strikes=_strikes(setup))
    return await perform("semantics", setup, habits, count=options.count)


async def pauses(options: Options) -> Result:
    """Nodes are halted until about when others take over, or for longer, and then go on as if nothing had been."""
    setup = _setup(options, rate=150, profile="full", receiver="chaotic")
    # Most go on while their work is in the hands of others: later, it is done, and a late result meets nothing.
    habits = Habits({Act.PAUSE: 1}, mean_gap_s=5.0, pauses_s=(10.5, 14.0))
    return await perform("pauses", setup, habits, count=options.count or 10, figures=_of_pauses)


async def postgres(options: Options) -> Result:
    """The database is restarted, killed, and comes back."""
    setup = _setup(options)
    deck = {Act.KILL_POSTGRES: 2, Act.RESTART_POSTGRES_FAST: 1, Act.RESTART_POSTGRES_IMMEDIATE: 1}
    habits = Habits(deck, mean_gap_s=12.0, least_gap_s=10.0)
    return await perform("postgres", setup, habits, count=options.count or 8, figures=_of_restarts)


async def rolling(options: Options) -> Result:
    """Nodes are stopped by SIGTERM one after the other and replaced, under publishers that repeat what is unknown."""
    setup = _setup(options, receiver="chaotic", retry_unknown=True)
    habits = Habits({Act.ROLL: 1}, mean_gap_s=1.0)
    return await perform("rolling", setup, habits, count=options.count or 20, figures=_of_rolls)


async def everything(options: Options) -> Result:
    """All kinds of faults and all kinds of messages together."""
    setup = _setup(options, rate=150, profile="full", receiver="chaotic", schedules=5)
    deck = {
        Act.KILL: 5,
        Act.PAUSE: 1,
        Act.ROLL: 1,
        Act.KILL_POSTGRES: 1,
        Act.RESTART_POSTGRES_FAST: 1,
        Act.END_CONNECTIONS: 1,
    }
    habits = Habits(deck, mean_gap_s=4.0, armed=0.35, strikes=_strikes(setup))
    return await perform("everything", setup, habits, count=options.count or 20)


def _setup(
    options: Options,
    *,
    rate: int = 300,
    profile: str = "plain",
    receiver: str = "calm",
    schedules: int = 0,
    messages: int | None = None,
    retry_unknown: bool = False,
) -> Setup:
    return Setup(
        seed=options.seed,
        rate=options.rate or rate,
        nodes=options.nodes,
        profile=options.profile or profile,
        receiver=options.receiver or receiver,
        schedules=schedules,
        messages=messages,
        retry_unknown=retry_unknown,
        memory=options.memory,
        keep=options.keep,
    )


def _strikes(setup: Setup) -> float:
    """So that an armed process lives for three seconds on average."""
    return setup.nodes / (3 * setup.rate)


def _of_all(stage: Stage, history: History) -> dict[str, Figure]:
    count = {kind: sum(fault.kind is kind for fault in history.faults) for kind in FaultKind}
    at_points = sum(fault.kind is FaultKind.KILL and "@" in fault.note for fault in history.faults)
    return {
        "seconds under load": round(stage.ended - stage.began, 1),
        "publishes": len(history.intents),
        "receipts": len(history.receipts),
        "kills": f"{count[FaultKind.KILL]} ({at_points} of them at fault points)",
        "pauses": count[FaultKind.PAUSE],
        "stops": count[FaultKind.STOP],
        "database faults": count[FaultKind.DATABASE],
        "late results that nodes dropped": stage.cluster.late_results(),
        "busiest second of a log, in lines": stage.cluster.busiest_second(),
        "largest RSS of a node, in MiB": stage.cluster.largest_rss_bytes >> 20,
    }


def _of_pauses(_: Stage, history: History, __: Acts) -> dict[str, Figure]:
    lengths = [fault.ended - fault.began for fault in history.faults if fault.kind is FaultKind.PAUSE]
    return {"pauses, in seconds": _spread(lengths)}


def _of_rolls(_: Stage, history: History, __: Acts) -> dict[str, Figure]:
    took = [fault.ended - fault.began for fault in history.faults if fault.kind is FaultKind.STOP]
    answered = {one.op for one in history.outcomes if one.verdict is Verdict.ACKNOWLEDGED}
    failed = {one.op for one in history.intents} - answered
    repeated = sum(one.verdict is Verdict.UNKNOWN for one in history.outcomes)
    return {
        "seconds until a node had left": _spread(took),
        "requests that were repeated": repeated,
        "publishes that failed for the client": len(failed),
    }


def _of_restarts(stage: Stage, history: History, acts: Acts) -> dict[str, Figure]:
    """How long after each restart messages were accepted and delivered again at the rate from before."""
    began = [begin for step, begin, _ in acts if step.act not in OF_A_NODE]
    accepted = [end for step, _, end in acts if step.act not in OF_A_NODE]
    down = [end - begin for begin, end in zip(began, accepted, strict=True)]
    delivered = sorted(one.ended for one in history.receipts if one.succeeded)
    acknowledged = sorted(one.at for one in history.outcomes if one.verdict is Verdict.ACKNOWLEDGED)
    figures: dict[str, Figure] = {"seconds without a database": _spread(down)}
    for name, instants in (("accepted", acknowledged), ("delivered", delivered)):
        back = [
            seconds_until_rate(instants, before=begin, after=end, until=stage.ended)
            for begin, end in zip(began, accepted, strict=True)
        ]
        figures[f"seconds until {_FULL_RATE:.0%} are {name} again"] = _spread([one for one in back if one is not None])
        figures[f"restarts after which they were not {name} again"] = sum(one is None for one in back)
    return figures


def seconds_until_rate(instants: Sequence[float], *, before: float, after: float, until: float) -> float | None:
    """How long after `after` the first second begins with 98 % of the rate before `before`; None if none does.

    `instants` are sorted. A window of a second is moved in steps of 50 ms.
    """

    def within(start: float, end: float) -> int:
        return bisect_left(instants, end) - bisect_left(instants, start)

    wanted = _FULL_RATE * within(before - _BASELINE_S, before) / _BASELINE_S * _WINDOW_S
    waited = 0.0
    while waited < _GIVE_UP_S and after + waited + _WINDOW_S <= until:
        if within(after + waited, after + waited + _WINDOW_S) >= wanted:
            return round(waited, 2)
        waited += 0.05
    return None


def _spread(values: Sequence[float]) -> str:
    """The median, the worst of a hundred and the worst of all."""
    if not values:
        return "-"
    cuts = quantiles(values, n=100, method="inclusive") if len(values) > 1 else [values[0]] * 99
    return f"p50 {cuts[49]:.2f}  p99 {cuts[98]:.2f}  max {max(values):.2f}"


SCENARIOS = {one.__name__: one for one in (kills, semantics, pauses, postgres, rolling, everything)}
