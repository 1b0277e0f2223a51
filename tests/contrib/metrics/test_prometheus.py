"""The page that Prometheus reads: of real clusters, through a failover, of several routers."""

from __future__ import annotations

import asyncio
import gc
import math
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from pgroute import AsyncRouter, ConfigError, NoHostAvailable, PoolOptions, Router
from pgroute.contrib.metrics.families import FAMILIES
from pgroute.contrib.metrics.family import COUNTER
from pgroute.contrib.prometheus import RouterCollector
from pgroute.testing import LocalCluster, Node
from tests.contrib.metrics.pages import Page, registry_of
from tests.support import Background, dsn_with, eventually, password_of

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[3]


def name_of(node: Node) -> str:
    return f"{node.host}:{node.port}"


def use(router: Router, role: str = "writer") -> None:
    with router.writer() if role == "writer" else router.reader() as conn:
        conn.execute("SELECT 1")


def test_a_page_has_every_metric_with_its_type(shared: LocalCluster) -> None:
    with Router(shared.dsn, name="shop") as router:
        use(router)
        use(router, "reader")
        eventually(lambda: all(host.usable for host in router.topology.hosts))
        page = Page(registry_of(router))
        assert page.types == {f"pgroute_{family.name}": family.kind for family in FAMILIES}
        assert page.labels("router") == {"shop"}
        assert page.labels("host") == {name_of(node) for node in shared.nodes}
        sampled = {sample.name for sample in page.samples}
        missing = [
            family.name
            for family in FAMILIES
            if not any(
                f"pgroute_{family.name}{end}" in sampled
                for end in (["_total"] if family.kind == COUNTER else ["", "_bucket"])
            )
        ]
        # What the primary has not told twice cannot be known of a standby.
        assert set(missing) <= {"host_staleness_seconds", "host_lag_bytes"}
        assert page.value("connections", role="writer", state="idle") == 1
        assert page.value("host_primary", host=name_of(shared.nodes[0])) == 1
        assert sum(page.all("host_state", state="up")) == 3
        assert sum(page.all("host_state")) == 3


def test_a_histogram_is_cumulative_and_counts_each_session(shared: LocalCluster) -> None:
    with Router(shared.dsn) as router:
        for _ in range(7):
            use(router)
        page = Page(registry_of(router))
    for name in ("session_wait_seconds", "session_use_seconds"):
        buckets = page.all(f"{name}_bucket", role="writer")
        assert buckets == sorted(buckets)
        assert buckets[-1] == page.value(f"{name}_count", role="writer") == 7
        assert 0.0 < page.value(f"{name}_sum", role="writer") < math.inf


def test_a_failover_on_the_page(any_cluster: LocalCluster) -> None:
    with Router(any_cluster.dsn, name="shop") as router:
        registry = registry_of(router)
        use(router)
        eventually(lambda: all(host.usable for host in router.topology.hosts))
        before = Page(registry)
        old = any_cluster.primary
        old.kill()
        eventually(lambda: Page(registry).value("outage_seconds") > 0)
        with pytest.raises(NoHostAvailable), router.writer(timeout=0.1):
            pass
        amid = Page(registry)
        new = any_cluster.promote()
        use(router)
        after = Page(registry)

    def told(name: str, **labels: str) -> list[float]:
        return [page.value(name, **labels) for page in (before, amid, after)]

    assert told("writable") == [1, 0, 1]
    assert told("failovers_total") == [0, 0, 1]
    assert told("outages_total") == [0, 0, 1]
    assert told("failover_duration_seconds_count") == [0, 0, 1]
    assert told("host_primary", host=name_of(old)) == [1, 0, 0]
    assert told("host_primary", host=name_of(new)) == [0, 0, 1]
    assert told("host_usable", host=name_of(old)) == [1, 0, 0]
    assert told("session_errors_total", role="writer", error="NoHostAvailable") == [0, 1, 1]
    assert told("events_total", kind="primary-lost") == [0, 1, 1]
    outages = told("outage_seconds")
    assert outages[0] == outages[2] == 0.0 < outages[1]
    missing = told("without_writer_seconds_total")
    assert missing[0] == 0.0 < missing[1] < missing[2]
    assert missing[2] == after.value("failover_duration_seconds_sum")
    assert after.value("session_use_seconds_count", role="writer", host=name_of(old)) == 1
    assert after.value("session_use_seconds_count", role="writer", host=name_of(new)) == 1
    assert after.all("connections_max", role="writer", host=name_of(old)) == []


def test_no_password_is_on_the_page(shared: LocalCluster) -> None:
    password = password_of(shared)
    user = "postgres"
    dsn = dsn_with(shared.dsn, password=password)
    with Router(dsn) as router, Router("host=127.0.0.1 port=1 password=" + password) as refused:
        use(router)
        eventually(lambda: refused.topology.initial_scan_done)
        page = Page(registry_of(router, refused))
    assert password not in page.text
    assert user not in page.text
    assert page.value("host_usable", host="127.0.0.1:1") == 0


async def test_an_async_router_is_read_from_another_thread(shared: LocalCluster) -> None:
    async with AsyncRouter(shared.dsn, name="shop") as router:
        registry = registry_of(router)
        async with router.writer() as conn:
            await conn.execute("SELECT 1")
            page = await asyncio.to_thread(Page, registry)
        assert page.value("connections", role="writer", state="used") == 1
        assert page.value("session_wait_seconds_count", role="writer") == 1


