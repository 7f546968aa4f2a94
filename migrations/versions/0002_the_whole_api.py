"""Queues, flow control, URL groups, schedules, bulk actions and quotas.

What a message was published with is kept by name (its queue, flow-control key, schedule and URL group), so that history
can be read and filtered after those are gone.
"""

from alembic import op

revision = "0002"
down_revision = "0001"

UPGRADE = """
alter table tenants
  add column failure_callback text,
  add column parallelism integer constraint tenants_parallelism_positive check (parallelism > 0);

alter table messages
  drop column queue_id,
  drop column flow_key_id,
  drop column schedule_id,
  drop column url_group_id,
  add column queue text,
  add column flow_key text,
  add column schedule_id text,
  add column url_group text;
create index messages_by_queue on messages (tenant_id, queue, created_at, id) where queue is not null;
create index messages_by_flow_key on messages (tenant_id, flow_key, created_at, id) where flow_key is not null;
create index messages_by_schedule on messages (tenant_id, schedule_id, created_at, id) where schedule_id is not null;
create index messages_by_url_group on messages (tenant_id, url_group, created_at, id) where url_group is not null;

alter table deliveries
  drop constraint deliveries_seq_in_queue,
  add constraint deliveries_seq_in_queue check (seq is null or queue_id is not null),
  add constraint deliveries_open_in_turn check (state = 0 or (queue_id is null) = (seq is null));
drop index deliveries_queue;
drop index deliveries_queue_held;
create unique index deliveries_place on deliveries (queue_id, seq) where seq is not null and sub = 0;
create index deliveries_queue on deliveries (queue_id, seq) where queue_id is not null;
create index deliveries_entering on deliveries (due_at) where state = 0 and seq is null;

create table queues (
  id bigint generated always as identity primary key,
  tenant_id integer not null,
  name text not null,
  parallelism integer not null default 1,
  paused boolean not null default false,
  next_seq bigint not null default 0,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint queues_name unique (tenant_id, name),
  constraint queues_parallelism_positive check (parallelism > 0)
) with (fillfactor = 50);

create table flow_keys (
  id bigint generated always as identity primary key,
  tenant_id integer not null,
  key text not null,
  parallelism integer,
  rate integer,
  period interval not null default '1 s',
  parallelism_pinned boolean not null default false,
  rate_pinned boolean not null default false,
  paused boolean not null default false,
  period_start timestamptz,
  period_count integer not null default 0,
  wake_at timestamptz not null default 'infinity',
  used_at timestamptz not null default now(),
  constraint flow_keys_key unique (tenant_id, key),
  constraint flow_keys_parallelism_positive check (parallelism > 0),
  constraint flow_keys_rate_positive check (rate > 0)
) with (fillfactor = 50);
create index flow_keys_wake on flow_keys (wake_at) where wake_at < 'infinity';

create table url_groups (
  id bigint generated always as identity primary key,
  tenant_id integer not null,
  name text not null,
  endpoints jsonb not null default '[]',
  headers jsonb not null default '[]',
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint url_groups_name unique (tenant_id, name)
);

create table schedules (
  tenant_id integer not null,
  id text not null,
  cron text not null,
  destination text not null,
  fields jsonb not null,
  body bytea,
  caller_ip text,
  paused boolean not null default false,
  next_at timestamptz not null,
  last_at timestamptz,
  last_messages uuid[] not null default '{}',
  error text,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  primary key (tenant_id, id)
);
create index schedules_due on schedules (next_at) where not paused;

create table schedule_ticks (
  tenant_id integer not null,
  schedule_id text not null,
  tick_at timestamptz not null,
  fired_at timestamptz not null default now(),
  primary key (tenant_id, schedule_id, tick_at)
);
create index schedule_ticks_fired on schedule_ticks (fired_at);

create table bulk_actions (
  id text primary key,
  tenant_id integer not null,
  kind text not null,
  filter jsonb not null,
  filter_hash bytea not null,
  total bigint not null,
  processed bigint not null default 0,
  most bigint,
  after uuid,
  held_until timestamptz not null,
  created_at timestamptz not null default now(),
  completed_at timestamptz
);
create unique index bulk_actions_running on bulk_actions (tenant_id, kind, filter_hash) where completed_at is null;
create index bulk_actions_listed on bulk_actions (tenant_id, created_at, id);
create index bulk_actions_completed on bulk_actions (completed_at) where completed_at is not null;

create table usage (
  tenant_id integer not null,
  day date not null,
  messages bigint not null,
  primary key (tenant_id, day)
)
"""

DOWNGRADE = """
drop table usage, bulk_actions, schedule_ticks, schedules, url_groups, flow_keys, queues;
drop index deliveries_entering;
drop index deliveries_queue;
drop index deliveries_place;
alter table deliveries
  drop constraint deliveries_open_in_turn,
  drop constraint deliveries_seq_in_queue,
  add constraint deliveries_seq_in_queue check ((queue_id is null) = (seq is null));
create unique index deliveries_queue on deliveries (queue_id, seq, sub) where queue_id is not null;
create index deliveries_queue_held on deliveries (queue_id, seq) where state = 0;
alter table messages
  drop column queue,
  drop column flow_key,
  drop column schedule_id,
  drop column url_group,
  add column queue_id bigint,
  add column flow_key_id bigint,
  add column schedule_id bigint,
  add column url_group_id bigint;
create index messages_by_queue on messages (queue_id, id) where queue_id is not null;
create index messages_by_schedule on messages (schedule_id, id) where schedule_id is not null;
alter table tenants drop column parallelism, drop column failure_callback
"""


def upgrade() -> None:
    for statement in UPGRADE.split(";\n"):
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE.split(";\n"):
        op.execute(statement)
