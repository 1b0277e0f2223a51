"""Names: what cannot be resolved gives a reason and disturbs nobody."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from pgroute import HostKey, HostState, NoHostAvailable, ProbeOptions, Router
from pgroute.testing import LocalCluster
from tests.support import eventually, within

pytestmark = pytest.mark.cluster

real = socket.getaddrinfo


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Give a table of names: to addresses, or to a function that is called."""
    table: dict[str, Any] = {}

    def lookup(host: str, port: int, *args: Any, **kwargs: Any) -> Any:
        known = table.get(host)
        if known is None:
            if host.endswith(".test"):
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            return real(host, port, *args, **kwargs)
        addresses = known() if callable(known) else known
        return [
            (socket.AF_INET6 if ":" in a else socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, port))
            for a in addresses
        ]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    return table


def dsn(cluster: LocalCluster, name: str) -> str:
    """Return the cluster's DSN with another name for its first host."""
    return cluster.dsn.replace(f"127.0.0.1:{cluster.nodes[0].port}", f"{name}:{cluster.nodes[0].port}")


def write(router: Router, timeout: float = 5.0) -> int:
    with router.writer(timeout) as conn:
        conn.execute("SELECT 1")
        return conn.info.port


def test_a_name_that_does_not_resolve_gives_its_reason_and_the_others_serve(
    shared: LocalCluster, names
) -> None:
    with Router(shared.dsn.replace("@", "@nowhere.test:5432,")) as router:
        assert write(router) == shared.primary.port
        host = router.topology.hosts[0]
        assert host.state is HostState.DOWN
        assert host.reason == "could not resolve 'nowhere.test': Name or service not known"


def test_only_unresolvable_names_are_told_in_the_error(names) -> None:
    with Router("postgresql://nowhere.test,nothing.test/postgres") as router:
        eventually(lambda: all("could not resolve" in host.reason for host in router.topology.hosts))
        asked_at = time.monotonic()
        with pytest.raises(NoHostAvailable, match=r"could not resolve 'nothing\.test'"):
            write(router, 0.3)
        assert time.monotonic() - asked_at < within(0.4)


def test_a_lookup_that_hangs_disturbs_no_other_host(shared: LocalCluster, names) -> None:
    release = threading.Event()
    names["slow.test"] = lambda: release.wait(20) and ["127.0.0.1"]
    try:
        with Router(shared.dsn.replace("@", "@slow.test:5432,")) as router:
            begun_at = time.monotonic()
            assert write(router) == shared.primary.port
            assert time.monotonic() - begun_at < within(1.5), "one timeout, then the rest decides"
            assert "could not resolve 'slow.test' in 1 s" in router.topology.hosts[0].reason
            assert all(h.state is HostState.UP for h in router.topology.hosts[1:])
    finally:
        release.set()
        eventually(lambda: not any(t.name.startswith("pgroute-resolve") for t in threading.enumerate()))


def test_a_lookup_that_takes_longer_than_its_timeout_counts_once_it_has_ended(
    shared: LocalCluster, names
) -> None:
    first, others = threading.Event(), threading.Event()
    lookups: list[threading.Event] = [first]
    names["slow.test"] = lambda: (lookups.pop() if lookups else others).wait(20) and ["127.0.0.1"]
    try:
        with Router(dsn(shared, "slow.test"), probe=ProbeOptions(lookup_timeout=0.2)) as router:
            eventually(lambda: "could not resolve 'slow.test' in 0.2 s" in router.topology.hosts[0].reason)
            first.set()
            assert write(router) == shared.primary.port
    finally:
        first.set()
        others.set()
        eventually(lambda: not any(t.name.startswith("pgroute-resolve") for t in threading.enumerate()))


def test_a_name_is_tried_at_each_of_its_addresses(shared: LocalCluster, names) -> None:
    names["both.test"] = ["127.0.0.99", "127.0.0.1"]
    with Router(dsn(shared, "both.test")) as router:
        assert write(router) == shared.nodes[0].port
        host = router.topology.host(HostKey("both.test", shared.nodes[0].port))
        assert host is not None
        assert host.address == "127.0.0.1"


def test_the_last_good_address_serves_while_the_name_server_fails(any_cluster: LocalCluster, names) -> None:
    names["flaky.test"] = ["127.0.0.1"]
    node = any_cluster.nodes[0]
    with Router(dsn(any_cluster, "flaky.test"), probe=ProbeOptions(min_ttl=0.1, max_ttl=0.1)) as router:
        assert write(router) == node.port
        del names["flaky.test"]
        node.stop("fast")
        node.start()
        assert write(router) == node.port


def test_a_hanging_lookup_does_not_hold_up_the_end_of_the_interpreter() -> None:
    program = """
import socket, time
socket.getaddrinfo = lambda *args, **kwargs: time.sleep(60)
import pgroute
router = pgroute.Router("postgresql://slow.test/postgres")
router.open()
try:
    router.getconn("writer", timeout=0.2)
except pgroute.NoHostAvailable:
    print("done")
"""
    begun_at = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout == "done\n"
    assert done.stderr == ""
    assert time.monotonic() - begun_at < within(5.0)
