"""Queries without a session of their own: one statement, one transaction, one round trip."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, cast, overload

from psycopg.rows import tuple_row

from pgroute._async.alone import COMMITTED, NOTHING, UNKNOWN, AsyncAlone
from pgroute._async.transaction.runner import run_function
from pgroute.core.config.options import check_callable, check_integer
from pgroute.core.sql.parts import may_commit_parts
from pgroute.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence  # async-only

    # sync-only: from collections.abc import Callable, Iterable, Mapping, Sequence
    import psycopg
    from psycopg.abc import QueryNoTemplate as Query
    from psycopg.rows import AsyncRowFactory, Row

    from pgroute._async.checkout import AsyncCheckout
    from pgroute._async.manager import AsyncSessionManager
    from pgroute.core.model.roles import Role

    Params = Sequence[Any] | Mapping[str, Any] | None

CT_co = TypeVar("CT_co", bound="psycopg.AsyncConnection[Any]", covariant=True)
"""Covariant, so that a subclass of AsyncConnection[Row] tells the type of the rows too."""


class AsyncDirect(Generic[CT_co]):
    """The part of a router that runs single statements."""

    _manager: AsyncSessionManager[CT_co]

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
            # One statement: on a line of its own, an interrupt after the commit would carry no note.
            return cast("str", await self._run(_command_tag, query, params, role, timeout))

        async def body(conn: psycopg.AsyncConnection[Any]) -> str:
            cursor = _cursor(conn, None)
            await _execute(cursor, query, params)
            return await _command_tag(cursor)

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

    @overload
    async def fetchmany(
        self: AsyncDirect[psycopg.AsyncConnection[Row]],
        query: Query,
        params_seq: Iterable[Sequence[Any] | Mapping[str, Any]],
        *,
        role: Literal["writer", "reader"] | Role = "reader",
        timeout: float | None = None,
        row_factory: None = None,
    ) -> list[Row]: ...

    @overload
    async def fetchmany(
        self,
        query: Query,
        params_seq: Iterable[Sequence[Any] | Mapping[str, Any]],
        *,
        role: Literal["writer", "reader"] | Role = "reader",
        timeout: float | None = None,
        row_factory: AsyncRowFactory[Row],
    ) -> list[Row]: ...

    async def fetchmany(
        self,
        query: Query,
        params_seq: Iterable[Sequence[Any] | Mapping[str, Any]],
        *,
        role: Literal["writer", "reader"] | Role = "reader",
        timeout: float | None = None,
        row_factory: AsyncRowFactory[Any] | None = None,
    ) -> list[Any]:
        """Execute a statement with each set of values as `executemany` does, and return the rows of all.

        For ``INSERT ... RETURNING``, give ``role="writer"``. It is not the fetchmany of cursors, which takes a number.

        Args:
            query: one statement, with placeholders as in psycopg.
            params_seq: the values. An iterator is read to its end before the first attempt.
            role: "reader" or "writer".
            timeout: seconds for the whole call; None: the limit of the policy, and acquire_timeout for each session.
            row_factory: makes the rows, such as ``psycopg.rows.dict_row``; None: the router's.

        Raises:
            ConfigError: an argument is invalid.
            RouteError: as with `run()`.
            psycopg.Error: the server's error; nothing was committed.
        """
        check_callable("row_factory", row_factory)
        values = list(params_seq)

        async def body(conn: psycopg.AsyncConnection[Any]) -> list[Any]:
            async with _cursor(conn, row_factory) as cursor:
                await cursor.executemany(query, values, returning=True)
                rows: list[Any] = []
                async for result in cursor.results():
                    if result.description is not None:
                        rows += await result.fetchall()
                return rows

        return await run_function(
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

    @overload
    async def fetch(
        self: AsyncDirect[psycopg.AsyncConnection[Row]],
        query: Query,
        params: Params = None,
        *,
        role: Literal["writer", "reader"] | Role = "reader",
        timeout: float | None = None,
        row_factory: None = None,
    ) -> list[Row]: ...

    @overload
    async def fetch(
        self,
        query: Query,
        params: Params = None,
        *,
        role: Literal["writer", "reader"] | Role = "reader",
        timeout: float | None = None,
        row_factory: AsyncRowFactory[Row],
    ) -> list[Row]: ...

    async def fetch(
        self,
        query: Query,
        params: Params = None,
        *,
        role: Literal["writer", "reader"] | Role = "reader",
        timeout: float | None = None,
        row_factory: AsyncRowFactory[Any] | None = None,
    ) -> list[Any]:
        """Execute one statement as `execute` does, and return all its rows.

        Args:
            query: one statement, with placeholders as in psycopg.
            params: the values of the placeholders; None: the query has none.
            role: "reader" or "writer".
            timeout: seconds for the whole call; None: the limit of the policy, and acquire_timeout for each session.
            row_factory: makes the rows, such as ``psycopg.rows.dict_row``; None: the router's.

        Raises:
            ConfigError: an argument is invalid.
            RouteError: as with `execute`.
            psycopg.Error: the server's error, and that the query has several statements, or begins a transaction.
        """
        check_callable("row_factory", row_factory)
        return cast(
            "list[Any]", await self._run(_rows, query, params, role, timeout, row_factory=row_factory)
        )

    @overload
    async def fetchrow(
        self: AsyncDirect[psycopg.AsyncConnection[Row]],
        query: Query,
        params: Params = None,
        *,
        role: Literal["writer", "reader"] | Role = "reader",
        timeout: float | None = None,
        row_factory: None = None,
    ) -> Row | None: ...

    @overload
    async def fetchrow(
        self,
        query: Query,
        params: Params = None,
        *,
        role: Literal["writer", "reader"] | Role = "reader",
        timeout: float | None = None,
        row_factory: AsyncRowFactory[Row],
    ) -> Row | None: ...

    async def fetchrow(
        self,
        query: Query,
        params: Params = None,
        *,
        role: Literal["writer", "reader"] | Role = "reader",
        timeout: float | None = None,
        row_factory: AsyncRowFactory[Any] | None = None,
    ) -> Any | None:
        """Execute one statement as `execute` does, and return its first row, None if there is none.

        Args:
            query: one statement, with placeholders as in psycopg.
            params: the values of the placeholders; None: the query has none.
            role: "reader" or "writer".
            timeout: seconds for the whole call; None: the limit of the policy, and acquire_timeout for each session.
            row_factory: makes the row, such as ``psycopg.rows.dict_row``; None: the router's.

        Raises:
            ConfigError: an argument is invalid.
            RouteError: as with `execute`.
            psycopg.Error: the server's error, and that the query has several statements, or begins a transaction.
        """
        check_callable("row_factory", row_factory)
        return await self._run(_first_row, query, params, role, timeout, row_factory=row_factory)

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
        first = partial(_first_value, column)
        return await self._run(first, query, params, role, timeout, row_factory=tuple_row)

    async def _run(
        self,
        fetch: Callable[[psycopg.AsyncCursor[Any]], Awaitable[Any]],
        query: Query,
        params: Params,
        role: object,
        timeout: float | None,
        *,
        row_factory: AsyncRowFactory[Any] | None = None,
    ) -> Any:
        manager = self._manager
        request = manager.request(role, timeout=timeout)
        statement = _AsyncStatement(fetch, query, params, row_factory)
        return await AsyncAlone(manager, request, timeout).run(statement)


class _AsyncStatement:
    """A statement, as `AsyncAlone` runs it."""

    __slots__ = ("_conn", "_fetch", "_foreign", "_in_block", "_params", "_query", "_row_factory")

    name = "statement"
    keeps_session = False

    def __init__(
        self,
        fetch: Callable[[psycopg.AsyncCursor[Any]], Awaitable[Any]],
        query: Query,
        params: Params,
        row_factory: AsyncRowFactory[Any] | None,
    ) -> None:
        self._fetch = fetch
        self._query = query
        self._params = params
        self._row_factory = row_factory
        self._conn: psycopg.AsyncConnection[Any] | None = None
        self._in_block = False
        self._foreign: BaseException | None = None

    async def run(self, checkout: AsyncCheckout[Any]) -> Any:
        self._conn = conn = checkout.conn
        if conn.isolation_level is None and (checkout.lease.read_only or not conn.read_only):
            return await self._perform(conn)
        # psycopg tells these with BEGIN alone, and the server has not said that its own defaults are the same.
        self._in_block = True
        async with conn.transaction():
            value = await self._perform(conn)
            self._in_block = False
        return value

    async def _perform(self, conn: psycopg.AsyncConnection[Any]) -> Any:
        cursor = _cursor(conn, self._row_factory)
        try:
            await _execute(cursor, self._query, self._params)
            return await self._fetch(cursor)
        except BaseException as exc:
            if (
                cursor.pgresult is not None
            ):  # it was executed: this comes from the row factory, or from a value
                self._foreign = exc
            raise

    def outcome(self) -> str:
        if self._in_block:
            return NOTHING
        return COMMITTED if self._foreign is not None else UNKNOWN

    def is_own(self, exc: psycopg.Error) -> bool:
        return exc is not self._foreign

    def why_not_again(self, exc: psycopg.Error) -> str:
        if self._in_block or exc.sqlstate not in ("40001", "40P01"):
            return ""
        parts = may_commit_parts(self._text())
        return "it may have committed a part of its work before that" if parts else ""

    def _text(self) -> str:
        query = self._query
        if isinstance(query, str):
            return query
        data = query if isinstance(query, bytes) else query.as_bytes(self._conn)
        return data.decode("latin-1")


def _cursor(conn: psycopg.AsyncConnection[Any], row_factory: Any) -> psycopg.AsyncCursor[Any]:
    return conn.cursor(row_factory=conn.row_factory if row_factory is None else row_factory)


async def _execute(cursor: psycopg.AsyncCursor[Any], query: Query, params: Params) -> None:
    if _is_single(query):
        await cursor.execute(query, params)
        return
    # Without values, psycopg would send several statements as they are. In a pipeline it uses the protocol in which the
    # server refuses that.
    async with cursor.connection.pipeline():
        await cursor.execute(query, params)


def _is_single(query: Query) -> bool:
    """Return True if a query has one statement for sure: there is no semicolon within."""
    return isinstance(query, str) and ";" not in query.rstrip("; \t\r\n")


async def _command_tag(cursor: psycopg.AsyncCursor[Any]) -> str:
    return cursor.statusmessage or ""


async def _rows(cursor: psycopg.AsyncCursor[Any]) -> list[Any]:
    return [] if cursor.description is None else await cursor.fetchall()


async def _first_row(cursor: psycopg.AsyncCursor[Any]) -> Any:
    return None if cursor.description is None else await cursor.fetchone()


async def _first_value(column: int, cursor: psycopg.AsyncCursor[Any]) -> Any:
    row = await _first_row(cursor)
    if row is None:
        return None
    if column >= len(row):
        raise ConfigError("column", column, f"expected a number below {len(row)}, the columns of the result")
    return row[column]
