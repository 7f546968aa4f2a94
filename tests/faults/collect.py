"""What is asked of the API and the database about a run: an audit from its beginning, and everything when it is over.

    await install_audit(database_url)                     # after `postroad migrate`, before the nodes start
    keys = await signing_keys(api_url, token)             # for the receiver
    ...
    where = api_url, token, database_url
    schedules = await end_schedules(*where, schedules=Records([published]).of(Schedule))
    left = await quiesce(*where, within=60)
    history = await collect(
        *where, seed=seed, journals=[published, received], faults=faults, nodes={pid: name}, schedules=schedules
    )

Finals are what the API says of every message, as long as there are few. Of more than `MOST_BY_API` the tables say it
of all, and the API of a sample and of all dead letters, and where these differ the word of the API is taken. A message
of which two ends are told has a final for each of them, and one that the API does not know has none.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import asyncpg
import httpx

from postroad.domain.ids import message_text
from tests.faults.journal import Records
from tests.faults.records import (
    Cancellation,
    Claim,
    Fault,
    Final,
    History,
    Intent,
    Outcome,
    Receipt,
    Schedule,
    Settlement,
    State,
)

MOST_BY_API = 5_000
SAMPLE = 2_000
"""Messages that the API is asked about when there are more."""
_PAGE = 100
"""Messages of a page of the log, and letters of a page of the DLQ."""
_LONGEST_TICK_S = 60.0
RESCUED = "the process that made the attempt was lost"

_AUDIT = """
create table chaos_audit (
  n bigint generated always as identity primary key, message_id uuid not null, lease bigint not null, outcome smallint,
  rescued boolean not null default false, application_name text not null default current_setting('application_name'),
  at timestamptz not null default clock_timestamp());

create function chaos_claimed() returns trigger language plpgsql as $$
begin
  insert into chaos_audit (message_id, lease) values (new.id, new.lease);
  return null;
end $$;

create function chaos_settled() returns trigger language plpgsql as $$
begin
  insert into chaos_audit (message_id, lease, outcome, rescued)
  values (new.message_id, new.lease, new.outcome, coalesce(new.reason = '{rescued}', false));
  return null;
end $$;

create trigger chaos_handed_over after insert on deliveries for each row when (new.state = 2)
  execute function chaos_claimed();
create trigger chaos_claimed after update on deliveries for each row
  when (new.state = 2 and (old.state <> 2 or old.lease <> new.lease)) execute function chaos_claimed();
