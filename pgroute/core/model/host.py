"""One host as the router sees it: its state, and the view that users read."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from pgroute.core.late_dataclass import dataclass

if TYPE_CHECKING:
    from pgroute.core.model.advice import HostAdvice
    from pgroute.core.model.roles import HostKey, HostRole


class HostState(enum.Enum):
    """The state of a host: the result of the last contact, unless the comparison with other hosts overrules it.

    Attributes:
        UNKNOWN: not contacted yet.
        UP: it answers.
        SUSPECT: it was up and failed one probe; it serves only if no other host can.
        DOWN: it refuses connections, or failed two probes in a row.
        STARTING: it is starting up or shutting down.
        BUSY: it accepts no further connections; it serves only after hosts that are up.
        REJECTED: it refuses the credentials, the database or TLS, or the credentials function gave none, or this
            process can open no connection; connections that are already open still serve.
        STALE: an old primary, on a lower timeline than the highest one seen; it never serves.
        CONFLICT: one of several primaries between which nothing decides; none of them serves.
        FOREIGN: it belongs to another cluster, or reports no system identifier although one is pinned.
        ALIAS: it is the same server as another listed host.
        DRAINED: it answers, and gets no new sessions: the operator has drained it, or it is about to hand over the
            role of the primary in a scheduled switchover.
        DRAINING: its name has left the address where sessions are still in flight. A Topology has no such host.
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
    DRAINED = "drained"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class HostInfo:
    """One host of a Topology.

    The staleness of a standby is the age of the newest position of the primary that it has replayed, of those that
    probes have seen. It is a bound: the standby misses nothing older. It grows while no primary answers.

    Attributes:
        key: the HostKey; `host` and `port` are parts of it.
        state: its state.
        reason: why it is in this state, or a remark, in words; empty if there is nothing to say.
        usable: sessions may go there.
        since: monotonic seconds at which it entered this state.
        generation: grows whenever the pooled connections to it must not be used any more.
        address: the numeric address or socket directory that answered last; None if none did.
        role: primary or standby; None while it is not known.
        read_only: a fresh session would be read-only by default.
        timeline: its timeline, of a standby a lower bound; None if not reported.
        lsn: its WAL position in bytes: inserted by a primary, replayed by a standby; None if not reported.
        lag_bytes: bytes of WAL that the primary has on disk and this standby has not replayed; None if not known.
        staleness: seconds; what it may be missing at most, at the time of the snapshot (for now, subtract
            current_as_of from ``time.monotonic()``). 0.0 for the primary; None if that cannot be known.
        current_as_of: monotonic seconds; a standby holds everything that was committed before. None if that cannot be
            known, and for a primary.
        rtt: seconds that the last probe took.
        last_seen: monotonic seconds of its last answer or refusal; None if there was none.
        silent_since: monotonic seconds of the first attempt since then; None while it answers.
        system_id: the cluster's system identifier; None if not reported.
        started_at: the start of the postmaster, seconds since the epoch; None if not reported.
        server_version: as in libpq, 180001 for 18.1; 0 if not known.
        origin: the name that stands for it; empty for a host of the DSN itself.
        degraded: which of timeline and system identifier it no longer reports, and why, in words; empty if none is
            missing.
        zone: where it is, from `HostOptions` or the adviser; empty if neither says.
        returned_at: monotonic seconds at which it became usable again, or was first seen after a restart; None: it has
            been usable since the router was opened, or is not usable.
        drained: the operator has drained it, whatever its state.
        advice: what the adviser of the router says of it; None: nothing.
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
    lsn: int | None = None
    lag_bytes: int | None = None
    staleness: float | None = None
    current_as_of: float | None = None
    rtt: float | None = None
    last_seen: float | None = None
    silent_since: float | None = None
    system_id: int | None = None
    started_at: float | None = None
    server_version: int = 0
    origin: str = ""
    degraded: str = ""
    zone: str = ""
    returned_at: float | None = None
    drained: bool = False
    advice: HostAdvice | None = None

    @property
    def host(self) -> str:
        """The host name, address or socket directory as given in the DSN."""
        return self.key.host

    @property
    def port(self) -> int:
        """The port."""
        return self.key.port
