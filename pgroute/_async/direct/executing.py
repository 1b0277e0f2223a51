"""`execute` and `executemany` of the router."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Literal, cast

from pgroute._async.direct.statement import AsyncStatement, command_tag, cursor_of, execute_one
from pgroute._async.direct.whole import CT_co, run_alone, run_whole
from pgroute.core.sql.queries import check_query, read_values

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import psycopg
    from psycopg.abc import QueryNoTemplate as Query

    from pgroute._async.direct.statement import Params
    from pgroute._async.manager import AsyncSessionManager
    from pgroute.core.model.roles import Role


class AsyncExecuting(Generic[CT_co]):
    """The part of a router that executes statements."""

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
            statement = AsyncStatement(command_tag, query, params)
            # One statement: on a line of its own, an interrupt after the commit would carry no note.
            return cast("str", await run_alone(self._manager, statement, role, timeout))
        check_query(query, params)

        async def body(conn: psycopg.AsyncConnection[Any]) -> str:
            cursor = cursor_of(conn, None)
            await execute_one(cursor, query, params)
            return await command_tag(cursor)

        return await run_whole(self._manager, body, role, timeout, once)

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
            ConfigError: an argument is invalid.
            RouteError: as with `run()`.
            psycopg.Error: the server's error; nothing was committed.
        """
        check_query(query, None)
        values = read_values(params_seq)

        async def body(conn: psycopg.AsyncConnection[Any]) -> None:
            async with conn.cursor() as cursor:
                await cursor.executemany(query, values)

        await run_whole(self._manager, body, role, timeout)
