"""How a node bears a trouble: the figures of one row, and what is wrong with them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from time import monotonic

import orjson

from tests.faults.troubles_catalogue import Trouble, Window
from tests.faults.troubles_load import Ask
from tests.faults.troubles_stage import Stage, Way

MOST_SECONDS_TO_RETURN = 5.0
MOST_LINES_A_SECOND = 5
MOST_CONNECTIONS = 12
"""Ten of the pool, one that beats and one that listens."""
MOST_EXTRA_FILES = 16
MOST_EXTRA_BYTES = 96 << 20
LEAD_S = 4.0

KNOWN_ALREADY = "an attempt whose result was known already"
"""A line about a settlement that was repeated because its commit had no answer."""

_LONGEST_RETURN_S = 40.0
_LONGEST_DELIVERY_S = 90.0
_LONGEST_REST_S = 20.0


@dataclass(frozen=True, slots=True)
class Holdings:
    """What a node holds when nobody asks anything of it."""

    connections: int
    files: int
    """Connections to receivers aside, which are kept for a while."""
    rss_bytes: int


@dataclass(frozen=True, slots=True)
class Row:
    """The figures. Seconds count from the end of the trouble; None is never."""

    trouble: str
    way: Way
    lasted_s: float
    answers: Mapping[str, int]
    """To what was asked during the trouble; `waited` are those that were answered only after it, whatever that was."""
    unexpected: Mapping[str, int]
    """Answers that are neither an acknowledgement nor a 503 with Retry-After, by what they said, in the whole run."""
    slowest_answer_s: float
    first_201_s: float | None
    first_delivery_s: float | None
    all_delivered_s: float | None
    """When the last one arrived of what was accepted before the end of the trouble."""
    log_lines: int
    busiest_second: int
    log_samples: Mapping[str, int]
    before: Holdings
    after: Holdings
    same_process: bool
    acknowledged: int
    lost: int
    stored_after_all: int
    """Found in the database, though the answer was a 503; it calls the outcome unknown."""
    stored_in_spite: int
    """... and it does not."""
    twice: int
    broken: tuple[str, ...] = ()
    """Promises that were not kept."""
    missed: tuple[str, ...] = ()
    """Goals that were missed, which a machine with other work to do may be the reason of."""


async def suffer(stage: Stage, trouble: Trouble, *, seconds: float | None = None, lead_s: float = LEAD_S) -> Row:
    """Have a trouble happen to a stage, and see it through to the end.

    The load runs for `lead_s` before it and again after it.
    """
    load = stage.load
    await _rest(stage, lead_s=lead_s)
    before, process, first = await _holdings(stage), stage.process().pid, len(load.asks)
    load.start()
    await asyncio.sleep(lead_s * (0.3 + 0.3 * stage.random.random()))
    log_from = stage.log.stat().st_size
    began, ended = await trouble.happen(stage, trouble.seconds if seconds is None else seconds)
    await _returned(stage, ended, lead_s)
    await _rest(stage)
    after = await _holdings(stage)
    lines = stage.log.read_bytes()[log_from:].splitlines()
    arrivals = load.arrivals()
    asks = load.asks[first:]
    during = [ask for ask in asks if began <= ask.sent_at < ended]
    answers = Counter(_kind(ask) if ask.answered_at < ended else "waited" for ask in during)
    strange = [ask for ask in asks if not ask.is_acknowledged and not ask.is_told_to_return]
    accepted = [ask for ask in asks if ask.is_acknowledged]
    due = [ask.op for ask in accepted if ask.answered_at < ended]
    stored = await stage.stored()
    unanswered = [ask for ask in asks if ask.is_told_to_return and ask.op in stored]
    seconds_said = Counter(_said(line)[0] for line in lines)
    row = Row(
        trouble=trouble.name,
        way="direct" if stage.pgbouncer is None else "pgbouncer",
        lasted_s=ended - began,
        answers=dict(answers),
        unexpected=dict(Counter(f"{ask.status}: {ask.text}" for ask in strange)),
        slowest_answer_s=max((ask.seconds for ask in asks), default=0.0),
        first_201_s=min((ask.answered_at - ended for ask in accepted if ask.answered_at > ended), default=None),
        first_delivery_s=min((at - ended for times in arrivals.values() for at in times if at > ended), default=None),
        all_delivered_s=max(0.0, *(arrivals[op][0] - ended for op in due)) if set(due) <= arrivals.keys() else None,
        log_lines=len(lines),
        busiest_second=max(seconds_said.values(), default=0),
        log_samples=dict(Counter(_said(line)[1] for line in lines).most_common(6)),
        before=before,
        after=after,
        same_process=stage.node.pid == process,
        acknowledged=len(accepted),
        lost=len({ask.op for ask in accepted} - arrivals.keys()),
        stored_after_all=sum("unknown" in ask.text for ask in unanswered),
        stored_in_spite=sum("unknown" not in ask.text for ask in unanswered),
        twice=sum(len(arrivals.get(ask.op, ())) > 1 for ask in asks),
    )  # fmt: skip
    return _judged(row, trouble, during, (began, ended))


def _judged(row: Row, trouble: Trouble, during: list[Ask], window: Window) -> Row:
    """The row with what is wrong with it."""
    false = [ask for ask in during if ask.is_acknowledged and ask.answered_at < window[1]]
    broken = {
        f"{row.lost} acknowledged messages were lost": row.lost > 0,
        f"answers that are neither 201 nor 503 with Retry-After: {dict(row.unexpected)}": bool(row.unexpected),
        f"{len(false)} acknowledged that a crash could lose": trouble.acknowledges_nothing and bool(false),
        "no publish was told to come again": row.way == "direct"
        and trouble.publishes_fail
        and not row.answers.get("503"),
        f"{row.stored_in_spite} stored whose publishers were told otherwise": row.stored_in_spite > 0,
        "nothing is accepted any more": row.first_201_s is None,
        "nothing is delivered any more": row.first_delivery_s is None,
        f"{row.after.connections} connections": row.way == "direct" and row.after.connections > MOST_CONNECTIONS,
        "the process is another one": not row.same_process,
    }
    missed = {
        f"the first 201 comes after {row.first_201_s or 0:.1f} s": _is_late(row.first_201_s),
        f"the first delivery comes after {row.first_delivery_s or 0:.1f} s": _is_late(row.first_delivery_s),
        f"{row.busiest_second} log lines in a second": row.busiest_second > MOST_LINES_A_SECOND,
        f"{row.after.files - row.before.files} more open files": row.after.files > row.before.files + MOST_EXTRA_FILES,
        "memory has grown": row.after.rss_bytes > row.before.rss_bytes + MOST_EXTRA_BYTES,
    }
    return replace(row, broken=_true(broken), missed=_true(missed))


async def _returned(stage: Stage, ended: float, lead_s: float) -> None:
    """Until publishes are accepted again and something arrives, and a little longer."""
    load = stage.load
    deadline = monotonic() + _LONGEST_RETURN_S
    while monotonic() < deadline:
        accepted = any(ask.answered_at > ended and ask.is_acknowledged for ask in load.asks)
        if accepted and any(at > ended for times in load.arrivals().values() for at in times):
            break
        await asyncio.sleep(0.1)
    await asyncio.sleep(lead_s)


async def _rest(stage: Stage, *, lead_s: float = 0.0) -> None:
    """Publish for as long as given, then nothing more, until all has arrived and the node is at rest."""
    load = stage.load
    if lead_s:
        load.start()
        await asyncio.sleep(lead_s)
    await load.stop()
    deadline = monotonic() + _LONGEST_DELIVERY_S
    while load.missing() and monotonic() < deadline and stage.node.pid is not None:  # noqa: ASYNC110  nobody tells
        await asyncio.sleep(0.1)
    # Closing a connection takes the node a moment.
    deadline, least = monotonic() + _LONGEST_REST_S, stage.node.pid and stage.process().num_fds()
    while stage.node.pid is not None and monotonic() < deadline:
        await asyncio.sleep(0.3)
        files = stage.process().num_fds()
        if least is not None and files >= least:
            break
        least = files


async def _holdings(stage: Stage) -> Holdings:
    if stage.node.pid is None:
        return Holdings(0, 0, 0)
    process = stage.process()
    return Holdings(
        await stage.connections(), process.num_fds() - stage.receiver.open_connections, process.memory_info().rss
    )


def _is_late(seconds: float | None) -> bool:
    return seconds is not None and seconds > MOST_SECONDS_TO_RETURN


def _true(sentences: Mapping[str, bool]) -> tuple[str, ...]:
    return tuple(sentence for sentence, holds in sentences.items() if holds)


def _kind(ask: Ask) -> str:
    if ask.is_acknowledged or ask.is_told_to_return:
        return str(ask.status)
    return "none" if ask.status is None else f"{ask.status}!"


def _said(line: bytes) -> tuple[str, str]:
    """The second in which a line was written, and what it says without the figures."""
    try:
        found = orjson.loads(line)
    except ValueError:
        return "", line.decode(errors="replace")[:100]
    said = KNOWN_ALREADY if found.get("took_effect") is False else str(found.get("message"))
    return str(found.get("time", ""))[
        :19
    ], f"{found.get('level', '')} {''.join('#' if c.isdigit() else c for c in said)}"