create trigger chaos_settled after insert on attempts for each row execute function chaos_settled();
"""
"""Each lease that is given and each attempt that ends becomes a row, with the name of the connection."""


async def install_audit(database_url: str) -> None:
    """Let the database write down who claims and who settles."""
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute(_AUDIT.format(rescued=RESCUED))
    finally:
        await connection.close()


async def signing_keys(api_url: str, token: str) -> str:
    """The current and the next signing key, as the receiver wants them."""
    async with _api(api_url, token) as api:
        keys = await _get(api, "/v2/keys")
    return f"{keys['current']},{keys['next']}"


async def end_schedules(api_url: str, token: str, database_url: str, schedules: Sequence[Schedule]) -> list[Schedule]:
    """Delete the schedules at a moment when no tick is due, which is the end up to which their minutes count.

    If there is none for a long time, ticks are missing, and the checker will say so.
    """
    if not schedules:
        return []
    deadline = time.monotonic() + _LONGEST_TICK_S
    ids = [one.id for one in schedules]
    connection = await asyncpg.connect(database_url)
    try:
        async with _api(api_url, token) as api:
            while True:
                [(ended_at, is_settled)] = await connection.fetch(_TICKS, ids)
                # Not so late in a minute that the next one could begin while they are deleted.
                if (is_settled and ended_at % 60 < 57) or time.monotonic() > deadline:
                    break
                await asyncio.sleep(0.5)
            for one in ids:
                (await api.delete(f"/v2/schedules/{one}")).raise_for_status()
    finally:
        await connection.close()
    return [replace(one, ended_at=ended_at) for one in schedules]


_TICKS = """
select extract(epoch from now())::float8, coalesce(bool_and(next_at > now()), true) from schedules where id = any($1)
"""


async def quiesce(api_url: str, token: str, database_url: str, within: float) -> int:
    """Wait until no delivery is due within the hour and the API is ready. Gives how many are left when time is up."""
    deadline = time.monotonic() + within
    connection = await asyncpg.connect(database_url)
    try:
        while True:
            left: int = await connection.fetchval(
                "select count(*) from deliveries where due_at < now() + interval '1 hour'"
            )
            if not left or time.monotonic() > deadline:
                break
            await asyncio.sleep(0.1 if left < 1_000 else 1)
    finally:
        await connection.close()
    async with _api(api_url, token) as api:
        while not left and time.monotonic() < deadline:
            if (await api.get("/v2/readiness")).is_success:
                break
            await asyncio.sleep(0.1)
    return left


async def collect(
    api_url: str,
    token: str,
    database_url: str,
    *,
    seed: int,
    journals: Sequence[Path],
    nodes: Mapping[int, str],
    faults: Sequence[Fault] = (),
    schedules: Sequence[Schedule] | None = None,
    queues: Mapping[str, int] | None = None,
) -> History:
    """The history of a run that has come to rest.

    `nodes` names the process with this id, for connections that are called `postroad@<host>:<pid>`; what it does not
    name keeps the name of its connection. Without an audit there are no claims and settlements.
    """
    records = Records(journals)
    connection = await asyncpg.connect(database_url)
    try:
        claims, settlements = await _audit(connection, nodes)
        told = await _finals_of_tables(connection)
    finally:
        await connection.close()
    return History(
        seed=seed,
        intents=records.of(Intent),
        outcomes=records.of(Outcome),
        cancellations=records.of(Cancellation),
        schedules=records.of(Schedule) if schedules is None else list(schedules),
        receipts=records.of(Receipt),
        faults=[*records.of(Fault), *faults],
        claims=claims,
        settlements=settlements,
        finals=await _checked(told, api_url, token, Random(seed)),
        queues=dict(queues or {}),
    )


async def clock_offset(connection: asyncpg.Connection[asyncpg.Record]) -> float:
    """What to add to the database's Unix seconds to get the monotonic clock of this machine, by the quickest answer."""
    measured = []
    for _ in range(20):
        before = time.monotonic()
        now: float = await connection.fetchval("select extract(epoch from clock_timestamp())::float8")
        after = time.monotonic()
        measured.append((after - before, (before + after) / 2 - now))
    return min(measured)[1]


async def _audit(
    connection: asyncpg.Connection[asyncpg.Record], nodes: Mapping[int, str]
) -> tuple[list[Claim], list[Settlement]]:
    if await connection.fetchval("select to_regclass('chaos_audit')") is None:
        return [], []
    offset = await clock_offset(connection)
    rows = await connection.fetch(
        "select message_id, lease, outcome, rescued, application_name, extract(epoch from at)::float8 from chaos_audit "
        "order by n"
    )
    claims, settlements = [], []
    for message_id, lease, outcome, rescued, application_name, at in rows:
        _, _, pid = application_name.rpartition(":")
        node = nodes.get(int(pid), application_name) if pid.isdigit() else application_name
        if outcome is None:
            claims.append(Claim(message_text(message_id), lease, node, at + offset))
        else:
            settlements.append(Settlement(message_text(message_id), lease, node, at + offset, outcome, rescued))
    return claims, settlements


