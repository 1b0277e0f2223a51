"""Ctrl-C while a thread is in a session or waits for one."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from inspect import CO_GENERATOR
from types import FrameType, ModuleType
from typing import Any, Self

import psycopg
import pytest
from psycopg import _copy, _cursor_base
from psycopg.pq import TransactionStatus

from pgroute import PoolOptions, Router
from pgroute.testing import LocalCluster
from tests.support import eventually, within
from tests.test_interrupts_at_each_line import without_signals

pytestmark = pytest.mark.cluster

ONE = PoolOptions(max_size=1)
RUNNING = "SELECT 1 FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%/* of the' || ' job */'"


@pytest.fixture(autouse=True)
def interruptible():
    """SIGINT raises KeyboardInterrupt, even if it was ignored as the run began; SIGTERM exits."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    before_term = signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    yield
    signal.signal(signal.SIGINT, before)
    signal.signal(signal.SIGTERM, before_term)


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

        with signalled_when(slept, signal.SIGALRM), pytest.raises(SoftTimeLimitExceeded) as caught:
            session_of(router, "SELECT pg_sleep(60) /* of the job */")
        eventually(lambda: not shared.primary.execute(running))
        with router.writer(5.0) as conn:
            same = [(conn.info.backend_pid,)] == pids
    # An exception amid psycopg's steps ends them, and nobody receives the end of the statement.
    assert (
        same
        or session_of is in_copy
        or any(entry.frame.code.raw.co_flags & CO_GENERATOR for entry in caught.traceback)
    )


class AtLine:
    """Raises an exception as psycopg begins the so-many-th line of one of its files in the block.

    Args:
        conn: the connection of the block.
        file: psycopg's.
        number: of the line, from 1; None: the exception is not raised.
        first: called before it is.

    Attributes:
        lines: whether a statement is under way, for each line.
    """

    def __init__(
        self,
        conn: psycopg.Connection,
        file: str,
        number: int | None = None,
        first: Callable[[], object] = lambda: None,
    ) -> None:
        self._pgconn, self._file, self._number, self._first = conn.pgconn, file, number, first
        self.lines: list[bool] = []

    def __enter__(self) -> Self:
        self._before = sys.gettrace()
        sys.settrace(self._enter)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)

    def _enter(self, frame: FrameType, event: str, arg: object) -> Any:
        return self._line if frame.f_code.co_filename == self._file else None

    def _line(self, frame: FrameType, event: str, arg: object) -> Any:
        if event == "line" and frame.f_lasti not in without_signals(frame.f_code):
            self.lines.append(self._pgconn.transaction_status == TransactionStatus.ACTIVE)
            if len(self.lines) == self._number:
                self._first()
                raise SoftTimeLimitExceeded
        return self._line


def execute(conn: psycopg.Connection, table: str) -> None:
    conn.execute(f"INSERT INTO {table} VALUES (1) /* of the job */", prepare=False)


def copy(conn: psycopg.Connection, table: str) -> None:
    with conn.cursor().copy(f"COPY {table} FROM STDIN /* of the job */") as writing:
        writing.write(b"1\n")


@pytest.mark.parametrize(("work", "module"), [(execute, _cursor_base), (copy, _copy)])
@pytest.mark.usefixtures("patient")
def test_an_exception_at_each_line_of_psycopgs_leaves_no_statement_at_the_server(
    shared: LocalCluster, table: str, work: Callable[[psycopg.Connection, str], None], module: ModuleType
) -> None:
    file = module.__file__
    assert file is not None
    with Router(shared.dsn, writer=ONE) as router:
        with router.writer() as conn:
            with AtLine(conn, file) as seen:
                work(conn, table)
            conn.rollback()
        assert any(seen.lines), f"psycopg no longer waits for the server in {file}"
        shared.primary.execute(f"ALTER TABLE {table} ADD CHECK (pg_sleep(60)::text IS NULL)")
        # Once it has its results, no statement is under way.
        for number in [number for number, sent in enumerate(seen.lines, 1) if sent]:
            with (
                pytest.raises(SoftTimeLimitExceeded),
                router.writer(5.0) as conn,
                AtLine(conn, file, number),
            ):
                pid = conn.info.backend_pid
                work(conn, table)
            eventually(partial(at_rest, shared, pid))


def at_rest(cluster: LocalCluster, pid: int) -> bool:
    """Return whether a session is outside of a transaction, or gone: what the server has not begun follows a BEGIN."""
    busy = f"SELECT 1 FROM pg_stat_activity WHERE pid = {pid} AND state <> 'idle'"
    return not cluster.primary.execute(busy)


