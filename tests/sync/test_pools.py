# Generated from tests/aio/test_pools.py by .ci/unasync.py: edit that file, not this one.
"""The pools: what they hold at the servers, what they do when they are full, and what they tell."""

from __future__ import annotations

import threading
import time
from typing import Any

import psycopg
import psycopg_pool
import pytest
from psycopg.pq import TransactionStatus

from pgroute import (
    Router,
    ConfigError,
    Event,
    EventKind,
    HostKey,
    NoHostAvailable,
    PoolExhausted,
    PoolOptions,
    Role,
)
from pgroute.testing import LocalCluster, Node
from tests.sync.workload import key
from tests.support import Background, call, eventually, within

pytestmark = pytest.mark.cluster

ONE = PoolOptions(max_size=1)
LATE = 0.1
"""Seconds by which a deadline may be passed on a busy machine."""


def names(node: Node) -> list[str]:
    """Return the application names of the clients' sessions at a server."""
    rows = node.execute(
        "SELECT application_name FROM pg_stat_activity WHERE backend_type = 'client backend'"
        " AND application_name <> 'pgroute-testing'"
    )
    return sorted(name for (name,) in rows)


def pid_of(router: Router[Any], timeout: float | None = None) -> int:
    with router.writer(timeout) as conn:
        return int(conn.info.backend_pid)


# Connections at the servers.


def test_a_process_that_only_writes_has_one_probe_connection_at_each_standby(
    shared: LocalCluster,
) -> None:
    with Router(shared.dsn, kwargs={"application_name": "shop"}) as router:
        for _ in range(20):
            pid_of(router)
        eventually(lambda: all(host.usable for host in router.topology.hosts))
        primary, *standbys = shared.nodes
        assert names(primary) == ["shop", "shop pgroute-monitor"]
        assert [names(node) for node in standbys] == [["shop pgroute-monitor"]] * 2


def test_a_new_pool_opens_one_connection_and_min_size_follows(shared: LocalCluster) -> None:
    options = PoolOptions(min_size=4, kwargs={"application_name": "pooled"})
    with Router(shared.dsn, writer=options) as router:
        pid_of(router)
        eventually(lambda: names(shared.primary).count("pooled") == 4)


def test_a_pool_with_min_size_0_serves(shared: LocalCluster) -> None:
    with Router(shared.dsn, writer=PoolOptions(min_size=0)) as router:
        assert pid_of(router) == pid_of(router)


def test_a_pool_grows_no_further_than_max_size(shared: LocalCluster) -> None:
    options = PoolOptions(max_size=3, kwargs={"application_name": "pooled"})
    done = threading.Event()

    def hold(router: Router[Any]) -> None:
        with router.writer():
            eventually(done.is_set)

    with Router(shared.dsn, writer=options) as router, Background() as background:
        holders = [background.start(hold, router) for _ in range(8)]

        def asked_and_waiting() -> tuple[Any, Any]:
            stats = router.get_stats()["writer"]
            return stats.get("requests_num"), stats.get("requests_waiting")

        eventually(lambda: asked_and_waiting() == (8, 5))
        assert names(shared.primary).count("pooled") == 3
        done.set()
        for holder in holders:
            holder.result()


# Full pools.


def test_a_full_pool_is_told_at_the_deadline_with_sizes_users_and_waiters(
    shared: LocalCluster,
) -> None:
    def late(router: Router[Any]) -> tuple[float, str]:
        asked_at = time.monotonic()
        with pytest.raises(PoolExhausted) as caught:
            pid_of(router, 0.3)
        assert isinstance(caught.value, psycopg_pool.PoolTimeout)
        return time.monotonic() - asked_at, str(caught.value)

    with (
        Router(shared.dsn, writer=PoolOptions(max_size=2)) as router,
        router.writer(),
        router.writer(),
        Background() as background,
    ):
        callers = [background.start(late, router) for _ in range(3)]
        results = [caller.result() for caller in callers]
    assert all(0.3 <= waited < within(0.3 + LATE) for waited, _ in results)
    assert all(str(key(shared.nodes[0])) in text for _, text in results)
    assert all("2 of max_size 2 connections in use, " in text for _, text in results)
    assert all("waiting" in text for _, text in results)


def test_a_deadline_beyond_the_next_routing_is_kept_too(shared: LocalCluster) -> None:
    with Router(shared.dsn, writer=ONE) as router, router.writer():
        asked_at = time.monotonic()
        with pytest.raises(PoolExhausted):
            pid_of(router, 1.3)
        assert 1.3 <= time.monotonic() - asked_at < within(1.3 + LATE)


