# Generated from tests/aio/test_no_threads.py by .ci/unasync.py: edit that file, not this one.
"""No more threads are given (a limit on processes, the interpreter's end): what is open goes on and ends well."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgroute import Router, PoolOptions, RouterClosed
from pgroute.testing import LocalCluster
from tests.support import call, eventually

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


def one(conn: psycopg.Connection[Any]) -> Any:
    cursor = conn.execute("SELECT 1")
    return cursor.fetchone()


def test_the_error_of_a_body_is_kept_and_its_connection_goes_back(
    shared: LocalCluster, no_threads: NoThreads
) -> None:
    with Router(shared.dsn, writer=ONE) as router:
        router.wait()
        with no_threads:
            for _ in range(3):
                with pytest.raises(KeyError):
                    with router.writer(5.0) as conn:
                        one(conn)
                        raise KeyError
            conn = router.getconn("writer", timeout=5.0)
            one(conn)
            router.putconn(conn)
            with router.writer(5.0) as conn:
                assert one(conn) == (1,)


def test_a_transaction_is_run_again(shared: LocalCluster, no_threads: NoThreads) -> None:
    tried = []

    def fail_once(conn: psycopg.Connection[Any]) -> Any:
        tried.append(1)
        if len(tried) == 1:
            raise psycopg.errors.SerializationFailure
        return one(conn)

    with Router(shared.dsn, writer=ONE) as router:
        router.wait()
        with no_threads:
            assert router.run(fail_once, timeout=10.0) == (1,)
            assert len(tried) == 2
            with pytest.raises(KeyError):
                router.run(fail, timeout=10.0)


def fail(conn: psycopg.Connection[Any]) -> None:
    one(conn)
    raise KeyError


def test_a_router_closes(shared: LocalCluster, no_threads: NoThreads) -> None:
    router = Router(shared.dsn)
    router.open(wait=True)
    conn = router.getconn("reader", timeout=5.0)
    router.subscribe(print)
    with no_threads:
        router.close(timeout=0.0)
        router.putconn(conn)
    with pytest.raises(RouterClosed, match="is closed"):
        router.getconn("writer")


@pytest.mark.parametrize(
    "name",
    [
        "pgroute-monitor",
        "pgroute-timers",
        "pgroute-reconciler",
    ],
)
def test_a_router_that_could_not_be_opened_may_be_opened_later(
    shared: LocalCluster, no_threads: NoThreads, name: str
) -> None:
    before = threading.active_count()
    router = Router(shared.dsn)
    no_threads.name = name
    for _ in range(2):
        with no_threads, pytest.raises(RuntimeError, match="can't start new thread"):
            router.open()
        assert "new" in repr(router)
        assert threading.active_count() == before
        with pytest.raises(RouterClosed, match="never opened"):
            router.getconn("writer")
    with router, router.writer(10.0) as conn:
        assert one(conn) == (1,)


def test_a_subscriber_that_was_refused_a_thread_may_come_again(
    shared: LocalCluster, no_threads: NoThreads
) -> None:
    told: list[Any] = []
    router = Router(shared.dsn)
    with no_threads, pytest.raises(RuntimeError, match="can't start new thread"):
        router.subscribe(told.append)
    router.subscribe(told.append)
    with router:
        eventually(lambda: told)
    assert len({id(event) for event in told}) == len(told), "each event is told once"


SCRIPT = """
import time, os, resource, sys, threading
import psycopg
import pgroute

tried = []

def body(conn):
    conn.execute("SELECT 1")
    tried.append(1)
    if len(tried) % 2:
        raise psycopg.errors.SerializationFailure
    return len(tried)

def main():
    router = pgroute.Router(sys.argv[1])
    router.open(wait=True)
    assert router.run(body, timeout=10.0) == 2
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
        with router.writer() as conn:
            conn.execute("SELECT 1")
            raise KeyError
    except KeyError:
        pass
    assert router.run(body, timeout=10.0) == 4
    router.close()

main()
"""


def test_a_real_limit_on_processes(shared: LocalCluster) -> None:
    done = call(
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


def test_a_listener_is_told_that_there_is_no_thread(
    shared: LocalCluster, no_threads: NoThreads
) -> None:
    with Router(shared.dsn, writer=ONE) as router:
        router.wait()
        with no_threads:
            with pytest.raises(psycopg.OperationalError, match="cannot listen: can't start new"):
                router.listen("a").__enter__()
        with router.listen("a") as events:
            assert events.next(0) is None
