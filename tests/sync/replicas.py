# Generated from tests/aio/replicas.py by .ci/unasync.py: edit that file, not this one.
"""Standbys that lag behind in ways known to the test, and what a router says of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pgroute import Router, HostInfo, ProbeOptions
from pgroute.testing import FaultProxy, LocalCluster, Node
from pgroute.testing.proxy_arguments import Endpoint
from tests import support
from tests.sync.workload import key, make_table

INTERVAL = 0.1
OFTEN = ProbeOptions(interval=INTERVAL, timeout=1.0)
ALLOWED = 2 * INTERVAL + 0.1
"""Seconds by which staleness may exceed the truth at most."""


@contextmanager
def standbys_as_they_were(cluster: LocalCluster) -> Iterator[LocalCluster]:
    """Make the table of commits; afterwards let all standbys replay again, and drop it."""
    make_table(cluster)
    first, *standbys = cluster.nodes
    try:
        yield cluster
    finally:
        for node in standbys:
            if not node.running:
                node.start()
            node.resume_replay()
            configure(node, recovery_min_apply_delay=None)
            node.follow(first)
        first.execute("DROP TABLE written")


def configure(node: Node, **settings: str | None) -> None:
    """Change settings of a running server, None resets one; return when they are in force."""
    for name, value in settings.items():
        change = f"RESET {name}" if value is None else f"SET {name} TO '{value}'"
        node.execute(f"ALTER SYSTEM {change}")
    [(loaded,)] = node.execute("SELECT pg_conf_load_time()")
    node.execute("SELECT pg_reload_conf()")
    support.eventually(lambda: node.execute("SELECT pg_conf_load_time()")[0][0] > loaded)


def cut_off(cluster: LocalCluster, wire: FaultProxy) -> None:
    """Have all standbys stream through a proxy, which can then cut them off; return once they do."""
    _, *standbys = cluster.nodes
    source: Any = wire  # a host and a port
    for node in standbys:
        node.follow(source, wait=False)
    receiver = f"pg_stat_wal_receiver WHERE status = 'streaming' AND sender_port = {wire.port}"
    streams = f"SELECT EXISTS (SELECT FROM {receiver})"
    for node in standbys:
        support.eventually(lambda: node.execute(streams) == [(True,)], 30.0)  # noqa: B023


def dsn_of(hosts: Sequence[object]) -> str:
    """Return the DSN that leads to taps, proxies and nodes."""
    fakes: Any = hosts
    return FaultProxy.dsn(fakes)


def of(router: Router[Any], node: Endpoint) -> HostInfo:
    """Return what a router knows of a node."""
    host = router.topology.host(key(node))
    assert host is not None
    return host


def staleness(router: Router[Any], node: Endpoint) -> float:
    """Return the staleness of a node at this moment; infinite if it is not known."""
    as_of = of(router, node).current_as_of
    return float("inf") if as_of is None else time.monotonic() - as_of


def old(router: Router[Any], nodes: Sequence[Endpoint], seconds: float) -> bool:
    """Return whether nodes are known to be older than so many seconds."""
    return all(seconds < staleness(router, node) < float("inf") for node in nodes)


def watched(
    router: Router[Any],
    nodes: tuple[Node, ...],
    seconds: float,
    each: Callable[[HostInfo, float], object],
    enough: Callable[[], bool] = lambda: True,
) -> None:
    """Give each snapshot of some nodes to a function, with its time, for some seconds and until there were enough."""
    until = time.monotonic() + seconds
    version = -1
    while time.monotonic() < until or not enough():
        assert time.monotonic() < until + 20.0, "too few snapshots"
        topology = router.topology
        if topology.version != version:
            version = topology.version
            for node in nodes:
                host = topology.host(key(node))
                assert host is not None
                each(host, topology.at)
        time.sleep(0.002)  # how often it looks: nobody is told of each snapshot
