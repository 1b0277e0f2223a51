"""What can go wrong with a local test cluster, as exceptions."""

from __future__ import annotations


class ServerNotFound(LookupError):
    """No PostgreSQL server of the wanted version is installed where we look."""


class ClusterError(RuntimeError):
    """A server or one of its tools failed; the text carries the tail of the server's log."""


class ClusterTimeout(ClusterError, TimeoutError):
    """A server did not reach the awaited state in time."""
