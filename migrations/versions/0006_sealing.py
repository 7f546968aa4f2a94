"""Secrets at rest: which key a row is sealed with."""

from alembic import op

revision = "0006"
down_revision = "0005"

SEALED = ("messages", "attempts", "dead_letters", "schedules", "url_groups", "signing_keys")

UPGRADE: tuple[str, ...] = (
    """
    create table data_keys (
      id smallint primary key,
      wrapped bytea not null,
      master text not null,
      created_at timestamptz not null default now(),
      constraint data_keys_id_positive check (id > 0)
    )
    """,
    *(f"alter table {table} add column sealed smallint" for table in SEALED),
)

DOWNGRADE: tuple[str, ...] = (
    # Without data keys what is sealed is lost, and without the column it is delivered as if it were what was published.
    """
    do $$
    begin
      lock table data_keys in access exclusive mode;
      if exists (select from data_keys) then
        raise exception 'secrets in this database are sealed: it cannot go back to a schema without data keys';
      end if;
    end
    $$
    """,
    *(f"alter table {table} drop column sealed" for table in SEALED),
    "drop table data_keys",
)


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
