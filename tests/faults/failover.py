"""Failovers under load: the standby is cut off, the primary dies, the standby is promoted, the old primary comes back.

`python -m tests.faults.failover --count 20 --seed 1` prints a line for each and exits with 1 when an acknowledged
message is missing, or was acknowledged while nothing reached the standby. With `--asynchronous` commits wait for no
standby, and what is missing is printed as a number.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import monotonic
from typing import Annotated, Literal

import httpx
import orjson
import typer

from postroad.domain.ids import parse_message_id
from postroad.store import migrations
from tests.faults.cluster import Cluster
from tests.faults.postgres import run_directory
from tests.faults.replication import DATABASE, Member, Pair, Rebuild, replicated
from tests.receiver import Receiver

TOKEN = "a-token-for-a-failover"

Hostility = Literal["cancel", "terminate", "none"]

_IN_MEMORY = Path("/dev/shm").is_dir()
_PUBLISHERS = 24
_ENOUGH = 50
"""Acknowledgements before a round begins, and after a promotion before it counts as done."""
_LONGEST_OUTAGE_S = 120.0
_LONGEST_DRAIN_S = 90.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What is done in a round.

    `hostility` is what happens to backends whose commit waits for the standby that does not answer. A `silent` machine
    is one from which clients hear nothing when it dies; else they are refused. `cut_off` is a primary that its clients
    do not reach either. With `early`, the standby is promoted before the old primary dies.
    """

    partition_s: float
    hostility: Hostility
    silent: bool
    cut_off: bool
    early: bool
    rebuild: Rebuild

    @classmethod
    def draw(cls, rng: random.Random) -> Plan:
        """A plan of a seeded schedule."""
        return cls(
            partition_s=round(rng.uniform(1, 3), 1),
            hostility=rng.choice(("cancel", "cancel", "cancel", "terminate", "none")),
            silent=rng.random() < 0.5,
            cut_off=rng.random() < 0.25,
            early=rng.random() < 0.25,
            rebuild=rng.choice(("rewind", "base backup")),
        )

    def __str__(self) -> str:
        marks = {"silent": self.silent, "cut off": self.cut_off, "early": self.early}
        return ", ".join([f"{self.partition_s} s", self.hostility, *(name for name, on in marks.items() if on)])


@dataclass(slots=True)
class Round:
    """What came of a plan. `false` acknowledgements are of requests that began when nothing reached the standby.

    `stranded` are messages that only the old primary has: every one would be a false acknowledgement of a server that
    believes each answer of PostgreSQL. `outage_s` reaches from the last acknowledgement before to the first after the
    promotion, `back_after_s` from the promotion.
    """

    number: int
    plan: Plan
    acknowledged: int = 0
    unknown: int = 0
    disturbed: int = 0
    false: int = 0
    lost: int = 0
    stranded: int = 0
    outage_s: float = 0.0
    back_after_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """A 201, and when it was asked for and given."""

    message_id: str
    asked_at: float
    answered_at: float


