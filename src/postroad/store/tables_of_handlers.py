"""The tables of what handlers do with a message; the `metadata` that is to be had here knows all tables."""

from __future__ import annotations

from sqlalchemy import REAL, BigInteger, Column, Index, Integer, Interval, LargeBinary, Sequence, Table, func, text
from sqlalchemy.dialects.postgresql import UUID

from postroad.store.tables import Instant, sealed
from postroad.store.tables import metadata as metadata

# What handlers say while they work: how far they are in percent, two texts, and JSON.
reports_number = Sequence("reports_number", metadata=metadata)

reports = Table(
    "reports",
    metadata,
    Column("message_id", UUID, nullable=False),
    Column("tenant_id", Integer, nullable=False),
    Column("number", BigInteger, nullable=False, server_default=text("nextval('reports_number')")),
    Column("reported_at", Instant, nullable=False, server_default=func.now()),
    Column("progress", REAL),
    Column("note", LargeBinary),
    Column("log", LargeBinary),
    Column("result", LargeBinary),
    sealed(),
    # The last of each kind is what a status says, and the log is read line by line.
    *(
        Index(f"reports_{name}", "message_id", "number", postgresql_where=text(f"{name} is not null"))
        for name in ("progress", "note", "log", "result")
    ),
    postgresql_partition_by="range (reported_at)",
)

# Deliveries that are in the hands of their handlers, who will say how they ended.
waits = Table(
    "waits",
    metadata,
    Column("message_id", UUID, primary_key=True),
    Column("tenant_id", Integer, nullable=False),
    Column("lease", BigInteger, nullable=False),
    # How long the handler may be silent.
    Column("span", Interval, nullable=False),
    Column("deadline", Instant, nullable=False),
    Index("waits_deadline", "deadline"),
)
