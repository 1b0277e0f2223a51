"""Ctrl-C while a thread is in a session or waits for one."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from pgroute import PoolOptions, Router
from pgroute.testing import LocalCluster
from tests.support import eventually, within

pytestmark = pytest.mark.cluster

ONE = PoolOptions(max_size=1)


@pytest.fixture(autouse=True)
def interruptible():
    """SIGINT raises KeyboardInterrupt, also where the run began in the background, with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@contextmanager
def signalled_when(condition: Callable[[], Any], number: signal.Signals = signal.SIGINT) -> Iterator[None]:
    """Interrupt the block, which runs in the main thread, when the condition is true."""
    main = threading.main_thread().ident
    assert main is not None

    def interrupt() -> None:
        eventually(condition)
        signal.pthread_kill(main, number)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        yield
    finally:
        thread.join()


@contextmanager
def interrupted_when(condition: Callable[[], Any]) -> Iterator[None]:
    """As `signalled_when`, and take the KeyboardInterrupt."""
    with signalled_when(condition), pytest.raises(KeyboardInterrupt):
        yield


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


class SoftTimeLimitExceeded(Exception):
    """As Celery's, raised by a signal handler."""


@pytest.fixture
def time_limited() -> Iterator[None]:
    def exceeded(*_: object) -> None:
        raise SoftTimeLimitExceeded

    before = signal.signal(signal.SIGALRM, exceeded)
    yield
    signal.signal(signal.SIGALRM, before)


def in_writer(router: Router, statement: str) -> None:
    with router.writer() as conn:
        conn.execute(statement)


def in_run(router: Router, statement: str) -> None:
    router.run(lambda conn: conn.execute(statement).rowcount)


def in_execute(router: Router, statement: str) -> None:
    router.execute(statement)


def in_copy(router: Router, statement: str) -> None:
    with router.writer() as conn, conn.cursor().copy(f"COPY ({statement}) TO STDOUT") as copy:
        copy.read()


@pytest.mark.parametrize("session_of", [in_writer, in_run, in_execute, in_copy])
@pytest.mark.usefixtures("time_limited", "patient")
def test_an_exception_of_a_signal_handler_leaves_no_statement_at_the_server(
    shared: LocalCluster, session_of: Callable[[Router, str], None]
) -> None:
    running = "SELECT pid FROM pg_stat_activity WHERE query LIKE '%of the job%' AND wait_event = 'PgSleep'"
    pids: list[Any] = []
    with Router(shared.dsn, writer=ONE) as router:
        router.wait()

        def slept() -> bool:
            pids[:] = shared.primary.execute(running)
            return bool(pids)

        with signalled_when(slept, signal.SIGALRM), pytest.raises(SoftTimeLimitExceeded):
            session_of(router, "SELECT pg_sleep(60) /* of the job */")
        eventually(lambda: not shared.primary.execute(running))
        with router.writer(5.0) as conn:
            assert [(conn.info.backend_pid,)] == pids or session_of is in_copy


def test_a_statement_interrupted_on_a_frozen_host_is_not_waited_for(
    pgroute_cluster_factory: Callable[..., LocalCluster],
) -> None:
    primary = pgroute_cluster_factory(standbys=0).primary
    with Router(primary.conninfo, writer=ONE) as router:
        router.wait()
        asked = threading.Event()
        with interrupted_when(asked.is_set), router.writer() as conn:
            primary.freeze()
            begun_at = time.monotonic()
            asked.set()
            conn.execute("SELECT 1")
        assert time.monotonic() - begun_at < within(4.0)
        assert conn.closed
        primary.thaw()
        router.wait()


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


def test_an_interrupted_commit_says_that_it_may_be_committed(
    pgroute_cluster_factory: Callable[..., LocalCluster],
) -> None:
    cluster = pgroute_cluster_factory(standbys=1, synchronous=True)
    primary, standby = cluster.nodes
    primary.execute("CREATE TABLE t (number int)")
    waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    with Router(cluster.dsn, writer=ONE) as router:
        router.wait()
        standby.freeze()
        with (
            signalled_when(lambda: primary.execute(waiting)),
            pytest.raises(KeyboardInterrupt) as caught,
            router.writer() as conn,
        ):
            conn.execute("INSERT INTO t VALUES (1)")
        standby.thaw()
        assert "it may have been committed" in str(caught.value.__notes__)
        assert primary.execute("SELECT number FROM t") == [(1,)]
        with router.writer(2.0) as conn:
            conn.execute("SELECT 1")


def test_who_is_interrupted_while_the_pool_connects_leaves_the_router_usable(shared: LocalCluster) -> None:
    connecting = threading.Event()

    class Slow(psycopg.Connection[Any]):
        @classmethod
        def connect(cls, *args: Any, **kwargs: Any) -> Any:
            connecting.set()
            time.sleep(0.3)
            return super().connect(*args, **kwargs)

    with Router(shared.dsn, writer=ONE, connection_class=Slow) as router:
        with interrupted_when(connecting.is_set):
            router.getconn("writer")
        for _ in range(3):
            with router.writer(2.0) as conn:
                conn.execute("SELECT 1")
        assert router.get_stats()["writer"]["pool_size"] == 1


def test_who_is_interrupted_waiting_for_a_host_leaves_the_router_usable() -> None:
    asked = threading.Event()
    with Router("host=127.0.0.1 port=1", acquire_timeout=20.0) as router, interrupted_when(asked.is_set):
        asked.set()
        router.getconn("writer")
