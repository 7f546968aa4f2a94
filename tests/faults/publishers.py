"""The publishers of a run, a process of its own: a steady rate of messages, whatever becomes of them.

    python -m tests.faults.publishers --nodes FILE --token T --sink-port P --out published.jsonl --seed N --rate 300 \
        (--duration SECONDS | --count MESSAGES) [--profile plain|full] [--destinations 16] [--schedules M] \
        [--retry-unknown] [--first-op 0] [--patience 30]

The file has the base URLs of the nodes, one a line, and may change. Each request goes to the next node. When that
refuses the connection nothing was sent, and the one after it is asked; if none takes it within the patience, the
outcome is REFUSED without a status. Whatever fails later is UNKNOWN. What is repeated is the same op under the same
deduplication id: with `--retry-unknown` all that is unknown, until it is answered; without, half of what has such an
id, once.

An intent is in the file before its request is sent. The process ends when all is answered, also after a SIGTERM, and
prints one line of JSON. What it wrote is read by `journal.Records([path]).of(Intent)`, and so on.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import orjson
import uvloop

from tests.faults import bodies
from tests.faults.journal import Journal
from tests.faults.mix import GROUPS, PROFILES, Ask, Mix, parallelism_of_queues
from tests.faults.records import Cancellation, Outcome, Schedule, Verdict
from tests.faults.wire import Answer, Nodes, NotSent, Unanswered

_TICK_S = 0.005
_PAUSES_S = (0.1, 0.2, 0.5, 1.0)
_MOST_UNDER_WAY = 10_000


class Publishers:
    """All clients of a run. Each message is a task, so none waits for another."""

    def __init__(
        self, mix: Mix, nodes: Nodes, journal: Journal, *, retry_unknown: bool, patience: float, seed: int
    ) -> None:
        self._mix = mix
        self._nodes = nodes
        self._journal = journal
        self._retry_unknown = retry_unknown
        self._patience = patience
        self._random = Random(f"repeat/{seed}")
        self._stop = asyncio.Event()
        self._last_call = float("inf")
        self.figures: Counter[str] = Counter()

    def stop(self) -> None:
        """Begin no more."""
        self._stop.set()

    async def prepare(self, profile: str, schedules: int) -> None:
        """Make the queues, URL groups and schedules of the mix, however long it takes."""
        for queue, parallelism in parallelism_of_queues(profile).items():
            await self._insist("/v2/queues", {}, {"queueName": queue, "parallelism": parallelism})
        for group in GROUPS if profile == "full" else ():
            endpoints = [{"url": url} for url in self._mix.endpoints(group)]
            await self._insist(f"/v2/topics/{group}/endpoints", {}, {"endpoints": endpoints})
        if schedules and (late := time.time() % 60 - 57) > 0:
            await asyncio.sleep(3 - late)  # Whether a minute counts that begins while the answer is on its way is moot.
        for number in range(schedules):
            await self._schedule(f"chaos-{self._mix.run}-{number}")

    async def publish(self, rate: float, *, duration: float | None, count: int | None) -> None:
        """Ask at this rate until the duration or the count is reached, and wait for all answers."""
        began = time.monotonic()
        async with asyncio.TaskGroup() as under_way:
            flushing = under_way.create_task(self._flush())
            asked = 0
            tasks: set[asyncio.Task[None]] = set()
            while not self._stop.is_set() and (count is None or asked < count):
                passed = time.monotonic() - began
                if duration is not None and passed >= duration:
                    break
                due: list[Ask] = []
                while asked < passed * rate and (count is None or asked < count):
                    if len(tasks) + len(due) >= _MOST_UNDER_WAY:
                        self.figures["left out"] += 1
                        asked += 1
                        continue
                    drawn = self._mix.draw()
                    asked += sum(len(ask.intents) for ask in drawn)
                    due += drawn
                self._begin(due, under_way, tasks)
                await asyncio.sleep(_TICK_S)
            self._last_call = time.monotonic() + self._patience
            while tasks:
                await asyncio.wait(tasks)
            flushing.cancel()
        self.figures["asked"] = asked
        self._journal.flush()

    def _begin(self, due: Sequence[Ask], group: asyncio.TaskGroup, tasks: set[asyncio.Task[None]]) -> None:
        now = time.monotonic()
        for ask in due:
            for intent in ask.intents:
                self._journal.add(replace(intent, at=now))
        self._journal.flush()
        for ask in due:
            task = group.create_task(self._one(ask))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    async def _one(self, ask: Ask) -> None:
        """Ask, repeat if need be, and cancel what is to be cancelled."""
        outcomes = await self._ask(ask, is_first=True)
        for number in range(sys.maxsize):
            if all(one.verdict is not Verdict.UNKNOWN for one in outcomes) or not self._repeats(ask, number):
                break
            await asyncio.sleep(_PAUSES_S[min(number, len(_PAUSES_S) - 1)])
            outcomes = await self._ask(ask, is_first=False) or outcomes
        message_id = outcomes[0].message_id
        if ask.cancel_after is not None and message_id is not None:
            await asyncio.sleep(max(0.0, outcomes[0].at + ask.cancel_after - time.monotonic()))
            await self._cancel(message_id)

    def _repeats(self, ask: Ask, number: int) -> bool:
        if not ask.can_be_repeated:
            return False
        if self._retry_unknown:
            return time.monotonic() < self._last_call
        return number == 0 and self._random.random() < 0.5

    async def _ask(self, ask: Ask, *, is_first: bool) -> list[Outcome]:
        """The outcomes of one request; none when a repetition could not be sent, which says nothing new."""
        try:
            answer = await self._nodes.request("POST", ask.path, ask.headers, ask.body, patience=self._patience)
        except NotSent:
            if not is_first:
                return []
            outcomes = [Outcome(one.op, time.monotonic(), Verdict.REFUSED) for one in ask.intents]
        except Unanswered:
            outcomes = [Outcome(one.op, time.monotonic(), Verdict.UNKNOWN) for one in ask.intents]
        else:
            outcomes = _outcomes(ask, answer, time.monotonic())
        for outcome in outcomes:
            self.figures[outcome.verdict.value] += 1
            self._journal.add(outcome)
        return outcomes

    async def _cancel(self, message_id: str) -> None:
        """Cancel a message; a cancellation of one that has ended is acknowledged like any other."""
        for number in range(sys.maxsize):
            asked_at = time.monotonic()
            try:
                answer = await self._nodes.request(
                    "DELETE", f"/v2/messages/{message_id}", {}, b"", patience=self._patience
                )
            except NotSent:
                return
            except Unanswered:
                verdict = Verdict.UNKNOWN
            else:
                verdict = _verdict(answer.status)
            self._journal.add(Cancellation(message_id, asked_at, time.monotonic(), verdict))
            self.figures[f"cancel {verdict}"] += 1
            if verdict is not Verdict.UNKNOWN or not self._retry_unknown or time.monotonic() > self._last_call:
                return
            await asyncio.sleep(_PAUSES_S[min(number, len(_PAUSES_S) - 1)])

    async def _flush(self) -> None:
        while True:
            await asyncio.sleep(0.05)
            self._journal.flush()

    async def _schedule(self, name: str) -> None:
        headers = {
            "Upstash-Cron": "* * * * *",
            "Upstash-Schedule-Id": name,
            "Upstash-Retries": "5",
            "Upstash-Retry-Delay": "200",
        }
        body = bodies.body(bodies.Content(self._mix.run, None, "tick"), "")
        await self._insist(f"/v2/schedules/{self._mix.url(f'{bodies.TICK}/{name}')}", headers, body)
        self._journal.add(Schedule(name, made_at=time.time(), ended_at=0.0))
        self._journal.flush()

    async def _insist(self, path: str, headers: dict[str, str], body: bytes | dict[str, Any]) -> None:
        """Ask until it is done. Raises `RuntimeError` when it is refused."""
        data = body if isinstance(body, bytes) else orjson.dumps(body)
        while True:
            try:
                answer = await self._nodes.request("POST", path, headers, data, patience=self._patience)
            except Unanswered:
                continue
            if answer.status < 300:
                return
            if answer.status < 500:
                raise RuntimeError(f"{path}: {answer.status} {answer.body.decode()}")
            await asyncio.sleep(0.2)


def _verdict(status: int) -> Verdict:
    if 200 <= status < 300:
        return Verdict.ACKNOWLEDGED
    return Verdict.REFUSED if 400 <= status < 500 else Verdict.UNKNOWN


def _outcomes(ask: Ask, answer: Answer, at: float) -> list[Outcome]:
    """The outcome of each message of a request that was answered."""
    verdict = _verdict(answer.status)
    if verdict is not Verdict.ACKNOWLEDGED:
        return [Outcome(one.op, at, verdict, status=answer.status) for one in ask.intents]
    document = orjson.loads(answer.body)
    elements: list[dict[str, Any]] = document if isinstance(document, list) else [document]
    if "url" in elements[0]:  # of a URL group, whose endpoints say by their paths which op is theirs
        elements.sort(key=lambda element: int(element["url"].rpartition("/")[2]))
    return [
        Outcome(
            intent.op,
            at,
            Verdict.ACKNOWLEDGED if "messageId" in element else Verdict.REFUSED,
            element.get("messageId"),
            answer.status,
            element.get("deduplicated", False),
        )
        for intent, element in zip(ask.intents, elements, strict=True)
    ]


async def _main(arguments: argparse.Namespace) -> None:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    mix = Mix(
        arguments.seed,
        arguments.profile,
        sink_port=arguments.sink_port,
        destinations=arguments.destinations,
        first_op=arguments.first_op,
        always_repeatable=arguments.retry_unknown,
    )
    nodes = Nodes(arguments.nodes, arguments.token)
    journal = Journal(arguments.out)
    publishers = Publishers(
        mix, nodes, journal,
        retry_unknown=arguments.retry_unknown, patience=arguments.patience, seed=arguments.seed,
    )  # fmt: skip
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, publishers.stop)
    await publishers.prepare(arguments.profile, arguments.schedules)
    await publishers.publish(arguments.rate, duration=arguments.duration, count=arguments.count)
    nodes.close()
    journal.close()
    sys.stdout.write(orjson.dumps(dict(publishers.figures)).decode() + "\n")


def main() -> None:
    """Publish as told, and print the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--nodes", type=Path, required=True)
    parser.add_argument("--token", required=True)
    parser.add_argument("--sink-port", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--rate", type=float, default=300)
    parser.add_argument("--duration", type=float)
    parser.add_argument("--count", type=int)
    parser.add_argument("--profile", choices=PROFILES, default="full")
    parser.add_argument("--destinations", type=int, default=16)
    parser.add_argument("--schedules", type=int, default=0)
    parser.add_argument("--retry-unknown", action="store_true")
    parser.add_argument("--first-op", type=int, default=0)
    parser.add_argument("--patience", type=float, default=30)
    uvloop.run(_main(parser.parse_args()))


if __name__ == "__main__":
    main()
