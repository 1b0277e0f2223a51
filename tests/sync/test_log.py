# Generated from tests/aio/test_log.py by .ci/unasync.py: edit that file, not this one.
"""What is written to the log: a failover in a few lines, whatever was in flight, and each mistake of the user's."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from pgroute import Router, Event, NoHostAvailable, PoolOptions
from pgroute.core.model.events import EventKind
from pgroute.testing import LocalCluster, Node
from tests.sync.workload import QUICK, key, refused_until, state
from tests.support import Background, call, eventually, dsn_with, password_of

pytestmark = pytest.mark.cluster

Conn = psycopg.Connection[Any]


class Log:
    """What the loggers of all libraries tell, as "logger: text"."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog

    def at(self, level: int) -> list[str]:
        """Return the records of this level and above."""
        return [f"{r.name}: {r.getMessage()}" for r in tuple(self._caplog.records) if r.levelno >= level]

    @property
    def warnings(self) -> list[str]:
        return self.at(logging.WARNING)

    def clear(self) -> None:
        self._caplog.clear()


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[Log]:
    for name in ("psycopg", "psycopg.pool"):
        caplog.set_level(logging.INFO, name)  # records at DEBUG hold connections, and pytest keeps them
    caplog.set_level(logging.DEBUG)
    yield Log(caplog)
    assert "hunter2" not in caplog.text


def in_a_session(conn: Conn) -> None:
    conn.execute("SELECT pg_sleep(60)")


def in_a_transaction(conn: Conn) -> None:
    with conn.transaction(), conn.transaction():
        conn.execute("SELECT pg_sleep(60)")


def in_a_pipeline(conn: Conn) -> None:
    with conn.pipeline():
        cursor = conn.execute("SELECT 1, pg_sleep(60)")
        cursor.fetchone()


def in_a_copy(conn: Conn) -> None:
    with conn.cursor().copy("COPY (SELECT pg_sleep(60)) TO STDOUT") as copy:
        for _ in copy:
            pass


def in_a_copy_to_the_server(conn: Conn) -> None:
    with conn.cursor().copy("COPY pg_catalog.pg_description FROM STDIN") as copy:
        while True:
            copy.write("1" * 65536)
            call(time.sleep, 0.05)


BODIES = (in_a_session, in_a_transaction, in_a_pipeline, in_a_copy, in_a_copy_to_the_server)


class Load:
    """Twenty sessions at work on one host, four of each kind."""

    def __init__(self, router: Router[Any], background: Background) -> None:
        self.begun: list[None] = []
        self._router = router
        self._workers = [background.start(self._work, body) for body in BODIES for _ in range(4)]

    def _work(self, body: Any) -> None:
        with self._router.writer() as conn:
            self.begun.append(None)
            body(conn)

    def errors(self) -> list[str]:
        """Return the classes of the errors, once all have one."""
        caught = []
        for worker in self._workers:
            with pytest.raises(psycopg.OperationalError) as error:
                worker.result()
            caught.append(type(error.value).__name__)
        return caught


def settle(router: Router[Any], opened: int) -> None:
    """Return once all hosts are known and so many writers' connections are open."""
    router.wait("writer", writers=opened)
    eventually(lambda: all(host.usable for host in router.topology.hosts))


def test_a_crash_with_25_sessions_at_work_is_two_warnings(any_cluster: LocalCluster, log: Log) -> None:
    old = any_cluster.primary
    tries: list[None] = []

    def again(conn: Conn) -> None:
        tries.append(None)
        if len(tries) <= 5:
            conn.execute("SELECT pg_sleep(60)")

    with (
        Router(any_cluster.dsn, writer=PoolOptions(min_size=25, max_size=25)) as router,
        Background() as background,
    ):
        settle(router, 25)
        with router.reader() as conn:
            conn.execute("SELECT 1")
        load = Load(router, background)
        runs = [background.start(router.run, again) for _ in range(5)]
        eventually(lambda: len(load.begun) == 20 and len(tries) == 5)
        log.clear()
        call(old.kill)
        assert len(load.errors()) == 20
        new = call(any_cluster.promote, repoint=False)
        for each in runs:
            each.result()
        with router.writer() as conn:
            conn.execute("SELECT 1")
    gone, back = log.warnings
    assert gone.startswith(f"pgroute: no primary: {key(old)} was the last, and is down (")
    assert back.startswith(f"pgroute: primary is {key(new)}, timeline 2, after ")
    lines = log.at(logging.INFO)
    assert len(lines) == len(set(lines)), lines
    assert {line.partition(":")[0] for line in lines} == {"pgroute"}, lines
    assert len(lines) <= 2 + 2 * len(any_cluster.nodes), lines
    assert len([line for line in log.at(logging.DEBUG) if "attempt 1 failed in body" in line]) == 5


