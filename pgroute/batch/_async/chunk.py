"""One chunk: claimed, worked on and committed in one transaction, or set aside."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.rows import tuple_row

from pgroute._async.runner import call
from pgroute.batch import sql
from pgroute.batch.model import Chunk
from pgroute.batch.options import poisonous
from pgroute.batch.source import Keyset
from pgroute.batch.state import Job, Outcome, chunk_is, gone, held
from pgroute.core.once import lock_timeout

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgroute._async.router import AsyncRouter
    from pgroute._async.transaction import AsyncAttempt
    from pgroute.batch._async.ledger import AsyncLedger
    from pgroute.batch.options import JobOptions
    from pgroute.batch.progress import Tally
    from pgroute.batch.state import Work

    Connection = psycopg.AsyncConnection[Any]

logger = logging.getLogger("pgroute")


class AsyncChunks:
    """Does chunks of one job.

    Args:
        router: leads to the primary.
        options: the job.
        ledger: its rows.
        tally: told of attempts.
        fn: the body.
    """

    def __init__(
        self,
        router: AsyncRouter[Any],
        options: JobOptions,
        ledger: AsyncLedger,
        tally: Tally,
        fn: Callable[..., Any],
    ) -> None:
        self._router = router
        self._options = options
        self._ledger = ledger
        self._tally = tally
        self._fn = fn
        self._name = options.name
        # Whatever the default isolation level: a claim that comes too late finds no row, or fails with 40001.
        self._request = router._request("writer", decidable=True)

    async def do(self, work: Work) -> tuple[Outcome, int]:
        """Do a chunk, and return what became of it and how many rows it has.

        Raises:
            BatchError: it is held by another session, or the job was reset.
        """
        outcome, count = Outcome.UNPLANNED, 0
        own = self._router._attempts(self._request, self._options.retry, None)
        intact, before = False, 1
        try:
            async for attempt in own:
                intact = False
                async with attempt as conn:
                    self._tally.retried(attempt.number - before)
                    before = attempt.number
                    row = await self._claim(attempt, conn, work, self._claim_statement(work))
                    if row is None:
                        outcome, count = await self._look(attempt, conn, work)
                        continue
                    try:
                        await self._body(conn, await self._chunk(conn, work, row))
                    except Exception:
                        intact = attempt.whole
                        raise
                    outcome, count = Outcome.APPLIED, row[1]
        except Exception as exc:
            # What the server says of COMMIT, a deferred constraint, is of the chunk too.
            intact = intact or (outcome is Outcome.APPLIED and getattr(exc, "sqlstate", None) is not None)
            if self._options.on_error == "reject" and intact and poisonous(exc):
                return await self._set_aside(work, exc)
            raise
        return outcome, count

    @staticmethod
    def _claim_statement(work: Work) -> bytes:
        return sql.CLAIM_KEYS if work.items is None else sql.CLAIM_ITEMS

    async def _claim(
        self, attempt: AsyncAttempt[Any], conn: Connection, work: Work, statement: bytes
    ) -> tuple[Any, ...] | None:
        """Mark a chunk as done, in this transaction; return None if there is no such row to mark."""
        seconds = attempt.left
        cursor = psycopg.AsyncCursor(conn, row_factory=tuple_row)
        given = {
            "job": self._name,
            "chunk": work.number,
            "rows": len(work.items or ()),
            "wait": lock_timeout(seconds),
        }
        try:
            await cursor.execute(statement, given)
        except psycopg.errors.LockNotAvailable as exc:
            raise held(self._name, f"chunk {work.number}", seconds) from exc
        row = await cursor.fetchone()
        if row is not None:
            attempt.decided()
        return row

    async def _look(self, attempt: AsyncAttempt[Any], conn: Connection, work: Work) -> tuple[Outcome, int]:
        """Find out why a chunk could not be claimed."""
        cursor = psycopg.AsyncCursor(conn, row_factory=tuple_row)
        await cursor.execute(sql.LOOK, [work.number, self._name])
        row = await cursor.fetchone()
        if row is None:
            raise gone(self._name)
        self._ledger.check(row[0])
        job, (present, done, count) = Job(*row[:5]), row[5:]
        outcome = chunk_is(work.number, job, present=present, done=done)
        if outcome is None or (not present and outcome is Outcome.UNPLANNED and work.items is None):
            raise gone(self._name)
        if outcome is Outcome.FOUND and attempt._course.unknown is not None:
            # Our own, most likely. A COMMIT that has written nothing would not wait for the synchronous standby.
            outcome = Outcome.APPLIED
            if present:
                await cursor.execute(sql.CONFIRM_CHUNK, [self._name, work.number])
            else:
                await cursor.execute(sql.CONFIRM_JOB, [self._name])
        return outcome, count or len(work.items or ())

    async def _chunk(self, conn: Connection, work: Work, row: tuple[Any, ...]) -> Chunk:
        if work.items is not None:
            return Chunk(work.number, list(work.items))
        keyset = self._options.source
        assert isinstance(keyset, Keyset)
        _, _, after, upto = row
        rows: list[Any] = []
        if keyset.fetch:
            cursor = psycopg.AsyncCursor(conn)
            # Prepared, it would fail once a column was added to the table.
            await cursor.execute(*self._ledger.sql.fetch(after, upto), prepare=False)
            rows = await cursor.fetchall()
        return Chunk(work.number, rows, self._ledger.sql.range(conn, after, upto))

    async def _body(self, conn: Connection, chunk: Chunk) -> None:
        try:
            await call(self._fn, conn, chunk)
        except psycopg.Rollback as exc:
            text = (
                "the body rolled its chunk back: a chunk is applied, or fails by another error than Rollback"
            )
            raise psycopg.ProgrammingError(text) from exc

    async def _set_aside(self, work: Work, exc: Exception) -> tuple[Outcome, int]:
        """Note a chunk that cannot be applied, in a transaction of its own, by the same claim."""
        outcome, count = Outcome.REJECTED, 0
        state = exc.sqlstate if isinstance(exc, psycopg.Error) else None
        text = (
            f"{type(exc).__name__}: {exc}".replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()
        )
        statement = sql.CLAIM if work.items is None else sql.CLAIM_ITEMS
        async for attempt in self._router._attempts(self._request, self._options.retry, None):
            async with attempt as conn:
                row = await self._claim(attempt, conn, work, statement)
                if row is None:
                    outcome, count = await self._look(attempt, conn, work)
                    if outcome is Outcome.APPLIED:
                        outcome = Outcome.REJECTED
                    continue
                outcome, count = Outcome.REJECTED, row[1]
                await psycopg.AsyncCursor(conn).execute(sql.REJECT, [state, text, self._name, work.number])
        if outcome is Outcome.REJECTED:
            first = text.split("\n", 1)[0]
            logger.warning("job %r: chunk %d is set aside: %s", self._name, work.number, first)
        return outcome, count
