"""What becomes of a message while it is worked on: reports of its handler, and work that an acknowledgement ends."""

from alembic import op

revision = "0008"
down_revision = "0007"

# As in the migration before.
TENANT = "(select nullif(current_setting('postroad.tenant', true), '')::integer)"

UPGRADE: tuple[str, ...] = (
    "create sequence reports_number",
    """
    create table reports (
      message_id uuid not null,
      tenant_id integer not null,
      number bigint not null default nextval('reports_number'),
      reported_at timestamptz not null default now(),
      progress real,
      note bytea,
      log bytea,
      result bytea,
      sealed smallint
    ) partition by range (reported_at)
    """,
    *(
        f"create index reports_{name} on reports (message_id, number) where {name} is not null"
        for name in ("progress", "note", "log", "result")
    ),
    """
    create table waits (
      message_id uuid primary key,
      tenant_id integer not null,
      lease bigint not null,
      span interval not null,
      deadline timestamptz not null
    )
    """,
    "create index waits_deadline on waits (deadline)",
    # Not of what is under way, so that a message which is delivered at once pays nothing for it.
    "create index deliveries_listed on deliveries (tenant_id, due_at, id) where state <> 2",
    *(
        statement
        for table in ("reports", "waits")
        for statement in (
            f"alter table {table} enable row level security",
            f"create policy tenants_apart on {table} using (tenant_id = {TENANT})",
        )
    ),
)

DOWNGRADE: tuple[str, ...] = (
    # Nobody would end what waits for an acknowledgement: as if its dispatcher had been lost, it is made again.
    """
    update deliveries set state = 1, dispatcher_id = null, active_at = null, due_at = now()
    where state = 2 and dispatcher_id = 0
    """,
    "drop index deliveries_listed",
    "drop table waits",
    "drop table reports",
    "drop sequence reports_number",
)


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
