"""The pytest fixtures under the name by which a conftest.py or a type hint asks for them."""

from __future__ import annotations

from pytest_pgroute import (
    ClusterFactory,
    ProxyFactory,
    pgroute_cluster,
    pgroute_cluster_factory,
    pgroute_cluster_options,
    pgroute_proxy_factory,
    pgroute_shared_cluster,
)

__all__ = [
    "ClusterFactory",
    "ProxyFactory",
    "pgroute_cluster",
    "pgroute_cluster_factory",
    "pgroute_cluster_options",
    "pgroute_proxy_factory",
    "pgroute_shared_cluster",
]
