"""The tables as SQLAlchemy sees them; `migrations/` makes them, and a test holds the two together."""

from __future__ import annotations

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Identity,
    Index,
    Integer,
    Interval,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP, UUID

metadata = MetaData()

Instant = TIMESTAMP(timezone=True)


def _now() -> Column[object]:
    return Column("created_at", Instant, nullable=False, server_default=func.now())


tenants = Table(
    "tenants",
    metadata,
    Column("id", Integer, Identity(always=True), primary_key=True),
    Column("name", Text, nullable=False),
    _now(),
    UniqueConstraint("name"),
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("tenant_id", Integer, ForeignKey("tenants.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    Column("last_four", Text, nullable=False),
    Column("access", Text, nullable=False, server_default="full"),
    _now(),
    UniqueConstraint("hash"),
    CheckConstraint("access in ('full', 'read-only', 'publish-only')", name="tokens_access_known"),
)

signing_keys = Table(
    "signing_keys",
    metadata,
    Column("tenant_id", Integer, ForeignKey("tenants.id"), primary_key=True, autoincrement=False),
    Column("current_key", Text, nullable=False),
    Column("next_key", Text, nullable=False),
    Column("rotated_at", Instant),
)

messages = Table(
    "messages",
    metadata,
    Column("id", UUID, primary_key=True),
    Column("kept", Boolean, primary_key=True, server_default=text("false")),
    Column("tenant_id", Integer, nullable=False),
    _now(),
    Column("url", Text, nullable=False),
    Column("method", SmallInteger, nullable=False, server_default=text("0")),
    Column("header", JSONB),
    Column("body", LargeBinary),
    Column("options", JSONB),
    Column("caller_ip", Text),
    Column("queue_id", BigInteger),
    Column("flow_key_id", BigInteger),
    Column("schedule_id", BigInteger),
    Column("url_group_id", BigInteger),
    Column("labels", ARRAY(Text)),
    Column("source_id", UUID),
    # Every page of the log and of the messages of a tenant.
    Index("messages_created", "tenant_id", "created_at", "id"),
    # Filters by label, queue and schedule drive from these.
    Index("messages_by_label", "labels", postgresql_using="gin", postgresql_where=text("labels is not null")),
    Index("messages_by_queue", "queue_id", "id", postgresql_where=text("queue_id is not null")),
    Index("messages_by_schedule", "schedule_id", "id", postgresql_where=text("schedule_id is not null")),
    postgresql_partition_by="list (kept)",
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", UUID, primary_key=True),
    Column("tenant_id", Integer, nullable=False),
    Column("state", SmallInteger, nullable=False),
    Column("due_at", Instant, nullable=False),
    Column("destination", BigInteger, nullable=False),
    Column("lease", BigInteger, nullable=False, server_default=text("0")),
    Column("dispatcher_id", BigInteger),
    Column("active_at", Instant),
    Column("retried", Integer, nullable=False, server_default=text("0")),
    Column("unsettled_claims", SmallInteger, nullable=False, server_default=text("0")),
    Column("queue_id", BigInteger),
    Column("seq", BigInteger),
    Column("sub", SmallInteger, nullable=False, server_default=text("0")),
    Column("fifo", Boolean, nullable=False, server_default=text("false")),
    Column("flow_key_id", BigInteger),
    Column("cancel_requested_at", Instant),
    CheckConstraint("state in (0, 1, 2)", name="deliveries_state_known"),
    CheckConstraint("(state = 2) = (dispatcher_id is not null)", name="deliveries_active_when_held"),
    CheckConstraint("(queue_id is null) = (seq is null)", name="deliveries_seq_in_queue"),
    CheckConstraint("state <> 0 or queue_id is not null", name="deliveries_held_in_queue"),
    # claim_due and the waker's look ahead.
    Index("deliveries_due", "due_at", postgresql_where=text("state = 1 and flow_key_id is null")),
    # claim_fair: the rotation over destinations.
    Index("deliveries_fair", "destination", "due_at", postgresql_where=text("state = 1 and flow_key_id is null")),
    # claim_suspect.
    Index("deliveries_suspect", "due_at", postgresql_where=text("state = 1 and unsettled_claims >= 2")),
    Index("deliveries_flow", "flow_key_id", "due_at", postgresql_where=text("state = 1 and flow_key_id is not null")),
    Index("deliveries_flow_active", "flow_key_id", postgresql_where=text("state = 2 and flow_key_id is not null")),
    # rescue and give_back.
    Index("deliveries_leased", "dispatcher_id", postgresql_where=text("state = 2")),
    Index("deliveries_queue", "queue_id", "seq", "sub", unique=True, postgresql_where=text("queue_id is not null")),
    Index("deliveries_queue_open", "queue_id", "seq", postgresql_where=text("queue_id is not null and state <> 0")),
    Index("deliveries_queue_held", "queue_id", "seq", postgresql_where=text("state = 0")),
    # A second open head of a FIFO queue is an error, not an overlap.
    Index("deliveries_fifo", "queue_id", unique=True, postgresql_where=text("fifo and state <> 0 and sub = 0")),
)

attempts = Table(
    "attempts",
    metadata,
    Column("message_id", UUID, nullable=False),
    Column("tenant_id", Integer, nullable=False),
    Column("lease", BigInteger, nullable=False),
    Column("retried", Integer, nullable=False),
    Column("active_at", Instant, nullable=False),
    Column("ended_at", Instant, nullable=False, server_default=func.now()),
    Column("duration", Interval, nullable=False),
    Column("outcome", SmallInteger, nullable=False),
    Column("status", SmallInteger),
    Column("reason", Text),
    Column("header", JSONB),
    Column("body", LargeBinary),
    Column("next_due_at", Instant),
    Index("attempts_of_message", "message_id"),
    # ACTIVE is keyed by active_at and the rest by ended_at: two orders, two indexes.
    Index("attempts_active", "tenant_id", "active_at", "message_id"),
    Index("attempts_ended", "tenant_id", "ended_at", "message_id"),
    Index("attempts_bad", "tenant_id", "ended_at", postgresql_where=text("outcome <> 0")),
    postgresql_partition_by="range (ended_at)",
)

dead_letters = Table(
    "dead_letters",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("tenant_id", Integer, nullable=False),
    Column("message_id", UUID, nullable=False),
    Column("failed_at", Instant, nullable=False, server_default=func.now()),
    Column("status", SmallInteger),
    Column("reason", Text),
    Column("header", JSONB),
    Column("body", LargeBinary),
    UniqueConstraint("message_id"),
    Index("dead_letters_failed", "tenant_id", "id"),
)

cancellations = Table(
    "cancellations",
    metadata,
    Column("message_id", UUID, primary_key=True),
    Column("tenant_id", Integer, nullable=False),
    Column("requested_at", Instant, nullable=False, server_default=func.now()),
    Column("canceled_at", Instant),
    Index("cancellations_requested", "tenant_id", "requested_at", "message_id"),
    Index(
        "cancellations_canceled",
        "tenant_id",
        "canceled_at",
        "message_id",
        postgresql_where=text("canceled_at is not null"),
    ),
)

deduplications = Table(
    "deduplications",
    metadata,
    Column("tenant_id", Integer, primary_key=True),
    Column("key", LargeBinary, primary_key=True),
    Column("message_id", UUID, nullable=False),
    Column("expires_at", Instant, nullable=False),
    Index("deduplications_expiry", "expires_at"),
)

dispatchers = Table(
    "dispatchers",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("node", Text),
    Column("alive_until", Instant, nullable=False),
)
