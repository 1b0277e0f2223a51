"""A process is forked in C, as uWSGI does by default: no hook of Python's runs in the child."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pgroute.testing import LocalCluster

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[1]

SCRIPT = """
import asyncio, ctypes, os, signal, sys, threading, time, traceback
import psycopg
import pgroute
from pgroute import AsyncRouter, PoolOptions, RouterClosed
from pgroute.batch import AsyncBatchJob

DSN, TABLE, LEAVE = sys.argv[1:]
ONE = PoolOptions(max_size=1)
libc = ctypes.PyDLL(None)
# If another thread waits for the interpreter's lock at the moment of the fork, CPython hangs in the child, at its next
# line or as soon as it has two threads: the waiter is still counted there, and PyOS_AfterFork_Child, which would forget
# it, is not called. Nothing of pgroute's runs then, so the parent ends that child, which cannot do so itself, and makes
# another one.
HANGS, CHILDREN = 15, 3

def end_of(number):
    until = time.monotonic() + HANGS
    while not (ended := os.waitpid(number, os.WNOHANG))[0]:
        if time.monotonic() > until:
            os.kill(number, signal.SIGKILL)
        time.sleep(0.01)
    return os.waitstatus_to_exitcode(ended[1])

async def pid_of(router, role="writer"):
    async with router.connection("read-write" if role == "writer" else "standby", 10.0) as conn:
        return conn.info.backend_pid

async def nothing(conn, *_):
    raise AssertionError("a body ran")

async def attempt(router):
    async for attempt in router.attempts():
        async with attempt as conn:
            await nothing(conn)

async def session(router):
    async with router.writer() as conn:
        await nothing(conn)

def threads(name):
    return [thread for thread in threading.enumerate() if thread.name == name]

async def refused(*uses):
    for use in uses:
        started = time.monotonic()
        try:
            result = use()
            if hasattr(result, "__await__"):
                await result
        except RouterClosed as error:
            assert "make a router in the child, after the fork" in str(error)
        else:
            raise AssertionError(use)
        assert time.monotonic() - started < 5.0, use

async def raises(router):
    async with router.writer() as conn:
        await conn.execute(f"INSERT INTO {TABLE} VALUES (9)")
        raise KeyError

async def child(router, later, held, conn, pids):
    await refused(
        lambda: session(router),
        lambda: router.getconn("writer"),
        lambda: router.putconn(conn),
        router.wait,
        router.open,
        lambda: router.run(nothing),
        lambda: attempt(router),
        lambda: AsyncBatchJob(router, "job", [1]).run(nothing),
        lambda: router.subscribe(print),
        router.forget_timeline,
        lambda: held.__aexit__(None, None, None),
    )
    assert "closed" in repr(router), router
    assert router.topology.primary is not None
    router.stats(), router.get_stats()
    await router.close()
    async with later:
        assert await pid_of(later) not in pids
        try:
            await raises(later)
        except KeyError:
            pass
        while not seen:
            await asyncio.sleep(0.01)
    async with AsyncRouter(DSN) as mine:
        assert await pid_of(mine) not in pids
        assert await mine.run(pid_in) not in pids

async def pid_in(conn):
    return conn.info.backend_pid

seen = []

async def main():
    options = {"balance": "ordered"}
    async with AsyncRouter(DSN, writer=ONE, **options) as router, AsyncRouter(DSN, **options) as other:
        while not all(host.usable for host in router.topology.hosts):
            await asyncio.sleep(0.01)
        pids = [await pid_of(router), await pid_of(other), await pid_of(router, "reader")]
        later = AsyncRouter(DSN)
        later.subscribe(seen.append)
        held = router.writer()
        conn = await held.__aenter__()
        assert conn.info.backend_pid == pids[0]
        await conn.execute(f"INSERT INTO {TABLE} VALUES (1)")
        for _ in range(CHILDREN):
            number = libc.fork()
            if not number:
                break
            status = end_of(number)
            if status != -signal.SIGKILL:
                break
        if not number:
            status = 1
            try:
                begin(child(router, later, held, conn, pids)) if LEAVE != "untouched" else None
                status = 0
            except BaseException:
                traceback.print_exc()
            if LEAVE == "_exit":
                os._exit(status)
            raise SystemExit(status)
        assert status == 0, status
        await conn.execute(f"INSERT INTO {TABLE} VALUES (2)")
        await held.__aexit__(None, None, None)
        assert pids == [await pid_of(router), await pid_of(other), await pid_of(router, "reader")]
        at = router.topology.at
        while router.topology.at == at:
            await asyncio.sleep(0.01)
        await later.close()

"""

ASYNC = """
def begin(coroutine):
    asyncio._set_running_loop(None)
    asyncio.run(coroutine)

asyncio.run(main())
"""

SYNC = """
def begin(_):
    pass

main()
"""


def synchronous(script: str) -> str:
    """Return the script for threads."""
    for pattern, new in (
        (r"await |async (?=def|with|for)", ""),
        (r"__a(enter|exit)__", r"__\1__"),
        (r"asyncio\.sleep", "time.sleep"),
        (r"\bAsync(?=Router|BatchJob)", ""),
    ):
        script = re.sub(pattern, new, script)
    return script


@pytest.mark.parametrize(
    ("face", "leave"), [("sync", "_exit"), ("sync", "exit"), ("sync", "untouched"), ("async", "_exit")]
)
def test_the_child_is_told_to_make_its_own_router_and_the_parent_goes_on(
    shared: LocalCluster, table: str, face: str, leave: str
) -> None:
    script = SCRIPT + ASYNC if face == "async" else synchronous(SCRIPT) + SYNC
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script, shared.dsn, table, leave],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        check=False,
    )
    assert (done.stderr, done.stdout, done.returncode) == ("", "", 0)
    assert shared.primary.execute(f"SELECT number FROM {table} ORDER BY 1") == [(1,), (2,)]
