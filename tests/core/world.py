"""A cluster told in observations: the scenarios of tests/core are written in its words."""

from __future__ import annotations

from typing import Any, Self

from pgroute.core.faults.classify import Fault, FaultKind
from pgroute.core.model.events import Event, EventKind
from pgroute.core.model.host import HostInfo, HostState
from pgroute.core.model.roles import HostKey, HostRole, SessionAttrs
from pgroute.core.topology.observations import Answer, Failure, ForgetTimeline, Members, Observation
from pgroute.core.topology.snapshot import Rules
from pgroute.core.topology.transition import apply, initial_topology

A = HostKey("a", 5432)
B = HostKey("b", 5432)
C = HostKey("c", 5432)
D = HostKey("d", 5432)

OURS = 7001
OTHER = 7002


class World:
    """A topology, its clock and the events so far; every host of it tells the same system identifier."""

    def __init__(self, *hosts: HostKey, **rules: Any) -> None:
        self.now = 100.0
        self.topology = initial_topology(hosts or (A, B, C), self.now, Rules(**rules))
        self.events: list[Event] = []

    def see(self, seen: Observation) -> Self:
        self.topology, events = apply(self.topology, seen, self.now)
        self.events += events
        return self

    def pass_time(self, seconds: float) -> Self:
        self.now += seconds
        return self

    def answer(self, host: HostKey, role: HostRole, timeline: int | None, **more: Any) -> Self:
        """The host answers a probe sent 10 ms ago; `started_at` differs from host to host unless given."""
        self.now += 0.01
        told = {
            "system_id": OURS,
            "started_at": float(ord(host.host[0])),
            "sent_at": self.now - 0.005,
            "rtt": 0.005,
            **more,
        }
        return self.see(Answer(host, role, timeline=timeline, **told))

    def primary(self, host: HostKey, timeline: int | None = 1, **more: Any) -> Self:
        return self.answer(host, HostRole.PRIMARY, timeline, **more)

    def standby(self, host: HostKey, timeline: int | None = 1, **more: Any) -> Self:
        return self.answer(host, HostRole.STANDBY, timeline, **more)

    def fail(
        self, host: HostKey, kind: FaultKind, *, sent_at: float | None = None, linked: bool = False
    ) -> Self:
        self.now += 0.01
        sent_at = self.now - 0.005 if sent_at is None else sent_at
        return self.see(Failure(host, Fault(kind, reason=f"told {kind.value}"), sent_at, linked))

    def timeout(self, host: HostKey) -> Self:
        return self.fail(host, FaultKind.TIMEOUT)

    def refuse(self, host: HostKey) -> Self:
        return self.fail(host, FaultKind.REFUSED)

    def reject(self, host: HostKey, *, linked: bool = False) -> Self:
        return self.fail(host, FaultKind.REJECTED, linked=linked)

    def members(self, *hosts: HostKey) -> Self:
        return self.see(Members(hosts))

    def forget_timeline(self) -> Self:
        return self.see(ForgetTimeline())

    def settled(self) -> Self:
        """A is the primary on timeline 1, B and C are its standbys."""
        return self.primary(A).standby(B).standby(C)

    def host(self, key: HostKey) -> HostInfo:
        found = self.topology.host(key)
        assert found is not None
        return found

    def state(self, key: HostKey) -> HostState:
        return self.host(key).state

    def reason(self, key: HostKey) -> str:
        return self.host(key).reason

    def groups(self, attrs: SessionAttrs) -> list[list[HostKey]]:
        return [[c.key for c in group] for group in self.topology.candidates[attrs]]

    def initial_scan_done(self) -> bool:
        return self.topology.initial_scan_done

    def lost_at(self) -> float | None:
        return self.topology.primary_lost_at

    @property
    def writers(self) -> list[HostKey]:
        return [key for group in self.groups(SessionAttrs.READ_WRITE) for key in group]

    @property
    def readers(self) -> list[list[HostKey]]:
        return self.groups(SessionAttrs.PREFER_STANDBY)

    def kinds(self) -> list[EventKind]:
        """The kinds of the events since the last call."""
        kinds = [e.kind for e in self.events]
        self.events.clear()
        return kinds
