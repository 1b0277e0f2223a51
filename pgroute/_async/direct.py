"""Queries without a session of their own: one statement, one transaction, one round trip."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Generic, Literal

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

# sync-only: from psycopg_pool.abc import CT
from psycopg_pool.abc import ACT as CT  # async-only

from pgroute._async.pool.lease import shut
from pgroute._async.transaction.attempt import acquire
from pgroute._async.transaction.loop import begin_attempts, pause
from pgroute._async.transaction.runner import run_function
from pgroute.core.config.options import check_integer
from pgroute.core.faults.classify import Fault, FaultKind, session_fault
from pgroute.core.model.roles import Role
from pgroute.core.transactions.retry import Phase, Raise, Retry
from pgroute.errors import CommitUnknown, ConfigError, RouteError, SessionLost

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence  # async-only

    # sync-only: from collections.abc import Callable, Iterable, Mapping, Sequence
    from psycopg.abc import QueryNoTemplate as Query

    from pgroute._async.checkout import AsyncCheckout
    from pgroute._async.manager import AsyncSessionManager
    from pgroute.core.transactions.request import Request
    from pgroute.core.transactions.retry import RetryState

    Params = Sequence[Any] | Mapping[str, Any] | None

_IDLE = TransactionStatus.IDLE
_COMMITTED = "the statement was committed"
_UNKNOWN = "interrupted during the statement: it may have been committed"


class AsyncDirect(Generic[CT]):
    """The part of a router that runs single statements."""

    _manager: AsyncSessionManager[CT]

    async def execute(
        self,
        query: Query,
        params: Params = None,
        *,
        role: Literal["writer", "reader"] | Role = "writer",
        timeout: float | None = None,
        once: str | bool | None = None,
    ) -> str:
        """Execute one statement in a transaction of its own, and return its command tag, such as "INSERT 0 1".

        It takes one round trip; with *once*, three. It is run again as `run()` would run it. A writer's statement whose
        connection is lost after it was sent is not, except with *once*: it may have been committed.

        Args:
            query: one statement, with placeholders as in psycopg.
            params: the values of the placeholders; None: the query has none.
            role: "writer" or "reader".
            timeout: seconds for the whole call; None: the limit of the policy, and acquire_timeout for each session.
            once: as in `run()`.

        Raises:
            ConfigError: an argument is invalid.
            NoHostAvailable, PoolExhausted, SplitBrainError: there was no session in time.
            RouterClosed: the router is not open.
            CommitUnknown: the connection of a writer was lost, or no synchronous standby has confirmed the commit.
            SessionLost: the connection of a reader was lost, and there was no time for another attempt.
            psycopg.Error: the server's error, and that the query has several statements, or begins a transaction.
        """
        if once is None or once is False:
            tag: str = await self._run(_command_tag, query, params, role, timeout)
            return tag

        async def body(conn: psycopg.AsyncConnection[Any]) -> str:
            return (await _execute(conn, query, params)).statusmessage or ""

        return await run_function(
            self._manager,
            body,
            (),
            role=role,
            timeout=timeout,
            retry=None,
            once=once,
            isolation=None,
            read_only=None,
            deferrable=None,
        )

    async def executemany(
        self,
        query: Query,
        params_seq: Iterable[Sequence[Any] | Mapping[str, Any]],
        *,
        role: Literal["writer", "reader"] | Role = "writer",
        timeout: float | None = None,
    ) -> None:
        """Execute a statement with each set of values, all in one transaction, which is run again as in `run()`.

        Args:
            query: one statement, with placeholders as in psycopg.
            params_seq: the values. An iterator is read to its end before the first attempt.
            role: "writer" or "reader".
            timeout: seconds for the whole call; None: the limit of the policy, and acquire_timeout for each session.

        Raises:
            RouteError: as with `run()`.
            psycopg.Error: the server's error; nothing was committed.
        """
        values = list(params_seq)

        async def body(conn: psycopg.AsyncConnection[Any]) -> None:
            async with conn.cursor() as cursor:
                await cursor.executemany(query, values)

        await run_function(
            self._manager,
            body,
            (),
            role=role,
            timeout=timeout,
            retry=None,
            once=None,
            isolation=None,
            read_only=None,
            deferrable=None,
        )

    async def fetch(
        self,
        query: Query,
        params: Params = None,
        *,
        role: Literal["writer", "reader"] | Role = "reader",
        timeout: float | None = None,
    ) -> list[Any]:
        """Execute one statement as `execute` does, and return all its rows, as the router's row_factory makes them.

        Args:
            query: one statement, with placeholders as in psycopg.
            params: the values of the placeholders; None: the query has none.
            role: "reader" or "writer".
            timeout: seconds for the whole call; None: the limit of the policy, and acquire_timeout for each session.

        Raises:
            RouteError: as with `execute`.
            psycopg.Error: the server's error, and that the query has several statements, or begins a transaction.
        """
        rows: list[Any] = await self._run(_rows, query, params, role, timeout)
        return rows

    async def fetchrow(
        self,
        query: Query,
        params: Params = None,
        *,
        role: Literal["writer", "reader"] | Role = "reader",
        timeout: float | None = None,
    ) -> Any:
        """Execute one statement as `execute` does, and return its first row, None if there is none.

        Args:
            query: one statement, with placeholders as in psycopg.
            params: the values of the placeholders; None: the query has none.
            role: "reader" or "writer".
            timeout: seconds for the whole call; None: the limit of the policy, and acquire_timeout for each session.

        Raises:
            RouteError: as with `execute`.
            psycopg.Error: the server's error, and that the query has several statements, or begins a transaction.
        """
        return await self._run(_first_row, query, params, role, timeout)

    async def fetchval(
        self,
        query: Query,
        params: Params = None,
        *,
        column: int = 0,
        role: Literal["writer", "reader"] | Role = "reader",
        timeout: float | None = None,
    ) -> Any:
        """Execute one statement as `execute` does, and return one value of its first row, None if there is no row.

        Args:
            query: one statement, with placeholders as in psycopg.
            params: the values of the placeholders; None: the query has none.
            column: which value, from 0.
            role: "reader" or "writer".
            timeout: seconds for the whole call; None: the limit of the policy, and acquire_timeout for each session.

        Raises:
            ConfigError: there is no such column.
            RouteError: as with `execute`.
            psycopg.Error: the server's error, and that the query has several statements, or begins a transaction.
        """
        check_integer("column", column, low=0)
        row = await self._run(_first_tuple, query, params, role, timeout)
        if row is None:
            return None
        if column >= len(row):
            error = ConfigError(
                "column", column, f"expected a number below {len(row)}, the columns of the result"
            )
            error.add_note("the statement was executed")
            raise error
        return row[column]

    async def _run(
        self,
        work: Callable[[psycopg.AsyncConnection[Any], Query, Params], Awaitable[Any]],  # async-only
        # sync-only: work: Callable[[psycopg.Connection[Any], Query, Params], Any],
        query: Query,
        params: Params,
        role: object,
        timeout: float | None,
    ) -> Any:
        manager = self._manager
        request = manager.request(role, timeout=timeout)
        state = begin_attempts(manager, request, None, timeout)
        while True:
            checkout = await acquire(manager, request, state)
            try:
                checkout.hold()
                conn = checkout.conn
                await conn.set_autocommit(True)
                checkout.note_begin()
                value = await work(conn, query, params)
                _check_end(checkout)
                return value
            except psycopg.Error as exc:
                step = await self._failed(checkout, request, state, exc)
                if isinstance(step, Raise):
                    raise
            except BaseException as exc:
                await self._ended(checkout, request, exc)
                raise
            finally:
                await checkout.release()
            await pause(manager, state, step)

    def _may_write(self, request: Request) -> bool:
        return request.role is Role.WRITER or not self._manager.config.reader.read_only

    async def _ended(self, checkout: AsyncCheckout[CT], request: Request, exc: BaseException) -> None:
        """Tell in a note what an error that is not the server's has left behind."""
        done = checkout.transaction_ended
        if not self._may_write(request):
            pass
        elif not isinstance(exc, Exception):
            exc.add_note(_UNKNOWN)  # it may have ended before it could be cancelled
        elif done:
            exc.add_note(_COMMITTED)  # as of a row factory
        if not done:
            await shut(checkout.conn)

    async def _failed(
        self, checkout: AsyncCheckout[CT], request: Request, state: RetryState, exc: psycopg.Error
    ) -> Retry | Raise:
        """Return whether to run the statement again; raise what a lost connection means."""
        conn, error = checkout.conn, exc
        lost = conn.closed
        if isinstance(exc, RouteError):
            fault = Fault(FaultKind.LOST, commit_unknown=isinstance(exc, CommitUnknown))
        else:
            fault = session_fault(
                exc, closed=lost, committing=lost and self._may_write(request), read_write=request.read_write
            )
            await checkout.roll_back(exc, read_write=request.read_write)
            if lost and self._may_write(request):
                error = CommitUnknown(
                    f"the connection to {checkout.key} was lost during the statement: it may have been committed",
                    topology=checkout.topology,
                )
                fault = Fault(FaultKind.LOST, commit_unknown=True)
            elif lost:
                error = SessionLost(f"the connection to {checkout.key} was lost", topology=checkout.topology)
                fault = Fault(FaultKind.LOST, rerun_safe=True)
        step = state.failed(error, fault, Phase.COMMIT, time.monotonic())
        if isinstance(step, Retry):
            return step
        final = state.final(error, time.monotonic())
        if final is not exc:
            raise final from exc
        return step


