"""The one way to the database: a pool, prepared statements, and every foreign exception translated at this door."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from importlib.resources import files
from itertools import count
from time import monotonic
from typing import TypeVar

import asyncpg
from sqlalchemy import Executable
from sqlalchemy.dialects.postgresql.asyncpg import dialect
from sqlalchemy.sql.compiler import SQLCompiler

from postroad.domain.tenant import TenantId
from postroad.errors import DatabaseUnavailable, OutcomeUnknown, PostroadError
from postroad.store.connecting import CALL_DEADLINE_S as CALL_DEADLINE_S
from postroad.store.connecting import UNREACHABLE, connect, open_pool, unreachable, with_vault
from postroad.store.connecting import Connection as Connection
from postroad.store.connecting import Row as Row
from postroad.store.connecting import vault_of as vault_of
from postroad.store.fitness import check_fitness
from postroad.store.wall import Wall
from postroad.vault import Vault

TRIES = 5

T = TypeVar("T")

_log = logging.getLogger(__name__)

_dialect = dialect()  # type: ignore[no-untyped-call]  # untyped in SQLAlchemy


class DataRefused(PostroadError):
    """The database refuses a value (SQLSTATE classes 22 and 23); nothing of the transaction was stored.

    Says where, and never the value.
    """


class TryAgain(PostroadError):
    """A deadlock or a serialization failure: nothing was stored, and the same again may well succeed."""


def statement(name: str) -> str:
    """The text of a hot statement, `name`.sql beside this module."""
    return (files("postroad.store") / f"{name}.sql").read_text()


async def run(connection: Connection, query: Executable) -> list[Row]:
    """Run a SQLAlchemy Core statement on an asyncpg connection, so that it shares that connection's transaction."""
    compiled = query.compile(dialect=_dialect, compile_kwargs={"render_postcompile": True})  # type: ignore[attr-defined]
    assert isinstance(compiled, SQLCompiler)
    values = compiled.params
    processors = compiled._bind_processors  # noqa: SLF001  SQLAlchemy has no public way to bind without its own engine
    arguments = [
        processors[name](values[name]) if name in processors else values[name]  # type: ignore[operator]
        for name in compiled.positiontup or ()
    ]
    return await connection.fetch(str(compiled), *arguments)


