# Generated from tests/aio/conftest.py by .ci/unasync.py: edit that file, not this one.
"""A cluster that outlives the tests which only stop, crash or freeze its nodes: a fresh one takes a second each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from pgroute.testing import FaultProxy, LocalCluster, Node
from tests.sync.counting import clear, set_up
from tests.conftest import SERIAL, Inspector


@pytest.fixture(scope="session")
def lasting_cluster() -> Iterator[LocalCluster]:
    """Give the cluster itself; tests ask for `mended`."""
    with LocalCluster() as cluster:
        yield cluster


@pytest.fixture
def mended(lasting_cluster: LocalCluster) -> Iterator[LocalCluster]:
    """Give a cluster whose first node is the primary.

    The test may stop, crash and freeze nodes and configure them, but promote none: afterwards all go on as before.
    """
    yield lasting_cluster
    first, *standbys = lasting_cluster.nodes
    for node in lasting_cluster.nodes:
        if node.frozen:
            node.thaw()
        if not node.running:
            node.start(wait=False)
    for node in lasting_cluster.nodes:
        node.wait_ready()
    first.execute("DROP TABLE IF EXISTS written")
    for node in standbys:
        node.wait_streaming(first)
    lasting_cluster.catch_up()


@dataclass(frozen=True)
class Proxied:
    """A cluster behind proxies.

    Attributes:
        cluster: what is behind them.
        proxies: one for each node, in the order of the nodes.
    """

    cluster: LocalCluster
    proxies: tuple[FaultProxy, ...]

    @property
    def dsn(self) -> str:
        """A DSN that leads through the proxies."""
        return FaultProxy.dsn(self.proxies)

    def proxy(self, node: Node) -> FaultProxy:
        """Return the proxy in front of a node."""
        return self.proxies[self.cluster.nodes.index(node)]


@pytest.fixture
def proxied(mended: LocalCluster) -> Iterator[Proxied]:
    """Give a cluster behind proxies that the test may promote no node of."""
    with ExitStack() as stack:
        yield Proxied(mended, tuple(stack.enter_context(FaultProxy(node)) for node in mended.nodes))


@pytest.fixture
def breakable(any_cluster: LocalCluster) -> Iterator[Proxied]:
    """Give a fresh cluster behind proxies, to break in any way."""
    with ExitStack() as stack:
        yield Proxied(any_cluster, tuple(stack.enter_context(FaultProxy(node)) for node in any_cluster.nodes))


@pytest.fixture
def pair(synchronous_pair: LocalCluster) -> Iterator[Proxied]:
    """Give a primary with a counter and its synchronous standby, behind proxies; no node may be promoted."""
    clear(synchronous_pair)
    set_up(synchronous_pair)
    with ExitStack() as stack:
        proxies = tuple(stack.enter_context(FaultProxy(node)) for node in synchronous_pair.nodes)
        yield Proxied(synchronous_pair, proxies)


@pytest.fixture
def trio(synchronous_cluster: LocalCluster) -> Iterator[Proxied]:
    """Give a fresh primary with a counter and two standbys, of which one has to confirm each commit."""
    set_up(synchronous_cluster)
    with ExitStack() as stack:
        proxies = tuple(stack.enter_context(FaultProxy(node)) for node in synchronous_cluster.nodes)
        yield Proxied(synchronous_cluster, proxies)


@pytest.fixture
def goods(shared: LocalCluster, inspector: Inspector) -> Iterator[str]:
    """Give the name of a table (id int PRIMARY KEY, name text DEFAULT 'new') of this test's own."""
    name = f"goods_{next(SERIAL)}"
    inspector.execute(
        shared.nodes[0], f"CREATE TABLE {name} (id int CHECK (id > 0) PRIMARY KEY, name text DEFAULT 'new')"
    )
    inspector.catch_up()
    yield name
    inspector.execute(shared.nodes[0], f"DROP TABLE {name}")
