"""The monitor's thread: one for all routers, from the first to the last."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
from functools import partial

import pytest

from pgroute import Router
from pgroute.monitor.host_watcher import HostWatcher
from pgroute.monitor.thread import Monitor
from pgroute.testing import LocalCluster, Node
from tests.support import eventually, within

pytestmark = pytest.mark.cluster


def monitors() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "pgroute-monitor"]


def test_one_thread_watches_for_all_routers_and_ends_with_the_last(shared: LocalCluster) -> None:
    assert monitors() == []
    with Router(shared.dsn), Router(shared.dsn):
        assert len(monitors()) == 1
    eventually(lambda: monitors() == [])
    assert Monitor._current is None


def test_a_router_after_the_last_one_starts_a_new_thread(shared: LocalCluster) -> None:
    for _ in range(3):
        with Router(shared.dsn) as router, router.writer(timeout=5.0) as conn:
            conn.execute("SELECT 1")
    eventually(lambda: monitors() == [])


def test_routers_may_come_and_go_in_many_threads(shared: LocalCluster) -> None:
    failures = []

    def work() -> None:
        try:
            for _ in range(10):
                with Router(shared.dsn) as router, router.reader(timeout=5.0) as conn:
                    conn.execute("SELECT 1")
        except Exception as error:  # noqa: BLE001  (told below)
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    eventually(lambda: monitors() == [])


def test_no_connection_of_the_watch_is_left_after_the_last_router(shared: LocalCluster) -> None:
    query = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE '%pgroute-monitor'"

    def none_left(node: Node) -> bool:
        return node.execute(query) == [(0,)]

    with Router(shared.dsn) as router:
        router.wait("reader")
    for node in shared.nodes:
        eventually(partial(none_left, node))


@pytest.mark.parametrize("close", ["router.close()", "pass", "del router"])
def test_the_interpreter_ends_in_silence_with_or_without_close(shared: LocalCluster, close: str) -> None:
    program = f"""
import pgroute
router = pgroute.Router({shared.dsn!r})
router.open(wait=True)
with router.writer() as conn:
    conn.execute("SELECT 1")
{close}
print("done")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=within(10), check=True
    )
    assert done.stdout == "done\n"
    assert done.stderr == ""


def test_nothing_of_the_users_runs_in_the_monitors_thread(
    shared: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[tuple[str, str]] = []

    class Noting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            threads.append((threading.current_thread().name, record.getMessage()))

    handler = Noting()
    turn = HostWatcher._turn
    failed: list[HostWatcher] = []

    async def fail_once(watcher: HostWatcher) -> None:
        if not failed:
            failed.append(watcher)
            asyncio.get_running_loop().call_soon(lambda: 1 / 0)
            raise RuntimeError("a fault of ours")
        await turn(watcher)

    monkeypatch.setattr(HostWatcher, "_turn", fail_once)
    loggers = [logging.getLogger(name) for name in ("pgroute", "asyncio")]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        with Router(shared.dsn) as router:
            router.wait()
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
    said = " ".join(text for _, text in threads)
    assert "watching" in said
    assert "in the monitor's loop" in said
    assert not [name for name, _ in threads if name == "pgroute-monitor"]
