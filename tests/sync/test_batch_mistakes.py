# Generated from tests/aio/test_batch_mistakes.py by .ci/unasync.py: edit that file, not this one.
"""Batch jobs with bodies, sources, keys and settings that would lose rows, or chunks, without anybody noticing."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import tenacity
from psycopg import sql

from pgroute import Router, ConfigError, PoolOptions, RetryPolicy
from pgroute.batch import BatchJob, BatchError, Chunk, Keyset
from pgroute.testing import LocalCluster
from tests.batching import Ground, ground_of
from tests.support import call, coroutine_function

pytestmark = [pytest.mark.cluster, pytest.mark.long]

ONCE = RetryPolicy(stop=tenacity.stop_after_attempt(1))
Connection = psycopg.Connection[Any]


@pytest.fixture
def ground(shared: LocalCluster) -> Iterator[Ground]:
    with ground_of(shared) as ground:
        yield ground


class Failing:
    """A body that notes its items, and fails once in a chunk."""

    def __init__(self, chunk: int, error: BaseException) -> None:
        self._chunk = chunk
        self._error: BaseException | None = error

    def __call__(self, conn: Connection, chunk: Chunk) -> None:
        while chunk.rows:  # it uses up what it is given
            item = chunk.rows.pop()
            conn.execute("INSERT INTO seen VALUES (%s, %s)", (item, chunk.number))
        if chunk.number == self._chunk and self._error is not None:
            error, self._error = self._error, None
            raise error


def test_another_attempt_gets_all_items_again(ground: Ground) -> None:
    with Router(ground.dsn) as router:
        body = Failing(1, psycopg.errors.SerializationFailure())
        report = BatchJob(router, "j", range(10), chunk_size=5).run(body)
    assert (report.rows, report.retries) == (10, 1)
    assert ground.seen() == [*range(10)]


@pytest.mark.parametrize("left", [5, 10, 15])
def test_fewer_items_than_are_done_are_refused(ground: Ground, left: int) -> None:
    with Router(ground.dsn) as router:
        with pytest.raises(ValueError, match="broken"):
            BatchJob(router, "j", range(45), chunk_size=10).run(Failing(2, ValueError("broken")))
        with pytest.raises(BatchError, match="has changed since an earlier run"):
            BatchJob(router, "j", range(left), chunk_size=10).run(Failing(-1, ValueError()))
        report = BatchJob(router, "j", range(45), chunk_size=10).run(Failing(-1, ValueError()))
    assert report.rows == 45
    assert ground.seen() == [*range(45)]


@pytest.mark.parametrize("source", [{1, 2}, frozenset("ab"), coroutine_function])
def test_what_has_no_order_of_its_own_is_refused(source: Any) -> None:
    router = Router("host=127.0.0.1")
    with pytest.raises(ConfigError, match="invalid source"):
        BatchJob(router, "j", source)


@pytest.mark.parametrize("given", [{1, 2}, "abc", 7])
def test_what_a_function_gives_is_looked_at_too(ground: Ground, given: Any) -> None:
    with Router(ground.dsn) as router:
        with pytest.raises(ConfigError, match="invalid source"):
            BatchJob(router, "j", lambda: given, chunk_size=3).run(Failing(-1, ValueError()))
        assert (
            BatchJob(router, "j", [1, 2], chunk_size=3).run(Failing(-1, ValueError()))
        ).rows == 2


SETTINGS = {"extra_float_digits": "0", "datestyle": "German, DMY", "intervalstyle": "sql_standard"}


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("float8", "n + 1 / 3::float8"),
        ("int[]", "ARRAY[n, n]"),
        ("jsonb", "to_jsonb(n::text)"),
        ("date", "'2024-01-01'::date + n"),
        ("timestamptz", "CASE n WHEN 20 THEN 'infinity' ELSE now() + n * interval '1 s' END"),
        ("interval", "n * interval '25 h'"),
        ("time", "CASE n WHEN 20 THEN '24:00' ELSE time '10:00' + n * interval '1 s' END"),
        ("bpchar", "n::text || '  '"),
        ("bytea", "decode(lpad(to_hex(n), 4, '0'), 'hex')"),
    ],
)
def test_keys_are_kept_exactly_whatever_the_settings(ground: Ground, kind: str, value: str) -> None:
    ground.execute("CREATE TABLE plain (n int)")
    ground.execute("INSERT INTO plain SELECT generate_series(1, 20)")
    ground.execute(f"CREATE TABLE keyed AS SELECT ({value})::{kind} AS k, n FROM plain")

    def note(conn: Connection, chunk: Chunk) -> None:
        insert = sql.SQL("INSERT INTO seen SELECT n, %s FROM keyed WHERE {}").format(chunk.where)
        conn.execute(insert, (chunk.number,))

    with Router(ground.dsn, writer=PoolOptions(settings=SETTINGS)) as router:
        source = Keyset("SELECT k FROM keyed", key="k", fetch=False)
        report = BatchJob(router, "j", source, chunk_size=3).run(note)
    assert (report.rows, report.chunks) == (20, 7)
    assert ground.seen() == [*range(1, 21)]


@pytest.mark.parametrize(
    ("kind", "of_table", "of_query"),
    [
        ("text", "und-x-icu", "C"),
        ("text", "C", "public.own"),
        ("varchar(9)", "public.own", "und-x-icu"),
        ("text[]", "und-x-icu", "C"),
        ("spelled", "C", "und-x-icu"),
    ],
)
def test_a_chunk_is_compared_in_the_order_of_its_query(
    ground: Ground, kind: str, of_table: str, of_query: str
) -> None:
    if not ground.execute("SELECT 1 FROM pg_collation WHERE collname = 'und-x-icu'"):
        pytest.skip("this server was built without ICU, and knows one order only")
    ground.execute("CREATE COLLATION \"own\" (provider = icu, locale = 'und-u-kf-upper')")
    ground.execute('CREATE DOMAIN spelled AS text COLLATE "C"')
    collation, order = (".".join(f'"{part}"' for part in name.split(".")) for name in (of_table, of_query))
    value = "ARRAY[chr(64 + n / 2 + 32 * (n % 2))]" if kind == "text[]" else "chr(64 + n / 2 + 32 * (n % 2))"
    ground.execute(f"CREATE TABLE keyed (n int, k {kind} COLLATE {collation})")
    ground.execute(f"INSERT INTO keyed SELECT n, {value} FROM generate_series(2, 21) AS n")

    def note(conn: Connection, chunk: Chunk) -> None:
        insert = sql.SQL("INSERT INTO seen SELECT n, %s FROM keyed WHERE {}").format(chunk.where)
        conn.execute(insert, (chunk.number,))

    with Router(ground.dsn) as router:
        source = Keyset(f"SELECT n, k COLLATE {order} AS k FROM keyed", key=("k", "n"), fetch=False)
        report = BatchJob(router, "j", source, chunk_size=3).run(note)
    assert report.rows == 20
    assert ground.seen() == [*range(2, 22)]


def test_a_chunk_names_the_order_of_its_query(ground: Ground) -> None:
    ground.items(3)
    conditions: list[str] = []

    def note(conn: Connection, chunk: Chunk) -> None:
        assert chunk.where is not None
        conditions.append(chunk.where.as_string(conn))

    with Router(ground.dsn) as router:
        source = Keyset('SELECT id, id::text COLLATE "C" AS k FROM item', key=("k", "id"), fetch=False)
        BatchJob(router, "j", source).run(note)
    [condition] = conditions
    assert condition.startswith('(("k" COLLATE "pg_catalog"."C", "id") ')


def test_a_query_without_an_order_of_its_own_uses_the_index_of_its_table(ground: Ground) -> None:
    ground.execute("CREATE TABLE keyed AS SELECT n::text AS k FROM generate_series(1, 3000) AS n")
    ground.execute("CREATE INDEX ON keyed (k); ANALYZE keyed")
    plans: list[str] = []

    def explain(conn: Connection, chunk: Chunk) -> None:
        cursor = conn.execute(sql.SQL("EXPLAIN SELECT FROM keyed WHERE {}").format(chunk.where))
        plans.append(" ".join(str(row[0]) for row in cursor.fetchall()))

    with Router(ground.dsn) as router:
        source = Keyset("SELECT k FROM keyed", key="k", fetch=False)
        BatchJob(router, "j", source, chunk_size=10).run(explain)
    assert all("Index" in plan for plan in plans), plans[:1]


@pytest.mark.parametrize("encoding", ["SJIS", "SHIFT_JIS_2004"])
def test_a_yen_sign_in_a_key_is_no_backslash(ground: Ground, encoding: str) -> None:
    ground.execute("CREATE TABLE victim ()")
    ground.execute("CREATE TABLE keyed (n int, k text)")
    ground.execute(
        "INSERT INTO keyed VALUES (1, 'a\u00a5'')); DROP TABLE victim; --'), (2, 'b\u00a5'), (3, 'c')"
    )
    source = Keyset("SELECT k FROM keyed", key="k", fetch=False)

    def fail(*_: object) -> None:
        raise InterruptedError

    def note(conn: Connection, chunk: Chunk) -> None:
        conn.execute(sql.SQL("INSERT INTO seen SELECT n, 1 FROM keyed WHERE {}").format(chunk.where))

    options = PoolOptions(kwargs={"client_encoding": encoding}, settings={"backslash_quote": "on"})
    with Router(ground.dsn) as router, Router(ground.dsn, writer=options) as other:
        with pytest.raises(InterruptedError):  # planned
            BatchJob(router, "j", source, chunk_size=1).run(fail)
        with pytest.raises(ConfigError, match="client_encoding"):
            BatchJob(other, "j", source, chunk_size=1).run(note)
        assert ground.seen() == []
        BatchJob(router, "j", source, chunk_size=1).run(note)
    assert ground.seen() == [1, 2, 3]


def test_a_type_is_the_same_under_any_search_path(ground: Ground) -> None:
    ground.execute("CREATE SCHEMA other")
    ground.execute("CREATE TYPE other.mood AS ENUM ('sad', 'glad')")
    ground.execute("CREATE TABLE person (id int PRIMARY KEY, mood other.mood)")
    ground.execute("INSERT INTO person VALUES (1, 'sad'), (2, 'glad')")
    source = Keyset("SELECT mood FROM person", key="mood", fetch=False)

    def fail(conn: Connection, chunk: Chunk) -> None:
        raise KeyError

    def nothing(conn: Connection, chunk: Chunk) -> None:
        """Do nothing."""

    for path, body in (("public", fail), ("other, public", nothing)):
        options = PoolOptions(settings={"search_path": path})
        with Router(ground.dsn, writer=options) as router:
            job = BatchJob(router, "j", source, chunk_size=1)
            if body is fail:
                with pytest.raises(KeyError):
                    job.run(body)
            else:
                assert (job.run(body)).chunks == 2


def test_a_column_added_meanwhile_harms_nobody(ground: Ground) -> None:
    ground.items(60)

    def alter(conn: Connection, chunk: Chunk) -> None:
        for row in chunk.rows:
            conn.execute("INSERT INTO seen VALUES (%s, %s)", (row[0], chunk.number))
        if chunk.number == 40:
            conn.execute("ALTER TABLE item ADD COLUMN more int")

    with Router(ground.dsn, writer=PoolOptions(max_size=1)) as router:
        source = Keyset("SELECT * FROM item", key="id")
        report = BatchJob(router, "j", source, chunk_size=1, on_error="reject").run(alter)
    assert (report.rows, report.rejected) == (60, 0)
    assert ground.seen() == [*range(1, 61)]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOENT, "No such file"),
        RuntimeError("broken"),
        ExceptionGroup("both", [KeyError("a"), KeyError("b")]),
    ],
    ids=repr,
)
def test_other_errors_of_the_same_classes_reject_their_chunk(ground: Ground, error: Exception) -> None:
    with Router(ground.dsn) as router:
        job = BatchJob(router, "j", range(4), chunk_size=2, on_error="reject")
        report = job.run(Failing(1, error))
    assert (report.rows, report.rejected) == (2, 1)


def wrapped(*, told: bool) -> Exception:
    """Return an error that a body made of the server's, with or without `from`."""
    try:
        try:
            raise psycopg.errors.SerializationFailure
        except psycopg.Error as exc:
            if told:
                raise RuntimeError("storage") from exc
            raise RuntimeError("storage")  # noqa: B904
    except RuntimeError as exc:
        return exc


