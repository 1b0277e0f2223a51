# Generated from pgroute/_async/transaction/runner.py by .ci/unasync.py: edit that file, not this one.
"""The methods of the router that own a transaction: `run`, `attempts`, and what the exactly-once kind needs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from psycopg_pool.abc import CT

from pgroute._sync.schema_check import check_trust, install
from pgroute._sync.statements import ask
from pgroute._sync.transaction.attempts import Attempts
from pgroute._sync.transaction.body import call, check_function
from pgroute._sync.transaction.loop import run_transaction
from pgroute._sync.transaction.once import MISSING, claim, keep, missing
from pgroute.core.model.roles import Role
from pgroute.core.sql.schema import ONCE
from pgroute.core.transactions.once_keys import PURGE, check_age, check_key
from pgroute.core.transactions.retry import check_policy
from pgroute.errors import ConfigError

if TYPE_CHECKING:

    from collections.abc import Callable
    from datetime import timedelta

    import psycopg

    from pgroute._sync.manager import SessionManager
    from pgroute._sync.transaction.attempt import Transaction
    from pgroute.core.sql.schema import Schema
    from pgroute.core.transactions.retry import RetryPolicy

T = TypeVar("T")


class Runner(Generic[CT]):
    """The part of a router that runs whole transactions."""

    _manager: SessionManager[CT]
    _longest = 0.0

    def run(
        self,
        fn: Callable[..., T],
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
        check_policy(retry)
        key = check_key(once)
        if key is not None and (Role.parse(role) is Role.READER or read_only):
            raise ConfigError("once", once, "expected None for a transaction that cannot write")
        request = self._manager.request(
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

        def body(transaction: Transaction[CT], conn: CT) -> Any:
            if key is None:
                return call(fn, conn, *args)
            found = claim(transaction, key)
            if found is not None:
                return found.result
            return keep(transaction, key, call(fn, conn, *args))

        result: Any = run_transaction(
            self._manager, request, body, retry=retry, timeout=timeout, key=key
        )
        return result  # type: ignore[no-any-return]

    def attempts(
        self,
        role: Literal["writer", "reader"] | Role = "writer",
        *,
        timeout: float | None = None,
        retry: RetryPolicy | None = None,
        isolation: psycopg.IsolationLevel | str | None = None,
        read_only: bool | None = None,
        deferrable: bool | None = None,
    ) -> Attempts[CT]:
        """Return an iterator over attempts at a transaction: `run` for who wants to write the body in place.

        ::

            for attempt in router.attempts():
                with attempt as conn:
                    conn.execute(...)

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
        request = self._manager.request(
            role, isolation=isolation, read_only=read_only, deferrable=deferrable, timeout=timeout
        )
        check_policy(retry)
        return Attempts(self._manager, request, retry, timeout)

    def install(self) -> None:
        """Create the router's schema with the tables of ``once=`` and of batch jobs, unless they are there.

        Needs the right to create a schema in the database, if it is not there yet. Roles that use the tables need the
        rights that ``pgroute install`` prints. Otherwise as `run()`.

        Raises:
            ConfigError: what is there is not to be trusted: others could have code run by whoever uses it.
            psycopg.errors.InsufficientPrivilege: the role may not create it.
            NoHostAvailable, PoolExhausted, SplitBrainError: no writer's session could be had in time.
        """
        self.run(install, self._manager.config.schema)

    def purge_once_keys(self, older_than: float | timedelta) -> int:
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
        return self.run(purge, self._manager.config.schema, seconds)

    def _note_limit(self, retry: RetryPolicy | None, timeout: float | None) -> None:
        limit = (retry or self._manager.config.retry).limit(timeout)
        self._longest = max(self._longest, math.inf if limit is None else limit)


def purge(conn: psycopg.Connection[Any], schema: Schema, seconds: float) -> int:
    """Delete old keys and return how many."""
    try:
        check_trust(conn, schema, ONCE)
        results = ask(conn, PURGE, schema=schema.sql, seconds=seconds)
    except MISSING as exc:
        raise missing("older_than", seconds, exc) from None
    return results[-1].command_tuples or 0
