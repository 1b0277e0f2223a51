"""Tests of an application's own failover, on real servers: `pytest examples/test_failover.py`.

The fixtures are pgroute's and found by pytest itself. To test your application, put its functions in the place of
`set_up`, `place_order` and `list_orders`.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Self

import pytest

from pgroute import Router
from pgroute.testing import FaultProxy, LocalCluster

if TYPE_CHECKING:
    from collections.abc import Iterator

    import psycopg

    from pgroute.testing.plugin import ProxyFactory


def set_up(router: Router) -> None:
    """Create the tables, without a unique constraint: the tests look for duplicates."""
    router.install()
    with router.writer() as conn:
        conn.execute("CREATE TABLE orders (name text NOT NULL)")


def place_order(router: Router, name: str) -> None:
    """Write an order: if this returns, the client may rely on it."""
    router.run(insert_order, name, once=f"order {name}")


def insert_order(conn: psycopg.Connection[Any], name: str) -> None:
    """Do the work of the transaction."""
    conn.execute("INSERT INTO orders VALUES (%s)", (name,))


def list_orders(router: Router) -> list[str]:
    """Read all orders, from a standby if there is one."""
    with router.reader() as conn:
        return [name for (name,) in conn.execute("SELECT name FROM orders")]


class Clients:
    """Threads that place orders until the block ends, which then raises the first error of a thread.

    `acknowledged`: the orders of which a client was told that they are placed.
    """

    def __init__(self, router: Router, number: int = 4) -> None:
        self.acknowledged: list[str] = []
        self._router = router
        self._end = threading.Event()
        self._pool = ThreadPoolExecutor(number)
        self._clients = [self._pool.submit(self._place_orders, client) for client in range(number)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._pool.shutdown()
        for client in self._clients:
            client.result()

    def wait_for_more(self, orders: int = 20, timeout: float = 30.0) -> None:
        """Return when so many more orders were acknowledged."""
        goal = len(self.acknowledged) + orders
        deadline = time.monotonic() + timeout
        while len(self.acknowledged) < goal:
            assert time.monotonic() < deadline, f"not {orders} more orders within {timeout} s"
            assert not any(client.done() for client in self._clients), "a client gave up"
            time.sleep(0.01)

    def _place_orders(self, client: int) -> None:
        for number in itertools.count():
            if self._end.is_set():
                return
            name = f"{client}-{number}"
            place_order(self._router, name)
            self.acknowledged.append(name)


def found(cluster: LocalCluster) -> Counter[str]:
    """Count the orders on the primary by name, past the application and its router."""
    return Counter(name for (name,) in cluster.primary.execute("SELECT name FROM orders"))


@pytest.fixture(scope="session")
def pgroute_cluster_options() -> dict[str, Any]:
    """Make commits wait for a standby: otherwise a crash may lose acknowledged orders."""
    return {"synchronous": True}


@pytest.fixture
def proxies(pgroute_cluster: LocalCluster, pgroute_proxy_factory: ProxyFactory) -> list[FaultProxy]:
    """A network to each server that can be made to fail; the first leads to the primary."""
    return [pgroute_proxy_factory(node) for node in pgroute_cluster.nodes]


@pytest.fixture
def router(proxies: list[FaultProxy]) -> Iterator[Router]:
    """The application's router, which reaches the servers through the proxies."""
    with Router(FaultProxy.dsn(proxies)) as router:
        set_up(router)
        yield router


def test_orders_survive_a_crash_of_the_primary(router: Router, pgroute_cluster: LocalCluster) -> None:
    """No client gets an error; each acknowledged order is there exactly once."""
    with Clients(router) as clients:
        clients.wait_for_more()
        pgroute_cluster.primary.kill()
        pgroute_cluster.promote()  # normally done by a cluster manager
        clients.wait_for_more()
    assert found(pgroute_cluster) == Counter(clients.acknowledged)


def test_orders_survive_a_primary_that_is_cut_off(
    router: Router, pgroute_cluster: LocalCluster, proxies: list[FaultProxy]
) -> None:
    """Like a crash, but the old primary keeps running, and connections to it stay open."""
    with Clients(router) as clients:
        clients.wait_for_more()
        proxies[0].blackhole()
        new = pgroute_cluster.promote()
        clients.wait_for_more()
    assert found(pgroute_cluster) == Counter(clients.acknowledged)
    assert pgroute_cluster.primary is new


def test_an_order_whose_acknowledgement_is_lost_is_placed_once(
    router: Router, pgroute_cluster: LocalCluster, proxies: list[FaultProxy]
) -> None:
    """The server commits, but its answer never arrives: the application finds out."""
    lost = proxies[0].when(b"COMMIT", action="reset")
    place_order(router, "tea")
    assert lost.hits == 1
    assert found(pgroute_cluster) == {"tea": 1}


def test_orders_can_be_read_while_there_is_no_primary(router: Router, pgroute_cluster: LocalCluster) -> None:
    """Reading does not need the primary."""
    place_order(router, "tea")
    pgroute_cluster.catch_up()
    pgroute_cluster.primary.kill()
    assert list_orders(router) == ["tea"]
