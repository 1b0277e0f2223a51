# Generated from tests/aio/test_pool_seams.py by .ci/unasync.py: edit that file, not this one.
"""Where callers, connections and their pool part in unusual ways: cancelled, dropped, used too late, spoilt."""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from pgroute import Router, NoHostAvailable, PoolExhausted, PoolOptions, SessionLost
from pgroute._sync.pool.lease import lease_of
from pgroute.core.faults.classify import Fault, FaultKind
from pgroute.core.model.roles import Role
from pgroute.core.topology.observations import Failure
from pgroute.testing import LocalCluster
from tests.support import Background, call, eventually, dsn_with

pytestmark = pytest.mark.cluster

ONE = PoolOptions(max_size=1)
TWO = PoolOptions(max_size=2)


def assert_lends(router: Router[Any], count: int) -> None:
    """Assert that a pool of so many connections lends them all at once."""
    held = [router.getconn("writer", timeout=5.0) for _ in range(count)]
    for conn in held:
        router.putconn(conn)


# Callers that leave the queue.



def test_a_saturated_pool_is_exhausted_at_each_deadline(shared: LocalCluster) -> None:
    errors: list[Exception] = []
    until = time.monotonic() + 20.0

    def work(router: Router[Any], timeout: float) -> None:
        while len(errors) <= 20 and time.monotonic() < until:
            try:
                with router.writer(timeout) as conn:
                    conn.execute("SELECT pg_sleep(0.002)")
            except (PoolExhausted, NoHostAvailable) as exc:
                errors.append(exc)

    with Router(shared.dsn, writer=ONE) as router, Background() as background:
        router.wait()
        workers = [background.start(work, router, 0.003 + 0.001 * place) for place in range(8)]
        for worker in workers:
            worker.result()
    assert len(errors) > 20
    assert {type(error) for error in errors} == {PoolExhausted}


