"""Seals what was stored before there was a key, in steps, while others read and write.

Messages that are finished, and the log, are left as they are: they go with retention.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeAlias
from uuid import UUID

from postroad.domain.tenant import SigningKeys
from postroad.store.engine import Connection, Database, Row, vault_of
from postroad.store.schedules import seal_stored as seal_schedule
from postroad.store.sealing import (
    places,
    seal_bytes,
    seal_json,
    seal_keys,
    seal_options,
    seal_response,
)
from postroad.store.url_groups import seal_stored as seal_url_group

STEP = 500
"""Rows that one transaction looks at."""

STEP_BYTES = 8 * 1024 * 1024
"""Bodies that one transaction reads, unless a single one is larger."""

Step: TypeAlias = Callable[[Connection, Any], Awaitable[tuple[int, Any]]]
"""Seals some rows beyond a place; gives how many, and where to go on, None after the last."""


async def seal(database: Database) -> dict[str, int]:
    """Seal all that is not sealed yet; gives how many rows of which table. It can be broken off, and run again."""
    counts = {}
    for table, (step, after) in steps().items():
        counts[table] = 0
        while after is not None:
            take = partial(_take, step, after)
            count, after = await database.repeated(take)
            counts[table] += count
    return counts


def steps() -> dict[str, tuple[Step, Any]]:
    """By table, how its rows are sealed, and the place before the first of them."""
    return {
        "signing_keys": (_signing_keys, 0),
        "url_groups": (_url_groups, 0),
        "schedules": (_schedules, (0, "")),
        "messages": (_messages, UUID(int=0)),
        "dead_letters": (_dead_letters, 0),
    }


async def _take(step: Step, after: Any, connection: Connection) -> tuple[int, Any]:
    return await step(connection, after)


async def _signing_keys(connection: Connection, after: int) -> tuple[int, int | None]:
    rows = await connection.fetch(
        """
        select tenant_id, current_key, next_key from signing_keys
        where tenant_id > $1 and sealed is null order by tenant_id limit $2 for update
        """,
        after,
        STEP,
    )
    vault = vault_of(connection)
    await connection.executemany(
        "update signing_keys set current_key = $2, next_key = $3, sealed = $4 where tenant_id = $1",
        [
            (row["tenant_id"], *seal_keys(vault, SigningKeys(row["current_key"], row["next_key"]), row["tenant_id"]))
            for row in rows
        ],
    )
    return len(rows), _last(rows, "tenant_id")


async def _url_groups(connection: Connection, after: int) -> tuple[int, int | None]:
    rows = await connection.fetch(
        """
        select id, tenant_id, name, headers from url_groups
        where id > $1 and sealed is null and headers <> '[]' order by id limit $2 for update
        """,
        after,
        STEP,
    )
    vault = vault_of(connection)
    await connection.executemany(
        "update url_groups set headers = $2::text::jsonb, sealed = $3 where id = $1",
        [(row["id"], seal_url_group(vault, row), vault.number) for row in rows],
    )
    return len(rows), _last(rows, "id")


async def _schedules(connection: Connection, after: tuple[int, str]) -> tuple[int, tuple[int, str] | None]:
    # Few at a time, because each may have a large body.
    rows = await connection.fetch(
        """
        select tenant_id, id, destination, fields, body from schedules
        where (tenant_id, id) > ($1, $2) and sealed is null order by tenant_id, id limit 20 for update
        """,
        *after,
    )
    vault = vault_of(connection)
    await connection.executemany(
        "update schedules set fields = $3::text::jsonb, body = $4, sealed = $5 where tenant_id = $1 and id = $2",
        [(row["tenant_id"], row["id"], *seal_schedule(vault, row), vault.number) for row in rows],
    )
    return len(rows), (rows[-1]["tenant_id"], rows[-1]["id"]) if rows else None


async def _messages(connection: Connection, after: UUID) -> tuple[int, UUID | None]:
    """Those that will be delivered or may be retried."""
    needed = await connection.fetch(
        """
        with needed as materialized (
          (select id from deliveries where id > $1 order by id limit $2) union
          (select message_id from dead_letters where message_id > $1 order by 1 limit $2))
        select n.id, m.size from needed n
        left join lateral (
          select octet_length(body) as size from messages where id = n.id and sealed is null limit 1) m on true
        order by n.id limit $2
        """,
        after,
        STEP,
    )
    few = _few(needed)
    rows = await connection.fetch(
        """
        select m.id, m.tenant_id, m.url, m.header, m.body, m.options from unnest($1::uuid[]) as wanted(id)
        cross join lateral (
          select * from messages where messages.id = wanted.id and sealed is null limit 1 for update) m
        """,
        [row["id"] for row in few],
    )
    vault = vault_of(connection)
    for row in rows:
        where = places(row["tenant_id"], row["id"], row["url"])
        await connection.execute(
            """
            update messages set header = $2::text::jsonb, body = $3, options = $4::text::jsonb, sealed = $5
            where id = $1 and sealed is null
            """,
            row["id"],
            seal_json(vault, row["header"], where.header),
            seal_bytes(vault, row["body"], where.body),
            None if row["options"] is None else seal_options(vault, row["options"], where.callbacks),
            vault.number,
        )
    return len(rows), few[-1]["id"] if few else None


async def _dead_letters(connection: Connection, after: int) -> tuple[int, int | None]:
    listed = await connection.fetch(
        "select id, octet_length(body) as size from dead_letters where id > $1 and sealed is null order by id limit $2",
        after,
        STEP,
    )
    few = _few(listed)
    rows = await connection.fetch(
        """
        select id, tenant_id, message_id, header, body from dead_letters
        where id = any($1::bigint[]) and sealed is null order by id for update
        """,
        [row["id"] for row in few],
    )
    vault = vault_of(connection)
    await connection.executemany(
        "update dead_letters set header = $2::text::jsonb, body = $3, sealed = $4 where id = $1",
        [
            (
                row["id"],
                *seal_response(vault, row["header"], row["body"], row["tenant_id"], row["message_id"]),
                vault.number,
            )
            for row in rows
        ],
    )
    return len(rows), few[-1]["id"] if few else None


def _few(rows: Sequence[Row]) -> Sequence[Row]:
    """The first of them whose bodies fit into a step; one always does."""
    total = 0
    for n, row in enumerate(rows):
        total += row["size"] or 0
        if n and total > STEP_BYTES:
            return rows[:n]
    return rows


def _last(rows: Sequence[Row], key: str) -> Any:
    return rows[-1][key] if rows else None