class Database:
    """A pool of connections, and the vault of what is secret behind them. Nothing but `store` looks inside."""

    def __init__(
        self,
        url: str,
        pool: asyncpg.Pool[asyncpg.Record],
        *,
        trouble: _Trouble | None = None,
        at_most: asyncio.Semaphore | None = None,
        vault: Vault | None = None,
        wall: Wall | None = None,
    ) -> None:
        self.url = url
        self.vault = vault or Vault()
        self._pool = pool
        self._trouble = trouble or _Trouble()
        self._at_most = at_most
        self._wall = wall or Wall()

    @classmethod
    async def connect(cls, url: str, *, connections: int = 10, walled: bool = True) -> Database:
        """Open the pool and check that the server keeps what it acknowledges. Raises `Misconfigured`.

        Only if it is `walled`, what is read and changed for a tenant goes behind the wall between tenants.
        """
        try:
            pool = await open_pool(url, most=connections, vault=(vault := Vault()))
        except (*UNREACHABLE, ValueError) as error:
            raise unreachable(error) from error
        database = cls(url, pool, vault=vault, wall=Wall(is_wanted=walled))
        try:
            async with database.connection() as connection:
                await check_fitness(connection)
        except PostroadError as error:
            await database.close()
            if isinstance(error, DatabaseUnavailable):
                raise unreachable(error.__cause__ or error) from error
            raise
        except (asyncpg.SyntaxOrAccessError, ValueError) as error:
            await database.close()
            raise unreachable(error) from error
        return database

    def limited(self, connections: int) -> Database:
        """The same pool for users who may hold only so many of its connections at a time."""
        at_most = asyncio.Semaphore(connections)
        return Database(self.url, self._pool, trouble=self._trouble, at_most=at_most, vault=self.vault, wall=self._wall)

    @asynccontextmanager
    async def separate(self) -> AsyncIterator[Database]:
        """A connection of its own to the same server, which nobody can keep busy."""
        pool = await open_pool(self.url, most=1, vault=self.vault)
        own = Database(self.url, pool, trouble=self._trouble, vault=self.vault)
        try:
            yield own
        finally:
            await own.close()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection outside a transaction. Raises `DatabaseUnavailable`, `DataRefused` or `TryAgain`."""
        with _translating():
            async with self._acquired() as connection:
                yield connection

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """A connection in a transaction that commits at the end.

        A commit without an answer, or one that the server comments on, raises `OutcomeUnknown`.
        """
        with _translating():
            async with self._acquired() as connection:
                transaction = connection.transaction()
                await transaction.start()
                try:
                    yield connection
                except BaseException:
                    # Of a lost connection the server rolls back by itself.
                    with suppress(*_OF_THE_CLIENT, OSError, asyncpg.PostgresError):
                        await transaction.rollback()
                    raise
                await _commit(connection, transaction.commit)

    def changing(self, tenant_id: TenantId) -> AbstractAsyncContextManager[Connection]:
        """The same behind the wall: nothing but what is this tenant's can be seen or changed."""
        return self._behind_the_wall(tenant_id, reads=False)

    def reading(self, tenant_id: TenantId) -> AbstractAsyncContextManager[Connection]:
        """A connection behind the wall, in a transaction that cannot change anything."""
        return self._behind_the_wall(tenant_id, reads=True)

    @asynccontextmanager
    async def _behind_the_wall(self, tenant_id: TenantId, *, reads: bool) -> AsyncIterator[Connection]:
        with _translating():
            async with self._acquired() as connection:
                try:
                    await self._wall.begin(connection, tenant_id, reads=reads)
                    yield connection
                except BaseException:
                    with suppress(*_OF_THE_CLIENT, OSError, asyncpg.PostgresError):
                        await connection.execute("rollback")
                    raise
                if reads:
                    await connection.execute("commit")
                else:
                    await _commit(connection, partial(connection.execute, "commit"))

    async def repeated(self, work: Callable[[Connection], Awaitable[T]], *, tenant_id: TenantId | None = None) -> T:
        """Do work in a transaction of its own, and all of it once more when it was the victim of a deadlock.

        With a tenant it is behind the wall. Nothing of a try that failed is stored. Raises what `transaction` raises,
        `TryAgain` after five tries.
        """
        for tried in count(1):
            try:
                async with self.transaction() if tenant_id is None else self.changing(tenant_id) as connection:
                    return await work(connection)
            except TryAgain:
                if tried == TRIES:
                    raise
        raise AssertionError

    @asynccontextmanager
    async def single(self) -> AsyncIterator[Connection]:
        """A connection for exactly one statement that writes and commits by itself.

        The statement is also its commit: no answer, or an answer with a comment, raises `OutcomeUnknown`. With a
        synchronous standby, a commit whose wait was cancelled is answered as a success with a warning.
        """
        with _translating():
            async with self._acquired() as connection:
                with _Notices(connection) as notices:
                    try:
                        yield connection
                    except _LOST as error:
                        raise OutcomeUnknown from error
                if notices:
                    raise OutcomeUnknown

    @asynccontextmanager
    async def _acquired(self) -> AsyncIterator[Connection]:
        if self._at_most is not None:
            async with asyncio.timeout(CALL_DEADLINE_S):
                await self._at_most.acquire()
        try:
            async with self._pool.acquire(timeout=CALL_DEADLINE_S) as connection:
                try:
                    yield connection
                except (*_LOST, asyncpg.ReadOnlySQLTransactionError, OutcomeUnknown) as error:
                    if isinstance(_cause(error), TimeoutError | asyncpg.ReadOnlySQLTransactionError):
                        # Whatever else leads to this server is not to be waited for, one connection after the other.
                        await self._pool.expire_connections()
                        connection.terminate()
                    raise
        except (*_LOST, asyncpg.PostgresError, OutcomeUnknown) as error:
            if _is_trouble(error):
                self._trouble.noticed(_cause(error))
            raise
        else:
            self._trouble.over()
        finally:
            if self._at_most is not None:
                self._at_most.release()

    async def close(self) -> None:
        """Close all connections, at the latest after the call deadline."""
        try:
            async with asyncio.timeout(CALL_DEADLINE_S):
                await self._pool.close()
        except TimeoutError:
            self._pool.terminate()


async def _commit(connection: Connection, commit: Callable[[], Awaitable[object]]) -> None:
    with _Notices(connection) as notices:
        try:
            await commit()
        except _LOST as error:
            raise OutcomeUnknown from error
    if notices:
        raise OutcomeUnknown


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Connection]:
    """One connection without a pool, for the command line. Raises `Misconfigured` when there is none to be had."""
    try:
        connection = with_vault(await connect(url), Vault())
    except (*UNREACHABLE, ValueError) as error:
        raise unreachable(error) from error
    try:
        yield connection
    finally:
        await connection.close()