def test_a_reader_that_is_routed_anew_does_not_lose_its_turn(
    shared: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[str] = []

    def read(router: Router[Any], name: str) -> None:
        with router.reader(timeout=20.0):
            served.append(name)

    def queued() -> int:
        return router.get_stats()["reader"].get("requests_queued", 0)

    monkeypatch.setattr("pgroute.core.routing.acquisition.PATIENCE", 0.4)
    with Router(shared.nodes[1].conninfo, reader=ONE) as router, Background() as background:
        with router.reader():
            before = queued()
            old = background.start(read, router, "old")
            eventually(lambda: queued() == before + 1)
            half = time.monotonic() + 0.2
            eventually(lambda: time.monotonic() > half)
            new = background.start(read, router, "new")
            eventually(lambda: queued() >= before + 3)  # the old one waits anew
        old.result()
        new.result()
    assert served == ["old", "new"]


# Connections that do not come back, or too late.


def test_a_connection_that_its_caller_dropped_gives_its_place_back(
    shared: LocalCluster, caplog: pytest.LogCaptureFixture
) -> None:
    with Router(shared.dsn, writer=TWO, name="shop") as router:
        for _ in range(5):
            conn = router.getconn("writer")
            del conn
        gc.collect()
        assert_lends(router, 2)
    assert "was lost by its caller" in caplog.text
    assert "pgroute-writer" in caplog.text


def test_close_does_not_wait_for_a_connection_that_its_caller_dropped(shared: LocalCluster) -> None:
    router = Router(shared.dsn, writer=ONE)
    router.open()
    conn = router.getconn("writer")
    del conn
    gc.collect()
    begun = time.monotonic()
    router.close(timeout=30)
    assert time.monotonic() < begun + 20


def test_a_return_that_is_interrupted_is_finished_and_no_connection_is_said_to_be_lost(
    shared: LocalCluster, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: object) -> bool:
        raise KeyboardInterrupt

    with Router(shared.dsn, writer=ONE) as router:
        conn = router.getconn("writer")
        with monkeypatch.context() as patch:
            patch.setattr("pgroute._sync.pool.exchange.contradicts", interrupt)
            with pytest.raises(KeyboardInterrupt):
                router.putconn(conn)
        assert_lends(router, 1)
        assert router.get_stats()["writer"].get("connections_lost", 0) == 0
    assert "was lost by its caller" not in caplog.text


def test_a_statement_after_the_block_is_not_committed_by_the_next_session(
    shared: LocalCluster, table: str, caplog: pytest.LogCaptureFixture
) -> None:
    with Router(shared.dsn, writer=ONE) as router:
        with router.writer() as late:
            late.execute(f"INSERT INTO {table} VALUES (1)")
        late.execute(f"INSERT INTO {table} VALUES (2)")
        with router.writer() as conn:
            assert conn is not late
            conn.execute(f"INSERT INTO {table} VALUES (3)")
        with router.writer() as conn:
            rows = (conn.execute(f"SELECT number FROM {table} ORDER BY 1")).fetchall()
    assert rows == [(1,), (3,)]
    [warning] = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert "pgroute-writer" in warning
    assert "INTRANS" in warning


def test_putconn_refuses_the_connection_of_a_session(shared: LocalCluster, table: str) -> None:
    with Router(shared.dsn, writer=ONE) as router:
        with router.writer() as conn:
            conn.execute(f"INSERT INTO {table} VALUES (1)")
            with pytest.raises(ValueError, match="a session has this connection"):
                router.putconn(conn)
            with pytest.raises(PoolExhausted):
                router.getconn("writer", timeout=0.05)

        def body(conn: psycopg.Connection[Any]) -> None:
            with pytest.raises(ValueError, match="a session has this connection"):
                router.putconn(conn)

        router.run(body)
        assert_lends(router, 1)
    assert shared.primary.execute(f"SELECT number FROM {table}") == [(1,)]


def enter_pipeline(conn: psycopg.Connection[Any]) -> object:
    pipeline = conn.pipeline()
    pipeline.__enter__()
    return pipeline


def enter_transaction(conn: psycopg.Connection[Any]) -> object:
    transaction = conn.transaction()
    transaction.__enter__()
    conn.execute("ROLLBACK")
    return transaction


@pytest.mark.parametrize("enter", [enter_pipeline, enter_transaction])
def test_what_a_caller_entered_and_never_left_is_not_the_next_ones(
    shared: LocalCluster, enter: Callable[..., Any]
) -> None:
    with Router(shared.dsn, writer=ONE) as router:
        conn = router.getconn("writer")
        left_open = enter(conn)
        router.putconn(conn)
        assert conn.closed
        with router.writer() as again:
            assert again.info.pipeline_status == psycopg.pq.PipelineStatus.OFF
            again.execute("SELECT 1")
    del left_open


# Callbacks and classes of the user's.

STRAY: type[BaseException] = SystemExit


def test_a_configure_that_is_cancelled_or_exits_does_not_end_its_pool(shared: LocalCluster) -> None:
    calls = 0

    def configure(_: psycopg.Connection[Any]) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise STRAY  # as of a task that was cancelled elsewhere, and is awaited here

    options = PoolOptions(max_size=2, configure=configure)
    with Router(shared.dsn, writer=options) as router:
        assert_lends(router, 2)
    assert calls == 3


class Unclosable(psycopg.Connection[Any]):
    """Its close() does its work, and fails."""

    def close(self) -> None:
        super().close()
        raise ValueError("not mine")


def test_a_close_that_fails_is_told_in_the_log_alone(
    shared: LocalCluster, caplog: pytest.LogCaptureFixture
) -> None:
    options = PoolOptions(min_size=3)
    with Router(shared.dsn, writer=options, connection_class=Unclosable) as router:
        with pytest.raises(SessionLost):
            with router.writer() as conn:
                with pytest.raises(psycopg.errors.AdminShutdown):
                    conn.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        eventually(lambda: router.get_stats()["writer"]["pool_available"] == 3)
        held = [router.getconn("writer") for _ in range(3)]
        for conn in held:
            router.putconn(conn)
    assert all(conn.closed for conn in held)
    assert "Unclosable.close() failed: ValueError: not mine" in caplog.text


def test_a_log_handler_that_asks_for_a_session_is_no_deadlock(shared: LocalCluster) -> None:
    class Handler(logging.Handler):
        free = True

        def emit(self, record: logging.LogRecord) -> None:
            if "lost by its caller" in record.getMessage():
                Handler.free = Handler.free and pools._lock.acquire(blocking=False)
                if Handler.free:
                    pools._lock.release()
                told.set()

    told = threading.Event()
    handler = Handler()
    logging.getLogger("pgroute").addHandler(handler)
    try:
        with Router(shared.dsn, writer=TWO) as router:
            pools = router._manager.pools[Role.WRITER]
            conn = router.getconn("writer")
            pool: Any = lease_of(conn).pool
            pool.close()
            pool.join(5.0)
            with router.writer():
                pass
            del conn  # its pool has no worker any more: it is found by whoever looks for pools that are gone
            gc.collect()
            router._manager.lifecycle.check_open().changes.notify()
            eventually(told.is_set)
    finally:
        logging.getLogger("pgroute").removeHandler(handler)
    assert Handler.free


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_pool_whose_worker_is_ended_is_replaced(shared: LocalCluster) -> None:
    def end() -> bool:
        raise STRAY

    with Router(shared.dsn, writer=ONE) as router:
        with router.writer() as conn:
            pool: Any = lease_of(conn).pool
            pool._worker._turn = end
            pool._worker.wake()
            eventually(lambda: pool.closed)
        with router.writer() as conn:
            assert lease_of(conn).pool is not pool


# Sessions that differ from what their pool is for.


def set_default(cluster: LocalCluster, role: str, value: str) -> None:
    call(cluster.primary.execute, f"ALTER ROLE {role} {value}")


def test_what_connected_while_the_role_was_read_only_is_lent_to_nobody_else(
    shared: LocalCluster, table: str
) -> None:
    role = f"app_{table}"
    call(
        shared.primary.execute, f"CREATE ROLE {role} LOGIN SUPERUSER PASSWORD '{shared.password}'"
    )
    try:
        dsn = dsn_with(shared.dsn, user=role)
        with Router(dsn, writer=PoolOptions(max_size=3)) as router:
            held = [router.getconn("writer")]
            set_default(shared, role, "SET default_transaction_read_only = on")
            held += [router.getconn("writer"), router.getconn("writer")]
            set_default(shared, role, "RESET default_transaction_read_only")
            said = [conn.info.parameter_status("default_transaction_read_only") for conn in held]
            assert said == ["off", "on", "on"]
            for conn in held:
                router.putconn(conn)
            for number in range(30):
                with router.writer() as conn:
                    conn.execute(f"INSERT INTO {table} VALUES ({number})")
    finally:
        call(shared.primary.execute, f"DROP ROLE {role}")


def test_a_default_that_a_body_has_set_reaches_nobody_else(shared: LocalCluster, table: str) -> None:
    with Router(shared.dsn, writer=ONE) as router:
        with router.writer() as conn:
            conn.execute("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY")
        with router.writer() as conn:
            conn.execute(f"INSERT INTO {table} VALUES (1)")


def test_discard_leaves_nothing_of_a_session_to_the_next(shared: LocalCluster) -> None:
    def configure(conn: psycopg.Connection[Any]) -> None:
        conn.execute("SET application_name = 'configured'")
        conn.commit()

    options = PoolOptions(max_size=1, reset="discard", configure=configure, settings={"work_mem": "7MB"})
    with Router(shared.dsn, writer=options) as router:
        with router.writer() as conn:
            first = conn.info.backend_pid
            conn.execute("SET search_path = nowhere")
            conn.execute("SET work_mem = '9MB'")
            conn.execute("CREATE TEMP TABLE pgroute_left (number int)")
            conn.execute("LISTEN pgroute_left")
            conn.execute("SELECT pg_advisory_lock(4711)")
            for _ in range(10):
                conn.execute("SELECT 1 WHERE 1 = %s", (1,))
        with router.writer() as conn:
            assert conn.info.backend_pid == first
            left = conn.execute(
                "SELECT current_setting('search_path'), current_setting('work_mem'),"
                " current_setting('application_name'), to_regclass('pg_temp.pgroute_left'),"
                " (SELECT count(*) FROM pg_listening_channels()),"
                " (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()),"
                " (SELECT count(*) FROM pg_prepared_statements)"
            )
            assert left.fetchone() == ('"$user", public', "7MB", "configured", None, 0, 0, 0)
            for _ in range(10):
                conn.execute("SELECT 1 WHERE 1 = %s", (1,))


def test_an_interrupt_after_commit_says_that_it_was_committed(shared: LocalCluster, table: str) -> None:
    class Stop(BaseException):
        pass

    def reset(conn: psycopg.Connection[Any]) -> None:
        raise Stop

    with Router(shared.dsn, writer=PoolOptions(max_size=1, reset=reset)) as router:
        for number in range(3):
            with pytest.raises(Stop) as caught:
                with router.writer() as conn:
                    conn.execute(f"INSERT INTO {table} VALUES ({number})")
            assert any("was committed" in note for note in caught.value.__notes__)
        with pytest.raises(Stop) as caught:
            with router.writer() as conn:
                pass
        assert not getattr(caught.value, "__notes__", [])
    assert shared.primary.execute(f"SELECT count(*) FROM {table}") == [(3,)]


# Failovers.


def test_a_caller_held_up_at_a_failover_opens_no_pool_to_the_old_primary(shared: LocalCluster) -> None:
    with Router(shared.dsn) as router:
        eventually(lambda: router.topology.primary)
        before = router.topology
        candidate = before.candidates[router._manager.config.default_attrs][0][0]
        fault = Fault(FaultKind.REFUSED, reason="gone")
        watch = router._manager.watch
        watch._monitor.call(watch.observe, Failure(candidate.key, fault, time.monotonic()))  # type: ignore[union-attr]
        # Not by the version: another host may have become known meanwhile.
        eventually(
            lambda: (
                {host.key: host.generation for host in router.topology.hosts}[candidate.key]
                > candidate.generation
            )
        )
        pools = next(iter(router._manager.pools.values()))
        with pytest.raises(psycopg.OperationalError, match="no longer serves"):
            pools.open(candidate)
