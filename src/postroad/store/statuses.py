"""Where messages stand, put together from what is stored once; and what their handlers report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from postroad.domain.ids import MessageId
from postroad.domain.redaction import parse_redaction
from postroad.domain.status import Line, Phase, Report, Status
from postroad.domain.tenant import TenantId
from postroad.errors import KeyMissing, Unopenable
from postroad.store.deliveries import RESULT_BYTES, Ended
from postroad.store.engine import Connection, Row, statement, vault_of
from postroad.store.sealing import open_bytes, open_response, report_place, seal_bytes
from postroad.vault import Vault

_STATUSES = statement("statuses")
_ACTIVE = 2


async def find(connection: Connection, tenant_id: TenantId, ids: Sequence[MessageId]) -> list[Status]:
    """Where these messages of a tenant stand, as far as there is anything left of them."""
    vault = vault_of(connection)
    return [_status(row, vault) for row in await connection.fetch(_STATUSES, list(ids), tenant_id)]


@dataclass(frozen=True, slots=True)
class NewReport:
    """A report on its way into the store, of the attempt with this lease if that is known."""

    tenant_id: TenantId
    message_id: MessageId
    report: Report
    lease: int | None


async def add(connection: Connection, reports: Sequence[NewReport]) -> None:
    """Store reports of any tenants in their order, with one statement; each is a sign of life of its attempt.

    Whose the messages are was found out before.
    """
    vault = vault_of(connection)
    await connection.execute(
        """
        with given as materialized (
          select * from unnest($1::uuid[], $2::int[], $3::real[], $4::bytea[], $5::bytea[], $6::bytea[], $8::bigint[])
            with ordinality as g(message_id, tenant_id, progress, note, log, result, lease, n)),
        alive as materialized (
          select message_id from waits w
          where message_id = any($1) and exists (
            select from given g where g.message_id = w.message_id and coalesce(g.lease, w.lease) = w.lease)
          order by message_id for update),
        prolonged as (
          update waits set deadline = now() + span where message_id = any(array(select message_id from alive)))
        insert into reports (message_id, tenant_id, progress, note, log, result, sealed)
        select message_id, tenant_id, progress, note, log, result, $7 from given order by n
        """,
        [one.message_id for one in reports],
        [one.tenant_id for one in reports],
        [one.report.progress for one in reports],
        [_sealed(vault, one, "note", _bytes(one.report.note)) for one in reports],
        [_sealed(vault, one, "log", _bytes(one.report.log)) for one in reports],
        [_sealed(vault, one, "result", one.report.result) for one in reports],
        vault.number,
        [one.lease for one in reports],
    )


async def log_lines(
    connection: Connection, tenant_id: TenantId, message_id: MessageId, *, after: int, limit: int
) -> tuple[list[Line], int]:
    """The next lines of the log of a message's handler, and the number of the last one."""
    rows = await connection.fetch(
        """
        select number, reported_at, log, sealed from reports
        where message_id = $1 and tenant_id = $2 and number > $3 and log is not null order by number limit $4
        """,
        message_id,
        tenant_id,
        after,
        limit,
    )
    vault = vault_of(connection)
    where = report_place("log", tenant_id, message_id)
    lines = [Line(row["reported_at"], _opened(vault, row["log"], row["sealed"], where).decode()) for row in rows]
    return lines, rows[-1]["number"] if rows else after


def _status(row: Row, vault: Vault) -> Status:
    identity, tenant_id = row["id"], row["tenant_id"]
    phase = _phase(row)
    note = row["note"]
    if note is not None:
        note = _opened(vault, note, row["note_sealed"], report_place("note", tenant_id, identity)).decode()
    result = row["result"]
    if result is not None:
        result = _opened(vault, result, row["result_sealed"], report_place("result", tenant_id, identity))
    elif phase is Phase.COMPLETED and row["body"]:
        result = _response(vault, row)
    times = [row[name] for name in ("created_at", "active_at", "ended_at", "canceled_at", "reported_at")]
    progress = row["progress"]
    return Status(
        identity,
        tenant_id,
        phase,
        created_at=row["created_at"],
        updated_at=max(time for time in times if time is not None),
        attempts=row["ended"] + (row["state"] == _ACTIVE),
        progress=100.0 if phase is Phase.COMPLETED else progress,
        note=note,
        error=None if phase is Phase.COMPLETED else row["reason"],
        result=result,
        is_cut=row["result"] is None and len(result or b"") >= RESULT_BYTES,
        hides_body=row["redact"] is not None and parse_redaction(row["redact"]).body,
    )


def _phase(row: Row) -> Phase:
    if row["state"] is not None:
        return Phase.PROCESSING if row["state"] == _ACTIVE else Phase.PENDING
    if row["canceled_at"] is not None:
        return Phase.CANCELED
    return Phase.COMPLETED if row["outcome"] == Ended.DELIVERED else Phase.FAILED


def _response(vault: Vault, row: Row) -> bytes:
    try:
        _, body = open_response(vault, None, row["body"], row["sealed"], row["tenant_id"], row["id"])
    except (KeyMissing, Unopenable) as error:
        return str(error).encode()
    return body or b""


def _sealed(vault: Vault, one: NewReport, name: str, value: bytes | None) -> bytes | None:
    if vault.number is None:
        return value
    return seal_bytes(vault, value, report_place(name, one.tenant_id, one.message_id))


def _opened(vault: Vault, value: bytes, number: int | None, where: bytes) -> bytes:
    try:
        return open_bytes(vault, value, number, where) or b""
    except (KeyMissing, Unopenable) as error:
        return str(error).encode()


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else text.encode()
