"""Sends COMMIT, with what comes right before and after it, in one round trip."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from psycopg.pq import ExecStatus

from pgroute._async.statements import ask_all, error_of

if TYPE_CHECKING:
    import psycopg
    from psycopg.pq.abc import PGresult

    from pgroute._async.progress import Progress, Question

_GOOD = (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK)


class Committed(NamedTuple):
    """What came with a COMMIT.

    Attributes:
        last: the result of the statement before it, None if there was none.
        progress: how far the server was after it; None if that was not asked, or not told.
    """

    last: PGresult | None
    progress: Progress | None


async def commit(
    conn: psycopg.AsyncConnection[Any], *, last: bytes = b"", question: Question | None = None
) -> Committed:
    """Commit.

    Args:
        conn: a connection in a transaction.
        last: a statement to run before, of one result; if it fails, the transaction is in error.
        question: to ask afterwards; None: none.

    Raises:
        psycopg.Error: the server's error to the statement or to COMMIT, or the connection was lost.
    """
    parts = [last, b"COMMIT", b"" if question is None else question.sql]
    results = await ask_all(conn, b";".join(filter(None, parts)))
    needed = 2 if last else 1
    for result in results[:needed]:
        if result.status not in _GOOD:
            raise error_of(conn, result)
    progress = question.read(results[needed]) if question is not None and len(results) > needed else None
    return Committed(results[0] if last else None, progress)
