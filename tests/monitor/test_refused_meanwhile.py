"""A pool's refused login counts as a connection attempt of the watcher, but is none: nothing was sent or answered."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from pgroute.core.config.options import ProbeOptions
from pgroute.core.faults.classify import Fault, FaultKind
from pgroute.core.model.host import HostInfo
from pgroute.core.model.roles import HostKey, HostRole
from pgroute.core.topology.observations import Answer, Failure
from pgroute.core.topology.snapshot import Rules
from pgroute.core.topology.transition import apply, initial_topology
from pgroute.monitor.host_watcher import HostWatcher
from pgroute.runtime.connect_backoff import BackedOff, ConnectBackoff

KEY = HostKey("db1", 5432)
HANGS = Fault(FaultKind.TIMEOUT, host_suspect=True, reason="no answer in 2 s")


class Names:
    def found(self, _: object) -> None:
        return None


class Connection:
    lost, answered, address = None, True, None

    def __init__(self) -> None:
        self.closed = False

    def close(self) -> None:
        self.closed = True


class Observer:
    options, interval, slots = ProbeOptions(), 1.0, 100

    def __init__(self) -> None:
        self.topology = initial_topology((KEY,), 0.0, Rules())
        self.seen: list[Answer | Failure] = []

    def observe(self, seen: Answer | Failure) -> None:
        self.seen.append(seen)


async def watcher() -> Any:
    """Return a watcher that does not run."""
    watcher = HostWatcher(KEY, {}, Names())  # type: ignore[arg-type]
    watcher._kicked = False
    watcher.subscribers._all.append(Observer())  # type: ignore[arg-type]
    return watcher


async def test_who_asks_for_a_probe_gets_one_though_a_login_was_refused_since() -> None:
    watching = await watcher()
    since = time.monotonic()
    await asyncio.sleep(0.001)
    watching.refused()
    watching.ask(since)
    assert watching._kicked


async def test_no_login_is_tried_soon_after_a_refused_one() -> None:
    watching = await watcher()
    watching.refused()
    when, connect = watching._next(time.monotonic())
    assert connect
    assert when == pytest.approx(time.monotonic() + 5.0, abs=1.0)


async def test_a_connection_that_hangs_is_given_up_though_a_login_was_refused_meanwhile() -> None:
    watching, conn = await watcher(), Connection()
    watching._conn, watching._asked_at = conn, time.monotonic()
    watching.refused()
    watching._failed(HANGS)
    assert conn.closed
    (seen,) = watching.subscribers._all[0].seen
    assert isinstance(seen, Failure)
    assert (seen.fault, seen.linked) == (HANGS, False)


def host(generation: int) -> HostInfo:
    topology = initial_topology((KEY,), 0.0, Rules())
    topology, _ = apply(topology, Answer(KEY, HostRole.PRIMARY, 1.0, fresh=True), 1.0)
    return replace(topology.hosts[0], generation=generation)


@pytest.mark.parametrize("login", [False, True])
def test_a_late_failure_at_an_earlier_generation_does_not_end_the_pause_of_this_one(login: bool) -> None:
    backoff, earlier, now = ConnectBackoff(), host(1), host(2)
    backoff.record_failure(now, psycopg.OperationalError("wrong password"), 5.0, login=login)
    backoff.record_failure(earlier, psycopg.OperationalError("closed"), 0.2, login=login)
    with pytest.raises(BackedOff, match="wrong password"):
        backoff.check(now)
    assert str(backoff.last_failure(now)) == "wrong password"
    backoff.record_failure(host(3), psycopg.OperationalError("of the next one"), 5.0, login=login)
    backoff.check(now)
