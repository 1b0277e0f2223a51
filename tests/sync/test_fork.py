# Generated from tests/aio/test_fork.py by .ci/unasync.py: edit that file, not this one.
"""A process forks while it has a router: the parent goes on, the child is told to make its own."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from pgroute.testing import LocalCluster
from tests.support import call

pytestmark = [pytest.mark.cluster, pytest.mark.long]

ROOT = Path(__file__).parents[2]

PRELUDE = """
import time, gc, os, sys, time, traceback
import psycopg
import pgroute

DSN = sys.argv[1]

def pid_of(router, role):
    with router.writer(5.0) if role == "writer" else router.reader(5.0) as conn:
        cursor = conn.execute("SELECT pg_backend_pid()")
        return (cursor.fetchone())[0]

def own(*functions):
    # Each in a loop of the child's own.
    for function in functions:
        function()

def fork(*functions):
    # Run functions in a child, which must succeed, with all that an exit of the interpreter does.
    child = os.fork()
    if not child:
        status = 1
        try:
            own(*functions)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.exit(status)
            # The end of the inherited loop would disturb the parent's: asyncio shares it.
    assert os.waitpid(child, 0)[1] == 0

def backends():
    found = []
    for conninfo in sys.argv[2:]:
        with psycopg.connect(conninfo, application_name="outside") as conn:
            found += conn.execute(
                "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend'"
                " AND application_name NOT IN ('outside', 'pgroute-testing') ORDER BY 1"
            ).fetchall()
    return found

def main():
    with pgroute.Router(DSN) as router:
        pids = [pid_of(router, "writer"), pid_of(router, "reader")]
        while not all(host.usable for host in router.topology.hosts):
            time.sleep(0.01)
"""


def run(cluster: LocalCluster, body: str) -> None:
    """Run a script in which *body* has a warm router and the pids of its two idle backends."""
    conninfos = [node.conninfo for node in cluster.nodes]
    script = PRELUDE + textwrap.indent(textwrap.dedent(body), " " * 8)
    script += "\n\nmain()\n"
    done = call(
        subprocess.run,
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script, cluster.dsn, *conninfos],
        capture_output=True,
        text=True,
        timeout=30,
        cwd=ROOT,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_child_is_told_to_make_its_own_router(shared: LocalCluster) -> None:
    run(
        shared,
        """
        def use():
            started = time.monotonic()
            for attempt in (
                router.getconn, router.wait, lambda _: router.open(),
                lambda role: pid_of(router, role)
            ):
                try:
                    attempt("writer")
                except pgroute.RouterClosed as error:
                    assert "make a router in the child, after the fork" in str(error)
                else:
                    raise AssertionError(attempt)
            router.close()
            assert router.topology.primary is not None
            assert "closed" in repr(router)
            assert time.monotonic() - started < 5.0

        fork(use)
        """,
    )


def test_a_router_made_in_the_child_works(shared: LocalCluster) -> None:
    run(
        shared,
        """
        def make():
            with pgroute.Router(DSN) as mine:
                assert pid_of(mine, "writer") not in pids
                assert pid_of(mine, "reader") not in pids

        fork(make, make)
        """,
    )


def test_the_parents_connections_outlive_the_child(shared: LocalCluster) -> None:
    run(
        shared,
        """
        def nothing():
            pass

        def collect():
            gc.collect()

        def use():
            try:
                pid_of(router, "writer")
            except pgroute.RouterClosed:
                router.close()

        before = backends()
        for function in (nothing, use, collect):
            fork(function)
            assert backends() == before
        assert pid_of(router, "writer") == pids[0]
        seen = router.topology.at
        while router.topology.at == seen:
            time.sleep(0.01)
        assert backends() == before
        """,
    )


def test_a_session_of_the_parent_goes_on(shared: LocalCluster, table: str) -> None:
    run(
        shared,
        f"""
        def nothing():
            pass

        with router.writer() as conn:
            conn.execute("INSERT INTO {table} VALUES (1)")
            fork(nothing)
            conn.execute("INSERT INTO {table} VALUES (2)")
        """,
    )
    assert shared.primary.execute(f"SELECT number FROM {table} ORDER BY 1") == [(1,), (2,)]


@pytest.mark.parametrize("leave", ["raise KeyError", "pass"])
def test_a_child_that_leaves_the_parents_session_touches_nothing(
    shared: LocalCluster, table: str, leave: str
) -> None:
    run(
        shared,
        f"""
        child = 0
        try:
            with router.writer() as conn:
                conn.execute("INSERT INTO {table} VALUES (1)")
                child = os.fork()
                if child:
                    assert os.waitpid(child, 0)[1] == 0
                    conn.execute("INSERT INTO {table} VALUES (2)")
                else:
                    {leave}
        except (KeyError, pgroute.RouterClosed) as error:
            if child:
                raise
            os._exit(0)
        if not child:
            os._exit(1)
        assert pid_of(router, "writer") == pids[0]
        """,
    )
    assert shared.primary.execute(f"SELECT number FROM {table} ORDER BY 1") == [(1,), (2,)]


def test_a_router_not_yet_opened_may_be_opened_in_the_child(shared: LocalCluster) -> None:
    run(
        shared,
        """
        later = pgroute.Router(DSN)

        def use():
            with later:
                pid_of(later, "writer")

        fork(use)
        with later:
            pid_of(later, "writer")
        """,
    )


def test_the_child_is_told_so_by_a_listener_which_goes_on_in_the_parent(shared: LocalCluster) -> None:
    run(
        shared,
        """
        with router.listen("forks") as events:
            def use():
                for attempt in (events.next, events.__next__, router.listen("other").__enter__):
                    try:
                        attempt()
                    except pgroute.RouterClosed as error:
                        assert "make a router in the child, after the fork" in str(error)
                    else:
                        raise AssertionError(attempt)
                events.__exit__(None, None, None)
                router.close()
                gc.collect()

            fork(use, use)
            with psycopg.connect(sys.argv[2], autocommit=True) as conn:
                conn.execute("NOTIFY forks, 'hello'")
            event = events.next(10.0)
            assert event.payload == "hello", event
        """,
    )
