# Generated from tests/aio/test_read_only_default.py by .ci/unasync.py: edit that file, not this one.
"""default_transaction_read_only is set and unset on the primary while a router watches."""

from __future__ import annotations

import threading
import time
from typing import Any

import psycopg
import pytest

from pgroute import Router, NoHostAvailable
from pgroute.core.schedule import CONNECT_GAP
from pgroute.testing import FaultProxy, LocalCluster
from tests.sync.workload import Account, keep_writing, make_table, write
from tests.support import Background, call, eventually, within

pytestmark = [pytest.mark.cluster, pytest.mark.long]

OFF = "SET default_transaction_read_only = off"


def configure(cluster: LocalCluster, statement: str) -> None:
    """Run a statement on the primary, read-only or not, and reload."""
    with psycopg.connect(cluster.nodes[0].conninfo, options="-c default_transaction_read_only=off") as conn:
        conn.autocommit = True
        conn.execute(statement.encode())
        conn.execute("SELECT pg_reload_conf()")


LEVELS = {
    "system": ("ALTER SYSTEM SET default_transaction_read_only = on", "ALTER SYSTEM RESET ALL"),
    "database": (
        "ALTER DATABASE postgres SET default_transaction_read_only = on",
        "ALTER DATABASE postgres RESET default_transaction_read_only",
    ),
    "role": (
        "ALTER ROLE postgres SET default_transaction_read_only = on",
        "ALTER ROLE postgres RESET default_transaction_read_only",
    ),
}


@pytest.mark.parametrize("level", LEVELS)
def test_writers_stop_and_resume_within_a_probe(mended: LocalCluster, level: str) -> None:
    turn_on, turn_off = LEVELS[level]
    make_table(mended)
    with Router(mended.dsn) as router, Background() as background:
        first = write(router, 0)
        call(configure, mended, turn_on)
        eventually(lambda: router.topology.hosts[0].read_only, 2.5)
        assert router.topology.primary is not None
        with pytest.raises(NoHostAvailable):
            write(router, 1, timeout=0.2)
        with router.connection("primary") as conn:
            assert conn.info.port == first.port, "it is the primary all the same"
        with router.connection("read-only") as conn:
            conn.execute("SELECT 1")
        writer = background.start(write, router, 2)
        call(configure, mended, turn_off)
        assert (writer.result(2.5)).port == first.port


def test_a_write_refused_as_read_only_kicks_a_fresh_probe(mended: LocalCluster) -> None:
    make_table(mended)
    stop = threading.Event()
    account = Account()
    with Router(mended.dsn) as router, Background() as background:
        background.start(keep_writing, router, stop, account)
        eventually(lambda: account.sessions)
        call(configure, mended, LEVELS["system"][0])
        eventually(lambda: account.errors)
        refused_at = time.monotonic()
        eventually(lambda: router.topology.hosts[0].read_only)
        assert time.monotonic() - refused_at < within(0.5), "sooner than the next probe in turn"
        refused = len(account.errors)
        call(configure, mended, LEVELS["system"][1])
        resumed_at = time.monotonic()
        eventually(lambda: account.since(refused_at))
        assert time.monotonic() - resumed_at < within(2.0)
        stop.set()
    assert {type(error) for _, error in account.errors} == {psycopg.errors.ReadOnlySqlTransaction}
    assert refused < 50, "no endless loop of refused writes"


def test_bodies_that_make_themselves_read_only_cause_few_fresh_probes(
    shared: LocalCluster, table: str, pgroute_proxy_factory
) -> None:
    proxy = pgroute_proxy_factory(shared.primary)

    def refused(router: Router[Any]) -> None:
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            with router.writer() as conn:
                conn.execute("SET TRANSACTION READ ONLY")
                conn.execute(f"INSERT INTO {table} VALUES (1)")

    with Router(FaultProxy.dsn([proxy])) as router:
        router.wait()
        before = proxy.attempts
        begun_at = time.monotonic()
        refused(router)
        eventually(lambda: proxy.attempts > before)  # not when a renewal is due, after a minute
        for _ in range(200):
            refused(router)
        most = (time.monotonic() - begun_at) / CONNECT_GAP + 2
        assert proxy.attempts - before <= most
        with router.writer(timeout=1.0) as conn:
            conn.execute(f"INSERT INTO {table} VALUES (1)")
