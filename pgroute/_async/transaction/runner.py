"""The methods of the router that run whole transactions: `run`, `attempts`, `install`, `purge_once_keys`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, TypeVarTuple

# sync-only: from psycopg_pool.abc import CT
from psycopg_pool.abc import ACT as CT  # async-only

from pgroute._async.schema_check import check_trust, install
from pgroute._async.statements import ask
from pgroute._async.transaction.attempts import AsyncAttempts
from pgroute._async.transaction.body import body_of, check_function
from pgroute._async.transaction.loop import run_transaction
from pgroute._async.transaction.once import MISSING, Claim, missing
from pgroute.core.config.retry_policy import check_policy
from pgroute.core.model.roles import Role
from pgroute.core.sql.schema import ONCE
from pgroute.core.transactions.once_keys import PURGE, check_age, check_key
from pgroute.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable  # async-only

    # sync-only: from collections.abc import Callable
    from datetime import timedelta

    import psycopg

    from pgroute._async.manager import AsyncSessionManager
    from pgroute._async.transaction.attempt import AsyncTransaction
    from pgroute.core.config.retry_policy import RetryPolicy
    from pgroute.core.sql.schema import Schema
    from pgroute.runtime.causality import CausalReading

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class AsyncRunner(Generic[CT]):
    """The part of a router that runs whole transactions."""

    _manager: AsyncSessionManager[CT]

    async def run(
        self,
        fn: Callable[[CT, *Ts], Awaitable[T]],
        /,
        *args: *Ts,
        role: Literal["writer", "reader"] | Role = "writer",
        timeout: float | None = None,
        retry: RetryPolicy | None = None,
        once: str | bool | None = None,
        isolation: psycopg.IsolationLevel | str | None = None,
        read_only: bool | None = None,
        deferrable: bool | None = None,
    ) -> T:
        """Call ``fn(conn, *args)`` in a transaction and return its result; run it again as a whole if that is safe.

        It is run again after a serialization failure (40001), a deadlock (40P01), an error that a writer's host is
        read-only (25006), and the loss of the connection before COMMIT was sent. What *fn* does outside of the
        transaction happens again in each attempt.

        With *once*, the transaction with this key is applied once, however often this call, a later call or another
        process tries. All of them get the result of the first, as stored in JSON. This needs the tables that
        `install()` creates.

        The *timeout* covers all attempts, including waits for sessions, except that a COMMIT always gets at least 5
        seconds. No attempt begins later, but *fn* is not interrupted.

        Args:
            fn: the body, a function of a connection. It must not commit: the router does.
            args: further arguments of *fn*.
            role: "writer" or "reader".
            timeout: seconds for the whole call; None: the limit of the policy, and acquire_timeout for each session.
            retry: the policy of retries; None: the router's.
            once: a key of 1 to 512 bytes, or True for a new key for this call.
            isolation: "read committed", "repeatable read", "serializable" or a psycopg.IsolationLevel; None: the
                setting of the connection.
            read_only: of the transaction; None: the setting of the connection.
            deferrable: of the transaction; None: the setting of the connection.

        Raises:
            ConfigError: an argument is invalid, *fn* returned a coroutine or a generator, or the table of *once* is
                missing or cannot be trusted.
            NoHostAvailable, PoolExhausted, SplitBrainError: there was no session in time.
            RouterClosed: the router is not open.
            CommitUnknown: the connection was lost during COMMIT; with *once*, the outcome was not known in time.
            SessionLost: the connection was lost before COMMIT, and there was no time for another attempt.
            TypeError: with *once*, the result is not JSON; nothing was committed.
            psycopg.DataError: the stored result cannot be read: something else than *once* wrote it.
            psycopg.errors.InFailedSqlTransaction: *fn* hid an error of its transaction; nothing was committed.
            psycopg.ProgrammingError: *fn* ended the transaction, left a pipeline open or closed the connection; or this
                call is in the body of another `run()` for a writer.
            Exception: an error of *fn* after which it is not run again.
        """
        # One statement: on a line of its own, an interrupt after the COMMIT would carry no note.
        return await run_function(
            self._manager,
            fn,
            args,
            role=role,
            timeout=timeout,
            retry=retry,
            once=once,
            isolation=isolation,
            read_only=read_only,
            deferrable=deferrable,
        )

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
        """Return an iterator over attempts at a transaction: as `run`, with the body written in place.

        ::

            async for attempt in router.attempts():
                async with attempt as conn:
                    await conn.execute(...)

        Each attempt is a context manager. It yields a connection with its transaction begun, and commits at the end.
        If the transaction is to run again after an error, the ``with`` statement suppresses it, and the next attempt
        follows. Put nothing but the ``with`` statement in the loop, and do not leave it by return or break: if COMMIT
        fails then, the next attempt is never made, which is logged as an error.

        Args:
            role: "writer" or "reader".
            timeout: seconds, as in `run()`; None: the limit of the policy, and acquire_timeout for each session.
            retry: the policy of retries; None: the router's.
            isolation: as in `run()`.
            read_only: of the transaction; None: the setting of the connection.
            deferrable: of the transaction; None: the setting of the connection.

        Raises:
            ConfigError: an argument is invalid.
            NoHostAvailable, PoolExhausted, SplitBrainError: on entering an attempt, there was no session in time.
            RouterClosed: on entering an attempt, the router is not open.
            CommitUnknown: the connection was lost during COMMIT.
            SessionLost: it was lost before COMMIT, and there was no time for another attempt.
            psycopg.errors.InFailedSqlTransaction, psycopg.ProgrammingError: as in `run()`.
        """
        request = self._manager.request(
            role, isolation=isolation, read_only=read_only, deferrable=deferrable, timeout=timeout
        )
        check_policy(retry)
        return AsyncAttempts(self._manager, request, retry, timeout)

    async def install(self) -> None:
        """Create the router's schema with the tables of ``once=`` and of batch jobs, unless they exist.

        Creating the schema needs CREATE on the database. Roles that use the tables need the privileges that
        ``pgroute install`` prints. This is a transaction of `run()`, and raises its errors too.

        Raises:
            ConfigError: the existing schema cannot be trusted: another role could make its users run its code.
            psycopg.errors.InsufficientPrivilege: the role may not create the schema.
            NoHostAvailable, PoolExhausted, SplitBrainError: there was no writer's session in time.
        """
        await self.run(install, self._manager.config.schema)

    async def purge_once_keys(self, older_than: float | timedelta) -> int:
        """Delete the keys of ``once=`` that have not been used for a time; return their number.

        The age must be at least the time for which a call of this router may retry with its key, or a day if nothing
        limits that. Other processes may retry for longer.

        Args:
            older_than: seconds, or a timedelta.

        Raises:
            ConfigError: *older_than* is too short, or the table of the keys is missing or cannot be trusted.
            NoHostAvailable, PoolExhausted, SplitBrainError: there was no writer's session in time.
        """
        longest = note_limit(self._manager, None, None)
        seconds = check_age(older_than, None if longest == math.inf else longest)
        return await self.run(purge, self._manager.config.schema, seconds)


async def run_function(
    manager: AsyncSessionManager[CT],
    fn: Callable[..., Awaitable[T]],
    args: tuple[Any, ...],
    *,
    role: Literal["writer", "reader"] | Role,
    timeout: float | None,
    retry: RetryPolicy | None,
    once: str | bool | None,
    causal: CausalReading | None = None,
    **kind: Any,
) -> T:
    """Call a function in a transaction and return its result, as `AsyncRunner.run` documents.

    Args:
        manager: of the router.
        fn: the body.
        args: further arguments of the body.
        role: as in `AsyncRunner.run`.
        timeout: likewise.
        retry: likewise.
        once: likewise.
        causal: gives the demand of each attempt, and takes note of its end; None: there is no demand.
        kind: isolation, read_only and deferrable, as in `AsyncRunner.run`.
    """
    check_function("fn", fn)
    if retry is not None:
        check_policy(retry)
    key = None if once is None else check_key(once)
    request = manager.request(
        role,
        timeout=timeout,
        decidable=key is not None,
        independent=key is not None and once is not True,
        **kind,
    )
    if key is not None:
        if request.role is Role.READER or request.read_only:
            raise ConfigError("once", once, "expected None for a transaction that cannot write")
        if retry is not None or timeout is not None:
            note_limit(manager, retry, timeout)

    work = body_of(fn, args)
    body: Callable[[AsyncTransaction[CT], CT], Awaitable[Any]] = work if key is None else keyed(work, key)
    # One statement: on a line of its own, an interrupt after the COMMIT would carry no note.
    return await run_transaction(  # type: ignore[return-value]
        manager,
        request,
        body,
        retry=retry,
        timeout=timeout,
        key=key,
        causal=causal,
    )


def keyed(
    work: Callable[[object, psycopg.AsyncConnection[Any]], Awaitable[Any]],
    key: str,
) -> Callable[[AsyncTransaction[CT], CT], Awaitable[Claim]]:
    """Return a body that does the work of another one unless that was done under the key; it returns its claim."""

    async def body(transaction: AsyncTransaction[CT], conn: CT) -> Claim:
        claim = Claim(transaction, key)
        if not await claim.found(transaction):
            claim.keep(await work(transaction, conn))
            transaction.final = claim
        return claim

    return body


def note_limit(manager: AsyncSessionManager[Any], retry: RetryPolicy | None, timeout: float | None) -> float:
    """Remember for how long a call may retry with its key; return the longest time so far, in seconds."""
    limit = (retry or manager.config.retry).limit(timeout)
    manager.longest_retry = max(manager.longest_retry, math.inf if limit is None else limit)
    return manager.longest_retry


async def purge(conn: psycopg.AsyncConnection[Any], schema: Schema, seconds: float) -> int:
    """Delete old keys and return their number."""
    try:
        await check_trust(conn, schema, ONCE)
        results = await ask(conn, PURGE, schema=schema.sql, seconds=seconds)
    except MISSING as exc:
        raise missing("older_than", seconds, exc) from None
    return results[-1].command_tuples or 0
