"""A client-side router for a PostgreSQL primary and its standbys."""

from pgroute._async.causal import AsyncCausal
from pgroute._async.copying.stream import AsyncCopyStream
from pgroute._async.listener import AsyncListener
from pgroute._async.router import AsyncRouter
from pgroute._async.session import AsyncSession
from pgroute._async.transaction.attempts import AsyncAttempt, AsyncAttempts
from pgroute._sync.causal import Causal
from pgroute._sync.copying.stream import CopyStream
from pgroute._sync.listener import Listener
from pgroute._sync.router import Router
from pgroute._sync.session import Session
from pgroute._sync.transaction.attempts import Attempt, Attempts
from pgroute.config_file.entry import from_config
from pgroute.core.config.credentials import CredentialRequest
from pgroute.core.config.discovery import AuroraDiscovery, PatroniDiscovery
from pgroute.core.config.options import HostOptions, PoolOptions, ProbeOptions
from pgroute.core.config.retry_policy import RetryPolicy
from pgroute.core.model.advice import AdviserInfo, HostAdvice
from pgroute.core.model.candidate import Candidate
from pgroute.core.model.copying import CopyInOptions, CopyOutOptions, CopyProgress
from pgroute.core.model.events import Event, EventKind
from pgroute.core.model.host import HostInfo, HostState
from pgroute.core.model.notifications import Gap, Notification
from pgroute.core.model.position import Position
from pgroute.core.model.roles import HostKey, HostRole, Role, SessionAttrs
from pgroute.core.model.stats import RoleStats, RouterCounts, RouterStats, WatchSharing
from pgroute.core.model.version import VERSION
from pgroute.core.routing.balance import Policy
from pgroute.core.topology.snapshot import Topology
from pgroute.errors import (
    AcquireTimeout,
    CommitUnknown,
    ConfigError,
    NoHostAvailable,
    PoolExhausted,
    PositionLost,
    RouteError,
    RouterClosed,
    SessionLost,
    SplitBrainError,
)

__version__ = VERSION

__all__ = [
    "AcquireTimeout",
    "AdviserInfo",
    "AsyncAttempt",
    "AsyncAttempts",
    "AsyncCausal",
    "AsyncCopyStream",
    "AsyncListener",
    "AsyncRouter",
    "AsyncSession",
    "Attempt",
    "Attempts",
    "AuroraDiscovery",
    "Candidate",
    "Causal",
    "CommitUnknown",
    "ConfigError",
    "CopyInOptions",
    "CopyOutOptions",
    "CopyProgress",
    "CopyStream",
    "CredentialRequest",
    "Event",
    "EventKind",
    "Gap",
    "HostAdvice",
    "HostInfo",
    "HostKey",
    "HostOptions",
    "HostRole",
    "HostState",
    "Listener",
    "NoHostAvailable",
    "Notification",
    "PatroniDiscovery",
    "Policy",
    "PoolExhausted",
    "PoolOptions",
    "Position",
    "PositionLost",
    "ProbeOptions",
    "RetryPolicy",
    "Role",
    "RoleStats",
    "RouteError",
    "Router",
    "RouterClosed",
    "RouterCounts",
    "RouterStats",
    "Session",
    "SessionAttrs",
    "SessionLost",
    "SplitBrainError",
    "Topology",
    "WatchSharing",
    "from_config",
]

for _name in __all__:
    globals()[_name].__module__ = __name__
del _name
