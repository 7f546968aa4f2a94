"""The tables that one message touches on its way.

Partitions of a day are not made here but by `store.partitions`, at every migration and by every node while it runs.
"""

from alembic import op

revision = "0001"
down_revision = None

UPGRADE = """
create table tenants (
  id integer generated always as identity primary key,
  name text not null unique,
  created_at timestamptz not null default now()
);

create table tokens (
  id bigint generated always as identity primary key,
  tenant_id integer not null references tenants,
  name text not null,
  hash bytea not null unique,
  last_four text not null,
  access text not null default 'full',
  created_at timestamptz not null default now(),
  constraint tokens_access_known check (access in ('full', 'read-only', 'publish-only'))
);

create table signing_keys (
  tenant_id integer primary key references tenants,
  current_key text not null,
  next_key text not null,
  rotated_at timestamptz
);

create table messages (
  id uuid not null,
  kept boolean not null default false,
  tenant_id integer not null,
  created_at timestamptz not null default now(),
  url text not null,
  method smallint not null default 0,
  header jsonb,
  body bytea,
  options jsonb,
  caller_ip text,
  queue_id bigint,
  flow_key_id bigint,
  schedule_id bigint,
  url_group_id bigint,
  labels text[],
  source_id uuid,
  primary key (id, kept)
) partition by list (kept);
create table messages_kept partition of messages for values in (true);
create table messages_recent partition of messages for values in (false) partition by range (id);
create index messages_created on messages (tenant_id, created_at, id);
create index messages_by_label on messages using gin (labels) where labels is not null;
create index messages_by_queue on messages (queue_id, id) where queue_id is not null;
create index messages_by_schedule on messages (schedule_id, id) where schedule_id is not null;

create table deliveries (
  id uuid primary key,
  tenant_id integer not null,
  state smallint not null,
  due_at timestamptz not null,
  destination bigint not null,
  lease bigint not null default 0,
  dispatcher_id bigint,
  active_at timestamptz,
  retried integer not null default 0,
  unsettled_claims smallint not null default 0,
  queue_id bigint,
  seq bigint,
  sub smallint not null default 0,
  fifo boolean not null default false,
  flow_key_id bigint,
  cancel_requested_at timestamptz,
  constraint deliveries_state_known check (state in (0, 1, 2)),
  constraint deliveries_active_when_held check ((state = 2) = (dispatcher_id is not null)),
  constraint deliveries_seq_in_queue check ((queue_id is null) = (seq is null)),
  constraint deliveries_held_in_queue check (state <> 0 or queue_id is not null)
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);
create index deliveries_due on deliveries (due_at) where state = 1 and flow_key_id is null;
create index deliveries_fair on deliveries (destination, due_at) where state = 1 and flow_key_id is null;
create index deliveries_suspect on deliveries (due_at) where state = 1 and unsettled_claims >= 2;
create index deliveries_flow on deliveries (flow_key_id, due_at) where state = 1 and flow_key_id is not null;
create index deliveries_flow_active on deliveries (flow_key_id) where state = 2 and flow_key_id is not null;
create index deliveries_leased on deliveries (dispatcher_id) where state = 2;
create unique index deliveries_queue on deliveries (queue_id, seq, sub) where queue_id is not null;
create index deliveries_queue_open on deliveries (queue_id, seq) where queue_id is not null and state <> 0;
create index deliveries_queue_held on deliveries (queue_id, seq) where state = 0;
create unique index deliveries_fifo on deliveries (queue_id) where fifo and state <> 0 and sub = 0;

create table attempts (
  message_id uuid not null,
  tenant_id integer not null,
  lease bigint not null,
  retried integer not null,
  active_at timestamptz not null,
  ended_at timestamptz not null default now(),
  duration interval not null,
  outcome smallint not null,
  status smallint,
  reason text,
  header jsonb,
  body bytea,
  next_due_at timestamptz
) partition by range (ended_at);
create index attempts_of_message on attempts (message_id);
create index attempts_active on attempts (tenant_id, active_at, message_id);
create index attempts_ended on attempts (tenant_id, ended_at, message_id);
create index attempts_bad on attempts (tenant_id, ended_at) where outcome <> 0;

create table dead_letters (
  id bigint generated always as identity primary key,
  tenant_id integer not null,
  message_id uuid not null unique,
  failed_at timestamptz not null default now(),
  status smallint,
  reason text,
  header jsonb,
  body bytea
);
create index dead_letters_failed on dead_letters (tenant_id, id);

create table cancellations (
  message_id uuid primary key,
  tenant_id integer not null,
  requested_at timestamptz not null default now(),
  canceled_at timestamptz
);
create index cancellations_requested on cancellations (tenant_id, requested_at, message_id);
create index cancellations_canceled on cancellations (tenant_id, canceled_at, message_id) where canceled_at is not null;

create table deduplications (
  tenant_id integer not null,
  key bytea not null,
  message_id uuid not null,
  expires_at timestamptz not null,
  primary key (tenant_id, key)
);
create index deduplications_expiry on deduplications (expires_at);

create table dispatchers (
  id bigint generated always as identity primary key,
  node text,
  alive_until timestamptz not null
)
"""

DOWNGRADE = """
drop table
  dispatchers, deduplications, cancellations, dead_letters, attempts, deliveries, messages,
  signing_keys, tokens, tenants
"""


def upgrade() -> None:
    for statement in UPGRADE.split(";\n"):
        op.execute(statement)


def downgrade() -> None:
    op.execute(DOWNGRADE)