_OF_THE_CLIENT = (asyncpg.InterfaceError, asyncpg.InternalClientError)
"""What the driver says itself, the second of a connection that the server closed in the midst of an answer."""

_LOST = (OSError, TimeoutError, asyncpg.PostgresConnectionError, *_OF_THE_CLIENT, asyncpg.QueryCanceledError,
         asyncpg.OperatorInterventionError)  # fmt: skip
"""What leaves it open whether a commit took place."""


def _is_trouble(error: Exception) -> bool:
    """Whether an operator should know: it is no refused value, and nothing that goes well when it is repeated."""
    match error:
        case asyncpg.CheckViolationError(constraint_name=None):
            return True
        case asyncpg.DeadlockDetectedError() | asyncpg.SerializationError() | asyncpg.DataError():
            return False
        case asyncpg.IntegrityConstraintViolationError() | asyncpg.SyntaxOrAccessError():
            return False
    return True


def _cause(error: Exception) -> BaseException:
    """What was behind an unknown outcome, else the error itself."""
    return error.__cause__ or error if isinstance(error, OutcomeUnknown) else error


class _Trouble:
    """Says once that the database is in trouble, and once that it is over, whoever notices, and however often."""

    _REPEATED_AFTER_S = 60.0
    _QUIET_S = 5.0

    def __init__(self) -> None:
        self._since: float | None = None
        self._said_at: float | None = None
        self._ended_at = float("-inf")

    def noticed(self, error: BaseException) -> None:
        now = monotonic()
        if self._since is None:
            self._since, self._said_at = now, None
        quiet_s = self._QUIET_S if self._said_at is None else self._REPEATED_AFTER_S
        if now - (self._said_at or self._ended_at) >= quiet_s:
            self._said_at = now
            _log.warning("the database is in trouble: %s", _words(error))

    def over(self) -> None:
        if self._since is not None:
            if self._said_at is not None:
                self._ended_at = monotonic()
                _log.warning("the database answers again after %.1f s", self._ended_at - self._since)
            self._since = None


class _translating:  # noqa: N801  reads as a phrase where it is used
    """Foreign exceptions become ours. A class, because a generator costs three times as much on the hot path."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        match error:
            case None | PostroadError() | asyncio.CancelledError():
                return
            case asyncpg.DeadlockDetectedError() | asyncpg.SerializationError():
                raise TryAgain(_first_line(error)) from error
            case asyncpg.CheckViolationError(constraint_name=None):
                # No partition for the row: the fault is ours, not the row's.
                raise DatabaseUnavailable from error
            case asyncpg.DataError() | asyncpg.IntegrityConstraintViolationError():
                # Not `from error`, whose words would stand in every traceback.
                raise DataRefused(_refusal(error)) from None
            case asyncpg.PostgresSyntaxError() | asyncpg.SyntaxOrAccessError():
                return
            case (
                OSError()
                | TimeoutError()
                | asyncpg.PostgresError()
                | asyncpg.InterfaceError()
                | asyncpg.InternalClientError()
            ):
                raise DatabaseUnavailable from error


def _words(error: BaseException) -> str:
    """What is wrong, for people: the server's words, or ours for what only the driver's authors understand."""
    if isinstance(error, TimeoutError):
        return "it does not answer"
    if isinstance(error, _OF_THE_CLIENT):
        return "a connection was lost"
    return _first_line(error) or type(error).__name__


def _refusal(error: asyncpg.PostgresError) -> str:
    """What refuses a value, in our words: server and driver quote it."""
    argument = _ARGUMENT.search(str(error))
    names = (error.table_name, error.column_name, error.constraint_name, argument and argument[0])
    return f"the database refuses a value ({', '.join([type(error).__name__, *filter(None, names)])})"


_ARGUMENT = re.compile(r"argument \$[0-9]+")


def _first_line(error: BaseException) -> str:
    """What the server says, without its DETAIL: that quotes the row, and with it bodies and headers."""
    return str(error).partition("\n")[0]


class _Notices:
    """Collects what the server says beside the answer while a commit is under way."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._heard: list[object] = []

    def __enter__(self) -> list[object]:
        self._connection.add_log_listener(self._hear)
        return self._heard

    def __exit__(self, *_: object) -> None:
        # A connection that was lost has been taken from us already, with its listeners.
        with suppress(asyncpg.InterfaceError):
            self._connection.remove_log_listener(self._hear)

    def _hear(self, _: object, message: object) -> None:
        self._heard.append(message)


def affected(status: str) -> int:
    """The number of rows in a command tag such as `UPDATE 3`."""
    return int(status.rpartition(" ")[2])
