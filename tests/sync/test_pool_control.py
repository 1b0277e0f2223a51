# Generated from tests/aio/test_pool_control.py by .ci/unasync.py: edit that file, not this one.
"""What an operator does to pools in use: resize, expire, drain and readmit, close at once."""

from __future__ import annotations

import threading
import time
from typing import Any

import psycopg
import pytest

from pgroute import (
    Router,
    CommitUnknown,
    ConfigError,
    Event,
    EventKind,
    HostKey,
    HostState,
    NoHostAvailable,
    PoolOptions,
    ProbeOptions,
    RouterClosed,
    SessionLost,
)
from pgroute.testing import LocalCluster, Node
from tests.sync.workload import key, state
from tests.support import Background, call, eventually, dsn_at, within

pytestmark = [pytest.mark.cluster, pytest.mark.long]

QUICK = ProbeOptions(interval=0.05)
EMPTY = PoolOptions(min_size=0, max_size=1)


def backends(node: Node, name: str) -> set[int]:
    """Return the processes that serve sessions of that application name at a server."""
    rows = node.execute(
        "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend'"
        f" AND application_name = '{name}'"
    )
    return {int(pid) for (pid,) in rows}


def named(name: str, **options: Any) -> PoolOptions:
    return PoolOptions(kwargs={"application_name": name}, **options)


def measures(router: Router[Any], role: str = "writer") -> dict[str, int]:
    return router.get_stats()[role]


def pid_of(router: Router[Any], timeout: float | None = None) -> int:
    with router.writer(timeout) as conn:
        return int(conn.info.backend_pid)


def port_of(router: Router[Any], timeout: float | None = None) -> int:
    with router.reader(timeout) as conn:
        return int(conn.info.port)


def all_known(router: Router[Any]) -> None:
    eventually(lambda: all(host.usable for host in router.topology.hosts))


# Sizes.


def test_a_larger_pool_serves_those_who_queue(shared: LocalCluster) -> None:
    with Router(shared.dsn, writer=EMPTY) as router, Background() as background:
        held = router.getconn("writer")

        def hold() -> Any:
            return router.getconn("writer")

        waiters = [background.start(hold) for _ in range(4)]
        eventually(lambda: measures(router)["requests_waiting"] == 4)
        router.resize("writer", max_size=5)
        conns = [waiter.result() for waiter in waiters]
        assert len({conn.info.backend_pid for conn in (held, *conns)}) == 5
        assert (measures(router)["pool_max"], measures(router)["pool_size"]) == (5, 5)
        for conn in (held, *conns):
            router.putconn(conn)


def test_a_smaller_pool_loses_idle_connections_at_once_and_others_when_they_come_back(
    shared: LocalCluster,
) -> None:
    with Router(shared.dsn, writer=named("shrinks", max_size=5)) as router:
        held = [router.getconn("writer") for _ in range(5)]
        for conn in held[:2]:
            router.putconn(conn)
        router.resize("writer", max_size=2)
        eventually(lambda: len(backends(shared.primary, "shrinks")) == 3)
        for conn in held[2:]:
            conn.execute("SELECT 1")
            router.putconn(conn)
        eventually(lambda: len(backends(shared.primary, "shrinks")) == 2)
        assert measures(router)["pool_size"] == 2
        assert pid_of(router) in {conn.info.backend_pid for conn in held[3:]}


def test_who_queues_at_a_pool_that_gets_smaller_is_served(shared: LocalCluster) -> None:
    with Router(shared.dsn, writer=PoolOptions(max_size=3)) as router, Background() as bg:
        held = [router.getconn("writer") for _ in range(3)]
        waiters = [bg.start(pid_of, router) for _ in range(4)]
        eventually(lambda: measures(router)["requests_waiting"] == 4)
        router.resize("writer", min_size=0, max_size=1)
        for conn in held:
            router.putconn(conn)
        pids = {waiter.result() for waiter in waiters}
        assert pids == {held[-1].info.backend_pid}


def test_a_larger_min_size_is_opened(shared: LocalCluster) -> None:
    with Router(shared.dsn, writer=named("grows")) as router:
        pid_of(router)
        router.resize("writer", min_size=4)
        eventually(lambda: len(backends(shared.primary, "grows")) == 4)
        assert measures(router)["pool_min"] == 4


