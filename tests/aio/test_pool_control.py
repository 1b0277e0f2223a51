"""What an operator does to pools in use: resize, expire, drain and readmit, close at once."""

from __future__ import annotations

import threading
import time
from typing import Any

import psycopg
import pytest

from pgroute import (
    AsyncRouter,
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
from tests.aio.workload import key, state
from tests.support import AsyncBackground, async_call, async_eventually, dsn_at, within

pytestmark = pytest.mark.cluster  # async-only
# sync-only: pytestmark = [pytest.mark.cluster, pytest.mark.long]

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


def measures(router: AsyncRouter[Any], role: str = "writer") -> dict[str, int]:
    return router.get_stats()[role]


async def pid_of(router: AsyncRouter[Any], timeout: float | None = None) -> int:
    async with router.writer(timeout) as conn:
        return int(conn.info.backend_pid)


async def port_of(router: AsyncRouter[Any], timeout: float | None = None) -> int:
    async with router.reader(timeout) as conn:
        return int(conn.info.port)


async def all_known(router: AsyncRouter[Any]) -> None:
    await async_eventually(lambda: all(host.usable for host in router.topology.hosts))


# Sizes.


async def test_a_larger_pool_serves_those_who_queue(shared: LocalCluster) -> None:
    async with AsyncRouter(shared.dsn, writer=EMPTY) as router, AsyncBackground() as background:
        held = await router.getconn("writer")

        async def hold() -> Any:
            return await router.getconn("writer")

        waiters = [background.start(hold) for _ in range(4)]
        await async_eventually(lambda: measures(router)["requests_waiting"] == 4)
        await router.resize("writer", max_size=5)
        conns = [await waiter.result() for waiter in waiters]
        assert len({conn.info.backend_pid for conn in (held, *conns)}) == 5
        assert (measures(router)["pool_max"], measures(router)["pool_size"]) == (5, 5)
        for conn in (held, *conns):
            await router.putconn(conn)


async def test_a_smaller_pool_loses_idle_connections_at_once_and_others_when_they_come_back(
    shared: LocalCluster,
) -> None:
    async with AsyncRouter(shared.dsn, writer=named("shrinks", max_size=5)) as router:
        held = [await router.getconn("writer") for _ in range(5)]
        for conn in held[:2]:
            await router.putconn(conn)
        await router.resize("writer", max_size=2)
        await async_eventually(lambda: len(backends(shared.primary, "shrinks")) == 3)
        for conn in held[2:]:
            await conn.execute("SELECT 1")
            await router.putconn(conn)
        await async_eventually(lambda: len(backends(shared.primary, "shrinks")) == 2)
        assert measures(router)["pool_size"] == 2
        assert await pid_of(router) in {conn.info.backend_pid for conn in held[3:]}


async def test_who_queues_at_a_pool_that_gets_smaller_is_served(shared: LocalCluster) -> None:
    async with AsyncRouter(shared.dsn, writer=PoolOptions(max_size=3)) as router, AsyncBackground() as bg:
        held = [await router.getconn("writer") for _ in range(3)]
        waiters = [bg.start(pid_of, router) for _ in range(4)]
        await async_eventually(lambda: measures(router)["requests_waiting"] == 4)
        await router.resize("writer", min_size=0, max_size=1)
        for conn in held:
            await router.putconn(conn)
        pids = {await waiter.result() for waiter in waiters}
        assert pids == {held[-1].info.backend_pid}


async def test_a_larger_min_size_is_opened(shared: LocalCluster) -> None:
    async with AsyncRouter(shared.dsn, writer=named("grows")) as router:
        await pid_of(router)
        await router.resize("writer", min_size=4)
        await async_eventually(lambda: len(backends(shared.primary, "grows")) == 4)
        assert measures(router)["pool_min"] == 4


async def test_pools_that_are_opened_later_have_the_new_sizes(shared: LocalCluster) -> None:
    async with AsyncRouter(shared.dsn, reader=PoolOptions(max_size=7)) as router:
        await router.resize("reader", min_size=0, max_size=3)
        await all_known(router)
        await port_of(router)
        assert (measures(router, "reader")["pool_min"], measures(router, "reader")["pool_max"]) == (0, 3)


async def test_readers_on_the_primary_keep_their_own_limit(shared: LocalCluster) -> None:
    options = PoolOptions(min_size=0, max_size=4, max_size_on_primary=2)
    async with AsyncRouter(shared.primary.conninfo, reader=options) as router:
        await port_of(router)
        for size in (8, 2, 4):
            await router.resize("reader", max_size=size)
            assert measures(router, "reader")["pool_max"] == 2
        with pytest.raises(ConfigError, match="at least max_size_on_primary, which is 2") as caught:
            await router.resize("reader", max_size=1)
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
async def test_sizes_that_make_no_sense_are_refused_and_change_nothing(
    shared: LocalCluster, sizes: dict[str, Any], parameter: str, text: str
) -> None:
    async with AsyncRouter(shared.dsn, writer=PoolOptions(min_size=2)) as router:
        await pid_of(router)
        with pytest.raises(ConfigError, match=text) as caught:
            await router.resize("writer", **sizes)
        assert caught.value.parameter == parameter
        assert (measures(router)["pool_min"], measures(router)["pool_max"]) == (2, 10)


# Replacement.


async def test_expired_connections_are_replaced_idle_ones_at_once(shared: LocalCluster) -> None:
    async with AsyncRouter(shared.dsn, writer=named("expires", min_size=0)) as router:
        held = [await router.getconn("writer") for _ in range(4)]
        for conn in held[1:]:
            await router.putconn(conn)
        before = backends(shared.primary, "expires")
        await router.expire()
        pid = await pid_of(router)
        assert pid not in before

        def replaced() -> bool:
            now = backends(shared.primary, "expires")
            return len(now) == 4 and now & before == {held[0].info.backend_pid}

        await async_eventually(replaced)
        await held[0].execute("SELECT 1")
        await router.putconn(held[0])

        def all_replaced() -> bool:
            now = backends(shared.primary, "expires")
            return len(now) == 4 and not now & before

        await async_eventually(all_replaced)


async def test_one_role_expires_alone(shared: LocalCluster) -> None:
    async with AsyncRouter(shared.dsn, reader=PoolOptions(), reader_attrs="any", balance="ordered") as router:
        await all_known(router)
        async with router.reader() as conn:
            reads = conn.info.backend_pid
        writes = await pid_of(router)
        await router.expire("writer")
        assert await pid_of(router) != writes
        async with router.reader() as conn:
            assert conn.info.backend_pid == reads
        with pytest.raises(ConfigError, match="'writer' or 'reader'"):
            await router.expire("primary")  # type: ignore[arg-type]


async def test_who_queues_gets_a_replacement(shared: LocalCluster) -> None:
    async with AsyncRouter(shared.dsn, writer=EMPTY) as router, AsyncBackground() as background:
        held = await router.getconn("writer")
        pid = held.info.backend_pid
        waiter = background.start(pid_of, router)
        await async_eventually(lambda: measures(router)["requests_waiting"] == 1)
        await router.expire("writer")
        await router.putconn(held)
        assert await waiter.result() != pid


# Drained hosts.


async def test_a_drained_standby_gets_no_session_and_its_idle_connections_close(
    shared: LocalCluster,
) -> None:
    _, first, second = shared.nodes
    events: list[Event] = []
    async with AsyncRouter(shared.dsn, reader=named("drained"), probe=QUICK) as router:
        router.subscribe(events.append)
        await all_known(router)
        await router.wait(readers=2)
        held = await router.getconn("reader")
        there, other = (first, second) if held.info.port == first.port else (second, first)
        await router.drain(str(key(there)))
        assert {await port_of(router) for _ in range(20)} == {other.port}
        assert await async_eventually(lambda: backends(there, "drained") == {held.info.backend_pid})
        await held.execute("SELECT 1")
        host = router.topology.host(key(there))
        assert host is not None
        assert (host.state, host.drained, host.usable) == (HostState.DRAINED, True, False)
        assert "drained by the operator" in str(router.topology)
        seen = host.last_seen
        await async_eventually(
            lambda: (router.topology.by_key[key(there)].last_seen or 0) > (seen or 0) + 0.1
        )
        assert state(router, there) is HostState.DRAINED
        await router.putconn(held)
        await async_eventually(lambda: not backends(there, "drained"))
        await router.readmit(key(there))
        await router.drain(key(other))
        assert {await port_of(router) for _ in range(5)} == {there.port}
    changed = [e for e in events if e.kind is EventKind.HOST_CHANGED and e.host == key(there)]
    assert any("standby up -> standby drained" in e.text for e in changed)


async def test_who_waits_for_a_session_at_a_host_gets_none_there_once_it_is_drained(
    shared: LocalCluster,
) -> None:
    primary, standby, _ = shared.nodes
    dsn = dsn_at(f"{primary.host}:{primary.port},{standby.host}:{standby.port}", shared)
    async with AsyncRouter(dsn, reader=EMPTY, probe=QUICK) as router, AsyncBackground() as background:
        await all_known(router)
        held = await router.getconn("reader")
        assert held.info.port == standby.port
        waiting = background.start(router.getconn, "reader")
        await async_eventually(lambda: measures(router, "reader")["requests_waiting"] == 1)
        reconciler = router._manager.lifecycle.reconciler
        assert reconciler is not None
        reconciler._pools = {}  # as if it did not run before the session is given back
        await router.drain(key(standby))
        await router.putconn(held)
        conn = await waiting.result()
        assert conn.info.port == primary.port
        await router.putconn(conn)


async def test_a_drained_primary_makes_writers_wait_until_it_is_readmitted(
    shared: LocalCluster, table: str
) -> None:
    primary = key(shared.primary)
    async with AsyncRouter(shared.dsn) as router, AsyncBackground() as background:
        async with router.writer() as conn:
            await conn.execute(f"INSERT INTO {table} VALUES (1)")
            await router.drain(primary)
            with pytest.raises(NoHostAvailable, match=r"primary, drained for .*: drained by the operator"):
                await pid_of(router, 0.2)
            waiter = background.start(pid_of, router)
            await all_but(router, primary)
        await port_of(router)
        assert not waiter.done()
        await router.readmit(primary)
        await waiter.result()
        async with router.writer() as conn:
            rows = await (await conn.execute(f"SELECT number FROM {table}")).fetchall()
        assert rows == [(1,)]


async def all_but(router: AsyncRouter[Any], drained: HostKey) -> None:
    await async_eventually(lambda: all(h.usable is (h.key != drained) for h in router.topology.hosts))


async def test_writers_go_to_a_promoted_standby_while_the_old_primary_is_drained(
    any_cluster: LocalCluster,
) -> None:
    old = any_cluster.primary
    async with AsyncRouter(any_cluster.dsn) as router, AsyncBackground() as background:
        await pid_of(router)
        await all_known(router)
        await router.drain(f"{old.host}:{old.port}")
        waiter = background.start(pid_of, router)
        await async_call(old.stop, "fast")
        new = await async_call(any_cluster.promote)
        await waiter.result()
        await async_call(old.rejoin, new)
        await async_eventually(lambda: state(router, old) is HostState.DRAINED)
        async with router.writer() as conn:
            assert conn.info.port == new.port
        assert old.port not in {await port_of(router) for _ in range(10)}
        await router.readmit(key(old))
        await async_eventually(lambda: router.topology.by_key[key(old)].usable)


@pytest.mark.parametrize("host", ["elsewhere", "", None, 5432, HostKey("elsewhere", 5432)])
async def test_an_unknown_host_is_refused_with_the_list(shared: LocalCluster, host: Any) -> None:
    async with AsyncRouter(shared.dsn) as router:
        for do in (router.drain, router.readmit):
            with pytest.raises(ConfigError, match=str(shared.nodes[1].port)) as caught:
                await do(host)
            assert caught.value.parameter == "host"
        await router.readmit(key(shared.nodes[1]))  # was not drained


async def test_a_router_that_is_not_open_refuses_all_of_it(shared: LocalCluster) -> None:
    router = AsyncRouter(shared.dsn)

    async def check() -> None:
        with pytest.raises(RouterClosed):
            await router.resize("writer", max_size=3)
        with pytest.raises(RouterClosed):
            await router.expire()
        with pytest.raises(RouterClosed):
            await router.drain(key(shared.primary))
        with pytest.raises(RouterClosed):
            await router.readmit(key(shared.primary))
        with pytest.raises(RouterClosed):
            await router.wait(writers=1)
        with pytest.raises(RouterClosed):
            await router.getconn("writer", key="k")

    await check()
    await router.open()
    await router.close()
    await check()


# Under load.


class Load:
    """Transactions in several tasks or threads that go on until told to stop."""

    def __init__(self, router: AsyncRouter[Any], table: str) -> None:
        self.router = router
        self.table = table
        self.stop = threading.Event()
        self.failed: list[BaseException] = []
        self.done = 0

    async def write(self, worker: int) -> None:
        number = worker * 1_000_000
        while not self.stop.is_set():
            number += 1
            await self._once(self._insert, "writer", number)

    async def read(self) -> None:
        while not self.stop.is_set():
            await self._once(self._count, "reader")

    async def _once(self, body: Any, role: Any, *args: Any) -> None:
        try:
            await self.router.run(body, *args, role=role)
            self.done += 1
        except CommitUnknown:
            self.done += 1  # an honest answer, which no pool can prevent
        except BaseException as exc:  # noqa: BLE001
            self.failed.append(exc)

    async def _insert(self, conn: Any, number: int) -> None:
        await conn.execute(f"INSERT INTO {self.table} VALUES (%s)", [number])

    async def _count(self, conn: Any) -> None:
        await conn.execute("SELECT count(*) FROM pg_class")

    async def more(self, count: int = 100) -> None:
        """Wait until so many more have ended."""
        target = self.done + count
        await async_eventually(lambda: self.done >= target or self.failed, 30.0)


@pytest.mark.long
async def test_no_session_fails_while_pools_are_resized_expired_and_drained_amid_a_failover(
    any_cluster: LocalCluster,
) -> None:
    any_cluster.primary.execute("CREATE TABLE numbers (number int PRIMARY KEY)")
    any_cluster.catch_up()
    first, second, third = any_cluster.nodes
    async with (
        AsyncRouter(
            any_cluster.dsn, writer=PoolOptions(max_size=6), reader=PoolOptions(max_size=6)
        ) as router,
        AsyncBackground() as background,
    ):
        await all_known(router)
        load = Load(router, "numbers")
        workers = [background.start(load.write, number) for number in range(4)]
        workers += [background.start(load.read) for _ in range(4)]

        async def operate() -> None:
            for size in (1, 6, 2, 4):
                await router.resize("writer", min_size=min(2, size), max_size=size)
                await router.resize("reader", min_size=0, max_size=size)
                await load.more(50)
                await router.expire()
                await load.more(50)

        await operate()
        for node in (second, third, first):
            await router.drain(key(node))
            if node is not first:
                await load.more()
            await router.readmit(key(node))
            await load.more()
        await async_call(first.kill)
        await router.resize("writer", max_size=2)
        await router.expire()
        new = await async_call(any_cluster.promote)
        await load.more()
        await operate()
        await router.drain(key(new))
        await router.expire("writer")
        await router.readmit(key(new))
        await load.more()
        load.stop.set()
        for worker in workers:
            await worker.result()
        assert not load.failed
        assert router.get_stats()["writer"]["requests_waiting"] == 0


# Closing.


async def test_closing_at_once_aborts_what_is_in_flight_and_tells_who_waits(shared: LocalCluster) -> None:
    noticed = {"client_connection_check_interval": "100ms"}  # or the server would go on sleeping
    router = AsyncRouter(shared.dsn, writer=PoolOptions(max_size=1, settings=noticed))
    await router.open()

    async def sleep() -> None:
        async with router.writer() as conn:
            await conn.execute("SELECT pg_sleep(60)")

    async with AsyncBackground() as background:
        sleeper = background.start(sleep)
        await async_eventually(lambda: measures(router).get("pool_size") == 1)
        waiter = background.start(pid_of, router)
        await async_eventually(lambda: measures(router)["requests_waiting"] == 1)
        begun = time.monotonic()
        await router.close(timeout=0)
        assert time.monotonic() - begun < within(1.0)
        with pytest.raises(psycopg.OperationalError) as caught:
            await sleeper.result()
        assert not isinstance(caught.value, CommitUnknown)
        with pytest.raises(RouterClosed):
            await waiter.result()


async def test_a_transaction_in_flight_is_not_committed_by_closing_at_once(
    shared: LocalCluster, table: str
) -> None:
    router = AsyncRouter(shared.dsn)
    await router.open()
    with pytest.raises(SessionLost):
        async with router.writer() as conn:
            await conn.execute(f"INSERT INTO {table} VALUES (1)")
            await router.close(timeout=0)
    assert shared.primary.execute(f"SELECT count(*) FROM {table}") == [(0,)]