@pytest.mark.parametrize(
    "error",
    [
        psycopg.errors.LockNotAvailable("somebody else's lock"),
        psycopg.errors.QueryCanceled("statement timeout"),
        wrapped(told=True),
        wrapped(told=False),
        ExceptionGroup(
            "tasks", [ValueError("mine"), psycopg.errors.LockNotAvailable("somebody else's lock")]
        ),
        ExceptionGroup("tasks", [ExceptionGroup("inner", [wrapped(told=True)])]),
        MemoryError(),
        *(
            OSError(code, os.strerror(code))
            for code in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC)
        ),
        RuntimeError("can't start new thread"),
    ],
    ids=repr,
)
def test_trouble_that_passes_stops_the_job_and_rejects_no_chunk(
    ground: Ground, error: Exception
) -> None:
    with Router(ground.dsn) as router:
        job = BatchJob(router, "j", range(6), chunk_size=2, on_error="reject")
        with pytest.raises(type(error)):
            job.run(Failing(1, error))
        assert ground.rows()["batch_reject"] == 0
        assert (job.run(Failing(-1, ValueError()))).rows == 6
    assert ground.seen() == [*range(6)]


@pytest.mark.parametrize("goes_on", [False, True])
def test_a_body_that_hides_why_its_transaction_failed_has_no_chunk_rejected(
    ground: Ground, goes_on: bool
) -> None:
    def hide(conn: Connection, chunk: Chunk) -> None:
        with contextlib.suppress(psycopg.errors.QueryCanceled):
            conn.execute("SET LOCAL statement_timeout = '1ms'; SELECT pg_sleep(60)")
        if goes_on:
            conn.execute("SELECT 1")

    with Router(ground.dsn) as router:
        job = BatchJob(router, "j", range(6), chunk_size=2, on_error="reject")
        with pytest.raises(psycopg.errors.InFailedSqlTransaction):
            job.run(hide)
        assert ground.rows()["batch_reject"] == 0
        assert (job.run(Failing(-1, ValueError()))).rows == 6


