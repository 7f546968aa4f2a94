"""The load of a run: what publishers ask for arrives, is written down, and is found in the end."""

from __future__ import annotations

import asyncio
import re
import socket
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import httpx
import pytest

from postroad.domain.signature import signature
from tests.conftest import KEYS, TOKEN, Running, Serve, eventually
from tests.faults import bodies, collect
from tests.faults.journal import Journal, Records
from tests.faults.mix import Mix
from tests.faults.records import Claim, History, Intent, Outcome, Receipt, Schedule, State, Verdict
from tests.faults.script import Mood, Script

ROOT = Path(__file__).parents[2]
SEED = 11


@asynccontextmanager
async def program(name: str, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """One of the programs of a run; it is killed if it has not ended by itself."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", f"tests.faults.{name}", *arguments, cwd=ROOT)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@asynccontextmanager
async def sink(directory: Path, profile: str) -> AsyncIterator[int]:
    """The receiver, which ends properly; gives its port."""
    port, keys = directory / "port", f"{KEYS.current},{KEYS.next}"
    async with program(
        "sink", "--port-file", str(port), "--out", str(directory / "received"), "--seed", str(SEED), "--keys", keys,
        "--profile", profile,
    ) as process:  # fmt: skip
        await eventually(lambda: asyncio.to_thread(port.exists), bool)
        yield int(port.read_text())
        process.terminate()
        assert await process.wait() == 0


async def publish(directory: Path, port: int, nodes: list[str], *arguments: str) -> None:
    (directory / "nodes").write_text("\n".join(nodes))
    async with program(
        "publishers", "--nodes", str(directory / "nodes"), "--token", TOKEN, "--sink-port", str(port),
        "--seed", str(SEED), "--out", str(directory / "published"), *arguments,
    ) as process:  # fmt: skip
        assert await process.wait() == 0


async def load(server: Running, directory: Path, profile: str, *arguments: str, more: tuple[str, ...] = ()) -> History:
    """A run of all programs against this server, and others before it."""
    where = server.url, TOKEN, server.database_url
    journals = [directory / "published", directory / "received"]
    async with sink(directory, profile) as port:
        await publish(directory, port, [*more, server.url], *arguments)
        schedules = await collect.end_schedules(*where, schedules=Records(journals[:1]).of(Schedule))
        assert await collect.quiesce(*where, within=60) == 0
    return await collect.collect(*where, seed=SEED, journals=journals, nodes={}, schedules=schedules)


async def test_everything_arrives_and_all_that_is_written_down_agrees(
    serve: Serve, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await collect.install_audit(database_url)
    server = await serve(region="N0-1")

    history = await load(server, tmp_path, "chaotic", "--rate", "250", "--count", "250", "--schedules", "2")

    intents = {intent.op: intent for intent in history.intents}
    acknowledged = {outcome.op: outcome for outcome in history.outcomes if outcome.verdict is Verdict.ACKNOWLEDGED}
    assert len(intents) == len(history.intents) >= 250
    assert set(acknowledged) == set(intents)
    assert any(outcome.deduplicated for outcome in history.outcomes)
    assert any(one.verdict is Verdict.ACKNOWLEDGED for one in history.cancellations)

    finals = {final.message_id: final for final in history.finals}
    assert len(finals) == len(history.finals)
    assert {outcome.message_id for outcome in acknowledged.values()} <= set(finals)
    assert {final.state for final in finals.values()} <= {State.DELIVERED, State.FAILED, State.CANCELED}
    assert all(final.dead_letters == (final.state is State.FAILED) for final in finals.values())

    succeeded = {receipt.message_id for receipt in history.receipts if receipt.succeeded}
    assert succeeded == {final.message_id for final in finals.values() if final.state is State.DELIVERED}
    assert all(receipt.body_is_right and receipt.signature_is_right for receipt in history.receipts)
    assert {receipt.node for receipt in history.receipts} == {"N0-1"}
    of_ops = [receipt for receipt in history.receipts if receipt.op is not None]
    winners = {one.op: one.message_id for one in acknowledged.values() if not one.deduplicated}
    assert {receipt.op: receipt.message_id for receipt in of_ops}.items() <= winners.items()
    assert all(one.began > intents[one.op].at + intents[one.op].delay for one in of_ops if one.op is not None)
    reported = {receipt.callback_of for receipt in history.receipts if not receipt.failed} - {None}
    assert reported == {op for op, intent in intents.items() if intent.callback}

    claims = {(claim.message_id, claim.lease): claim for claim in history.claims}
    settlements = {(one.message_id, one.lease): one for one in history.settlements}
    assert len(claims) == len(history.claims)
    assert set(claims) == set(settlements)
    assert all(claims[key].at < settlements[key].at for key in claims)
    assert Counter(one for one, _ in claims) == Counter(receipt.message_id for receipt in history.receipts)
    first: dict[str, Claim] = {}
    for claim in history.claims:
        first.setdefault(claim.message_id, claim)
    # The offset between two clocks is known as well as the database can be asked.
    assert all(receipt.began > first[receipt.message_id].at - 0.05 for receipt in history.receipts)
    assert [0 < schedule.made_at < schedule.ended_at for schedule in history.schedules] == [True, True]
    await say_the_same(server, monkeypatch)


async def say_the_same(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """The API and the tables, also of messages that wait or were cancelled; and the tables when something is lost."""
    where = server.url, TOKEN, server.database_url
    waiting, canceled = [await server.publish("http://127.0.0.1:9/", Upstash_Delay="2h") for _ in range(2)]
    assert (await server.http.delete(f"/v2/messages/{canceled}")).json() == {"cancelled": 1}
    assert await collect.quiesce(*where, within=0) == 0
    by_api = await said(server)
    monkeypatch.setattr(collect, "MOST_BY_API", 1)
    monkeypatch.setattr(collect, "SAMPLE", 0)

    assert await said(server) == by_api
    assert {(waiting, State.WAITING, 0), (canceled, State.CANCELED, 0)} <= by_api

    connection = await asyncpg.connect(server.database_url)
    await connection.execute("update deliveries set due_at = now() + interval '1 minute'")
    await connection.execute("delete from dead_letters")
    await connection.execute("delete from attempts")
    await connection.close()
    assert {state for _, state, _ in await said(server)} == {State.WAITING, State.CANCELED}
    assert await collect.quiesce(*where, within=0) == 1


async def said(server: Running) -> set[tuple[str, State, int]]:
    where = server.url, TOKEN, server.database_url
    history = await collect.collect(*where, seed=SEED, journals=[], nodes={})
    return {(one.message_id, one.state, one.dead_letters) for one in history.finals}


async def test_what_is_unknown_is_repeated_as_the_same_message(server: Running, tmp_path: Path) -> None:
    """Before one node the answers are swallowed, and another takes no connection at all."""
    node = urlsplit(server.url)

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        (length,) = re.findall(rb"Content-Length: (\d+)", request)
        answers, onward = await asyncio.open_connection(node.hostname, node.port)
        onward.write(request + await reader.readexactly(int(length)))
        await answers.readuntil(b"\r\n\r\n")
        onward.close()
        writer.close()

    silent = await asyncio.start_server(swallow, "127.0.0.1", 0)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        others = tuple(f"http://127.0.0.1:{one.getsockname()[1]}" for one in (silent.sockets[0], closed))
        history = await load(
            server, tmp_path, "calm", "--profile", "plain", "--rate", "200", "--count", "40", "--retry-unknown",
            more=others,
        )  # fmt: skip
    silent.close()

    verdicts = {
        intent.op: [one.verdict for one in history.outcomes if one.op == intent.op] for intent in history.intents
    }
    assert len(verdicts) == 40
    assert all(these[-1] is Verdict.ACKNOWLEDGED for these in verdicts.values())
    assert {verdict for these in verdicts.values() for verdict in these[:-1]} == {Verdict.UNKNOWN}
    assert any(outcome.deduplicated for outcome in history.outcomes)
    assert len(history.finals) == 40


async def test_the_receiver_sees_what_is_wrong(tmp_path: Path) -> None:
    async with sink(tmp_path, "calm") as port, httpx.AsyncClient() as client:

        async def send(path: str, body: bytes, *, key: str = KEYS.next, signed: bytes | None = None) -> None:
            url = f"http://127.0.1.2:{port}{path}"
            token = signature(key, url, body if signed is None else signed, int(time.time()), "jti")
            headers = {"Upstash-Signature": token, "Upstash-Message-Id": path, "Upstash-Retried": "2"}
            await client.post(url, content=body, headers=headers)

        good = bodies.body(bodies.Content(SEED, 7, "plain"), "pad")
        await send("/m/7", good)
        await send("/m/8", good)
        await send("/group/2", good)
        await send("/m/7", good.replace(b"pad", b"bad"))
        await send("/never", good)
        await send("/m/7", good, key="sig_other")
        await send("/m/7", good, signed=b"")
        await send("/callback/7", b"{}")

    receipts = Records([tmp_path / "received"]).of(Receipt)
    assert [(one.op, one.body_is_right, one.signature_is_right) for one in receipts] == [
        (7, True, True),
        (8, False, True),
        (9, True, True),
        (7, False, True),
        (None, False, True),
        (7, True, False),
        (7, True, False),
        (None, False, True),
    ]
    assert all(one.retried == 2 and one.status == 200 and one.began < one.ended for one in receipts)
    assert receipts[-1].callback_of == 7


def test_half_a_record_at_the_end_of_a_journal_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = Journal(path)
    records = [Intent(1, 2.5, queue="q"), Intent(2, 3.5)]
    for record in records:
        journal.add(record)
    journal.add(Outcome(1, 4.0, Verdict.UNKNOWN))
    journal.close()
    path.write_bytes(path.read_bytes() + b'["Intent",{"op":3,')

    found = Records([path])

    assert found.of(Intent) == records
    assert found.of(Outcome) == [Outcome(1, 4.0, Verdict.UNKNOWN)]


def test_a_seed_gives_the_same_asks_and_the_same_answers() -> None:
    def drawn(seed: int) -> list[object]:
        mix = Mix(seed, "full", sink_port=9, destinations=4, first_op=0, always_repeatable=False)
        return [mix.draw() for _ in range(200)]

    def answers(seed: int) -> list[Mood]:
        return [Script(seed, "chaotic").answer(str(op), 0).mood for op in range(1000)]

    assert drawn(1) == drawn(1) != drawn(2)
    assert answers(1) == answers(1) != answers(2)
    assert set(answers(1)) == set(Mood)
