"""Hosts that send without end: to a probe, between probes, amid a login. Memory is measured in a process apart."""

from __future__ import annotations

import contextlib
import itertools
import json
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.hostile_server import (
    READY,
    SETTINGS,
    START,
    HostileServer,
    Told,
    Visitor,
    columns,
    complete,
    dsn_of,
    message,
    notice,
    notification,
    parameter,
    result,
    row,
)
from tests.support import within

MOST = 50 * 2**20
"""Bytes by which the process may grow while it is flooded. Without bounds it is hundreds of megabytes a second."""

SECONDS = 1.0
"""For which the floods last at least."""

CHILD = """
import json, logging, resource, sys, threading, time
from pgroute import PoolOptions, ProbeOptions, Router

logging.getLogger("pgroute").setLevel(logging.CRITICAL)
dsn, seconds, most, role, mode = sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:]

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

def borrow(role):
    while not errors:
        try:
            if role == "listen":
                with router.listen("a", timeout=seconds) as events:
                    while not errors:
                        if event := events.next(0.1): errors.add(event.reason)
            else:
                with router.connection(role, timeout=seconds): pass
        except Exception as exc: errors.add(type(exc).__name__ + ": " + str(exc)[:200])

errors = set()
begun = time.monotonic()
with Router(dsn, probe=ProbeOptions(interval=0.1, timeout=0.3), writer=PoolOptions(min_size=0)) as router:
    before, until = peak(), time.monotonic() + seconds
    cpu = time.process_time()
    threads = [threading.Thread(target=borrow, args=[role])] if role else []
    for thread in threads: thread.start()
    reasons = {str(h.port): set() for h in router.topology.hosts}
    def over():
        hosts = router.topology.hosts
        if mode == "noticed": return all(told - {"", "not heard from yet"} for told in reasons.values())
        return bool(errors) if role else all(h.state.value == "down" for h in hosts)
    latest = until + 10.0
    while peak() - before < 4 * most and (time.monotonic() < until or not over()) and time.monotonic() < latest:
        time.sleep(0.005)
        for h in router.topology.hosts: reasons[str(h.port)].add(h.reason)
    grown, cpu = peak() - before, time.process_time() - cpu
    hosts = {str(h.port): [h.state.value, sorted(reasons[str(h.port)])] for h in router.topology.hosts}
    errors.add("")
    for thread in threads: thread.join()
took = time.monotonic() - begun
print(json.dumps({"grown": grown, "cpu": cpu, "took": took, "hosts": hosts, "errors": sorted(errors - {""})}))
"""

BLOCK = b"x" * 65536


def names() -> Iterator[bytes]:
    return (parameter(b"pgroute.p%d" % n, b"v") for n in itertools.count())


ROW = row(Told().values())
FLOODS = {
    "rows": (SETTINGS + columns(8), lambda: itertools.repeat(ROW)),
    "long rows": (SETTINGS + columns(1), lambda: itertools.repeat(row([BLOCK]))),
    "one row": (
        SETTINGS + columns(1) + message(b"D", struct.pack("!hi", 1, 2**30), length=2**30 + 10),
        lambda: itertools.repeat(BLOCK),
    ),
    "results": (b"", lambda: itertools.repeat(complete())),
    "notifications": (b"", lambda: itertools.repeat(notification(b"x" * 1000))),
    "notices": (b"", lambda: itertools.repeat(notice(b"x" * 1000))),
    "one notice": (message(b"N", b"", length=2**30), lambda: itertools.repeat(BLOCK)),
    "settings": (b"", names),
    "one error": (message(b"E", b"", length=2**30), lambda: itertools.repeat(BLOCK)),
    "COPY data": (message(b"H", struct.pack("!bh", 0, 0)), lambda: itertools.repeat(message(b"d", BLOCK))),
}


AMID_A_LOGIN = ("notifications", "notices", "one notice", "settings", "one error")


