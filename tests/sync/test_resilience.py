# Generated from tests/aio/test_resilience.py by .ci/unasync.py: edit that file, not this one.
"""The rarer troubles: broken settings and callbacks, full queues, hosts that hang, ends that are not what they seem."""

from __future__ import annotations

import contextlib
import logging

import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from pgroute import (
    Router,
    ConfigError,
    HostState,
    NoHostAvailable,
    PoolOptions,
    Role,
    SessionLost,
    Topology,
)
from pgroute._sync import ending
from pgroute.runtime.connect_backoff import ConnectBackoff
from pgroute.testing import FaultProxy, LocalCluster, Node
from tests import support
from tests.sync.conftest import Proxied
from tests.sync.workload import key, read, state
from tests.support import Background, call, eventually, dsn_at, within

pytestmark = [pytest.mark.cluster, pytest.mark.long]

ONE = PoolOptions(max_size=1)
"""Every session gets the same connection."""


def numbers(cluster: LocalCluster, table: str) -> list[int]:
    return [number for (number,) in cluster.primary.execute(f"SELECT number FROM {table} ORDER BY 1")]


def dsn_of(node: Node) -> str:
    """Return the DSN of one node alone."""
    return dsn_at(f"{node.host}:{node.port}", node)


def explained(error: BaseException) -> str:
    """Return all that an error tells besides its text."""
    return f"{error.__cause__!r} {getattr(error, '__notes__', [])}"


def hopeless(router: Router[Any], role: Any, timeout: float) -> NoHostAvailable:
    """Return the error of a session that cannot be had."""
    with pytest.raises(NoHostAvailable) as caught:
        router.getconn(role, timeout=timeout)
    return caught.value


# What is wrong with one role, or with a callback, is no fault of the host.


@pytest.mark.parametrize(
    ("options", "said"),
    [
        pytest.param(
            PoolOptions(kwargs={"user": "nosuch"}),
            'password authentication failed for user "nosuch"',
            id="user",
        ),
        pytest.param(
            PoolOptions(settings={"statement_timeout": "abc"}),
            'invalid value for parameter "statement_timeout": "abc"',
            id="setting",
        ),
    ],
)
def test_a_role_whose_logins_are_refused_leaves_the_other_alone(
    shared: LocalCluster, options: PoolOptions, said: str
) -> None:
    def refusals() -> dict[str, int]:
        return {node.name: node.log().count(said) for node in shared.nodes}

    before = refusals()
    longest = 0.0
    with Router(shared.dsn, reader=options, writer=ONE) as router, Background() as background:
        router.wait()
        eventually(lambda: all(host.usable for host in router.topology.hosts))
        readers = [background.start(hopeless, router, "reader", 1.5) for _ in range(10)]
        while not all(reader.done() for reader in readers):
            begun = time.monotonic()
            with router.writer(timeout=1.0) as conn:
                conn.execute("SELECT 1")
            longest = max(longest, time.monotonic() - begun)
            time.sleep(0.01)
        errors = [reader.result() for reader in readers]
        assert [host.state for host in router.topology.hosts] == [HostState.UP] * 3
    assert longest < within(0.5)
    assert all(said in explained(error) for error in errors)
    after = refusals()
    assert [after[name] - before[name] for name in after] == [1, 1, 1], "one attempt in 5 s, at each host"


def test_a_configure_that_raises_is_named_and_not_called_again_and_again(shared: LocalCluster) -> None:
    calls: list[float] = []

    def configure(conn: psycopg.Connection[Any]) -> None:
        calls.append(time.monotonic())
        raise ZeroDivisionError("the callback is broken")

    options = PoolOptions(configure=configure)
    with Router(shared.dsn, writer=options) as router, Background() as background:
        writers = [background.start(hopeless, router, "writer", 1.5) for _ in range(10)]
        errors = [writer.result() for writer in writers]
        router.wait("reader")
    assert all(
        "configure failed: ZeroDivisionError: the callback is broken" in explained(error) for error in errors
    )
    assert 1 <= len(calls) <= 8, "at least 200 ms apart"


