"""The immutable snapshot of all hosts."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING

from pgroute.core.late_dataclass import dataclass
from pgroute.core.model.candidate import Candidate
from pgroute.core.model.roles import HostKey, HostRole, SessionAttrs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pgroute.core.model.advice import AdviserInfo
    from pgroute.core.model.host import HostInfo
    from pgroute.core.topology.arbitration import Arbitration, Memory
    from pgroute.core.topology.host_facts import Facts
    from pgroute.core.topology.observations import Listing
    from pgroute.core.topology.wal_history import WalHistory

Groups = tuple[tuple[Candidate, ...], ...]

SETTLED_AFTER = 60.0
"""Seconds after which a DSN whose hosts are all standbys is taken to be meant so: no primary is waited for."""


@dataclass(frozen=True, slots=True)
class Rules:
    """The settings that the arbitration depends on.

    Attributes:
        check_system_id: refuse hosts of another cluster.
        system_id: the only identifier to accept, None to learn it.
        weights: the weights in `host_options`, by host, "host:port" or address.
        zones: the zones in `host_options`, likewise.
        zone: the router's own zone, whose hosts come first; empty: none does.
        ordered: the order of the hosts counts from the first session on: a host is not offered while one before it has
            not been checked yet, which takes one probe timeout at most.
    """

    check_system_id: bool = True
    system_id: int | None = None
    weights: Mapping[str, float] = field(default_factory=dict)
    ordered: bool = False
    zones: Mapping[str, str] = field(default_factory=dict)
    zone: str = ""

    def weight(self, key: HostKey, listing: Listing) -> float:
        """Return a host's weight for the balancing policies: the user's, else that of its listing."""
        if self.weights:
            for name in names_of(key):
                if name in self.weights:
                    return self.weights[name]
        return listing.weight

    def zone_of(self, key: HostKey) -> str:
        """Return a host's zone, empty if `host_options` does not say."""
        return (
            next((self.zones[name] for name in names_of(key) if name in self.zones), "") if self.zones else ""
        )

    def away(self, zone: str) -> bool:
        """Return whether a host of that zone comes after those of the router's own."""
        return bool(self.zone) and zone != self.zone


def names_of(key: HostKey) -> tuple[str, ...]:
    """Return the names by which `host_options` may refer to a host, the most specific first."""
    names = [f"{key.host}:{key.port}", f"[{key.host}]:{key.port}", key.host]
    return (*([key.hostaddr] if key.hostaddr else []), *names)


