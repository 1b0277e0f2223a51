# Generated from tests/aio/conftest.py by .ci/unasync.py: edit that file, not this one.
"""A cluster that outlives the tests which only stop, crash or freeze its nodes: a fresh one takes a second each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pgroute.testing import LocalCluster


@pytest.fixture(scope="session")
def lasting_cluster() -> Iterator[LocalCluster]:
    """Give the cluster itself; tests ask for `mended`."""
    with LocalCluster() as cluster:
        yield cluster


@pytest.fixture
def mended(lasting_cluster: LocalCluster) -> Iterator[LocalCluster]:
    """Give a cluster whose first node is the primary.

    The test may stop, crash and freeze nodes and configure them, but promote none: afterwards all go on as before.
    """
    yield lasting_cluster
    first, *standbys = lasting_cluster.nodes
    for node in lasting_cluster.nodes:
        if node.frozen:
            node.thaw()
        if not node.running:
            node.start(wait=False)
    for node in lasting_cluster.nodes:
        node.wait_ready()
    first.execute("DROP TABLE IF EXISTS written")
    for node in standbys:
        node.wait_streaming(first)
    lasting_cluster.catch_up()
