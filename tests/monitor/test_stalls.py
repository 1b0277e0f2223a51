"""The process itself stalls: that says nothing of the hosts. Each stall happens in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from pgroute.testing import LocalCluster

pytestmark = pytest.mark.cluster

PROGRAM = """
import asyncio, ctypes, os, sys, time
from pgroute import AsyncRouter, ProbeOptions, Router

dsn, how, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
probe = ProbeOptions(interval=0.05, timeout=1.0, abort_after=1.0, share=False)
events = []

def up(router):
    return all(host.state.value == "up" for host in router.topology.hosts)

def wait_until(condition):
    until = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)

def stall(router):
    # It hits the probes in the middle of connecting.
    for host in router.topology.hosts:
        router._manager.watch.kick(host.key, fresh=True)
    time.sleep(0.001)
    if how == "gil":
        ctypes.PyDLL(None).usleep(int(seconds * 1e6))
    elif how == "monitor":
        router._manager.watch._monitor.call(time.sleep, seconds)
        time.sleep(seconds)
    elif how in ("stop", "none"):
        print("ready", flush=True)
        sys.stdin.readline()
    else:
        time.sleep(seconds)

def told(router):
    begun = time.monotonic()
    wait_until(lambda: all(host.last_seen > begun for host in router.topology.hosts))
    assert up(router), str(router.topology)

if how == "loop":
    async def main():
        async with AsyncRouter(dsn, probe=probe) as router:
            await router.wait()
            while not up(router):
                await asyncio.sleep(0.01)
            router.subscribe(events.append)
            async with router.writer() as held:
                stall(router)
                assert up(router), str(router.topology)
                told(router)
                await held.execute("SELECT 1")
            async with router.writer(timeout=1) as conn:
                await conn.execute("SELECT 1")
    asyncio.run(main())
else:
    with Router(dsn, probe=probe) as router:
        wait_until(lambda: up(router))
        router.subscribe(events.append)
        with router.reader() as held:
            for _ in range(3 if how == "gil" else 1):
                stall(router)
                told(router)
                held.execute("SELECT 1")
        with router.writer(timeout=1) as conn:
            conn.execute("SELECT 1")
# What led to the state found above may be told late; that a host came to be anything but up must not be.
events = [str(event) for event in events if event.after is not None and event.after.state.value != "up"]
assert not events, events
print("done")
"""


STALL = 1.5
"""Seconds, longer than the timeout of a probe."""


def start(cluster: LocalCluster, how: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", PROGRAM, cluster.dsn, how, str(STALL)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ready(process: subprocess.Popen[str]) -> bool:
    """Wait until it stands still; return False if it has failed before."""
    assert process.stdout is not None
    return process.stdout.readline() == "ready\n"


def fault_of(process: subprocess.Popen[str]) -> str:
    """Let it go on, wait for its end, and return what it found wrong."""
    out, err = process.communicate("go\n", timeout=60)
    return "" if (process.returncode, out.split()) == (0, ["done"]) else f"{process.returncode}: {out}{err}"


def check(cluster: LocalCluster, how: str, meanwhile: Callable[[subprocess.Popen[str]], None]) -> None:
    """Fail if a process that stalls finds a host at fault, and one beside it that does not stall finds none.

    On a busy machine both may: then it says nothing, and is done again.
    """
    for _ in range(5):
        with start(cluster, "none") as control:
            beside = ready(control)
            with start(cluster, how) as process:
                meanwhile(process)
                fault = fault_of(process)
            disturbed = fault_of(control)
        if not fault:
            return
        assert disturbed or not beside, fault
    pytest.fail(f"no attempt was undisturbed: {fault}")


@pytest.mark.parametrize("how", ["loop", "monitor", "gil"])
def test_a_stall_of_this_process_marks_no_host_down(shared: LocalCluster, how: str) -> None:
    check(shared, how, lambda _: None)


def test_a_stopped_process_that_goes_on_marks_no_host_down(shared: LocalCluster) -> None:
    def stop(process: subprocess.Popen[str]) -> None:
        if ready(process):
            os.kill(process.pid, signal.SIGSTOP)
            time.sleep(2 * STALL)
            os.kill(process.pid, signal.SIGCONT)

    check(shared, "stop", stop)
