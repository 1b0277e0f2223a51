"""A server, or the libpq of this process, that speaks another language than English."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import psycopg
import pytest

from pgroute import HostState, Router
from pgroute.testing import LocalCluster, available_versions
from pgroute.testing.sandbox import Sandbox
from tests.support import dsn_with, eventually

pytestmark = pytest.mark.cluster


@pytest.fixture
def german(monkeypatch: pytest.MonkeyPatch, pgroute_cluster_factory: Any) -> LocalCluster:
    """Give a cluster whose servers speak German, as the system's own packages can."""
    environment = Sandbox._make_environment

    def translated(sandbox: Sandbox) -> dict[str, str]:
        return environment(sandbox) | {"LC_ALL": "C.UTF-8", "LANGUAGE": "de"}

    monkeypatch.setattr(Sandbox, "_make_environment", translated)
    for server in available_versions():
        if server.bindir.is_relative_to("/usr"):
            cluster: LocalCluster = pgroute_cluster_factory(
                standbys=1, version=server.version, settings={"lc_messages": "C.UTF-8"}
            )
            with pytest.raises(psycopg.OperationalError) as caught:
                psycopg.connect(cluster.primary.conninfo, dbname="nowhere")
            if "existiert nicht" in str(caught.value):
                return cluster
    pytest.skip("no PostgreSQL here speaks German")


def let_in_nobody(cluster: LocalCluster) -> None:
    """Have the primary let in one session of a role, and the standby none."""
    primary, standby = cluster.nodes
    primary.execute(f"CREATE ROLE app LOGIN PASSWORD '{cluster.password}' CONNECTION LIMIT 1")
    standby.stop("fast")
    settings = standby.data_dir / "postgresql.auto.conf"
    settings.write_text(settings.read_text() + "hot_standby = off\n")
    standby.start()


def test_a_host_that_says_in_german_that_it_starts_or_is_full_is_not_taken_for_one_that_refuses(
    german: LocalCluster,
) -> None:
    primary = german.primary
    let_in_nobody(german)

    def state(router: Router[Any], number: int) -> tuple[HostState, str]:
        host = router.topology.hosts[number]
        return host.state, host.reason

    starting = "FATAL:  das Datenbanksystem nimmt keine Verbindungen an"
    busy = "FATAL:  zu viele Verbindungen von Rolle »app«"
    with (
        psycopg.connect(primary.conninfo, user="app"),
        Router(dsn_with(german.dsn, user="app")) as router,
    ):
        eventually(lambda: state(router, 1) == (HostState.STARTING, starting))
        eventually(lambda: state(router, 0) == (HostState.BUSY, busy))


TOLD_BY_LIBPQ = """
import json, locale, sys, time
try:
    import psycopg
except ImportError as exc:
    sys.exit(print(json.dumps({"no libpq": str(exc)})))
from pgroute import Router
from pgroute.core.faults.classify import connect_fault

def attempt(conninfo, **others):
    try:
        psycopg.connect(conninfo, **others)
    except psycopg.OperationalError as exc:
        fault = connect_fault(exc)
        return [str(exc), fault.kind.name, fault.reason]

locale.setlocale(locale.LC_ALL, "")
dsn, conninfo = sys.argv[1:]
with Router(dsn) as router:
    until = time.monotonic() + 20.0
    while not all(host.state.name in ("BUSY", "STARTING") for host in router.topology.hosts):
        if time.monotonic() > until:
            break
        time.sleep(0.01)
    hosts = [[host.state.name, host.reason] for host in router.topology.hosts]
attempts = {
    "password": attempt(conninfo, password="wrong"),
    "tls": attempt(conninfo, sslmode="require"),
    "nobody there": attempt(conninfo, port=1),
}
print(json.dumps({"hosts": hosts, **attempts}))
"""


def test_a_libpq_that_speaks_german_hides_nothing_of_what_the_server_says(
    pgroute_cluster_factory: Any,
) -> None:
    """Neither that it starts, nor that it is full, nor that it refuses the login."""
    cluster: LocalCluster = pgroute_cluster_factory(standbys=1)
    primary = cluster.primary
    let_in_nobody(cluster)
    language = {"LC_ALL": "C.UTF-8", "LANGUAGE": "de", "PSYCOPG_IMPL": "python"}
    with psycopg.connect(primary.conninfo, user="app"):
        done = subprocess.run(
            [sys.executable, "-c", TOLD_BY_LIBPQ, dsn_with(cluster.dsn, user="app"), primary.conninfo],
            env={**os.environ, **language},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
    told = json.loads(done.stdout)
    if "no libpq" in told:
        pytest.skip(f"no libpq beside that of psycopg's wheel: {told['no libpq']}")
    if "Verbindung zum Server" not in told["password"][0]:
        pytest.skip(f"the libpq here speaks no German: {told['password'][0]}")
    busy, starting = told["hosts"]
    assert busy == ["BUSY", 'FATAL:  too many connections for role "app"']
    assert starting == ["STARTING", "FATAL:  the database system is not accepting connections"]
    refused = 'FATAL:  password authentication failed for user "postgres"'
    assert told["password"][1:] == ["REJECTED", refused]
    assert told["tls"][1:] == ["REJECTED", "Server unterstützt kein SSL, aber SSL wurde verlangt"]
    assert told["nobody there"][1] == "REFUSED"
    assert "Verbindung zum Server" not in told["nobody there"][2]
