"""A local PostgreSQL cluster for tests: real servers, real crashes, and a proxy for real network faults."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .binaries import ServerBinaries, available_versions, find_server
    from .cluster import LocalCluster
    from .errors import ClusterError, ClusterTimeout, ServerNotFound
    from .node import Node
    from .proxy import FaultProxy
    from .trigger import Trigger

__all__ = [
    "ClusterError",
    "ClusterTimeout",
    "FaultProxy",
    "LocalCluster",
    "Node",
    "ServerBinaries",
    "ServerNotFound",
    "Trigger",
    "available_versions",
    "find_server",
]

_HOMES = {
    "ClusterError": "errors",
    "ClusterTimeout": "errors",
    "FaultProxy": "proxy",
    "LocalCluster": "cluster",
    "Node": "node",
    "ServerBinaries": "binaries",
    "ServerNotFound": "errors",
    "Trigger": "trigger",
    "available_versions": "binaries",
    "find_server": "binaries",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used: every pytest run imports this package for the fixtures."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
