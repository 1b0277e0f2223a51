"""One host as the router sees it: its state, and the view that users read."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pgroute.core.model.roles import HostKey, HostRole


class HostState(enum.Enum):
    """How a host stands: the last contact with it, overruled by the arbitration between hosts.

    Attributes:
        UNKNOWN: not heard from yet.
        UP: answers.
        SUSPECT: was up, and failed one probe; serves only if no other can.
        DOWN: refuses connections, or failed two probes in a row.
        STARTING: starting up or shutting down.
        BUSY: has no connection left for us, or takes no new one; serves only after hosts that are up.
        REJECTED: refuses the credentials, the database or TLS; serves on with the connections that were let in before.
        STALE: an old primary, on a lower timeline than one that was seen.
        CONFLICT: one of several primaries between which nothing decides.
        FOREIGN: belongs to another cluster than the others, or tells no system identifier where one is pinned.
        ALIAS: the same server as a host listed before.
    """

    UNKNOWN = "unknown"
    UP = "up"
    SUSPECT = "suspect"
    DOWN = "down"
    STARTING = "starting"
    BUSY = "busy"
    REJECTED = "rejected"
    STALE = "stale"
    CONFLICT = "conflict"
    FOREIGN = "foreign"
    ALIAS = "alias"


@dataclass(frozen=True, slots=True)
class HostInfo:
    """One host of a Topology, as the router sees it.

    Attributes:
        key: its HostKey; `host` and `port` are parts of it.
        state: how it stands.
        reason: why it is not simply up, in words; empty if it is.
        usable: sessions may be sent there.
        since: monotonic seconds since when it is in this state.
        generation: grows whenever pooled connections to it must no longer be used.
        address: numeric address or socket directory last reached; None if none was.
        role: primary or standby; None while not known.
        read_only: a fresh session would be read-only by default.
        timeline: of a standby a lower bound; None if not told.
        lag_bytes: bytes of WAL written by the primary and not replayed here, at the last probes; None if not known.
        lag_seconds: age in seconds of the newest position of the primary, of those seen by the watch, that is replayed
            here; 0 when the last one is. None if not known.
        rtt: seconds the last probe took.
        last_seen: monotonic seconds of the last word from it, None if never.
        silent_since: monotonic seconds of the first attempt since its last word, None while it answers.
        system_id: the cluster's system identifier; None if not told.
        started_at: the postmaster's start, seconds since the epoch; None if not told.
        server_version: as libpq gives it, 180001 for 18.1; 0 if not known.
        origin: the name by which it came to be listed, empty for one of the DSN itself.
        degraded: which of timeline and system identifier it no longer reports, and why, in words; empty if none is
            missing.
    """

    key: HostKey
    state: HostState
    reason: str
    usable: bool
    since: float
    generation: int
    address: str | None = None
    role: HostRole | None = None
    read_only: bool = False
    timeline: int | None = None
    lag_bytes: int | None = None
    lag_seconds: float | None = None
    rtt: float | None = None
    last_seen: float | None = None
    silent_since: float | None = None
    system_id: int | None = None
    started_at: float | None = None
    server_version: int = 0
    origin: str = ""
    degraded: str = ""

    @property
    def host(self) -> str:
        """The host name, address or socket directory as given in the DSN."""
        return self.key.host

    @property
    def port(self) -> int:
        """The port."""
        return self.key.port
