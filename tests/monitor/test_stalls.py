"""The process itself stalls: that says nothing of the hosts. Each stall happens in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from pgroute.testing import LocalCluster

pytestmark = pytest.mark.cluster

PROGRAM = """
import asyncio, ctypes, os, sys, time
from pgroute import AsyncRouter, ProbeOptions, Router

dsn, how, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
probe = ProbeOptions(interval=0.05, timeout=0.3, abort_after=0.5)
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
    elif how == "stop":
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


def start(cluster: LocalCluster, how: str, seconds: float = 1.0) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", PROGRAM, cluster.dsn, how, str(seconds)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> None:
    with process:
        out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert out.split() == ["done"]


@pytest.mark.parametrize("how", ["loop", "monitor", "gil"])
def test_a_stall_of_this_process_marks_no_host_down(shared: LocalCluster, how: str) -> None:
    finish(start(shared, how, 1.5))


def test_a_stopped_process_that_goes_on_marks_no_host_down(shared: LocalCluster) -> None:
    process = start(shared, "stop")
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    os.kill(process.pid, signal.SIGSTOP)
    stopped_at = time.monotonic()
    while time.monotonic() < stopped_at + 3.0:
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGCONT)
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    finish(process)
