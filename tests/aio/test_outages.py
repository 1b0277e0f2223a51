"""Some or all hosts are down, and come back."""

from __future__ import annotations

import asyncio  # async-only
import contextlib
import itertools
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest

from pgroute import AsyncRouter, HostState, NoHostAvailable
from pgroute.monitor.dialer import Dialer
from pgroute.testing import LocalCluster, Node
from tests.aio.workload import key, make_table, read, state, write
from tests.support import AsyncBackground, async_call, async_eventually, within

pytestmark = pytest.mark.cluster  # async-only
# sync-only: pytestmark = [pytest.mark.cluster, pytest.mark.long]


def stop_all(cluster: LocalCluster) -> None:
    for node in cluster.nodes:
        node.stop("immediate")


def start_all(cluster: LocalCluster) -> float:
    """Start every node; return when the first, the primary, was ready."""
    for node in cluster.nodes:
        node.start(wait=False)
    cluster.nodes[0].wait_ready()
    return time.monotonic()


class Refuser:
    """A host that accepts each connection only to close it, and counts them."""

    def __init__(self, port: int = 0) -> None:
        self.times: list[float] = []
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while True:
            peer, _ = self._listener.accept()
            peer.close()
            if not self.port:
                return
            self.times.append(time.monotonic())

    def close(self) -> None:
        port, self.port = self.port, 0
        socket.create_connection(("127.0.0.1", port)).close()
        self._thread.join()
        self._listener.close()


@contextlib.contextmanager
def refusers(*ports: int) -> Iterator[list[Refuser]]:
    """Give hosts at these ports, 0 for any."""
    hosts = [Refuser(port) for port in ports]
    try:
        yield hosts
    finally:
        for host in hosts:
            host.close()


async def test_the_deadline_is_honoured_while_all_hosts_are_down(mended: LocalCluster) -> None:
    async with AsyncRouter(mended.dsn) as router, AsyncBackground() as background:
        await router.wait()
        await async_call(stop_all, mended)
        await async_eventually(lambda: all(state(router, n) is HostState.DOWN for n in mended.nodes))

        async def late(timeout: float) -> float:
            asked_at = time.monotonic()
            with pytest.raises(NoHostAvailable) as caught:
                async with router.writer(timeout):
                    pass
            text = str(caught.value)
            assert all(str(node.port) in text for node in mended.nodes)
            assert "Connection refused" in text
            return time.monotonic() - asked_at - timeout

        waiters = [background.start(late, timeout) for timeout in (0.0, 0.2, 0.5, 0.5, 0.5, 0.8)]
        overrun = [await waiter.result() for waiter in waiters]
    print(f"deadlines passed by {max(overrun) * 1000:.0f} ms at most")
    assert min(overrun) >= 0
    assert max(overrun) < within(0.1)


@pytest.mark.parametrize("outage", [1.0, pytest.param(60.0, marks=pytest.mark.long)])
async def test_all_hosts_down_and_back_serves_writers_and_readers_soon(
    mended: LocalCluster, outage: float
) -> None:
    make_table(mended)
    async with (
        AsyncRouter(mended.dsn, acquire_timeout=outage + 30.0) as router,
        AsyncBackground() as background,
    ):
        await router.wait()
        await async_call(stop_all, mended)
        writers = [background.start(write, router, number) for number in range(10)]
        readers = [background.start(read, router) for _ in range(10)]
        begun_at = time.monotonic()
        with refusers(*(node.port for node in mended.nodes)) as hosts:
            await asyncio.sleep(outage)
            tried, took = [len(host.times) for host in hosts], time.monotonic() - begun_at
        ready_at = await async_call(start_all, mended)
        late = max([(await work.result()).ended for work in (*writers, *readers)]) - ready_at
        await async_eventually(lambda: all(state(router, n) is HostState.UP for n in mended.nodes))
    print(f"tried {tried} times in {took:.1f} s; served {late * 1000:.0f} ms after the first was ready")
    assert min(tried) >= 2
    assert max(tried) <= 5 * took + 3, "by the probes, and by each pool before the loss was known"
    assert late < within(1.0), "the longest pause between two attempts is half a second"


async def test_a_router_opens_with_one_of_three_hosts_down(mended: LocalCluster) -> None:
    make_table(mended)
    mended.nodes[2].stop("fast")
    begun_at = time.monotonic()
    async with AsyncRouter(mended.dsn) as router:
        await router.open(wait=True)
        assert time.monotonic() - begun_at < within(1.0)
        assert (await write(router, 1)).port == mended.nodes[0].port
        assert (await read(router)).port == mended.nodes[1].port


