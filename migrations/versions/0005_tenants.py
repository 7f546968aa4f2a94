"""What an operator sets for a tenant, and what is known of a token.

An admin token is for whoever manages tenants, and belongs to none. The hash of a revoked token is kept, so that no
start with an old POSTROAD_TOKEN makes it valid again.
"""

from alembic import op

revision = "0005"
down_revision = "0004"

UPGRADE: tuple[str, ...] = (
    """
    alter table tenants
      add column max_calls_per_second integer constraint tenants_max_calls check (max_calls_per_second >= 0),
      add column max_messages_per_day bigint constraint tenants_max_messages check (max_messages_per_day >= 0),
      add column destinations text
    """,
    """
    alter table tokens
      alter column tenant_id drop not null,
      add column expires_at timestamptz,
      add column used_at timestamptz,
      drop constraint tokens_access_known,
      add constraint tokens_access_known check (access in ('full', 'read-only', 'publish-only', 'admin')),
      add constraint tokens_admin_of_no_tenant check ((access = 'admin') = (tenant_id is null))
    """,
    "create index tokens_of_tenant on tokens (tenant_id, id)",
    """
    create table revoked_tokens (
      hash bytea primary key,
      revoked_at timestamptz not null default now()
    )
    """,
)

DOWNGRADE: tuple[str, ...] = (
    "drop table revoked_tokens",
    "drop index tokens_of_tenant",
    "delete from tokens where tenant_id is null",
    """
    alter table tokens
      drop constraint tokens_admin_of_no_tenant,
      drop constraint tokens_access_known,
      add constraint tokens_access_known check (access in ('full', 'read-only', 'publish-only')),
      drop column used_at,
      drop column expires_at,
      alter column tenant_id set not null
    """,
    "alter table tenants drop column destinations, drop column max_messages_per_day, drop column max_calls_per_second",
)


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
