"""Row-level security as the second wall: whose rows can be seen behind it, and what happens where it cannot stand."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from postroad.domain.ids import MessageId
from postroad.domain.tenant import TenantId
from postroad.errors import DatabaseUnavailable
from postroad.store import dead_letters, lookups, migrations, wall
from postroad.store.engine import Connection, Database, DataRefused
from postroad.store.filters import Filters
from postroad.store.tables_of_console import metadata
from tests.conftest import Serve

ONE, OTHER = TenantId(1), TenantId(2)
WITH_TENANTS = [table.name for table in metadata.sorted_tables if "tenant_id" in table.c]
READABLE = sorted({table for table, verb, _ in wall.RIGHTS if verb == "select" and table != "tenants"})
FORBIDDEN = sorted({table.name for table in metadata.sorted_tables} - {table for table, _, _ in wall.RIGHTS})

# One row each of both tenants. The ids are of no day, so the messages are among those that are kept.
FILL = """
insert into messages (id, kept, tenant_id, url, labels)
  select lpad(t::text, 32, '0')::uuid, true, t, 'http://x', array['shared'] from (values (1), (2)) v(t);
insert into deliveries (id, tenant_id, state, due_at, destination) select id, tenant_id, 1, now(), 1 from messages;
insert into attempts (message_id, tenant_id, lease, retried, active_at, duration, outcome)
  select id, tenant_id, 1, 0, now(), '1 s', 0 from messages;
insert into dead_letters (tenant_id, message_id) select tenant_id, id from messages;
insert into cancellations (tenant_id, message_id) select tenant_id, id from messages;
insert into queues (tenant_id, name) select tenant_id, 'q' from messages;
insert into flow_keys (tenant_id, key) select tenant_id, 'k' from messages;
insert into url_groups (tenant_id, name) select tenant_id, 'g' from messages;
insert into schedules (tenant_id, id, cron, destination, fields, next_at)
  select tenant_id, 's', '* * * * *', 'http://x', '[]', 'infinity' from messages;
insert into bulk_actions (id, tenant_id, kind, filter, filter_hash, total, held_until)
  select id::text, tenant_id, 'cancel', '{}', '', 1, now() from messages;
insert into reports (message_id, tenant_id, progress) select id, tenant_id, 1 from messages;
insert into waits (message_id, tenant_id, lease, span, deadline) select id, tenant_id, 1, '1 min', now() from messages;
insert into activity select tenant_id, now(), '', 1, 1, 1, 1, 1, 1, 1 from messages;
insert into audit_entries (tenant_id, actor, action, target, outcome)
  select tenant_id, 'a', 'retry', 't', 'done' from messages;
