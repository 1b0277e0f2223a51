"""Batch jobs through crashes, promotions and lost acknowledgements: every row once."""

from __future__ import annotations

import threading
from typing import Any

import psycopg
import pytest

from pgroute import AsyncRouter
from pgroute.batch import AsyncBatchJob, BatchProgress, Chunk, Keyset
from pgroute.testing import FaultProxy, LocalCluster
from tests.aio.conftest import Proxied
from tests.batching import NOTE, Ground, ground_of, noted
from tests.support import AsyncBackground, async_call, async_eventually

pytestmark = pytest.mark.cluster  # async-only
# sync-only: pytestmark = [pytest.mark.cluster, pytest.mark.long]

AsyncConnection = psycopg.AsyncConnection[Any]

WAITING = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND datname = %s"


async def note(conn: AsyncConnection, chunk: Chunk) -> None:
    """Note the items of a chunk."""
    await conn.execute(NOTE, noted(chunk))


def through(proxied: Proxied, ground: Ground) -> str:
    """Return a DSN to the ground's database that leads through the proxies."""
    return FaultProxy.dsn(proxied.proxies, dbname=ground.name)


@pytest.mark.parametrize("reached", [True, False], ids=["committed", "not-committed"])
@pytest.mark.parametrize("kind", ["items", "keyset"])
async def test_a_lost_acknowledgement_of_a_chunk_is_decided_by_the_next_attempt(
    proxied: Proxied, kind: str, reached: bool
) -> None:
    with ground_of(proxied.cluster) as ground:
        ground.items(50)
        source: Any = range(1, 51) if kind == "items" else Keyset("SELECT id FROM item", "id")
        proxy = proxied.proxies[0]
        ran: list[int] = []
        triggers: list[Any] = []

        async def body(conn: AsyncConnection, chunk: Chunk) -> None:
            ran.append(chunk.number)
            await note(conn, chunk)
            if chunk.number in (2, 4) and ran.count(chunk.number) == 1:
                triggers.append(proxy.when(b"COMMIT", action="reset", after_forwarding=reached))

        async with AsyncRouter(through(proxied, ground)) as router:
            report = await AsyncBatchJob(router, "j", source, chunk_size=10).run(body)
        assert [trigger.hits for trigger in triggers] == [1, 1]
        assert ground.seen() == [*range(1, 51)]
        assert (report.rows, report.chunks, report.skipped, report.retries) == (50, 5, 0, 2)
        assert len(ran) == (5 if reached else 7)


@pytest.mark.parametrize("step", ["start", "plan", "finish"])
async def test_a_lost_acknowledgement_of_the_jobs_own_transactions(proxied: Proxied, step: str) -> None:
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
        async with AsyncRouter(through(proxied, ground)) as router, AsyncBackground() as background:
            job = background.start(AsyncBatchJob(router, "j", range(50), chunk_size=10).run, note)
            await async_call(armed.wait)
            await async_call(proxy.reset)
            report = await job.result()
        assert (report.rows, report.finished) == (50, True)
        assert ground.seen() == [*range(50)]


async def test_a_backend_that_ends_while_it_waits_for_the_standby_has_its_chunk_confirmed(
    pair: Proxied,
) -> None:
    primary, standby = pair.cluster.nodes
    told: list[BatchProgress] = []
    with ground_of(pair.cluster) as ground:

        async def freeze(conn: AsyncConnection, chunk: Chunk) -> None:
            await note(conn, chunk)
            if chunk.number == 1:
                await async_call(standby.freeze)

        async def waiting(pid: int = 0) -> int:
            found: int = (
                await async_eventually(
                    lambda: [row for row in primary.execute(WAITING, [ground.name]) if row[0] != pid]
                )
            )[0][0]
            return found

        async with AsyncRouter(ground.dsn) as router, AsyncBackground() as background:
            job = AsyncBatchJob(router, "j", range(30), chunk_size=10)
            running = background.start(job.run, freeze, told.append)
            await async_eventually(lambda: standby.frozen)  # the chunk before waits for a moment too
            pid = await waiting()
            assert primary.execute("SELECT pg_terminate_backend(%s)", [pid]) == [(True,)]
            await waiting(pid)
            assert [progress.chunks for progress in told] == [0, 1], "it is not taken for applied yet"
            await async_call(standby.thaw)
            report = await running.result()
        assert (report.rows, report.chunks, report.skipped, report.retries) == (30, 3, 0, 1)
        assert ground.seen() == [*range(30)]