@contextmanager
def stopped(pid: int) -> Iterator[Callable[[], None]]:
    """Stop a process of a server's; give what lets it go on in a while, or at once at the end of the block."""
    timer = threading.Timer(0.3, os.kill, [pid, signal.SIGCONT])
    os.kill(pid, signal.SIGSTOP)
    try:
        yield timer.start
    finally:
        timer.cancel()
        with suppress(ProcessLookupError):  # its connection was closed
            os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGALRM, SoftTimeLimitExceeded)]
)
@pytest.mark.usefixtures("time_limited", "patient")
def test_an_interrupted_statement_that_the_server_begins_late_is_cancelled(
    shared: LocalCluster, number: signal.Signals, error: type[BaseException]
) -> None:
    with Router(shared.dsn, writer=ONE) as router:
        with pytest.raises(error), router.writer() as conn:
            conn.execute("SELECT 1")
            pid = conn.info.backend_pid
            with stopped(pid) as goes_on:

                def sent() -> bool:
                    if conn.pgconn.transaction_status != TransactionStatus.ACTIVE:
                        return False
                    goes_on()
                    return True

                with signalled_when(sent, number):
                    conn.execute("SELECT pg_sleep(60) /* of the job */")
        with router.writer(5.0) as conn:
            assert conn.info.backend_pid == pid
        assert not shared.primary.execute(RUNNING)


@pytest.mark.usefixtures("patient")
def test_a_statement_of_an_ended_session_that_the_server_begins_late_is_cancelled(
    shared: LocalCluster,
) -> None:
    file = _cursor_base.__file__
    with Router(shared.dsn, writer=ONE) as router:
        with router.writer() as conn:
            conn.execute("SELECT 1")
            with AtLine(conn, file) as seen:
                conn.execute("SELECT 1 /* of the job */")
        with ExitStack() as stack, pytest.raises(SoftTimeLimitExceeded), router.writer() as conn:
            conn.execute("SELECT 1")
            pid = conn.info.backend_pid
            goes_on = stack.enter_context(stopped(pid))  # beyond the session
            with AtLine(conn, file, seen.lines.index(True) + 1, goes_on):
                conn.execute("SELECT pg_sleep(60) /* of the job */")
        eventually(partial(at_rest, shared, pid))


@pytest.mark.usefixtures("patient")
def test_a_pipeline_that_is_left_open_is_not_waited_for(shared: LocalCluster) -> None:
    with Router(shared.dsn, writer=ONE) as router:
        conn = router.getconn("writer")
        conn.execute("SELECT 1")
        conn.pgconn.enter_pipeline_mode()
        conn.pgconn.send_query_params(b"SELECT 1", None)
        assert conn.pgconn.transaction_status == TransactionStatus.ACTIVE
        begun_at = time.monotonic()
        router.putconn(conn)
        assert time.monotonic() - begun_at < within(10.0)
        with router.writer(5.0) as conn:
            conn.execute("SELECT 1")


def test_the_cancel_request_of_an_interrupted_thread_leaves_the_statement_to_the_thread_that_runs_it(
    shared: LocalCluster,
) -> None:
    with Router(shared.dsn, writer=ONE) as router, router.writer() as conn, ThreadPoolExecutor(1) as threads:
        work = threads.submit(conn.execute, "SELECT pg_sleep(60) /* of the job */")
        eventually(lambda: shared.primary.execute(RUNNING))
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            conn.cancel_safe(timeout=30.0)
        with pytest.raises(psycopg.errors.QueryCanceled):
            work.result(30.0)
        assert not conn.closed
        conn.rollback()


@pytest.mark.usefixtures("time_limited", "patient")
def test_an_exception_amid_a_pipeline_leaves_no_statement_at_the_server(shared: LocalCluster) -> None:
    running = "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%of the job%' AND wait_event = 'PgSleep'"
    with (
        Router(shared.dsn, writer=ONE) as router,
        signalled_when(lambda: shared.primary.execute(running), signal.SIGALRM),
        pytest.raises((SoftTimeLimitExceeded, psycopg.OperationalError)) as caught,
        router.writer() as conn,
        conn.pipeline(),
    ):
        conn.execute("SELECT pg_sleep(60) /* of the job */").fetchone()
    first: BaseException | None = caught.value
    while first is not None and not isinstance(first, SoftTimeLimitExceeded):
        first = first.__context__  # psycopg's of leaving the pipeline stands before it
    assert first is not None
    eventually(lambda: not shared.primary.execute(running))


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_a_statement_interrupted_on_a_frozen_host_is_not_waited_for(
    pgroute_cluster_factory: Callable[..., LocalCluster], number: signal.Signals, error: type[BaseException]
) -> None:
    primary = pgroute_cluster_factory(standbys=0).primary
    with Router(primary.conninfo, writer=ONE) as router:
        router.wait()
        asked = threading.Event()
        with signalled_when(asked.is_set, number), pytest.raises(error), router.writer() as conn:
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
