"""What the console needs: who is signed in, what was done there, and how much went on."""

from alembic import op

revision = "0009"
down_revision = "0008"

# As in migration 0007.
TENANT = "(select nullif(current_setting('postroad.tenant', true), '')::integer)"

UPGRADE: tuple[str, ...] = (
    """
    create table console_passwords (
      singleton boolean primary key default true constraint console_passwords_singleton check (singleton),
      hash text not null,
      created_at timestamptz not null default now()
    )
    """,
    """
    create table sessions (
      hash bytea primary key,
      token_id bigint references tokens (id) on delete cascade,
      tenant_id integer references tenants (id),
      created_at timestamptz not null default now(),
      expires_at timestamptz not null
    )
    """,
    "create index sessions_expiry on sessions (expires_at)",
    # Revoking a token ends its sessions.
    "create index sessions_of_token on sessions (token_id) where token_id is not null",
    """
    create table audit_entries (
      id bigint generated always as identity primary key,
      tenant_id integer not null,
      at timestamptz not null default now(),
      actor text not null,
      action text not null,
      target text not null,
      outcome text not null
    )
    """,
    "create index audit_entries_listed on audit_entries (tenant_id, id)",
    """
    create table activity (
      tenant_id integer not null,
      at timestamptz not null,
      host text not null,
      accepted bigint not null,
      delivered bigint not null,
      retried bigint not null,
      failed bigint not null,
      took_ms bigint not null,
      longest_ms bigint not null,
      late_ms bigint not null,
      primary key (tenant_id, at, host)
    )
    """,
    "create index activity_over on activity (at)",
    """
    alter table tokens
      drop constraint tokens_access_known,
      add constraint tokens_access_known
        check (access in ('full', 'read-only', 'metadata', 'publish-only', 'admin'))
    """,
    *(
        statement
        for table in ("sessions", "audit_entries", "activity")
        for statement in (
            f"alter table {table} enable row level security",
            f"create policy tenants_apart on {table} using (tenant_id = {TENANT})",
        )
    ),
)

DOWNGRADE: tuple[str, ...] = (
    "drop table activity",
    "drop table audit_entries",
    "drop table sessions",
    "drop table console_passwords",
    # Versions before know no such access; a token that may do more would be worse than none.
    "delete from tokens where access = 'metadata'",
    """
    alter table tokens
      drop constraint tokens_access_known,
      add constraint tokens_access_known check (access in ('full', 'read-only', 'publish-only', 'admin'))
    """,
)


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
