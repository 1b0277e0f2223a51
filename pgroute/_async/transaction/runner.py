"""The methods of the router that own a transaction: `run`, `attempts`, and what the exactly-once kind needs."""

from __future__ import annotations

import inspect
import math
from types import CoroutineType, GeneratorType
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

# sync-only: from psycopg_pool.abc import CT
from psycopg_pool.abc import ACT as CT  # async-only

from pgroute._async.schema_check import check_trust, install
from pgroute._async.session import note_commit
from pgroute._async.statements import ask
from pgroute._async.transaction.attempts import AsyncAttempts
from pgroute._async.transaction.once import MISSING, advice, claim, keep, missing
from pgroute.core.config.retry_policy import check_policy
from pgroute.core.model.roles import Role
from pgroute.core.sql.schema import ONCE
from pgroute.core.transactions.once_keys import PURGE, check_age, check_key

# sync-only: from pgroute.core.transactions.request import COROUTINE_FUNCTION, LAZY, get_request
from pgroute.core.transactions.request import LAZY, get_request  # async-only
from pgroute.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable  # async-only

    # sync-only: from collections.abc import Callable
    from datetime import timedelta

    import psycopg

    from pgroute._async.manager import AsyncSessionManager
    from pgroute.core.config.retry_policy import RetryPolicy
    from pgroute.core.sql.schema import Schema
    from pgroute.core.transactions.request import Request

T = TypeVar("T")