@pytest.mark.long
def test_counters_never_fall_while_many_threads_read(shared: LocalCluster) -> None:
    stop = threading.Event()

    def work(router: Router) -> None:
        while not stop.is_set():
            use(router)

    def read(registry: CollectorRegistry) -> list[float]:
        found = []
        while not stop.is_set():
            found.append(Page(registry).value("session_use_seconds_count", role="writer"))
            time.sleep(0.01)  # a thread that never waits keeps the others from their sessions
        return found

    with Router(shared.dsn, writer=PoolOptions(max_size=2)) as router, Background() as background:
        registry = registry_of(router)
        use(router)
        workers = [background.start(work, router) for _ in range(4)]
        readers = [background.start(read, registry) for _ in range(2)]
        eventually(lambda: router.stats().counts.sessions["writer"] > 100)
        stop.set()
        for worker in workers:
            worker.result()
        for reader in readers:
            found = reader.result()
            assert found == sorted(found)
        assert (
            Page(registry).value("session_use_seconds_count", role="writer")
            == (router.stats().counts.sessions["writer"])
        )


def test_routers_of_one_name_get_numbers(shared: LocalCluster) -> None:
    two, three = Router(shared.dsn, name="shop"), AsyncRouter(shared.dsn, name="shop")
    with Router(shared.dsn, name="shop") as one:
        collector = RouterCollector(one, two)
        collector.add(three)
        registry = CollectorRegistry()
        registry.register(collector)
        use(one)
        page = Page(registry)
        assert page.labels("router") == {"shop", "shop#2", "shop#3"}
        assert page.value("open", router="shop") == 1
        assert page.value("open", router="shop#2") == 0
        keys = [(sample.name, tuple(sorted(sample.labels.items()))) for sample in page.samples]
        assert len(keys) == len(set(keys))


def test_a_router_that_is_closed_keeps_its_counters_until_it_is_collected(shared: LocalCluster) -> None:
    router = Router(shared.dsn, name="shop")
    registry = registry_of(router)
    with router:
        use(router)
    page = Page(registry)
    assert page.value("open") == page.value("writable") == page.value("readable") == 0
    assert page.value("session_wait_seconds_count", role="writer") == 1
    assert sum(page.all("connections")) == 0
    gone = weakref.ref(router)
    del router
    gc.collect()
    assert gone() is None
    page = Page(registry)
    assert page.samples == []
    assert page.types.keys() == {f"pgroute_{family.name}" for family in FAMILIES}


def test_hosts_are_told_only_while_somebody_watches_them(shared: LocalCluster) -> None:
    """Else the replicas of a router that was closed would fall behind, and the hosts of a new one would be down."""

    def told() -> list[str]:
        names = [sample.name for sample in Page(registry).samples]
        return [name for name in names if name.startswith("pgroute_host_")]

    router = Router(shared.dsn)
    registry = registry_of(router)
    assert told() == []
    with router:
        use(router)
        assert told()
    assert told() == []


def test_the_name_of_a_router_that_is_gone_is_free_again() -> None:
    collector = RouterCollector(Router("host=a", name="shop"))
    gc.collect()
    collector.add(Router("host=a", name="shop"))
    kept = Router("host=a", name="shop")
    collector.add(kept)
    gc.collect()
    registry = CollectorRegistry()
    registry.register(collector)
    assert len(Page(registry).labels("router")) == 1


def test_what_is_no_router_or_there_already_is_refused() -> None:
    router = Router("host=a")
    collector = RouterCollector(router)
    with pytest.raises(ConfigError, match="expected a router that was not added before"):
        collector.add(router)
    with pytest.raises(ConfigError, match="expected a Router or an AsyncRouter"):
        RouterCollector("host=a")  # type: ignore[arg-type]


def test_two_collectors_do_not_fit_in_one_registry() -> None:
    registry = registry_of(Router("host=a"))
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        registry.register(RouterCollector(Router("host=b")))


FORK = """
import os, sys
import pgroute
from pgroute.contrib.prometheus import RouterCollector
from tests.contrib.metrics.pages import Page, registry_of

def use(router):
    with router.writer() as conn:
        conn.execute("SELECT 1")

with pgroute.Router(sys.argv[1], name="parent's") as router:
    later = pgroute.Router(sys.argv[1], name="later")
    registry = registry_of(router, later)
    use(router)
    child = os.fork()
    if not child:
        status = 1
        try:
            assert Page(registry).labels("router") == {"later"}
            with later:
                use(later)
                page = Page(registry)
                assert page.labels("router") == {"later"}
                assert page.value("session_wait_seconds_count", role="writer") == 1
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    page = Page(registry)
    assert page.labels("router") == {"parent's", "later"}
    assert page.value("session_wait_seconds_count", router="parent's", role="writer") == 1
    assert page.value("session_wait_seconds_count", router="later", role="writer") == 0
"""

LOCKED = """
import os, signal, threading
import pgroute
from pgroute.contrib.prometheus import RouterCollector

class Slow(str):
    # Is looked for among the names while the collector has its lock.
    def __hash__(self):
        held.set()
        assert released.wait(30)
        return hash(str(self))

held, released = threading.Event(), threading.Event()
collector = RouterCollector()
slow, other = (pgroute.Router("host=a", name=name) for name in ("slow", "other"))
slow.name = Slow("slow")
thread = threading.Thread(target=collector.add, args=(slow,))
thread.start()
assert held.wait(30)
child = os.fork()
if not child:
    signal.alarm(10)
    collector.add(other)
    os._exit(0)
released.set()
thread.join()
assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.parametrize("program", [FORK, LOCKED], ids=["routers", "lock"])
def test_a_forked_child_has_the_routers_that_it_opens(shared: LocalCluster, program: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, shared.dsn],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
