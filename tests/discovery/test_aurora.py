"""Aurora's adviser, with a function of its name and columns on real PostgreSQL servers: no Aurora was tried."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import psycopg
import pytest

from pgroute import AuroraDiscovery, HostState, ProbeOptions, Router
from pgroute.testing import LocalCluster
from tests.names.nameserver import NameServer
from tests.support import dsn_at, dsn_with, eventually

pytestmark = pytest.mark.cluster

DATABASE = "aurora"


def instances(cluster: LocalCluster, *names: str) -> str:
    """Return the statement that makes the function, which lists these instances, the first one as the writer."""
    rows = ", ".join(
        f"('{name}', {'$x$MASTER_SESSION_ID$x$' if name == names[0] else 'md5($x$a$x$)'}, 20.0::float8, now())"
        for name in names
    )
    old = "('old', 'x', 1.0::float8, now() - interval '1 hour')"
    return f"""
        SET allow_system_table_mods = on;
        CREATE OR REPLACE FUNCTION pg_catalog.aurora_replica_status() RETURNS TABLE (
            server_id text, session_id text, replica_lag_in_msec float8, last_update_timestamp timestamptz
        ) LANGUAGE sql STABLE AS $f$ VALUES {rows}, {old} $f$"""


def run(cluster: LocalCluster, statement: str, dbname: str = DATABASE) -> None:
    with psycopg.connect(dsn_with(first_dsn(cluster), dbname=dbname), autocommit=True) as conn:
        conn.execute(statement.encode())
    cluster.catch_up()


def first_dsn(cluster: LocalCluster) -> str:
    return dsn_at(f"{cluster.nodes[0].host}:{cluster.nodes[0].port}", cluster)


@pytest.fixture
def aurora(shared: LocalCluster) -> Iterator[LocalCluster]:
    """A database of its own, in whose system catalog the function is."""
    run(shared, f"CREATE DATABASE {DATABASE}", "postgres")
    yield shared
    run(shared, f"DROP DATABASE {DATABASE} WITH (FORCE)", "postgres")


def test_instances_join_and_leave(aurora: LocalCluster) -> None:
    run(aurora, instances(aurora, "i1", "i2", "i3"))
    places = {f"i{n}": f"{node.host}:{node.port}" for n, node in enumerate(aurora.nodes, 1)}
    discovery = AuroraDiscovery(hosts={**places, "old": "127.0.0.1:1"}, interval=0.1)
    with Router(dsn_with(first_dsn(aurora), dbname=DATABASE), discovery=discovery) as router:
        eventually(lambda: [h.state for h in router.topology.hosts] == [HostState.UP] * 3)
        told = [host.advice for host in router.topology.hosts]
        assert [(a.member, a.role, a.lag_seconds) for a in told if a] == [
            ("i1", "writer", None),
            ("i2", "reader", 0.02),
            ("i3", "reader", 0.02),
        ]
        adviser = router.stats().adviser
        assert adviser is not None
        assert (adviser.name, adviser.members, adviser.error) == ("Aurora", 3, "")
        run(aurora, instances(aurora, "i1", "i3"))
        eventually(
            lambda: [h.port for h in router.topology.hosts] == [aurora.nodes[0].port, aurora.nodes[2].port]
        )


def test_instance_is_asked_at_the_address_where_probes_reach_it(aurora: LocalCluster) -> None:
    run(aurora, instances(aurora, "i1"))
    first = aurora.nodes[0]
    discovery = AuroraDiscovery(hosts={"i1": f"i1.test:{first.port}"}, interval=0.1, timeout=1.0)
    dsn = dsn_with(dsn_at(f"i1.test:{first.port}", aurora), dbname=DATABASE)
    probe = ProbeOptions(timeout=1.0)
    with NameServer() as names, socket.create_server(("127.0.0.2", first.port)):
        names.zone["i1.test"] = ["127.0.0.2", first.host]
        with Router(dsn, discovery=discovery, resolver=names.resolver, probe=probe) as router:
            eventually(lambda: router.topology.adviser and router.topology.adviser.answering)


def test_server_without_the_function_serves_as_ever(aurora: LocalCluster) -> None:
    discovery = AuroraDiscovery(hosts="{name}.db.test", interval=0.1)
    with Router(dsn_with(aurora.dsn, dbname=DATABASE), discovery=discovery) as router:
        eventually(
            lambda: "does not exist" in ((router.topology.adviser and router.topology.adviser.error) or "")
        )
        assert [host.state for host in router.topology.hosts] == [HostState.UP] * 3
        with router.writer() as conn:
            assert conn.execute("SELECT 1").fetchone() == (1,)
