"""What a snapshot is built from: probe answers, failures, the list of hosts, advice, the override of the operator."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING

from pgroute.core.late_dataclass import dataclass

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pgroute.core.faults.classify import Fault
    from pgroute.core.model.advice import AdviserInfo, HostAdvice
    from pgroute.core.model.roles import HostKey, HostRole


@dataclass(frozen=True, slots=True)
class Answer:
    """A host answered a probe.

    Attributes:
        host: the host.
        role: primary or standby.
        read_only: a fresh session there would be read-only by default.
        timeline: of a primary the one it writes, of a standby a lower bound; None if not reported.
        lsn: position in bytes, inserted by a primary or replayed by a standby; None if not reported.
        flushed: of a primary, the position up to which its log is on disk; None if not reported.
        replayed: of a primary, the position at which its last recovery ended; None if it had none, or not reported.
        flush_delay: seconds after which a commit is on disk that did not wait for that (``synchronous_commit=off``).
        system_id: the cluster's system identifier; None if not reported.
        started_at: the start of the postmaster, seconds since the epoch; None if not reported.
        address: the numeric address or socket directory that answered.
        rtt: seconds that the probe took.
        sent_at: monotonic seconds at which the probe was sent.
        fresh: the probe used a connection that was opened for it.
        server_version: as in libpq, 180001 for 18.1.
        reduced: why the probe asked for less than all values, in the server's words; empty if it asked for all.
    """

    host: HostKey
    role: HostRole
    sent_at: float
    read_only: bool = False
    timeline: int | None = None
    lsn: int | None = None
    flushed: int | None = None
    replayed: int | None = None
    flush_delay: float = 0.0
    system_id: int | None = None
    started_at: float | None = None
    address: str | None = None
    rtt: float = 0.0
    fresh: bool = False
    server_version: int = 0
    reduced: str = ""


@dataclass(frozen=True, slots=True)
class Failure:
    """A probe failed, or the login of a pool was refused.

    A pool's attempt that nobody answered is no Failure but a reason to probe, since many of them may end at once.

    Attributes:
        host: the host.
        fault: what went wrong.
        sent_at: monotonic seconds at which the probe was sent or the attempt began.
        linked: a new connection failed while the open connection of the probe goes on.
    """

    host: HostKey
    fault: Fault
    sent_at: float
    linked: bool = False


@dataclass(frozen=True, slots=True)
class Listing:
    """Where a host of the list comes from.

    Attributes:
        origin: the name that stands for it, as "SRV _postgresql._tcp.example.com"; empty for a host of the DSN itself.
        priority: only hosts with the lowest priority are chosen while one of them can serve.
        weight: its share among those of equal priority.
        note: the error of the last lookup of its name, while the last good answer is used; empty if there is none.
        addresses: how many addresses of one family its name has; they are taken to be those of one server.
    """

    origin: str = ""
    priority: int = 0
    weight: float = 1.0
    note: str = ""
    addresses: int = 1


@dataclass(frozen=True, slots=True)
class Members:
    """The new list of hosts; a host without a listing is one of the DSN itself."""

    hosts: tuple[HostKey, ...]
    listings: Mapping[HostKey, Listing] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ForgetTimeline:
    """Accept a lower timeline, for example after restoring a backup: the operator's `forget_timeline()`."""


@dataclass(frozen=True, slots=True)
class Drain:
    """Give these hosts no new sessions: the operator's `drain()`."""

    hosts: frozenset[HostKey]


@dataclass(frozen=True, slots=True)
class Readmit:
    """Give these hosts new sessions again: the operator's `readmit()`."""

    hosts: frozenset[HostKey]


@dataclass(frozen=True, slots=True)
class Advised:
    """What the adviser says now: of the cluster, and of each listed host of which it says anything."""

    adviser: AdviserInfo
    hosts: Mapping[HostKey, HostAdvice] = field(default_factory=dict)


Observation = Answer | Failure | Members | ForgetTimeline | Drain | Readmit | Advised
