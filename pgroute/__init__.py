"""A client-side router for a PostgreSQL primary and its standbys."""

from pgroute._async.attempts import AsyncAttempts
from pgroute._async.router import AsyncRouter
from pgroute._async.session import AsyncSession
from pgroute._async.transaction import AsyncAttempt
from pgroute._sync.attempts import Attempts
from pgroute._sync.router import Router
from pgroute._sync.session import Session
from pgroute._sync.transaction import Attempt
from pgroute.core.balance import Candidate, Policy
from pgroute.core.events import Event, EventKind
from pgroute.core.hosts import HostInfo, HostState
from pgroute.core.options import HostOptions, PoolOptions, ProbeOptions
from pgroute.core.retry import RetryPolicy
from pgroute.core.roles import HostKey, HostRole, Role, SessionAttrs
from pgroute.core.stats import RoleStats, RouterStats
from pgroute.core.topology import Topology
from pgroute.errors import (
    AcquireTimeout,
    CommitUnknown,
    ConfigError,
    NoHostAvailable,
    PoolExhausted,
    RouteError,
    RouterClosed,
    SessionLost,
    SplitBrainError,
)

__version__ = "0.1.0"

__all__ = [
    "AcquireTimeout",
    "AsyncAttempt",
    "AsyncAttempts",
    "AsyncRouter",
    "AsyncSession",
    "Attempt",
    "Attempts",
    "Candidate",
    "CommitUnknown",
    "ConfigError",
    "Event",
    "EventKind",
    "HostInfo",
    "HostKey",
    "HostOptions",
    "HostRole",
    "HostState",
    "NoHostAvailable",
    "Policy",
    "PoolExhausted",
    "PoolOptions",
    "ProbeOptions",
    "RetryPolicy",
    "Role",
    "RoleStats",
    "RouteError",
    "Router",
    "RouterClosed",
    "RouterStats",
    "Session",
    "SessionAttrs",
    "SessionLost",
    "SplitBrainError",
    "Topology",
]

for _name in __all__:
    globals()[_name].__module__ = __name__
del _name
