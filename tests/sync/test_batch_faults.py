# Generated from tests/aio/test_batch_faults.py by .ci/unasync.py: edit that file, not this one.
"""Batch jobs through crashes, promotions and lost acknowledgements: every row once."""

from __future__ import annotations

import threading
from typing import Any

import psycopg
import pytest

from pgroute import Router
from pgroute.batch import BatchJob, BatchProgress, Chunk, Keyset
from pgroute.testing import FaultProxy, LocalCluster
from tests.sync.conftest import Proxied
from tests.batching import NOTE, Ground, ground_of, noted
from tests.support import Background, call, eventually

pytestmark = [pytest.mark.cluster, pytest.mark.long]

Connection = psycopg.Connection[Any]

WAITING = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND datname = %s"


def note(conn: Connection, chunk: Chunk) -> None:
    """Note the items of a chunk."""
    conn.execute(NOTE, noted(chunk))


def through(proxied: Proxied, ground: Ground) -> str:
    """Return a DSN to the ground's database that leads through the proxies."""
    return FaultProxy.dsn(proxied.proxies, dbname=ground.name)


@pytest.mark.parametrize("reached", [True, False], ids=["committed", "not-committed"])
@pytest.mark.parametrize("kind", ["items", "keyset"])
def test_a_lost_acknowledgement_of_a_chunk_is_decided_by_the_next_attempt(
    proxied: Proxied, kind: str, reached: bool
) -> None:
    with ground_of(proxied.cluster) as ground:
        ground.items(50)
        source: Any = range(1, 51) if kind == "items" else Keyset("SELECT id FROM item", "id")
        proxy = proxied.proxies[0]
        ran: list[int] = []
        triggers: list[Any] = []

        def body(conn: Connection, chunk: Chunk) -> None:
            ran.append(chunk.number)
            note(conn, chunk)
            if chunk.number in (2, 4) and ran.count(chunk.number) == 1:
                triggers.append(proxy.when(b"COMMIT", action="reset", after_forwarding=reached))

        with Router(through(proxied, ground)) as router:
            report = BatchJob(router, "j", source, chunk_size=10).run(body)
        assert [trigger.hits for trigger in triggers] == [1, 1]
        assert ground.seen() == [*range(1, 51)]
        assert (report.rows, report.chunks, report.skipped, report.retries) == (50, 5, 0, 2)
        assert len(ran) == (5 if reached else 7)


@pytest.mark.parametrize("step", ["start", "plan", "finish"])
def test_a_lost_acknowledgement_of_the_jobs_own_transactions(proxied: Proxied, step: str) -> None:
    pattern = {
        "start": b"INSERT INTO pgroute.batch_job",
        "plan": b"WITH planned AS",
        "finish": b"finished_at = coalesce",
    }
    with ground_of(proxied.cluster) as ground:
        proxy = proxied.proxies[0]
        armed = proxy.when(
            pattern[step], action="discard"
        )  # the server does it, and what follows it never comes there
        with Router(through(proxied, ground)) as router, Background() as background:
            job = background.start(BatchJob(router, "j", range(50), chunk_size=10).run, note)
            call(armed.wait)
            call(proxy.reset)
            report = job.result()
        assert (report.rows, report.finished) == (50, True)
        assert ground.seen() == [*range(50)]


def test_a_backend_that_ends_while_it_waits_for_the_standby_has_its_chunk_confirmed(
    pair: Proxied,
) -> None:
    primary, standby = pair.cluster.nodes
    told: list[BatchProgress] = []
    with ground_of(pair.cluster) as ground:

        def freeze(conn: Connection, chunk: Chunk) -> None:
            note(conn, chunk)
            if chunk.number == 1:
                call(standby.freeze)

        def waiting(pid: int = 0) -> int:
            found: int = (
                eventually(
                    lambda: [row for row in primary.execute(WAITING, [ground.name]) if row[0] != pid]
                )
            )[0][0]
            return found

        with Router(ground.dsn) as router, Background() as background:
            job = BatchJob(router, "j", range(30), chunk_size=10)
            running = background.start(job.run, freeze, told.append)
            eventually(lambda: standby.frozen)  # the chunk before waits for a moment too
            pid = waiting()
            assert primary.execute("SELECT pg_terminate_backend(%s)", [pid]) == [(True,)]
            waiting(pid)
            assert [progress.chunks for progress in told] == [0, 1], "it is not taken for applied yet"
            call(standby.thaw)
            report = running.result()
        assert (report.rows, report.chunks, report.skipped, report.retries) == (30, 3, 0, 1)
        assert ground.seen() == [*range(30)]


