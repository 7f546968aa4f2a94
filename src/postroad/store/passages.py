"""Ways past the wall between tenants, for statements that would be slow behind it: functions of the database.

They run as the owner of the tables and mind the tenant of the transaction themselves. Two things need them. A condition
that PostgreSQL does not know to be leakproof, such as that on labels, leads into no index before the rows of others are
sorted out. And how many rows were passed over in doing so is not known, so that a look could not be bounded.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Boolean, ColumnElement, FromClause, column, func
from sqlalchemy.dialects.postgresql import UUID

from postroad.store.tables import messages

LABELLED = (
    "id",
    "created_at",
    "url",
    "caller_ip",
    "labels",
    "options",
    "queue",
    "flow_key",
    "schedule_id",
    "url_group",
)
"""The columns of messages that filters need."""


def labelled(wanted: ColumnElement[Any], *, most: ColumnElement[Any]) -> FromClause:
    """The messages with one of these labels, in no order.

    No more than `most` of all tenants are looked at, any number if it is null. If there are as many, a row of nulls
    says so.
    """
    columns = [column(name, messages.c[name].type) for name in LABELLED]
    return func.postroad_labelled(wanted, most).table_valued(*columns).alias("labelled")


def unfinished(beyond: ColumnElement[Any], reach: ColumnElement[Any]) -> FromClause:
    """What is this tenant's among the next unfinished messages of all, `reach` of them, each with its place.

    A candidate is one whose cancellation was not asked for. The last of them all comes whosever it is, so that one can
    go on from there.
    """
    columns = (column("id", UUID), column("is_candidate", Boolean), column("place", BigInteger))
    return func.postroad_unfinished(beyond, reach).table_valued(*columns).alias("unfinished")
