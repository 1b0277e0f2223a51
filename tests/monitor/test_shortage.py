"""No descriptor is left for a while, or the monitor's loop is interrupted: everything goes on afterwards."""

from __future__ import annotations

import errno
import socket
import sys
import threading
import time
from typing import Any

import psycopg
import pytest

from pgroute import HostState, ProbeOptions, Router
from pgroute.monitor import probe_connect
from pgroute.monitor.thread import Monitor
from pgroute.runtime.abort_handle import AbortHandle
from pgroute.testing import LocalCluster
from tests.shortage import no_descriptors
from tests.support import eventually

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="descriptors are counted in /proc")

WATCHES = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE '%pgroute-monitor'"
)


@pytest.mark.cluster
def test_a_router_that_finds_no_descriptor_says_so_and_can_be_opened_later(shared: LocalCluster) -> None:
    router = Router(shared.dsn)
    with (
        no_descriptors(),
        pytest.raises(RuntimeError, match=r"the monitor cannot be started: .*Too many open"),
    ):
        router.open()
    assert Monitor._current is None
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("pgroute")]
    with router, router.writer() as conn:
        assert conn.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.cluster
def test_the_monitor_goes_on_after_an_exception_in_its_loop(
    shared: LocalCluster, caplog: pytest.LogCaptureFixture
) -> None:
    with Router(shared.dsn) as router:
        router.wait("reader")
        monitor: Any = router._manager.watch._monitor
        loop = monitor._loop
        select, failed = loop._selector.select, threading.Event()

        def fail(timeout: float | None = None) -> Any:
            if failed.is_set():
                return select(timeout)
            failed.set()
            raise MemoryError("for a moment")

        loop._selector.select = fail
        assert failed.wait(10)
        eventually(lambda: "in the monitor's loop: it was interrupted, and goes on" in caplog.text)
        before = time.monotonic()
        eventually(lambda: all((host.last_seen or 0.0) > before for host in router.topology.hosts))


@pytest.mark.parametrize("number", [errno.EAFNOSUPPORT, errno.EACCES])
def test_a_system_that_permits_no_socket_of_this_kind_is_no_shortage(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, "not here")

    monkeypatch.setattr("socket.socket", refuse)
    assert probe_connect._shortage() is None


def test_a_socket_is_shut_down_though_there_is_no_descriptor_for_another_one() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        handle = AbortHandle(ours.fileno())
        with no_descriptors():
            assert handle.abort()
        assert theirs.recv(1) == b""
        assert not handle.abort(), "done"


def test_another_socket_at_its_descriptor_is_left_alone_without_descriptors_too() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        handle = AbortHandle(ours.fileno())
        fd = ours.fileno()
        ours.close()
        with socket.socket() as another, no_descriptors():
            assert another.fileno() == fd
            assert not handle.abort()


@pytest.mark.cluster
@pytest.mark.parametrize("share", [False, True])
def test_a_shortage_of_this_process_says_nothing_about_its_hosts(shared: LocalCluster, share: bool) -> None:
    with (
        psycopg.connect(shared.primary.conninfo, autocommit=True) as admin,
        Router(shared.dsn, probe=ProbeOptions(share=share)) as router,
    ):
        router.wait("writer")
        with router.writer() as conn:  # its connection is there for the next one
            conn.execute("SELECT 1")
        primary = router.topology.primary
        assert primary is not None
        with no_descriptors():
            admin.execute(WATCHES)
            eventually(lambda: router.topology.by_key[primary.key].state is HostState.REJECTED)
            why = (
                "this process can open no connection: Too many open files; its role is not watched meanwhile"
            )
            assert router.topology.by_key[primary.key].reason == why
            assert router.topology.by_key[primary.key].silent_since is None
            for _ in range(3):
                with router.writer() as conn:
                    conn.execute("SELECT 1")
        eventually(lambda: router.topology.by_key[primary.key].state is HostState.UP)
