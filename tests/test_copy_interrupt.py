"""Ctrl-C amid a copy of the synchronous router, and what that router cannot copy."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pgroute import ConfigError, PoolOptions, Router
from pgroute.testing import LocalCluster
from tests.support import eventually, within

pytestmark = pytest.mark.cluster

ONE = PoolOptions(max_size=1)


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt, also where the run began in the background, with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupt_when(condition: Callable[[], Any]) -> threading.Thread:
    """Interrupt the main thread when the condition is true."""
    main = threading.main_thread().ident
    assert main is not None

    def interrupt() -> None:
        eventually(condition)
        signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    return thread


def test_source_that_is_interrupted_leaves_nothing(shared: LocalCluster, table: str) -> None:
    waiting = threading.Event()

    def rows() -> Iterator[tuple[int]]:
        yield from ((number,) for number in range(100_000))
        waiting.set()
        while True:
            time.sleep(0.05)

    with Router(shared.dsn, writer=ONE) as router:
        thread = interrupt_when(waiting.is_set)
        with pytest.raises(KeyboardInterrupt) as caught:
            router.copy_to_table(table, rows())
        thread.join()
        assert not hasattr(caught.value, "__notes__"), "nothing was committed"
        assert router.fetchval(f"SELECT count(*) FROM {table}", role="writer") == 0


def test_copy_to_a_path_that_is_interrupted_leaves_nothing(shared: LocalCluster, tmp_path: Path) -> None:
    slow = "SELECT 1 FROM generate_series(1, 1000000) WHERE pg_sleep(0.0001) IS NOT NULL"
    with Router(shared.primary.conninfo, reader=ONE) as router:
        thread = interrupt_when(
            lambda: list(tmp_path.iterdir()) and router.get_stats()["reader"]["pool_size"]
        )
        with pytest.raises(KeyboardInterrupt):
            router.copy_from(slow, tmp_path / "data")
        thread.join()
        assert router.fetchval("SELECT 1") == 1
    assert list(tmp_path.iterdir()) == []


ENDS_AMID_A_WRITE = """
import asyncio, atexit, sys, threading, time
from pgroute import AsyncRouter
from pgroute.runtime.replacing import ReplacingFile

writing, ending = threading.Event(), threading.Event()

def write(self, data):
    writing.set()
    ending.wait()
    time.sleep(0.05)

ReplacingFile.write = write

async def main():
    async with AsyncRouter(sys.argv[1]) as router:
        task = asyncio.create_task(router.copy_from("SELECT 1", sys.argv[2]))
        while not writing.is_set():
            await asyncio.sleep(0.01)
        atexit.register(ending.set)
        task.cancel()
        await asyncio.wait([task])

asyncio.run(main())
"""


def test_copy_that_is_cancelled_amid_a_slow_write_leaves_nothing(
    shared: LocalCluster, tmp_path: Path
) -> None:
    path = tmp_path / "data"
    subprocess.run([sys.executable, "-c", ENDS_AMID_A_WRITE, shared.dsn, str(path)], check=True, timeout=60)
    assert list(tmp_path.iterdir()) == []


def test_frozen_host_is_not_waited_for(pgroute_cluster_factory: Callable[..., LocalCluster]) -> None:
    primary = pgroute_cluster_factory(standbys=0).primary
    primary.execute("CREATE TABLE t (x text)")
    frozen = threading.Event()

    def rows() -> Iterator[tuple[str]]:
        yield ("x",)
        primary.freeze()
        frozen.set()
        while True:
            yield ("x" * 10_000,)

    with Router(primary.conninfo, writer=ONE) as router:
        router.wait()
        thread = interrupt_when(frozen.is_set)
        begun_at = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            router.copy_to_table("t", rows())
        thread.join()
        assert time.monotonic() - begun_at < within(4.0)
        primary.thaw()
        router.wait()
        assert router.fetchval("SELECT count(*) FROM t", role="writer") == 0


FORKS = """
import os, sys
from pgroute import Router

dsn, table = sys.argv[1:]

def rows(error):
    yield from ((number,) for number in range(50_000))
    child = os.fork()
    if not child:
        raise error
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    yield (50_000,)

def tried(copy):
    try:
        copy()
    except (SystemExit, ValueError) as error:
        os._exit(7)

with Router(dsn) as router:
    for error in (SystemExit(7), ValueError()):
        for options in ({}, {"once": repr(error)}):
            tried(lambda: router.copy_to_table(table, rows(error), where="number = 50000", **options))
            assert router.execute(f"DELETE FROM {table}") == "DELETE 1"
    with router.copy_rows("SELECT * FROM generate_series(1, 100000)") as found:
        assert next(found) == ("1",)
        child = os.fork()
        if not child:
            tried(lambda: found.__exit__(SystemExit, SystemExit(), None))
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        assert sum(1 for _ in found) == 99_999
    print("done")
"""


def test_child_that_is_forked_amid_a_copy_leaves_it_to_its_parent(shared: LocalCluster, table: str) -> None:
    with Router(shared.dsn) as router:
        router.install()
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c", FORKS, shared.dsn, table],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("done\n", 0), done.stderr


def test_asynchronous_sources_are_refused(shared: LocalCluster, table: str) -> None:
    async def rows() -> AsyncIterator[tuple[int]]:
        yield (1,)

    async def promised() -> list[tuple[int]]:
        return [(1,)]

    class File:
        async def read(self, size: int) -> bytes:
            return b""

    async def take(data: bytes) -> None: ...

    with Router(shared.dsn, writer=ONE) as router:
        with pytest.raises(ConfigError, match="is for AsyncRouter"):
            router.copy_to_table(table, rows())  # type: ignore[arg-type]
        for source in (promised, File()):
            with pytest.raises(TypeError, match="is for AsyncRouter"):
                router.copy_to_table(table, source)
        with pytest.raises(TypeError, match="is for AsyncRouter"):
            router.copy_from("SELECT 1", take)
        with pytest.raises(ConfigError, match="is for AsyncRouter"):
            router.copy_to_table(table, rows)
        assert router.copy_to_table(table, [(1,)]) == 1
