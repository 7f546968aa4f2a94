"""The tables of the console, as those in `tables`: who is signed in, what was done, and how much went on."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    Table,
    Text,
    func,
    text,
)

from postroad.store.tables import Instant
from postroad.store.tables_of_handlers import metadata

__all__ = ["activity", "audit_entries", "console_passwords", "dead_letter_runs", "metadata", "sessions"]

console_passwords = Table(
    "console_passwords",
    metadata,
    Column("singleton", Boolean, primary_key=True, server_default=text("true")),
    # As scrypt made it, with its parameters.
    Column("hash", Text, nullable=False),
    Column("created_at", Instant, nullable=False, server_default=func.now()),
    CheckConstraint("singleton", name="console_passwords_singleton"),
)

sessions = Table(
    "sessions",
    metadata,
    # Of what the cookie holds.
    Column("hash", LargeBinary, primary_key=True),
    # Null is the operator, who gave the password.
    Column("token_id", BigInteger, ForeignKey("tokens.id", ondelete="CASCADE")),
    # Whose things the operator looks at.
    Column("tenant_id", Integer, ForeignKey("tenants.id")),
    Column("created_at", Instant, nullable=False, server_default=func.now()),
    Column("expires_at", Instant, nullable=False),
    Index("sessions_expiry", "expires_at"),
    Index("sessions_of_token", "token_id", postgresql_where=text("token_id is not null")),
)

audit_entries = Table(
    "audit_entries",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("tenant_id", Integer, nullable=False),
    Column("at", Instant, nullable=False, server_default=func.now()),
    Column("actor", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Index("audit_entries_listed", "tenant_id", "id"),
)

dead_letter_runs = Table(
    "dead_letter_runs",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("tenant_id", Integer, nullable=False),
    Column("actor", Text, nullable=False),
    Column("kind", Text, nullable=False),
    # The filter in words, empty for all.
    Column("q", Text, nullable=False),
    # Null is as fast as it goes.
    Column("per_second", Integer),
    Column("total", Integer, nullable=False),
    Column("done", Integer, nullable=False, server_default=text("0")),
    # What was refused, or had gone.
    Column("kept", Integer, nullable=False, server_default=text("0")),
    # What was said of one of them.
    Column("why", Text),
    Column("is_stopping", Boolean, nullable=False, server_default=text("false")),
    # Null while it goes on.
    Column("outcome", Text),
    Column("created_at", Instant, nullable=False, server_default=func.now()),
    # When the process that works on it was last heard of.
    Column("seen_at", Instant, nullable=False, server_default=func.now()),
    CheckConstraint("kind in ('retry', 'delete')", name="dead_letter_runs_kind_known"),
    Index("dead_letter_runs_listed", "tenant_id", "id"),
)

activity = Table(
    "activity",
    metadata,
    Column("tenant_id", Integer, primary_key=True),
    # The start of ten seconds for the whole tenant, where the host is empty, and of a minute for a host.
    Column("at", Instant, primary_key=True),
    Column("host", Text, primary_key=True),
    Column("accepted", BigInteger, nullable=False),
    Column("delivered", BigInteger, nullable=False),
    Column("retried", BigInteger, nullable=False),
    Column("failed", BigInteger, nullable=False),
    # Of all attempts together, the longest one, and how late the latest of the first attempts was.
    Column("took_ms", BigInteger, nullable=False),
    Column("longest_ms", BigInteger, nullable=False),
    Column("late_ms", BigInteger, nullable=False),
    Index("activity_over", "at"),
)
