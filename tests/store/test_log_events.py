"""What a page of the log holds, and what it costs to find it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import UUID

import pytest

from postroad.domain.ids import MessageId
from postroad.domain.log import Event, Position, State
from postroad.store import log_events, log_searches
from postroad.store.engine import Connection
from postroad.store.filters import Filters
from postroad.store.log_searches import Search
from tests.builders import TENANT

ALL = frozenset(State)
MS = timedelta(milliseconds=1)


def a_search(*, limit: int = 100, **given: Any) -> Search:
    filters = Filters(
        given.pop("message_ids", None), given.pop("values", {}), given.pop("since", None), given.pop("until", None)
    )
    return Search(TENANT, filters, **({"states": ALL, "after": None, "limit": limit, "oldest_first": False} | given))


# Against a model: every search finds what a look at all events finds.

Key = tuple[datetime, UUID, int]


@dataclass(frozen=True)
class Line:
    """An event as the model has it."""

    key: Key
    state: State


@dataclass
class Told:
    """A message and what happened to it."""

    id: UUID
    created_at: datetime
    values: dict[str, Any]
    lines: list[Line]


class Story:
    """Messages with lives of all kinds, stored in the tables, and kept here as plain events."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.start = datetime.now(UTC) - timedelta(hours=3)
        self.told: list[Told] = []

    async def store(self, connection: Connection, count: int, tenant_id: int = TENANT) -> None:
        """Messages in bursts, so that many are created at one instant, and some retried for hours."""
        for n in range(count):
            burst = n // 7 * 7 if n % 3 else n
            await self._message(connection, self.start + burst * timedelta(seconds=9), tenant_id)

    async def _message(self, connection: Connection, created_at: datetime, tenant_id: int) -> None:
        chance = self.chance
        # The clock of the node that minted the id is not that of the database.
        minted_at = created_at + chance.randrange(-2000, 2000) * MS
        identity = MessageId(
            UUID(int=int(minted_at.timestamp() * 1000) << 80 | 7 << 76 | 2 << 62 | chance.getrandbits(60))
        )
        values = {
            "queue": chance.choice(["a", "b", None, None]),
            "labels": chance.choice([["x"], ["x", "y"], None, ["z"]]),
            "url": f"http://{chance.choice(['one', 'two'])}.example/p{chance.randrange(3)}",
            "schedule_id": "s" if chance.random() < 0.03 else None,
        }
        await connection.execute(
            "insert into messages (id, tenant_id, created_at, url, options, labels, queue, schedule_id) "
            "values ($1, $2, $3, $4, '{\"retries\": 3}', $5, $6, $7)",
            identity, tenant_id, created_at, values["url"], values["labels"], values["queue"], values["schedule_id"],
        )  # fmt: skip
        lines = [Line((created_at, identity, 0), State.CREATED)]
        at = created_at
        for lease in range(1, chance.choice([1, 2, 2, 2, 3, 5])):
            # A claim may have begun before the message was stored, and waited for it.
            at += chance.choice([-20 if lease == 1 else 20, 0, 1, 1000, 60_000, 1_800_000]) * MS
            active_at, at = at, at + chance.choice([1, 20, 3000]) * MS
            outcome = chance.choice([0, 0, 0, 1, 1, 2, 3])
            again = outcome in (1, 3)
            await connection.execute(
                "insert into attempts (message_id, tenant_id, lease, retried, active_at, ended_at, duration, outcome, "
                "next_due_at) values ($1, $2, $3, 0, $4, $5, '1 ms', $6, $7)",
                identity, tenant_id, lease, active_at, at, outcome, at if again else None,
            )  # fmt: skip
            lines.append(Line((active_at, identity, 1), State.ACTIVE))
            lines.append(Line((at, identity, 2), State.ERROR if outcome else State.DELIVERED))
            if outcome:
                lines.append(Line((at, identity, 3), State.RETRY if again else State.FAILED))
            if not again:
                break
        if chance.random() < 0.1:
            canceled_at = at + 5 * MS if chance.random() < 0.5 else None
            await connection.execute(
                "insert into cancellations (message_id, tenant_id, requested_at, canceled_at) values ($1, $2, $3, $4)",
                identity, tenant_id, at, canceled_at,
            )  # fmt: skip
            lines.append(Line((at, identity, 4), State.CANCEL_REQUESTED))
            lines += [Line((canceled_at, identity, 5), State.CANCELED)] if canceled_at else []
        elif chance.random() < 0.1:
            await connection.execute(
                "insert into deliveries (id, tenant_id, state, due_at, destination, lease, dispatcher_id, active_at) "
                "values ($1, $2, 2, $3, 1, 99, 1, $3)", identity, tenant_id, at,
            )  # fmt: skip
            if not any(line.key == (at, identity, 1) for line in lines):
                lines.append(Line((at, identity, 1), State.ACTIVE))
            else:
                await connection.execute("delete from deliveries where id = $1", identity)
        if tenant_id == TENANT:
            self.told.append(Told(identity, created_at, values, lines))

    def matching(self, search: Search) -> list[Told]:
        """Messages that match, each with the events that match, in the order of their creation."""
        filters = search.filters
        columns = {"queueName": "queue", "scheduleId": "schedule_id", "url": "url"}
        found = []
        for told in self.told:
            if filters.message_ids is not None and told.id not in filters.message_ids:
                continue
            if not all(
                set(told.values["labels"] or ()) & set(wanted)
                if name == "label"
                else told.values[columns[name]] in wanted
                for name, wanted in filters.values.items()
            ):
                continue
            lines = [
                line
                for line in told.lines
                if line.state in search.states
                and (filters.since is None or line.key[0] >= filters.since)
                and (filters.until is None or line.key[0] <= filters.until)
            ]
            if lines:
                found.append(replace_lines(told, sorted(lines, key=by_key, reverse=not search.oldest_first)))
        return sorted(found, key=lambda told: (told.created_at, told.id), reverse=not search.oldest_first)

    def lines(self, search: Search) -> list[Line]:
        """All events that match, in order."""
        lines = [line for told in self.matching(search) for line in told.lines]
        return sorted(lines, key=by_key, reverse=not search.oldest_first)

    def searches(self, count: int) -> Iterator[Search]:
        """Searches of all kinds."""
        chance = self.chance
        for _ in range(count):
            values = chance.choice(
                [
                    {},
                    {"queueName": ("a",)},
                    {"queueName": ("a", "b")},
                    {"label": ("x",)},
                    {"label": ("y", "z"), "queueName": ("b",)},
                    {"url": ("http://one.example/p1",)},
                    {"scheduleId": ("s",)},
                    {"scheduleId": ("s",), "label": ("x",)},
                    {"scheduleId": ("none",)},
                    {"scheduleId": ()},
                ]
            )
            ids = tuple(MessageId(told.id) for told in chance.sample(self.told, 12)) if chance.random() < 0.15 else None
            hours = chance.choice([1_400_000, 10_000_000])
            instants = sorted(self.start + chance.randrange(hours) * MS for _ in range(2))
            yield a_search(
                values=values,
                message_ids=ids,
                since=instants[0] if chance.random() < 0.3 else None,
                until=instants[1] if chance.random() < 0.3 else None,
                states=ALL if chance.random() < 0.5 else frozenset(chance.sample(sorted(State), chance.choice([1, 2]))),
                oldest_first=chance.random() < 0.5,
                limit=chance.choice([2, 5, 11, 50]),
            )


