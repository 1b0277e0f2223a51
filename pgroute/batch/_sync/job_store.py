# Generated from pgroute/batch/_async/job_store.py by .ci/unasync.py: edit that file, not this one.
"""A job's rows in the database: start, plan, compact and finish, each in a transaction that can be repeated."""

from __future__ import annotations

import json
import logging
import time
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg

from pgroute._sync.router import manager_of
from pgroute._sync.schema_check import check_trust
from pgroute._sync.statements import ask, row, rows, text
from pgroute._sync.transaction.loop import run_transaction
from pgroute._sync.transaction.once import MISSING, missing
from pgroute.batch import keyset_sql, sql
from pgroute.batch._sync.keys import execute, find_keys
from pgroute.batch.keyset_sql import KeysetSql
from pgroute.batch.options import check_same
from pgroute.batch.source import Keyset, signature
from pgroute.batch.state import (
    LOOKUP_BATCH,
    PLAN_BATCH,
    Job,
    JobStatus,
    Partitioner,
    Row,
    job_gone,
    lock_not_released,
    number,
    source_changed,
    wait_ended,
)
from pgroute.core.faults.classify import one_line
from pgroute.core.sql.schema import BATCH
from pgroute.core.transactions.once_keys import lock_timeout
from pgroute.errors import ConfigError

if TYPE_CHECKING:

    from psycopg.pq.abc import PGresult

    from collections.abc import Callable
    from pgroute._sync.router import Router
    from pgroute._sync.transaction.attempt import Transaction
    from pgroute.batch.options import JobOptions

    Connection = psycopg.Connection[Any]


T = TypeVar("T")

logger = logging.getLogger("pgroute")


