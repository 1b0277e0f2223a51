"""pytest fixtures that hand out local PostgreSQL clusters and proxies in front of them.

Every pytest run in the environment loads this module. It is outside the package, whose import needs psycopg and libpq:
neither is imported until a fixture is used.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pgroute.testing.cluster import LocalCluster
    from pgroute.testing.proxy import FaultProxy
    from pgroute.testing.proxy_arguments import Endpoint


class ClusterFactory(Protocol):
    """Starts a cluster with the options of `LocalCluster`; it stops at the end of the test."""

    def __call__(self, standbys: int | None = None, **options: Any) -> LocalCluster: ...


class ProxyFactory(Protocol):
    """Starts a proxy in front of a node or (host, port); it stops at the end of the test."""

    def __call__(self, target: Endpoint | tuple[str, int]) -> FaultProxy: ...


@pytest.fixture(scope="session")
def pgroute_cluster_options() -> dict[str, Any]:
    """The options of `LocalCluster` for the other fixtures; override it in a conftest.py to change them."""
    return {}


@pytest.fixture
def pgroute_cluster(pgroute_cluster_options: dict[str, Any]) -> Iterator[LocalCluster]:
    """A new primary with its standbys for each test, which may break them."""
    from pgroute.testing.cluster import LocalCluster

    with LocalCluster(**pgroute_cluster_options) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def pgroute_shared_cluster(pgroute_cluster_options: dict[str, Any]) -> Iterator[LocalCluster]:
    """A cluster for tests that leave its nodes intact. Each worker of pytest-xdist has its own."""
    from pgroute.testing.cluster import LocalCluster

    with LocalCluster(**pgroute_cluster_options) as cluster:
        yield cluster


@pytest.fixture
def pgroute_cluster_factory(pgroute_cluster_options: dict[str, Any]) -> Iterator[ClusterFactory]:
    """A function that starts clusters within a test; its arguments are further options of `LocalCluster`."""
    from pgroute.testing.cluster import LocalCluster

    with ExitStack() as stack:

        def make(standbys: int | None = None, **options: Any) -> LocalCluster:
            if standbys is not None:
                options["standbys"] = standbys
            return stack.enter_context(LocalCluster(**{**pgroute_cluster_options, **options}))

        yield make


@pytest.fixture
def pgroute_proxy_factory() -> Iterator[ProxyFactory]:
    """A function that starts proxies within a test; its argument is a node or (host, port)."""
    from pgroute.testing.proxy import FaultProxy

    with ExitStack() as stack:

        def make(target: Endpoint | tuple[str, int]) -> FaultProxy:
            return stack.enter_context(FaultProxy(target))

        yield make