def test_a_configure_whose_statement_fails_leaves_the_other_role_alone(shared: LocalCluster) -> None:
    calls: list[float] = []

    def configure(conn: psycopg.Connection[Any]) -> None:
        calls.append(time.monotonic())
        conn.execute("SELECT * FROM no_such_table")

    options = PoolOptions(configure=configure)
    with Router(shared.dsn, reader=options) as router, Background() as background:
        eventually(lambda: all(host.usable for host in router.topology.hosts))
        readers = [background.start(hopeless, router, "reader", 1.0) for _ in range(10)]
        errors = [reader.result() for reader in readers]
        router.wait("writer", timeout=1.0)
        assert [host.state for host in router.topology.hosts] == [HostState.UP] * 3
    why = 'configure failed: UndefinedTable: relation "no_such_table" does not exist'
    assert all(why in explained(error) for error in errors)
    assert 3 <= len(calls) <= 3 * 6, "at each host at least 200 ms apart"


def test_a_connection_that_falls_silent_in_configure_is_replaced(
    proxied: Proxied, caplog: pytest.LogCaptureFixture
) -> None:
    def configure(conn: psycopg.Connection[Any]) -> None:
        conn.execute("SELECT 'of configure'")
        conn.commit()

    (proxy, *_) = proxied.proxies
    proxy.when(b"of configure", action="discard", after_forwarding=False)
    options = PoolOptions(max_size=1, configure=configure, kwargs={"connect_timeout": 2})
    with Router(FaultProxy.dsn([proxy]), writer=options) as router:
        with router.writer(timeout=15.0) as conn:
            conn.execute("SELECT 1")
        assert router.topology.hosts[0].state is HostState.UP
    assert "cannot be opened: configure took longer than 2 s" in caplog.text


def test_a_connection_class_that_cannot_connect_is_named(shared: LocalCluster) -> None:
    calls: list[float] = []

    class Broken(psycopg.Connection[Any]):
        @classmethod
        def connect(cls, *_args: Any, **_kwargs: Any) -> Any:
            calls.append(time.monotonic())
            raise ValueError("the class is broken")

    with (
        Router(shared.dsn, connection_class=Broken) as router,
        Background() as background,
    ):
        writers = [background.start(hopeless, router, "writer", 1.5) for _ in range(10)]
        errors = [writer.result() for writer in writers]
    assert all("ValueError: the class is broken" in explained(error) for error in errors)
    assert 1 <= len(calls) <= 8, "at least 200 ms apart"


def test_all_pools_connect_through_one_class(shared: LocalCluster) -> None:
    class Counting(psycopg.Connection[Any]):
        opened = 0

        @classmethod
        def connect(cls, *args: Any, **kwargs: Any) -> Any:
            cls.opened += 1
            seen.append((cls, cls.opened))
            return super().connect(*args, **kwargs)

    seen: list[tuple[type, int]] = []
    for _ in range(2):
        with (
            Router(shared.dsn, connection_class=Counting) as router,
            router.writer(),
            router.reader(),
        ):
            pass
    assert len({cls for cls, _ in seen}) == 1
    assert [number for _, number in seen] == [*range(1, len(seen) + 1)]


def test_the_reason_is_told_also_to_who_wakes_late(
    shared: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(psycopg.Connection[Any]):
        @classmethod
        def connect(cls, *_args: Any, **_kwargs: Any) -> Any:
            raise ValueError("the class is broken")

    def late(backoff: ConnectBackoff, *args: Any, **kwargs: Any) -> None:
        record(backoff, *args, **kwargs)
        time.sleep(0.3)  # a busy machine: the failure blocks no more when the callers hear of it

    record = ConnectBackoff.record_failure
    monkeypatch.setattr(ConnectBackoff, "record_failure", late)
    with Router(shared.dsn, connection_class=Broken) as router:
        eventually(lambda: router.topology.primary)
        error = hopeless(router, "writer", 0.5)
    assert "ValueError: the class is broken" in explained(error)


def test_a_timeout_beyond_what_the_system_can_count_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"invalid acquire_timeout 10000000000\.0: expected .* at most 1e\+09"
    ):
        Router("host=localhost", acquire_timeout=1e10)


# Log handlers and subscribers are the user's code.


class Raises(logging.Handler):
    """Fails on each record."""

    def emit(self, record: logging.LogRecord) -> None:
        raise RuntimeError("the handler is broken")


