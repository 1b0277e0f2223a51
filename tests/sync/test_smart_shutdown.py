# Generated from tests/aio/test_smart_shutdown.py by .ci/unasync.py: edit that file, not this one.
"""A server that is told to stop when its sessions have gone (a smart shutdown): nobody may hold it up."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from pgroute import Router, Event, EventKind, HostState, PoolOptions
from pgroute.monitor import host_watcher
from pgroute.testing import LocalCluster
from tests.sync.workload import key, make_table, numbers, read, refused_until, state, write
from tests.support import Background, call, eventually, within

pytestmark = [pytest.mark.cluster, pytest.mark.long]

LATE = 5.0
"""Seconds within which a server stops that nobody holds up."""


@pytest.fixture
def renewed_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Renew probe connections much more often than every 60 s."""
    monkeypatch.setattr(host_watcher, "RENEW_AFTER", 0.5)


def hold(router: Router[Any], role: Any, begun: threading.Event, over: threading.Event) -> int:
    """Have a session until that is over; return where it was."""
    conn = router.getconn(role)
    try:
        begun.set()
        while not over.is_set():
            conn.execute("SELECT 1")
            time.sleep(0.1)
        conn.commit()
        return int(conn.info.port)
    finally:
        router.putconn(conn)


def test_idle_connections_do_not_hold_up_a_smart_shutdown(
    mended: LocalCluster, renewed_soon: None
) -> None:
    node = mended.nodes[0]
    options = PoolOptions(min_size=3)
    with Router(mended.dsn, writer=options, reader=options, reader_attrs="any") as router:
        for role in ("writer", "reader"):
            router.wait(role)
        eventually(lambda: all(h.state is HostState.UP for h in router.topology.hosts))
        eventually(lambda: router.stats().writer.totals["pool_available"] == 3)
        call(node.stop, "smart", timeout=LATE)
        eventually(lambda: state(router, node) is HostState.DOWN)
        assert (read(router)).port != node.port
        call(node.start)
        router.wait()


def test_a_session_in_flight_ends_in_peace_and_the_shutdown_follows(mended: LocalCluster) -> None:
    def requests() -> int:
        return node.log().count("received smart shutdown request")

    node = mended.nodes[0]
    before = requests()
    begun, over = threading.Event(), threading.Event()
    events: list[Event] = []
    with Router(mended.dsn) as router, Background() as background:
        router.wait()
        eventually(lambda: all(h.state is HostState.UP for h in router.topology.hosts))
        router.subscribe(events.append)
        holder = background.start(hold, router, "writer", begun, over)
        eventually(begun.is_set)
        stopping = background.start(call, node.stop, "smart")
        eventually(lambda: requests() > before)
        # The pool has to grow for it, and that tells: no renewal is due.
        refused_until(lambda text: "the database system is shutting down" in text, router, "writer")
        eventually(lambda: state(router, node) is HostState.STARTING)
        assert (read(router)).port != node.port
        assert not holder.done()
        over.set()
        assert holder.result() == node.port
        ended_at = time.monotonic()
        stopping.result()
        assert time.monotonic() - ended_at < within(LATE)
        eventually(lambda: state(router, node) is HostState.DOWN)
    assert EventKind.SESSIONS_ABORTED not in {event.kind for event in events}


def test_readers_leave_a_standby_that_is_shutting_down(
    mended: LocalCluster, renewed_soon: None
) -> None:
    _, leaving, other = mended.nodes
    begun, over = threading.Event(), threading.Event()
    with (
        Router(mended.dsn, reader_attrs="standby", balance="ordered") as router,
        Background() as background,
    ):
        eventually(lambda: all(h.state is HostState.UP for h in router.topology.hosts))
        holder = background.start(hold, router, "reader", begun, over)
        eventually(begun.is_set)
        stopping = background.start(call, leaving.stop, "smart")
        eventually(lambda: state(router, leaving) is HostState.STARTING)
        assert {(read(router)).port for _ in range(10)} == {other.port}
        assert not holder.done()
        over.set()
        assert holder.result() == leaving.port
        stopping.result()
        call(leaving.start)
        eventually(lambda: state(router, leaving) is HostState.UP)
        assert (read(router)).port == leaving.port


def test_writers_go_on_where_a_standby_is_promoted_after_a_smart_shutdown(
    any_cluster: LocalCluster, renewed_soon: None
) -> None:
    make_table(any_cluster)
    node = any_cluster.primary
    with Router(any_cluster.dsn) as router:
        write(router, 1)
        call(node.stop, "smart", timeout=LATE)
        new = call(any_cluster.promote)
        assert (write(router, 2)).port == new.port
        assert numbers(new) == [1, 2]
        host = router.topology.host(key(node))
        assert host is not None
        assert not host.usable
