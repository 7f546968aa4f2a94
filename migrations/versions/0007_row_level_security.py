"""The second wall between tenants: row-level security for what reads and manages.

A role that is no owner sees and changes only rows of the tenant that `postroad.tenant` names, and none without it.
Owners are not subject to it, so intake and dispatch pay nothing. `store/wall.py` has the role and what it may do.
"""

from alembic import op

revision = "0007"
down_revision = "0006"

# In a subselect, so that it is asked once for each statement and not for each row.
TENANT = "(select nullif(current_setting('postroad.tenant', true), '')::integer)"

OWNERS = {
    "tenants": "id",
    **dict.fromkeys(
        (
            "tokens",
            "signing_keys",
            "messages",
            "deliveries",
            "attempts",
            "dead_letters",
            "cancellations",
            "deduplications",
            "queues",
            "flow_keys",
            "url_groups",
            "schedules",
            "schedule_ticks",
            "bulk_actions",
            "usage",
        ),
        "tenant_id",
    ),
}
"""Which column of a table says whose a row is."""

LOCKED_ONLY = ("tenants", "dead_letters")
"""May be locked behind the wall, for which PostgreSQL wants the right to update, but not be updated."""

# What follows reads past the policies, and minds the tenant itself: conditions that PostgreSQL does not know to be
# leakproof cannot lead into an index before a policy, and a count of rows that go unseen cannot be bounded.
FUNCTIONS = (
    f"""
    create function postroad_labelled(wanted text[], most bigint)
    returns table (
      id uuid, created_at timestamptz, url text, caller_ip text, labels text[], options jsonb,
      queue text, flow_key text, schedule_id text, url_group text)
    language sql stable security definer rows 1000
    begin atomic
      with found as materialized (
        select m.id, m.created_at, m.url, m.caller_ip, m.labels, m.options,
          m.queue, m.flow_key, m.schedule_id, m.url_group, m.tenant_id
        from messages m where m.labels && wanted),
      first as materialized (select * from found limit most)
      select f.id, f.created_at, f.url, f.caller_ip, f.labels, f.options,
        f.queue, f.flow_key, f.schedule_id, f.url_group
      from first f where f.tenant_id = {TENANT}
      union all
      select null, null, null, null, null, null, null, null, null, null
      where (select count(*) from first) = most;
    end
    """,  # noqa: S608  a text of this module
    f"""
    create function postroad_unfinished(beyond uuid, reach integer)
    returns table (id uuid, is_candidate boolean, place bigint)
    language sql stable security definer rows 1000
    begin atomic
      select looked.id, looked.is_candidate, looked.place
      from (
        select d.id, d.tenant_id = {TENANT} and d.cancel_requested_at is null as is_candidate,
          row_number() over (order by d.id) as place
        from deliveries d where d.id > beyond order by d.id limit reach) looked
      where looked.is_candidate or looked.place = reach;
    end
    """,  # noqa: S608  a text of this module
    "revoke all on function postroad_labelled, postroad_unfinished from public",
)

UPGRADE: tuple[str, ...] = (
    *(
        statement
        for table, column in OWNERS.items()
        for statement in (
            f"alter table {table} enable row level security",
            f"create policy tenants_apart on {table} using ({column} = {TENANT})"
            + (" with check (false)" if table in LOCKED_ONLY else ""),
        )
    ),
    *FUNCTIONS,
)

DOWNGRADE: tuple[str, ...] = (
    "drop function postroad_labelled, postroad_unfinished",
    *(
        statement
        for table in OWNERS
        for statement in (
            f"drop policy tenants_apart on {table}",
            f"alter table {table} disable row level security",
        )
    ),
)


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
