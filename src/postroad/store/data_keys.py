"""Data keys: unlocked when a node starts, made anew, and wrapped anew when there is another master key."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from postroad.errors import Misconfigured
from postroad.store.connecting import Connection, Row, vault_of
from postroad.vault import MasterKey, new_data_key

USED_AFTER = timedelta(seconds=30)
"""How old a data key is before anything is sealed with it: every node has read it by then."""

_LOCK = 7_064_116_843_114
"""Of a transaction-level advisory lock: one process at a time changes data keys."""

_SINCE = "0006"
"""The oldest program that can read what is sealed."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DataKey:
    """A data key as operators see it: who wrapped it, and whether new rows are sealed with it."""

    number: int
    master: str
    is_used: bool


async def unlock(connection: Connection, masters: Sequence[MasterKey]) -> None:
    """Open the vault of the connection with the keys that the database has, or with a first one.

    Without master keys it stays closed, and there must be no data key. Raises `Misconfigured`.
    """
    async with connection.transaction():
        rows = await _locked(connection)
        if not masters and rows:
            raise Misconfigured(
                "secrets in this database are sealed: set POSTROAD_ENCRYPTION_KEY to the key with the fingerprint "
                f"{rows[-1]['master']}"
            )
        by_fingerprint = {master.fingerprint: master for master in masters}
        for row in rows:
            if row["master"] not in by_fingerprint:
                raise Misconfigured(
                    f"POSTROAD_ENCRYPTION_KEY does not open data key {row['id']}: that needs the key with the "
                    f"fingerprint {row['master']}, not {', '.join(by_fingerprint)}"
                )
        if masters and not rows:
            await _make(connection, masters[0], 1)
            # A program that knows nothing of data keys would take what is sealed for what was published.
            await connection.execute(
                "update schema_compatibility set oldest_program = greatest(oldest_program, $1)", _SINCE
            )
            rows = await _all(connection)
    _fill(connection, masters, rows)


async def refresh(connection: Connection, masters: Sequence[MasterKey]) -> None:
    """Take up what other processes have made since. One that cannot be opened is noted in the vault."""
    rows, vault = await _all(connection), vault_of(connection)
    known = {master.fingerprint for master in masters}
    missing = next((row["id"] for row in rows if row["id"] not in vault.keys and row["master"] not in known), None)
    if missing is not None and vault.waits_for is None:
        _log.error("data key %d is in use, and POSTROAD_ENCRYPTION_KEY of this node does not open it", missing)
    vault.waits_for = missing
    if rows and masters:
        _fill(connection, masters, rows)


async def list_(connection: Connection) -> list[DataKey]:
    """All data keys."""
    rows = await _all(connection)
    return [DataKey(row["id"], row["master"], row["id"] == _used(rows)) for row in rows]


async def renew(connection: Connection, masters: Sequence[MasterKey]) -> int:
    """Make a data key for rows that are new half a minute from now on; gives its number. Raises `Misconfigured`."""
    await unlock(connection, masters)
    async with connection.transaction():
        number: int = (await _locked(connection))[-1]["id"] + 1
        await _make(connection, masters[0], number)
    return number


async def rewrap(connection: Connection, masters: Sequence[MasterKey]) -> int:
    """Wrap all data keys with the first master key, so that the others are needed no more; gives how many.

    Raises `Misconfigured`.
    """
    await unlock(connection, masters)
    by_fingerprint = {master.fingerprint: master for master in masters}
    async with connection.transaction():
        old = [row for row in await _locked(connection) if row["master"] != masters[0].fingerprint]
        for row in old:
            key = by_fingerprint[row["master"]].unwrap(row["wrapped"], row["id"])
            await connection.execute(
                "update data_keys set wrapped = $2, master = $3 where id = $1",
                row["id"],
                masters[0].wrap(key, row["id"]),
                masters[0].fingerprint,
            )
    return len(old)


async def _locked(connection: Connection) -> list[Row]:
    await connection.execute("select pg_advisory_xact_lock($1)", _LOCK)
    return await _all(connection)


async def _all(connection: Connection) -> list[Row]:
    return await connection.fetch(
        "select id, wrapped, master, created_at <= now() - $1::interval as is_known from data_keys order by id",
        USED_AFTER,
    )


async def _make(connection: Connection, master: MasterKey, number: int) -> None:
    await connection.execute(
        "insert into data_keys (id, wrapped, master) values ($1, $2, $3)",
        number,
        master.wrap(new_data_key(), number),
        master.fingerprint,
    )


def _fill(connection: Connection, masters: Sequence[MasterKey], rows: Sequence[Row]) -> None:
    vault = vault_of(connection)
    if not rows:
        return
    by_fingerprint = {master.fingerprint: master for master in masters}
    keys = {
        row["id"]: by_fingerprint[row["master"]].unwrap(row["wrapped"], row["id"])
        for row in rows
        if row["id"] not in vault.keys and row["master"] in by_fingerprint
    } | dict(vault.keys)
    vault.unlock(keys, _used([row for row in rows if row["id"] in keys]))


def _used(rows: Sequence[Row]) -> int:
    """The number of the one that new rows are sealed with: the newest that everybody knows, else the first."""
    number: int = max((row["id"] for row in rows if row["is_known"]), default=rows[0]["id"])
    return number