def test_an_earlier_attempts_error_is_not_held_against_the_chunks_own(ground: Ground) -> None:
    errors = [psycopg.errors.SerializationFailure(), ValueError("mine")]

    def fail(conn: Connection, chunk: Chunk) -> None:
        raise errors.pop(0)

    with Router(ground.dsn) as router:
        report = BatchJob(router, "j", [1], chunk_size=1, on_error="reject").run(fail)
    assert (report.rejected, report.retries) == (1, 1)


@pytest.mark.parametrize("workers", [1, 2])
def test_what_the_caller_was_handling_is_no_reason_of_the_chunks_error(
    ground: Ground, workers: int
) -> None:
    def hide(conn: Connection, chunk: Chunk) -> None:
        with contextlib.suppress(psycopg.errors.DivisionByZero):
            conn.execute("SELECT 1/0")

    with Router(ground.dsn) as router:
        failing, hiding = (
            BatchJob(router, name, range(6), chunk_size=2, on_error="reject", workers=workers)
            for name in ("failing", "hiding")
        )
        try:
            raise psycopg.errors.LockNotAvailable("of the job before")
        except psycopg.Error:
            assert (failing.run(Failing(1, ValueError("mine")))).rejected == 1
            with pytest.raises(psycopg.errors.InFailedSqlTransaction):
                hiding.run(hide)


