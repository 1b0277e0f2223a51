"""The work behind the methods that act on the pools: connections by key, filling the pools, drained hosts."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from pgroute.core.config.checks import check_number
from pgroute.core.config.host_names import find_hosts
from pgroute.core.faults.classify import one_line
from pgroute.core.routing.acquisition import GiveUp
from pgroute.errors import AcquireTimeout, RouteError

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    import psycopg

    from pgroute._async.manager import AsyncSessionManager
    from pgroute.core.model.roles import Role

CT = TypeVar("CT", bound="psycopg.AsyncConnection[Any]")

_FILL_STEP = 0.02
_DRAIN_TIMEOUT = 5.0


async def take_keyed(
    manager: AsyncSessionManager[CT], role: Role, timeout: float | None, key: Hashable
) -> CT:
    """Return the connection of a key, or take one for it.

    Raises:
        AcquireTimeout: there was none in time.
        RouterClosed: the router is not open.
    """
    manager.lifecycle.check_open()
    seconds = manager.seconds(timeout)
    conn = await manager.keyed.get((role, key), partial(manager.take, role, timeout), seconds)
    if conn is None:
        text = f"no {role.value} session within {seconds:.3g} s: another caller with this key waits for it"
        raise AcquireTimeout(text, topology=manager.topology)
    return conn


async def fill(manager: AsyncSessionManager[CT], counts: Mapping[Role, int], timeout: float) -> None:
    """Have connections opened until each role has so many, in use or not.

    Raises:
        AcquireTimeout: there are fewer after *timeout* seconds.
        RouterClosed: the router is not open.
    """
    check_number("timeout", timeout)
    start = time.monotonic()
    for role, count in counts.items():
        opened = 0
        while opened < count:
            router = manager.lifecycle.check_open()
            version = router.changes.version
            topology = manager.topology
            groups = topology.candidates[manager.attrs_of(role)]
            if groups and topology.initial_scan_done:  # a host that is not known yet is to have its share
                opened = await manager.pools[role].fill(groups[0], count)
            left = start + timeout - time.monotonic()
            if opened < count and left <= 0:
                raise _too_few(manager, role, opened, count, start=start, timeout=timeout)
            if opened < count:
                await router.changes.wait(version, min(left, _FILL_STEP))


def _too_few(
    manager: AsyncSessionManager[Any], role: Role, opened: int, count: int, *, start: float, timeout: float
) -> AcquireTimeout:
    attrs, now = manager.attrs_of(role), time.monotonic()
    topology, pool = manager.topology, manager.pools[role]
    groups = topology.candidates[attrs]
    if not groups:
        step = manager.acquisition(attrs, role, start, timeout, None).step(topology, now, pool.load)
        if isinstance(step, GiveUp):
            return step.error
    failures = [(c.key, pool.last_failure(c)) for group in groups for c in group]
    why = "".join(f"\n  {key}: {one_line(str(failure))}" for key, failure in failures if failure)
    text = f"{opened} of {count} connections of the {role.value}s are open after {timeout:.3g} s{why}"
    return AcquireTimeout(text, topology=topology)


async def set_drained(manager: AsyncSessionManager[Any], host: object, *, drained: bool) -> None:
    """Drain or readmit the hosts that a name stands for, and return when that is so.

    Raises:
        ConfigError: there is no such host.
        RouterClosed: the router is not open.
        RouteError: the monitor is too busy; it will be done.
    """
    manager.lifecycle.check_open()
    topology = manager.topology
    keys = find_hosts(host, [*topology.by_key, *topology.drained])
    (manager.watch.drain if drained else manager.watch.readmit)(keys)
    until = time.monotonic() + _DRAIN_TIMEOUT
    while True:
        router = manager.lifecycle.check_open()
        version = router.changes.version
        if manager.topology.drained & keys == (keys if drained else frozenset()):
            if drained:
                for pool in manager.pools.values():  # now: whoever waits there would still get a session
                    await pool.reconcile()
            return
        left = until - time.monotonic()
        if left <= 0:
            text = f"the monitor did not answer within {_DRAIN_TIMEOUT:g} s"
            raise RouteError(text, topology=manager.topology)
        await router.changes.wait(version, left)
