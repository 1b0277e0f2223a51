# Generated from tests/aio/test_lifecycle.py by .ci/unasync.py: edit that file, not this one.
"""Opening, closing, and what is left after it: nothing."""

from __future__ import annotations

import gc
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgroute import (
    Router,
    CommitUnknown,
    ConfigError,
    NoHostAvailable,
    PoolOptions,
    RouteError,
    RouterClosed,
)
from pgroute.core.model.roles import Role
from pgroute.testing import LocalCluster, Node
from tests.sync.workload import key
from tests.support import Background, call, eventually, within

pytestmark = pytest.mark.cluster

ONE = PoolOptions(max_size=1)
ROOT = Path(__file__).parents[2]


def probes(node: Node) -> int:
    """Return the number of probe connections that a server sees."""
    [(count,)] = node.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE '%pgroute-monitor'"
    )
    return int(count)


def monitors() -> int:
    return sum(thread.name == "pgroute-monitor" for thread in threading.enumerate())


def session(router: Router[Any]) -> None:
    with router.writer() as conn:
        conn.execute("SELECT 1")


def test_the_constructor_contacts_nobody() -> None:
    before = threading.active_count()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        router: Router[Any] = Router(f"host=127.0.0.1 port={server.getsockname()[1]}")
        assert router.topology.primary is None
        assert threading.active_count() == before
        with pytest.raises(BlockingIOError):
            server.accept()


def test_a_router_that_was_never_opened_says_so(shared: LocalCluster) -> None:
    router = Router(shared.dsn)
    assert router.closed
    with pytest.raises(RouterClosed, match="never opened"):
        session(router)
    with pytest.raises(RouterClosed, match="never opened"):
        router.forget_timeline()
    router.close()
    with pytest.raises(RouterClosed, match="is closed"):
        session(router)


def test_a_closed_router_gives_no_session_and_cannot_be_opened_again(shared: LocalCluster) -> None:
    with Router(shared.dsn) as router:
        told = [router.closed]
        session(router)
    assert [*told, router.closed] == [False, True]
    for use in (lambda: session(router), router.wait, router.open):
        with pytest.raises(RouterClosed, match="is closed"):
            use()
    assert "closed" in repr(router)


@pytest.mark.parametrize(
    "arguments",
    [{"wait": "no"}, {"wait": 1}, {"timeout": -5}, {"timeout": "1"}, {"wait": True, "timeout": None}],
)
def test_arguments_that_cannot_be_used_open_no_router(arguments: dict[str, Any]) -> None:
    router = Router("host=127.0.0.1 port=1")
    with pytest.raises(ConfigError, match="expected"):
        router.open(**arguments)
    assert router.closed
    assert "new" in repr(router)
    router.close()


def test_opening_and_closing_twice_is_once(shared: LocalCluster) -> None:
    router = Router(shared.dsn)
    router.open()
    router.open()
    eventually(lambda: router.topology.primary)
    assert probes(shared.primary) == 1
    router.close()
    router.close()


def test_close_waits_for_the_sessions_in_flight(shared: LocalCluster, table: str) -> None:
    begun = threading.Event()

    def work(router: Router[Any]) -> None:
        with router.writer() as conn:
            begun.set()
            conn.execute(f"INSERT INTO {table} SELECT 1 FROM pg_sleep(0.3)")
            assert router.closed  # from the beginning of the close

    router = Router(shared.dsn)
    router.open()
    with Background() as background:
        worker = background.start(work, router)
        eventually(begun.is_set)
        router.close()
        assert shared.primary.execute(f"SELECT count(*) FROM {table}") == [(1,)]
        worker.result()


def test_close_aborts_sessions_that_outlast_its_timeout(shared: LocalCluster) -> None:
    begun = threading.Event()

    def work(router: Router[Any]) -> None:
        with router.writer() as conn:
            begun.set()
            conn.execute("SELECT pg_sleep(60)")

    router = Router(shared.dsn)
    router.open()
    with Background() as background:
        worker = background.start(work, router)
        eventually(begun.is_set)
        closed_at = time.monotonic()
        router.close(timeout=0.2)
        assert 0.2 <= time.monotonic() - closed_at < within(1.0)
        with pytest.raises(psycopg.OperationalError):
            worker.result(1.0)
    call(end_sleepers, shared.primary)