def flooded(servers: dict[str, HostileServer], *, role: str = "", mode: str = "") -> dict[str, Any]:
    """Let a process watch these servers, and return how it did; its hosts by the servers' names.

    It goes on for a while, and until all hosts are down, or with mode "noticed" until each was found at fault, or with
    a role until no session was to be had.
    """
    with contextlib.ExitStack() as stack:
        for server in servers.values():
            stack.enter_context(server)
        seconds = within(SECONDS) if role else SECONDS
        arguments = [dsn_of(*servers.values()), str(seconds), str(MOST), role, mode]
        run = subprocess.run(
            [sys.executable, "-c", CHILD, *arguments], capture_output=True, text=True, timeout=60, check=True
        )
    assert run.stderr == ""
    told: dict[str, Any] = json.loads(run.stdout)
    told["hosts"] = {name: told["hosts"][str(server.port)] for name, server in servers.items()}
    return told


def flood(name: str) -> Callable[[Visitor], None]:
    """Return what sends the flood of that name."""
    begin, pieces = FLOODS[name]

    def send(visitor: Visitor) -> None:
        visitor.send(begin)
        visitor.flood(pieces())

    return send


def logged_in_never(name: str, *, probes: bool) -> Callable[[Visitor], None]:
    """Return a login that is accepted, and never ends."""

    def login(visitor: Visitor) -> None:
        if visitor.is_probe and not probes:
            visitor.let_in()
            return
        visitor.send(message(b"R", struct.pack("!I", 0)))
        flood(name)(visitor)

    return login


def test_floods_that_answer_a_probe_take_no_memory() -> None:
    def flooding(name: str) -> HostileServer:
        return HostileServer(lambda visitor, _: flood(name)(visitor))

    told = flooded({name: flooding(name) for name in FLOODS})
    assert told["grown"] < MOST
    assert {name: state for name, (state, _) in told["hosts"].items() if state != "down"} == {}


def test_floods_between_probes_take_neither_memory_nor_a_core() -> None:
    def flooding(name: str, start: int) -> HostileServer:
        def answer(visitor: Visitor, sql: bytes) -> None:
            Told.standby(started_at=b"%d" % start).answer(visitor, sql)
            visitor.send(READY)
            flood(name)(visitor)

        return HostileServer(answer)

    servers = {name: flooding(name, start) for start, name in enumerate(AMID_A_LOGIN, START)}
    told = flooded(servers, mode="noticed")
    assert told["grown"] < MOST
    assert told["cpu"] < within(1.0)
    for name, server in servers.items():
        assert set(told["hosts"][name][1]) - {"", "not heard from yet"}, f"{name} went unnoticed"
        assert len(server.visitors) <= 5 * told["took"] + 2


def test_floods_amid_the_login_of_a_probe_take_no_memory() -> None:
    servers = {name: HostileServer(login=logged_in_never(name, probes=True)) for name in AMID_A_LOGIN}
    told = flooded(servers)
    assert told["grown"] < MOST
    assert {name: state for name, (state, _) in told["hosts"].items() if state != "down"} == {}


@pytest.mark.parametrize("name", ["notifications", "notices", "settings"])
def test_floods_amid_the_login_of_a_session_take_no_memory(name: str) -> None:
    told = flooded({name: HostileServer(login=logged_in_never(name, probes=False))}, role="primary")
    assert told["grown"] < MOST
    [error] = told["errors"]
    assert "it sent more than 64 kB" in error


def test_flood_that_answers_the_check_of_a_new_session_takes_no_memory() -> None:
    def answer(visitor: Visitor, sql: bytes) -> None:
        (Told().answer if visitor.is_probe else lambda v, _: flood("rows")(v))(visitor, sql)

    told = flooded({"rows": HostileServer(answer)}, role="primary")
    assert told["grown"] < MOST
    [error] = told["errors"]
    assert "it sent more than 64 kB" in error


@pytest.mark.parametrize("name", ["notices", "settings"])
def test_floods_of_a_listener_take_no_memory(name: str) -> None:
    def answer(visitor: Visitor, sql: bytes) -> None:
        if b"pg_backend_pid" in sql:
            visitor.send(result([b"1"]))
        else:
            Told().answer(visitor, sql)
        if b"LISTEN" in sql:
            visitor.send(READY)
            flood(name)(visitor)

    told = flooded({name: HostileServer(answer)}, role="listen")
    assert told["grown"] < MOST
    [error] = told["errors"]
    assert "it sent more than 64 kB" in error