async def _finals_of_tables(connection: asyncpg.Connection[asyncpg.Record]) -> dict[str, list[Final]]:
    """What the tables say of every message."""
    rows = await connection.fetch(
        """
        select m.id, extract(epoch from m.created_at)::float8 as created_at, m.schedule_id, d.state,
          coalesce(a.delivered, 0) as delivered, coalesce(l.letters, 0) as letters,
          c.canceled_at is not null as canceled
        from messages m
        left join deliveries d on d.id = m.id
        left join (select message_id, count(*) filter (where outcome = 0) as delivered from attempts group by 1) a
          on a.message_id = m.id
        left join (select message_id, count(*) as letters from dead_letters group by 1) l on l.message_id = m.id
        left join cancellations c on c.message_id = m.id
        order by m.id
        """
    )
    told: dict[str, list[Final]] = {}
    for row in rows:
        states = [State.DELIVERED] * row["delivered"] + [State.FAILED] * bool(row["letters"])
        states += [State.CANCELED] * row["canceled"]
        if row["state"] is not None or not states:
            states.append(State.ACTIVE if row["state"] == 2 else State.WAITING)
        text = message_text(row["id"])
        told[text] = [Final(text, state, row["created_at"], row["letters"], row["schedule_id"]) for state in states]
    return told


async def _checked(told: Mapping[str, list[Final]], api_url: str, token: str, random: Random) -> list[Final]:
    """The finals, with the word of the API for as many as are asked about."""
    asked: Collection[str] = told
    if len(told) > MOST_BY_API:
        asked = random.sample(list(told), SAMPLE)
    async with _api(api_url, token) as api:
        letters = Counter([letter["messageId"] async for letter in _pages(api, "/v2/dlq", "messages", {})])
        said: dict[str, list[Final]] = {one: [] for one in asked}
        said |= await _finals_of_api(api, list(asked), letters)
    unheard_of = [text for text in said if text not in told]
    assert not unheard_of, f"the API knows messages that are in no table: {unheard_of[:3]}"
    return [
        replace(one, dead_letters=letters[text])
        for text, of_tables in told.items()
        for one in said.get(text, of_tables)
    ]


async def _finals_of_api(
    api: httpx.AsyncClient, asked: Sequence[str], letters: Mapping[str, int]
) -> dict[str, list[Final]]:
    """What the log says of these messages, by the events of each."""
    found: dict[str, list[Final]] = {}
    for start in range(0, len(asked), _PAGE):
        choice = {"groupBy": "messageId", "messageIds": ",".join(asked[start : start + _PAGE]), "trimBody": "true"}
        async for history in _pages(api, "/v2/logs", "messages", choice):
            text, events = history["messageId"], history["events"]
            created = next(event["time"] for event in events if event["state"] == "CREATED")
            found[text] = [
                Final(text, state, created / 1000, letters.get(text, 0), events[0].get("scheduleId"))
                for state in _states([event["state"] for event in events])
            ]
    return found


def _states(events: Sequence[str]) -> list[State]:
    """All ends that the log tells, or where the message stands."""
    if ends := [_ENDS[event] for event in events if event in _ENDS]:
        return ends
    last = next((event for event in events if event != "CANCEL_REQUESTED"), "CREATED")
    return [State.ACTIVE if last == "ACTIVE" else State.WAITING]


_ENDS = {"DELIVERED": State.DELIVERED, "FAILED": State.FAILED, "CANCELED": State.CANCELED}


async def _pages(
    api: httpx.AsyncClient, path: str, field: str, choice: Mapping[str, str]
) -> AsyncIterator[dict[str, Any]]:
    """All elements of a list, page after page."""
    cursor: dict[str, str] = {}
    while True:
        page = await _get(api, path, count=str(_PAGE), **choice, **cursor)
        for element in page[field]:
            yield element
        if not page.get("cursor"):
            return
        cursor = {"cursor": page["cursor"]}


async def _get(api: httpx.AsyncClient, path: str, **parameters: str) -> dict[str, Any]:
    answer = await api.get(path, params=parameters)
    answer.raise_for_status()
    document: dict[str, Any] = answer.json()
    return document


def _api(url: str, token: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=30)
