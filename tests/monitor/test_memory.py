"""What is kept of hosts that left: nothing, however many come and go."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import psycopg
import pytest

from pgroute import Candidate, HostKey, HostRole, ProbeOptions
from pgroute._sync.pool.role_pool import RolePool
from pgroute.core.config.dsn import Params
from pgroute.core.topology.snapshot import Rules
from pgroute.core.topology.transition import initial_topology
from pgroute.monitor.cluster_watch import ClusterWatch
from pgroute.runtime.connect_backoff import BackedOff, ConnectBackoff, Options
from pgroute.runtime.meter import Meter

GONE, HERE = HostKey("a", 1, "10.0.0.1"), HostKey("a", 1, "10.0.0.2")


def test_a_session_that_ends_long_after_its_host_left_is_not_remembered() -> None:
    watch = ClusterWatch(
        (HERE,), lambda _: Params({}), ProbeOptions(), Rules(), resolver="system", mode="expand"
    )
    watch.kick(GONE)
    watch.kick(HERE)
    assert watch._kicked_at.keys() == {HERE}


def test_failures_are_forgotten_when_they_count_no_more() -> None:
    backoff = ConnectBackoff()
    gone, here = initial_topology((GONE, HERE), 0.0).hosts
    backoff.record_failure(gone, psycopg.OperationalError("refused"), -1.0)
    backoff.record_failure(here, psycopg.OperationalError("refused"), 9.0)
    assert backoff._failures.keys() == {HERE}
    with pytest.raises(BackedOff):
        backoff.check(here)


def test_nothing_is_kept_of_hosts_that_are_listed_no_more() -> None:
    backoff = ConnectBackoff()
    watch = SimpleNamespace(topology=initial_topology((HERE,), 0.0))
    pools = RolePool(cast("Any", None), psycopg.Connection, cast("Any", watch), backoff, meter=Meter())
    for number in range(1000):
        gone, here = initial_topology((GONE._replace(port=number + 1), HERE), 0.0).hosts
        for host in (gone, here):
            backoff.note_options(host, Options.LEFT_OUT)
            backoff.record_failure(host, psycopg.OperationalError("refused"), 9.0)
            backoff.record_failure(host, psycopg.OperationalError("refused"), 9.0, login=True)
            backoff.tell(host)
            backoff.admission(host, 100)
            backoff.aside.failed(Candidate(host.key, host.generation, HostRole.STANDBY), 0.0)
        pools.reconcile()
    kept = {name: len(known) for name, known in vars(backoff).items() if isinstance(known, dict)}
    once = ("_failures", "_logins", "_options", "_last", "_told", "_admissions")
    assert kept == {**dict.fromkeys(once, 1), "_trials": 0}
    assert set(backoff.aside.hosts) == {HERE}
    assert backoff.options(here) is Options.LEFT_OUT
    with pytest.raises(BackedOff):
        backoff.check(here)