@pytest.mark.long
def test_sessions_cut_at_a_frozen_primary_are_one_warning(any_cluster: LocalCluster, log: Log) -> None:
    old = any_cluster.primary
    seen, over = threading.Event(), threading.Event()

    def sit(router: Router[Any]) -> None:
        # Its end is noticed late, so that it is still in flight at each following probe.
        with router.writer() as conn:
            conn.execute("SELECT 1")
            seen.set()
            eventually(over.is_set)

    with (
        Router(any_cluster.dsn, writer=PoolOptions(min_size=21, max_size=21), probe=QUICK) as router,
        Background() as background,
    ):
        cut: list[str] = []
        router.subscribe(lambda e: cut.append(e.text) if e.kind is EventKind.SESSIONS_ABORTED else None)
        settle(router, 21)
        sitting = background.start(sit, router)
        load = Load(router, background)
        eventually(lambda: len(load.begun) == 20 and seen.is_set())
        log.clear()
        call(old.freeze)
        new = call(any_cluster.promote, repoint=False)
        assert len(load.errors()) == 20
        before = router.topology.host(key(old))
        assert before is not None
        eventually(lambda: router.topology.at > before.since + 1.0)
        over.set()
        with pytest.raises(psycopg.OperationalError):
            sitting.result()
        with router.writer() as conn:
            conn.execute("SELECT 1")
    # The 21st holds its connection without a statement.
    [text] = cut
    assert [line for line in log.warnings if "aborted" in line] == [f"pgroute: {text}"]
    assert len(log.warnings) <= 4, log.warnings  # a stale one, no primary, and the new one
    assert text.startswith(f"aborted 21 sessions: {key(old)} has not answered")
    assert text.endswith(f"{key(new)} serves")


@pytest.mark.long
def test_a_restart_of_a_standby_is_no_warning(mended: LocalCluster, log: Log) -> None:
    standby = mended.nodes[1]
    with Router(mended.dsn, probe=QUICK, reader=PoolOptions(min_size=5)) as router:
        settle(router, 1)
        router.wait(readers=10)
        call(standby.stop, "fast")
        eventually(lambda: str(state(router, standby)) == "HostState.DOWN")
        for _ in range(20):
            with router.reader() as conn:
                conn.execute("SELECT 1")
        call(standby.start)
        eventually(lambda: str(state(router, standby)) == "HostState.UP")
    assert log.warnings == []
    assert [line for line in log.at(logging.INFO) if f"{key(standby)} standby up -> standby" in line]


def lose(node: Node, conn: Conn) -> None:
    """End the server process of a connection, which does not notice it yet."""
    call(node.execute, f"SELECT pg_terminate_backend({conn.info.backend_pid}, 10000)")


def lose_in_a_session(conn: Conn, node: Node) -> None:
    conn.execute("SELECT 1")
    lose(node, conn)
    raise ValueError("a mistake of the body's")


def lose_in_a_pipeline(conn: Conn, node: Node) -> None:
    with conn.pipeline():
        lose(node, conn)
        conn.execute("SELECT 1")


def lose_in_a_copy(conn: Conn, node: Node) -> None:
    with conn.cursor().copy("COPY pg_catalog.pg_description FROM STDIN"):
        lose(node, conn)
        raise ValueError("not a row")


def lose_in_a_transaction(conn: Conn, node: Node) -> None:
    with conn.transaction():
        lose(node, conn)
        raise ValueError("no reason to go on")


@pytest.mark.parametrize(
    "body", [lose_in_a_session, lose_in_a_pipeline, lose_in_a_copy, lose_in_a_transaction]
)
def test_nobody_warns_of_what_follows_from_a_loss(shared: LocalCluster, log: Log, body: Any) -> None:
    node = shared.nodes[0]
    told: list[Event] = []
    router = Router(shared.dsn)
    router.subscribe(told.append)
    with router:
        with pytest.raises((ValueError, psycopg.OperationalError)):
            with router.writer() as conn:
                body(conn, node)
        assert log.warnings == []
        events = [event.text for event in told]
        assert [line for line in log.at(logging.INFO) if line.removeprefix("pgroute: ") not in events] == []
        # psycopg itself does, of a connection that is none of a router's.
        with pytest.raises((ValueError, psycopg.OperationalError)):
            with psycopg.Connection.connect(node.conninfo) as other:
                body(other, node)
    [warning] = log.warnings
    assert warning.startswith(("psycopg: error ignored", "psycopg.transaction: error ignored"))




# The user's own doing.