class Blocks(logging.Handler):
    """Holds its first record up."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = threading.Event()
        self.proceed = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.entered.set()
        self.proceed.wait(5.0)


@contextlib.contextmanager
def logging_to(handler: logging.Handler) -> Iterator[None]:
    logger = logging.getLogger("pgroute")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(logging.NOTSET)
        logger.removeHandler(handler)


def crash_and_restart(router: Router[Any], node: Node) -> tuple[float, float]:
    """Return the seconds after which the crash and the restart were seen; to be run outside the loop."""
    node.stop("immediate")
    stopped_at = time.monotonic()
    support.eventually(lambda: state(router, node) is HostState.DOWN)
    down = time.monotonic() - stopped_at
    node.start()
    started_at = time.monotonic()
    support.eventually(lambda: state(router, node) is HostState.UP)
    return down, time.monotonic() - started_at


def test_a_log_handler_that_raises_does_not_stop_the_watch(mended: LocalCluster) -> None:
    with Router(mended.dsn) as router:
        router.wait()
        with logging_to(Raises()):
            down, up = call(crash_and_restart, router, mended.nodes[0])
            router.wait(timeout=2.0)
    assert down < within(0.5)
    assert up < within(1.0)


def test_a_log_handler_that_blocks_does_not_delay_the_watch(mended: LocalCluster) -> None:
    handler = Blocks()

    def blocked() -> tuple[float, float]:
        try:
            return crash_and_restart(router, mended.nodes[0])
        finally:
            handler.proceed.set()

    with Router(mended.dsn) as router:
        router.wait()
        with logging_to(handler):
            down, up = call(blocked)
            router.wait(timeout=2.0)
    assert handler.entered.is_set()
    assert down < within(0.5)
    assert up < within(1.0)


# Hosts that hang.


def test_writers_leave_a_pool_that_connects_to_a_frozen_host_at_once(pgroute_cluster_factory) -> None:
    cluster: LocalCluster = call(pgroute_cluster_factory, standbys=1)
    old, new = cluster.nodes
    shown: list[float] = []

    def served(router: Router[Any]) -> float:
        with router.writer() as conn:
            assert conn.info.port == new.port
        return time.monotonic()

    with Router(cluster.dsn) as router, Background() as background:
        eventually(lambda: all(host.usable for host in router.topology.hosts))

        listener: Any = router._manager.watch._listener()
        on_snapshot = listener.on_snapshot

        def listen(before: Topology, now: Topology, events: object) -> None:
            if now.primary is not None and now.primary.key == key(new):
                shown.append(time.monotonic())
            on_snapshot(before, now, events)

        listener.on_snapshot = listen
        call(old.freeze)
        try:
            writers = [background.start(served, router) for _ in range(3)]
            eventually(lambda: router._manager.pools[Role.WRITER].pool(key(old)))
            call(new.promote)
            ends = [writer.result() for writer in writers]
        finally:
            call(old.thaw)
    assert max(ends) - shown[0] < within(0.4)


def test_leaving_a_body_that_raised_on_a_frozen_host_is_bounded(
    mended: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ending, "_ROLLBACK_TIMEOUT", 0.3)
    node = mended.nodes[0]
    raised_at = 0.0
    with Router(dsn_of(node)) as router:
        with pytest.raises(KeyError):
            with router.writer() as conn:
                conn.execute("SELECT 1")
                call(node.freeze)
                raised_at = time.monotonic()
                raise KeyError
        took = time.monotonic() - raised_at
        call(node.thaw)
        router.wait()
    assert took < within(1.0)


def test_readers_learn_to_avoid_a_standby_that_takes_no_new_sessions(mended: LocalCluster) -> None:
    _, hanging, other = mended.nodes

    def slow_reads(router: Router[Any], seconds: float, until: HostState | None = None) -> int:
        slow = 0
        end = time.monotonic() + seconds
        while time.monotonic() < end and state(router, hanging) is not until:
            session = read(router, timeout=5.0)
            assert session.port == other.port
            slow += session.ended - session.begun > 0.5
            time.sleep(0.01)
        return slow

    kwargs = {"connect_timeout": 2}
    with Router(mended.dsn, reader_attrs="standby", kwargs=kwargs) as router:
        eventually(lambda: all(host.usable for host in router.topology.hosts))
        call(hanging.freeze, postmaster_only=True)
        try:
            before = slow_reads(router, 6.0, until=HostState.BUSY)
            host = router.topology.host(key(hanging))
            # Long enough for what was learned to be forgotten, and for the next attempts at new connections.
            after = slow_reads(router, 3.5)
        finally:
            call(hanging.thaw)
    assert host is not None
    assert host.state is HostState.BUSY
    assert "takes no new connection" in host.reason
    assert before <= 5, "one in a second, until the pool gives up connecting and a probe has tried, too"
    assert after <= 1


# Queues.


def test_waiters_for_one_connection_are_served_in_turn(shared: LocalCluster) -> None:
    rounds, clients, hold = 2, 30, 0.05
    served: list[int] = []

    def client(number: int) -> None:
        for _ in range(rounds):
            with router.writer(timeout=5.0):
                served.append(number)
                time.sleep(hold)

    with Router(shared.dsn, writer=ONE) as router, Background() as background:
        with router.writer():
            tasks = [background.start(client, number) for number in range(clients)]
            # Nobody may come back for more before all have come.
            eventually(lambda: router.get_stats()["writer"]["requests_waiting"] == clients)
        for task in tasks:
            task.result()
    for begun in range(0, len(served), clients):
        assert len(set(served[begun : begun + clients])) == clients, served


def test_an_interrupt_while_queued_loses_no_slot(shared: LocalCluster) -> None:
    main = threading.main_thread().ident
    assert main == threading.get_ident()
    def interrupt(router: Router[Any]) -> None:
        eventually(lambda: router.get_stats()["writer"]["requests_waiting"])
        signal.pthread_kill(main, signal.SIGINT)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with Router(shared.dsn, writer=ONE) as router, Background() as background:
            held = router.getconn("writer")
            background.start(interrupt, router)
            with pytest.raises(KeyboardInterrupt):
                router.getconn("writer", timeout=10.0)
            router.putconn(held)
            conn = router.getconn("writer", timeout=2.0)
            router.putconn(conn)
    finally:
        signal.signal(signal.SIGINT, before)


# Honest ends.


@pytest.fixture
def suicidal(shared: LocalCluster, table: str) -> str:
    """The name of a table in which a 0 ends the session at COMMIT."""
    shared.primary.execute(
        f"""CREATE FUNCTION {table}_f() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END'"""
    )
    shared.primary.execute(
        f"""CREATE CONSTRAINT TRIGGER suicide AFTER INSERT ON {table} INITIALLY DEFERRED
        FOR EACH ROW WHEN (new.number = 0) EXECUTE FUNCTION {table}_f()"""
    )
    return table