def test_pools_that_are_opened_later_have_the_new_sizes(shared: LocalCluster) -> None:
    with Router(shared.dsn, reader=PoolOptions(max_size=7)) as router:
        router.resize("reader", min_size=0, max_size=3)
        all_known(router)
        port_of(router)
        assert (measures(router, "reader")["pool_min"], measures(router, "reader")["pool_max"]) == (0, 3)


def test_readers_on_the_primary_keep_their_own_limit(shared: LocalCluster) -> None:
    options = PoolOptions(min_size=0, max_size=4, max_size_on_primary=2)
    with Router(shared.primary.conninfo, reader=options) as router:
        port_of(router)
        for size in (8, 2, 4):
            router.resize("reader", max_size=size)
            assert measures(router, "reader")["pool_max"] == 2
        with pytest.raises(ConfigError, match="at least max_size_on_primary, which is 2") as caught:
            router.resize("reader", max_size=1)
        assert caught.value.parameter == "max_size"
        assert measures(router, "reader")["pool_max"] == 2


@pytest.mark.parametrize(
    ("sizes", "parameter", "text"),
    [
        ({}, "min_size", "min_size, max_size or both"),
        ({"max_size": 0}, "max_size", "at least 1"),
        ({"max_size": 1}, "max_size", "at least min_size, which is 2"),
        ({"min_size": 11}, "min_size", "at most max_size, which is 10"),
        ({"min_size": -1}, "min_size", "at least 0"),
        ({"min_size": 5, "max_size": 4}, "max_size", "at least min_size, which is 5"),
        ({"max_size": 2.5}, "max_size", "a whole number"),
        ({"max_size": True}, "max_size", "a whole number"),
        ({"min_size": "3"}, "min_size", "a whole number"),
    ],
)
def test_sizes_that_make_no_sense_are_refused_and_change_nothing(
    shared: LocalCluster, sizes: dict[str, Any], parameter: str, text: str
) -> None:
    with Router(shared.dsn, writer=PoolOptions(min_size=2)) as router:
        pid_of(router)
        with pytest.raises(ConfigError, match=text) as caught:
            router.resize("writer", **sizes)
        assert caught.value.parameter == parameter
        assert (measures(router)["pool_min"], measures(router)["pool_max"]) == (2, 10)


# Replacement.


def test_expired_connections_are_replaced_idle_ones_at_once(shared: LocalCluster) -> None:
    with Router(shared.dsn, writer=named("expires", min_size=0)) as router:
        held = [router.getconn("writer") for _ in range(4)]
        for conn in held[1:]:
            router.putconn(conn)
        before = backends(shared.primary, "expires")
        router.expire()
        pid = pid_of(router)
        assert pid not in before

        def replaced() -> bool:
            now = backends(shared.primary, "expires")
            return len(now) == 4 and now & before == {held[0].info.backend_pid}

        eventually(replaced)
        held[0].execute("SELECT 1")
        router.putconn(held[0])

        def all_replaced() -> bool:
            now = backends(shared.primary, "expires")
            return len(now) == 4 and not now & before

        eventually(all_replaced)


def test_one_role_expires_alone(shared: LocalCluster) -> None:
    with Router(shared.dsn, reader=PoolOptions(), reader_attrs="any", balance="ordered") as router:
        all_known(router)
        with router.reader() as conn:
            reads = conn.info.backend_pid
        writes = pid_of(router)
        router.expire("writer")
        assert pid_of(router) != writes
        with router.reader() as conn:
            assert conn.info.backend_pid == reads
        with pytest.raises(ConfigError, match="'writer' or 'reader'"):
            router.expire("primary")  # type: ignore[arg-type]


def test_who_queues_gets_a_replacement(shared: LocalCluster) -> None:
    with Router(shared.dsn, writer=EMPTY) as router, Background() as background:
        held = router.getconn("writer")
        pid = held.info.backend_pid
        waiter = background.start(pid_of, router)
        eventually(lambda: measures(router)["requests_waiting"] == 1)
        router.expire("writer")
        router.putconn(held)
        assert waiter.result() != pid


# Drained hosts.


