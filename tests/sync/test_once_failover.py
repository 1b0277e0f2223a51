# Generated from tests/aio/test_once_failover.py by .ci/unasync.py: edit that file, not this one.
"""A transaction with a key, and a primary that is replaced in the middle: applied once on the new one."""

from __future__ import annotations

import functools
import threading
from typing import Any, Literal

import pytest

from pgroute import Router, CommitUnknown
from pgroute.testing import LocalCluster, Node
from tests import support
from tests.sync.conftest import Proxied
from tests.sync.counting import Increment, call_once, counted, set_up, terminate, waiting
from tests.support import Background, call, eventually

pytestmark = [pytest.mark.cluster, pytest.mark.long]

Fate = Literal["lost with the primary", "received by the standbys"]
FATES: tuple[Fate, ...] = ("lost with the primary", "received by the standbys")
"""What becomes of what the primary committed and no standby confirmed."""


def hold_standbys(cluster: LocalCluster, fate: Fate) -> None:
    """Have no commit confirmed any more."""
    for standby in cluster.nodes[1:]:
        if fate == "lost with the primary":
            standby.stop()
        else:
            standby.freeze()  # the kernel receives for it


def crash(cluster: LocalCluster) -> str:
    """Kill the first node, and return how far it had written."""
    old = cluster.nodes[0]
    [(written,)] = old.execute("SELECT pg_current_wal_flush_lsn()::text")
    old.kill()
    return str(written)


def received(standby: Node, written: str) -> bool:
    """Return whether a standby has all that was written."""
    return bool(standby.execute(f"SELECT pg_last_wal_receive_lsn() >= '{written}'")[0][0])


def promote(cluster: LocalCluster, written: str) -> Node:
    """Let the standbys go on, promote the one that has received most, and return it."""
    for standby in cluster.nodes[1:]:
        if standby.frozen:
            standby.thaw()
            support.eventually(functools.partial(received, standby, written))
        elif not standby.running:
            standby.start()
    return cluster.promote()


def crash_and_promote(cluster: LocalCluster) -> Node:
    """Do both."""
    return promote(cluster, crash(cluster))


@pytest.mark.parametrize("fate", FATES)
def test_a_result_that_a_promotion_could_lose_is_not_reported_before_it_is_confirmed(
    trio: Proxied, fate: Fate
) -> None:
    cluster, increment = trio.cluster, Increment()
    old = cluster.nodes[0]
    with Router(trio.dsn) as router, Background() as background:
        router.wait()
        call(hold_standbys, cluster, fate)
        worker = background.start(call_once, router, increment)
        [first] = eventually(lambda: waiting(old, "SyncRep"))
        call(terminate, old, first[0])
        # The row is found here now, and may be nowhere else.
        eventually(lambda: waiting(old, "SyncRep"))
        assert counted(old) == (1, 1)
        assert not worker.done()
        new = call(crash_and_promote, cluster)
        assert worker.result() == 1
        assert counted(new) == (1, 1)
        assert increment.runs == (2 if fate == "lost with the primary" else 1)
        assert call_once(router, increment) == 1
    assert counted(new) == (1, 1)


@pytest.mark.parametrize("moment", ["before COMMIT", *FATES, "after COMMIT"])
def test_a_crash_and_promotion_applies_it_once(trio: Proxied, moment: Any) -> None:
    cluster, increment = trio.cluster, Increment()
    old, crashed = cluster.nodes[0], threading.Event()

    def body(conn: Any) -> int:
        value = increment(conn)
        if moment == "before COMMIT":
            eventually(crashed.is_set, 30.0)
        return value

    trigger = trio.proxies[0].when(b"COMMIT\0", "to_client", "blackhole", after_forwarding=False)
    with Router(trio.dsn) as router, Background() as background:
        router.wait()
        if moment in FATES:
            call(hold_standbys, cluster, moment)
        worker = background.start(call_once, router, body)
        if moment in FATES:
            eventually(lambda: waiting(old, "SyncRep"))
        else:
            eventually(lambda: trigger.hits if moment == "after COMMIT" else increment.runs)
        new = call(crash_and_promote, cluster)
        crashed.set()
        assert worker.result() == 1
    assert increment.runs == (2 if moment in ("before COMMIT", "lost with the primary") else 1)
    assert counted(new) == (1, 1)


def test_a_commit_that_a_frozen_primary_gets_to_see_too_late_is_applied_on_the_new_one_alone(
    trio: Proxied,
) -> None:
    cluster, increment = trio.cluster, Increment()
    old, proxy = cluster.nodes[0], trio.proxies[0]
    trigger = proxy.when(b"COMMIT", action="blackhole", after_forwarding=False)
    with Router(trio.dsn) as router, Background() as background:
        worker = background.start(call_once, router, increment)
        call(trigger.wait)
        call(old.freeze)
        proxy.clear_faults()
        new = call(cluster.promote)
        assert worker.result() == 1
        call(old.thaw)
        # It commits now, and nobody confirms it.
        eventually(lambda: waiting(old, "SyncRep"))
        assert call_once(router, increment) == 1
    assert increment.runs == 2
    assert counted(new) == (1, 1)
    call(old.kill)


def test_without_synchronous_replication_row_and_key_are_lost_together(breakable: Proxied) -> None:
    cluster, increment = breakable.cluster, Increment()
    call(set_up, cluster)
    with Router(breakable.dsn) as router:
        router.wait()
        call(hold_standbys, cluster, "lost with the primary")
        assert call_once(router, increment) == 1
        new = call(crash_and_promote, cluster)
        assert counted(new) == (0, 0)
        assert call_once(router, increment) == 1
    assert increment.runs == 2
    assert counted(new) == (1, 1)


@pytest.mark.parametrize("fate", FATES)
def test_an_outage_longer_than_the_time_to_try_leaves_it_to_a_later_call(
    trio: Proxied, fate: Fate
) -> None:
    cluster, increment = trio.cluster, Increment()
    old = cluster.nodes[0]
    with Router(trio.dsn) as router, Background() as background:
        router.wait()
        call(hold_standbys, cluster, fate)
        worker = background.start(call_once, router, increment, 1.0)
        eventually(lambda: waiting(old, "SyncRep"))
        written = call(crash, cluster)
        with pytest.raises(CommitUnknown):
            worker.result()
        new = call(promote, cluster, written)
        assert call_once(router, increment) == 1
    assert increment.runs == (2 if fate == "lost with the primary" else 1)
    assert counted(new) == (1, 1)