def test_with_a_connection_check_the_server_ends_what_close_has_aborted(
    shared: LocalCluster, table: str
) -> None:
    begun = threading.Event()

    def work(router: Router[Any]) -> None:
        with router.writer() as conn:
            conn.execute(f"INSERT INTO {table} VALUES (1)")
            begun.set()
            conn.execute("SELECT pg_sleep(60)")

    checking = PoolOptions(kwargs={"options": "-c client_connection_check_interval=50ms"})
    router = Router(shared.dsn, writer=checking)
    router.open()
    with Background() as background:
        worker = background.start(work, router)
        eventually(begun.is_set)
        router.close(timeout=0)
        with pytest.raises(psycopg.OperationalError):
            worker.result(1.0)
    closed_at = time.monotonic()
    call(
        shared.primary.execute, f"INSERT INTO {table} VALUES (1)"
    )  # waits for the lock of the first
    assert time.monotonic() - closed_at < within(5.0)


def end_sleepers(node: Node) -> None:
    """The server does not notice that a client is gone while it sleeps."""
    node.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%'"
    )


def test_a_session_returned_after_the_close_is_closed_too(shared: LocalCluster) -> None:
    router = Router(shared.dsn)
    router.open()
    conn = router.getconn("writer")
    router.close(timeout=0)
    router.putconn(conn)
    assert conn.closed


def test_close_waits_for_all_that_hangs_at_the_same_time(shared: LocalCluster) -> None:
    release = threading.Event()
    configuring: list[object] = []
    told: list[object] = []

    def configure(conn: Any) -> None:
        configuring.append(conn)
        call(release.wait, 60.0)

    def subscriber(event: object) -> None:
        told.append(event)
        release.wait(60.0)

    def refused(role: Any) -> None:
        with pytest.raises(RouterClosed):
            router.getconn(role)

    router = Router(shared.dsn, configure=configure)
    router.subscribe(subscriber)
    router.open()
    with Background() as background:
        waiters = [background.start(refused, role) for role in ("writer", "reader")]
        eventually(lambda: told and len(configuring) >= 2)
        begun = time.monotonic()
        router.close(timeout=0)
        taken = time.monotonic() - begun
        release.set()
        for waiter in waiters:
            waiter.result()
    assert taken < within(3.2), "2 s in all"


@pytest.mark.parametrize("when", ["before", "during"])
def test_close_does_not_wait_for_connections_that_were_lost(shared: LocalCluster, when: str) -> None:
    router = Router(shared.dsn)
    router.open()
    lent = [router.getconn("writer")]
    begun = time.monotonic()
    if when == "before":
        lent.clear()
        gc.collect()
        router.close(timeout=30)
    else:
        with Background() as background:
            closing = background.start(router.close, 30.0)
            retired = router._manager.pools[Role.WRITER]._retired
            eventually(lambda: [pool for pool in retired if pool.closed])
            lent.clear()
            gc.collect()
            closing.result()
    assert time.monotonic() - begun < within(5.0)


def test_an_idle_transaction_aborted_by_close_is_lost(shared: LocalCluster, table: str) -> None:
    router = Router(shared.dsn)
    router.open()
    with pytest.raises(RouteError) as caught:
        with router.writer() as conn:
            conn.execute(f"INSERT INTO {table} VALUES (1)")
            router.close(timeout=0)
    assert not isinstance(caught.value, CommitUnknown)
    assert shared.primary.execute(f"SELECT count(*) FROM {table}") == [(0,)]


def test_callers_who_queue_are_told_at_once_when_the_router_closes(shared: LocalCluster) -> None:
    router = Router(shared.dsn, writer=ONE)
    router.open()
    conn = router.getconn("writer")

    def refused(role: str) -> float:
        with pytest.raises(RouterClosed, match="is closed"):
            router.getconn("writer")
        return time.monotonic()

    with Background() as background:
        waiters = [background.start(refused, "writer") for _ in range(5)]
        eventually(lambda: router.get_stats()["writer"].get("requests_waiting") == 5)
        closed_at = time.monotonic()
        closing = background.start(router.close)
        told_at = [waiter.result() for waiter in waiters]
        assert max(told_at) - closed_at < within(0.3)
        router.putconn(conn)
        closing.result()
        assert time.monotonic() - closed_at < within(1.0)