@pytest.mark.parametrize("in_error", [False, True])
def test_a_connection_put_back_in_a_transaction_is_a_warning(
    shared: LocalCluster, log: Log, in_error: bool
) -> None:
    with Router(shared.dsn) as router:
        conn = router.getconn("writer")
        conn.execute("SELECT 1")
        if in_error:
            with pytest.raises(psycopg.errors.DivisionByZero):
                conn.execute("SELECT 1 / 0")
        router.putconn(conn)
    status = "INERROR" if in_error else "INTRANS"
    told = f"a connection to {key(shared.primary)} was put back within a transaction ({status}): rolling back"
    assert log.warnings == [f"pgroute: {told}"]


def test_one_that_was_lost_within_its_transaction_is_none(shared: LocalCluster, log: Log) -> None:
    with Router(shared.dsn) as router:
        conn = router.getconn("writer")
        conn.execute("SELECT 1")
        call(
            shared.primary.execute, f"SELECT pg_terminate_backend({conn.info.backend_pid}, 10000)"
        )
        router.putconn(conn)
    assert log.warnings == []


def test_a_reset_that_fails_is_a_warning_and_one_that_met_a_lost_connection_is_none(
    shared: LocalCluster, log: Log
) -> None:
    fails = False

    def reset(conn: Conn) -> None:
        conn.execute("SELECT 1 / 0" if fails else "SELECT 1")
        conn.rollback()

    with Router(shared.dsn, writer=PoolOptions(reset=reset)) as router:
        with router.writer() as conn:
            conn.execute("SELECT 1")
        conn = router.getconn("writer")
        call(
            shared.primary.execute, f"SELECT pg_terminate_backend({conn.info.backend_pid}, 10000)"
        )
        router.putconn(conn)
        assert router.get_stats()["writer"]["connections_lost"] == 1
        assert log.warnings == []
        fails = True
        with router.writer() as conn:
            conn.execute("SELECT 1")
    told = f"closing a connection to {key(shared.primary)} that could not be reset: division by zero"
    assert log.warnings == [f"pgroute: {told}"]


def test_a_password_that_only_one_role_has_wrong_is_one_warning_for_each_host(
    shared: LocalCluster, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = PoolOptions(kwargs={"password": "hunter2"})
    # So that each caller has a login refused.
    monkeypatch.setattr("pgroute._sync.pool.connector.REJECTED_GAP", 0.1)
    with Router(shared.dsn, reader=wrong) as router:
        settle(router, 1)
        refused_until(lambda _: len(log.warnings) >= len(shared.nodes), router, "reader")
        for _ in range(3):
            with pytest.raises(NoHostAvailable, match="password authentication failed"):
                with router.reader(timeout=0.2):
                    pass
    told = 'cannot be opened: FATAL:  password authentication failed for user "postgres"'
    assert sorted(log.warnings) == sorted(
        f"pgroute: a reader connection to {key(node)} {told}" for node in shared.nodes
    )


def test_a_wrong_password_is_one_warning_for_each_host(shared: LocalCluster, log: Log) -> None:
    with Router(dsn_with(shared.dsn, password="hunter2")) as router:
        eventually(lambda: router.topology.initial_scan_done)
        for _ in range(5):
            with pytest.raises(NoHostAvailable, match="password authentication failed"):
                with router.writer(timeout=0.1):
                    pass
    *hosts, nobody = log.warnings
    assert nobody.startswith("pgroute: no host can be written to: ")
    assert sorted(hosts) == sorted(
        f'pgroute: {key(node)} unknown -> rejected (FATAL:  password authentication failed for user "postgres")'
        for node in shared.nodes
    )


def test_a_configure_that_fails_is_one_warning_until_it_succeeds(
    shared: LocalCluster, log: Log
) -> None:
    fails = True

    def configure(conn: Conn) -> None:
        if fails:
            raise ValueError("no such setting")

    with Router(shared.dsn, writer=PoolOptions(min_size=3, configure=configure)) as router:
        eventually(lambda: router.topology.primary is not None)
        refused_until(lambda _: log.warnings, router, "writer")
        for _ in range(3):
            with pytest.raises(NoHostAvailable, match="no such setting"):
                with router.writer(timeout=0.3):
                    pass
        fails = False
        router.wait(timeout=10.0)
    told = "cannot be opened: configure failed: ValueError: no such setting"
    assert log.warnings == [f"pgroute: a writer connection to {key(shared.primary)} {told}"]


def test_what_is_told_at_debug_holds_no_password(
    shared: LocalCluster, log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "psycopg")
    with Router(shared.dsn) as router:
        settle(router, 1)
    assert log.at(logging.DEBUG)
    assert password_of(shared) not in "\n".join(log.at(logging.DEBUG))