@dataclass(slots=True)
class Load:
    """Publishers at a steady rate that write down what they were told."""

    urls: Sequence[str]
    destination: str
    rate: float
    acknowledged: list[Acknowledgement] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    """All that was no acknowledgement: statuses, and kinds of errors."""
    troubles: list[str] = field(default_factory=list)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Publish in the background."""
        async with httpx.AsyncClient(headers={"Authorization": f"Bearer {TOKEN}"}, timeout=40) as client:
            publishers = [asyncio.create_task(self._publish(client, number)) for number in range(_PUBLISHERS)]
            try:
                yield
            finally:
                for publisher in publishers:
                    publisher.cancel()
                await asyncio.gather(*publishers, return_exceptions=True)

    @property
    def unknown(self) -> int:
        """Requests that were not acknowledged."""
        return self.answers.total()

    async def acknowledge(self, count: int, *, asked_after: float) -> Acknowledgement:
        """Wait for so many acknowledgements that were asked for after an instant; gives the first one answered."""
        deadline = monotonic() + _LONGEST_OUTAGE_S
        while len(found := [one for one in self.acknowledged[-1000:] if one.asked_at > asked_after]) < count:
            if monotonic() > deadline:
                raise TimeoutError(f"{len(found)} acknowledgements in {_LONGEST_OUTAGE_S:.0f} s; {dict(self.answers)}")
            await asyncio.sleep(0.05)
        return min(found, key=lambda one: one.answered_at)

    async def _publish(self, client: httpx.AsyncClient, number: int) -> None:
        pause_s = _PUBLISHERS / self.rate
        await asyncio.sleep(pause_s * number / _PUBLISHERS)
        for turn in range(sys.maxsize):
            asked_at = monotonic()
            url = self.urls[(number + turn) % len(self.urls)]
            try:
                answer = await client.post(f"{url}/v2/publish/{self.destination}", content=f"{number}.{turn}")
            except httpx.TransportError as error:
                self.answers[type(error).__name__] += 1
            else:
                self._note(answer, asked_at)
            await asyncio.sleep(max(0.0, asked_at + pause_s - monotonic()))

    def _note(self, answer: httpx.Response, asked_at: float) -> None:
        if answer.status_code == 201:
            self.acknowledged.append(Acknowledgement(answer.json()["messageId"], asked_at, monotonic()))
            return
        self.answers[str(answer.status_code)] += 1
        if answer.status_code != 503 or "Retry-After" not in answer.headers:
            self.troubles.append(f"{answer.status_code} {dict(answer.headers)} {answer.text[:200]}")


class Failovers:
    """Round after round on one pair of servers."""

    def __init__(self, pair: Pair, load: Load) -> None:
        self._pair = pair
        self._load = load
        self.rounds: list[Round] = []

    async def play(self, plan: Plan) -> Round:
        """One failover, from a pair that works to a pair that works the other way round."""
        load, pair = self._load, self._pair
        this = Round(len(self.rounds) + 1, plan)
        self.rounds.append(this)
        await load.acknowledge(_ENOUGH, asked_after=monotonic())
        known, unknown = len(load.acknowledged), load.unknown

        partitioned_at = monotonic()
        pair.primary.replication.partition()
        if plan.cut_off:
            pair.primary.clients.partition()
        this.disturbed = await _interfere(pair.primary, plan.hostility, plan.partition_s)
        promoted_at = await self._fail_over(plan)

        first = await load.acknowledge(1, asked_after=promoted_at)
        await load.acknowledge(_ENOUGH, asked_after=promoted_at)
        before = [one for one in load.acknowledged if one.answered_at < promoted_at]
        this.back_after_s = first.answered_at - promoted_at
        this.outage_s = first.answered_at - max(one.answered_at for one in before)
        this.false = sum(one.asked_at > partitioned_at for one in before)
        lost_before = sum(one.lost for one in self.rounds)
        this.lost = len(await self.missing(load.acknowledged)) - lost_before
        this.stranded = await self._stranded()
        await pair.rebuild(plan.rebuild)
        this.acknowledged, this.unknown = len(load.acknowledged) - known, load.unknown - unknown
        return this

    @property
    def acknowledged(self) -> list[Acknowledgement]:
        """All that was acknowledged so far."""
        return self._load.acknowledged

    async def missing(self, acknowledged: Sequence[Acknowledgement]) -> set[str]:
        """Which of these messages the primary does not know."""
        by_id = {parse_message_id(one.message_id): one.message_id for one in acknowledged}
        async with self._pair.primary.server.connection(DATABASE) as connection:
            rows = await connection.fetch("select id from messages where id = any($1::uuid[])", list(by_id))
        return set(by_id.values()) - {by_id[row["id"]] for row in rows}

    async def _fail_over(self, plan: Plan) -> float:
        """Let the primary die and promote the standby, or the other way round; gives when that was asked for."""
        dying = self._pair.primary
        if plan.early:
            promoted_at = await self._pair.promote()
            self.rounds[-1].disturbed += await _interfere(dying, plan.hostility, 1.0)
        if plan.silent:
            dying.clients.partition()
        await dying.kill()
        # What the primary had sent and the wire had not passed on is gone with it.
        dying.replication.refuse()
        if not plan.silent:
            dying.clients.refuse()
        return promoted_at if plan.early else await self._pair.promote()

    async def _stranded(self) -> int:
        """How many recent messages the old primary has and the new one has not."""
        query = "select id from messages where created_at > now() - interval '5 minutes'"
        async with self._pair.exhumed() as old:
            ids = [row["id"] for row in await old.fetch(query)]
        async with self._pair.primary.server.connection(DATABASE) as connection:
            rows = await connection.fetch("select id from messages where id = any($1::uuid[])", ids)
        return len(ids) - len(rows)


async def _interfere(member: Member, hostility: Hostility, seconds: float) -> int:
    """For so long, let no commit of this server wait in peace; gives how many were disturbed.

    A wait that is cancelled is answered as a success, with a warning.
    """
    if hostility == "none":
        await asyncio.sleep(seconds)
        return 0
    query = (
        f"select count(pg_{hostility}_backend(pid)) from pg_stat_activity "
        "where backend_type = 'client backend' and wait_event = 'SyncRep'"
    )
    until, disturbed = monotonic() + seconds, 0
    async with member.server.connection() as connection:
        while (left := until - monotonic()) > 0:
            disturbed += await connection.fetchval(query)
            await asyncio.sleep(min(left, 0.05))
    return disturbed


@dataclass(slots=True)
class Report:
    """All rounds, and what is left when nothing moves any more."""

    seed: int
    synchronous: bool
    rounds: list[Round]
    acknowledged: int = 0
    lost: int = 0
    undelivered: int = 0
    """Acknowledged messages that the primary has and that never reached the receiver."""
    stuck: int = 0
    """Deliveries that do not end."""
    repeated: int = 0
    """Messages that reached the receiver more than once: their outcome was not known to the new primary."""
    answers: dict[str, int] = field(default_factory=dict)
    troubles: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Whether everything that was promised was kept."""
        broken = self.undelivered or self.stuck or self.troubles
        false = any(one.false for one in self.rounds)
        return not broken and not (self.synchronous and (self.lost or false))


