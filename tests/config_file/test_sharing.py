"""The same file and name give the same router: in threads, in forked children, in event loops, after a close."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pgroute import AsyncRouter, ConfigError, Router, from_config

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

FILE = "[routers.a]\ndsn = 'host=127.0.0.1 port=1'\n"


@pytest.fixture
def file(tmp_path):
    file = tmp_path / "pgroute.toml"
    file.write_text(FILE)
    return file


def in_child(check):
    """Run a function in a forked child and return its exit status: 0 if it returns True."""
    pid = os.fork()
    if pid == 0:
        status = 2
        try:
            status = 0 if check() else 1
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_the_same_question_gives_the_same_router(file, tmp_path, monkeypatch):
    router = from_config(file)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link.toml").symlink_to(file)
    (tmp_path / "folder").mkdir()
    for path in (str(file), "pgroute.toml", "folder/../pgroute.toml", "link.toml"):
        assert from_config(path) is router
    assert from_config(file, "a") is router
    assert from_config(file, "a", kind="pool") is router
    assert from_config(file, kind="connection") is not router
    assert isinstance(from_config(file, kind="async_pool"), AsyncRouter)


def test_a_closed_router_is_replaced_and_the_file_read_again(file):
    router = from_config(file)
    file.write_text(FILE + "acquire_timeout = 3\n")
    assert from_config(file) is router
    with router:
        assert from_config(file) is router
    again = from_config(file)
    assert again is not router
    assert again._manager.config.acquire_timeout == 3.0


def test_a_file_that_went_wrong_leaves_the_router_that_is_there(file):
    router = from_config(file)
    file.write_text("nonsense")
    assert from_config(file) is router
    with pytest.raises(ConfigError, match="expected TOML"):
        from_config(file, kind="connection")
    file.write_text(FILE)
    assert isinstance(from_config(file, kind="connection"), Router)


def test_many_threads_get_one_router(file):
    threads = 32
    barrier = threading.Barrier(threads)

    def ask(_):
        barrier.wait()
        return from_config(file)

    with ThreadPoolExecutor(threads) as pool:
        assert len({id(router) for router in pool.map(ask, range(threads))}) == 1


def test_a_closed_router_is_not_kept(file):
    router = from_config(file)
    gone = weakref.ref(router)
    with router:
        pass
    from_config(file)
    del router
    gc.collect()
    assert gone() is None


def test_a_child_gets_a_router_of_its_own_from_an_open_one(file):
    with from_config(file) as router:

        def child():
            own = from_config(file)
            with own:
                return own is not router and from_config(file) is own

        assert in_child(child) == 0
        assert from_config(file) is router


def test_a_child_keeps_a_router_that_was_not_opened(file):
    router = from_config(file)

    def child():
        with from_config(file) as own:
            return own is router

    assert in_child(child) == 0
    with from_config(file) as opened:
        assert opened is router


def test_a_child_is_not_stopped_by_a_thread_that_reads_the_file(file):
    reading, forked = threading.Event(), threading.Event()
    other = file.with_name("other.toml")
    other.write_text(FILE)

    def hold():
        from pgroute.config_file.shared import shared

        with shared._lock:
            reading.set()
            forked.wait()

    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(hold)
        reading.wait()
        try:
            assert in_child(lambda: from_config(other) is not None) == 0
        finally:
            forked.set()
        held.result()


async def asked(file: Path) -> AsyncRouter:
    async with from_config(file, kind="async_pool") as router:
        assert from_config(file, kind="async_pool") is router
        return router


async def left_open(file: Path) -> AsyncRouter:
    router = from_config(file, kind="async_pool")
    await router.open()
    return router


def test_each_event_loop_gets_a_router_of_its_own(file):
    before = from_config(file, kind="async_pool")
    assert asyncio.run(asked(file)) is before  # no loop had asked for it
    assert asyncio.run(asked(file)) is not before


def test_a_loop_that_ended_leaves_its_router_behind(file):
    first = asyncio.run(left_open(file))
    assert asyncio.run(asked(file)) is not first
    assert from_config(file, kind="async_pool") is not first


def test_loops_at_the_same_time_get_two_routers(file):
    barrier = threading.Barrier(2)

    async def ask():
        router = from_config(file, kind="async_pool")
        barrier.wait()
        async with router:
            barrier.wait()
            return router, from_config(file, kind="async_pool")

    with ThreadPoolExecutor(2) as pool:
        (first, also_first), (second, also_second) = pool.map(lambda _: asyncio.run(ask()), range(2))
    assert first is not second
    assert also_first is first
    assert also_second is second


def test_both_faces_come_from_one_file_side_by_side(file):
    async def both():
        with from_config(file, kind="pool") as plain:
            async with from_config(file, kind="async_pool") as other:
                return type(plain), type(other)

    assert asyncio.run(both()) == (Router, AsyncRouter)
