"""The schema says which versions of the program may work with it.

A program knows the schemas before it, and none after it: whether it may go on with a newer one, only that one can say.
"""

from alembic import op

revision = "0003"
down_revision = "0002"

UPGRADE = """
create table schema_compatibility (
  singleton boolean primary key default true,
  oldest_program text not null,
  constraint schema_compatibility_singleton check (singleton)
);
insert into schema_compatibility (oldest_program) values ('0003');
"""

DOWNGRADE = """
drop table schema_compatibility;
"""


def upgrade() -> None:
    for statement in UPGRADE.strip().split(";\n"):
        op.execute(statement)


def downgrade() -> None:
    op.execute(DOWNGRADE)
