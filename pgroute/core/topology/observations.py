"""What a snapshot is built from: probe answers, failures, the list of hosts, the override of the operator."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pgroute.core.faults.classify import Fault
    from pgroute.core.model.roles import HostKey, HostRole


@dataclass(frozen=True, slots=True)
class Answer:
    """A host answered a probe.

    Attributes:
        host: which one.
        role: primary or standby.
        read_only: a fresh session there would be read-only by default.
        timeline: of a primary, the one it writes; of a standby, a lower bound; None if not told.
        lsn: bytes written (primary) or replayed (standby), None if not told.
        system_id: the cluster's system identifier.
        started_at: the postmaster's start, seconds since the epoch.
        address: the numeric address or socket directory that answered.
        rtt: seconds that the probe took.
        sent_at: monotonic seconds at which it was sent.
        fresh: it was asked on a connection opened for it.
        server_version: as libpq gives it, 180001 for 18.1.
        reduced: why the probe asked for less than all values, in the server's words; empty if it asked for all.
    """

    host: HostKey
    role: HostRole
    sent_at: float
    read_only: bool = False
    timeline: int | None = None
    lsn: int | None = None
    system_id: int | None = None
    started_at: float | None = None
    address: str | None = None
    rtt: float = 0.0
    fresh: bool = False
    server_version: int = 0
    reduced: str = ""


@dataclass(frozen=True, slots=True)
class Failure:
    """A probe failed, or a pool's login was turned down; `sent_at` as in Answer, or when connecting began.

    A pool's attempt that nobody answered is no Failure but a reason to probe: many of them may end at once.
    `linked`: it was an attempt at a new connection, while the probe's open one goes on.
    """

    host: HostKey
    fault: Fault
    sent_at: float
    linked: bool = False


@dataclass(frozen=True, slots=True)
class Listing:
    """How a host came to be listed.

    Attributes:
        origin: the name behind it, as "SRV _postgresql._tcp.example.com"; empty for one of the DSN itself.
        priority: hosts of the lowest are chosen as long as one of them can serve.
        weight: its share among those of equal priority.
        note: what is wrong with the lookup of its name, while the last good answer serves.
        addresses: how many of one family its name has, which are taken to be those of one server.
    """

    origin: str = ""
    priority: int = 0
    weight: float = 1.0
    note: str = ""
    addresses: int = 1


@dataclass(frozen=True, slots=True)
class Members:
    """The list of hosts is now this one; a host without a listing is one of the DSN itself."""

    hosts: tuple[HostKey, ...]
    listings: Mapping[HostKey, Listing] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ForgetTimeline:
    """The operator says that the highest timeline seen is no longer the truth."""


Observation = Answer | Failure | Members | ForgetTimeline
