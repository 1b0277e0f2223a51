# Generated from pgroute/_async/direct/statement.py by .ci/unasync.py: edit that file, not this one.
"""One statement of the user's: executed as a transaction of its own, and what its rows become."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.pq import TransactionStatus

from pgroute._sync.alone import COMMITTED, NOTHING, UNKNOWN
from pgroute._psycopg.prepared import remove_steps
from pgroute.core.faults.classify import plan_outdated
from pgroute.core.sql.parts import may_commit_parts
from pgroute.core.sql.queries import check_query
from pgroute.errors import ConfigError

if TYPE_CHECKING:

    from collections.abc import Callable, Mapping, Sequence
    from psycopg.abc import QueryNoTemplate as Query
    from psycopg.rows import RowFactory

    from pgroute._sync.checkout import Checkout

    Params = Sequence[Any] | Mapping[str, Any] | None

_IDLE = TransactionStatus.IDLE


class Statement:
    """A statement, as `Alone` runs it.

    Args:
        fetch: returns what is wanted of a cursor that has executed it.
        query: of the user's.
        params: likewise.
        row_factory: makes the rows; None: the connection's.

    Raises:
        ConfigError: it is no query, or these are no values.
    """

    __slots__ = ("_conn", "_fetch", "_foreign", "_in_block", "_params", "_query", "_row_factory")

    name = "statement"
    keeps_session = False

    def __init__(
        self,
        fetch: Callable[[psycopg.Cursor[Any]], Any],
        query: Query,
        params: Params,
        row_factory: RowFactory[Any] | None = None,
    ) -> None:
        check_query(query, params)
        self._fetch = fetch
        self._query = query
        self._params = params
        self._row_factory = row_factory
        self._conn: psycopg.Connection[Any] | None = None
        self._in_block = False
        self._foreign: BaseException | None = None

    def run(self, checkout: Checkout[Any]) -> Any:
        self._conn = conn = checkout.conn
        if conn.isolation_level is None and (checkout.lease.read_only or not conn.read_only):
            return self._perform(conn)
        # psycopg tells these with BEGIN alone, and the server has not said that its own defaults are the same.
        self._in_block = True
        with conn.transaction():
            value = self._perform(conn)
            self._in_block = False
        return value

    def _perform(self, conn: psycopg.Connection[Any]) -> Any:
        try:
            return self._execute(conn)
        except psycopg.errors.FeatureNotSupported as exc:
            if conn.pgconn.transaction_status != _IDLE or not plan_outdated(exc):
                raise
            with suppress(psycopg.Error):
                with conn.lock:
                    conn.wait(remove_steps(conn))  # after a pipeline; otherwise it was done
            if conn.closed:
                raise
        return self._execute(conn)

    def _execute(self, conn: psycopg.Connection[Any]) -> Any:
        cursor = cursor_of(conn, self._row_factory)
        try:
            execute_one(cursor, self._query, self._params)
            return self._fetch(cursor)
        except BaseException as exc:
            if cursor.pgresult is not None:
                self._foreign = exc  # it was executed: this comes from the row factory, or from a value
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


def cursor_of(conn: psycopg.Connection[Any], row_factory: Any) -> psycopg.Cursor[Any]:
    """Return a new cursor with a row factory; None: that of the connection."""
    return conn.cursor(row_factory=conn.row_factory if row_factory is None else row_factory)


def execute_one(cursor: psycopg.Cursor[Any], query: Query, params: Params) -> None:
    """Execute a query of one statement.

    Raises:
        psycopg.Error: the server's error, and that the query has several.
    """
    if _is_single(query):
        cursor.execute(query, params)
        return
    # Without values, psycopg would send several statements as they are. In a pipeline it uses the protocol in which the
    # server refuses that.
    with cursor.connection.pipeline():
        cursor.execute(query, params)


def _is_single(query: Query) -> bool:
    """Return True if a query has one statement for sure: there is no semicolon within."""
    return isinstance(query, str) and ";" not in query.rstrip("; \t\r\n")


def command_tag(cursor: psycopg.Cursor[Any]) -> str:
    """Return the command tag."""
    return cursor.statusmessage or ""


def all_rows(cursor: psycopg.Cursor[Any]) -> list[Any]:
    """Return all rows."""
    return [] if cursor.description is None else cursor.fetchall()


def first_row(cursor: psycopg.Cursor[Any]) -> Any:
    """Return the first row, None if there is none."""
    return None if cursor.description is None else cursor.fetchone()


def first_value(column: int, cursor: psycopg.Cursor[Any]) -> Any:
    """Return a value of the first row, None if there is none.

    Raises:
        ConfigError: there is no such column.
    """
    row = first_row(cursor)
    if row is None:
        return None
    if column >= len(row):
        raise ConfigError("column", column, f"expected a number below {len(row)}, the columns of the result")
    return row[column]
