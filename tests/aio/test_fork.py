"""A process forks while it has a router: the parent goes on, the child is told to make its own."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from pgroute.testing import LocalCluster
from tests.support import async_call

pytestmark = pytest.mark.cluster  # async-only
# sync-only: pytestmark = [pytest.mark.cluster, pytest.mark.long]

ROOT = Path(__file__).parents[2]

PRELUDE = """
import asyncio, gc, os, sys, time, traceback
import psycopg
import pgroute

DSN = sys.argv[1]

async def pid_of(router, role):
    async with router.writer(5.0) if role == "writer" else router.reader(5.0) as conn:
        cursor = await conn.execute("SELECT pg_backend_pid()")
        return (await cursor.fetchone())[0]

def own(*functions):
    # Each in a loop of the child's own.
    for function in functions:
        asyncio.run(function())  # async-only
        # sync-only: function()

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
            # sync-only: sys.exit(status)
            # The end of the inherited loop would disturb the parent's: asyncio shares it.
            os._exit(status)  # async-only
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

async def main():
    async with pgroute.AsyncRouter(DSN) as router:
        pids = [await pid_of(router, "writer"), await pid_of(router, "reader")]
        while not all(host.usable for host in router.topology.hosts):
            await asyncio.sleep(0.01)
"""


async def run(cluster: LocalCluster, body: str) -> None:
    """Run a script in which *body* has a warm router and the pids of its two idle backends."""
    conninfos = [node.conninfo for node in cluster.nodes]
    script = PRELUDE + textwrap.indent(textwrap.dedent(body), " " * 8)
    script += "\n\nasyncio.run(main())\n"  # async-only
    # sync-only: script += "\n\nmain()\n"
    done = await async_call(
        subprocess.run,
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script, cluster.dsn, *conninfos],
        capture_output=True,
        text=True,
        timeout=30,
        cwd=ROOT,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


async def test_the_child_is_told_to_make_its_own_router(shared: LocalCluster) -> None:
    await run(
        shared,
        """
        async def use():
            started = time.monotonic()
            for attempt in (
                router.getconn, router.wait, lambda _: router.open(),
                lambda role: pid_of(router, role)
            ):
                try:
                    await attempt("writer")
                except pgroute.RouterClosed as error:
                    assert "make a router in the child, after the fork" in str(error)
                else:
                    raise AssertionError(attempt)
            await router.close()
            assert router.topology.primary is not None
            assert "closed" in repr(router)
            assert time.monotonic() - started < 5.0

        fork(use)
        """,
    )


async def test_a_router_made_in_the_child_works(shared: LocalCluster) -> None:
    await run(
        shared,
        """
        async def make():
            async with pgroute.AsyncRouter(DSN) as mine:
                assert await pid_of(mine, "writer") not in pids
                assert await pid_of(mine, "reader") not in pids

        fork(make, make)
        """,
    )


async def test_the_parents_connections_outlive_the_child(shared: LocalCluster) -> None:
    await run(
        shared,
        """
        async def nothing():
            pass

        async def collect():
            gc.collect()

        async def use():
            try:
                await pid_of(router, "writer")
            except pgroute.RouterClosed:
                await router.close()

        before = backends()
        for function in (nothing, use, collect):
            fork(function)
            assert backends() == before
        assert await pid_of(router, "writer") == pids[0]
        seen = router.topology.at
        while router.topology.at == seen:
            await asyncio.sleep(0.01)
        assert backends() == before
        """,
    )


async def test_a_session_of_the_parent_goes_on(shared: LocalCluster, table: str) -> None:
    await run(
        shared,
        f"""
        async def nothing():
            pass

        async with router.writer() as conn:
            await conn.execute("INSERT INTO {table} VALUES (1)")
            fork(nothing)
            await conn.execute("INSERT INTO {table} VALUES (2)")
        """,
    )
    assert shared.primary.execute(f"SELECT number FROM {table} ORDER BY 1") == [(1,), (2,)]


@pytest.mark.parametrize("leave", ["raise KeyError", "pass"])
async def test_a_child_that_leaves_the_parents_session_touches_nothing(
    shared: LocalCluster, table: str, leave: str
) -> None:
    await run(
        shared,
        f"""
        child = 0
        try:
            async with router.writer() as conn:
                await conn.execute("INSERT INTO {table} VALUES (1)")
                child = os.fork()
                if child:
                    assert os.waitpid(child, 0)[1] == 0
                    await conn.execute("INSERT INTO {table} VALUES (2)")
                else:
                    {leave}
        except (KeyError, pgroute.RouterClosed) as error:
            if child:
                raise
            os._exit(0)
        if not child:
            os._exit(1)
        assert await pid_of(router, "writer") == pids[0]
        """,
    )
    assert shared.primary.execute(f"SELECT number FROM {table} ORDER BY 1") == [(1,), (2,)]


async def test_a_router_not_yet_opened_may_be_opened_in_the_child(shared: LocalCluster) -> None:
    await run(
        shared,
        """
        later = pgroute.AsyncRouter(DSN)

        async def use():
            async with later:
                await pid_of(later, "writer")

        fork(use)
        async with later:
            await pid_of(later, "writer")
        """,
    )


async def test_the_child_is_told_so_by_a_listener_which_goes_on_in_the_parent(shared: LocalCluster) -> None:
    await run(
        shared,
        """
        async with router.listen("forks") as events:
            async def use():
                for attempt in (events.next, events.__anext__, router.listen("other").__aenter__):
                    try:
                        await attempt()
                    except pgroute.RouterClosed as error:
                        assert "make a router in the child, after the fork" in str(error)
                    else:
                        raise AssertionError(attempt)
                await events.__aexit__(None, None, None)
                await router.close()
                gc.collect()

            fork(use, use)
            with psycopg.connect(sys.argv[2], autocommit=True) as conn:
                conn.execute("NOTIFY forks, 'hello'")
            event = await events.next(10.0)
            assert event.payload == "hello", event
        """,
    )