class AsyncRunner(Generic[CT]):
    """The part of a router that runs whole transactions."""

    _engine: AsyncSessionManager[CT]
    _longest = 0.0

    async def run(
        self,
        fn: Callable[..., Awaitable[T]],  # async-only
        # sync-only: fn: Callable[..., T],
        /,
        *args: Any,
        role: Literal["writer", "reader"] | Role = "writer",
        timeout: float | None = None,
        retry: RetryPolicy | None = None,
        once: str | bool | None = None,
        isolation: psycopg.IsolationLevel | str | None = None,
        read_only: bool | None = None,
        deferrable: bool | None = None,
    ) -> T:
        """Call ``fn(conn, *args)`` in a transaction, and again as a whole where that is safe; return its result.

        It is run again for a serialization failure (40001), a deadlock (40P01), a host that turned out read-only where
        a writer was asked for (25006), and a connection that was lost before COMMIT was sent. What *fn* does outside of
        the transaction happens each time.

        Args:
            fn: the body. The transaction is the router's: *fn* does not commit.
            args: for *fn*.
            role: "writer" or "reader".
            timeout: seconds for the whole, waiting for sessions included, after which no attempt begins; *fn* itself is
                not interrupted. None: as the policy says, and acquire_timeout for each session.
            retry: how long and how often; None: the router's.
            once: a key of 1 to 512 bytes: the transaction is applied once, however often it is tried, by this call, a
                later one or another process, and all get the first one's result as it is stored, in JSON. True: a
                fresh key for this call. Needs the tables that `install()` makes.
            isolation: "read committed", "repeatable read", "serializable" or a psycopg.IsolationLevel; None: as the
                connection has it.
            read_only: for the transaction; None: as the connection has it.
            deferrable: likewise.

        Raises:
            ConfigError: an argument is not usable, *fn* gave a coroutine or a generator, or *once* lacks its table, or
                others could have code run by it.
            NoHostAvailable, PoolExhausted, SplitBrainError: no session could be had in time.
            RouterClosed: the router is not open.
            CommitUnknown: the connection was lost during COMMIT; with *once*, it was not found out in time.
            SessionLost: it was lost before COMMIT, and there was no time for another attempt.
            TypeError: the result is to be stored and is not JSON; nothing was committed.
            psycopg.DataError: the result that is stored under the key cannot be read: it is nobody's who used *once*.
            psycopg.errors.InFailedSqlTransaction: *fn* hid an error of its transaction; nothing was committed.
            psycopg.ProgrammingError: *fn* ended the transaction by itself, left a pipeline open or closed the
                connection; or this is the body of another `run()` for a writer.
            Exception: what *fn* raised, where that is not run again.
        """
        check_function("fn", fn)
        key = check_key(once)
        if key is not None and (Role.parse(role) is Role.READER or read_only):
            raise ConfigError("once", once, "expected None for a transaction that cannot write")
        request = self._request(
            role,
            isolation=isolation,
            read_only=read_only,
            deferrable=deferrable,
            timeout=timeout,
            decidable=key is not None,
            independent=key is not None and once is not True,
        )
        if key is not None:
            self._note_limit(retry, timeout)
        attempts = self._attempts(request, retry, timeout, key)
        try:
            async for attempt in attempts:
                result: Any = None
                async with attempt as conn:
                    if key is not None:
                        found = await claim(attempt, conn, key)
                        if found is not None:
                            result = found.result
                            continue
                    result = await call(fn, conn, *args)
                    if key is not None:
                        result = await keep(attempt, conn, key, result)
            return result  # type: ignore[no-any-return]
        except BaseException as exc:
            note_commit(exc, attempts._phase)
            if key is not None and (exc is attempts.unknown or not isinstance(exc, Exception)):
                exc.add_note(advice(key))
            raise

    def attempts(
        self,
        role: Literal["writer", "reader"] | Role = "writer",
        *,
        timeout: float | None = None,
        retry: RetryPolicy | None = None,
        isolation: psycopg.IsolationLevel | str | None = None,
        read_only: bool | None = None,
        deferrable: bool | None = None,
    ) -> AsyncAttempts[CT]:
        """Return an iterator over attempts at a transaction: `run` for who wants to write the body in place.

        ::

            async for attempt in router.attempts():
                async with attempt as conn:
                    await conn.execute(...)

        Each attempt is a context manager that yields a connection with its transaction begun, and commits at the end.
        An error after which the transaction is run again is not let out of the ``with`` statement, the next attempt
        follows. So nothing but the ``with`` statement belongs in the loop, and it must not be left by return or break:
        if COMMIT fails then, the next attempt is never made (this is logged as an error).

        Args:
            role: "writer" or "reader".
            timeout: seconds for the whole, waiting for sessions included, after which no attempt begins. None: as the
                policy says, and acquire_timeout for each session.
            retry: how long and how often; None: the router's.
            isolation: as in `run()`.
            read_only: for the transaction; None: as the connection has it.
            deferrable: likewise.

        Raises:
            ConfigError: an argument is not usable.
            NoHostAvailable, PoolExhausted, SplitBrainError: on entering an attempt, no session could be had in time.
            RouterClosed: on entering an attempt, the router is not open.
            CommitUnknown: the connection was lost during COMMIT.
            SessionLost: it was lost before COMMIT, and there was no time for another attempt.
            psycopg.errors.InFailedSqlTransaction, psycopg.ProgrammingError: as from `run()`.
        """
        request = self._request(
            role, isolation=isolation, read_only=read_only, deferrable=deferrable, timeout=timeout
        )
        return self._attempts(request, retry, timeout)

    async def install(self) -> None:
        """Create the router's schema with the tables of ``once=`` and of batch jobs, unless they are there.

        Needs the right to create a schema in the database, if it is not there yet. Roles that use the tables need the
        rights that ``pgroute install`` prints. Otherwise as `run()`.

        Raises:
            ConfigError: what is there is not to be trusted: others could have code run by whoever uses it.
            psycopg.errors.InsufficientPrivilege: the role may not create it.
            NoHostAvailable, PoolExhausted, SplitBrainError: no writer's session could be had in time.
        """
        await self.run(install, self._engine.plan.schema)

    async def purge_once_keys(self, older_than: float | timedelta) -> int:
        """Forget the keys of ``once=`` that were last used so long ago; return how many.

        Args:
            older_than: seconds, or a timedelta; not less than the time for which a call of this router may go on trying
                with its key, and a day where nothing limits that. Other processes may go on for longer.

        Raises:
            ConfigError: it is less, or the table of the keys is missing, or not to be trusted.
            NoHostAvailable, PoolExhausted, SplitBrainError: no writer's session could be had in time.
        """
        self._note_limit(None, None)
        seconds = check_age(older_than, None if self._longest == math.inf else self._longest)
        return await self.run(purge, self._engine.plan.schema, seconds)

    def _request(self, role: object, **options: Any) -> Request:
        return get_request(
            role,
            reader_attrs=self._engine.plan.reader_attrs,
            reader_read_only=self._engine.plan.reader.read_only,
            **options,
        )

    def _attempts(
        self, request: Request, retry: RetryPolicy | None, timeout: float | None, key: str | None = None
    ) -> AsyncAttempts[CT]:
        check_policy(retry)
        return AsyncAttempts(self._engine, request, retry or self._engine.plan.retry, timeout, key)

    def _note_limit(self, retry: RetryPolicy | None, timeout: float | None) -> None:
        check_policy(retry)
        limit = (retry or self._engine.plan.retry).limit(timeout)
        self._longest = max(self._longest, math.inf if limit is None else limit)


