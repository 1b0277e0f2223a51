# Generated from pgroute/batch/_async/job_store.py by .ci/unasync.py: edit that file, not this one.
"""A job's rows in the database: begun, planned, compacted and finished, each in a transaction that can be repeated."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg

from pgroute._sync.router import manager_of
from pgroute._sync.schema_check import check_trust
from pgroute._sync.statements import ask, encoding_of, row, rows, text
from pgroute._sync.transaction.loop import run_transaction
from pgroute._sync.transaction.once import MISSING, missing
from pgroute.batch import sql
from pgroute.batch.options import check_columns, check_encoding, check_same
from pgroute.batch.source import Keyset, signature
from pgroute.batch.state import AHEAD, STEPS, Job, Partitioner, Row, Standing, gone, held, misread, number
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


class JobStore:
    """The rows of one job.

    Args:
        router: leads to the primary.
        options: the job.
    """

    def __init__(self, router: Router[Any], options: JobOptions) -> None:
        self._router = router
        self._options = options
        self._name = options.name
        self._begun: int | None = None
        self._schema = manager_of(router).config.schema
        self.sql: sql.KeysetSql

    def check(self, begun: int) -> None:
        """Raise BatchError unless a row is the one that the job was begun with."""
        if begun != self._begun:
            raise gone(self._name)

    def check_trust(self, conn: Connection) -> None:
        """Raise ConfigError if others could have code run by this session: ahead of the first use of our tables."""
        try:
            check_trust(conn, self._schema, BATCH)
        except MISSING as exc:
            raise missing("job", self._name, exc) from None

    def ask(self, conn: Connection, statement: bytes, **values: str | float | None) -> list[PGresult]:
        """Run a statement on the job, which is one of its values."""
        return ask(conn, statement, schema=self._schema.sql, job=self._name, **values)

    def start(self) -> Standing:
        """Begin the job, or find it begun.

        Raises:
            ConfigError: its tables are not there, its source cannot serve, or it was begun with another one.
        """
        return self._transact(self._start, "repeatable read", "the row, or a table of the query,")

    def plan(self, start: int, until: int) -> tuple[Job, set[int]]:
        """RouterConfig items up to chunk *until*; return the job, and which chunks from *start* on are open."""

        def work(conn: Connection) -> tuple[Job, set[int]]:
            job = self._see(conn, sql.LOCK_JOB)
            if not job.complete and job.planned < until:
                size = self._options.chunk_size
                self.ask(conn, sql.PLAN_ITEMS, size=size, planned=job.planned, until=until)
            return job, set(self._open(conn, start, until, until - start))

        return self._transact(work)

    def complete(self, chunks: int, rows: int) -> None:
        """Take note of where the items end.

        Raises:
            BatchError: an earlier run came further.
        """

        def work(conn: Connection) -> None:
            job = self._see(conn, sql.LOCK_JOB)
            if job.complete:
                if (job.planned, job.rows_total) != (chunks, rows):
                    raise misread(self._name, f"it gives {rows} items, and gave {job.rows_total}")
                return
            partial = rows - max(0, chunks - 1) * self._options.chunk_size
            given: dict[str, Any] = {"chunks": chunks, "rows": rows}
            otherwise = row(self.ask(conn, sql.DONE_OTHERWISE, **given, partial=partial))
            if job.watermark > chunks or otherwise is not None:
                raise misread(self._name, f"it ends after {rows} items, and more of them are done")
            self.ask(conn, sql.COMPLETE_ITEMS, **given)

        self._transact(work)

    def open_chunks(self, start: int) -> list[int]:
        """Return open chunks of a Keyset from *start* on, the first ones."""

        def work(conn: Connection) -> list[int]:
            job = self._see(conn, sql.SEE_JOB)
            return self._open(conn, start, job.planned, AHEAD)

        return self._transact(work)

    def compact(self) -> None:
        """Delete the rows of the done chunks at the beginning, unless another copy is at it."""

        def work(conn: Connection) -> None:
            if row(self.ask(conn, sql.LOCK_TO_COMPACT)) is not None:
                self.ask(conn, sql.COMPACT)

        self._transact(work)

    def finish(self) -> Standing:
        """Finish the job if the database says that all of it is done.

        The COMMIT of it, once the synchronous standby has confirmed it, stands for those of all chunks.
        """

        def work(conn: Connection) -> Standing:
            self._see(conn, sql.LOCK_JOB)
            found = row(self.ask(conn, sql.COMPACT))
            assert found is not None
            planned, complete, watermark, rows_total, rows_done = found
            finished = complete == b"t" and watermark == planned
            if finished:
                self.ask(conn, sql.FINISH)
            return self._standing(conn, (planned, watermark, rows_total, rows_done), finished=finished)

        return self._transact(work)

    def _transact(
        self,
        work: Callable[[Connection], T],
        isolation: str = "read committed",
        locked: str = "the row",
    ) -> T:
        """Run what finds out by itself whether it was committed before, or may be done again."""
        manager = manager_of(self._router)
        request = manager.request("writer", isolation=isolation, decidable=True)

        def body(transaction: Transaction[Any], conn: Connection) -> T:
            seconds = transaction.left
            try:
                self.check_trust(conn)
                ask(conn, sql.WAIT_AT_MOST, wait=lock_timeout(seconds))
                return work(conn)
            except psycopg.errors.LockNotAvailable as exc:
                raise held(self._name, locked, seconds) from exc

        result: Any = run_transaction(manager, request, body, retry=self._options.retry)
        return result  # type: ignore[no-any-return]

    def _see(self, conn: Connection, statement: bytes) -> Job:
        found = row(self.ask(conn, statement))
        if found is None:
            raise gone(self._name)
        job = Job.read(found)
        self.check(job.begun)
        return job

    def _open(self, conn: Connection, start: int, until: int, most: int) -> list[int]:
        results = self.ask(conn, sql.OPEN_CHUNKS, start=start, until=until, most=most)
        return [number(chunk) for (chunk,) in rows(results)]

    def _start(self, conn: Connection) -> Standing:
        found = self._find(conn)
        types = self._types(conn)
        if found is None:
            self._create(conn, types)
            found = self._find(conn)
            assert found is not None
        source, chunk_size, begun, planned, _, watermark, rows_total, rows_done, finished = found
        self._begun = number(begun)
        check_same(self._options, types, text(conn, source or b""), number(chunk_size))
        if finished == b"t":
            self.ask(conn, sql.CONFIRM_JOB)
        return self._standing(
            conn, (planned, watermark, rows_total, rows_done), finished=finished == b"t"
        )

    def _find(self, conn: Connection) -> Row | None:
        try:
            return row(self.ask(conn, sql.FIND))
        except MISSING as exc:
            raise missing("job", self._name, exc) from None
        except UnicodeEncodeError as exc:
            accepted = f"expected a name that the connection can send ({exc})"
            raise ConfigError("job", self._name, accepted) from None

    @staticmethod
    def _execute(conn: Connection, query: tuple[str, Any]) -> PGresult:
        """Run a statement with the user's query and its parameters in it, and return the result as it came."""
        statement, params = query
        cursor = psycopg.Cursor(conn)
        cursor.execute(encode(conn, statement), params, prepare=False)
        assert cursor.pgresult is not None
        return cursor.pgresult

    def _types(self, conn: Connection) -> list[str]:
        """Return the types of the key columns, and have the statements on them made."""
        keyset = self._options.source
        if not isinstance(keyset, Keyset):
            return []
        check_encoding(encoding_of(conn))
        result = self._execute(conn, sql.KeysetSql(keyset).describe())
        names = [text(conn, result.fname(column) or b"") for column in range(result.nfields)]
        check_columns(keyset, names)
        oids = [result.ftype(names.index(name)) for name in keyset.keys]
        ask(conn, sql.NO_PATH)
        array = f"{{{','.join(map(str, oids))}}}"
        keys = []
        for oid, found in zip(oids, rows(ask(conn, sql.TYPES, oids=array)), strict=True):
            kind, schema, name, home = (text(conn, value or b"pg_catalog") for value in found)
            keys.append(sql.Key(kind, oid, f"{sql.quoted(schema)}.{sql.quoted(name)}", sql.quoted(home)))
        ask(conn, sql.OLD_PATH)
        raw = conn.pgconn.parameter_status(b"server_encoding") == b"SQL_ASCII"
        self.sql = sql.KeysetSql(keyset, keys, raw=raw)
        return [key.type for key in keys]

    def _create(self, conn: Connection, types: list[str]) -> None:
        source, size = self._options.source, self._options.chunk_size
        if isinstance(source, Keyset) and (self._execute(conn, self.sql.find_null())).ntuples:
            raise ConfigError("key", source.key, "expected keys that are never NULL; the query gives some")
        self.ask(conn, sql.CREATE, source=signature(source, types), size=size)
        if isinstance(source, Keyset):
            self._cut(conn)

    def _cut(self, conn: Connection) -> None:
        """RouterConfig all chunks of a Keyset: at every so many rows in the order of the keys, and at the last.

        Rows of equal keys are never cut apart, for a chunk is what is between two keys; where a cut falls among them,
        its chunk has more rows than are counted for it, and the next one fewer.
        """
        ask(conn, sql.PLAIN_TEXTS)
        self._execute(conn, self.sql.declare())
        cuts = Partitioner()
        while not cuts.ended:
            # Behind the end, nothing more is moved or fetched.
            for result in ask(conn, sql.walk(self._options.chunk_size, STEPS)):
                if result.nfields:
                    cuts.fetched(_texts(conn, result))
                else:
                    cuts.moved(result.command_tuples or 0)
            self._plan(conn, cuts)
        if cuts.beyond:
            cuts.last(_texts(conn, (ask(conn, sql.LAST_KEY))[-1]))
            self._plan(conn, cuts)
        ask(conn, sql.CLOSE_PLAN)
        self.ask(conn, sql.COMPLETE_KEYS, chunks=cuts.count, rows=cuts.rows)

    def _plan(self, conn: Connection, cuts: Partitioner) -> None:
        if chunks := cuts.take():
            self.ask(conn, sql.PLAN_KEYS, chunks=json.dumps(chunks, ensure_ascii=False))

    def _standing(self, conn: Connection, found: Row, *, finished: bool) -> Standing:
        planned, watermark, rows_total, rows_done = found
        above, above_rows = row(self.ask(conn, sql.DONE)) or (b"0", b"0")
        rejected, rejected_rows = row(self.ask(conn, sql.REJECTED)) or (b"0", b"0")
        return Standing(
            planned=number(planned),
            watermark=number(watermark),
            chunks_done=number(watermark) + number(above),
            rows_done=number(rows_done) + number(above_rows),
            rows_total=None if rows_total is None else int(rows_total),
            rejected=number(rejected),
            rejected_rows=number(rejected_rows),
            finished=finished,
        )


def encode(conn: Connection, statement: str) -> bytes:
    """Return a statement in the connection's encoding; SQL_ASCII takes what psycopg refuses to send."""
    return statement.encode(encoding_of(conn), "surrogateescape")


def _texts(conn: Connection, result: PGresult) -> list[str] | None:
    """Return the values of a row as the server wrote them, None if there is none."""
    if not result.ntuples:
        return None
    return [text(conn, result.get_value(0, column) or b"") for column in range(result.nfields)]
