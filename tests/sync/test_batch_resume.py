# Generated from tests/aio/test_batch_resume.py by .ci/unasync.py: edit that file, not this one.
"""Batch jobs that were interrupted, run in copies, reset, or given another source: each chunk is applied once."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
import tenacity

from pgroute import Router, PoolOptions, RetryPolicy
from pgroute.batch import BatchJob, BatchError, BatchProgress, Chunk, Keyset
from pgroute.testing import LocalCluster
from tests.batching import NOTE, Ground, ground_of, noted, start_process
from tests.support import Background, call, eventually, within

pytestmark = [pytest.mark.cluster, pytest.mark.long]

Connection = psycopg.Connection[Any]

BRIEF = RetryPolicy(stop=tenacity.stop_after_delay(0.5))


@pytest.fixture
def ground(shared: LocalCluster) -> Iterator[Ground]:
    with ground_of(shared) as ground:
        yield ground


class Body:
    """A body that notes the items of its chunks; it fails in chunks with the numbers in `fails`.

    Attributes:
        ran: the numbers of the chunks that it was called for.
    """

    def __init__(self, *fails: int, error: Callable[[], BaseException] = ZeroDivisionError) -> None:
        self.ran: list[int] = []
        self._fails = fails
        self._error = error

    def __call__(self, conn: Connection, chunk: Chunk) -> None:
        self.ran.append(chunk.number)
        conn.execute(NOTE, noted(chunk))
        if chunk.number in self._fails:
            raise self._error()


def nothing(conn: Connection, chunk: Chunk) -> None:
    """Do nothing."""


def source_of(kind: str) -> Any:
    """Return 1..1000 as a source."""
    match kind:
        case "list":
            return list(range(1, 1001))
        case "function":
            return lambda: iter(range(1, 1001))
    return Keyset("SELECT id FROM item", "id")


# Going on.


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("kind", ["list", "function", "keyset"])
def test_a_job_that_failed_goes_on_where_it_was(ground: Ground, kind: str, workers: int) -> None:
    ground.items(1000)
    with Router(ground.dsn) as router:
        job = BatchJob(router, "j", source_of(kind), chunk_size=10, workers=workers)
        for failing in (0, 37, 99):
            with pytest.raises(ZeroDivisionError) as caught:
                job.run(Body(failing))
            note = f"pgroute: in chunk {failing} of the job 'j'"
            assert note in caught.value.__notes__
            assert ground.value("SELECT count(*) FROM seen WHERE chunk = %s", [failing]) == 0
        done = ground.value("SELECT count(DISTINCT chunk) FROM seen")
        assert done >= 99 - 3
        body = Body()
        report = job.run(body)
    assert (report.rows, report.chunks, report.skipped, report.finished) == (1000, 100, done, True)
    assert len(body.ran) == 100 - done
    assert ground.seen() == [*range(1, 1001)]
    assert ground.rows()["batch_chunk"] == 0


def test_the_first_failure_lets_the_others_end_their_chunk_and_begin_none(ground: Ground) -> None:
    together = threading.Barrier(3)
    failed = threading.Event()
    ran: list[int] = []

    def meet(conn: Connection, chunk: Chunk) -> None:
        ran.append(chunk.number)
        call(together.wait, 10)
        if chunk.number == 1:
            failed.set()
            raise KeyError("the first")
        eventually(failed.is_set)
        conn.execute("SELECT pg_sleep(0.3)")
        conn.execute("INSERT INTO seen VALUES (%s)", (chunk.number,))

    with Router(ground.dsn) as router:
        with pytest.raises(KeyError, match="the first"):
            BatchJob(router, "j", range(100), chunk_size=1, workers=3).run(meet)
    assert sorted(ran) == [0, 1, 2]
    assert ground.seen() == [0, 2]


@pytest.mark.parametrize("workers", [1, 4])
def test_a_source_that_fails_ends_the_run_and_not_the_items(ground: Ground, workers: int) -> None:
    def broken() -> Any:
        yield from range(640)  # where a block is planned: the other workers wait for the same iterator then
        raise OSError("the file is gone")

    with Router(ground.dsn) as router:
        with pytest.raises(OSError, match="the file is gone"):
            BatchJob(router, "j", broken(), chunk_size=10, workers=workers).run(Body())
        report = BatchJob(router, "j", range(1000), chunk_size=10, workers=workers).run(Body())
    assert (report.rows, report.chunks) == (1000, 100)
    assert ground.seen() == [*range(1000)]


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.long), 3])
def test_a_killed_process_has_applied_whole_chunks(ground: Ground, workers: int) -> None:
    arguments = (ground.dsn, "j", 6000, 20)
    for killed_after in (20, 60):
        process = call(start_process, *arguments, workers=workers, killed_after=killed_after)
        _, err = call(process.communicate, timeout=60)
        assert process.returncode == -signal.SIGKILL, err
    assert 0 < len(ground.seen()) < 6000
    process = call(start_process, *arguments, workers=workers)
    out, err = call(process.communicate, timeout=60)
    assert process.returncode == 0, err
    assert int(out) >= 60, "chunks done by the others"
    assert ground.seen() == [*range(6000)]
    assert ground.rows() == {"batch_job": 1, "batch_chunk": 0, "batch_reject": 0}


def test_copies_at_once_share_the_work(ground: Ground) -> None:
    processes = [start_process(ground.dsn, "j", 2000, 10, workers=2) for _ in range(3)]
    try:
        results = [call(process.communicate, timeout=60) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0, 0], results
    skipped = [int(out) for out, _ in results]
    assert sum(200 - count for count in skipped) == 200, "each chunk is one copy's work"
    assert ground.seen() == [*range(2000)]


def test_copies_of_a_keyset_job_begin_at_once(ground: Ground) -> None:
    ground.items(500)
    with Router(ground.dsn) as router, Background() as background:
        bodies = [Body() for _ in range(4)]
        jobs = [BatchJob(router, "j", source_of("keyset"), chunk_size=5) for _ in bodies]
        reports = [
            handle.result()
            for handle in [background.start(job.run, body) for job, body in zip(jobs, bodies, strict=True)]
        ]
    assert ground.seen() == [*range(1, 501)]
    assert sum(100 - report.skipped for report in reports) == 100
    assert {(report.rows, report.chunks, report.finished) for report in reports} == {(500, 100, True)}


def test_a_chunk_that_another_session_holds_for_too_long_is_named(ground: Ground) -> None:
    with Router(ground.dsn) as router:
        with pytest.raises(ZeroDivisionError):
            BatchJob(router, "j", range(9), chunk_size=3).run(Body(1))
        with router.writer() as conn:
            conn.execute("UPDATE pgroute.batch_chunk SET done_at = now() WHERE chunk = 1")
            body = Body()
            begun = time.monotonic()
            with pytest.raises(BatchError, match=r"another session holds chunk 1 of the job 'j'.* 0.5 s"):
                BatchJob(router, "j", range(9), chunk_size=3, retry=BRIEF).run(body)
            assert time.monotonic() - begun < within(5)
            conn.rollback()
        assert body.ran == []
        BatchJob(router, "j", range(9), chunk_size=3).run(body)
    assert ground.seen() == [*range(9)]


def test_a_job_whose_row_is_held_for_too_long_is_named(ground: Ground) -> None:
    with Router(ground.dsn) as router:
        with pytest.raises(ZeroDivisionError):
            BatchJob(router, "j", range(9), chunk_size=3).run(Body(1))
        with router.writer() as conn:
            conn.execute("SELECT FROM pgroute.batch_job FOR UPDATE")
            with pytest.raises(BatchError, match="another session holds the row of the job 'j'"):
                BatchJob(router, "j", range(9), chunk_size=3, retry=BRIEF).run(nothing)


@pytest.mark.parametrize(
    "held",
    [
        "UPDATE pgroute.batch_chunk SET done_at = now() WHERE chunk = 1",
        "SELECT FROM pgroute.batch_job FOR UPDATE",
    ],
)
def test_a_wait_that_the_roles_statement_timeout_ends_is_named(ground: Ground, held: str) -> None:
    brief = PoolOptions(settings={"statement_timeout": "1s"})
    with Router(ground.dsn) as router, Router(ground.dsn, writer=brief) as other:
        with pytest.raises(ZeroDivisionError):
            BatchJob(router, "j", range(9), chunk_size=3).run(Body(1))
        with router.writer() as conn:
            conn.execute(held.encode())
            with pytest.raises(
                BatchError, match=r"on the tables of the job 'j' .*statement timeout.*another copy"
            ):
                BatchJob(other, "j", range(9), chunk_size=3, on_error="reject").run(nothing)
            conn.rollback()
        assert (BatchJob(router, "j", range(9), chunk_size=3).run(nothing)).rejected == 0


def test_the_bound_on_the_claim_is_none_on_the_body(ground: Ground) -> None:
    found: list[Any] = []

    def ask(conn: Connection, chunk: Chunk) -> None:
        found.append((conn.execute("SHOW lock_timeout")).fetchone())

    with Router(ground.dsn, writer=PoolOptions(settings={"lock_timeout": "77s"})) as router:
        BatchJob(router, "j", range(9), chunk_size=3).run(ask)
    assert found == 3 * [("77s",)]


def test_the_rows_of_done_chunks_are_deleted_on_the_way(ground: Ground) -> None:
    most = 0

    def count(conn: Connection, chunk: Chunk) -> None:
        nonlocal most
        row = (conn.execute("SELECT count(*) FROM pgroute.batch_chunk")).fetchone()
        most = max(most, row[0] if row else 0)

    with Router(ground.dsn) as router:
        BatchJob(router, "j", range(400), chunk_size=1).run(count)
    assert most < 300


def test_rows_of_done_chunks_that_cannot_be_deleted_on_the_way_end_no_run(
    ground: Ground, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("pgroute.batch.state.COMPACT_CHUNKS", 2)
    told = "job 'j': the rows of done chunks were not deleted: another session holds the row of the job 'j'"

    with ground.connect() as other:

        def hold(conn: Connection, chunk: Chunk) -> None:
            conn.execute(NOTE, noted(chunk))
            if chunk.number == 1:
                other.execute("BEGIN; SELECT FROM pgroute.batch_chunk WHERE chunk = 0 FOR UPDATE")
            if chunk.number == 2:
                assert told in caplog.text
                other.execute("ROLLBACK")

        with Router(ground.dsn) as router:
            router.wait()
            report = BatchJob(router, "j", range(9), chunk_size=3, retry=BRIEF).run(hold)
    assert report.finished
    assert ground.seen() == [*range(9)]


@pytest.mark.parametrize("kind", ["list", "keyset"])
def test_done_chunks_are_passed_over_without_a_transaction(ground: Ground, kind: str) -> None:
    ground.items(1000)
    with Router(ground.dsn) as router:
        job = BatchJob(router, "j", source_of(kind), chunk_size=20)
        with pytest.raises(ZeroDivisionError):
            job.run(Body(45))
        before = router.get_stats()["writer"]["requests_num"]
        report = job.run(Body())
        sessions = router.get_stats()["writer"]["requests_num"] - before
    assert report.skipped == 45
    assert sessions <= 5 + 4, "for what was open, and for the job's own rows"


# Interrupts.




# Poison.


def test_poison_chunks_are_set_aside_and_the_others_applied(ground: Ground) -> None:
    ground.execute("CREATE TABLE once_only (n int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    ground.execute("INSERT INTO once_only VALUES (7)")

    def poisoned(conn: Connection, chunk: Chunk) -> None:
        for item in chunk.rows:
            conn.execute("INSERT INTO seen VALUES (%s)", (item,))
        match chunk.number:
            case 2:
                raise KeyError("\0 a \udc80 name")
            case 4:
                conn.execute("SELECT 1/0")
            case 6:
                conn.execute("INSERT INTO once_only VALUES (7)")
            case 8:
                try:
                    conn.execute("SELECT 1/0")
                except psycopg.Error:
                    conn.execute("SELECT 1")

    with Router(ground.dsn) as router:
        job = BatchJob(router, "j", range(98), chunk_size=10, on_error="reject", workers=2)
        report = job.run(poisoned)
        again = job.run(nothing)
    assert (report.rows, report.chunks, report.rejected, report.skipped) == (58, 6, 4, 0)
    assert report.finished
    assert (again.rows, again.chunks, again.rejected, again.skipped) == (58, 6, 4, 10)
    assert ground.seen() == [n for n in range(98) if n // 10 not in (2, 4, 6, 8)]
    rejects = ground.execute(
        "SELECT chunk, row_count, sqlstate, error FROM pgroute.batch_reject WHERE job = 'j' ORDER BY chunk"
    )
    assert [row[:3] for row in rejects] == [
        (2, 10, None), (4, 10, "22012"), (6, 10, "23505"), (8, 10, "25P02"),
    ]  # fmt: skip
    assert rejects[0][3] == r"KeyError: '\x00 a \udc80 name'"
    assert "division by zero" in rejects[1][3]


def test_rows_of_a_query_that_fail_are_set_aside_with_their_bounds(ground: Ground) -> None:
    ground.items(50)
    with Router(ground.dsn) as router:
        source = Keyset("SELECT id, 1 / (id - 25) AS broken FROM item", "id")
        job = BatchJob(router, "j", source, chunk_size=10, on_error="reject")
        report = job.run(Body(0))
    assert (report.chunks, report.rejected) == (3, 2)
    assert ground.seen() == [*range(11, 21), *range(31, 51)]
    rejects = ground.execute("SELECT chunk, after, upto, row_count FROM pgroute.batch_reject ORDER BY chunk")
    assert rejects == [(0, None, ["10"], 10), (2, ["20"], ["30"], 10)]


STOPPING = {
    "lost": "SELECT pg_terminate_backend(pg_backend_pid())",
    "40001": "DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '40001'; END $$",
    "40P01": "DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '40P01'; END $$",
    "25006": "DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '25006'; END $$",
    "53100": "DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '53100'; END $$",
}


@pytest.mark.parametrize("why", STOPPING)
def test_what_is_no_fault_of_the_chunk_stops_the_job(ground: Ground, why: str) -> None:
    def fail(conn: Connection, chunk: Chunk) -> None:
        conn.execute(STOPPING[why].encode())

    once = RetryPolicy(stop=tenacity.stop_after_attempt(1))
    with Router(ground.dsn) as router:
        job = BatchJob(router, "j", range(30), chunk_size=10, on_error="reject", retry=once)
        with pytest.raises(psycopg.Error):
            job.run(fail)
        assert ground.rows()["batch_reject"] == 0
        assert (job.run(Body())).rows == 30


@pytest.mark.parametrize("end", ["COMMIT", "close"])
def test_a_body_that_ends_its_transaction_or_connection_stops_the_job(ground: Ground, end: str) -> None:
    def fail(conn: Connection, chunk: Chunk) -> None:
        if end == "close":
            conn.close()
        else:
            conn.execute("COMMIT")
        raise KeyError(end)

    with Router(ground.dsn) as router:
        with pytest.raises(KeyError, match=end):
            BatchJob(router, "j", range(30), chunk_size=10, on_error="reject").run(fail)
    assert ground.rows()["batch_reject"] == 0


def test_a_router_that_is_closed_stops_the_job(ground: Ground) -> None:
    with Router(ground.dsn) as router:

        def close(conn: Connection, chunk: Chunk) -> None:
            router.close(timeout=0.1)

        with pytest.raises(psycopg.OperationalError):
            BatchJob(router, "j", range(30), chunk_size=10, on_error="reject").run(close)
    assert ground.rows()["batch_reject"] == 0


def test_a_serialization_failure_is_run_again_and_counted(ground: Ground) -> None:
    failed: list[int] = []

    def conflict(conn: Connection, chunk: Chunk) -> None:
        for item in chunk.rows:
            conn.execute("INSERT INTO seen VALUES (%s)", (item,))
        if chunk.number not in failed:
            failed.append(chunk.number)
            conn.execute(STOPPING["40001"].encode())

    with Router(ground.dsn) as router:
        report = BatchJob(router, "j", range(30), chunk_size=10, on_error="reject").run(conflict)
    assert (report.retries, report.rejected) == (3, 0)
    assert ground.seen() == [*range(30)]


# Resets, and sources that are not what they were.


@pytest.mark.parametrize("kind", ["list", "keyset"])
def test_a_job_that_is_reset_while_it_runs_says_so(ground: Ground, kind: str) -> None:
    ground.items(1000)
    waits = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'DELETE%%'"
    resets: list[Any] = []

    def note(conn: Connection, chunk: Chunk) -> None:
        if chunk.number == 3:  # the reset waits for this transaction
            resets.append(background.start(call, ground.execute, "DELETE FROM pgroute.batch_job"))
            eventually(lambda: ground.execute(waits))
        conn.execute("INSERT INTO seen VALUES (%s)", (chunk.number,))

    with Router(ground.dsn) as router, Background() as background:
        with pytest.raises(BatchError, match="the job 'j' no longer exists in the database"):
            BatchJob(router, "j", source_of(kind), chunk_size=2).run(note)
        resets[0].result()
    assert ground.rows() == {"batch_job": 0, "batch_chunk": 0, "batch_reject": 0}


@pytest.mark.parametrize("kind", ["list", "keyset"])
def test_a_job_that_is_reset_and_begun_anew_while_it_runs_says_so(ground: Ground, kind: str) -> None:
    ground.items(1000)

    def renew(progress: BatchProgress) -> None:
        if progress.chunks == 3:
            ground.execute(
                "UPDATE pgroute.batch_job SET started_at = clock_timestamp();"
                "UPDATE pgroute.batch_chunk SET done_at = NULL"
            )

    body = Body()
    with Router(ground.dsn) as router:
        with pytest.raises(BatchError, match="the job 'j' no longer exists in the database"):
            BatchJob(router, "j", source_of(kind), chunk_size=2).run(body, renew)
    assert body.ran == [0, 1, 2]


def test_a_copy_of_a_job_that_was_reset_takes_no_chunk_of_the_next_one(ground: Ground) -> None:
    def replace(progress: BatchProgress) -> None:
        if progress.chunks == 3:
            ground.execute("DELETE FROM pgroute.batch_job; DELETE FROM seen")
            ground.execute(
                "INSERT INTO pgroute.batch_job (job, source, chunk_size, planned) VALUES ('j', 'items', 10, 64)"
            )
            ground.execute(
                "INSERT INTO pgroute.batch_chunk (job, chunk, row_count) SELECT 'j', generate_series(0, 63), 10"
            )

    with Router(ground.dsn) as router:
        with pytest.raises(BatchError, match="the job 'j' no longer exists in the database"):
            BatchJob(router, "j", range(100), chunk_size=10).run(Body(), replace)
        report = BatchJob(router, "j", range(1000, 1100), chunk_size=10).run(Body())
    assert (report.rows, report.skipped) == (100, 0)
    assert ground.seen() == [*range(1000, 1100)]


@pytest.mark.parametrize(
    ("count", "problem"),
    [
        (24, "it gives fewer than the 95 items"),
        (94, "it gives fewer than the 95 items"),
        (96, "it gives more than the 95 items"),
        (101, "it gives more than the 95 items"),
        (0, "it ends after 0 items, but 30 are done"),
    ],
)
def test_items_of_another_number_are_refused(ground: Ground, count: int, problem: str) -> None:
    failing = Body(*range(3, 10))
    with Router(ground.dsn) as router:
        job = BatchJob(router, "j", range(95), chunk_size=10, workers=1, on_error="stop")
        with pytest.raises(ZeroDivisionError):
            job.run(failing)
        ground.execute(
            "UPDATE pgroute.batch_job SET complete = true, planned = 10, rows_total = 95;"
            "DELETE FROM pgroute.batch_chunk WHERE chunk >= 10"
        )
        if count == 0:
            ground.execute(
                "UPDATE pgroute.batch_job SET watermark = 3; DELETE FROM pgroute.batch_chunk WHERE chunk < 3"
            )
        with pytest.raises(BatchError, match=f"has changed since an earlier run: {problem}"):
            BatchJob(router, "j", range(count), chunk_size=10).run(Body())
        assert set(ground.seen()) <= set(range(90))
        with pytest.raises(ZeroDivisionError):
            job.run(Body(9))


def test_items_that_end_before_chunks_that_are_done_are_refused(ground: Ground) -> None:
    with Router(ground.dsn) as router:
        with pytest.raises(ZeroDivisionError):
            BatchJob(router, "j", range(95), chunk_size=10).run(Body(3))
        with pytest.raises(BatchError, match="it ends after 15 items, but more are done"):
            BatchJob(router, "j", range(15), chunk_size=10).run(Body())
        BatchJob(router, "j", range(95), chunk_size=10).run(Body())
    assert ground.seen() == [*range(95)]


# What an asynchronous failover undoes, done by hand.


@pytest.fixture
def uncompacted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows of chunks that are done stay where a test undoes them, however slow the machine is."""
    monkeypatch.setattr("pgroute.batch.state.COMPACT_SECONDS", 3600.0)


