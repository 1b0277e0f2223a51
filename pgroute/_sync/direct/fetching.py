# Generated from pgroute/_async/direct/fetching.py by .ci/unasync.py: edit that file, not this one.
"""`fetch`, `fetchrow`, `fetchval` and `fetchmany` of the router."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Literal, cast, overload

from psycopg.rows import tuple_row

from pgroute._sync.direct.statement import Statement, all_rows, cursor_of, first_row, first_value
from pgroute._sync.direct.whole import CT_co, run_alone, run_whole
from pgroute.core.config.checks import check_callable, check_integer
from pgroute.core.sql.queries import check_query, read_values

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import psycopg
    from psycopg.abc import QueryNoTemplate as Query
    from psycopg.rows import RowFactory, Row

    from pgroute._sync.direct.statement import Params
    from pgroute._sync.manager import SessionManager
    from pgroute.core.model.roles import Role


class Fetching(Generic[CT_co]):
    """The part of a router that returns the rows of statements."""

    _manager: SessionManager[CT_co]

    @overload
    def fetchmany(
        self: Fetching[psycopg.Connection[Row]],
        query: Query,
        params_seq: Iterable[Sequence[Any] | Mapping[str, Any]],
        *,
        role: Literal["writer", "reader"] | Role = "reader",
        timeout: float | None = None,
        row_factory: None = None,
    ) -> list[Row]: ...

    @overload
    def fetchmany(
        self,
        query: Query,
        params_seq: Iterable[Sequence[Any] | Mapping[str, Any]],
        *,
        role: Literal["writer", "reader"] | Role = "reader",
        timeout: float | None = None,
        row_factory: RowFactory[Row],
    ) -> list[Row]: ...

    def fetchmany(
        self,
        query: Query,
        params_seq: Iterable[Sequence[Any] | Mapping[str, Any]],
        *,
        role: Literal["writer", "reader"] | Role = "reader",
        timeout: float | None = None,
        row_factory: RowFactory[Any] | None = None,
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
        check_query(query, None)
        values = read_values(params_seq)

        def body(conn: psycopg.Connection[Any]) -> list[Any]:
            with cursor_of(conn, row_factory) as cursor:
                cursor.executemany(query, values, returning=True)
                rows: list[Any] = []
                for result in cursor.results():
                    if result.description is not None:
                        rows += result.fetchall()
                return rows

        return run_whole(self._manager, body, role, timeout)

    @overload
    def fetch(
        self: Fetching[psycopg.Connection[Row]],
        query: Query,
        params: Params = None,
        *,
        role: Literal["writer", "reader"] | Role = "reader",
        timeout: float | None = None,
        row_factory: None = None,
    ) -> list[Row]: ...

    @overload
    def fetch(
        self,
        query: Query,
        params: Params = None,
        *,
        role: Literal["writer", "reader"] | Role = "reader",
        timeout: float | None = None,
        row_factory: RowFactory[Row],
    ) -> list[Row]: ...

    def fetch(
        self,
        query: Query,
        params: Params = None,
        *,
        role: Literal["writer", "reader"] | Role = "reader",
        timeout: float | None = None,
        row_factory: RowFactory[Any] | None = None,
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
        statement = Statement(all_rows, query, params, row_factory)
        return cast("list[Any]", run_alone(self._manager, statement, role, timeout))

    @overload
    def fetchrow(
        self: Fetching[psycopg.Connection[Row]],
        query: Query,
        params: Params = None,
        *,
        role: Literal["writer", "reader"] | Role = "reader",
        timeout: float | None = None,
        row_factory: None = None,
    ) -> Row | None: ...

    @overload
    def fetchrow(
        self,
        query: Query,
        params: Params = None,
        *,
        role: Literal["writer", "reader"] | Role = "reader",
        timeout: float | None = None,
        row_factory: RowFactory[Row],
    ) -> Row | None: ...

    def fetchrow(
        self,
        query: Query,
        params: Params = None,
        *,
        role: Literal["writer", "reader"] | Role = "reader",
        timeout: float | None = None,
        row_factory: RowFactory[Any] | None = None,
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
        statement = Statement(first_row, query, params, row_factory)
        return run_alone(self._manager, statement, role, timeout)

    def fetchval(
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
        statement = Statement(partial(first_value, column), query, params, tuple_row)
        return run_alone(self._manager, statement, role, timeout)