def by_key(line: Line) -> Key:
    return line.key


def replace_lines(told: Told, lines: list[Line]) -> Told:
    return Told(told.id, told.created_at, told.values, lines)


def line_of(event: Event) -> Line:
    return Line((event.position.at, event.position.message_id, event.position.ordinal), event.state)


@pytest.fixture(params=["as it is", "nearsighted", "with little room"])
def sight(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """How far is looked; when it is not far at first, every way of looking is needed."""
    if request.param != "as it is":
        monkeypatch.setattr(log_searches, "FIRST_EVENTS", 0)
    if request.param == "with little room":
        monkeypatch.setattr(log_searches, "MOST_LISTED", 40)


@pytest.mark.usefixtures("sight")
@pytest.mark.parametrize("seed", [1, 2])
async def test_pages_hold_what_a_look_at_everything_finds(connection: Connection, seed: int) -> None:
    story = Story(seed)
    await story.store(connection, 150)
    await story.store(connection, 20, tenant_id=2)

    for search in story.searches(30):
        seen: list[Line] = []
        after: Position | None = None
        while True:
            events, after = await log_events.page(connection, replace(search, after=after))
            assert len(events) <= search.limit
            seen += [line_of(event) for event in events]
            if after is None:
                break
            assert len(events) == search.limit
        assert seen == story.lines(search), search


@pytest.mark.usefixtures("sight")
@pytest.mark.parametrize("seed", [1, 2])
async def test_histories_hold_what_a_look_at_everything_finds(connection: Connection, seed: int) -> None:
    story = Story(seed)
    await story.store(connection, 150)
    await story.store(connection, 20, tenant_id=2)

    for search in story.searches(30):
        seen: list[tuple[UUID, list[Line]]] = []
        after: Position | None = None
        while True:
            page, after = await log_events.histories(connection, replace(search, after=after))
            assert len(page) <= search.limit
            seen += [(history.message_id, [line_of(event) for event in history.events]) for history in page]
            if after is None:
                break
            assert len(page) == search.limit
        assert seen == [(told.id, told.lines) for told in story.matching(search)], search


# Cost: a page must not read what it does not show, however many events there are, of whatever messages.


@pytest.fixture
async def crowd(connection: Connection) -> None:
    """300,000 events of 100,000 messages of yesterday; five are of a rare kind, four of ten of a busy one, the first
    5,000 of a kind that came no more. All in one partition: of one that is small, a plan may well read the whole.
    """
    await connection.execute(
        """
        insert into messages (id, tenant_id, created_at, url, options, labels, queue, flow_key, schedule_id, url_group)
        select (lpad(to_hex((extract(epoch from at) * 1000)::bigint), 12, '0') || '7' || lpad(to_hex(n & 4095), 3, '0')
                || '8' || substr(md5(n::text), 1, 15))::uuid,
          1, at, 'http://127.0.0.1:9/', '{"retries": 3}', case when kind is not null then array[kind] end,
          kind, kind, kind, kind
        from (select n, date_trunc('day', now(), 'UTC') - interval '22 hours' + n * interval '0.7 s' as at,
                case when n % 20000 = 7 then 'rare' when n < 5000 then 'past' when n % 5 < 2 then 'busy' end as kind
              from generate_series(0, 99999) n) g
        """
    )
    await connection.execute(
        """
        insert into attempts (message_id, tenant_id, lease, retried, active_at, ended_at, duration, outcome)
        select id, 1, 1, 0, created_at + interval '2 ms', created_at + interval '30 ms', '28 ms', 0 from messages
        """
    )
    await connection.execute("analyze messages")
    await connection.execute("analyze attempts")


class Explaining:
    """A connection that notes which tables and indexes its statements read, and how many rows of them."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.scans: list[tuple[str, str]] = []
        self.indexes: set[str] = set()
        self.rows = 0

    async def fetchval(self, sql: str, *arguments: Any) -> Any:
        return await self.connection.fetchval(sql, *arguments)

    async def fetch(self, sql: str, *arguments: Any) -> list[Any]:
        prepared = await self.connection.prepare(sql)
        self._read(await prepared.explain(*arguments, analyze=True))
        return await prepared.fetch(*arguments)

    def _read(self, node: Any) -> None:
        if isinstance(node, list):
            for one in node:
                self._read(one)
        elif isinstance(node, dict):
            if "Relation Name" in node and node["Actual Loops"]:
                read = (
                    node["Actual Rows"]
                    + node.get("Rows Removed by Filter", 0)
                    + node.get("Rows Removed by Index Recheck", 0)
                )
                self.rows += read * node["Actual Loops"]
                if read:
                    self.scans.append((node["Node Type"], node["Relation Name"]))
            self.indexes.add(node.get("Index Name", ""))
            for value in node.values():
                self._read(value)


@pytest.mark.usefixtures("crowd")
async def test_a_page_is_read_through_indexes_however_few_or_many_match(connection: Connection) -> None:
    kinds = {
        "label": "labels",
        "queueName": "queue",
        "flowControlKey": "flow_key",
        "scheduleId": "schedule_id",
        "topicName": "url_group",
    }
    row = await connection.fetchrow("select created_at, id from messages order by created_at offset 50000 limit 1")
    assert row is not None
    middle = Position(row["created_at"], row["id"], 0)
    plain = [a_search(), a_search(oldest_first=True), a_search(after=middle), a_search(states=frozenset({State.ERROR}))]
    of_ids = [a_search(message_ids=(middle.message_id,), values=values) for values in ({}, {"label": ("busy",)})]
    of_kind = [
        a_search(values={name: (value,)}, after=after, oldest_first=oldest_first)
        for name in kinds
        for value in ("rare", "busy", "past", "absent")
        for after, oldest_first in ((None, False), (middle, False), (middle, True))
    ]

    for search in plain + of_ids + of_kind:
        explaining = Explaining(connection)
        events, _ = await log_events.page(cast("Connection", explaining), search)
        assert [table for kind, table in explaining.scans if kind == "Seq Scan"] == [], search
        assert explaining.rows < 20_000, search
        [(name, value)] = search.filters.values.items() or [("", ("",))]
        if search in of_kind and search.after is None:
            assert len(events) == {"rare": 15, "busy": 100, "past": 100, "absent": 0}[value[0]]
        if value[0] in ("rare", "past") and search.after is None:
            index = "labels" if name == "label" else f"tenant_id_{kinds[name]}_created_at"
            assert any(index in used for used in explaining.indexes), search


@pytest.mark.usefixtures("crowd")
async def test_a_page_of_histories_is_read_through_indexes(connection: Connection) -> None:
    searches = [
        a_search(limit=10, values=values, states=states)
        for values in ({}, {"queueName": ("rare",)}, {"label": ("busy",)})
        for states in (ALL, frozenset({State.DELIVERED}), frozenset({State.FAILED}))
    ]
    for search in searches:
        explaining = Explaining(connection)
        found, _ = await log_events.histories(cast("Connection", explaining), search)
        assert len(found) == (
            0 if search.states == {State.FAILED} else 5 if "queueName" in search.filters.values else 10
        )
        assert [table for kind, table in explaining.scans if kind == "Seq Scan"] == [], search
        assert explaining.rows < 20_000, search
