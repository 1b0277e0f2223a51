"""Servers whose address their name has left, while sessions are still in flight there.

They are kept beside the Topology, not in it: a draining host is never a candidate, and has no part in any pass of the
arbitration, the initial scan, the outage, or the list that users see. A member would have to be filtered out of each.
With listed hosts it shares what its sessions need: the state machine of the observations (`host_facts.observe`) and the
abort policy, which judges it as a HostInfo in the state DRAINING.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from pgroute.core.faults.classify import Fault, FaultKind
from pgroute.core.late_dataclass import dataclass
from pgroute.core.model.host import HostState
from pgroute.core.topology.host_facts import Facts, observe, replaced
from pgroute.core.topology.observations import Answer, Failure

if TYPE_CHECKING:
    from pgroute.core.model.host import HostInfo
    from pgroute.core.model.roles import HostKey
    from pgroute.core.topology.snapshot import Topology


def departures(old: Topology, new: Topology) -> list[HostInfo]:
    """Return the hosts, as they were, that are no longer listed or whose name has moved to another address.

    Args:
        old: the snapshot before.
        new: the one after.
    """
    out = []
    for was in old.hosts:
        now = new.by_key.get(was.key)
        if now is None or (None not in (was.address, now.address) and was.address != now.address):
            out.append(was)
    return out


@dataclass(frozen=True, slots=True)
class DrainingHost:
    """A server at an address that its name has left.

    Attributes:
        was: the host when its name left the address.
        since: monotonic seconds at which that was seen. What was sent to the address before says nothing.
        facts: what was observed at the address since.
        replaced: another server was the last to answer there.
    """

    was: HostInfo
    since: float
    facts: Facts
    replaced: bool = False

    @classmethod
    def start(cls, was: HostInfo, now: float) -> DrainingHost:
        """Return what is known before the first observation: the last probe was answered.

        Args:
            was: the host when its name left the address.
            now: monotonic seconds.
        """
        return cls(was, now, Facts(was.key._replace(hostaddr=was.address), HostState.UP))

    @property
    def key(self) -> HostKey:
        """Its name and its address."""
        return self.facts.key

    @property
    def info(self) -> HostInfo:
        """The host as the abort policy judges it; `last_seen` is None until it has answered at this address."""
        answer = self.facts.answer
        return dataclasses.replace(
            self.was,
            key=self.key,
            state=HostState.DRAINING,
            reason="another server is there" if self.replaced else "",
            usable=False,
            role=answer.role if answer and self.facts.silent_since is None else self.was.role,
            timeline=answer.timeline if answer else self.was.timeline,
            last_seen=self.facts.last_seen if answer else None,
            silent_since=self.facts.silent_since,
        )

    def observe(self, seen: Answer | Failure, now: float) -> DrainingHost:
        """Return what is known after one more observation at the address.

        Once another server has answered there, the one that was there counts as silent: a refusal is not its own.
        """
        if seen.sent_at < self.since:
            return self
        other = replaced(self.was, seen) if isinstance(seen, Answer) else self.replaced
        if other:
            fault = Fault(FaultKind.REFUSED, reason="another server is there")
            seen = Failure(self.key, fault, seen.sent_at)
        return DrainingHost(self.was, self.since, observe(self.facts, seen, now), other)