async def test_a_finished_job_is_not_reported_before_the_standby_has_it(pair: Proxied) -> None:
    primary, standby = pair.cluster.nodes
    with ground_of(pair.cluster) as ground:
        async with AsyncRouter(ground.dsn) as router, AsyncBackground() as background:
            job = AsyncBatchJob(router, "j", range(30), chunk_size=10)
            await job.run(note)
            await async_call(standby.freeze)
            running = background.start(job.run, note)
            await async_eventually(lambda: primary.execute(WAITING, [ground.name]))
            assert not running.done()
            await async_call(standby.thaw)
            assert (await running.result()).rows == 30


@pytest.mark.parametrize(
    ("kind", "workers"),
    [
        pytest.param("items", 1, marks=pytest.mark.long),
        ("keyset", 4),
        pytest.param("items", 4, marks=pytest.mark.long),
        pytest.param("keyset", 1, marks=pytest.mark.long),
    ],
)
async def test_a_job_goes_on_through_a_crash_and_a_promotion(trio: Proxied, kind: str, workers: int) -> None:
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

        async def body(conn: AsyncConnection, chunk: Chunk) -> None:
            if chunk.number == 60:  # however quick the job is
                await async_eventually(crashed.is_set)
            await note(conn, chunk)

        async with AsyncRouter(through(trio, ground)) as router, AsyncBackground() as background:
            job = AsyncBatchJob(router, "j", source, chunk_size=10, workers=workers)
            running = background.start(job.run, body, tell)
            await async_eventually(reached.is_set, 20.0)
            await async_call(trio.cluster.primary.kill)
            crashed.set()
            await async_eventually(lambda: router.topology.primary is None)
            await async_call(trio.cluster.promote)
            report = await running.result(60)
        assert (report.rows, report.chunks, report.finished, report.skipped) == (count, count // 10, True, 0)
        # Not that a chunk was tried again: a single worker may have been between two.
        assert len(primaries - {None}) == 2
        assert ground.seen() == [*range(1, count + 1)]


async def test_a_job_goes_on_through_a_promotion_of_a_standby_that_lacked_something(
    cluster: LocalCluster,
) -> None:
    """Replication is asynchronous here: what is counted in the end is what the new primary has."""
    count = 2000
    with ground_of(cluster) as ground:
        reached, crashed = threading.Event(), threading.Event()

        def tell(progress: BatchProgress) -> None:
            if progress.chunks > 50:
                reached.set()

        async def body(conn: AsyncConnection, chunk: Chunk) -> None:
            if chunk.number == 120:  # however quick the job is
                await async_eventually(crashed.is_set)
            await note(conn, chunk)

        def crash() -> None:
            assert reached.wait(20), "the job did not come so far"
            cluster.primary.kill()
            crashed.set()
            cluster.promote(repoint=False)

        async with AsyncRouter(ground.dsn) as router, AsyncBackground() as background:
            job = AsyncBatchJob(router, "j", range(count), chunk_size=10, workers=2)
            running = background.start(job.run, body, tell)
            await async_call(crash)
            report = await running.result(60)
        assert (report.rows, report.finished) == (count, True)
        assert ground.seen() == [*range(count)]


async def test_a_job_waits_for_a_primary_that_restarts(mended: LocalCluster) -> None:
    with ground_of(mended) as ground:
        begun, stopped = threading.Event(), threading.Event()

        async def stop(conn: AsyncConnection, chunk: Chunk) -> None:
            await note(conn, chunk)
            if chunk.number == 3 and not begun.is_set():
                begun.set()
                await async_call(mended.primary.stop, "immediate")
                stopped.set()

        async with AsyncRouter(ground.dsn) as router, AsyncBackground() as background:
            running = background.start(AsyncBatchJob(router, "j", range(80), chunk_size=10).run, stop)
            await async_eventually(stopped.is_set)
            await async_eventually(lambda: router.topology.primary is None)
            await async_call(mended.nodes[0].start)
            report = await running.result()
        assert (report.rows, report.skipped) == (80, 0)
        assert ground.seen() == [*range(80)]
