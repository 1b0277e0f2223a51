"""Ctrl-C while a batch job runs."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from pgroute import Router
from pgroute.batch import BatchJob, Chunk
from pgroute.testing import LocalCluster
from tests.batching import Ground, ground_of, note
from tests.support import eventually

pytestmark = pytest.mark.cluster

ASLEEP = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%%' AND state = 'active'"


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt, also where the run began in the background, with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def ground(shared: LocalCluster) -> Iterator[Ground]:
    with ground_of(shared) as ground:
        yield ground


@pytest.mark.parametrize("workers", [1, 3])
def test_an_interrupt_ends_the_run_and_every_thread_and_leaves_whole_chunks(
    ground: Ground, workers: int
) -> None:
    main = threading.main_thread().ident
    assert main is not None
    begun: list[int] = []

    def slow(conn: psycopg.Connection[Any], chunk: Chunk) -> None:
        begun.append(chunk.number)
        note(conn, chunk)
        if chunk.number >= 6:
            # The first of the threads, for whose end the run waits when the signal comes, ends last.
            last = threading.current_thread().name.endswith("-0")
            conn.execute(f"SELECT pg_sleep({2 if last else 1})")

    def interrupt() -> None:
        eventually(lambda: ground.value(ASLEEP) == workers)
        signal.pthread_kill(main, signal.SIGINT)

    with Router(ground.dsn) as router:
        router.wait()
        threads = set(threading.enumerate())
        job = BatchJob(router, "j", range(200), chunk_size=10, workers=workers)
        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            job.run(slow, progress=True)
        thread.join()
        left = {one.name for one in set(threading.enumerate()) - threads}
        assert not [name for name in left if name.startswith(("pgroute-batch", "pgroute-progress"))]
        assert len(begun) == 6 + workers, "no chunk was begun after it"
        chunks = ground.execute("SELECT chunk, count(*) FROM seen GROUP BY chunk ORDER BY chunk")
        assert chunks[:6] == [(number, 10) for number in range(6)]
        assert {count for _, count in chunks} == {10}
        job.run(note)
    assert ground.seen() == [*range(200)]
