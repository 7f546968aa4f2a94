"""Since when a dispatcher beats without a gap: it is a witness that others could have beaten, too."""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.execute("alter table dispatchers add column steady_since timestamptz not null default now()")


def downgrade() -> None:
    op.execute("alter table dispatchers drop column steady_since")