def test_who_waits_is_served_when_a_session_ends(shared: LocalCluster) -> None:
    with (
        Router(shared.dsn, writer=ONE) as router,
        Background() as background,
    ):
        conn = router.getconn("writer")
        waiters = [background.start(pid_of, router) for _ in range(5)]
        eventually(lambda: router.get_stats()["writer"].get("requests_waiting") == 5)
        returned_at = time.monotonic()
        router.putconn(conn)
        pids = {waiter.result() for waiter in waiters}
        assert time.monotonic() - returned_at < within(0.2)
        assert len(pids) == 1


def test_who_would_queue_beyond_max_waiting_is_told_at_once(shared: LocalCluster) -> None:
    options = PoolOptions(max_size=1, max_waiting=1)
    with Router(shared.dsn, writer=options) as router, Background() as background:
        conn = router.getconn("writer")
        waiter = background.start(pid_of, router)
        eventually(lambda: router.get_stats()["writer"].get("requests_waiting") == 1)
        asked_at = time.monotonic()
        with pytest.raises(PoolExhausted):
            pid_of(router, 5.0)
        assert time.monotonic() - asked_at < within(LATE)
        router.putconn(conn)
        waiter.result()


def test_timeout_0_takes_what_is_idle(shared: LocalCluster) -> None:
    with Router(shared.dsn, writer=ONE) as router:
        pid = pid_of(router)
        assert pid_of(router, 0) == pid


def test_timeout_0_does_not_wait_for_a_full_pool(shared: LocalCluster) -> None:
    with Router(shared.dsn, writer=ONE) as router, router.writer():
        asked_at = time.monotonic()
        with pytest.raises(PoolExhausted):
            pid_of(router, 0)
        assert time.monotonic() - asked_at < within(LATE)


def test_full_reader_pools_do_not_keep_a_writer_waiting(shared: LocalCluster) -> None:
    with Router(shared.dsn, reader=ONE) as router:
        eventually(lambda: all(host.usable for host in router.topology.hosts))
        held = [router.getconn("reader") for _ in range(2)]
        asked_at = time.monotonic()
        pid_of(router)
        assert time.monotonic() - asked_at < within(0.5)
        for conn in held:
            router.putconn(conn)


def test_a_reader_goes_to_the_other_standby_when_one_is_full(shared: LocalCluster) -> None:
    with Router(shared.dsn, reader=ONE, reader_attrs="standby") as router:
        eventually(lambda: all(host.usable for host in router.topology.hosts))
        held = [router.getconn("reader", timeout=2.0) for _ in range(2)]
        assert {conn.info.port for conn in held} == {node.port for node in shared.nodes[1:]}
        for conn in held:
            router.putconn(conn)


# The primitives.


def test_getconn_and_putconn_are_a_session_without_its_end(shared: LocalCluster, table: str) -> None:
    with Router(shared.dsn, writer=ONE) as router:
        conn = router.getconn("writer")
        conn.execute(f"INSERT INTO {table} VALUES (1)")
        conn.commit()
        router.putconn(conn)
        assert router.getconn("writer") is conn
        router.putconn(conn)
    assert shared.primary.execute(f"SELECT number FROM {table}") == [(1,)]


def test_putconn_rolls_an_open_transaction_back(shared: LocalCluster, table: str) -> None:
    with Router(shared.dsn, writer=ONE) as router:
        conn = router.getconn("writer")
        conn.execute(f"INSERT INTO {table} VALUES (1)")
        router.putconn(conn)
        with router.writer() as again:
            assert again is conn
            assert conn.pgconn.transaction_status == psycopg.pq.TransactionStatus.IDLE
    assert shared.primary.execute(f"SELECT number FROM {table}") == []


def test_putconn_takes_a_broken_connection(shared: LocalCluster) -> None:
    with Router(shared.dsn, writer=ONE) as router:
        conn = router.getconn("writer")
        with pytest.raises(psycopg.errors.AdminShutdown):
            conn.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        router.putconn(conn)
        pid_of(router, 2.0)


def test_getconn_knows_two_roles(shared: LocalCluster) -> None:
    with Router(shared.dsn) as router:
        conn = router.getconn("reader")
        assert conn.info.port in {node.port for node in shared.nodes[1:]}
        router.putconn(conn)
        with pytest.raises(ConfigError, match="'writer' or 'reader'"):
            router.getconn("primary")  # type: ignore[arg-type]


def test_putconn_refuses_a_connection_that_is_not_ours(shared: LocalCluster) -> None:
    with (
        Router(shared.dsn) as router,
        Router(shared.dsn) as other,
        psycopg.Connection.connect(shared.primary.conninfo) as strange,
        other.writer() as theirs,
    ):
        for conn in (strange, theirs):
            with pytest.raises(ValueError, match="not a connection taken from"):
                router.putconn(conn)
        theirs.execute("SELECT 1")


