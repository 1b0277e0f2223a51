# Generated from tests/aio/test_refused_options.py by .ci/unasync.py: edit that file, not this one.
"""Servers that refuse libpq's options: poolers, for which a TCP stand-in speaks here."""

from __future__ import annotations

import io
import time
from typing import Any

import psycopg
import pytest

from pgroute import Router, Event, HostState, NoHostAvailable, PoolOptions
from pgroute.testing import LocalCluster
from tests.gate import Gate
from tests.support import eventually, within

pytestmark = [pytest.mark.cluster, pytest.mark.long]

RDS_PROXY = "Feature not supported: RDS Proxy currently doesn\u2019t support command-line options."
KNOWN = [
    RDS_PROXY,
    "RDS Proxy currently doesn't support the option default_transaction_read_only",
    "unsupported startup parameter: options",
    "unsupported startup parameter in options: default_transaction_read_only",
]
UNKNOWN = "computer says no"


def setting(router: Router[Any], role: Any, name: str, timeout: float = 5.0) -> str:
    conn = router.getconn(role, timeout=timeout)
    row = (conn.execute(f"SHOW {name}")).fetchone()
    router.putconn(conn)
    assert row is not None
    return str(row[0])


@pytest.mark.parametrize("text", KNOWN)
def test_readers_are_served_without_the_options_that_a_proxy_refuses(
    shared: LocalCluster, text: str
) -> None:
    events: list[Event] = []
    with Gate(shared.primary, lambda login: text if "options" in login else None) as gate:
        with Router(gate.dsn) as router:
            router.subscribe(events.append)
            for _ in range(2):
                begun_at = time.monotonic()
                with router.reader(5.0) as conn:
                    assert conn.read_only
                with router.writer(5.0) as conn:
                    conn.execute("SELECT 1")
                assert time.monotonic() - begun_at < within(2.0)
            held = [router.getconn("reader", timeout=5.0) for _ in range(3)]
            for conn in held:
                router.putconn(conn)
            assert router.topology.hosts[0].generation == 0
    assert gate.refused() == 1, "found out once"
    assert not any(event.after and event.after.state is HostState.REJECTED for event in events)


def test_direct_queries_and_copies_of_readers_are_read_only_without_the_options(
    shared: LocalCluster, table: str
) -> None:
    insert = f"INSERT INTO {table} VALUES (1) RETURNING number"
    with Gate(shared.primary, lambda login: RDS_PROXY if "options" in login else None) as gate:
        with Router(gate.dsn) as router:
            assert router.fetchval("SHOW transaction_read_only") == "on"
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                router.fetch(insert)
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                router.copy_from(insert, io.BytesIO())
            with router.copy_rows("SELECT 1") as rows:
                assert [(*row,) for row in rows] == [("1",)]
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                with router.copy_rows(insert):
                    raise AssertionError
    assert shared.nodes[0].execute(f"SELECT * FROM {table}") == []


def test_options_are_sent_on_while_no_login_without_them_was_let_in(shared: LocalCluster) -> None:
    texts: list[str] = []
    with Gate(shared.primary, lambda _: texts.pop(0) if texts else None) as gate:
        with Router(gate.dsn) as router:
            router.wait()
            texts += ["the option to log in is off for maintenance", "sorry, too many clients already"]
            assert setting(router, "reader", "default_transaction_read_only", timeout=10.0) == "on"
            assert not texts
            assert router.topology.hosts[0].generation == 0, "what was found out holds for a generation"


def test_an_unknown_refusal_of_a_login_with_options_is_found_out_by_the_next_one_that_is_due(
    shared: LocalCluster,
) -> None:
    events: list[Event] = []
    with Gate(shared.primary, lambda login: UNKNOWN if "options" in login else None) as gate:
        with Router(gate.dsn) as router:
            router.subscribe(events.append)
            router.wait()
            begun_at = time.monotonic()
            with pytest.raises(NoHostAvailable, match=UNKNOWN):
                router.getconn("reader", timeout=1.0)
            assert gate.refused() == 1, "no second login that could be refused for the same cause"
            with router.writer() as conn:
                conn.execute("SELECT 1")
            conn = router.getconn("reader", timeout=10.0)
            assert 4.5 < time.monotonic() - begun_at < within(7.0)
            router.putconn(conn)
            held = [router.getconn("reader", timeout=5.0) for _ in range(3)]
            for conn in held:
                assert conn.read_only
                router.putconn(conn)
    assert gate.refused() == 2, "with them, and with them again when the one without was let in"
    assert not any(event.after and event.after.state is HostState.REJECTED for event in events)


def test_a_refusal_that_is_over_meanwhile_leaves_readers_their_default(shared: LocalCluster) -> None:
    texts = [UNKNOWN]
    with Gate(shared.primary, lambda login: texts.pop() if texts and "options" in login else None) as gate:
        with Router(gate.dsn) as router:
            assert setting(router, "reader", "default_transaction_read_only", timeout=10.0) == "on"
            eventually(lambda: router.stats().reader.totals["pool_size"] == 1)
    assert gate.refused() == 1


def test_an_unknown_refusal_of_every_login_is_the_hosts_after_two(shared: LocalCluster) -> None:
    refusing: list[str] = []
    with Gate(shared.primary, lambda _: refusing[0] if refusing else None) as gate:
        with Router(gate.dsn) as router:
            router.wait()
            refusing.append(UNKNOWN)
            begun_at = time.monotonic()
            with pytest.raises(NoHostAvailable, match=UNKNOWN):
                router.getconn("reader", timeout=6.0)
            assert router.topology.hosts[0].state is HostState.REJECTED
            assert gate.refused() <= 1 + (time.monotonic() - begun_at) / 5


def test_settings_that_a_proxy_refuses_are_told_in_the_log(
    shared: LocalCluster, caplog: pytest.LogCaptureFixture
) -> None:
    options = PoolOptions(settings={"statement_timeout": "5s"})
    with Gate(shared.primary, lambda login: RDS_PROXY if "options" in login else None) as gate:
        with Router(gate.dsn, writer=options) as router:
            assert setting(router, "writer", "statement_timeout") == "0"
    assert "PoolOptions(settings=) is not in force there" in caplog.text


def test_a_setting_that_a_server_does_not_know_is_not_dropped(shared: LocalCluster) -> None:
    options = PoolOptions(settings={"statment_timeout": "5s"})
    with Router(shared.dsn, reader=options) as router:
        router.wait()
        for timeout in (within(1.0), 6.0):
            with pytest.raises(psycopg.OperationalError, match="unrecognized configuration parameter"):
                router.getconn("reader", timeout=timeout)
        with router.writer() as conn:
            conn.execute("SELECT 1")
        assert {host.state for host in router.topology.hosts} == {HostState.UP}