@pytest.mark.parametrize("kind", ["list", "function", "keyset"])
@pytest.mark.usefixtures("uncompacted")
def test_a_chunk_that_is_undone_is_done_again(ground: Ground, kind: str) -> None:
    ground.items(1000)
    undone = threading.Event()

    def undo(conn: Connection, chunk: Chunk) -> None:
        if chunk.number == 5 and not undone.is_set():
            undone.set()
            call(
                ground.execute,
                "UPDATE pgroute.batch_chunk SET done_at = NULL WHERE chunk = 1; DELETE FROM seen WHERE chunk = 1",
            )
        Body()(conn, chunk)

    with Router(ground.dsn) as router:
        report = BatchJob(router, "j", source_of(kind), chunk_size=100).run(undo)
    assert (report.rows, report.finished) == (1000, True)
    assert ground.seen() == [*range(1, 1001)]


@pytest.mark.usefixtures("uncompacted")
def test_an_undone_chunk_of_items_that_cannot_be_read_again_is_told(ground: Ground) -> None:
    def undo(conn: Connection, chunk: Chunk) -> None:
        if chunk.number == 5:
            call(
                ground.execute,
                "UPDATE pgroute.batch_chunk SET done_at = NULL WHERE chunk = 1; DELETE FROM seen WHERE chunk = 1",
            )
        Body()(conn, chunk)

    with Router(ground.dsn) as router:
        with pytest.raises(BatchError, match="run the job again with a new iterator"):
            BatchJob(router, "j", iter(range(1000)), chunk_size=100).run(undo)
        report = BatchJob(router, "j", iter(range(1000)), chunk_size=100).run(Body())
    assert (report.rows, report.skipped) == (1000, 9)
    assert ground.seen() == [*range(1000)]


@pytest.mark.usefixtures("uncompacted")
def test_a_plan_of_items_that_is_undone_is_made_again(ground: Ground) -> None:
    undone: list[int] = []

    def items() -> Any:
        for number in range(1000):
            if number == 500 and not undone:
                undone.append(number)
                ground.execute(
                    "UPDATE pgroute.batch_job SET planned = 3; DELETE FROM pgroute.batch_chunk WHERE chunk >= 3;"
                    "DELETE FROM seen WHERE chunk >= 3"
                )
            yield number

    with Router(ground.dsn) as router:
        report = BatchJob(router, "j", items, chunk_size=100).run(Body())
    assert undone
    assert (report.rows, report.chunks, report.finished) == (1000, 10, True)
    assert ground.seen() == [*range(1000)]


def test_the_process_of_these_tests_fails_loudly() -> None:
    """So that a process which was killed for another reason is no pass."""
    process = start_process("host=127.0.0.1 port=1 connect_timeout=1", "", 1, 1)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "invalid job ''" in err
    assert isinstance(process, subprocess.Popen)