@dataclass(frozen=True, slots=True)
class Topology:
    """What the router knows of the hosts at one moment; as text, a table.

    Attributes:
        hosts: every listed host, in the order of the DSN.
        primary: the primary, None while there is none or more than one.
        standbys: the standbys that may serve.
        split_brain: the hosts that claim to be the primary while nothing decides between them; else empty.
        version: grows with every snapshot.
        at: monotonic seconds of the observation that led here.
        primary_lost_at: monotonic seconds since when no primary answers, None while one does.
        locked_out: every host refuses the login, and none has ever accepted it.
    """

    hosts: tuple[HostInfo, ...]
    primary: HostInfo | None
    standbys: tuple[HostInfo, ...]
    split_brain: frozenset[HostKey]
    version: int
    at: float
    primary_lost_at: float | None
    locked_out: bool
    candidates: Mapping[SessionAttrs, Groups] = field(repr=False)
    only: Mapping[SessionAttrs, Candidate] = field(repr=False)
    urgent: frozenset[HostKey] = field(repr=False)
    by_key: Mapping[HostKey, HostInfo] = field(repr=False, compare=False)
    wal: WalHistory = field(repr=False, compare=False)
    _facts: tuple[Facts, ...] = field(repr=False, compare=False)
    _memory: Memory = field(repr=False, compare=False)
    _rules: Rules = field(repr=False, compare=False)
    _settled: Arbitration | None = field(default=None, repr=False, compare=False)
    last_return: float = field(default=float("-inf"), repr=False, compare=False)

    def host(self, key: HostKey) -> HostInfo | None:
        """Return one host, None if it is not listed.

        Args:
            key: the host.
        """
        return self.by_key.get(key)

    def known_standby_at(self, key: HostKey) -> float | None:
        """Return when the probe was sent that a host has answered last, if it was a standby then; otherwise None."""
        for facts in self._facts:
            if facts.key == key and facts.answer is not None and facts.answer.role is HostRole.STANDBY:
                return facts.answer.sent_at
        return None

    def outage(self, now: float) -> float | None:
        """Return the seconds for which there has been no primary, None if that is no outage.

        It is none while there is a primary. Nor is it one if there never was a primary and all hosts have reported for
        a minute that they are standbys: readers may have a DSN of their own.

        Args:
            now: monotonic seconds.
        """
        if self.primary_lost_at is None:
            return None
        outage = now - self.primary_lost_at
        if outage <= SETTLED_AFTER or self._memory.had_primary or not self._facts:
            return outage
        standbys = (f.reporting and f.role is HostRole.STANDBY for f in self._facts)
        return None if all(standbys) else outage

    @property
    def writable(self) -> bool:
        """Whether `writer()` would find a host now."""
        return bool(self.candidates[SessionAttrs.READ_WRITE])

    @property
    def readable(self) -> bool:
        """Whether `reader()` would find a host now, with its default of prefer-standby."""
        return bool(self.candidates[SessionAttrs.PREFER_STANDBY])

    @property
    def why_not_writable(self) -> str:
        """Why `writer()` would find no host, in words; empty if it would."""
        if self.writable:
            return ""
        if self.split_brain:
            return "split brain between " + " and ".join(sorted(map(str, self.split_brain)))
        if self.primary and not self.primary.usable:
            return f"the primary {self.primary.key} is drained"
        if self.primary:
            return f"the primary {self.primary.key} is read-only"
        paused = f"; {self.adviser.name} is paused" if self.adviser and self.adviser.paused else ""
        return ("no primary" if self.standbys else "no host can be used") + paused

    @property
    def highest_timeline(self) -> int | None:
        """The highest timeline that is accepted: a primary below it is stale. None while none was reported."""
        return self._memory.timelines.highest

    @property
    def highest_timeline_since(self) -> float:
        """Monotonic seconds since when `highest_timeline` has its value."""
        return self._memory.highest_since

    @property
    def system_id(self) -> int | None:
        """The system identifier of the cluster, None while it is not known."""
        learned = self._memory.identity.system_id
        return self.wal.system_id if learned is None else learned

    @property
    def ignored_timeline(self) -> int:
        """The highest timeline when the operator last called `forget_timeline()`, 0 if that never happened."""
        return self._memory.timelines.ignored_timeline

    @property
    def drained(self) -> frozenset[HostKey]:
        """The hosts that the operator has drained, listed or not."""
        return self._memory.drained

    @property
    def adviser(self) -> AdviserInfo | None:
        """What is known of the adviser that `discovery` names; None if there is none."""
        return self._memory.adviser

    @property
    def initial_scan_done(self) -> bool:
        """Whether every listed host has answered, refused or timed out at least once."""
        return self._memory.initial_scan_done

    def __str__(self) -> str:
        zoned = any(h.zone for h in self.hosts)
        head = ("host", *(["zone"] if zoned else []), "role", "state", "timeline", "lag", "rtt", "reason")
        rows = [head, *(_row(h, zoned=zoned) for h in self.hosts)]
        widths = [max(len(r[i]) for r in rows) for i in range(len(head) - 1)]
        return "\n".join(
            "  ".join([*(cell.ljust(w) for cell, w in zip(r, widths, strict=False)), r[-1]]).rstrip()
            for r in rows
        )


def _row(h: HostInfo, *, zoned: bool) -> tuple[str, ...]:
    role = h.role.value if h.role else "-"
    if h.role is HostRole.PRIMARY and h.read_only:
        role = "primary (read-only)"
    return (
        str(h.key),
        *([h.zone or "-"] if zoned else []),
        role,
        h.state.value,
        # A standby reports its timeline late (at a restartpoint), so it is on this one or a later one.
        "-" if h.timeline is None else f">={h.timeline}" if h.role is HostRole.STANDBY else str(h.timeline),
        "-" if h.lag_bytes is None else f"{h.lag_bytes} B",
        "-" if h.rtt is None else f"{h.rtt * 1000:.1f} ms",
        h.reason,
    )
