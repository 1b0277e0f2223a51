"""Hosts that go deaf: nothing is refused, nothing is reset, nothing comes back; and hosts that are only slow."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Literal

import psycopg
import pytest

from pgroute import AsyncRouter, CommitUnknown, NoHostAvailable, PoolOptions, ProbeOptions
from pgroute.core.model.host import HostState
from pgroute.testing import FaultProxy, LocalCluster, Node
from tests.aio.conftest import Proxied
from tests.aio.replicas import of
from tests.aio.workload import (
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
from tests.support import AsyncBackground, async_call, async_eventually, within

pytestmark = pytest.mark.cluster  # async-only
# sync-only: pytestmark = [pytest.mark.cluster, pytest.mark.long]

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
async def test_a_router_opens_although_the_primary_is_deaf(proxied: Proxied, moment: str) -> None:
    proxy = proxied.proxies[0]
    DEAF[moment](proxy)
    async with AsyncRouter(proxied.dsn, probe=QUICK) as router:
        assert (await read(router, 5.0)).port != proxied.cluster.nodes[0].port
        begun = time.monotonic()
        with pytest.raises(
            NoHostAvailable, match=rf"{key(proxy)}: down for .*never answered: .*took over 0.2 s"
        ):
            await write_nothing(router, 1.0)
        assert time.monotonic() - begun < within(1.5)
        assert proxy.attempts <= 5 * (time.monotonic() - begun) + 10
        proxy.clear_faults()
        proxy.reset()
        await router.wait()


@pytest.mark.parametrize("moment", DEAF)
async def test_a_host_deaf_to_new_connections_serves_on_the_old_ones(proxied: Proxied, moment: str) -> None:
    proxy = proxied.proxies[0]
    async with AsyncRouter(
        proxied.dsn, probe=PATIENT, writer=PoolOptions(max_size=2), kwargs={"connect_timeout": 2}
    ) as router:
        await router.wait()
        DEAF[moment](proxy)
        deaf_at = time.monotonic()
        for _ in range(20):
            await write_nothing(router)
        async with router.writer() as conn:
            begun = time.monotonic()
            with pytest.raises(NoHostAvailable):
                await write_nothing(router, 0.5)  # takes a second connection
            assert time.monotonic() - begun < within(1.0)
            await conn.execute("SELECT 1")
        for _ in range(20):
            await write_nothing(router)
        await async_eventually(lambda: (of(router, proxy).last_seen or 0.0) > deaf_at + 0.2)
        await async_eventually(lambda: state(router, proxy) in (HostState.UP, HostState.BUSY))
        proxy.clear_faults()
        proxy.reset("existing")
        async with router.writer(), router.writer():
            pass


async def write_nothing(router: AsyncRouter[Any], timeout: float | None = None) -> None:
    async with router.writer(timeout) as conn:
        await conn.execute("SELECT 1")


# Sessions in flight.


async def stuck(router: AsyncRouter[Any], role: Literal["writer", "reader"], begun: threading.Event) -> float:
    """Wait in a query for what never comes; return when that ended."""
    with pytest.raises(psycopg.OperationalError):
        async with router.writer() if role == "writer" else router.reader() as conn:
            await conn.execute("SELECT 1")
            begun.set()
            await conn.execute("SELECT pg_sleep(60)")
    return time.monotonic()


async def test_a_session_on_a_deaf_primary_is_released_by_the_promotion(breakable: Proxied) -> None:
    cluster = breakable.cluster
    begun = threading.Event()
    probe = ProbeOptions(timeout=5.0)  # not what releases it
    async with (
        AsyncRouter(breakable.dsn, probe=probe, kwargs=NOTICING) as router,
        AsyncBackground() as background,
    ):
        worker = background.start(stuck, router, "writer", begun)
        await async_eventually(begun.is_set)
        breakable.proxies[0].blackhole()
        new: Node = await async_call(cluster.promote, cluster.nodes[1], repoint=False)
        promoted_at = time.monotonic()
        await router.wait()
        assert primary(router) == key(breakable.proxy(new))
        assert await worker.result() - promoted_at < within(2.5), (
            "far from abort_after, and TCP's own timeouts"
        )


async def test_a_session_on_a_deaf_standby_is_aborted_after_abort_after(proxied: Proxied) -> None:
    begun = threading.Event()
    probe = ProbeOptions(interval=0.1, timeout=0.2, abort_after=1.0)
    cluster = proxied.cluster
    async with (
        AsyncRouter(
            proxied.dsn, probe=probe, reader_attrs="standby", balance="ordered", kwargs=NOTICING
        ) as router,
        AsyncBackground() as background,
    ):
        await async_eventually(lambda: all(host.usable for host in router.topology.hosts))
        worker = background.start(stuck, router, "reader", begun)
        await async_eventually(begun.is_set)
        deaf_at = time.monotonic()
        proxied.proxy(cluster.nodes[1]).blackhole()
        assert 1.0 <= await worker.result() - deaf_at < within(3.0)
        assert (await read(router)).port == cluster.nodes[2].port


# COMMIT.


@pytest.mark.parametrize("forwarded", [True, False], ids=["committed", "not-committed"])
@pytest.mark.parametrize("action", ["reset", "disconnect"])
async def test_a_connection_lost_after_commit_was_sent_is_commit_unknown(
    proxied: Proxied, action: Literal["reset", "disconnect"], forwarded: bool
) -> None:
    make_table(proxied.cluster)
    node = proxied.cluster.nodes[0]
    async with AsyncRouter(proxied.dsn) as router:
        trigger = proxied.proxies[0].when(b"COMMIT", action=action, after_forwarding=forwarded)
        with pytest.raises(CommitUnknown) as caught:
            await write(router, 1)
        assert caught.value.may_have_committed
        assert not caught.value.rerun_safe
        assert trigger.hits == 1
        await write(router, 2)
        assert await async_call(committed, node, 1 if forwarded else None)


def committed(node: Node, number: int | None) -> bool:
    """Wait for what a COMMIT whose answer nobody heard has left."""
    expected = [2] if number is None else [number, 2]
    until = time.monotonic() + 5.0
    while (found := [n for (n,) in node.execute("SELECT number FROM written ORDER BY number")]) != expected:
        assert time.monotonic() < until, found
    return True


async def test_a_commit_unanswered_by_a_deaf_primary_is_unknown_after_the_promotion(
    breakable: Proxied,
) -> None:
    cluster: LocalCluster = breakable.cluster
    await async_call(make_table, cluster)
    async with AsyncRouter(breakable.dsn) as router, AsyncBackground() as background:
        trigger = breakable.proxies[0].when(b"COMMIT", action="blackhole")
        writer = background.start(write, router, 1)
        await async_call(trigger.wait)
        breakable.proxies[0].blackhole()
        await async_call(cluster.catch_up)
        new: Node = await async_call(cluster.promote, cluster.nodes[1], repoint=False)
        promoted_at = time.monotonic()
        with pytest.raises(CommitUnknown):
            await writer.result()
        assert time.monotonic() - promoted_at < within(2.5)
        await write(router, 2)
    assert 2 in await numbers(new)


# Hosts that are only slow.


async def test_an_only_primary_with_slow_probes_goes_on_serving(proxied: Proxied) -> None:
    make_table(proxied.cluster)
    proxy = proxied.proxies[0]
    probe = ProbeOptions(interval=0.1, timeout=0.3, abort_after=0.5)
    account, stop = Account(), threading.Event()
    async with AsyncRouter(proxied.dsn, probe=probe) as router, AsyncBackground() as background:
        background.start(keep_writing, router, stop, account)
        await async_eventually(lambda: account.sessions)
        proxy.delay(0.4, "to_client")  # a probe takes more than its timeout, and less than twice that
        await async_eventually(lambda: state(router, proxy) is HostState.SUSPECT)
        slow_at = time.monotonic()
        await async_eventually(lambda: len(account.since(slow_at)) >= 2)
        proxy.clear_faults()
        await async_eventually(lambda: state(router, proxy) is HostState.UP)
        stop.set()
    assert account.errors == []


async def test_an_only_primary_too_slow_for_any_probe_loses_no_session_in_flight(proxied: Proxied) -> None:
    make_table(proxied.cluster)
    proxy = proxied.proxies[0]
    probe = ProbeOptions(interval=0.1, timeout=0.2, abort_after=0.5)
    async with AsyncRouter(proxied.dsn, probe=probe) as router:
        async with router.writer() as conn:
            await conn.execute("INSERT INTO written VALUES (1)")
            proxy.delay(0.8, "to_client")
            await async_eventually(lambda: state(router, proxy) is HostState.DOWN)
            silent_since = router.topology.hosts[0].silent_since or 0.0
            await async_eventually(lambda: time.monotonic() - silent_since > 1.0)
            await conn.execute("INSERT INTO written VALUES (2)")
        proxy.clear_faults()
        await write(router, 3)
    assert await numbers(proxied.cluster.nodes[0]) == [1, 2, 3]
