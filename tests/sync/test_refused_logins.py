# Generated from tests/aio/test_refused_logins.py by .ci/unasync.py: edit that file, not this one.
"""The credentials stop working while the router is open."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from pgroute import Router, HostState, NoHostAvailable
from pgroute.testing import LocalCluster, Node
from tests.sync.workload import read, state
from tests.support import Background, call, eventually

pytestmark = pytest.mark.cluster


def refusals(node: Node) -> int:
    return node.log().count('role "app" is not permitted to log in')


def allow(cluster: LocalCluster, yes: bool) -> None:
    cluster.primary.execute(f"ALTER ROLE app {'LOGIN' if yes else 'NOLOGIN'}")
    cluster.catch_up()


@pytest.fixture
def app_dsn(mended: LocalCluster) -> Iterator[str]:
    """Give the DSN of a role that is not a superuser."""
    mended.primary.execute("CREATE ROLE app LOGIN")
    mended.catch_up()
    yield mended.dsn.replace("postgres@", "app@")
    mended.primary.execute("DROP ROLE app")


def test_a_role_locked_out_later_is_rejected_with_bounded_attempts_and_recovers(
    mended: LocalCluster, app_dsn: str
) -> None:
    def hopeless(router: Router[Any]) -> str:
        with pytest.raises(NoHostAvailable) as caught:
            router.getconn("writer", timeout=2.0)
        return str(caught.value)

    node = mended.nodes[0]
    before = refusals(node)
    # The pools have no connection yet, the probes have theirs.
    with (
        Router(app_dsn) as router,
        Background() as background,
    ):
        eventually(lambda: all(h.state is HostState.UP for h in router.topology.hosts))
        call(allow, mended, False)
        begun_at = time.monotonic()
        waiters = [background.start(hopeless, router) for _ in range(10)]
        eventually(lambda: state(router, node) is HostState.REJECTED)
        assert time.monotonic() - begun_at < 0.5, "the first refusal tells"
        texts = [waiter.result() for waiter in waiters]
        assert all("not permitted to log in" in text for text in texts)
        assert refusals(node) - before == 1, "at most one attempt in 5 s, probe and pools together"
        call(allow, mended, True)
        with router.writer() as conn:
            conn.execute("SELECT 1")
        assert time.monotonic() - begun_at < 6.0, "found out by the next attempt"
        assert refusals(node) - before <= 2


def test_one_host_that_refuses_leaves_the_others_serving(mended: LocalCluster, app_dsn: str) -> None:
    _, refusing, other = mended.nodes
    hba = refusing.data_dir / "pg_hba.conf"
    rules = hba.read_text()
    hba.write_text("host all app all reject\n" + rules)
    refusing.execute("SELECT pg_reload_conf()")
    with Router(app_dsn) as router:
        router.wait()
        eventually(lambda: state(router, refusing) is HostState.REJECTED)
        assert {(read(router)).port for _ in range(20)} == {other.port}
        reason = router.topology.hosts[1].reason
    hba.write_text(rules)
    refusing.execute("SELECT pg_reload_conf()")
    assert "pg_hba.conf rejects connection" in reason
    assert "\n" not in reason