def test_a_failed_transaction_whose_first_error_is_known_rejects_its_chunk(ground: Ground) -> None:
    def note(conn: Connection, chunk: Chunk) -> None:
        try:
            conn.execute("SELECT 1/0")
        except psycopg.errors.DivisionByZero:
            conn.execute("INSERT INTO seen VALUES (1)")

    with Router(ground.dsn) as router:
        report = BatchJob(router, "j", [1], chunk_size=1, on_error="reject").run(note)
    assert report.rejected == 1
    assert ground.value("SELECT sqlstate FROM pgroute.batch_reject") == "25P02"


def test_a_chunk_is_rejected_also_if_its_connection_is_too_old_to_be_kept(ground: Ground) -> None:
    def poison(conn: Connection, chunk: Chunk) -> None:
        conn.execute("SELECT pg_sleep(0.3)")
        raise ValueError

    with Router(ground.dsn, writer=PoolOptions(max_lifetime=0.1)) as router:
        report = BatchJob(router, "j", [1, 2], chunk_size=1, on_error="reject").run(poison)
    assert (report.rejected, report.finished) == (2, True)


def test_a_fault_between_two_attempts_rejects_no_chunk(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = False

    def body(conn: Connection, chunk: Chunk) -> None:
        nonlocal failed
        failed = True
        raise psycopg.errors.SerializationFailure

    with Router(ground.dsn) as router:
        acquire = router._manager.acquire

        def broken(*args: Any, **more: Any) -> Any:
            if failed:
                raise RuntimeError("broken")
            return acquire(*args, **more)

        monkeypatch.setattr(router._manager, "acquire", broken)
        with pytest.raises(RuntimeError, match="broken"):
            BatchJob(router, "j", [1, 2], chunk_size=2, on_error="reject").run(body)
    assert ground.rows()["batch_reject"] == 0


def test_a_deferred_constraint_rejects_its_chunk(ground: Ground) -> None:
    ground.execute("CREATE TABLE once_only (n int UNIQUE DEFERRABLE INITIALLY DEFERRED)")

    def double(conn: Connection, chunk: Chunk) -> None:
        conn.execute("INSERT INTO once_only VALUES (%s), (%s)", (chunk.number, chunk.number))

    with Router(ground.dsn) as router:
        report = BatchJob(router, "j", [1], chunk_size=1, on_error="reject").run(double)
    assert report.rejected == 1
    assert ground.value("SELECT sqlstate FROM pgroute.batch_reject") == "23505"


def test_a_lock_on_the_table_of_the_query_is_not_taken_for_another_copy(ground: Ground) -> None:
    ground.items(3)
    conn = psycopg.Connection.connect(f"{ground.cluster.primary.conninfo} dbname={ground.name}")
    with conn as other, Router(ground.dsn, acquire_timeout=2.0) as router:
        router.wait()
        other.execute("LOCK TABLE item")
        job = BatchJob(router, "j", Keyset("SELECT id FROM item", key="id"), retry=ONCE)
        with pytest.raises(BatchError, match="a table of the query"):
            job.run(Failing(-1, ValueError()))
        other.rollback()


class Closed:
    """A stream that nobody reads any more."""

    def write(self, _: str) -> None:
        raise BrokenPipeError

    def flush(self) -> None:
        raise BrokenPipeError

    def isatty(self) -> bool:
        return False


def test_progress_that_nobody_reads_ends_no_job(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", Closed())
    with Router(ground.dsn) as router:
        job = BatchJob(router, "j", range(4), chunk_size=2)
        with pytest.raises(ValueError, match="mine"):
            job.run(Failing(1, ValueError("mine")), progress=True)
        assert (job.run(Failing(-1, ValueError()), progress=True)).rows == 4


def test_a_terminal_that_goes_away_ends_no_job(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    master, slave = os.openpty()
    with io.TextIOWrapper(io.FileIO(slave, "w"), write_through=True) as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)

        def hang_up(conn: Connection, chunk: Chunk) -> None:
            if chunk.number == 0:
                os.close(master)
            if chunk.number == 1:
                raise KeyError("mine")

        with Router(ground.dsn) as router:
            job = BatchJob(router, "j", range(4), chunk_size=2)
            with pytest.raises(KeyError, match="mine"):
                job.run(hang_up, progress=True)
            assert (job.run(Failing(-1, ValueError()), progress=True)).finished


def test_in_the_end_a_copy_tells_of_all_rows(ground: Ground) -> None:
    told: list[int] = []
    with Router(ground.dsn) as router:
        other = BatchJob(router, "j", range(40), chunk_size=10)

        def with_a_copy(conn: Connection, chunk: Chunk) -> None:
            if chunk.number == 3:
                call(finish_elsewhere)

        def finish_elsewhere() -> None:
            ground.execute("UPDATE pgroute.batch_chunk SET done_at = now() WHERE chunk IN (1, 2)")

        other.run(with_a_copy, progress=lambda now: told.append(now.rows))
    assert told[-1] == 40
