"""Ctrl-C while a thread is in a session or waits for one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pgroute import PoolOptions, Router
from pgroute.testing import LocalCluster
from tests.support import eventually

pytestmark = pytest.mark.cluster

ONE = PoolOptions(max_size=1)


@pytest.fixture(autouse=True)
def interruptible():
    """SIGINT raises KeyboardInterrupt, also where the run began in the background, with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@contextmanager
def interrupted_when(condition: Callable[[], Any]) -> Iterator[None]:
    """Interrupt the block, which runs in the main thread, when the condition is true."""
    main = threading.main_thread().ident
    assert main is not None

    def interrupt() -> None:
        eventually(condition)
        signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            yield
    finally:
        thread.join()


def test_a_statement_interrupted_in_a_session_is_rolled_back(shared: LocalCluster, table: str) -> None:
    running = "SELECT 1 FROM pg_stat_activity WHERE state = 'active' AND query = 'SELECT pg_sleep(60)'"
    with Router(shared.dsn, writer=ONE) as router:
        router.wait()
        with (
            interrupted_when(lambda: shared.primary.execute(running)),
            router.writer() as conn,
        ):
            conn.execute(f"INSERT INTO {table} VALUES (1)")
            conn.execute("SELECT pg_sleep(60)")
        with router.writer(2.0) as conn:
            assert conn.execute(f"SELECT * FROM {table}").fetchall() == []


def test_who_is_interrupted_in_the_queue_takes_nothing_along(shared: LocalCluster) -> None:
    with Router(shared.dsn, writer=ONE) as router:
        conn = router.getconn("writer")
        with interrupted_when(lambda: router.get_stats()["writer"].get("requests_waiting")):
            router.getconn("writer")
        router.putconn(conn)
        for _ in range(3):
            with router.writer(2.0) as conn:
                conn.execute("SELECT 1")
        assert router.get_stats()["writer"]["pool_size"] == 1


def test_who_is_interrupted_waiting_for_a_host_leaves_the_router_usable() -> None:
    asked = threading.Event()
    with Router("host=127.0.0.1 port=1", acquire_timeout=20.0) as router, interrupted_when(asked.is_set):
        asked.set()
        router.getconn("writer")
