"""Which events a page of the log holds: found by going along time, or by way of the messages that they are of."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from postroad.domain.log import Position, State
from postroad.domain.tenant import TenantId
from postroad.store import wall
from postroad.store.engine import Connection, Row
from postroad.store.filters import Filters, bound
from postroad.store.log_statements import Form, histories, matching, walk, window

FIRST_EVENTS = 1_000
"""How many events are looked at, at the least, before matching messages are looked for."""

MOST_LISTED = 100_000
"""How many messages or events are brought here to find a page; what a page is worth in memory."""

_SLACK = timedelta(seconds=10)
"""How far the instants of one message may be out of order: its id is minted some time before or after now() of the
transaction that stores it, and now() is when a transaction began, which may have waited for a lock since."""


@dataclass(frozen=True, slots=True)
class Search:
    """The first `limit` events beyond `after` that match, and one more, which tells that there are more."""

    tenant_id: TenantId
    filters: Filters
    states: frozenset[State]
    after: Position | None
    limit: int
    oldest_first: bool

    @property
    def form(self) -> Form:
        """What its statements are chosen by."""
        filters = self.filters
        return Form(
            states=self.states,
            fields=tuple(filters.values),
            ids=filters.message_ids is not None,
            after=self.after is not None,
            since=filters.since is not None,
            until=filters.until is not None,
            oldest_first=self.oldest_first,
        )

    @property
    def values(self) -> dict[str, Any]:
        """What is bound to their parameters."""
        filters, after = self.filters, self.after
        return {
            "tenant_id": self.tenant_id,
            "ids": filters.message_ids,
            "after_at": after and after.at,
            "after_id": after and after.message_id,
            "after_n": after and after.ordinal,
            "since": filters.since,
            "until": filters.until,
            "most": self.limit + 1,
            **bound(filters),
        }


async def find(connection: Connection, search: Search) -> list[Row]:
    """The events in their order: message_id, at, n (the ordinal), state and, of an attempt, its lease.

    Filters on messages can be met in two ways. Along time: take the tenant's next events and look at the message of
    each, which is good when many match and hopeless when five of a million do. By message: take the next messages that
    match, through the index of their queue or label, and look at the events of each, which is good when few match and
    bad when those have no such event. Statistics do not tell which it is (a queue may have been busy, but last week),
    so both are tried in turn, each time eight times as far: that is never much dearer than the better one alone.
    """
    filters = search.filters
    if not search.states:
        return []
    if filters.message_ids is not None:
        return (await _by_message(connection, search, len(filters.message_ids) + 1))[0]
    if not filters.are_on_messages:
        return (await _along_time(connection, search, search.limit + 1))[0]
    far, many = FIRST_EVENTS + 4 * search.limit, search.limit + 1
    while True:
        rows, are_all = await _along_time(connection, search, far)
        if are_all or len(rows) > search.limit:
            return rows
        if many <= MOST_LISTED:
            rows, are_all = await _by_message(connection, search, many)
            if are_all or len(rows) > search.limit:
                return rows
        far, many = 8 * far, 8 * many


async def find_by_message(connection: Connection, search: Search) -> list[tuple[Row, list[Row]]]:
    """Messages (id, created_at) in the order of their creation, each with its events in theirs.

    `after` is the creation of a message, and `limit` counts messages. A message is there when it has an event that
    matches; only such events come with it, and at most the last `MOST_EVENTS_OF_A_MESSAGE`. Found in two ways in turn,
    for the reason that `find` has: through the messages, and, as long as these are few, through the events there are.
    """
    if not search.states:
        return []
    groups: list[tuple[Row, list[Row]]] = []
    far, many, rest = FIRST_EVENTS + 4 * search.limit, search.limit + 1, search
    while True:
        found = await _matching(connection, rest, many, until=search.filters.until, beyond=True)
        groups += await _with_events(connection, search, found)
        if len(found) < many or len(groups) > search.limit:
            return groups
        if far <= MOST_LISTED:
            rows, are_all = await _along_time(connection, replace(search, after=None, limit=far), far)
            if are_all:
                ids = tuple({row["message_id"] for row in rows})
                of_these = replace(search, filters=replace(search.filters, message_ids=ids))
                found = await _matching(connection, of_these, search.limit + 1, beyond=True)
                return await _with_events(connection, search, found)
        rest = replace(search, after=Position(found[-1]["created_at"], found[-1]["id"], 0))
        far, many = 8 * far, min(8 * many, MOST_LISTED)


async def _along_time(connection: Connection, search: Search, reach: int) -> tuple[list[Row], bool]:
    """Those of the next `reach` events that match, and whether there are no more than that."""
    rows = await walk(search.form).rows(connection, search.values | {"reach": reach})
    if not search.filters.are_on_messages:
        return rows, len(rows) < reach
    return [row for row in rows if row["at"] is not None], rows[0]["seen"] < reach


async def _by_message(connection: Connection, search: Search, reach: int) -> tuple[list[Row], bool]:
    """The first events of the first `reach` messages that match, and whether these messages are all.

    When there are more messages, only events in a window come, where no other message can have one that is missing: it
    begins or ends with the creation of the last of these. What was created before the window may have events in it too,
    such as retries; these are the late ones.
    """
    first, last = _span(search)
    created_until = None if search.filters.message_ids is not None else last
    found = await _matching(connection, replace(search, oldest_first=False), reach, until=created_until)
    if are_all := len(found) < reach:
        first = None
    elif search.oldest_first:
        found = await _matching(connection, search, reach, since=first, until=last)
        if not (are_all := len(found) < reach):
            last = found[-1]["created_at"] - _SLACK
    else:
        # Of the messages that were created at the very same instant some may be missing: so they count as late.
        edge: datetime = found[-1]["created_at"] + timedelta(microseconds=1)
        are_all = first is not None and first >= edge
        first = edge if first is None else max(first, edge)
        found = [row for row in found if row["created_at"] >= first]
    since = search.filters.since if first is None else first
    within = replace(search, filters=replace(search.filters, since=since, until=last))
    minted_before = None if first is None else uuid.UUID(int=int((first + _SLACK).timestamp() * 1000) << 80)
    values = within.values | _listed_values(found) | {"created_before": first, "minted_before": minted_before}
    return await window(within.form, late=first is not None).rows(connection, values), are_all


async def _matching(
    connection: Connection,
    search: Search,
    limit: int,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    beyond: bool = False,
) -> list[Row]:
    """The first messages (id, created_at) that match, from `since` to about `until`; `beyond` search.after if asked.

    By label they cost as much as there are, because that index has no order; unless enough are nearby.
    """
    form = replace(
        search.form, after=beyond and search.after is not None, since=since is not None, until=until is not None
    )
    instants = {"created_since": since, "created_until": None if until is None else until + _SLACK}
    values = search.values | instants | {"reach": limit, "far": FIRST_EVENTS + 4 * limit}
    if form.by_label:
        near = await matching(form, nearby=True).rows(connection, values)
        if len(near) == limit:
            return near
        return await matching(form, walled=await wall.is_behind(connection)).rows(connection, values)
    return await matching(form).rows(connection, values)


async def _with_events(connection: Connection, search: Search, found: Sequence[Row]) -> list[tuple[Row, list[Row]]]:
    every = replace(search, after=None)
    rows = await histories(every.form).rows(connection, every.values | _listed_values(found))
    events: dict[uuid.UUID, list[Row]] = {row["id"]: [] for row in found}
    for row in rows:
        events[row["message_id"]].append(row)
    return [(row, events[row["id"]]) for row in found if events[row["id"]]]


def _span(search: Search) -> tuple[datetime | None, datetime | None]:
    """Between which instants the events lie."""
    first, last, after = search.filters.since, search.filters.until, search.after
    if after is None:
        return first, last
    if search.oldest_first:
        return after.at if first is None else max(first, after.at), last
    return first, after.at if last is None else min(last, after.at)


def _listed_values(found: Sequence[Row]) -> dict[str, Any]:
    return {"listed_ids": [row["id"] for row in found], "created": [row["created_at"] for row in found]}
