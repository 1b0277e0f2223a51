"""One chunk: claimed, worked on and committed in one transaction, or set aside."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg

from pgroute._async.router import manager_of
from pgroute._async.statements import encoding_of, row, text
from pgroute._async.transaction.body import call
from pgroute._async.transaction.loop import run_transaction
from pgroute.batch import sql
from pgroute.batch._async.job_store import encode
from pgroute.batch.model import Chunk
from pgroute.batch.options import poisonous
from pgroute.batch.source import Keyset
from pgroute.batch.state import Job, Outcome, chunk_is, gone, held, number
from pgroute.core.faults.classify import one_line
from pgroute.core.transactions.once_keys import lock_timeout

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable  # async-only

    # sync-only: from collections.abc import Callable
    from pgroute._async.router import AsyncRouter
    from pgroute._async.transaction.attempt import AsyncTransaction
    from pgroute.batch._async.job_store import AsyncJobStore
    from pgroute.batch.options import JobOptions
    from pgroute.batch.progress import ProgressTracker
    from pgroute.batch.state import Row, Work

    Connection = psycopg.AsyncConnection[Any]

T = TypeVar("T")

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
        ledger: AsyncJobStore,
        tally: ProgressTracker,
        fn: Callable[..., Any],
    ) -> None:
        self._router = router
        self._options = options
        self._ledger = ledger
        self._tally = tally
        self._fn = fn
        self._name = options.name
        # Whatever the default isolation level: a claim that comes too late finds no row, or fails with 40001.
        self._request = manager_of(router).request("writer", decidable=True)

    async def do(self, work: Work) -> tuple[Outcome, int]:
        """Do a chunk, and return what became of it and how many rows it has.

        Raises:
            BatchError: it is held by another session, or the job was reset.
        """
        intact, applied, before = False, False, 1

        async def body(transaction: AsyncTransaction[Any], conn: Connection) -> tuple[Outcome, int]:
            nonlocal intact, applied, before
            intact = applied = False
            self._tally.retried(transaction.number - before)
            before = transaction.number
            claimed = await self._claim(transaction, conn, work, self._claim_statement(work))
            if claimed is None:
                return await self._look(transaction, conn, work)
            try:
                await self._body(conn, await self._chunk(conn, work, claimed))
            except Exception:
                intact = transaction.intact
                raise
            applied = True
            return Outcome.APPLIED, number(claimed[1])

        try:
            return await self._transact(body)
        except Exception as exc:
            # What the server says of COMMIT, a deferred constraint, is of the chunk too.
            intact = intact or (applied and getattr(exc, "sqlstate", None) is not None)
            if self._options.on_error == "reject" and intact and poisonous(exc):
                return await self._set_aside(work, exc)
            raise

    async def _transact(
        self,
        body: Callable[[AsyncTransaction[Any], Connection], Awaitable[T]],  # async-only
        # sync-only: body: Callable[[Transaction[Any], Connection], T],
    ) -> T:
        manager = manager_of(self._router)
        result: Any = await run_transaction(manager, self._request, body, retry=self._options.retry)
        return result  # type: ignore[no-any-return]

    @staticmethod
    def _claim_statement(work: Work) -> bytes:
        return sql.CLAIM_KEYS if work.items is None else sql.CLAIM_ITEMS

    async def _claim(
        self, transaction: AsyncTransaction[Any], conn: Connection, work: Work, statement: bytes
    ) -> Row | None:
        """Mark a chunk as done, in this transaction; return None if there is no such row to mark."""
        seconds = transaction.left
        given: dict[str, Any] = {"chunk": work.number, "rows": len(work.items or ())}
        await self._ledger.check_trust(conn)
        try:
            claimed = row(await self._ledger.ask(conn, statement, **given, wait=lock_timeout(seconds)))
        except psycopg.errors.LockNotAvailable as exc:
            raise held(self._name, f"chunk {work.number}", seconds) from exc
        if claimed is not None:
            transaction.mark_resolved()
        return claimed

    async def _look(
        self, transaction: AsyncTransaction[Any], conn: Connection, work: Work
    ) -> tuple[Outcome, int]:
        """Find out why a chunk could not be claimed."""
        found = row(await self._ledger.ask(conn, sql.LOOK, chunk=work.number))
        if found is None:
            raise gone(self._name)
        job, (present, done, count) = Job.read(found), found[5:]
        self._ledger.check(job.begun)
        planned = present == b"t"
        outcome = chunk_is(work.number, job, present=planned, done=done == b"t")
        if outcome is None or (not planned and outcome is Outcome.UNPLANNED and work.items is None):
            raise gone(self._name)
        if outcome is Outcome.FOUND and transaction.earlier_unknown:
            # Our own, most likely. A COMMIT that has written nothing would not wait for the synchronous standby.
            outcome = Outcome.APPLIED
            if planned:
                await self._ledger.ask(conn, sql.CONFIRM_CHUNK, chunk=work.number)
            else:
                await self._ledger.ask(conn, sql.CONFIRM_JOB)
        return outcome, int(count or 0) or len(work.items or ())

    async def _chunk(self, conn: Connection, work: Work, claimed: Row) -> Chunk:
        if work.items is not None:
            return Chunk(work.number, list(work.items))
        keyset = self._options.source
        assert isinstance(keyset, Keyset)
        after, upto = (json.loads(text(conn, value or b"null")) for value in claimed[2:])
        rows: list[Any] = []
        if keyset.fetch:
            cursor = psycopg.AsyncCursor(conn)
            statement, params = self._ledger.sql.fetch(after, upto)
            # Prepared, it would fail once a column was added to the table.
            await cursor.execute(encode(conn, statement), params, prepare=False)
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
        state = exc.sqlstate if isinstance(exc, psycopg.Error) else None
        told = f"{type(exc).__name__}: {exc}".replace("\0", "\\0")
        statement = sql.CLAIM if work.items is None else sql.CLAIM_ITEMS

        async def body(transaction: AsyncTransaction[Any], conn: Connection) -> tuple[Outcome, int]:
            claimed = await self._claim(transaction, conn, work, statement)
            if claimed is None:
                outcome, count = await self._look(transaction, conn, work)
                return (Outcome.REJECTED if outcome is Outcome.APPLIED else outcome), count
            encoding = encoding_of(conn)
            error = told.encode(encoding, "backslashreplace").decode(encoding)
            given: dict[str, Any] = {"state": state, "error": error}
            await self._ledger.ask(conn, sql.REJECT, **given, chunk=work.number)
            return Outcome.REJECTED, number(claimed[1])

        outcome, count = await self._transact(body)
        if outcome is Outcome.REJECTED:
            logger.warning("job %r: chunk %d is set aside: %s", self._name, work.number, one_line(told))
        return outcome, count