def test_a_drained_standby_gets_no_session_and_its_idle_connections_close(
    shared: LocalCluster,
) -> None:
    _, first, second = shared.nodes
    events: list[Event] = []
    with Router(shared.dsn, reader=named("drained"), probe=QUICK) as router:
        router.subscribe(events.append)
        all_known(router)
        router.wait(readers=2)
        held = router.getconn("reader")
        there, other = (first, second) if held.info.port == first.port else (second, first)
        router.drain(str(key(there)))
        assert {port_of(router) for _ in range(20)} == {other.port}
        assert eventually(lambda: backends(there, "drained") == {held.info.backend_pid})
        held.execute("SELECT 1")
        host = router.topology.host(key(there))
        assert host is not None
        assert (host.state, host.drained, host.usable) == (HostState.DRAINED, True, False)
        assert "drained by the operator" in str(router.topology)
        seen = host.last_seen
        eventually(
            lambda: (router.topology.by_key[key(there)].last_seen or 0) > (seen or 0) + 0.1
        )
        assert state(router, there) is HostState.DRAINED
        router.putconn(held)
        eventually(lambda: not backends(there, "drained"))
        router.readmit(key(there))
        router.drain(key(other))
        assert {port_of(router) for _ in range(5)} == {there.port}
    changed = [e for e in events if e.kind is EventKind.HOST_CHANGED and e.host == key(there)]
    assert any("standby up -> standby drained" in e.text for e in changed)


def test_who_waits_for_a_session_at_a_host_gets_none_there_once_it_is_drained(
    shared: LocalCluster,
) -> None:
    primary, standby, _ = shared.nodes
    dsn = dsn_at(f"{primary.host}:{primary.port},{standby.host}:{standby.port}", shared)
    with Router(dsn, reader=EMPTY, probe=QUICK) as router, Background() as background:
        all_known(router)
        held = router.getconn("reader")
        assert held.info.port == standby.port
        waiting = background.start(router.getconn, "reader")
        eventually(lambda: measures(router, "reader")["requests_waiting"] == 1)
        reconciler = router._manager.lifecycle.reconciler
        assert reconciler is not None
        reconciler._pools = {}  # as if it did not run before the session is given back
        router.drain(key(standby))
        router.putconn(held)
        conn = waiting.result()
        assert conn.info.port == primary.port
        router.putconn(conn)


def test_a_drained_primary_makes_writers_wait_until_it_is_readmitted(
    shared: LocalCluster, table: str
) -> None:
    primary = key(shared.primary)
    with Router(shared.dsn) as router, Background() as background:
        with router.writer() as conn:
            conn.execute(f"INSERT INTO {table} VALUES (1)")
            router.drain(primary)
            with pytest.raises(NoHostAvailable, match=r"primary, drained for .*: drained by the operator"):
                pid_of(router, 0.2)
            waiter = background.start(pid_of, router)
            all_but(router, primary)
        port_of(router)
        assert not waiter.done()
        router.readmit(primary)
        waiter.result()
        with router.writer() as conn:
            rows = (conn.execute(f"SELECT number FROM {table}")).fetchall()
        assert rows == [(1,)]


def all_but(router: Router[Any], drained: HostKey) -> None:
    eventually(lambda: all(h.usable is (h.key != drained) for h in router.topology.hosts))


def test_writers_go_to_a_promoted_standby_while_the_old_primary_is_drained(
    any_cluster: LocalCluster,
) -> None:
    old = any_cluster.primary
    with Router(any_cluster.dsn) as router, Background() as background:
        pid_of(router)
        all_known(router)
        router.drain(f"{old.host}:{old.port}")
        waiter = background.start(pid_of, router)
        call(old.stop, "fast")
        new = call(any_cluster.promote)
        waiter.result()
        call(old.rejoin, new)
        eventually(lambda: state(router, old) is HostState.DRAINED)
        with router.writer() as conn:
            assert conn.info.port == new.port
        assert old.port not in {port_of(router) for _ in range(10)}
        router.readmit(key(old))
        eventually(lambda: router.topology.by_key[key(old)].usable)


@pytest.mark.parametrize("host", ["elsewhere", "", None, 5432, HostKey("elsewhere", 5432)])
def test_an_unknown_host_is_refused_with_the_list(shared: LocalCluster, host: Any) -> None:
    with Router(shared.dsn) as router:
        for do in (router.drain, router.readmit):
            with pytest.raises(ConfigError, match=str(shared.nodes[1].port)) as caught:
                do(host)
            assert caught.value.parameter == "host"
        router.readmit(key(shared.nodes[1]))  # was not drained


def test_a_router_that_is_not_open_refuses_all_of_it(shared: LocalCluster) -> None:
    router = Router(shared.dsn)

    def check() -> None:
        with pytest.raises(RouterClosed):
            router.resize("writer", max_size=3)
        with pytest.raises(RouterClosed):
            router.expire()
        with pytest.raises(RouterClosed):
            router.drain(key(shared.primary))
        with pytest.raises(RouterClosed):
            router.readmit(key(shared.primary))
        with pytest.raises(RouterClosed):
            router.wait(writers=1)
        with pytest.raises(RouterClosed):
            router.getconn("writer", key="k")

    check()
    router.open()
    router.close()
    check()