def test_a_finished_job_is_not_reported_before_the_standby_has_it(pair: Proxied) -> None:
    primary, standby = pair.cluster.nodes
    with ground_of(pair.cluster) as ground:
        with Router(ground.dsn) as router, Background() as background:
            job = BatchJob(router, "j", range(30), chunk_size=10)
            job.run(note)
            call(standby.freeze)
            running = background.start(job.run, note)
            eventually(lambda: primary.execute(WAITING, [ground.name]))
            assert not running.done()
            call(standby.thaw)
            assert (running.result()).rows == 30


@pytest.mark.parametrize(
    ("kind", "workers"),
    [
        pytest.param("items", 1, marks=pytest.mark.long),
        ("keyset", 4),
        pytest.param("items", 4, marks=pytest.mark.long),
        pytest.param("keyset", 1, marks=pytest.mark.long),
    ],
)
def test_a_job_goes_on_through_a_crash_and_a_promotion(trio: Proxied, kind: str, workers: int) -> None:
    count = 2000
    reached, crashed = threading.Event(), threading.Event()
    primaries: set[str | None] = set()
    with ground_of(trio.cluster) as ground:
        ground.items(count)
        source: Any = range(1, count + 1) if kind == "items" else Keyset("SELECT id FROM item", "id")

        def tell(progress: BatchProgress) -> None:
            primaries.add(progress.primary)
            if progress.chunks > 20:
                reached.set()

        def body(conn: Connection, chunk: Chunk) -> None:
            if chunk.number == 60:  # however quick the job is
                eventually(crashed.is_set)
            note(conn, chunk)

        with Router(through(trio, ground)) as router, Background() as background:
            job = BatchJob(router, "j", source, chunk_size=10, workers=workers)
            running = background.start(job.run, body, tell)
            eventually(reached.is_set, 20.0)
            call(trio.cluster.primary.kill)
            crashed.set()
            eventually(lambda: router.topology.primary is None)
            call(trio.cluster.promote)
            report = running.result(60)
        assert (report.rows, report.chunks, report.finished, report.skipped) == (count, count // 10, True, 0)
        # Not that a chunk was tried again: a single worker may have been between two.
        assert len(primaries - {None}) == 2
        assert ground.seen() == [*range(1, count + 1)]


def test_a_job_goes_on_through_a_promotion_of_a_standby_that_lacked_something(
    cluster: LocalCluster,
) -> None:
    """Replication is asynchronous here: what is counted in the end is what the new primary has."""
    count = 2000
    with ground_of(cluster) as ground:
        reached, crashed = threading.Event(), threading.Event()

        def tell(progress: BatchProgress) -> None:
            if progress.chunks > 50:
                reached.set()

        def body(conn: Connection, chunk: Chunk) -> None:
            if chunk.number == 120:  # however quick the job is
                eventually(crashed.is_set)
            note(conn, chunk)

        def crash() -> None:
            assert reached.wait(20), "the job did not come so far"
            cluster.primary.kill()
            crashed.set()
            cluster.promote(repoint=False)

        with Router(ground.dsn) as router, Background() as background:
            job = BatchJob(router, "j", range(count), chunk_size=10, workers=2)
            running = background.start(job.run, body, tell)
            call(crash)
            report = running.result(60)
        assert (report.rows, report.finished) == (count, True)
        assert ground.seen() == [*range(count)]


def test_a_job_waits_for_a_primary_that_restarts(mended: LocalCluster) -> None:
    with ground_of(mended) as ground:
        begun, stopped = threading.Event(), threading.Event()

        def stop(conn: Connection, chunk: Chunk) -> None:
            note(conn, chunk)
            if chunk.number == 3 and not begun.is_set():
                begun.set()
                call(mended.primary.stop, "immediate")
                stopped.set()

        with Router(ground.dsn) as router, Background() as background:
            running = background.start(BatchJob(router, "j", range(80), chunk_size=10).run, stop)
            eventually(stopped.is_set)
            eventually(lambda: router.topology.primary is None)
            call(mended.nodes[0].start)
            report = running.result()
        assert (report.rows, report.skipped) == (80, 0)
        assert ground.seen() == [*range(80)]
