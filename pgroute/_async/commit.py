"""Sends COMMIT or ROLLBACK: for a transaction that psycopg, the router or a class of the user's has begun."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import psycopg
from psycopg.pq import ExecStatus

from pgroute._async.statements import ask, error_of
from pgroute._psycopg.state import forget_prepared, has_unfinished, leave_block
from pgroute._psycopg.statements import query_steps

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager  # async-only

    # sync-only: from contextlib import AbstractContextManager
    from psycopg.pq.abc import PGresult

    from pgroute._async.progress import Progress, Question

    Connection = psycopg.AsyncConnection[Any]
    # sync-only: Block = AbstractContextManager[psycopg.Transaction]
    Block = AbstractAsyncContextManager[psycopg.AsyncTransaction]  # async-only
    Committed = tuple[PGresult | None, Progress | None]

_GOOD = (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK)


class Begun(Protocol):
    """How a transaction was begun, and so is ended.

    Attributes:
        whole: all of it is committed or nothing, because the body cannot commit.
    """

    @property
    def whole(self) -> bool: ...

    async def commit(self, conn: Connection, last: bytes, question: Question | None) -> Committed:
        """Commit; return the result of *last*, and the answer to the question if it came with the COMMIT.

        Args:
            conn: its connection.
            last: a statement to run before, of one result; b"": none. If it fails, the transaction is in error.
            question: to ask afterwards; None: none.

        Raises:
            psycopg.Error: the server's error to the statement or to COMMIT, or the connection was lost.
        """
        ...

    async def roll_back(self, conn: Connection, exc: BaseException | None) -> None:
        """Roll back because of an error; None: the body raised none.

        Raises:
            psycopg.Error: the connection was lost.
        """
        ...


class ByPsycopg:
    """Begun by psycopg with the body's first statement."""

    whole = False

    async def commit(self, conn: Connection, last: bytes, question: Question | None) -> Committed:
        """End the transaction. The question is not asked if the class of the connection ends it in a way of its own."""
        if (
            conn.__class__.commit is not psycopg.AsyncConnection.commit
            or conn.pgconn.pipeline_status
            or has_unfinished(conn)
        ):
            await conn.commit()
            return None, None
        if question is not None:
            return await BY_ROUTER.commit(conn, last, question)
        # What psycopg's commit() does, with less on the way.
        async with conn.lock:
            results: list[PGresult] = await conn.wait(query_steps(conn.pgconn, b"COMMIT"))
        if results[0].status not in _GOOD:
            raise error_of(conn, results[0])
        return None, None

    async def roll_back(self, conn: Connection, exc: BaseException | None) -> None:
        """Roll back."""
        await conn.rollback()

    async def roll_back_within(self, conn: Connection, seconds: float) -> bool:
        """Roll back in so many seconds, without a timer; return False if that takes psycopg's own rollback().

        Raises:
            psycopg.Error: the connection was lost, or there was no answer in time.
        """
        if (
            conn.__class__.rollback is not psycopg.AsyncConnection.rollback
            or conn.__class__.wait is not psycopg.AsyncConnection.wait
            or conn.pgconn.pipeline_status
            or has_unfinished(conn)
            or forget_prepared(conn)
        ):
            return False
        async with conn.lock:
            results: list[PGresult] = await conn.wait(query_steps(conn.pgconn, b"ROLLBACK"), timeout=seconds)
        if results[0].status not in _GOOD:
            raise error_of(conn, results[0])
        return True


class ByRouter:
    """Begun by the router's own BEGIN, and entered by `enter_block`."""

    whole = True

    async def commit(self, conn: Connection, last: bytes, question: Question | None) -> Committed:
        """Commit in one round trip with what comes before and after.

        Raises:
            psycopg.ProgrammingError: the body left a transaction() of its own open.
        """
        if not leave_block(conn):
            raise psycopg.ProgrammingError(
                "the body left a transaction() of its own open: nothing was committed"
            )
        statement = b"%b;COMMIT" % last if last else b"COMMIT"
        if question is not None:
            statement = b"%b;%b" % (statement, question.sql)
        async with conn.lock:
            results: list[PGresult] = await conn.wait(query_steps(conn.pgconn, statement))
        needed = 2 if last else 1
        for result in results[:needed]:
            if result.status not in _GOOD:
                raise error_of(conn, result)
        told = question.read(results[needed]) if question is not None and len(results) > needed else None
        return (results[0] if last else None), told

    async def roll_back(self, conn: Connection, exc: BaseException | None) -> None:
        """Roll back. If the body has left a transaction() of its own open, psycopg refuses that."""
        leave_block(conn)
        await conn.rollback()


class ByClass:
    """Begun by the transaction() of a class of the user's, which may do more than psycopg's.

    Args:
        block: what transaction() returned, entered.
    """

    whole = True

    def __init__(self, block: Block) -> None:
        self._block = block

    async def commit(self, conn: Connection, last: bytes, question: Question | None) -> Committed:
        """Commit by leaving the block."""
        result = (await ask(conn, last))[-1] if last else None
        await self._block.__aexit__(None, None, None)
        return result, None

    async def roll_back(self, conn: Connection, exc: BaseException | None) -> None:
        """Roll back by leaving the block."""
        exc = psycopg.Rollback() if exc is None else exc
        await self._block.__aexit__(type(exc), exc, exc.__traceback__)


BY_PSYCOPG, BY_ROUTER = ByPsycopg(), ByRouter()
