"""What was published: inserted by the group, read back by id."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import orjson

from postroad.domain.ids import MessageId
from postroad.domain.message import DIRECT, METHODS, After, Message, NotBefore, Options, Origin, StoredMessage
from postroad.domain.options import from_json, to_json
from postroad.domain.reply import Headers
from postroad.domain.tenant import TenantId
from postroad.errors import Damaged, KeyMissing, PostroadError, Unopenable
from postroad.store.deliveries import Place, release
from postroad.store.engine import Connection, Row, statement, vault_of
from postroad.store.sealing import (
    open_bytes,
    open_json,
    open_options,
    places,
    plain_size,
    seal_bytes,
    seal_json,
    seal_options,
)
from postroad.vault import OVERHEAD, Vault

FETCH_LIMIT = 500
"""Messages fetched at once, which bounds the memory of one claim."""

TRAVELLING_BODY_BYTES = 64 * 1024
"""Bodies up to this size come with a claim and may be handed over; larger ones are fetched when they are sent."""

_INSERT_PLAIN = statement("insert_plain")
_INSERT = statement("insert")
_FETCH = statement("fetch")
_METHOD_NUMBER = {method: number for number, method in enumerate(METHODS)}


@dataclass(slots=True)
class NewMessage:
    """A message on its way into the store.

    `mine` asks for it to be leased to the inserting dispatcher at once; `place` is that of the message that it is a
    callback of.
    """

    message: Message
    destination: int
    deduplication_key: bytes | None = None
    mine: bool = False
    place: Place | None = None

    @property
    def is_plain(self) -> bool:
        """Nothing about it needs more than the two rows that every message has."""
        options = self.message.options
        return (
            self.deduplication_key is None
            and options.queue is None
            and options.flow_control is None
            and self.place is None
            and self.message.origin is DIRECT
        )

    @property
    def is_gated(self) -> bool:
        """It may have to wait for others to end."""
        options = self.message.options
        return options.queue is not None or options.flow_control is not None or self.place is not None


@dataclass(slots=True)
class Stored:
    """What became of a `NewMessage`: `id` is another message's when it was a duplicate of that one."""

    id: MessageId
    is_new: bool
    handed_over: bool
    created_at: datetime


async def insert(
    connection: Connection, group: Sequence[NewMessage], *, dispatcher_id: int | None, window: timedelta
) -> list[Stored]:
    """Store a group of messages, of any tenants, with one statement; answers come in the order of the group.

    Of equal deduplication keys inside the group the first goes in and the others take its answer. `window` is how
    long a key lasts. Raises what the connection raises; commits nothing. A group with messages for queues needs a
    transaction, because the queues are released by statements that follow.
    """
    vault = vault_of(connection)
    if all(new.is_plain for new in group):
        [row] = await connection.fetch(_INSERT_PLAIN, *_sealed(vault, _columns(group)), dispatcher_id, vault.number)
        if not row["is_capped"]:
            created_at, alive = row["created_at"], row["handed_over"]
            return [Stored(new.message.id, True, alive and new.mine, created_at) for new in group]
    first: dict[tuple[TenantId, bytes], int] = {}
    unique: list[NewMessage] = []
    place: list[int] = []
    for new in group:
        at = len(unique)
        if new.deduplication_key is not None:
            at = first.setdefault((new.message.tenant_id, new.deduplication_key), at)
        if at == len(unique):
            unique.append(new)
        place.append(at)
    keys = [None if (key := new.deduplication_key) is None else vault.blinded(key) for new in unique]
    columns = _sealed(vault, _columns(unique))
    rows = await connection.fetch(_INSERT, *columns, dispatcher_id, keys, window, *_gates(unique), vault.number)
    await release(connection, queue_ids={row["queue_id"] for row in rows if row["queue_id"] is not None})
    answers: list[Stored] = []
    for new, at in zip(group, place, strict=True):
        stored_one = _stored(rows[at])
        if unique[at] is not new:
            stored_one = Stored(stored_one.id, is_new=False, handed_over=False, created_at=stored_one.created_at)
        answers.append(stored_one)
    return answers


async def fetch(connection: Connection, ids: Sequence[MessageId]) -> list[StoredMessage]:
    """The messages of these ids, without bodies above `TRAVELLING_BODY_BYTES`; missing ones are left out."""
    vault = vault_of(connection)
    return [message_of(row, vault) for row in await connection.fetch(_FETCH, ids, TRAVELLING_BODY_BYTES, OVERHEAD)]


async def fetch_body(connection: Connection, message_id: MessageId) -> bytes:
    """The whole body of one message. Raises `LookupError` when the message is gone, or as `Vault.open` does."""
    row = await connection.fetchrow("select tenant_id, url, body, sealed from messages where id = $1", message_id)
    if row is None:
        raise LookupError("the message is missing")
    where = places(row["tenant_id"], message_id, row["url"])
    return open_bytes(vault_of(connection), row["body"], row["sealed"], where.body) or b""


async def rewrite(connection: Connection, message: Message) -> None:
    """Store the body, the headers and the options of a message anew; only of one that no attempt was made at."""
    vault = vault_of(connection)
    columns = _sealed(vault, _columns([NewMessage(message, destination=0)]))
    await connection.execute(
        "update messages set header = $2::text::jsonb, body = $3, options = $4::text::jsonb, sealed = $5 where id = $1",
        message.id,
        *(columns[n][0] for n in (4, 5, 6)),
        vault.number,
    )