def test_putconn_repeats_no_password(shared: LocalCluster) -> None:
    given: Any = "postgresql://app:hunter2@db1/shop"
    with Router(shared.dsn) as router:
        with pytest.raises(ValueError, match="not a connection taken from") as caught:
            router.putconn(given)
    assert "hunter2" not in str(caught.value)


def test_putconn_refuses_a_connection_that_is_back_already(shared: LocalCluster) -> None:
    with Router(shared.dsn) as router:
        conn = router.getconn("writer")
        router.putconn(conn)
        with pytest.raises(ValueError, match="not a connection taken from"):
            router.putconn(conn)
        assert pid_of(router, 1.0) == conn.info.backend_pid


def test_a_connection_is_put_back_though_a_statement_of_another_is_running(
    shared: LocalCluster,
) -> None:
    with (
        Router(shared.dsn, writer=PoolOptions(max_size=1)) as router,
        Background() as background,
    ):
        conn = router.getconn("writer")
        pid, asked_at = conn.info.backend_pid, time.monotonic()
        sleep = background.start(conn.execute, "SELECT pg_sleep(20)")
        eventually(lambda: conn.pgconn.transaction_status == TransactionStatus.ACTIVE)
        router.putconn(conn)
        with pytest.raises(psycopg.OperationalError):
            sleep.result()
        assert time.monotonic() - asked_at < within(10.0)
        call(shared.primary.execute, f"SELECT pg_terminate_backend({pid})")
        with router.writer() as conn:
            conn.execute("SELECT 1")


def is_free(lock: Any) -> bool:
    if not lock.acquire(timeout=5.0):
        return False
    lock.release()
    return True


