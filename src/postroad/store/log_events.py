"""The log: merged from messages, attempts, deliveries and cancellations, page by page, with keys that never change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import sha256
from uuid import UUID

from postroad.domain.ids import MessageId
from postroad.domain.log import MOST_BODY_BYTES, Event, History, Position, State
from postroad.domain.message import StoredMessage
from postroad.domain.redaction import parse_redaction
from postroad.domain.reply import Headers
from postroad.errors import KeyMissing, Unopenable
from postroad.store.engine import Connection, Row, statement, vault_of
from postroad.store.log_searches import Search, find, find_by_message
from postroad.store.messages import fetch_body, message_of
from postroad.store.sealing import open_response
from postroad.vault import OVERHEAD

PAGE_BODY_BYTES = 16 * 1024 * 1024
"""A page ends early when it would hold more of bodies: that of a message comes again with each of its events."""

_FETCH = statement("fetch") + "-- for readers"
"""A text of its own: one that claims and readers use in turn, under two roles, is planned anew each time."""


async def page(
    connection: Connection, search: Search, *, body_bytes: int = MOST_BODY_BYTES
) -> tuple[list[Event], Position | None]:
    """Up to `search.limit` events, and the position of the last one if there are more.

    Going on by (instant, message, ordinal) neither repeats nor skips an event that was there at the start, whatever is
    written meanwhile. Of each body come the first `body_bytes` bytes. An event whose message was dropped by retention
    is left out.
    """
    rows = await find(connection, search)
    shown = rows[: search.limit]
    details = await _details(connection, shown, body_bytes)
    events = [details.event(row) for row in shown]
    n = _fitting(0 if event is None else _body_bytes(event) for event in events)
    return [event for event in events[:n] if event is not None], _position(rows[n - 1]) if n < len(rows) else None


async def histories(
    connection: Connection, search: Search, *, body_bytes: int = MOST_BODY_BYTES
) -> tuple[list[History], Position | None]:
    """Up to `search.limit` messages in the order of their creation, with their events; and the last one's position.

    They come when they have events that match, and with these. `search.after` is the position of a history.
    """
    found = await find_by_message(connection, search)
    shown = found[: search.limit]
    details = await _details(connection, [row for _, rows in shown for row in rows], body_bytes)
    page = [
        History(message["id"], message["created_at"], tuple(e for row in rows if (e := details.event(row)) is not None))
        for message, rows in shown
    ]
    n = _fitting(sum(_body_bytes(event) for event in history.events) for history in page)
    return page[:n], page[n - 1].position if n < len(found) else None


@dataclass(frozen=True, slots=True)
class _Details:
    """What events show beside their keys."""

    messages: Mapping[MessageId, StoredMessage]
    hashes: Mapping[UUID, bytes | None]
    attempts: Mapping[tuple[UUID, int], _Ended]

    def event(self, row: Row) -> Event | None:
        """The event with this key; None when its message is gone."""
        stored = self.messages.get(row["message_id"])
        if stored is None:
            return None
        event = Event(_position(row), State(row["state"]), stored, body_hash=self.hashes.get(row["message_id"]))
        if event.state is State.CREATED and stored.not_before > stored.created_at:
            return replace(event, next_due_at=stored.not_before)
        attempt = self.attempts.get((row["message_id"], row["lease"]))
        if attempt is None:
            return event
        match event.state:
            case State.RETRY:
                return replace(event, next_due_at=attempt.next_due_at)
            case State.ERROR:
                return replace(
                    event,
                    reason=attempt.reason,
                    status=attempt.status,
                    headers=attempt.headers,
                    body=attempt.body,
                )
            case State.FAILED:
                return replace(event, reason=attempt.reason)
        return event


@dataclass(frozen=True, slots=True)
class _Ended:
    """What is stored of an attempt."""

    status: int | None
    reason: str | None
    next_due_at: datetime | None
    headers: Headers
    body: bytes | None


async def _details(connection: Connection, rows: Sequence[Row], body_bytes: int) -> _Details:
    ids = list({row["message_id"] for row in rows})
    found = await connection.fetch(_FETCH, ids, body_bytes, OVERHEAD)
    sealed = {row["id"] for row in found if row["sealed"] is not None}
    stored = {row["id"]: message_of(row, vault_of(connection)) for row in found}
    left = [one for one in stored.values() if one.message.body is None and one.message.body_bytes and body_bytes]
    cut = {
        row["id"]: (row["body"], row["hash"])
        for row in await _cut(connection, [one for one in left if one.message.id not in sealed], body_bytes)
    }
    for one in left:
        if one.message.id in sealed:
            cut[one.message.id] = await _cut_sealed(connection, one, body_bytes)
        if one.message.id in cut:
            stored[one.message.id] = replace(one, message=replace(one.message, body=cut[one.message.id][0]))
    bad = [row for row in rows if row["state"] in (State.ERROR, State.RETRY, State.FAILED)]
    return _Details(
        messages=stored,
        hashes={identity: of_whole for identity, (_, of_whole) in cut.items()},
        attempts=await _attempts(connection, bad, body_bytes),
    )


async def _cut_sealed(
    connection: Connection, stored: StoredMessage, body_bytes: int
) -> tuple[bytes | None, bytes | None]:
    """The same of a sealed body, which can be opened only as a whole: so one of them is in memory at a time."""
    try:
        body = await fetch_body(connection, stored.message.id)
    except LookupError:
        return None, None
    except (KeyMissing, Unopenable) as error:
        body = str(error).encode()
    return (None, sha256(body).digest()) if _is_hashed(stored) else (body[:body_bytes], None)


async def _cut(connection: Connection, left: Sequence[StoredMessage], body_bytes: int) -> list[Row]:
    """The beginnings of bodies that stayed behind, read no further than that; the hash where nothing else is shown."""
    if not left:
        return []
    return await connection.fetch(
        """
        select k.id, case when k.hashed then sha256(m.body) end as hash,
          case when not k.hashed then substring(m.body for $3) end as body
        from unnest($1::uuid[], $2::boolean[]) as k(id, hashed)
        cross join lateral (select body from messages where id = k.id and sealed is null limit 1) m
        """,
        [one.message.id for one in left],
        [_is_hashed(one) for one in left],
        body_bytes,
    )


async def _attempts(connection: Connection, rows: Sequence[Row], body_bytes: int) -> dict[tuple[UUID, int], _Ended]:
    """The attempts of these ends of attempts, each looked up in the partition of its end."""
    if not rows:
        return {}
    keys = {(row["message_id"], row["lease"], row["at"]) for row in rows}
    found = await connection.fetch(
        """
        select a.message_id, a.lease, a.status, a.reason, a.header, a.next_due_at, a.ended_at, a.tenant_id, a.sealed,
          a.sealed is not null and octet_length(a.body) > $4::int + $5::int as is_left,
          case when $4 > 0 then coalesce(
            case when a.sealed is null then substring(a.body for $4)
              when octet_length(a.body) <= $4 + $5 then a.body end,
            '') end as body
        from unnest($1::uuid[], $2::bigint[], $3::timestamptz[]) as k(message_id, lease, ended_at)
        cross join lateral (
          select * from attempts
          where attempts.message_id = k.message_id and attempts.lease = k.lease and attempts.ended_at = k.ended_at
          limit 1) a
        """,
        *zip(*keys, strict=True),
        body_bytes,
        OVERHEAD,
    )
    return {(row["message_id"], row["lease"]): await _ended(connection, row, body_bytes) for row in found}


async def _ended(connection: Connection, row: Row, body_bytes: int) -> _Ended:
    body = row["body"]
    if row["is_left"] and body_bytes:
        # Sealed, and so to be opened as a whole: one by one.
        body = await connection.fetchval(
            "select body from attempts where message_id = $1 and lease = $2 and ended_at = $3",
            row["message_id"],
            row["lease"],
            row["ended_at"],
        )
    response = (row["header"], body, row["sealed"])
    try:
        headers, body = open_response(vault_of(connection), *response, row["tenant_id"], row["message_id"])
    except (KeyMissing, Unopenable) as error:
        headers, body = (), str(error).encode()
    return _Ended(row["status"], row["reason"], row["next_due_at"], headers, body[:body_bytes] if body else body)


def _is_hashed(stored: StoredMessage) -> bool:
    redact = stored.message.options.redact
    return redact is not None and parse_redaction(redact).body


def _position(row: Row) -> Position:
    return Position(row["at"], row["message_id"], row["n"])


def _body_bytes(event: Event) -> int:
    return len(event.stored.message.body or b"") + len(event.body or b"")


def _fitting(sizes: Iterable[int]) -> int:
    """How many of the first fit into a page; one always does."""
    n, total = 0, 0
    for size in sizes:
        total += size
        if n and total > PAGE_BODY_BYTES:
            return n
        n += 1
    return n