insert into dead_letter_runs (tenant_id, actor, kind, q, total) select tenant_id, 'a', 'retry', '', 1 from messages;
insert into sessions (hash, tenant_id, expires_at) select id::text::bytea, tenant_id, now() from messages;
"""


@pytest.fixture
async def filled(connection: Connection, database: Database) -> Database:
    """A database with something of two tenants."""
    async with connection.transaction():
        await connection.execute(FILL)
    return database


# Whose rows


async def test_every_table_with_a_tenant_is_behind_the_wall(connection: Connection) -> None:
    secured = await connection.fetch(
        """
        select c.relname from pg_class c join pg_policy p on p.polrelid = c.oid
        where c.relrowsecurity and not c.relforcerowsecurity and p.polname = 'tenants_apart' and p.polroles = '{0}'
        """
    )

    assert {row["relname"] for row in secured} == {*WITH_TENANTS, "tenants"}


@pytest.mark.parametrize("table", READABLE)
async def test_a_tenant_sees_its_rows_and_no_others(filled: Database, connection: Connection, table: str) -> None:
    assert {row[0] for row in await connection.fetch(f"select tenant_id from {table}")} == {ONE, OTHER}

    for tenant_id in (ONE, OTHER):
        async with filled.reading(tenant_id) as behind:
            assert {row[0] for row in await behind.fetch(f"select tenant_id from {table}")} == {tenant_id}
            for other in (ONE, OTHER, 0, -1):
                found = await behind.fetchval(f"select count(*) from {table} where tenant_id = $1", other)
                assert found == (1 if other == tenant_id else 0)


@pytest.mark.parametrize("setting", [None, "", "0"])
@pytest.mark.parametrize("table", READABLE)
async def test_without_a_tenant_nothing_is_seen(
    filled: Database, connection: Connection, table: str, setting: str | None
) -> None:
    async with connection.transaction():
        await connection.execute(f"set local role {wall.ROLE}")
        if setting is not None:
            await connection.execute(f"set local {wall.SETTING} = '{setting}'")
        assert await connection.fetchval(f"select count(*) from {table}") == 0


@pytest.mark.parametrize("setting", [None, "", "1"])
async def test_functions_that_look_past_the_wall_mind_the_tenant(
    filled: Database, connection: Connection, setting: str | None
) -> None:
    async with connection.transaction():
        await connection.execute(f"set local role {wall.ROLE}")
        if setting is not None:
            await connection.execute(f"set local {wall.SETTING} = '{setting}'")
        labelled = await connection.fetch("select id from postroad_labelled(array['shared'], null)")
        unfinished = await connection.fetch(
            "select id from postroad_unfinished('00000000-0000-0000-0000-000000000000', 10)"
        )

    mine = [await connection.fetchval("select id from messages where tenant_id = 1")] if setting == "1" else []
    assert [row["id"] for row in labelled] == mine
    assert [row["id"] for row in unfinished] == mine


async def test_of_many_labelled_messages_no_more_are_looked_at_than_asked_for(filled: Database) -> None:
    async with filled.reading(ONE) as behind:
        ids = await behind.fetch("select id from postroad_labelled(array['shared'], 2)")

    assert [row["id"] is None for row in ids] == [False, True]


CHANGES = {
    "a row of another's": "update {table} set tenant_id = tenant_id where tenant_id = 2",
    "every row": "update {table} set tenant_id = tenant_id",
    "the owner of its own": "update {table} set tenant_id = 2",
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("table", sorted({table for table, verb, _ in wall.RIGHTS if verb == "update"} - {"tenants"}))
async def test_nothing_of_anothers_can_be_changed(
    filled: Database, connection: Connection, table: str, change: str
) -> None:
    async def versions() -> list[Any]:
        return await connection.fetch(f"select xmin, ctid, tenant_id from {table} where tenant_id = 2 order by ctid")

    before = await versions()
    with suppress(asyncpg.InsufficientPrivilegeError):
        async with filled.changing(ONE) as behind:
            await behind.execute(change.format(table=table))

    assert await versions() == before


@pytest.mark.parametrize("table", sorted({table for table, verb, _ in wall.RIGHTS if verb == "delete"}))
async def test_nothing_of_anothers_can_be_deleted(filled: Database, connection: Connection, table: str) -> None:
    async with filled.changing(ONE) as behind:
        await behind.execute(f"delete from {table}")

    assert [row[0] for row in await connection.fetch(f"select tenant_id from {table}")] == [OTHER]


@pytest.mark.parametrize(
    "statement",
    [
        "insert into queues (tenant_id, name) values (2, 'new')",
        "insert into queues (tenant_id, name) values (2, 'q') on conflict (tenant_id, name) do update set paused = 't'",
        "insert into flow_keys (tenant_id, key) values (2, 'new')",
        "insert into url_groups (tenant_id, name) values (2, 'new')",
        "insert into cancellations (tenant_id, message_id) values (2, gen_random_uuid())",
        "insert into messages (id, tenant_id, url) values (gen_random_uuid(), 1, 'http://x')",
        "insert into deliveries (id, tenant_id, state, due_at, destination) values (gen_random_uuid(), 1, 1, now(), 1)",
        "insert into dead_letters (tenant_id, message_id) values (1, gen_random_uuid())",
        "update dead_letters set reason = 'x'",
        "update tenants set parallelism = 1",
        "update messages set url = 'http://y'",
        "delete from messages",
        "select failure_callback from tenants",
        "lock table messages in access exclusive mode",
        "alter table messages disable row level security",
        "drop policy tenants_apart on messages",
        "create table mine (id int)",
    ],
)
async def test_what_management_does_not_need_is_refused(filled: Database, statement: str) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with filled.changing(ONE) as behind:
            await behind.execute(statement)


@pytest.mark.parametrize("table", [*FORBIDDEN, "alembic_version"])
async def test_what_holds_secrets_or_moves_messages_is_out_of_reach(filled: Database, table: str) -> None:
    assert {"tokens", "signing_keys", "dispatchers", "data_keys", "deduplications"} <= set(FORBIDDEN)

    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with filled.reading(ONE) as behind:
            await behind.fetch(f"select * from {table}")


async def test_who_reads_changes_nothing(filled: Database, connection: Connection) -> None:
    with pytest.raises(DatabaseUnavailable):
        async with filled.reading(ONE) as behind:
            await behind.execute("delete from queues")

    assert await connection.fetchval("select count(*) from queues") == 2


async def test_behind_the_wall_a_refused_value_is_one_and_nothing_is_stored(filled: Database) -> None:
    async def insert(behind: Connection) -> None:
        await behind.execute("insert into queues (tenant_id, name) values (1, 'stays out')")
        await behind.execute("insert into queues (tenant_id, name, parallelism) values (1, 'p', 0)")

    with pytest.raises(DataRefused):
        await filled.repeated(insert, tenant_id=ONE)

    async with filled.reading(ONE) as behind:
        assert await behind.fetchval("select count(*) from queues") == 1


# What is left behind


async def _fails(_: Connection) -> None:
    raise LookupError


async def _is_wrong(behind: Connection) -> None:
    await behind.execute("select 1 / 0")


async def _is_cancelled(behind: Connection) -> None:
    async with asyncio.timeout(0.05):
        await behind.execute("select pg_sleep(30)")


async def _loses_the_connection(behind: Connection) -> None:
    # Whom the role may not end, the user may.
    await behind.execute("set local role none; select pg_terminate_backend(pg_backend_pid())")


async def _goes_well(behind: Connection) -> None:
    assert await behind.fetchval("select current_user") == wall.ROLE


async def _leaves(behind: Connection) -> None:
    await wall.leave(behind)
    assert await behind.fetchval("select current_user") != wall.ROLE


@pytest.mark.parametrize("work", [_goes_well, _leaves, _fails, _is_wrong, _is_cancelled, _loses_the_connection])
@pytest.mark.parametrize("reads", [True, False])
async def test_nothing_is_left_to_the_next_user_of_a_connection(
    database_url: str, work: Callable[[Connection], Awaitable[None]], reads: bool
) -> None:
    database = await Database.connect(database_url, connections=1)
    try:
        for _ in range(3):
            with suppress(LookupError, TimeoutError, DataRefused, DatabaseUnavailable):
                async with database.reading(ONE) if reads else database.changing(ONE) as behind:
                    await work(behind)
            async with database.connection() as free:
                state = "select current_user <> $1, coalesce(current_setting('postroad.tenant', true), '')"
                assert tuple(await free.fetchrow(state, wall.ROLE) or ()) == (True, "")
                assert await free.fetchval("show transaction_read_only") == "off"
                assert not free.is_in_transaction()
    finally:
        await database.close()


async def test_two_tenants_take_turns_on_one_connection(filled: Database, database_url: str) -> None:
    """Statements are prepared once for a connection, and must not remember whom they were planned for."""
    database = await Database.connect(database_url, connections=1)
    try:
        for turn in range(30):
            tenant_id = (ONE, OTHER)[turn % 2]
            async with database.reading(tenant_id) as behind:
                assert [row[0] for row in await behind.fetch("select tenant_id from messages")] == [tenant_id]
            async with database.connection() as free:
                assert len(await free.fetch("select tenant_id from messages")) == 2
    finally:
        await database.close()


# Where the wall is not


async def downgraded(url: str, revision: str) -> None:
    """Take the schema back to what an older version knows."""
    from alembic import command
    from alembic.config import Config
    from sqlalchemy import Connection as SyncConnection

    from postroad.store.connecting import sqlalchemy_engine

    def down(connection: SyncConnection) -> None:
        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parents[2] / "migrations"))
        config.set_main_option("path_separator", "os")
        config.attributes["connection"] = connection
        command.downgrade(config, revision)

    engine = sqlalchemy_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(down)
    await engine.dispose()


async def test_a_node_works_without_a_wall_that_its_schema_does_not_have_and_finds_it_when_it_is_built(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await downgraded(database_url, "0006")
    monkeypatch.setattr(wall, "LOOK_AGAIN_S", 0.0)
    database = await Database.connect(database_url)
    try:
        async with database.changing(ONE) as connection:
            assert await connection.fetchval("select current_user") != wall.ROLE
            await connection.execute("insert into queues (tenant_id, name) values (1, 'old')")
        async with database.reading(ONE) as connection:
            assert await connection.fetchval("select name from queues") == "old"

        await migrations.migrate(database_url)

        async with database.reading(ONE) as connection:
            assert await connection.fetchval("select current_user") == wall.ROLE
            assert await connection.fetchval("select name from queues") == "old"
    finally:
        await database.close()


async def test_a_node_serves_on_the_oldest_schema_that_it_names(database_url: str, serve: Serve) -> None:
    await downgraded(database_url, migrations.OLDEST_SCHEMA)

    server = await serve()
    message_id = await server.publish("http://127.0.0.1:9/x")

    assert (await server.http.get(f"/v2/messages/{message_id}")).status_code == 200
    assert (await server.http.post("/v2/keys/rotate")).status_code == 200
    assert (await server.http.delete("/v2/messages", params={"messageIds": message_id})).status_code == 202


async def test_an_operator_can_do_without(database_url: str) -> None:
    database = await Database.connect(database_url, walled=False)
    try:
        async with database.reading(ONE) as connection:
            assert await connection.fetchval("select current_user") != wall.ROLE
    finally:
        await database.close()


# What looks past it


async def fill_by_label(connection: Connection) -> None:
    """Sixty unfinished messages of two tenants in turn, of which every third has a label and every fifth is dead."""
    await connection.execute(
        """
        insert into messages (id, kept, tenant_id, url, labels)
          select lpad(n::text, 32, '0')::uuid, true, 1 + n % 2, 'http://x', case when n % 3 = 0 then array['rare'] end
          from generate_series(1, 60) n;
        insert into deliveries (id, tenant_id, state, due_at, destination, cancel_requested_at)
          select id, tenant_id, 1, now(), 1, case when right(id::text, 1) = '7' then now() end from messages;
        insert into dead_letters (tenant_id, message_id)
          select tenant_id, id from messages where right(id::text, 1) in ('0', '5');
        """
    )


RARE = Filters(values={"label": ("rare",)})


async def walk(connection: Connection, tenant_id: TenantId, filters: Filters, reach: int) -> list[MessageId]:
    """All that looks of this reach find, one after the other."""
    found: list[MessageId] = []
    after: MessageId | None = None
    while True:
        looked = await lookups.look_through(connection, tenant_id, filters, after=after, limit=4, reach=reach)
        found += looked.ids
        if (after := looked.after) is None:
            return found


@pytest.mark.parametrize("reach", [1, 3, 7, 59, 60, 61])
@pytest.mark.parametrize("filters", [Filters(), RARE])
async def test_looks_through_what_is_unfinished_find_the_same_behind_it(
    database: Database, connection: Connection, filters: Filters, reach: int
) -> None:
    await fill_by_label(connection)
    for tenant_id in (ONE, OTHER):
        expected = await walk(connection, tenant_id, filters, reach)
        count, _ = await lookups.count_through(connection, tenant_id, filters, after=None, reach=60)
        assert len(expected) == count > 5

        async with database.reading(tenant_id) as behind:
            assert await walk(behind, tenant_id, filters, reach) == expected
            assert await lookups.count_through(behind, tenant_id, filters, after=None, reach=60) == (
                count,
                await connection.fetchval("select id from deliveries order by id desc limit 1"),
            )


async def test_a_label_finds_the_same_behind_it_and_says_when_many_have_it(
    database: Database, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill_by_label(connection)
    letters = partial(dead_letters.page, numbers=None, statuses=None, before=None, limit=100)
    for tenant_id in (ONE, OTHER):
        expected = await lookups.find_by_message(connection, tenant_id, RARE)
        dead = await letters(connection, tenant_id, RARE)
        assert expected
        assert dead

        for most in (19, 20, 100):
            monkeypatch.setattr(lookups, "MOST_BY_MESSAGE", most)
            monkeypatch.setattr(dead_letters, "_FEW", most)
            async with database.reading(tenant_id) as behind:
                found = await lookups.find_by_message(behind, tenant_id, RARE)
                assert found == (None if most < 20 else expected)
                assert await letters(behind, tenant_id, RARE) == dead
