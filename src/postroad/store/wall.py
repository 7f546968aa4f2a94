"""The second wall between tenants: transactions that see and change one tenant's rows, whatever a statement forgets.

They run under a role without login, which row-level security applies to. The migrations have the policies; here are
the role, what it may do, and the way behind the wall. Owners of the tables, as whom intake and dispatch work, are not
subject to it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic

import asyncpg

from postroad.domain.tenant import TenantId
from postroad.errors import DatabaseUnavailable, Misconfigured
from postroad.store.connecting import Connection, Row

ROLE = "postroad_tenant"
"""The same in every database of a cluster: roles are global there."""

SETTING = "postroad.tenant"
"""Says in a transaction whose rows there are. The policies of the migrations name it too."""

RIGHTS: Sequence[tuple[str, str, str | None]] = (
    *(
        (table, verb, None)
        for table, verbs in {
            "messages": "select",
            "attempts": "select",
            "deliveries": "select update delete",
            "dead_letters": "select update delete",
            "cancellations": "select insert update",
            "queues": "select insert update delete",
            "flow_keys": "select insert update",
            "url_groups": "select insert update delete",
            "schedules": "select insert update delete",
            "bulk_actions": "select insert update",
            "reports": "select insert",
            "waits": "select update",
            "activity": "select",
            "audit_entries": "select",
            "dead_letter_runs": "select insert update delete",
        }.items()
        for verb in verbs.split()
    ),
    ("tenants", "select", "id"),
    ("tenants", "select", "parallelism"),
    # To be locked, not to be changed: a policy refuses that.
    ("tenants", "update", "id"),
)
"""What reads and management need, and no more, as tables, verbs and columns: no tokens, no keys, no new messages."""

FUNCTIONS = ("postroad_labelled(text[], bigint)", "postroad_unfinished(uuid, integer)")

LOOK_AGAIN_S = 10.0
"""How often one looks for a wall that was not there. So a node that was started before the migration finds it."""

_LOCK = 7_064_116_843_112
_TRIES = 10
_PAUSE_S = 0.02
_QUIET_S = 60.0

_log = logging.getLogger(__name__)


class Wall:
    """Whether a database has the wall, and the way behind it. What is known is remembered: one for each pool.

    A schema from before the wall is worked with as it is. One that has it must not be without its role: then nothing
    is read or managed, unless the operator has said that there is to be no wall.
    """

    def __init__(self, *, is_wanted: bool = True) -> None:
        self._is_wanted = is_wanted
        self._way_in: str | None = None
        self._look_again_at = float("-inf")
        self._said_at = float("-inf")

    async def begin(self, connection: Connection, tenant_id: TenantId, *, reads: bool) -> None:
        """Begin a transaction behind the wall, in one round trip; one that `reads` can change nothing at all."""
        if self._way_in is None and self._is_wanted and monotonic() >= self._look_again_at:
            await self._look(connection)
        begin = "begin read only" if reads else "begin"
        if self._way_in is None:
            await connection.execute(begin)
            return
        try:
            await connection.execute(f"{begin}; {self._way_in}; set local {SETTING} = '{int(tenant_id)}'")
        except (asyncpg.InvalidParameterValueError, asyncpg.InsufficientPrivilegeError) as error:
            # The role has gone, or we are none of its members any more: the next one finds out, on another connection,
            # because a session may remember for long who was no member.
            self._way_in, self._look_again_at = None, float("-inf")
            connection.terminate()
            raise DatabaseUnavailable from error

    async def _look(self, connection: Connection) -> None:
        state = await _state(connection)
        if not state.is_built:
            self._look_again_at = monotonic() + LOOK_AGAIN_S
            return
        if (lack := state.lack) is not None:
            if monotonic() - self._said_at > _QUIET_S:
                self._said_at = monotonic()
                _log.warning("nothing is read or managed: %s", lack)
            raise DatabaseUnavailable
        self._way_in = state.way_in


async def check(connection: Connection) -> None:
    """Raise `Misconfigured` when the schema has a wall that this user cannot go behind."""
    state = await _state(connection)
    if state.is_built and (lack := state.lack) is not None:
        raise Misconfigured(lack)


async def leave(connection: Connection) -> None:
    """Go on without the wall until the transaction ends, as for what the messages of a tenant are stored with."""
    await connection.execute("set local role none")


async def is_behind(connection: Connection) -> bool:
    """Whether this transaction is behind the wall. A statement that needs another form there asks first."""
    return await connection.fetchval("select current_user::text = $1", ROLE) is True


# For `postroad migrate`, which runs as the owner.


async def make_role(connection: Connection) -> None:
    """Make the role, and this user a member of it; nothing is done when all is well.

    Others may do the same at this moment for other databases of the cluster. Raises `Misconfigured` with what an
    administrator has to run when this user may not.
    """
    for tried in range(_TRIES):
        state = await _state(connection)
        if state.may_take_role:
            return
        await asyncio.sleep(tried * _PAUSE_S)
        with suppress(*_OF_ANOTHER_ONE):
            await connection.execute(
                f"grant {ROLE} to current_user" if state.has_role else f"create role {ROLE} nologin"
            )
            if tried > 1:
                # A session that looked while somebody else granted may go by what was before, until any role changes.
                await connection.execute(f"alter role {ROLE} nologin")
    raise Misconfigured(state.needs_role)


async def grant(connection: Connection) -> None:
    """Let the role do what it must be able to do; nothing is done when it can. A restored dump may lack it."""
    async with connection.transaction():
        await connection.execute("select pg_advisory_xact_lock($1)", _LOCK)
        state = await _state(connection)
        if not state.is_built or state.is_granted:
            return
        await connection.execute(f"grant usage on schema {state.schema} to {ROLE}")
        for table, verb, column in RIGHTS:
            right = verb if column is None else f"{verb} ({column})"
            await connection.execute(f"grant {right} on {table} to {ROLE}")
        for function in FUNCTIONS:
            await connection.execute(f"revoke all on function {function} from public")
            await connection.execute(f"grant execute on function {function} to {ROLE}")


_OF_ANOTHER_ONE = (
    asyncpg.DuplicateObjectError,
    asyncpg.UniqueViolationError,
    asyncpg.InternalServerError,
    asyncpg.InsufficientPrivilegeError,
)
"""Somebody else makes the same at this moment: the third is "tuple concurrently updated". The last may be final."""


@dataclass(frozen=True, slots=True)
class _State:
    """What is known of the wall. Names are quoted."""

    user: str
    schema: str
    is_built: bool
    has_role: bool
    may_take_role: bool
    is_granted: bool

    @property
    def way_in(self) -> str:
        """What takes a transaction behind the wall, but for the tenant."""
        # A schema that is named like the user is not in the search path of the role.
        path = "" if self.schema == "public" else f"; set local search_path = {self.schema}"
        return f"set local role {ROLE}{path}"

    @property
    def lack(self) -> str | None:
        """Why a wall that was built cannot be used."""
        if not self.may_take_role:
            return self.needs_role
        return None if self.is_granted else f"the role {ROLE} lacks rights that it needs: run postroad migrate"

    @property
    def needs_role(self) -> str:
        """What is to be done about the role, in one sentence."""
        make = "" if self.has_role else f"create role {ROLE} nologin; "
        return (
            f"row-level security needs the role {ROLE}, and {self.user} is to be a member of it: have an administrator "
            f"run `{make}grant {ROLE} to {self.user}`, or go without it by POSTROAD_ROW_LEVEL_SECURITY=false"
        )


async def _state(connection: Connection) -> _State:
    row = await connection.fetchrow(_STATE, ROLE)
    assert row is not None
    granted = row["is_built"] and row["has_role"] and await _is_granted(connection, row)
    return _State(
        user=row["user"],
        schema=row["schema"],
        is_built=row["is_built"],
        has_role=row["has_role"],
        may_take_role=row["may_take_role"],
        is_granted=granted,
    )


async def _is_granted(connection: Connection, state: Row) -> bool:
    tables, verbs, columns = zip(*RIGHTS, strict=True)
    return await connection.fetchval(_IS_GRANTED, ROLE, tables, verbs, columns, FUNCTIONS, state["schema_id"]) is True


_STATE = """
select quote_ident(current_user) as "user", quote_ident(n.nspname) as schema, n.oid as schema_id,
  exists (select from pg_policy where polrelid = to_regclass('messages') and polname = 'tenants_apart') as is_built,
  r.oid is not null as has_role,
  coalesce(pg_has_role(r.oid, case when v.number < 160000 then 'member' else 'set' end), false) as may_take_role
from (select current_setting('server_version_num')::int) as v(number) left join pg_roles r on r.rolname = $1
-- Where the tables are, which need not be where new ones would be made.
left join pg_namespace n on n.oid = coalesce(
  (select relnamespace from pg_class where oid = to_regclass('messages')), current_schema()::regnamespace)
"""

_IS_GRANTED = """
select has_schema_privilege($1, $6::oid, 'usage')
  and not exists (
    select from unnest($2::text[], $3::text[], $4::text[]) as wanted(name, verb, col)
    where not case when col is null then has_table_privilege($1, to_regclass(name), verb)
      else has_column_privilege($1, to_regclass(name), col, verb) end)
  and not exists (
    select from unnest($5::text[]) as wanted(name)
    where not has_function_privilege($1, to_regprocedure(name), 'execute')
      or has_function_privilege('public', to_regprocedure(name), 'execute'))
"""
