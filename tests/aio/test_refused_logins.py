"""The credentials stop working while the router is open."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from pgroute import AsyncRouter, HostState, NoHostAvailable
from pgroute.testing import LocalCluster, Node
from tests.aio.workload import read, state
from tests.support import AsyncBackground, async_call, async_eventually

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


async def test_a_role_locked_out_later_is_rejected_with_bounded_attempts_and_recovers(
    mended: LocalCluster, app_dsn: str
) -> None:
    async def hopeless(router: AsyncRouter[Any]) -> str:
        with pytest.raises(NoHostAvailable) as caught:
            await router.getconn("writer", timeout=2.0)
        return str(caught.value)

    node = mended.nodes[0]
    before = refusals(node)
    # The pools have no connection yet, the probes have theirs.
    async with (
        AsyncRouter(app_dsn) as router,
        AsyncBackground() as background,
    ):
        await async_eventually(lambda: all(h.state is HostState.UP for h in router.topology.hosts))
        await async_call(allow, mended, False)
        begun_at = time.monotonic()
        waiters = [background.start(hopeless, router) for _ in range(10)]
        await async_eventually(lambda: state(router, node) is HostState.REJECTED)
        assert time.monotonic() - begun_at < 0.5, "the first refusal tells"
        texts = [await waiter.result() for waiter in waiters]
        assert all("not permitted to log in" in text for text in texts)
        assert refusals(node) - before == 1, "at most one attempt in 5 s, probe and pools together"
        await async_call(allow, mended, True)
        async with router.writer() as conn:
            await conn.execute("SELECT 1")
        assert time.monotonic() - begun_at < 6.0, "found out by the next attempt"
        assert refusals(node) - before <= 2


async def test_one_host_that_refuses_leaves_the_others_serving(mended: LocalCluster, app_dsn: str) -> None:
    _, refusing, other = mended.nodes
    hba = refusing.data_dir / "pg_hba.conf"
    rules = hba.read_text()
    hba.write_text("host all app all reject\n" + rules)
    refusing.execute("SELECT pg_reload_conf()")
    async with AsyncRouter(app_dsn) as router:
        await router.wait()
        await async_eventually(lambda: state(router, refusing) is HostState.REJECTED)
        assert {(await read(router)).port for _ in range(20)} == {other.port}
        reason = router.topology.hosts[1].reason
    hba.write_text(rules)
    refusing.execute("SELECT pg_reload_conf()")
    assert "pg_hba.conf rejects connection" in reason
    assert "\n" not in reason