def _check_end(checkout: AsyncCheckout[Any]) -> None:
    """Raise if the statement was not all that was to be, or is not confirmed by the synchronous standby."""
    status = checkout.conn.pgconn.transaction_status
    if status != _IDLE:
        raise psycopg.ProgrammingError(
            "the query began a transaction, which was rolled back: use writer(), reader() or run()"
        )
    checkout.check_confirmed()


async def _execute(
    conn: psycopg.AsyncConnection[Any], query: Query, params: Params, row_factory: Any = None
) -> psycopg.AsyncCursor[Any]:
    cursor = conn.cursor(row_factory=conn.row_factory if row_factory is None else row_factory)
    if not _is_single(query):
        # Without values, psycopg would send several statements as they are. In a pipeline it uses the protocol in which
        # the server refuses that.
        async with conn.pipeline():
            await cursor.execute(query, params)
    else:
        await cursor.execute(query, params)
    return cursor


def _is_single(query: Query) -> bool:
    """Return True if a query has one statement for sure: there is no semicolon within."""
    return isinstance(query, str) and ";" not in query.rstrip("; \t\r\n")


async def _command_tag(conn: psycopg.AsyncConnection[Any], query: Query, params: Params) -> str:
    return (await _execute(conn, query, params)).statusmessage or ""


async def _rows(conn: psycopg.AsyncConnection[Any], query: Query, params: Params) -> list[Any]:
    cursor = await _execute(conn, query, params)
    return [] if cursor.description is None else await cursor.fetchall()


async def _first_row(conn: psycopg.AsyncConnection[Any], query: Query, params: Params) -> Any:
    cursor = await _execute(conn, query, params)
    return None if cursor.description is None else await cursor.fetchone()


async def _first_tuple(conn: psycopg.AsyncConnection[Any], query: Query, params: Params) -> Any:
    cursor = await _execute(conn, query, params, tuple_row)
    return None if cursor.description is None else await cursor.fetchone()
