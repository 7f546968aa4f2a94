"""The statements that read the log, each written once for every form of search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    FromClause,
    Integer,
    Select,
    TableValuedAlias,
    Text,
    and_,
    any_,
    bindparam,
    case,
    column,
    false,
    func,
    literal_column,
    null,
    or_,
    select,
    true,
    tuple_,
    union_all,
)
from sqlalchemy.dialects.postgresql import ARRAY, UUID
from sqlalchemy.dialects.postgresql.asyncpg import dialect

from postroad.domain.log import State
from postroad.store.engine import Connection, Row
from postroad.store.filters import ORDERED, on_fields
from postroad.store.passages import labelled
from postroad.store.tables import Instant, attempts, cancellations, deliveries, messages

MOST_EVENTS_OF_A_MESSAGE = 1_000


@dataclass(frozen=True, slots=True)
class Form:
    """All that the text of a statement depends on. To write it takes longer than to run it, so it is written once."""

    states: frozenset[State]
    fields: tuple[str, ...]
    ids: bool
    after: bool
    since: bool
    until: bool
    oldest_first: bool

    @property
    def driving(self) -> str | None:
        """The field whose index gives matching messages in order, unless they are given by their ids."""
        return None if self.ids else next((name for name in ORDERED if name in self.fields), None)

    @property
    def by_label(self) -> bool:
        """Nothing but the index on labels, which has no order, leads to matching messages."""
        return "label" in self.fields and not self.ids and self.driving is None


class Statement(NamedTuple):
    """A text, and its parameters: the names of all in their order, and the values of those that never change."""

    text: str
    names: tuple[str, ...]
    constants: Mapping[str, Any]

    async def rows(self, connection: Connection, values: Mapping[str, Any]) -> list[Row]:
        """Run it."""
        given = {**self.constants, **values}
        return await connection.fetch(self.text, *(given[name] for name in self.names))


@lru_cache(maxsize=128)
def walk(form: Form) -> Statement:
    """The next events, `reach` of them; with filters on messages those that match, beside the number of all: seen."""
    reach = bindparam("reach", type_=Integer)
    walked = _merged(form, [_part(form, source, limit=reach) for source in _sources(_ALL, form)]).limit(reach)
    if not form.fields:
        return _written(walked)
    seen = walked.cte("walked").prefix_with("materialized")
    of_matching = select(seen).join(_lookup(form, seen.c.message_id), true())
    found = of_matching.order_by(*_order(form, seen)).limit(bindparam("most", type_=Integer)).subquery()
    count = select(func.count().label("seen")).select_from(seen).subquery()
    return _written(select(count, found).select_from(count.outerjoin(found, true())).order_by(*_order(form, found)))


@lru_cache(maxsize=128)
def window(form: Form, *, late: bool) -> Statement:
    """The next events of the messages that are listed, and the late ones of others."""
    most = bindparam("most", type_=Integer)
    parts = [_part(form, source, limit=most) for source in _sources(_of_listed(), form)]
    if late:
        parts += [_late(form, source, limit=most) for source in _sources(_ALL, form) if source.table is not messages]
    return _written(_merged(form, parts).limit(most))


@lru_cache(maxsize=128)
def histories(form: Form) -> Statement:
    """The last events of each of the messages that are listed."""
    event = union_all(*(_part(form, source) for source in _sources(_of_listed(), form))).subquery()
    rank = func.row_number().over(partition_by=event.c.message_id, order_by=[event.c.at.desc(), event.c.n.desc()])
    ranked = select(event, rank.label("rank")).subquery()
    few = ranked.c.rank <= literal_column(str(MOST_EVENTS_OF_A_MESSAGE))
    return _written(select(ranked).where(few).order_by(*_order(form, ranked)))


@lru_cache(maxsize=128)
def matching(form: Form, *, nearby: bool = False, walled: bool = False) -> Statement:
    """The first messages that match, `reach` of them; or those among the next `far` ones.

    By label behind the wall, where the index on labels leads nowhere, a function finds them that minds the tenant.
    """
    reach = bindparam("reach", type_=Integer)
    source: FromClause = messages
    among: list[ColumnElement[bool]] = [messages.c.tenant_id == _TENANT_ID]
    if walled:
        source, among = labelled(bindparam("of_label", type_=ARRAY(Text)), most=null()), []
    m = source.c
    if form.since:
        among.append(m.created_at >= bindparam("created_since", type_=Instant))
    if form.until:
        among.append(m.created_at <= bindparam("created_until", type_=Instant))
    if form.after:
        key, place = tuple_(m.created_at, m.id), tuple_(*_AFTER[:2])
        among.append(key > place if form.oldest_first else key < place)
    found: FromClause
    if nearby:
        next_ones = select(messages).where(*among).order_by(*_by_creation(form, messages))
        near = next_ones.limit(bindparam("far", type_=Integer)).subquery()
        found = select(near.c.id, near.c.created_at).where(*on_fields(near, form.fields)).subquery()
        return _written(select(found).order_by(*_by_creation(form, found)).limit(reach))
    conditions = on_fields(source, [name for name in form.fields if name != form.driving])
    query: Select[Any] = select(m.id, m.created_at).where(*among, *conditions)
    if form.ids:
        wanted = _listed(id=bindparam("ids", type_=ARRAY(UUID)))
        found = _each(wanted, query.where(m.id == wanted.c.id)).subquery()
    elif form.driving is not None:
        # Value by value, because only then the index has them in order, and the first ones are read and no others.
        wanted = _listed(value=bindparam(f"of_{form.driving}", type_=ARRAY(Text)))
        of_value = query.where(m[ORDERED[form.driving]] == wanted.c.value)
        found = _each(wanted, of_value.order_by(*_by_creation(form, messages)).limit(reach)).subquery()
    elif form.by_label:
        # All of them first: with the limit in sight the planner would go along time until it has met enough of them.
        found = query.cte("labelled").prefix_with("materialized")
    else:
        found = query.subquery()
    return _written(select(found).order_by(*_by_creation(form, found)).limit(reach))


# Their parts


class _Tables(NamedTuple):
    """Where events come from: the tables, or what they hold of some messages."""

    messages: FromClause
    attempts: FromClause
    deliveries: FromClause
    cancellations: FromClause


_ZERO: ColumnElement[int] = literal_column("0", Integer)
_ALL = _Tables(messages, attempts, deliveries, cancellations)
_TENANT_ID = bindparam("tenant_id", type_=Integer)
_AFTER = (
    bindparam("after_at", type_=Instant),
    bindparam("after_id", type_=UUID),
    bindparam("after_n", type_=Integer),
)


@dataclass(frozen=True, slots=True)
class _Source:
    """Rows of a table as events at one of their instants; `states` says which row is an event of which state."""

    table: FromClause
    message_id: ColumnElement[Any]
    at: ColumnElement[Any]
    ordinal: int
    lease: ColumnElement[Any]
    states: Mapping[State, ColumnElement[bool]]


def _sources(tables: _Tables, form: Form) -> list[_Source]:
    """Where events of the states that are looked for come from.

    What partial indexes are about is written out, not bound, so that every plan can use them.
    """
    m, a, d, c = (table.c for table in tables)
    nothing: ColumnElement[Any] = literal_column("null::bigint", BigInteger)
    delivered, bad = _often(a.outcome == _ZERO), a.outcome != _ZERO
    retried, failed = and_(bad, a.next_due_at.is_not(None)), and_(bad, _often(a.outcome == literal_column("2")))
    leased, canceled = d.state == literal_column("2"), c.canceled_at.is_not(None)
    sources = [
        _Source(tables.messages, m.id, m.created_at, 0, nothing, {State.CREATED: true()}),
        _Source(tables.attempts, a.message_id, a.active_at, 1, a.lease, {State.ACTIVE: true()}),
        _Source(tables.deliveries, d.id, d.active_at, 1, d.lease, {State.ACTIVE: leased}),
        _Source(tables.attempts, a.message_id, a.ended_at, 2, a.lease, {State.DELIVERED: delivered, State.ERROR: bad}),
        _Source(tables.attempts, a.message_id, a.ended_at, 3, a.lease, {State.RETRY: retried, State.FAILED: failed}),
        _Source(tables.cancellations, c.message_id, c.requested_at, 4, nothing, {State.CANCEL_REQUESTED: true()}),
        _Source(tables.cancellations, c.message_id, c.canceled_at, 5, nothing, {State.CANCELED: canceled}),
    ]
    wanted = [
        replace(source, states={state: when for state, when in source.states.items() if state in form.states})
        for source in sources
    ]
    return [source for source in wanted if source.states]


def _of_listed() -> _Tables:
    """What the tables hold of the messages that are listed, each looked up by its key."""
    a, d, c = attempts.c, deliveries.c, cancellations.c
    listed = _listed(
        id=bindparam("listed_ids", type_=ARRAY(UUID)), created_at=bindparam("created", type_=ARRAY(Instant))
    )
    wanted = select(listed, _TENANT_ID.label("tenant_id")).cte("wanted").prefix_with("materialized")
    # Says only in which partitions there can be attempts, so a day more on either side costs little.
    day: ColumnElement[Any] = literal_column("interval '1 day'")
    possible = a.ended_at.between(wanted.c.created_at - day, func.now() + day)
    tried = select(a.message_id, a.tenant_id, a.lease, a.active_at, a.ended_at, a.outcome, a.next_due_at)
    running = select(d.id, d.tenant_id, d.lease, d.active_at, d.state)
    return _Tables(
        wanted,
        _each(wanted, tried.where(a.message_id == wanted.c.id, possible)).cte("tried"),
        _each(wanted, running.where(d.id == wanted.c.id)).cte("running"),
        _each(wanted, select(cancellations).where(c.message_id == wanted.c.id)).cte("canceled"),
    )


def _late(form: Form, source: _Source, *, limit: ColumnElement[int]) -> Select[Any]:
    """Events of matching messages that were created before some instant.

    Of most events the message is newer; its id says so already in the index, so it is not looked at.
    """
    older = _lookup(form, source.message_id, before=bindparam("created_before", type_=Instant))
    return _part(form, source, source.message_id < bindparam("minted_before", type_=UUID), limit=limit, of=older)


def _lookup(form: Form, message_id: ColumnElement[Any], *, before: ColumnElement[datetime] | None = None) -> FromClause:
    """One row if the message matches, and was created before that instant.

    By its id first, and only then by the rest: without statistics, as of a day that has just begun, the planner may
    think better of the index on queues and read all of a queue for each message.
    """
    m = messages.c
    columns = [m.created_at, m.url, m.labels, m.caller_ip, m.options, *(m[name] for name in ORDERED.values())]
    message = select(*columns).where(m.id == message_id).offset(_ZERO).correlate_except(messages).lateral()
    query: Select[Any] = select(literal_column("1")).where(*on_fields(message, form.fields))
    if before is not None:
        query = query.where(message.c.created_at < before)
    return query.select_from(message).limit(literal_column("1")).lateral()


def _part(
    form: Form,
    source: _Source,
    *where: ColumnElement[bool],
    limit: ColumnElement[int] | None = None,
    of: FromClause | None = None,
) -> Select[Any]:
    """The next events of one source, ids and instants already minded; with `of`, those for which it has a row."""
    at, message_id = source.at, source.message_id
    ordinal: ColumnElement[int] = literal_column(str(source.ordinal), Integer)
    states = ((when, literal_column(f"'{state}'", Text)) for state, when in source.states.items())
    query: Select[Any] = (
        select(
            message_id.label("message_id"),
            at.label("at"),
            ordinal.label("n"),
            case(*states).label("state"),
            source.lease.label("lease"),
        )
        .select_from(source.table if of is None else source.table.join(of, true()))
        .where(source.table.c.tenant_id == _TENANT_ID, or_(*source.states.values()), *where)
    )
    if form.after:
        key, place = tuple_(at, message_id, ordinal), tuple_(*_AFTER)
        # The second condition says what follows from the first in words that an index understands.
        query = query.where(*((key > place, at >= _AFTER[0]) if form.oldest_first else (key < place, at <= _AFTER[0])))
    if form.ids:
        query = query.where(message_id == any_(bindparam("ids", type_=ARRAY(UUID))))
    if form.since:
        query = query.where(at >= bindparam("since", type_=Instant))
    if form.until:
        query = query.where(at <= bindparam("until", type_=Instant))
    if limit is not None:
        order = (at, message_id) if form.oldest_first else (at.desc(), message_id.desc())
        query = query.order_by(*order).limit(limit)
    # In brackets, or ORDER BY and LIMIT would be those of the union.
    return query.subquery().select()


def _merged(form: Form, parts: Sequence[Select[Any]]) -> Select[Any]:
    event = union_all(*parts).subquery()
    return select(event).order_by(*_order(form, event))


def _order(form: Form, event: FromClause) -> list[ColumnElement[Any]]:
    key = (event.c.at, event.c.message_id, event.c.n)
    return list(key) if form.oldest_first else [part.desc() for part in key]


def _by_creation(form: Form, message: FromClause) -> list[ColumnElement[Any]]:
    key = (message.c.created_at, message.c.id)
    return list(key) if form.oldest_first else [part.desc() for part in key]


def _listed(**columns: ColumnElement[Any]) -> TableValuedAlias:
    """Arrays as the columns of a table."""
    names = [column(name, array.type.item_type) for name, array in columns.items()]  # type: ignore[attr-defined]
    return func.unnest(*columns.values()).table_valued(*names).render_derived()


def _each(wanted: FromClause, one: Select[Any]) -> Select[Any]:
    """The rows of `one` for each row that is wanted, one after the other.

    OFFSET 0 keeps the planner from turning it into a join that reads a whole table to throw most of it away.
    """
    rows = one.offset(_ZERO).lateral()
    return select(rows).select_from(wanted.join(rows, true()))


def _often(condition: ColumnElement[bool]) -> ColumnElement[bool]:
    """The condition in words that the planner takes for true of every other row.

    What it knows nothing of it takes for rare, and would then sort a whole day instead of going along an index.
    """
    return case((condition, true()), else_=false())


def _written(query: Select[Any]) -> Statement:
    compiled = query.compile(dialect=_DIALECT, compile_kwargs={"render_postcompile": True})
    constants = {name: value for name, value in compiled.params.items() if value is not None}
    return Statement(str(compiled), tuple(compiled.positiontup or ()), constants)


_DIALECT = dialect()  # type: ignore[no-untyped-call]  # untyped in SQLAlchemy
