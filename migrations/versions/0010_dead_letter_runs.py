"""Bulk work on dead letters that the console does step by step: how far it is, and whether it is to stop."""

from alembic import op

revision = "0010"
down_revision = "0009"

# As in migration 0007.
TENANT = "(select nullif(current_setting('postroad.tenant', true), '')::integer)"

UPGRADE: tuple[str, ...] = (
    """
    create table dead_letter_runs (
      id bigint generated always as identity primary key,
      tenant_id integer not null,
      actor text not null,
      kind text not null constraint dead_letter_runs_kind_known check (kind in ('retry', 'delete')),
      q text not null,
      per_second integer,
      total integer not null,
      done integer not null default 0,
      kept integer not null default 0,
      why text,
      is_stopping boolean not null default false,
      outcome text,
      created_at timestamptz not null default now(),
      seen_at timestamptz not null default now()
    )
    """,
    "create index dead_letter_runs_listed on dead_letter_runs (tenant_id, id)",
    "alter table dead_letter_runs enable row level security",
    f"create policy tenants_apart on dead_letter_runs using (tenant_id = {TENANT})",
)


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    op.execute("drop table dead_letter_runs")
