"""The errors of a local test cluster."""

from __future__ import annotations


class ServerNotFound(LookupError):
    """No PostgreSQL server of the requested version was found."""


class ClusterError(RuntimeError):
    """A server or one of its programs failed; the message has the end of the server's log."""


class ClusterTimeout(ClusterError, TimeoutError):
    """A server did not reach a state in time."""
