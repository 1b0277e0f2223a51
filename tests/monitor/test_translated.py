"""A server that speaks another language than English."""

from __future__ import annotations

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


def test_a_host_that_says_in_german_that_it_starts_or_is_full_is_not_taken_for_one_that_refuses(
    german: LocalCluster,
) -> None:
    primary, standby = german.nodes
    primary.execute(f"CREATE ROLE app LOGIN PASSWORD '{german.password}' CONNECTION LIMIT 1")
    standby.stop("fast")
    settings = standby.data_dir / "postgresql.auto.conf"
    settings.write_text(settings.read_text() + "hot_standby = off\n")
    standby.start()

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