def test_a_swallowed_loss_in_the_bodys_own_commit_may_have_committed(
    shared: LocalCluster, suicidal: str
) -> None:
    with Router(shared.dsn, writer=ONE) as router:
        with pytest.raises(SessionLost, match="may or may not be there") as caught:
            with router.writer() as conn:
                conn.execute(f"INSERT INTO {suicidal} VALUES (1)")
                conn.commit()
                conn.execute(f"INSERT INTO {suicidal} VALUES (0)")
                with pytest.raises(psycopg.OperationalError):
                    conn.commit()
        router.wait()
    assert caught.value.may_have_committed
    assert not caught.value.rerun_safe
    assert numbers(shared, suicidal) == [1]


def test_a_loss_before_commit_was_sent_has_committed_nothing(shared: LocalCluster, table: str) -> None:
    def terminate(pid: int) -> None:
        assert shared.primary.execute("SELECT pg_terminate_backend(%s, 5000)", [pid]) == [(True,)]

    with Router(shared.dsn, writer=ONE) as router:
        with pytest.raises(SessionLost, match="before COMMIT was sent") as caught:
            with router.writer() as conn:
                conn.execute(f"INSERT INTO {table} VALUES (1)")
                call(terminate, conn.info.backend_pid)
        router.wait()
    assert not caught.value.may_have_committed
    assert not caught.value.rerun_safe, "the body may have committed before"
    assert numbers(shared, table) == []


def test_a_transaction_left_prepared_is_told_and_not_the_next_borrowers(
    pgroute_cluster_factory,
) -> None:
    cluster: LocalCluster = call(
        pgroute_cluster_factory, standbys=0, settings={"max_prepared_transactions": "4"}
    )
    node = cluster.primary
    node.execute("CREATE TABLE t (number int)")

    def prepare(conn: psycopg.Connection[Any], gid: str) -> None:
        conn.tpc_begin(gid)
        conn.execute("INSERT INTO t VALUES (1)")
        conn.tpc_prepare()

    def borrow() -> None:
        with router.writer() as conn:
            conn.execute("INSERT INTO t VALUES (2)")

    with Router(cluster.dsn, writer=ONE) as router:
        with pytest.raises(psycopg.ProgrammingError, match="two-phase transaction prepared"):
            with router.writer() as conn:
                prepare(conn, "left")
        borrow()
        conn = router.getconn("writer")
        prepare(conn, "put")
        router.putconn(conn)
        borrow()
    assert node.execute("SELECT gid FROM pg_prepared_xacts ORDER BY 1") == [("left",), ("put",)]
    for gid in ("left", "put"):
        node.execute(f"ROLLBACK PREPARED '{gid}'")
    assert node.execute("SELECT number FROM t") == [(2,), (2,)]