# Under load.


class Load:
    """Transactions in several tasks or threads that go on until told to stop."""

    def __init__(self, router: Router[Any], table: str) -> None:
        self.router = router
        self.table = table
        self.stop = threading.Event()
        self.failed: list[BaseException] = []
        self.done = 0

    def write(self, worker: int) -> None:
        number = worker * 1_000_000
        while not self.stop.is_set():
            number += 1
            self._once(self._insert, "writer", number)

    def read(self) -> None:
        while not self.stop.is_set():
            self._once(self._count, "reader")

    def _once(self, body: Any, role: Any, *args: Any) -> None:
        try:
            self.router.run(body, *args, role=role)
            self.done += 1
        except CommitUnknown:
            self.done += 1  # an honest answer, which no pool can prevent
        except BaseException as exc:  # noqa: BLE001
            self.failed.append(exc)

    def _insert(self, conn: Any, number: int) -> None:
        conn.execute(f"INSERT INTO {self.table} VALUES (%s)", [number])

    def _count(self, conn: Any) -> None:
        conn.execute("SELECT count(*) FROM pg_class")

    def more(self, count: int = 100) -> None:
        """Wait until so many more have ended."""
        target = self.done + count
        eventually(lambda: self.done >= target or self.failed, 30.0)


@pytest.mark.long
def test_no_session_fails_while_pools_are_resized_expired_and_drained_amid_a_failover(
    any_cluster: LocalCluster,
) -> None:
    any_cluster.primary.execute("CREATE TABLE numbers (number int PRIMARY KEY)")
    any_cluster.catch_up()
    first, second, third = any_cluster.nodes
    with (
        Router(
            any_cluster.dsn, writer=PoolOptions(max_size=6), reader=PoolOptions(max_size=6)
        ) as router,
        Background() as background,
    ):
        all_known(router)
        load = Load(router, "numbers")
        workers = [background.start(load.write, number) for number in range(4)]
        workers += [background.start(load.read) for _ in range(4)]

        def operate() -> None:
            for size in (1, 6, 2, 4):
                router.resize("writer", min_size=min(2, size), max_size=size)
                router.resize("reader", min_size=0, max_size=size)
                load.more(50)
                router.expire()
                load.more(50)

        operate()
        for node in (second, third, first):
            router.drain(key(node))
            if node is not first:
                load.more()
            router.readmit(key(node))
            load.more()
        call(first.kill)
        router.resize("writer", max_size=2)
        router.expire()
        new = call(any_cluster.promote)
        load.more()
        operate()
        router.drain(key(new))
        router.expire("writer")
        router.readmit(key(new))
        load.more()
        load.stop.set()
        for worker in workers:
            worker.result()
        assert not load.failed
        assert router.get_stats()["writer"]["requests_waiting"] == 0


# Closing.


def test_closing_at_once_aborts_what_is_in_flight_and_tells_who_waits(shared: LocalCluster) -> None:
    noticed = {"client_connection_check_interval": "100ms"}  # or the server would go on sleeping
    router = Router(shared.dsn, writer=PoolOptions(max_size=1, settings=noticed))
    router.open()

    def sleep() -> None:
        with router.writer() as conn:
            conn.execute("SELECT pg_sleep(60)")

    with Background() as background:
        sleeper = background.start(sleep)
        eventually(lambda: measures(router).get("pool_size") == 1)
        waiter = background.start(pid_of, router)
        eventually(lambda: measures(router)["requests_waiting"] == 1)
        begun = time.monotonic()
        router.close(timeout=0)
        assert time.monotonic() - begun < within(1.0)
        with pytest.raises(psycopg.OperationalError) as caught:
            sleeper.result()
        assert not isinstance(caught.value, CommitUnknown)
        with pytest.raises(RouterClosed):
            waiter.result()


def test_a_transaction_in_flight_is_not_committed_by_closing_at_once(
    shared: LocalCluster, table: str
) -> None:
    router = Router(shared.dsn)
    router.open()
    with pytest.raises(SessionLost):
        with router.writer() as conn:
            conn.execute(f"INSERT INTO {table} VALUES (1)")
            router.close(timeout=0)
    assert shared.primary.execute(f"SELECT count(*) FROM {table}") == [(0,)]