def test_callers_who_wait_for_a_host_are_told_at_once_when_the_router_closes() -> None:
    router: Router[Any] = Router("host=127.0.0.1 port=1")
    router.open()

    def refused() -> float:
        with pytest.raises(RouterClosed, match="is closed"):
            router.getconn("writer")
        return time.monotonic()

    with Background() as background:
        waiters = [background.start(refused) for _ in range(5)]
        with pytest.raises(NoHostAvailable):
            router.wait(timeout=0.2)
        closed_at = time.monotonic()
        router.close()
        told_at = [waiter.result() for waiter in waiters]
    assert max(told_at) - closed_at < within(0.3)


def test_routers_share_one_thread_and_one_probe_connection_for_each_host(shared: LocalCluster) -> None:
    with Router(shared.dsn) as one:
        one.wait()
        with Router(shared.dsn) as two:
            two.wait()
            eventually(lambda: all(host.usable for host in two.topology.hosts))
            assert [probes(node) for node in shared.nodes] == [1, 1, 1]
            assert monitors() == 1
        session(one)
        assert [probes(node) for node in shared.nodes] == [1, 1, 1]
    assert monitors() == 0


def test_routers_opened_and_closed_in_numbers_leave_nothing(shared: LocalCluster) -> None:
    for _ in range(10):
        with Router(shared.dsn) as router:
            session(router)
    with Background() as background:
        workers = [background.start(once, shared.dsn) for _ in range(10)]
        for worker in workers:
            worker.result()


def once(dsn: str) -> None:
    with Router(dsn) as router:
        session(router)


def test_a_router_closed_at_once_leaves_nothing(shared: LocalCluster) -> None:
    for _ in range(20):
        with Router(shared.dsn):
            pass


def test_a_router_closed_while_it_connects_leaves_nothing(shared: LocalCluster) -> None:
    for delay in range(20):
        router = Router(shared.dsn, writer=PoolOptions(min_size=3))
        router.open()
        with Background() as background:
            worker = background.start(router.wait)
            time.sleep(delay / 1000)
            router.close()
            try:
                worker.result()
            except RouterClosed:
                continue


@pytest.mark.parametrize("phase", ["login", "check"])
def test_a_router_closed_while_it_connects_to_a_frozen_host_leaves_nothing(
    mended: LocalCluster, phase: str
) -> None:
    old = mended.nodes[0]
    connected: list[float] = []

    def configure(conn: Any) -> None:
        connected.append(time.monotonic())
        call(old.freeze)
        conn.execute("SELECT 1")

    router = Router(mended.dsn, configure=configure if phase == "check" else None)
    router.open()
    with Background() as background:
        eventually(lambda: all(host.usable for host in router.topology.hosts))
        if phase == "login":
            call(old.freeze)
        waiter = background.start(router.wait)
        if phase == "check":
            eventually(lambda: connected)
        else:
            eventually(lambda: router._manager.pools[Role.WRITER].pool(key(old)))
        begun = time.monotonic()
        router.close()
        with pytest.raises(RouterClosed):
            waiter.result()
        eventually(lambda: not [t for t in threading.enumerate() if "writer" in t.name])
    assert time.monotonic() - begun < within(1.5), "psycopg's timeouts are of 2 s at least, ours of 5 s"


# The end of the interpreter.

SCRIPT = """
import time, sys
import pgroute

def main():
    router = pgroute.Router(sys.argv[1])
    router.open()
    with router.writer() as conn:
        conn.execute("SELECT 1")
    conn = router.getconn("reader")
    {end}

main()
"""


@pytest.mark.parametrize(
    "end",
    [
        "router.putconn(conn); router.close()",
        "router.putconn(conn)",
        "pass",
        "globals().update(router=router, conn=conn)",
    ],
    ids=["closed", "open", "session-open", "kept"],
)
def test_the_interpreter_ends_quietly_and_soon(shared: LocalCluster, end: str) -> None:
    def run() -> tuple[float, str]:
        began_at = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(SCRIPT).format(end=end), shared.dsn],
            capture_output=True,
            text=True,
            timeout=30,
            cwd=ROOT,
            check=True,
        )
        return time.monotonic() - began_at, done.stdout + done.stderr

    taken, said = call(run)
    lost = end == "pass" and said.endswith(" was lost by its caller, and is closed\n")
    assert said == "" or (lost and said.count("\n") == 1)
    assert taken < within(5.0)


