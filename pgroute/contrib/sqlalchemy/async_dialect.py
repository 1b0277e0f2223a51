"""The dialect ``postgresql+pgroute`` of `create_async_engine`."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from psycopg.pq import ExecStatus
from sqlalchemy.dialects.postgresql.psycopg import AsyncAdapt_psycopg_connection, PGDialectAsync_psycopg
from sqlalchemy.util import await_only

from pgroute._async import ending
from pgroute._async.opening import begin_and_execute
from pgroute._async.router import AsyncRouter
from pgroute.contrib.sqlalchemy.routed import RoutedDialect

if TYPE_CHECKING:
    from pgroute._sync.router import Router

# SQLAlchemy 2.1 gives it the DBAPI too.
_TAKES_DBAPI = "dbapi" in inspect.signature(AsyncAdapt_psycopg_connection.__init__).parameters


class LentConnection(AsyncAdapt_psycopg_connection):
    """SQLAlchemy's face of an async connection, with what the router has lent by it."""

    __slots__ = ("pgroute_lent",)
    pgroute_lent: Any


async def _begin_and_fetch(conn: Any, cursor: Any, statement: str, parameters: Any) -> list[Any] | None:
    await begin_and_execute(conn, cursor, statement, parameters)
    return await cursor.fetchall() if cursor.pgresult.status == ExecStatus.TUPLES_OK else None


class AsyncPgrouteDialect(RoutedDialect, PGDialectAsync_psycopg):
    """The dialect of `create_async_engine`."""

    router_class: type[Router[Any] | AsyncRouter[Any]] = AsyncRouter
    ending = ending
    supports_statement_cache = True
    is_async = True
    has_terminate = True

    @staticmethod
    def wait(result: Any) -> Any:
        """Return what a method of the router's awaits."""
        return await_only(result)

    @staticmethod
    def begin_and_execute(conn: Any, cursor: Any, statement: str, parameters: Any) -> None:
        """Begin a transaction, execute its first statement, and give the cursor its rows as its execute() does."""
        rows = await_only(_begin_and_fetch(conn, cursor._cursor, statement, parameters))  # noqa: SLF001  (SQLAlchemy's)
        if rows is not None:
            cursor._rows = type(cursor._rows)(rows)  # noqa: SLF001

    def handed(self, conn: Any, lent: Any) -> Any:
        """Return the DBAPI connection for a connection of the router's."""
        make: Any = LentConnection
        adapted = make(self.dbapi, conn) if _TAKES_DBAPI else make(conn)
        adapted.pgroute_lent = lent
        return adapted

    def do_terminate(self, dbapi_connection: Any) -> None:
        """Close a connection, also where nothing can be awaited."""
        lent = dbapi_connection.pgroute_lent
        del dbapi_connection.pgroute_lent
        lent.lose()
