"""What an adviser, such as Patroni, says of a cluster and its hosts: knowledge beside that of the probes."""

from __future__ import annotations

from pgroute.core.late_dataclass import dataclass


@dataclass(frozen=True, slots=True)
class HostAdvice:
    """What the adviser says of one host. Its role stays what the probes say.

    Attributes:
        member: the name of the host in the cluster.
        role: what the adviser takes it to be, in its own words, such as "leader".
        state: likewise, such as "streaming"; empty if it does not say.
        no_reads: readers are to go elsewhere (Patroni's tag ``noloadbalance``).
        no_failover: it is not to become the primary (Patroni's tag ``nofailover``, or a ``failover_priority`` of 0).
        zone: where it is, from a tag; empty if no tag says.
        lag_bytes: bytes of WAL that it is behind, as the adviser knows; None if it does not say.
        lag_seconds: seconds that it is behind, likewise.
        handing_over: why the host gets no new sessions while it is the primary: a switchover is about to begin. Empty
            if none is.
        successor: the member that is to be the primary then; empty: any that may.
    """

    member: str
    role: str = ""
    state: str = ""
    no_reads: bool = False
    no_failover: bool = False
    zone: str = ""
    lag_bytes: int | None = None
    lag_seconds: float | None = None
    handing_over: str = ""
    successor: str = ""

    @property
    def text(self) -> str:
        """What it says in words, without role and lag; empty if there is nothing to say."""
        parts = (
            "no reads" if self.no_reads else "",
            "no failover" if self.no_failover else "",
            f"zone {self.zone}" if self.zone else "",
        )
        return ", ".join(part for part in parts if part)


@dataclass(frozen=True, slots=True)
class AdviserInfo:
    """What is known of the adviser of a router, and what it says of the whole cluster.

    Attributes:
        name: "Patroni" or "Aurora".
        answering: it answered when it was last asked.
        source: who answered last: a URL, or a host; empty if nobody did.
        error: why there was no answer; empty while it answers.
        heard_at: monotonic seconds of its last answer; None if there was none.
        forgotten: its last answer is too old to count.
        scope: the name of the cluster.
        members: how many it has.
        paused: the cluster manager is paused, and does not fail over by itself.
        switchover: the switchover that is scheduled, in words; empty if none is.
        switchover_at: its time, seconds since the epoch by the clock of the servers; None if none is scheduled, or the
            adviser gives no time that can be read.
        strangers: the members that are not hosts of the router, each with the reason.
        settled: it was asked, and each of its members was tried once.
    """

    name: str
    answering: bool = False
    source: str = ""
    error: str = ""
    heard_at: float | None = None
    forgotten: bool = False
    scope: str = ""
    members: int = 0
    paused: bool = False
    switchover: str = ""
    switchover_at: float | None = None
    strangers: tuple[tuple[str, str], ...] = ()
    settled: bool = False
