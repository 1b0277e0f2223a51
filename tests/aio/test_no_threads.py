"""No more threads are given (a limit on processes, the interpreter's end): what is open goes on and ends well."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgroute import AsyncRouter, PoolOptions, RouterClosed
from pgroute.testing import LocalCluster
from tests.support import async_call, async_eventually

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
ONE = PoolOptions(max_size=1)


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> NoThreads:
    """Threads cannot be started while it is set: any, or those of one name."""
    return NoThreads(monkeypatch)


class NoThreads:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.on = False
        self.name = ""
        start = threading.Thread.start

        def refuse(thread: threading.Thread) -> None:
            if self.on and thread.name.startswith(self.name):
                raise RuntimeError("can't start new thread")
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", refuse)

    def __enter__(self) -> None:
        self.on = True

    def __exit__(self, *_: object) -> None:
        self.on = False


async def one(conn: psycopg.AsyncConnection[Any]) -> Any:
    cursor = await conn.execute("SELECT 1")
    return await cursor.fetchone()


async def test_the_error_of_a_body_is_kept_and_its_connection_goes_back(
    shared: LocalCluster, no_threads: NoThreads
) -> None:
    async with AsyncRouter(shared.dsn, writer=ONE) as router:
        await router.wait()
        with no_threads:
            for _ in range(3):
                with pytest.raises(KeyError):
                    async with router.writer(5.0) as conn:
                        await one(conn)
                        raise KeyError
            conn = await router.getconn("writer", timeout=5.0)
            await one(conn)
            await router.putconn(conn)
            async with router.writer(5.0) as conn:
                assert await one(conn) == (1,)


async def test_a_transaction_is_run_again(shared: LocalCluster, no_threads: NoThreads) -> None:
    tried = []

    async def fail_once(conn: psycopg.AsyncConnection[Any]) -> Any:
        tried.append(1)
        if len(tried) == 1:
            raise psycopg.errors.SerializationFailure
        return await one(conn)

    async with AsyncRouter(shared.dsn, writer=ONE) as router:
        await router.wait()
        with no_threads:
            assert await router.run(fail_once, timeout=10.0) == (1,)
            assert len(tried) == 2
            with pytest.raises(KeyError):
                await router.run(fail, timeout=10.0)


async def fail(conn: psycopg.AsyncConnection[Any]) -> None:
    await one(conn)
    raise KeyError


async def test_a_router_closes(shared: LocalCluster, no_threads: NoThreads) -> None:
    router = AsyncRouter(shared.dsn)
    await router.open(wait=True)
    conn = await router.getconn("reader", timeout=5.0)
    router.subscribe(print)
    with no_threads:
        await router.close(timeout=0.0)
        await router.putconn(conn)
    with pytest.raises(RouterClosed, match="is closed"):
        await router.getconn("writer")


@pytest.mark.parametrize(
    "name",
    [
        "pgroute-monitor",
        # sync-only: "pgroute-timers",
        # sync-only: "pgroute-reconciler",
    ],
)
async def test_a_router_that_could_not_be_opened_may_be_opened_later(
    shared: LocalCluster, no_threads: NoThreads, name: str
) -> None:
    before = threading.active_count()
    router = AsyncRouter(shared.dsn)
    no_threads.name = name
    for _ in range(2):
        with no_threads, pytest.raises(RuntimeError, match="can't start new thread"):
            await router.open()
        assert "new" in repr(router)
        assert threading.active_count() == before
        with pytest.raises(RouterClosed, match="never opened"):
            await router.getconn("writer")
    async with router, router.writer(10.0) as conn:
        assert await one(conn) == (1,)


async def test_a_subscriber_that_was_refused_a_thread_may_come_again(
    shared: LocalCluster, no_threads: NoThreads
) -> None:
    told: list[Any] = []
    router = AsyncRouter(shared.dsn)
    with no_threads, pytest.raises(RuntimeError, match="can't start new thread"):
        router.subscribe(told.append)
    router.subscribe(told.append)
    async with router:
        await async_eventually(lambda: told)
    assert len({id(event) for event in told}) == len(told), "each event is told once"


SCRIPT = """
import asyncio, os, resource, sys, threading
import psycopg
import pgroute

tried = []

async def body(conn):
    await conn.execute("SELECT 1")
    tried.append(1)
    if len(tried) % 2:
        raise psycopg.errors.SerializationFailure
    return len(tried)

async def main():
    router = pgroute.AsyncRouter(sys.argv[1])
    await router.open(wait=True)
    assert await router.run(body, timeout=10.0) == 2
    if os.getuid() == 0:  # whom no limit binds
        os.setgid(65534)
        os.setuid(65534)
    resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
    try:
        threading.Thread(target=print).start()
    except RuntimeError:
        pass
    else:
        print("no limit")
    try:
        async with router.writer() as conn:
            await conn.execute("SELECT 1")
            raise KeyError
    except KeyError:
        pass
    assert await router.run(body, timeout=10.0) == 4
    await router.close()

asyncio.run(main())  # async-only
# sync-only: main()
"""


async def test_a_real_limit_on_processes(shared: LocalCluster) -> None:
    done = await async_call(
        subprocess.run,
        [sys.executable, "-c", SCRIPT, shared.dsn],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
    )
    if "no limit" in done.stdout:
        pytest.skip("this system has no limit on the processes of a user")
    assert (done.stderr, done.stdout, done.returncode) == ("", "", 0)


# async-only: begin
@pytest.mark.parametrize("way", ["in", "made", "out"])
async def test_a_copy_is_told_that_there_is_no_thread_for_its_file(
    shared: LocalCluster, no_threads: NoThreads, tmp_path: Path, way: str
) -> None:
    path = tmp_path / "data"
    path.write_text("1\n")

    async def copy(router: AsyncRouter) -> int:
        if way == "out":
            return await router.copy_from("SELECT 1", path)
        return await router.copy_to_table("no_threads", path if way == "in" else lambda: path)

    shared.primary.execute("CREATE TABLE no_threads (n int)")
    try:
        async with AsyncRouter(shared.dsn, writer=ONE) as router:
            await router.wait()
            await router.wait("reader")
            with no_threads, pytest.raises(psycopg.OperationalError, match="file: can't start new thread"):
                await copy(router)
            assert [each.name for each in tmp_path.iterdir()] == ["data"]
            assert await copy(router) == 1
    finally:
        shared.primary.execute("DROP TABLE no_threads")


# async-only: end
async def test_a_listener_is_told_that_there_is_no_thread(
    shared: LocalCluster, no_threads: NoThreads
) -> None:
    async with AsyncRouter(shared.dsn, writer=ONE) as router:
        await router.wait()
        with no_threads:
            async with router.listen("a") as events:  # async-only
                assert await events.next(0) is None  # async-only
            # sync-only: with pytest.raises(psycopg.OperationalError, match="cannot listen: can't start new"):
            # sync-only:     router.listen("a").__enter__()
        async with router.listen("a") as events:
            assert await events.next(0) is None
