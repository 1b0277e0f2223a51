"""A client-side router for a PostgreSQL primary and its standbys."""

from importlib import import_module
from typing import TYPE_CHECKING

from pgroute.core.config.credentials import CredentialRequest
from pgroute.core.config.options import HostOptions, PoolOptions, ProbeOptions
from pgroute.core.config.retry_policy import RetryPolicy
from pgroute.core.model.advice import AdviserInfo, HostAdvice
from pgroute.core.model.candidate import Candidate
from pgroute.core.model.events import Event, EventKind
from pgroute.core.model.host import HostInfo, HostState
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

if TYPE_CHECKING:
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
    from pgroute.core.config.discovery import AuroraDiscovery, PatroniDiscovery
    from pgroute.core.model.copying import CopyInOptions, CopyOutOptions, CopyProgress
    from pgroute.core.model.notifications import Gap, Notification

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

# Imported when first used: hardly a program needs both faces, and few copy or ask an adviser.
_LATER = {
    "AsyncAttempt": "_async.transaction.attempts",
    "AsyncAttempts": "_async.transaction.attempts",
    "AsyncCausal": "_async.causal",
    "AsyncCopyStream": "_async.copying.stream",
    "AsyncListener": "_async.listener",
    "AsyncRouter": "_async.router",
    "AsyncSession": "_async.session",
    "Attempt": "_sync.transaction.attempts",
    "Attempts": "_sync.transaction.attempts",
    "AuroraDiscovery": "core.config.discovery",
    "Causal": "_sync.causal",
    "CopyInOptions": "core.model.copying",
    "CopyOutOptions": "core.model.copying",
    "CopyProgress": "core.model.copying",
    "CopyStream": "_sync.copying.stream",
    "Gap": "core.model.notifications",
    "Listener": "_sync.listener",
    "Notification": "core.model.notifications",
    "PatroniDiscovery": "core.config.discovery",
    "Router": "_sync.router",
    "Session": "_sync.session",
    "from_config": "config_file.entry",
}

for _name in __all__:
    if _name not in _LATER:
        globals()[_name].__module__ = __name__
del _name

if not TYPE_CHECKING:  # else any name would have this type

    def __getattr__(name: str) -> object:
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
        globals()[name] = found
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