@pytest.mark.parametrize("change", ["expire", "resize"])
def test_all_pools_are_changed_without_the_lock_that_close_takes(
    shared: LocalCluster, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    with Router(shared.dsn) as router, Background() as background:
        with router.writer():
            pass
        role_pool = router._manager.pools[Role.WRITER]
        [pool] = role_pool._pools.values()
        begun, real = threading.Event(), getattr(pool, change)

        def noted(*args: Any) -> None:
            begun.set()
            real(*args)

        monkeypatch.setattr(pool, change, noted)
        arguments = (1, 2) if change == "resize" else ()
        with pool._lock:
            work = background.start(call, getattr(role_pool, change), *arguments)
            eventually(begun.is_set)
            assert call(is_free, role_pool._lock)
        work.result()


def test_of_two_that_put_a_connection_back_at_the_same_time_one_is_refused(
    shared: LocalCluster,
) -> None:
    def put(router: Router[Any], conn: Any) -> bool:
        try:
            router.putconn(conn)
        except ValueError:
            return False
        return True

    with (
        Router(shared.dsn, writer=PoolOptions(max_size=1)) as router,
        Background() as background,
    ):
        for _ in range(20):
            conn = router.getconn("writer")
            conn.execute("SELECT 1")  # a ROLLBACK follows, for whose answer the other does not wait
            works = [background.start(put, router, conn) for _ in range(2)]
            assert sorted([work.result() for work in works]) == [False, True]
            conn = router.getconn("writer")
            assert put(router, conn)
            assert router.stats().writer.totals["pool_available"] == 1


# Waiting for a role.


def test_wait_returns_when_a_session_could_be_had(shared: LocalCluster) -> None:
    with Router(shared.dsn) as router:
        router.wait()
        router.wait("reader")
        assert router.get_stats()["writer"]["pool_available"] == 1


def test_wait_raises_as_a_session_would_and_closes_nothing(mended: LocalCluster) -> None:
    for node in mended.nodes:
        node.stop()
    with Router(mended.dsn) as router:
        with pytest.raises(NoHostAvailable):
            router.wait(timeout=0.1)
        call(mended.nodes[0].start)
        router.wait(timeout=5.0)
        pid_of(router)


def test_opening_may_wait_for_a_writer(shared: LocalCluster) -> None:
    router = Router(shared.dsn)
    router.open(wait=True)
    assert router.topology.primary is not None
    pid_of(router, 0)
    router.close()


def test_opening_needs_no_host(mended: LocalCluster) -> None:
    for node in mended.nodes:
        node.stop()
    router = Router(mended.dsn)
    opened_at = time.monotonic()
    router.open()
    assert time.monotonic() - opened_at < within(0.5)
    with pytest.raises(NoHostAvailable):
        router.open(wait=True, timeout=0.1)
    call(mended.nodes[0].start)
    pid_of(router, 5.0)
    router.close()


# What is counted and told.


def test_statistics_have_the_keys_of_psycopg_pool(shared: LocalCluster) -> None:
    with Router(shared.dsn) as router:
        with router.writer():
            stats = router.get_stats()
        assert stats["writer"]["pool_min"] == 1
        assert stats["writer"]["pool_max"] == 10
        assert stats["writer"]["pool_size"] == 1
        assert stats["writer"]["pool_available"] == 0
        assert stats["writer"]["requests_num"] == 1
        assert stats["writer"]["connections_num"] == 1
        assert stats["reader"]["requests_waiting"] == 0
        pid_of(router)
        assert router.get_stats()["writer"]["requests_num"] == 2


def test_statistics_by_role_and_host(shared: LocalCluster) -> None:
    with Router(shared.dsn) as router:
        with router.writer():
            stats = router.stats()
        assert list(stats.writer.hosts) == [key(shared.nodes[0])]
        assert stats.writer.hosts[key(shared.nodes[0])]["in_use"] == 1
        assert stats.reader.hosts == {}
        assert router.stats().writer.hosts[key(shared.nodes[0])]["in_use"] == 0


def test_counters_outlive_the_pool_they_were_counted_in(any_cluster: LocalCluster) -> None:
    with Router(any_cluster.dsn) as router:
        for _ in range(5):
            pid_of(router)
        call(any_cluster.primary.kill)
        call(any_cluster.promote, repoint=False)
        pid_of(router)
        assert router.get_stats()["writer"]["requests_num"] >= 6
        eventually(lambda: len(router.stats().writer.hosts) == 1)


def test_a_subscriber_is_told_the_events_in_order(shared: LocalCluster) -> None:
    events: list[Event] = []
    threads: set[str] = set()

    def note(event: Event) -> None:
        events.append(event)
        threads.add(threading.current_thread().name)

    router = Router(shared.dsn)
    router.subscribe(note)
    router.open(wait=True)
    eventually(lambda: all(host.usable for host in router.topology.hosts))
    router.close()
    assert threads == {"pgroute-events"}
    assert [event.at for event in events] == sorted(event.at for event in events)
    changed = {event.host for event in events if event.kind is EventKind.HOST_CHANGED}
    assert changed == {key(node) for node in shared.nodes}
    [primary] = [event for event in events if event.kind is EventKind.PRIMARY_CHANGED]
    assert primary.host == key(shared.nodes[0])
    assert str(primary) == f"primary is {primary.host}, timeline 1"


def an_event(number: int) -> Event:
    return Event(EventKind.HOST_CHANGED, float(number), HostKey("h", 1), f"event {number}")


def test_a_subscriber_that_unsubscribed_is_told_no_more(shared: LocalCluster) -> None:
    first: list[Event] = []
    second: list[Event] = []
    with Router(shared.dsn) as router:
        leave = router.subscribe(first.append)
        router.subscribe(second.append)
        router._manager.dispatcher.put((an_event(1),))
        eventually(lambda: any(event.text == "event 1" for event in second))
        leave()
        leave()
        router._manager.dispatcher.put((an_event(2),))
        eventually(lambda: any(event.text == "event 2" for event in second))
    assert any(event.text == "event 1" for event in first)
    assert not any(event.text == "event 2" for event in first)


@pytest.mark.parametrize("error", [KeyError, SystemExit])
def test_a_subscriber_that_fails_does_not_keep_others_from_hearing(
    shared: LocalCluster, caplog: pytest.LogCaptureFixture, error: type[BaseException]
) -> None:
    heard: list[Event] = []

    def fail(event: Event) -> None:
        raise error(event.text)

    with Router(shared.dsn) as router:
        router.subscribe(fail)
        router.subscribe(heard.append)
        router._manager.dispatcher.put((an_event(1),))
        eventually(lambda: any(event.text == "event 1" for event in heard))
    assert "a subscriber failed on event 1" in caplog.text


def test_a_slow_subscriber_holds_nothing_up_and_misses_events(shared: LocalCluster) -> None:
    go_on = threading.Event()
    heard: list[Event] = []

    def slow(event: Event) -> None:
        go_on.wait(30)
        heard.append(event)

    with Router(shared.dsn) as router:
        router.subscribe(slow)
        for number in range(1500):
            router._manager.dispatcher.put((an_event(number),))
        pid_of(router)
        assert router.stats().events_dropped >= 499
        go_on.set()
        eventually(lambda: len(heard) >= 1000)
    numbers = [event.at for event in heard if event.host == HostKey("h", 1)]
    assert numbers == sorted(numbers)


def test_a_subscriber_must_be_callable() -> None:
    with pytest.raises(ConfigError, match="fn"):
        Router("host=localhost").subscribe("print")  # type: ignore[arg-type]
