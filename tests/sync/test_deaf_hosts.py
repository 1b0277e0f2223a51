# Generated from tests/aio/test_deaf_hosts.py by .ci/unasync.py: edit that file, not this one.
"""Hosts that go deaf: nothing is refused, nothing is reset, nothing comes back; and hosts that are only slow."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Literal

import psycopg
import pytest

from pgroute import Router, CommitUnknown, NoHostAvailable, PoolOptions, ProbeOptions
from pgroute.core.model.host import HostState
from pgroute.testing import FaultProxy, LocalCluster, Node
from tests.sync.conftest import Proxied
from tests.sync.replicas import of
from tests.sync.workload import (
    QUICK,
    Account,
    keep_writing,
    key,
    make_table,
    numbers,
    primary,
    read,
    state,
    write,
)
from tests.support import Background, call, eventually, within

pytestmark = [pytest.mark.cluster, pytest.mark.long]

DEAF: dict[str, Callable[[FaultProxy], object]] = {
    "before the connect": lambda proxy: proxy.hang(),
    "after the connect": lambda proxy: proxy.blackhole(connections="new"),
    "during the login": lambda proxy: proxy.cut_after(
        5, "to_client", "blackhole", connections="new", times=None
    ),
}
"""Ways for a host to be deaf to new connections."""

PATIENT = ProbeOptions(interval=0.1, timeout=1.0, share=False)
"""No host that is only slow is taken for a deaf one."""

NOTICING = {"options": "-c client_connection_check_interval=100"}
"""Has the server end a query when its client is gone."""


# New connections.


@pytest.mark.parametrize("moment", DEAF)
def test_a_router_opens_although_the_primary_is_deaf(proxied: Proxied, moment: str) -> None:
    proxy = proxied.proxies[0]
    DEAF[moment](proxy)
    with Router(proxied.dsn, probe=QUICK) as router:
        assert (read(router, 5.0)).port != proxied.cluster.nodes[0].port
        begun = time.monotonic()
        with pytest.raises(
            NoHostAvailable, match=rf"{key(proxy)}: down for .*never answered: .*took over 0.2 s"
        ):
            write_nothing(router, 1.0)
        assert time.monotonic() - begun < within(1.5)
        assert proxy.attempts <= 5 * (time.monotonic() - begun) + 10
        proxy.clear_faults()
        proxy.reset()
        router.wait()


@pytest.mark.parametrize("moment", DEAF)
def test_a_host_deaf_to_new_connections_serves_on_the_old_ones(proxied: Proxied, moment: str) -> None:
    proxy = proxied.proxies[0]
    with Router(
        proxied.dsn, probe=PATIENT, writer=PoolOptions(max_size=2), kwargs={"connect_timeout": 2}
    ) as router:
        router.wait()
        DEAF[moment](proxy)
        deaf_at = time.monotonic()
        for _ in range(20):
            write_nothing(router)
        with router.writer() as conn:
            begun = time.monotonic()
            with pytest.raises(NoHostAvailable):
                write_nothing(router, 0.5)  # takes a second connection
            assert time.monotonic() - begun < within(1.0)
            conn.execute("SELECT 1")
        for _ in range(20):
            write_nothing(router)
        eventually(lambda: (of(router, proxy).last_seen or 0.0) > deaf_at + 0.2)
        eventually(lambda: state(router, proxy) in (HostState.UP, HostState.BUSY))
        proxy.clear_faults()
        proxy.reset("existing")
        with router.writer(), router.writer():
            pass


def write_nothing(router: Router[Any], timeout: float | None = None) -> None:
    with router.writer(timeout) as conn:
        conn.execute("SELECT 1")


# Sessions in flight.


def stuck(router: Router[Any], role: Literal["writer", "reader"], begun: threading.Event) -> float:
    """Wait in a query for what never comes; return when that ended."""
    with pytest.raises(psycopg.OperationalError):
        with router.writer() if role == "writer" else router.reader() as conn:
            conn.execute("SELECT 1")
            begun.set()
            conn.execute("SELECT pg_sleep(60)")
    return time.monotonic()


def test_a_session_on_a_deaf_primary_is_released_by_the_promotion(breakable: Proxied) -> None:
    cluster = breakable.cluster
    begun = threading.Event()
    probe = ProbeOptions(timeout=5.0)  # not what releases it
    with (
        Router(breakable.dsn, probe=probe, kwargs=NOTICING) as router,
        Background() as background,
    ):
        worker = background.start(stuck, router, "writer", begun)
        eventually(begun.is_set)
        breakable.proxies[0].blackhole()
        new: Node = call(cluster.promote, cluster.nodes[1], repoint=False)
        promoted_at = time.monotonic()
        router.wait()
        assert primary(router) == key(breakable.proxy(new))
        assert worker.result() - promoted_at < within(2.5), (
            "far from abort_after, and TCP's own timeouts"
        )


def test_a_session_on_a_deaf_standby_is_aborted_after_abort_after(proxied: Proxied) -> None:
    begun = threading.Event()
    probe = ProbeOptions(interval=0.1, timeout=0.2, abort_after=1.0)
    cluster = proxied.cluster
    with (
        Router(
            proxied.dsn, probe=probe, reader_attrs="standby", balance="ordered", kwargs=NOTICING
        ) as router,
        Background() as background,
    ):
        eventually(lambda: all(host.usable for host in router.topology.hosts))
        worker = background.start(stuck, router, "reader", begun)
        eventually(begun.is_set)
        deaf_at = time.monotonic()
        proxied.proxy(cluster.nodes[1]).blackhole()
        assert 1.0 <= worker.result() - deaf_at < within(3.0)
        assert (read(router)).port == cluster.nodes[2].port


# COMMIT.


@pytest.mark.parametrize("forwarded", [True, False], ids=["committed", "not-committed"])
@pytest.mark.parametrize("action", ["reset", "disconnect"])
def test_a_connection_lost_after_commit_was_sent_is_commit_unknown(
    proxied: Proxied, action: Literal["reset", "disconnect"], forwarded: bool
) -> None:
    make_table(proxied.cluster)
    node = proxied.cluster.nodes[0]
    with Router(proxied.dsn) as router:
        trigger = proxied.proxies[0].when(b"COMMIT", action=action, after_forwarding=forwarded)
        with pytest.raises(CommitUnknown) as caught:
            write(router, 1)
        assert caught.value.may_have_committed
        assert not caught.value.rerun_safe
        assert trigger.hits == 1
        write(router, 2)
        assert call(committed, node, 1 if forwarded else None)


def committed(node: Node, number: int | None) -> bool:
    """Wait for what a COMMIT whose answer nobody heard has left."""
    expected = [2] if number is None else [number, 2]
    until = time.monotonic() + 5.0
    while (found := [n for (n,) in node.execute("SELECT number FROM written ORDER BY number")]) != expected:
        assert time.monotonic() < until, found
    return True


def test_a_commit_unanswered_by_a_deaf_primary_is_unknown_after_the_promotion(
    breakable: Proxied,
) -> None:
    cluster: LocalCluster = breakable.cluster
    call(make_table, cluster)
    with Router(breakable.dsn) as router, Background() as background:
        trigger = breakable.proxies[0].when(b"COMMIT", action="blackhole")
        writer = background.start(write, router, 1)
        call(trigger.wait)
        breakable.proxies[0].blackhole()
        call(cluster.catch_up)
        new: Node = call(cluster.promote, cluster.nodes[1], repoint=False)
        promoted_at = time.monotonic()
        with pytest.raises(CommitUnknown):
            writer.result()
        assert time.monotonic() - promoted_at < within(2.5)
        write(router, 2)
    assert 2 in numbers(new)


# Hosts that are only slow.


def test_an_only_primary_with_slow_probes_goes_on_serving(proxied: Proxied) -> None:
    make_table(proxied.cluster)
    proxy = proxied.proxies[0]
    probe = ProbeOptions(interval=0.1, timeout=0.3, abort_after=0.5)
    account, stop = Account(), threading.Event()
    with Router(proxied.dsn, probe=probe) as router, Background() as background:
        background.start(keep_writing, router, stop, account)
        eventually(lambda: account.sessions)
        proxy.delay(0.4, "to_client")  # a probe takes more than its timeout, and less than twice that
        eventually(lambda: state(router, proxy) is HostState.SUSPECT)
        slow_at = time.monotonic()
        eventually(lambda: len(account.since(slow_at)) >= 2)
        proxy.clear_faults()
        eventually(lambda: state(router, proxy) is HostState.UP)
        stop.set()
    assert account.errors == []


def test_an_only_primary_too_slow_for_any_probe_loses_no_session_in_flight(proxied: Proxied) -> None:
    make_table(proxied.cluster)
    proxy = proxied.proxies[0]
    probe = ProbeOptions(interval=0.1, timeout=0.2, abort_after=0.5)
    with Router(proxied.dsn, probe=probe) as router:
        with router.writer() as conn:
            conn.execute("INSERT INTO written VALUES (1)")
            proxy.delay(0.8, "to_client")
            eventually(lambda: state(router, proxy) is HostState.DOWN)
            silent_since = router.topology.hosts[0].silent_since or 0.0
            eventually(lambda: time.monotonic() - silent_since > 1.0)
            conn.execute("INSERT INTO written VALUES (2)")
        proxy.clear_faults()
        write(router, 3)
    assert numbers(proxied.cluster.nodes[0]) == [1, 2, 3]
