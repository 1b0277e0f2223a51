"""Runs one chunk: claims, applies and commits it in one transaction, or sets it aside."""

from __future__ import annotations

import json
import logging
import sys
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg

from pgroute._async.router import manager_of
from pgroute._async.statements import encoding_of, row, text
from pgroute._async.transaction.body import call
from pgroute._async.transaction.loop import run_transaction
from pgroute.batch import sql
from pgroute.batch._async.keys import encode
from pgroute.batch.model import Chunk
from pgroute.batch.options import belongs_to_chunk
from pgroute.batch.source import Keyset
from pgroute.batch.state import Job, Outcome, job_gone, lock_not_released, number, unclaimed_outcome
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
    from pgroute.batch.state import PendingChunk, Row

    Connection = psycopg.AsyncConnection[Any]

T = TypeVar("T")

logger = logging.getLogger("pgroute")


class AsyncChunkRunner:
    """Runs the chunks of one job.

    Args:
        router: routes to the primary.
        options: the options of the job.
        store: the job's rows.
        tracker: counts retries.
        fn: the body.
    """

    def __init__(
        self,
        router: AsyncRouter[Any],
        options: JobOptions,
        store: AsyncJobStore,
        tracker: ProgressTracker,
        fn: Callable[..., Any],
    ) -> None:
        self._router = router
        self._options = options
        self._store = store
        self._tracker = tracker
        self._fn = fn
        self._name = options.name
        # At any isolation level a late claim finds no row, or fails with 40001.
        self._request = manager_of(router).request("writer", decidable=True)

    async def run_chunk(self, pending: PendingChunk) -> tuple[Outcome, int]:
        """Run a chunk; return its outcome and its number of rows.

        Raises:
            BatchError: another session holds the chunk, or the job was reset.
        """
        own: BaseException | None = None  # the body's error, if it left the transaction intact
        outside: BaseException | None = None
        applied, before = False, 1

        async def body(transaction: AsyncTransaction[Any], conn: Connection) -> tuple[Outcome, int]:
            nonlocal own, outside, applied, before
            own, outside, applied = None, sys.exception(), False
            self._tracker.add_retries(transaction.number - before)
            before = transaction.number
            claimed = await self._claim(transaction, conn, pending, self._claim_statement(pending))
            if claimed is None:
                return await self._explain_unclaimed(transaction, conn, pending)
            try:
                await self._body(conn, await self._chunk(conn, pending, claimed))
            except Exception as exc:
                own = exc if transaction.intact else None
                raise
            applied = True
            return Outcome.APPLIED, number(claimed[1])

        try:
            return await self._transact(body)
        except Exception as exc:
            # An error of COMMIT, such as a deferred constraint, belongs to the chunk too.
            its_commit = applied and getattr(exc, "sqlstate", None) is not None
            rejecting = self._options.on_error == "reject"
            if rejecting and (exc is own or its_commit) and belongs_to_chunk(exc, outside):
                return await self._reject(pending, exc)
            raise

    async def _transact(
        self,
        body: Callable[[AsyncTransaction[Any], Connection], Awaitable[T]],
    ) -> T:
        manager = manager_of(self._router)
        result: Any = await run_transaction(manager, self._request, body, retry=self._options.retry)
        return result  # type: ignore[no-any-return]

    @staticmethod
    def _claim_statement(pending: PendingChunk) -> bytes:
        return sql.CLAIM_KEYS if pending.items is None else sql.CLAIM_ITEMS

    async def _claim(
        self, transaction: AsyncTransaction[Any], conn: Connection, pending: PendingChunk, statement: bytes
    ) -> Row | None:
        """Mark a chunk as done in this transaction; return None if no open row was found."""
        seconds = transaction.left
        given: dict[str, Any] = {"chunk": pending.number, "rows": len(pending.items or ())}
        await self._store.check_trust(conn)
        try:
            claimed = row(await self._store.ask(conn, statement, **given, wait=lock_timeout(seconds)))
        except psycopg.errors.LockNotAvailable as exc:
            raise lock_not_released(self._name, f"chunk {pending.number}", seconds) from exc
        if claimed is not None:
            transaction.mark_resolved()
        return claimed

    async def _explain_unclaimed(
        self, transaction: AsyncTransaction[Any], conn: Connection, pending: PendingChunk
    ) -> tuple[Outcome, int]:
        """Return the outcome of a chunk that could not be claimed, and its number of rows."""
        found = row(await self._store.ask(conn, sql.READ_CHUNK, chunk=pending.number))
        if found is None:
            raise job_gone(self._name)
        job, (present, done, count) = Job.read(found), found[5:]
        self._store.check(job.started)
        planned = present == b"t"
        outcome = unclaimed_outcome(pending.number, job, present=planned, done=done == b"t")
        if outcome is None or (not planned and outcome is Outcome.PLAN_LOST and pending.items is None):
            raise job_gone(self._name)
        if outcome is Outcome.ALREADY_DONE and transaction.earlier_unknown:
            # Most likely by an earlier attempt. Without a write, COMMIT would not wait for the synchronous standby.
            outcome = Outcome.APPLIED
            if planned:
                await self._store.ask(conn, sql.CONFIRM_CHUNK, chunk=pending.number)
            else:
                await self._store.ask(conn, sql.CONFIRM_JOB)
        return outcome, int(count or 0) or len(pending.items or ())

    async def _chunk(self, conn: Connection, pending: PendingChunk, claimed: Row) -> Chunk:
        if pending.items is not None:
            return Chunk(pending.number, list(pending.items))
        keyset = self._options.source
        assert isinstance(keyset, Keyset)
        after, upto = (json.loads(text(conn, value or b"null")) for value in claimed[2:])
        rows: list[Any] = []
        if keyset.fetch:
            cursor = psycopg.AsyncCursor(conn)
            statement, params = self._store.sql.fetch(after, upto)
            # A prepared statement would fail once a column is added to the table.
            await cursor.execute(encode(conn, statement), params, prepare=False)
            rows = await cursor.fetchall()
        return Chunk(pending.number, rows, self._store.sql.range(conn, after, upto))

    async def _body(self, conn: Connection, chunk: Chunk) -> None:
        try:
            await call(self._fn, conn, chunk)
        except psycopg.Rollback as exc:
            text = "the body raised psycopg.Rollback: return to apply the chunk, or raise another error to make it fail"
            raise psycopg.ProgrammingError(text) from exc

    async def _reject(self, pending: PendingChunk, exc: Exception) -> tuple[Outcome, int]:
        """Record that a chunk cannot be applied, in a transaction of its own with the same claim."""
        state = exc.sqlstate if isinstance(exc, psycopg.Error) else None
        message = f"{type(exc).__name__}: {exc}".replace("\0", "\\0")
        statement = sql.CLAIM if pending.items is None else sql.CLAIM_ITEMS

        async def body(transaction: AsyncTransaction[Any], conn: Connection) -> tuple[Outcome, int]:
            claimed = await self._claim(transaction, conn, pending, statement)
            if claimed is None:
                outcome, count = await self._explain_unclaimed(transaction, conn, pending)
                return (Outcome.REJECTED if outcome is Outcome.APPLIED else outcome), count
            encoding = encoding_of(conn)
            error = message.encode(encoding, "backslashreplace").decode(encoding)
            given: dict[str, Any] = {"state": state, "error": error}
            await self._store.ask(conn, sql.REJECT, **given, chunk=pending.number)
            return Outcome.REJECTED, number(claimed[1])

        outcome, count = await self._transact(body)
        if outcome is Outcome.REJECTED:
            logger.warning(
                "job %r: chunk %d was set aside: %s", self._name, pending.number, one_line(message)
            )
        return outcome, count