async def purge(conn: psycopg.AsyncConnection[Any], schema: Schema, seconds: float) -> int:
    """Delete old keys and return how many."""
    try:
        await check_trust(conn, schema, ONCE)
        results = await ask(conn, PURGE, schema=schema.sql, seconds=seconds)
    except MISSING as exc:
        raise missing("older_than", seconds, exc) from None
    return results[-1].command_tuples or 0


async def call(fn: Callable[..., Any], conn: psycopg.AsyncConnection[Any], *args: Any) -> Any:
    """Call a body and return its result.

    Raises:
        ConfigError: it gave something that has not done its work yet.
    """
    result = fn(conn, *args)
    # async-only: begin
    if not hasattr(result, "__await__"):
        raise await _idle(fn, conn, result)
    result = await result
    # async-only: end
    if isinstance(result, LAZY) or hasattr(result, "__await__"):
        raise await _idle(fn, conn, result)
    return result


def check_function(parameter: str, fn: object) -> None:
    """Raise ConfigError for what can be seen not to be a body; what it returns is looked at later."""
    if isinstance(fn, CoroutineType):
        fn.close()
        name = fn.__name__
        raise ConfigError(
            parameter,
            fn,
            f"expected the function: run({name}, ...), which calls it; this is what {name}(...) returns",
        )
    if not callable(fn):
        raise ConfigError(parameter, fn, "expected a function of a connection")
    # Not inspect's functions, which take longer than the rest of run().
    flags = getattr(getattr(fn, "__code__", None), "co_flags", 0)
    kind = None
    if flags & (inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR):
        kind = "generator function: none of its body would run before the transaction is over"
    # sync-only: if flags & inspect.CO_COROUTINE:
    # sync-only:     kind = COROUTINE_FUNCTION
    if kind is not None:
        raise ConfigError(parameter, fn, f"expected a plain function, this is a {kind}")


async def _idle(fn: object, conn: psycopg.AsyncConnection[Any], result: Any) -> ConfigError:
    """Return the error for a body that left its work to be done later, having seen to it that it is not."""
    what = type(result).__name__
    if isinstance(result, (CoroutineType, GeneratorType)):
        result.close()
    else:
        # Whatever goes on with the connection must not do so in somebody else's transaction.
        await conn.close()
    accepted = f"expected a body that does its work; it returned a {what}, and was rolled back"
    # sync-only: if hasattr(result, "__await__"):
    # sync-only:     accepted += " (coroutine functions are for the asynchronous router)"
    # async-only: begin
    if hasattr(result, "cancel"):
        result.cancel()
    if hasattr(result, "__await__"):
        accepted += ": await it there"
    elif not isinstance(result, LAZY):
        accepted = f"expected a coroutine function (async def); its result was of type {what}, and it was rolled back"
    # async-only: end
    return ConfigError("fn", fn, accepted)