class JobStore:
    """The rows of one job.

    Args:
        router: routes to the primary.
        options: the options of the job.
    """

    def __init__(self, router: Router[Any], options: JobOptions) -> None:
        self._router = router
        self._options = options
        self._name = options.name
        self._started: int | None = None
        self._schema = manager_of(router).config.schema
        self.sql: KeysetSql

    def check(self, started: int) -> None:
        """Raise BatchError if the job's row is not the one that this run has found."""
        if started != self._started:
            raise job_gone(self._name)

    def check_trust(self, conn: Connection) -> None:
        """Raise ConfigError if another role could make this session run its code; call it before using the tables."""
        try:
            check_trust(conn, self._schema, BATCH)
        except MISSING as exc:
            raise missing("job", self._name, exc) from None

    def ask(self, conn: Connection, statement: bytes, **values: str | float | None) -> list[PGresult]:
        """Run a statement on the tables, with the job's name and start among its values.

        Raises:
            BatchError: the server ended it, most often by statement_timeout: it waits only for other sessions.
        """
        own = {"schema": self._schema.sql, "job": self._name, "started": self._started}
        begun = time.monotonic()
        try:
            return ask(conn, statement, **own, **values)
        except psycopg.errors.QueryCanceled as exc:
            raise wait_ended(self._name, time.monotonic() - begun, one_line(str(exc))) from exc

    def start(self) -> JobStatus:
        """Create the job, or find it.

        Raises:
            ConfigError: the tables are missing, the source is invalid, or the job was started with another source.
        """
        return self._transact(self._start, "repeatable read", "the row, or a table of the query,")

    def plan(self, start: int, until: int) -> tuple[Job, set[int]]:
        """Plan items up to chunk *until*; return the job, and the open chunks from *start* on."""

        def work(conn: Connection) -> tuple[Job, set[int]]:
            job = self._read_job(conn, sql.LOCK_JOB)
            if not job.complete and job.planned < until:
                size = self._options.chunk_size
                self.ask(conn, sql.PLAN_ITEMS, size=size, planned=job.planned, until=until)
            return job, set(self._open(conn, start, until, until - start))

        return self._transact(work)

    def complete(self, chunks: int, rows: int) -> None:
        """Record where the items end.

        Raises:
            BatchError: an earlier run has done more items.
        """

        def work(conn: Connection) -> None:
            job = self._read_job(conn, sql.LOCK_JOB)
            if job.complete:
                if (job.planned, job.rows_total) != (chunks, rows):
                    raise source_changed(
                        self._name, f"it gives {rows} items, in the earlier run it gave {job.rows_total}"
                    )
                return
            partial = rows - max(0, chunks - 1) * self._options.chunk_size
            given: dict[str, Any] = {"chunks": chunks, "rows": rows}
            otherwise = row(self.ask(conn, sql.FIND_CONFLICT, **given, partial=partial))
            if job.watermark > chunks or otherwise is not None:
                raise source_changed(self._name, f"it ends after {rows} items, but more are done")
            self.ask(conn, sql.COMPLETE_ITEMS, **given)

        self._transact(work)

    def open_chunks(self, start: int) -> list[int]:
        """Return the first open chunks of a Keyset from *start* on."""

        def work(conn: Connection) -> list[int]:
            job = self._read_job(conn, sql.READ_JOB)
            return self._open(conn, start, job.planned, LOOKUP_BATCH)

        return self._transact(work)

    def compact(self) -> None:
        """Delete the rows of the done chunks below the first open one, unless another copy is doing so.

        A failure is only logged: the next compaction deletes them too.
        """

        def work(conn: Connection) -> None:
            if row(self.ask(conn, sql.LOCK_TO_COMPACT)) is not None:
                self.ask(conn, sql.COMPACT)

        try:
            self._transact(work)
        except ConfigError:  # the tables can no longer be trusted
            raise
        except psycopg.Error as exc:
            why = one_line(str(exc))
            logger.warning("job %r: the rows of done chunks were not deleted: %s", self._name, why)

    def finish(self) -> JobStatus:
        """Finish the job if the database records all chunks as done.

        Once the synchronous standby has confirmed this COMMIT, it has confirmed those of all chunks too.
        """

        def work(conn: Connection) -> JobStatus:
            self._read_job(conn, sql.LOCK_JOB)
            found = row(self.ask(conn, sql.COMPACT))
            assert found is not None
            planned, complete, watermark, rows_total, rows_done = found
            finished = complete == b"t" and watermark == planned
            if finished:
                self.ask(conn, sql.FINISH)
            return self._status(conn, (planned, watermark, rows_total, rows_done), finished=finished)

        return self._transact(work)

    def _transact(
        self,
        work: Callable[[Connection], T],
        isolation: str = "read committed",
        locked: str = "the row",
    ) -> T:
        """Run a transaction that may be repeated, or that detects by itself that it was committed."""
        manager = manager_of(self._router)
        request = manager.request("writer", isolation=isolation, decidable=True)

        def body(transaction: Transaction[Any], conn: Connection) -> T:
            seconds = transaction.left
            try:
                self.check_trust(conn)
                ask(conn, sql.SET_LOCK_TIMEOUT, wait=lock_timeout(seconds))
                return work(conn)
            except psycopg.errors.LockNotAvailable as exc:
                raise lock_not_released(self._name, locked, seconds) from exc

        result: Any = run_transaction(manager, request, body, retry=self._options.retry)
        return result  # type: ignore[no-any-return]

    def _read_job(self, conn: Connection, statement: bytes) -> Job:
        found = row(self.ask(conn, statement))
        if found is None:
            raise job_gone(self._name)
        job = Job.read(found)
        self.check(job.started)
        return job

    def _open(self, conn: Connection, start: int, until: int, most: int) -> list[int]:
        results = self.ask(conn, sql.OPEN_CHUNKS, start=start, until=until, most=most)
        return [number(chunk) for (chunk,) in rows(results)]

    def _start(self, conn: Connection) -> JobStatus:
        found = self._find_row(conn)
        types = self._types(conn)
        if found is None:
            self._create(conn, types)
            found = self._find_row(conn)
            assert found is not None
        source, chunk_size, started, planned, _, watermark, rows_total, rows_done, finished = found
        self._started = number(started)
        check_same(self._options, types, text(conn, source or b""), number(chunk_size))
        if finished == b"t":
            self.ask(conn, sql.CONFIRM_JOB)
        return self._status(
            conn, (planned, watermark, rows_total, rows_done), finished=finished == b"t"
        )

    def _find_row(self, conn: Connection) -> Row | None:
        try:
            return row(self.ask(conn, sql.FIND))
        except MISSING as exc:
            raise missing("job", self._name, exc) from None
        except UnicodeEncodeError as exc:
            accepted = f"expected a name that the client encoding can represent ({exc})"
            raise ConfigError("job", self._name, accepted) from None

    def _types(self, conn: Connection) -> list[str]:
        """Return the types of the key columns, and prepare the statements on them."""
        keyset = self._options.source
        if not isinstance(keyset, Keyset):
            return []
        keys = find_keys(conn, keyset)
        raw = conn.pgconn.parameter_status(b"server_encoding") == b"SQL_ASCII"
        self.sql = KeysetSql(keyset, keys, raw=raw)
        return [key.type for key in keys]

    def _create(self, conn: Connection, types: list[str]) -> None:
        source, size = self._options.source, self._options.chunk_size
        if isinstance(source, Keyset) and (execute(conn, self.sql.find_null())).ntuples:
            raise ConfigError(
                "key", source.key, "expected keys that are never NULL; the query returns NULL keys"
            )
        self.ask(conn, sql.CREATE_JOB, source=signature(source, types), size=size)
        if isinstance(source, Keyset):
            self._plan_keyset(conn)

    def _plan_keyset(self, conn: Connection) -> None:
        """Plan all chunks of a Keyset: one ends at every chunk_size rows in key order, and one at the last row.

        A chunk is the range between two keys, so rows with equal keys stay together. If a chunk ends among equal keys,
        it has more rows than are counted for it, and the next chunk has fewer.
        """
        ask(conn, keyset_sql.PORTABLE_FORMATS)
        execute(conn, self.sql.declare())
        partitioner = Partitioner()
        while not partitioner.ended:
            # Past the end, MOVE and FETCH return no rows.
            for result in ask(conn, keyset_sql.walk(self._options.chunk_size, PLAN_BATCH)):
                if result.nfields:
                    partitioner.end_chunk(_texts(conn, result))
                else:
                    partitioner.skip(result.command_tuples or 0)
            self._insert(conn, partitioner)
        if partitioner.remainder:
            partitioner.end_last_chunk(_texts(conn, (ask(conn, keyset_sql.LAST_KEY))[-1]))
            self._insert(conn, partitioner)
        ask(conn, keyset_sql.CLOSE_PLAN)
        self.ask(conn, sql.COMPLETE_KEYS, chunks=partitioner.count, rows=partitioner.rows)

    def _insert(self, conn: Connection, partitioner: Partitioner) -> None:
        if chunks := partitioner.take():
            self.ask(conn, sql.PLAN_KEYS, chunks=json.dumps(chunks, ensure_ascii=False))

    def _status(self, conn: Connection, found: Row, *, finished: bool) -> JobStatus:
        done = row(self.ask(conn, sql.COUNT_DONE))
        rejected = row(self.ask(conn, sql.COUNT_REJECTED))
        return JobStatus.read(found, done, rejected, finished=finished)


def _texts(conn: Connection, result: PGresult) -> list[str] | None:
    """Return the values of the first row as text, None if there is no row."""
    if not result.ntuples:
        return None
    return [text(conn, result.get_value(0, column) or b"") for column in range(result.nfields)]