async def run(
    *, count: int, seed: int, rate: float, synchronous: bool = True, nodes: int = 2, plans: Sequence[Plan] = ()
) -> Report:
    """So many failovers under load, by given plans or drawn ones; prints a line for each."""
    rng = random.Random(seed)
    plans = plans or [Plan.draw(rng) for _ in range(count)]
    with run_directory(memory=_IN_MEMORY) as directory:
        async with Receiver() as receiver, replicated(directory, synchronous=synchronous) as pair:
            await migrations.migrate(pair.url)
            settings = {"DATABASE_URL": pair.url, "TOKEN": TOKEN, "DESTINATIONS": "any", "LOG_FORMAT": "text"}
            settings = {f"POSTROAD_{name}": value for name, value in settings.items()}
            cluster = Cluster(directory / "nodes", nodes=nodes, seed=seed, settings=settings)
            try:
                await cluster.start()
                load = Load(cluster.urls, receiver.url(), rate)
                failovers = Failovers(pair, load)
                typer.echo(_HEAD)
                async with load.running():
                    for plan in plans:
                        typer.echo(_line(await failovers.play(plan)))
                report = Report(seed, synchronous, failovers.rounds, len(load.acknowledged), answers=dict(load.answers))
                await _settle(report, failovers, receiver, pair)
                report.troubles = load.troubles + cluster.troubles
                await cluster.stop()
                return report
            finally:
                await cluster.destroy()


async def _settle(report: Report, failovers: Failovers, receiver: Receiver, pair: Pair) -> None:
    """Wait until nothing moves any more, and count what there is."""
    deadline = monotonic() + _LONGEST_DRAIN_S
    while (  # noqa: ASYNC110  no event announces it
        left := await pair.primary.value("select count(*) from deliveries")
    ) and monotonic() < deadline:
        await asyncio.sleep(0.1)
    report.stuck = left
    acknowledged = failovers.acknowledged
    missing = await failovers.missing(acknowledged)
    received = Counter(request.header("Upstash-Message-Id") for request in receiver.requests())
    report.lost = len(missing)
    report.undelivered = len({one.message_id for one in acknowledged} - missing - set(received))
    report.repeated = sum(times > 1 for times in received.values())


_HEAD = "round  acknowledged  unknown  disturbed  stranded  false  lost  outage s  after promotion s  plan"


def _line(one: Round) -> str:
    return (
        f"{one.number:5}  {one.acknowledged:12}  {one.unknown:7}  {one.disturbed:9}  {one.stranded:8}  {one.false:5}"
        f"  {one.lost:4}  {one.outage_s:8.1f}  {one.back_after_s:17.1f}  {one.plan}"
    )


def main(
    count: Annotated[int, typer.Option(help="Failovers.")] = 20,
    seed: Annotated[int, typer.Option(help="Draws the plans.")] = 1,
    rate: Annotated[float, typer.Option(help="Messages a second.")] = 100.0,
    nodes: Annotated[int, typer.Option(help="Nodes.")] = 2,
    asynchronous: Annotated[bool, typer.Option(help="Commits wait for no standby.")] = False,
    file: Annotated[Path | None, typer.Option("--json", help="Where the report goes as JSON.")] = None,
) -> None:
    """Fail over again and again under load."""
    report = asyncio.run(run(count=count, seed=seed, rate=rate, synchronous=not asynchronous, nodes=nodes))
    outages = sorted(one.outage_s for one in report.rounds)
    typer.echo(
        f"\n{len(report.rounds)} failovers, seed {seed}, {'a' if asynchronous else ''}synchronous: "
        f"acknowledged {report.acknowledged}, not acknowledged {report.answers}, lost {report.lost}, "
        f"false acknowledgements {sum(one.false for one in report.rounds)}, "
        f"stored by a lost primary only {sum(one.stranded for one in report.rounds)}, "
        f"undelivered {report.undelivered}, stuck {report.stuck}, delivered more than once {report.repeated}, "
        f"outage median {outages[len(outages) // 2]:.1f} s, longest {outages[-1]:.1f} s"
    )
    for trouble in report.troubles[:20]:
        typer.echo(f"trouble: {trouble}")
    if file is not None:
        file.write_bytes(orjson.dumps(asdict(report), option=orjson.OPT_INDENT_2))
    raise typer.Exit(0 if report.is_clean else 1)


if __name__ == "__main__":
    typer.run(main)