def message_of(row: Row, vault: Vault) -> StoredMessage:
    """The message in a row that has at least the columns of fetch.sql.

    One that cannot be opened or read says why, in its body as well, and has neither headers nor callbacks.
    """
    try:
        if row["sealed"] is not None:
            return _opened(row, vault)
        options = _options(row["method"], row["header"], row["options"], tuple(row["labels"] or ()), row["queue"])
        return _message(row, options, row["body"], row["body_bytes"])
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        return _unopened(row, Damaged(error))


def _opened(row: Row, vault: Vault) -> StoredMessage:
    number, where = row["sealed"], places(row["tenant_id"], row["id"], row["url"])
    try:
        header = open_json(vault, row["header"], number, where.header)
        options = open_options(vault, row["options"], number, where.callbacks)
        body = open_bytes(vault, row["body"], number, where.body)
    except (KeyMissing, Unopenable) as error:
        return _unopened(row, error)
    # Options with callbacks are those of this message alone, and not worth remembering.
    read = _options if options == row["options"] else _options.__wrapped__
    opened = read(row["method"], header, options, tuple(row["labels"] or ()), row["queue"])
    return _message(row, opened, body, plain_size(row["body_bytes"], number))


def _unopened(row: Row, error: PostroadError) -> StoredMessage:
    body = str(error).encode()
    return _message(row, Options(labels=tuple(row["labels"] or ()), queue=row["queue"]), body, len(body), error)


def _message(
    row: Row, options: Options, body: bytes | None, body_bytes: int, unopened: PostroadError | None = None
) -> StoredMessage:
    message = Message(
        id=row["id"],
        tenant_id=row["tenant_id"],
        url=row["url"],
        options=options,
        body=body,
        body_bytes=body_bytes,
        caller_ip=row["caller_ip"],
        source_id=row["source_id"],
        origin=_origin(row) if unopened is None else DIRECT,
        unopened=unopened,
    )
    return StoredMessage(message, row["created_at"])


def _sealed(vault: Vault, columns: list[list[Any]]) -> list[list[Any]]:
    """The columns with what is secret in them sealed, if anything is to be."""
    if vault.number is None:
        return columns
    ids, tenants, urls, headers, bodies, options = (columns[n] for n in (0, 1, 2, 4, 5, 6))
    stand = list(map(places, tenants, ids, urls))
    columns[4] = [seal_json(vault, header, where.header) for header, where in zip(headers, stand, strict=True)]
    columns[5] = [seal_bytes(vault, body, where.body) for body, where in zip(bodies, stand, strict=True)]
    columns[6] = [seal_options(vault, text, where.callbacks) for text, where in zip(options, stand, strict=True)]
    return columns


def _columns(group: Sequence[NewMessage]) -> list[list[Any]]:
    messages = [new.message for new in group]
    options = [message.options for message in messages]
    return [
        [message.id for message in messages],
        [message.tenant_id for message in messages],
        [message.url for message in messages],
        [_METHOD_NUMBER[option.method] for option in options],
        [_published_header_text(option.headers) for option in options],
        [message.body for message in messages],
        [_options_text(message.options, message.origin) for message in messages],
        [message.caller_ip for message in messages],
        [",".join(option.labels) if option.labels else None for option in options],
        [message.source_id for message in messages],
        [new.destination for new in group],
        [option.when.delay.total_seconds() if isinstance(option.when, After) else 0.0 for option in options],
        [_instant(option.when) if isinstance(option.when, NotBefore) else None for option in options],
        [new.mine for new in group],
    ]


def _gates(group: Sequence[NewMessage]) -> list[list[Any]]:
    messages = [new.message for new in group]
    flows = [message.options.flow_control for message in messages]
    origins = [message.origin for message in messages]
    places = [new.place for new in group]
    return [
        [message.options.queue for message in messages],
        [None if flow is None else flow.key for flow in flows],
        [None if flow is None else flow.parallelism for flow in flows],
        [None if flow is None else flow.rate for flow in flows],
        [None if flow is None else flow.period.total_seconds() for flow in flows],
        [origin.url_group for origin in origins],
        [origin.schedule_id for origin in origins],
        [None if place is None else place.queue_id for place in places],
        [None if place is None else place.seq for place in places],
    ]


def _stored(row: Row) -> Stored:
    return Stored(row["stored_id"], row["is_new"], row["handed_over"], row["created_at"])


def header_text(headers: Headers) -> str | None:
    """Headers as they are stored: a JSON list of pairs, null when there are none."""
    return orjson.dumps(headers).decode() if headers else None


_published_header_text = lru_cache(maxsize=256)(header_text)
"""Publishers send the same headers again and again; what destinations answer is not worth remembering."""


@lru_cache(maxsize=1024)
def _options_text(options: Options, origin: Origin) -> str:
    stored = to_json(options)
    for name in ("endpoint", "api"):
        if (value := getattr(origin, name)) is not None:
            stored[name] = value
    return orjson.dumps(stored).decode()


def _origin(row: Row) -> Origin:
    url_group, schedule_id, options = row["url_group"], row["schedule_id"], row["options"] or ""
    if url_group is None and schedule_id is None and '"api"' not in options:
        return DIRECT
    stored = orjson.loads(options or "{}")
    return Origin(url_group, stored.get("endpoint"), schedule_id, stored.get("api"))


@lru_cache(maxsize=1024)
def _options(
    method: int, header: str | None, options: str | None, labels: tuple[str, ...], queue: str | None
) -> Options:
    return from_json(
        orjson.loads(options or "{}"),
        # What only a newer version knows becomes a method that egress refuses: the attempt fails, and is made again.
        method=METHODS[method] if method < len(METHODS) else f"unknown-{method}",
        headers=orjson.loads(header) if header else [],
        labels=list(labels),
        queue=queue,
    )


def _instant(when: NotBefore) -> datetime:
    return datetime.fromtimestamp(when.unix_seconds, UTC)
