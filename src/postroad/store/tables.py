"""The tables as SQLAlchemy sees them; `migrations/` makes them, and a test holds the two together."""

from __future__ import annotations

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
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


def sealed() -> Column[object]:
    """The data key that sealed what is secret in the row; null when that is stored as it is."""
    return Column("sealed", SmallInteger)


schema_compatibility = Table(
    "schema_compatibility",
    metadata,
    Column("singleton", Boolean, primary_key=True, server_default=text("true")),
    # The newest revision that a program has to know to work with this schema.
    Column("oldest_program", Text, nullable=False),
    CheckConstraint("singleton", name="schema_compatibility_singleton"),
)

tenants = Table(
    "tenants",
    metadata,
    Column("id", Integer, Identity(always=True), primary_key=True),
    Column("name", Text, nullable=False),
    _now(),
    Column("failure_callback", Text),
    Column("parallelism", Integer),
    # Null is the setting of the server, 0 no limit.
    Column("max_calls_per_second", Integer),
    Column("max_messages_per_day", BigInteger),
    Column("destinations", Text),
    UniqueConstraint("name"),
    CheckConstraint("parallelism > 0", name="tenants_parallelism_positive"),
    CheckConstraint("max_calls_per_second >= 0", name="tenants_max_calls"),
    CheckConstraint("max_messages_per_day >= 0", name="tenants_max_messages"),
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    # Null is nobody's: an administrator's.
    Column("tenant_id", Integer, ForeignKey("tenants.id")),
    Column("name", Text, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    Column("last_four", Text, nullable=False),
    Column("access", Text, nullable=False, server_default="full"),
    _now(),
    Column("expires_at", Instant),
    Column("used_at", Instant),
    UniqueConstraint("hash"),
    CheckConstraint("access in ('full', 'read-only', 'metadata', 'publish-only', 'admin')", name="tokens_access_known"),
    CheckConstraint("(access = 'admin') = (tenant_id is null)", name="tokens_admin_of_no_tenant"),
    # The list of a tenant's.
    Index("tokens_of_tenant", "tenant_id", "id"),
)

# Never valid again, also when an old setting still names them.
revoked_tokens = Table(
    "revoked_tokens",
    metadata,
    Column("hash", LargeBinary, primary_key=True),
    Column("revoked_at", Instant, nullable=False, server_default=func.now()),
)

data_keys = Table(
    "data_keys",
    metadata,
    Column("id", SmallInteger, primary_key=True, autoincrement=False),
    Column("wrapped", LargeBinary, nullable=False),
    # The fingerprint of the master key that wrapped it.
    Column("master", Text, nullable=False),
    _now(),
    CheckConstraint("id > 0", name="data_keys_id_positive"),
)

signing_keys = Table(
    "signing_keys",
    metadata,
    Column("tenant_id", Integer, ForeignKey("tenants.id"), primary_key=True, autoincrement=False),
    Column("current_key", Text, nullable=False),
    Column("next_key", Text, nullable=False),
    Column("rotated_at", Instant),
    sealed(),
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
    Column("labels", ARRAY(Text)),
    Column("source_id", UUID),
    # By name, because history outlives what it was published through.
    Column("queue", Text),
    Column("flow_key", Text),
    Column("schedule_id", Text),
    Column("url_group", Text),
    sealed(),
    # Every page of the log and of the messages of a tenant.
    Index("messages_created", "tenant_id", "created_at", "id"),
    # Filters by these drive from an index of their own.
    Index("messages_by_label", "labels", postgresql_using="gin", postgresql_where=text("labels is not null")),
    *(
        Index(name, "tenant_id", column, "created_at", "id", postgresql_where=text(f"{column} is not null"))
        for name, column in (
            ("messages_by_queue", "queue"),
            ("messages_by_flow_key", "flow_key"),
            ("messages_by_schedule", "schedule_id"),
            ("messages_by_url_group", "url_group"),
        )
    ),
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
    CheckConstraint("seq is null or queue_id is not null", name="deliveries_seq_in_queue"),
    # Held without a number: it takes one, and so its place in the queue, when it falls due.
    CheckConstraint("state = 0 or (queue_id is null) = (seq is null)", name="deliveries_open_in_turn"),
    CheckConstraint("state <> 0 or queue_id is not null", name="deliveries_held_in_queue"),
    # claim_due and the waker's look ahead.
    Index("deliveries_due", "due_at", postgresql_where=text("state = 1 and flow_key_id is null")),
    # claim_fair: the rotation over destinations.
    Index("deliveries_fair", "destination", "due_at", postgresql_where=text("state = 1 and flow_key_id is null")),
    # claim_suspects.
    Index("deliveries_suspect", "due_at", postgresql_where=text("state = 1 and unsettled_claims >= 2")),
    Index("deliveries_flow", "flow_key_id", "due_at", postgresql_where=text("state = 1 and flow_key_id is not null")),
    Index("deliveries_flow_active", "flow_key_id", postgresql_where=text("state = 2 and flow_key_id is not null")),
    # rescue and give_back.
    Index("deliveries_leased", "dispatcher_id", postgresql_where=text("state = 2")),
    # One message a place; its callbacks share it.
    Index("deliveries_place", "queue_id", "seq", unique=True, postgresql_where=text("seq is not null and sub = 0")),
    # release: the first places of a queue, and what is open beyond them.
    Index("deliveries_queue", "queue_id", "seq", postgresql_where=text("queue_id is not null")),
    Index("deliveries_queue_open", "queue_id", "seq", postgresql_where=text("queue_id is not null and state <> 0")),
    # enter: delayed messages of queues.
    Index("deliveries_entering", "due_at", postgresql_where=text("state = 0 and seq is null")),
    # The list of what is unfinished.
    Index("deliveries_listed", "tenant_id", "due_at", "id", postgresql_where=text("state <> 2")),
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
    sealed(),
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
    sealed(),
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
    Column("steady_since", Instant, nullable=False, server_default=func.now()),
)

queues = Table(
    "queues",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("tenant_id", Integer, nullable=False),
    Column("name", Text, nullable=False),
    Column("parallelism", Integer, nullable=False, server_default=text("1")),
    Column("paused", Boolean, nullable=False, server_default=text("false")),
    Column("next_seq", BigInteger, nullable=False, server_default=text("0")),
    _now(),
    Column("updated_at", Instant, nullable=False, server_default=func.now()),
    UniqueConstraint("tenant_id", "name", name="queues_name"),
    CheckConstraint("parallelism > 0", name="queues_parallelism_positive"),
)

flow_keys = Table(
    "flow_keys",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("tenant_id", Integer, nullable=False),
    Column("key", Text, nullable=False),
    Column("parallelism", Integer),
    Column("rate", Integer),
    Column("period", Interval, nullable=False, server_default=text("'1 s'")),
    Column("parallelism_pinned", Boolean, nullable=False, server_default=text("false")),
    Column("rate_pinned", Boolean, nullable=False, server_default=text("false")),
    Column("paused", Boolean, nullable=False, server_default=text("false")),
    Column("period_start", Instant),
    Column("period_count", Integer, nullable=False, server_default=text("0")),
    Column("wake_at", Instant, nullable=False, server_default=text("'infinity'")),
    Column("used_at", Instant, nullable=False, server_default=func.now()),
    UniqueConstraint("tenant_id", "key", name="flow_keys_key"),
    CheckConstraint("parallelism > 0", name="flow_keys_parallelism_positive"),
    CheckConstraint("rate > 0", name="flow_keys_rate_positive"),
    # lock_flow.
    Index("flow_keys_wake", "wake_at", postgresql_where=text("wake_at < 'infinity'")),
)

url_groups = Table(
    "url_groups",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("tenant_id", Integer, nullable=False),
    Column("name", Text, nullable=False),
    Column("endpoints", JSONB, nullable=False, server_default=text("'[]'")),
    Column("headers", JSONB, nullable=False, server_default=text("'[]'")),
    _now(),
    Column("updated_at", Instant, nullable=False, server_default=func.now()),
    sealed(),
    UniqueConstraint("tenant_id", "name", name="url_groups_name"),
)

schedules = Table(
    "schedules",
    metadata,
    Column("tenant_id", Integer, primary_key=True),
    Column("id", Text, primary_key=True),
    Column("cron", Text, nullable=False),
    Column("destination", Text, nullable=False),
    # The headers as they were sent: every tick reads them as a publish would.
    Column("fields", JSONB, nullable=False),
    Column("body", LargeBinary),
    Column("caller_ip", Text),
    Column("paused", Boolean, nullable=False, server_default=text("false")),
    Column("next_at", Instant, nullable=False),
    Column("last_at", Instant),
    Column("last_messages", ARRAY(UUID), nullable=False, server_default=text("'{}'")),
    Column("error", Text),
    _now(),
    Column("updated_at", Instant, nullable=False, server_default=func.now()),
    sealed(),
    Index("schedules_due", "next_at", postgresql_where=text("not paused")),
)

schedule_ticks = Table(
    "schedule_ticks",
    metadata,
    # A tick is its nominal time: the primary key is why none fires twice.
    Column("tenant_id", Integer, primary_key=True),
    Column("schedule_id", Text, primary_key=True),
    Column("tick_at", Instant, primary_key=True),
    Column("fired_at", Instant, nullable=False, server_default=func.now()),
    Index("schedule_ticks_fired", "fired_at"),
)

bulk_actions = Table(
    "bulk_actions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("tenant_id", Integer, nullable=False),
    Column("kind", Text, nullable=False),
    Column("filter", JSONB, nullable=False),
    Column("filter_hash", LargeBinary, nullable=False),
    Column("total", BigInteger, nullable=False),
    Column("processed", BigInteger, nullable=False, server_default=text("0")),
    Column("most", BigInteger),
    Column("after", UUID),
    Column("held_until", Instant, nullable=False),
    _now(),
    Column("completed_at", Instant),
    # The same filter again, while it runs, is the same action. Also for those that nobody works on any more.
    Index(
        "bulk_actions_running",
        "tenant_id",
        "kind",
        "filter_hash",
        unique=True,
        postgresql_where=text("completed_at is null"),
    ),
    Index("bulk_actions_listed", "tenant_id", "created_at", "id"),
    # Those that are forgotten.
    Index("bulk_actions_completed", "completed_at", postgresql_where=text("completed_at is not null")),
)

usage = Table(
    "usage",
    metadata,
    Column("tenant_id", Integer, primary_key=True),
    Column("day", Date, primary_key=True),
    Column("messages", BigInteger, nullable=False),
)