async def test_a_router_opens_with_the_primary_down_and_serves_readers(mended: LocalCluster) -> None:
    mended.nodes[0].stop("fast")
    async with AsyncRouter(mended.dsn) as router:
        ports = {(await read(router)).port for _ in range(20)}
        with pytest.raises(NoHostAvailable):
            await write(router, 1, timeout=0.1)
    assert ports <= {node.port for node in mended.nodes[1:]}


async def test_a_router_opens_with_one_of_three_hosts_frozen(mended: LocalCluster) -> None:
    make_table(mended)
    mended.nodes[2].freeze()
    begun_at = time.monotonic()
    async with AsyncRouter(mended.dsn) as router:
        assert (await write(router, 1)).port == mended.nodes[0].port
        assert time.monotonic() - begun_at < within(2.0), "one probe timeout, then the rest decides"


async def test_a_router_opens_with_no_host_up_and_serves_when_they_are(mended: LocalCluster) -> None:
    make_table(mended)
    stop_all(mended)
    async with AsyncRouter(mended.dsn) as router, AsyncBackground() as background:
        with pytest.raises(NoHostAvailable):
            await router.wait(timeout=0.2)
        writer = background.start(write, router, 1)
        ready_at = await async_call(start_all, mended)
        assert (await writer.result()).ended - ready_at < within(1.0)


async def test_a_starting_host_is_asked_again_soon(mended: LocalCluster) -> None:
    _, starting, other = mended.nodes
    # With hot_standby off a standby answers 57P03 for as long as it is one.
    starting.execute("ALTER SYSTEM SET hot_standby = off")
    starting.stop("fast")
    starting.start()
    async with AsyncRouter(mended.dsn) as router:
        await async_eventually(lambda: state(router, starting) is HostState.STARTING)
        assert {(await read(router)).port for _ in range(10)} == {other.port}
        host = router.topology.host(key(starting))
        assert host is not None
        assert host.reason
        await async_call(starting.stop, "fast")
        settings = starting.data_dir / "postgresql.auto.conf"
        settings.write_text(settings.read_text().replace("hot_standby = 'off'", ""))
        await async_call(starting.start)
        ready_at = time.monotonic()
        await async_eventually(lambda: state(router, starting) is HostState.UP)
        assert time.monotonic() - ready_at < within(1.0)


@pytest.fixture
def dialled(monkeypatch: pytest.MonkeyPatch) -> dict[int, list[float]]:
    """When the watch began to connect, by port: the host may be late to notice."""
    times: dict[int, list[float]] = defaultdict(list)
    connect = Dialer.connect

    def noted(dialer: Dialer, **options: Any) -> Any:
        times[dialer._key.port].append(time.monotonic())
        return connect(dialer, **options)

    monkeypatch.setattr(Dialer, "connect", noted)
    return times


async def test_connection_attempts_are_bounded_however_many_wait(dialled: dict[int, list[float]]) -> None:
    async def hopeless(router: AsyncRouter[Any], role: Any) -> None:
        with pytest.raises(NoHostAvailable):
            await router.getconn(role, timeout=2.0)

    with refusers(0, 0) as hosts:
        dsn = "postgresql://postgres@" + ",".join(f"127.0.0.1:{host.port}" for host in hosts) + "/postgres"
        begun_at = time.monotonic()
        async with AsyncRouter(dsn) as router, AsyncBackground() as background:
            waiters = [background.start(hopeless, router, role) for role in ("writer", "reader") * 10]
            for waiter in waiters:
                await waiter.result()
        took = time.monotonic() - begun_at
        for host in hosts:
            times = dialled[host.port]
            assert 3 <= len(host.times) <= len(times) <= 5 * took + 1
            assert min(later - first for first, later in itertools.pairwise(times)) > 0.15, "200 ms apart"


async def test_a_restarted_primary_gets_no_storm_of_connections(mended: LocalCluster) -> None:
    def attempts(node: Node) -> int:
        return node.log().count("connection received")

    make_table(mended)
    node = mended.nodes[0]
    node.execute("ALTER SYSTEM SET log_connections = on")  # from the restart on
    async with AsyncRouter(mended.dsn) as router, AsyncBackground() as background:
        await write(router, 0)
        await async_call(node.stop, "fast")
        before = attempts(node)
        writers = [background.start(write, router, number) for number in range(1, 51)]
        await async_call(node.start)
        for writer in writers:
            await writer.result()
        # The probe's attempts while it started, and the pool's growth to its ten connections.
        made = attempts(node) - before
    node.execute("ALTER SYSTEM RESET log_connections")
    assert 0 < made < 20
